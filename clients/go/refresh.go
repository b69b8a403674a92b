package triseal

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	trisealv1 "datasert.com/triseal/triseal/v1"
)

const (
	// callTimeout is of one call, unless it waits for somebody else's refresh.
	callTimeout = 5 * time.Second
	waitTimeout = 10 * time.Second
	wait        = 8 * time.Second
	leaseTTL    = time.Minute
	// reserve has to remain of a lease after the call to Salesforce, to bring its answer.
	reserve = 15 * time.Second
	// bringFor is how long new tokens are brought again and again: they may be the only living ones.
	bringFor     = 5 * time.Minute
	closeTimeout = 30 * time.Second
	// maxRefused access tokens in a row, each newer than the one before, mean that Salesforce refuses more than tokens.
	maxRefused = 3
)

type place struct{ customerID, credentialID string }

// fresh has tokens that are newer than the rejected ones, whoever refreshes them.
func (c *Client) fresh(ctx context.Context, at place, rejected *uint64) (*trisealv1.DecryptCredentialResponse, error) {
	for {
		outcome, began, err := c.acquire(ctx, at, rejected)
		if err != nil {
			return nil, err
		}
		if fresh := outcome.GetFresh(); fresh != nil {
			return fresh, nil
		}
		if err := c.refresh(ctx, outcome.GetLease(), began); err != nil {
			return nil, err
		}
	}
}

// lease has the lease, at whatever revision the credential comes to.
func (c *Client) lease(ctx context.Context, at place, revision uint64) (*trisealv1.RefreshLease, error) {
	for {
		outcome, _, err := c.acquire(ctx, at, &revision)
		if err != nil {
			return nil, err
		}
		if lease := outcome.GetLease(); lease != nil {
			return lease, nil
		}
		revision = outcome.GetFresh().GetCredential().GetRevision()
	}
}

// acquire has an answer, and since when a lease in it may have been running, by this machine's clock.
func (c *Client) acquire(ctx context.Context, at place, rejected *uint64) (*trisealv1.AcquireRefreshResponse, time.Time, error) {
	for {
		request := &trisealv1.AcquireRefreshRequest{
			CustomerId:       at.customerID,
			CredentialId:     at.credentialID,
			RejectedRevision: rejected,
			Wait:             durationpb.New(wait),
			LeaseTtl:         durationpb.New(leaseTTL),
			// New for each call, and the same when it is tried again: then a lease whose answer was lost is given again.
			IdempotencyKey: rand.Text(),
		}
		began := time.Now()
		outcome, err := call(ctx, waitTimeout, c.credentials.AcquireRefresh, request, never)
		var refused *Error
		if errors.As(err, &refused) && refused.isUndecided() && rejected != nil {
			// Whoever rejects a token may have got a lease of which nobody knows. The others need not wait for its end.
			c.underWay.Go(func() { c.withdraw(context.WithoutCancel(ctx), request) })
		}
		if refused == nil || refused.Reason != "REFRESH_IN_PROGRESS" {
			return outcome, began, err
		}
		if !sleep(ctx, max(refused.retryAfter, backoff(0))) {
			return nil, began, err
		}
	}
}

// withdraw gives the lease back that a request may have got: it was never used.
func (c *Client) withdraw(ctx context.Context, request *trisealv1.AcquireRefreshRequest) {
	ctx, cancel := context.WithTimeout(ctx, waitTimeout)
	defer cancel()
	request.Wait = nil
	outcome, err := call(ctx, callTimeout, c.credentials.AcquireRefresh, request, never)
	if lease := outcome.GetLease(); err == nil && lease != nil {
		// Otherwise it lapses.
		_ = c.abandon(ctx, lease, trisealv1.AbandonCause_ABANDON_CAUSE_TRANSIENT, "")
	}
}

// refresh is the holder's one call to Salesforce, and what becomes of it.
func (c *Client) refresh(ctx context.Context, lease *trisealv1.RefreshLease, began time.Time) error {
	c.underWay.Add(1)
	defer c.underWay.Done()
	const transient = trisealv1.AbandonCause_ABANDON_CAUSE_TRANSIENT
	if time.Since(began) > leaseTTL-httpTimeout-reserve {
		return c.abandon(ctx, lease, transient, "")
	}
	// Whatever becomes of the caller: the refresh token is used up, and the answer has the next one.
	brought, err := c.app.refresh(context.WithoutCancel(ctx), lease.GetSecret().GetSalesforceOauth())
	var refused *SalesforceError
	switch {
	case err == nil:
		err := c.complete(ctx, lease, brought)
		var unfit *Error
		if errors.As(err, &unfit) && unfit.Code == codes.InvalidArgument {
			// Something beside the tokens can't be stored. Then what was known of it stays.
			err = c.complete(ctx, lease, &trisealv1.SalesforceOAuth{AccessToken: brought.AccessToken, RefreshToken: brought.RefreshToken})
		}
		return err
	case errors.As(err, &refused) && refused.tokenIsDead():
		// The next AcquireRefresh says NEEDS_REAUTH, to this caller and to all others.
		return c.abandon(ctx, lease, trisealv1.AbandonCause_ABANDON_CAUSE_INVALID_GRANT, refused.Description)
	}
	if !errors.As(err, &refused) || refused.inDoubt() {
		// Whoever used the token now might use it twice. The lease lapses.
		return err
	}
	if abandoned := c.abandon(ctx, lease, transient, ""); abandoned != nil {
		return errors.Join(err, abandoned)
	}
	if !refused.mayPass() || !sleep(ctx, backoff(3)) {
		return err
	}
	return nil
}

