package triseal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

var (
	// ErrUnauthorized is for the caller's own function to return, wrapped or not, when Salesforce answers 401: its access token is dead.
	ErrUnauthorized = errors.New("Salesforce refuses the access token")
	// ErrNeedsReauth is what an [Error] with the reason NEEDS_REAUTH is: the customer has to consent again. Store the new connection, and calls go on.
	ErrNeedsReauth = errors.New("the customer has to consent again")
)

// Error is the service's refusal. Reason is one of those in triseal's interface, empty if the call did not reach a decision.
type Error struct {
	Code    codes.Code
	Reason  string
	Message string

	retryAfter time.Duration
	mayRetry   bool
}

func (e *Error) Error() string {
	return strings.TrimSuffix("triseal: "+e.Code.String()+" "+e.Reason, " ") + ": " + e.Message
}

// Is makes errors.Is work with ErrNeedsReauth and the errors of contexts.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrNeedsReauth:
		return e.Reason == "NEEDS_REAUTH"
	case context.Canceled:
		return e.Code == codes.Canceled
	case context.DeadlineExceeded:
		return e.Code == codes.DeadlineExceeded
	}
	return false
}

// SalesforceError says that Salesforce's token endpoint did not do what it was asked. Code is its word for it, and Description what it says besides;
// Status 0: there was no answer.
type SalesforceError struct {
	Status      int
	Code        string
	Description string

	unsent bool
}

func (e *SalesforceError) Error() string {
	if e.Status == 0 {
		return "Salesforce did not answer"
	}
	return strings.TrimSuffix(fmt.Sprintf("Salesforce answered %d %s", e.Status, e.Code), " ")
}

// inDoubt tells whether Salesforce may have taken the refresh token, or may take it yet. Not if the request was never sent, or was refused, or
// answered by 503, which says that it was not carried out. Where another request with the same token is being processed, that one may take it.
func (e *SalesforceError) inDoubt() bool {
	if e.Status == 0 {
		return !e.unsent
	}
	return e.says("being processed") || e.Status < 300 || (e.Status >= 500 && e.Status != http.StatusServiceUnavailable)
}

// tokenIsDead tells whether the refresh token is not good any more, and the customer has to consent again. What Salesforce says by invalid_grant of
// addresses, hours, users and whole orgs passes, and the token is as good as before.
func (e *SalesforceError) tokenIsDead() bool {
	passes := e.says("ip restricted", "login hours", "inactive user", "inactive org", "being processed")
	return e.Status == http.StatusBadRequest && e.Code == "invalid_grant" && !passes
}

func (e *SalesforceError) says(words ...string) bool {
	said := strings.ToLower(e.Description)
	return slices.ContainsFunc(words, func(word string) bool { return strings.Contains(said, word) })
}

func (e *SalesforceError) mayPass() bool {
	return e.Status == 0 || e.Status == http.StatusTooManyRequests || e.Status == http.StatusServiceUnavailable
}

func errorOf(err error, trailer metadata.MD) *Error {
	found := status.Convert(err)
	made := &Error{Code: found.Code(), Message: found.Message()}
	if reason := trailer.Get("triseal-reason"); len(reason) == 1 {
		made.Reason = reason[0]
	}
	for _, detail := range found.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			made.retryAfter, made.mayRetry = info.GetRetryDelay().AsDuration(), true
		}
	}
	return made
}

// delay tells after what time the same call may be made again. False: it would be refused again.
func (e *Error) delay(attempt int) (time.Duration, bool) {
	switch {
	case e.Reason == "REFRESH_IN_PROGRESS":
		// That is an answer. The next call is another one.
		return 0, false
	case e.mayRetry:
		return e.retryAfter + rand.N(100*time.Millisecond), true
	case e.Code == codes.Canceled:
		// The caller has left, or the client is closed.
		return 0, false
	case e.isUndecided(), e.Reason == "CHANGED_CONCURRENTLY":
		return backoff(attempt), true
	}
	return 0, false
}

// isUndecided tells that nothing was decided, or that nobody knows what: the same call, under the same idempotency key, may be made again.
func (e *Error) isUndecided() bool {
	switch e.Code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Unknown:
		// KMS_REFUSED is UNAVAILABLE, too, but someone has to act.
		return e.Reason != "KMS_REFUSED"
	case codes.Internal:
		return e.Reason == ""
	}
	return false
}

// backoff is 0.1 s, doubled to 2 s at most, give or take a half.
func backoff(attempt int) time.Duration {
	delay := min(100*time.Millisecond<<min(attempt, 10), 2*time.Second)
	return delay/2 + rand.N(delay)
}
