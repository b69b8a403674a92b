// Package triseal is a backend's side of triseal: store a Salesforce connection, call Salesforce with a living token, disconnect.
//
// The protocol of refreshing is docs/REFRESH.md's; [Client.CallWithToken] keeps its rules, so that no refresh token is used twice. One [Client] is
// made for a process and shared by its goroutines. Nothing here logs, and nothing here prints a token.
package triseal

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	trisealv1 "datasert.com/triseal/triseal/v1"
)

//go:generate cp ../service-config.json .
//go:generate buf generate ../.. --path ../../proto/triseal/v1

//go:embed service-config.json
var serviceConfig string

// Config says where the service is, and who calls. The certificate's files are read for each connection, so they may be exchanged.
type Config struct {
	// Endpoint is HOST:PORT, or any target of gRPC's; every address that it has is used in turn.
	Endpoint string
	// CA, Certificate and Key name PEM files.
	CA, Certificate, Key string
	App                  ConnectedApp
}

// Client is safe for use by many goroutines.
type Client struct {
	app         ConnectedApp
	connection  *grpc.ClientConn
	credentials trisealv1.CredentialServiceClient
	// underWay is what is done with leases.
	underWay sync.WaitGroup
}

// New makes a client, which connects when it is first used.
func New(config Config) (*Client, error) {
	// Files that can't be used are found now, and not by the first call.
	if _, err := config.tls(); err != nil {
		return nil, err
	}
	connection, err := grpc.NewClient(config.Endpoint,
		grpc.WithTransportCredentials(exchangeable{credentials.NewTLS(nil), config}),
		grpc.WithDefaultServiceConfig(serviceConfig),
		// A replica that is gone without a word is noticed, and one that comes back is found.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           grpcbackoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
	)
	if err != nil {
		return nil, err
	}
	return &Client{app: config.App, connection: connection, credentials: trisealv1.NewCredentialServiceClient(connection)}, nil
}

// exchangeable makes each connection by the files as they are then.
type exchangeable struct {
	credentials.TransportCredentials
	config Config
}

func (e exchangeable) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	now, err := e.config.tls()
	if err != nil {
		return nil, nil, err
	}
	return credentials.NewTLS(now).ClientHandshake(ctx, authority, raw)
}

func (e exchangeable) Clone() credentials.TransportCredentials { return e }

func (c Config) tls() (*tls.Config, error) {
	ca, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s: no certificate in PEM", c.CA)
	}
	own, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS13}, nil
}

// Close ends the connections. A refresh that is under way is waited for, up to 30 s.
func (c *Client) Close() error {
	ended := make(chan struct{})
	go func() {
		c.underWay.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(closeTimeout):
	}
	return c.connection.Close()
}

// A client prints as its name: fmt would look into it, and there is a secret.
func (c *Client) String() string   { return "triseal.Client" }
func (c *Client) GoString() string { return c.String() }

// StoreOptions may be left empty.
type StoreOptions struct {
	// TokenURL is where the answer came from; by default it is derived from the answer's `id`.
	TokenURL string
	// IfRevision: 0, nothing may be stored there yet; N, that revision must be; nil, it is written over.
	IfRevision *uint64
	// IdempotencyKey is for whoever may be stopped on the way: under one key the same answer is stored once.
	IdempotencyKey string
}

// StoreConnection stores the answer of Salesforce's token endpoint after a customer's consent: its JSON, as it is.
func (c *Client) StoreConnection(
	ctx context.Context, customerID, credentialID string, said []byte, options StoreOptions,
) (*trisealv1.Credential, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	var parsed answer
	if json.Unmarshal(said, &parsed) != nil || parsed.text("access_token") == "" {
		// Without the decoder's text: it may repeat what it read.
		return nil, errors.New("this is not an answer with tokens of Salesforce's token endpoint")
	}
	if options.TokenURL == "" {
		var err error
		if options.TokenURL, err = parsed.tokenURL(); err != nil {
			return nil, err
		}
	}
	if options.IdempotencyKey == "" {
		options.IdempotencyKey = rand.Text()
	}
	request := &trisealv1.EncryptCredentialRequest{
		CustomerId:     customerID,
		CredentialId:   credentialID,
		Secret:         &trisealv1.Secret{Value: &trisealv1.Secret_SalesforceOauth{SalesforceOauth: parsed.tokens(options.TokenURL)}},
		IfRevision:     options.IfRevision,
		IdempotencyKey: options.IdempotencyKey,
	}
	stored, err := call(ctx, callTimeout, c.credentials.EncryptCredential, request, never)
	return stored.GetCredential(), err
}

// CallWithToken makes a call with an access token, and again with newer tokens when it returns [ErrUnauthorized].
//
// It returns [ErrNeedsReauth] if the customer has to consent again, a [*SalesforceError] or an [*Error] if there was no living token until the
// context's deadline, or within 45 s without one. It takes longer only where it holds the lease: what was begun at Salesforce has to be brought to
// an end.
func (c *Client) CallWithToken(
	ctx context.Context, customerID, credentialID string, do func(ctx context.Context, accessToken, instanceURL string) error,
) error {
	waiting, cancel := bounded(ctx)
	defer cancel()
	place := place{customerID, credentialID}
	var rejected *uint64
	for refused := 1; ; refused++ {
		fresh, err := c.fresh(waiting, place, rejected)
		if err != nil {
			return err
		}
		connection := fresh.GetSecret().GetSalesforceOauth()
		err = do(ctx, connection.GetAccessToken(), connection.GetInstanceUrl())
		if !errors.Is(err, ErrUnauthorized) || refused == maxRefused {
			return err
		}
		rejected = new(fresh.GetCredential().GetRevision())
	}
}

// Disconnect revokes the connection at Salesforce, and erases it. It may be repeated.
//
// What was revoked is erased, whatever becomes of the context. What a customer who connects anew has stored meanwhile is left alone.
//
// False: it was erased, or was gone, without being revoked: there was no refresh token that this caller may see, as in NEEDS_REAUTH.
func (c *Client) Disconnect(ctx context.Context, customerID, credentialID string) (revoked bool, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	known, err := call(ctx, callTimeout, c.credentials.GetCredential,
		&trisealv1.GetCredentialRequest{CustomerId: customerID, CredentialId: credentialID}, never)
	if err != nil {
		return false, unless(err, "CREDENTIAL_NOT_FOUND")
	}
	revision := known.GetCredential().GetRevision()
	lease, err := c.lease(ctx, place{customerID, credentialID}, revision)
	if err == nil {
		err := c.revoke(ctx, lease)
		return err == nil, err
	}
	if err := unless(err, "NEEDS_REAUTH", "NOT_REFRESHABLE"); err != nil {
		return false, unless(err, "CREDENTIAL_NOT_FOUND")
	}
	_, err = call(ctx, callTimeout, c.credentials.DeleteCredential,
		&trisealv1.DeleteCredentialRequest{CustomerId: customerID, CredentialId: credentialID, IfRevision: &revision}, never)
	return false, unless(err, "CREDENTIAL_NOT_FOUND")
}

// bounded is a context with a deadline.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, 45*time.Second)
}

// unless is the error, unless it has one of these reasons.
func unless(err error, reasons ...string) error {
	var refused *Error
	if errors.As(err, &refused) {
		for _, reason := range reasons {
			if refused.Reason == reason {
				return nil
			}
		}
	}
	return err
}
