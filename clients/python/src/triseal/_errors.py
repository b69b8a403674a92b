"""What can go wrong, and which of it passes."""

import random

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

_UNDECIDED = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
}


class Unauthorized(Exception):
    """For the caller's own function to raise when Salesforce answers 401: its access token is dead."""


class SalesforceError(Exception):
    """Salesforce's token endpoint did not do what it was asked. `error` is its word for it, if it had one."""

    def __init__(self, status: int | None, error: str = "", description: str = "", unsent: bool = False):
        super().__init__(f"Salesforce answered {status} {error}".rstrip() if status else "Salesforce did not answer")
        self.status, self.error, self.description = status, error, description
        self._unsent = unsent

    @property
    def in_doubt(self) -> bool:
        """Whether Salesforce may have taken the refresh token, or may take it yet. Not if the request was never sent,
        or was refused, or answered by 503, which says that it was not carried out. Where another request with the same
        token is being processed, that one may take it.
        """
        if self.status is None:
            return not self._unsent
        if self._says("being processed"):
            return True
        return self.status < 300 or (self.status >= 500 and self.status != 503)

    @property
    def token_is_dead(self) -> bool:
        """Whether the refresh token is not good any more, and the customer has to consent again. What Salesforce says
        by `invalid_grant` of addresses, hours, users and whole orgs passes, and the token is as good as before.
        """
        passes = self._says("ip restricted", "login hours", "inactive user", "inactive org", "being processed")
        return self.status == 400 and self.error == "invalid_grant" and not passes

    def _says(self, *words: str) -> bool:
        return any(word in self.description.lower() for word in words)

    @property
    def may_pass(self) -> bool:
        return self.status is None or self.status in (429, 503)


class TrisealError(Exception):
    """The service refused. `reason` is one of those in triseal's interface, empty if the call did not reach a
    decision.
    """

    def __init__(self, code: grpc.StatusCode, reason: str, message: str, retry_after: float | None = None):
        super().__init__(f"{code.name} {reason}: {message}" if reason else f"{code.name}: {message}")
        self.code, self.reason, self.retry_after = code, reason, retry_after

    @staticmethod
    def of(error: grpc.RpcError) -> "TrisealError":
        trailers = dict(error.trailing_metadata() or ())
        reason = trailers.get("triseal-reason", "")
        kind = NeedsReauth if reason == "NEEDS_REAUTH" else TrisealError
        return kind(error.code(), reason, error.details() or "", _retry_after(error))

    @property
    def is_undecided(self) -> bool:
        """Whether nothing was decided, or nobody knows what: the same call, under the same idempotency key, may be made
        again.
        """
        # KMS_REFUSED is UNAVAILABLE, too, but someone has to act.
        return self.reason != "KMS_REFUSED" and (
            self.code in _UNDECIDED or (self.code == grpc.StatusCode.INTERNAL and not self.reason)
        )

    def delay(self, attempt: int) -> float | None:
        """After how many seconds the same call may be made again. None: it would be refused again."""
        if self.reason == "REFRESH_IN_PROGRESS":
            # That is an answer. The next call is another one.
            return None
        if self.retry_after is not None:
            return self.retry_after + random.uniform(0, 0.1)  # noqa: S311
        if self.is_undecided or self.reason == "CHANGED_CONCURRENTLY":
            return backoff(attempt)
        return None


class NeedsReauth(TrisealError):
    """The customer has to consent again: no refresh token is good any more. Store the new connection, and calls go
    on.
    """


def backoff(attempt: int) -> float:
    """0.1 s, doubled to 2 s at most, give or take a half."""
    return min(0.1 * 2 ** min(attempt, 10), 2.0) * random.uniform(0.5, 1.5)  # noqa: S311


def _retry_after(error: grpc.RpcError) -> float | None:
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        # Details that contradict the call's status are no one's of ours.
        return None
    for detail in status.details if status else ():
        info = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            return info.retry_delay.ToTimedelta().total_seconds()
    return None
