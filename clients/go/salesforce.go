package triseal

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	trisealv1 "datasert.com/triseal/triseal/v1"
)

// httpTimeout is of one call to the token endpoint, its answer included.
const httpTimeout = 10 * time.Second

const maxAnswerOctets = 256 << 10

// ConnectedApp is the app in Salesforce that customers consent to. It prints without its secret.
type ConnectedApp struct {
	ClientID string
	// ClientSecret is empty if the app does not require one.
	ClientSecret string
}

func (a ConnectedApp) String() string   { return "ConnectedApp(" + a.ClientID + ")" }
func (a ConnectedApp) GoString() string { return a.String() }

// answer is what Salesforce's token endpoint says, by field.
type answer map[string]any

// text is empty for what is not there, or is no text.
func (a answer) text(name string) string {
	found, _ := a[name].(string)
	return found
}

// A token goes where it was to go, and nowhere else. Go sends no POST twice once anything of it was sent. Each call has a connection of its own:
// one that was idle may be dead, and whether a request on it was read could not be told.
var httpClient = &http.Client{
	Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true},
	Timeout:       httpTimeout,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// refresh asks for new tokens, once: each refresh token is good for one use, so nothing here may try again.
func (a ConnectedApp) refresh(ctx context.Context, connection *trisealv1.SalesforceOAuth) (*trisealv1.SalesforceOAuth, error) {
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {connection.GetRefreshToken()}}
	said, err := a.post(ctx, connection.GetTokenUrl(), form)
	if err != nil {
		return nil, err
	}
	if said.text("access_token") == "" {
		return nil, &SalesforceError{Status: http.StatusOK, Code: "no access_token"}
	}
	return said.tokens(""), nil
}

// revoke revokes the refresh token, and with it the connection.
func (a ConnectedApp) revoke(ctx context.Context, connection *trisealv1.SalesforceOAuth) error {
	address := strings.TrimSuffix(connection.GetTokenUrl(), "/token") + "/revoke"
	_, err := a.post(ctx, address, url.Values{"token": {connection.GetRefreshToken()}})
	var refused *SalesforceError
	if errors.As(err, &refused) && refused.Status == http.StatusBadRequest {
		// It is dead already.
		return nil
	}
	return err
}

func (a ConnectedApp) post(ctx context.Context, address string, form url.Values) (answer, error) {
	form.Set("client_id", a.ClientID)
	if a.ClientSecret != "" {
		form.Set("client_secret", a.ClientSecret)
	}
	// Without a connection nothing was sent.
	unsent := true
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { unsent = false }})
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, &SalesforceError{unsent: true}
	}
	request.Header.Set("content-type", "application/x-www-form-urlencoded")
	response, err := httpClient.Do(request)
	if err != nil {
		return nil, &SalesforceError{unsent: unsent}
	}
	defer response.Body.Close()
	octets, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerOctets))
	if err != nil {
		return nil, &SalesforceError{}
	}
	var said answer
	malformed := len(octets) > 0 && json.Unmarshal(octets, &said) != nil
	switch {
	case response.StatusCode != http.StatusOK:
		return nil, &SalesforceError{Status: response.StatusCode, Code: said.text("error"), Description: said.text("error_description")}
	case malformed:
		return nil, &SalesforceError{Status: response.StatusCode, Code: "no JSON object"}
	}
	return said, nil
}

// tokens is the answer as it is to be stored. What it does not say stays empty. Nothing but its access token is required: tokens must not be
// lost because something beside them is odd.
func (a answer) tokens(tokenURL string) *trisealv1.SalesforceOAuth {
	found := &trisealv1.SalesforceOAuth{
		AccessToken:  a.text("access_token"),
		RefreshToken: a.text("refresh_token"),
		InstanceUrl:  a.text("instance_url"),
		TokenUrl:     tokenURL,
		IdentityUrl:  a.text("id"),
		Scopes:       strings.Fields(a.text("scope")),
	}
	// Until the year 5138: a Timestamp ends with 9999.
	if milliseconds, err := strconv.ParseUint(a.text("issued_at"), 10, 64); err == nil && milliseconds < 1e14 {
		found.IssueTime = timestamppb.New(time.UnixMilli(int64(milliseconds)))
	}
	return found
}

// tokenURL makes `https://HOST/services/oauth2/token` of `https://HOST/id/…`: production and sandboxes differ in the host.
func (a answer) tokenURL() (string, error) {
	identity, err := url.Parse(a.text("id"))
	if err != nil || identity.Host == "" {
		return "", errors.New("Salesforce's answer has no id: say its token URL")
	}
	return identity.Scheme + "://" + identity.Host + "/services/oauth2/token", nil
}