func (c *Client) complete(ctx context.Context, lease *trisealv1.RefreshLease, brought *trisealv1.SalesforceOAuth) error {
	return c.settle(ctx, func(ctx context.Context) error {
		_, err := call(ctx, callTimeout, c.credentials.CompleteRefresh, &trisealv1.CompleteRefreshRequest{
			CustomerId:      lease.GetCredential().GetCustomerId(),
			CredentialId:    lease.GetCredential().GetCredentialId(),
			LeaseToken:      lease.GetLeaseToken(),
			SalesforceOauth: brought,
		}, isOpen)
		return err
	})
}

func (c *Client) abandon(ctx context.Context, lease *trisealv1.RefreshLease, cause trisealv1.AbandonCause, detail string) error {
	printable := strings.Map(func(letter rune) rune {
		if letter < ' ' || letter > '~' {
			return -1
		}
		return letter
	}, detail)
	return c.settle(ctx, func(ctx context.Context) error {
		_, err := call(ctx, callTimeout, c.credentials.AbandonRefresh, &trisealv1.AbandonRefreshRequest{
			CustomerId:   lease.GetCredential().GetCustomerId(),
			CredentialId: lease.GetCredential().GetCredentialId(),
			LeaseToken:   lease.GetLeaseToken(),
			Cause:        cause,
			Detail:       printable[:min(len(printable), 200)],
		}, never)
		return err
	})
}

// revoke revokes the connection at Salesforce, and erases it.
func (c *Client) revoke(ctx context.Context, lease *trisealv1.RefreshLease) error {
	c.underWay.Add(1)
	defer c.underWay.Done()
	if err := c.app.revoke(context.WithoutCancel(ctx), lease.GetSecret().GetSalesforceOauth()); err != nil {
		return errors.Join(err, c.abandon(ctx, lease, trisealv1.AbandonCause_ABANDON_CAUSE_TRANSIENT, ""))
	}
	return c.settle(ctx, func(ctx context.Context) error {
		_, err := call(ctx, callTimeout, c.credentials.DeleteCredential, &trisealv1.DeleteCredentialRequest{
			CustomerId:   lease.GetCredential().GetCustomerId(),
			CredentialId: lease.GetCredential().GetCredentialId(),
			IfRevision:   new(lease.GetCredential().GetRevision()),
		}, never)
		return err
	})
}

// settle makes a call until it is known what became of it, whatever becomes of the caller.
func (c *Client) settle(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bringFor)
	defer cancel()
	err := do(ctx)
	var refused *Error
	if errors.As(err, &refused) && (refused.Code == codes.Aborted || refused.Code == codes.NotFound) {
		// Somebody else has brought tokens since, or erased them.
		return nil
	}
	return err
}

// isOpen tells whether it is still open what becomes of a CompleteRefresh. A request that is not well-formed never will be.
func isOpen(refused *Error) bool {
	return refused.Code != codes.Aborted && refused.Code != codes.NotFound && refused.Code != codes.InvalidArgument
}

func never(*Error) bool { return false }

// call makes a call, again after what passes, until the context's deadline. Its request is the same each time, idempotency key and all.
func call[Request, Response any](
	ctx context.Context,
	timeout time.Duration,
	method func(context.Context, *Request, ...grpc.CallOption) (*Response, error),
	request *Request,
	again func(*Error) bool,
) (*Response, error) {
	for attempt := 0; ; attempt++ {
		var trailer metadata.MD
		once, cancel := context.WithTimeout(ctx, timeout)
		response, err := method(once, request, grpc.Trailer(&trailer))
		cancel()
		if err == nil {
			return response, nil
		}
		failure := errorOf(err, trailer)
		delay, passes := failure.delay(attempt)
		if !passes && again(failure) {
			delay, passes = backoff(attempt), true
		}
		if !passes || !sleep(ctx, delay) {
			return nil, failure
		}
	}
}

// sleep is false if there is no time for it.
func sleep(ctx context.Context, delay time.Duration) bool {
	if deadline, has := ctx.Deadline(); has && time.Until(deadline) <= delay {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(delay):
		return true
	}
}
