"""The client, and docs/REFRESH.md's protocol. It reads downward: what products call, then the steps of a refresh,
then single calls.
"""

import contextlib
import itertools
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration

from ._channel import Channel
from ._errors import SalesforceError, TrisealError, Unauthorized, backoff
from ._salesforce import HTTP_TIMEOUT, ConnectedApp, token_url_of, tokens
from .v1 import credential_pb2, credential_service_pb2

T = TypeVar("T")
messages = credential_service_pb2

# All in seconds. One call, unless it waits for somebody else's refresh.
_CALL = 5.0
_WAIT = 8
_CALL_THAT_WAITS = 10.0
_LEASE = 60
# What has to remain of a lease after the call to Salesforce, to bring its answer.
_RESERVE = 15.0
# So many leases are held at a time. A refresh that begins too late for its lease gives it back.
_HOLDERS = 64
_CLOSE = 30.0
# For how long new tokens are brought again and again: they may be the only living ones.
_BRING = 300.0
# So many refused access tokens in a row, each newer than the one before, mean that Salesforce refuses more than tokens.
_MAX_REFUSED = 3


class Client:
    """One for a process.

    `endpoint` is `HOST:PORT`, or any target of gRPC's; every address that it has is used in turn. `ca`, `certificate`
    and `key` name PEM files, which may be exchanged.
    """

    def __init__(self, endpoint: str, app: ConnectedApp, *, ca: str, certificate: str, key: str):
        self._app = app
        self._channel = Channel(endpoint, ca, key, certificate)
        # What is done with a lease is done where nothing interrupts it: a signal, or Celery's time limit, is raised on
        # the caller's thread.
        self._holders = ThreadPoolExecutor(_HOLDERS, "triseal")

    def close(self) -> None:
        """Ends the connections. A refresh that is under way is waited for, up to 30 s."""
        ending = threading.Thread(target=self._holders.shutdown, daemon=True)
        ending.start()
        ending.join(_CLOSE)
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def store_connection(
        self,
        customer_id: str,
        credential_id: str,
        answer: Mapping[str, Any],
        *,
        token_url: str | None = None,
        if_revision: int | None = None,
        idempotency_key: str | None = None,
        timeout: float = 30.0,
    ) -> credential_pb2.Credential:
        """Stores the answer of Salesforce's token endpoint after a customer's consent.

        `token_url` is where it came from; by default it is derived from the answer's `id`. `if_revision`: 0, nothing
        may be stored there yet; N, that revision must be; None, it is written over. Whoever may be stopped on the way
        gives an `idempotency_key` of their own, under which the same answer is stored once.
        """
        if not answer.get("access_token"):
            raise ValueError("this is not an answer with tokens of Salesforce's token endpoint")
        secret = credential_pb2.Secret(salesforce_oauth=tokens(answer, token_url or token_url_of(answer)))
        request = messages.EncryptCredentialRequest(
            customer_id=customer_id,
            credential_id=credential_id,
            secret=secret,
            if_revision=if_revision,
            idempotency_key=idempotency_key or uuid.uuid4().hex,
        )
        return self._call("EncryptCredential", request, time.monotonic() + timeout).credential

    def call_with_token(
        self, customer_id: str, credential_id: str, function: Callable[[str, str], T], *, timeout: float = 45.0
    ) -> T:
        """Calls `function(access_token, instance_url)`, and again with newer tokens when it raises `Unauthorized`.

        Raises `NeedsReauth` if the customer has to consent again, `SalesforceError` or `TrisealError` if there was no
        living token within `timeout` seconds. It takes longer only where it holds the lease: what was begun at
        Salesforce has to be brought to an end.
        """
        deadline = time.monotonic() + timeout
        rejected: int | None = None
        refused = 0
        while True:
            fresh = self._fresh(customer_id, credential_id, rejected, deadline)
            connection = fresh.secret.salesforce_oauth
            try:
                return function(connection.access_token, connection.instance_url)
            except Unauthorized:
                refused += 1
                if refused == _MAX_REFUSED:
                    raise
                rejected = fresh.credential.revision

    def disconnect(self, customer_id: str, credential_id: str, *, timeout: float = 45.0) -> bool:
        """Revokes the connection at Salesforce, and erases it. May be repeated.

        What was revoked is erased, and takes longer than `timeout` if need be. What a customer who connects anew has
        stored meanwhile is left alone.

        False: it was erased, or was gone, without being revoked: there was no refresh token that this caller may see,
        as in NEEDS_REAUTH.
        """
        deadline = time.monotonic() + timeout
        place = {"customer_id": customer_id, "credential_id": credential_id}
        try:
            request = messages.GetCredentialRequest(**place)
            revision = self._call("GetCredential", request, deadline).credential.revision
            try:
                lease = self._lease(customer_id, credential_id, revision, deadline)
            except TrisealError as error:
                if error.reason not in ("NEEDS_REAUTH", "NOT_REFRESHABLE"):
                    raise
                erase = messages.DeleteCredentialRequest(**place, if_revision=revision)
                self._call("DeleteCredential", erase, deadline)
                return False
        except TrisealError as error:
            if error.reason != "CREDENTIAL_NOT_FOUND":
                raise
            return False
        self._holders.submit(self._revoke, lease).result()
        return True

    # --- The steps of a refresh ---

    def _fresh(
        self, customer_id: str, credential_id: str, rejected: int | None, deadline: float
    ) -> messages.DecryptCredentialResponse:
        """Tokens that are newer than the rejected ones, whoever refreshes them."""
        while True:
            outcome, began = self._acquire(customer_id, credential_id, rejected, deadline)
            if outcome.HasField("fresh"):
                return outcome.fresh
            self._holders.submit(self._refresh, outcome.lease, began, deadline).result()

    def _lease(self, customer_id: str, credential_id: str, revision: int, deadline: float) -> messages.RefreshLease:
        """The lease, at whatever revision the credential comes to."""
        while True:
            outcome, _ = self._acquire(customer_id, credential_id, revision, deadline)
            if outcome.HasField("lease"):
                return outcome.lease
            revision = outcome.fresh.credential.revision

    def _acquire(
        self, customer_id: str, credential_id: str, rejected: int | None, deadline: float
    ) -> tuple[messages.AcquireRefreshResponse, float]:
        """An answer, and since when a lease in it may have been running, by this machine's clock."""
        while True:
            # A new name for each call, and the same one when it is tried again: then a lease whose answer was lost is
            # given again.
            request = messages.AcquireRefreshRequest(
                customer_id=customer_id,
                credential_id=credential_id,
                rejected_revision=rejected,
                wait=Duration(seconds=_WAIT),
                lease_ttl=Duration(seconds=_LEASE),
                idempotency_key=uuid.uuid4().hex,
            )
            began = time.monotonic()
            try:
                return self._call("AcquireRefresh", request, deadline, _CALL_THAT_WAITS), began
            except BaseException as error:
                if not isinstance(error, TrisealError) or error.is_undecided:
                    # Whoever rejects a token may have got a lease of which nobody knows. The others need not wait for
                    # its end.
                    if rejected is not None:
                        self._holders.submit(self._withdraw, request)
                    raise
                if error.reason != "REFRESH_IN_PROGRESS":
                    raise
                _sleep(error.retry_after or backoff(0), deadline, error)

    def _withdraw(self, request: messages.AcquireRefreshRequest) -> None:
        """Gives the lease back that a request may have got: it was never used."""
        request.ClearField("wait")
        with contextlib.suppress(TrisealError):
            outcome = self._call("AcquireRefresh", request, time.monotonic() + _CALL_THAT_WAITS)
            if outcome.HasField("lease"):
                self._abandon(outcome.lease, messages.ABANDON_CAUSE_TRANSIENT)

    def _refresh(self, lease: messages.RefreshLease, began: float, deadline: float) -> None:
        """The holder's one call to Salesforce, and what becomes of it."""
        if time.monotonic() - began > _LEASE - 2 * HTTP_TIMEOUT - _RESERVE:
            self._abandon(lease, messages.ABANDON_CAUSE_TRANSIENT)
            return
        try:
            brought = self._app.refresh(lease.secret.salesforce_oauth)
        except SalesforceError as error:
            if error.token_is_dead:
                # The next AcquireRefresh says NEEDS_REAUTH, to this caller and to all others.
                self._abandon(lease, messages.ABANDON_CAUSE_INVALID_GRANT, error.description)
                return
            if error.in_doubt:
                # Whoever used the token now might use it twice. The lease lapses.
                raise
            self._abandon(lease, messages.ABANDON_CAUSE_TRANSIENT)
            if not error.may_pass:
                raise
            _sleep(backoff(3), deadline, error)
            return
        try:
            self._complete(lease, brought)
        except TrisealError as error:
            if error.code != grpc.StatusCode.INVALID_ARGUMENT:
                raise
            # Something beside the tokens can't be stored. Then what was known of it stays.
            kept = {"access_token": brought.access_token, "refresh_token": brought.refresh_token}
            self._complete(lease, credential_pb2.SalesforceOAuth(**kept))

    def _complete(self, lease: messages.RefreshLease, brought: credential_pb2.SalesforceOAuth) -> None:
        request = messages.CompleteRefreshRequest(
            customer_id=lease.credential.customer_id,
            credential_id=lease.credential.credential_id,
            lease_token=lease.lease_token,
            salesforce_oauth=brought,
        )
        self._settle("CompleteRefresh", request, _is_open)

    def _revoke(self, lease: messages.RefreshLease) -> None:
        try:
            self._app.revoke(lease.secret.salesforce_oauth)
        except SalesforceError:
            self._abandon(lease, messages.ABANDON_CAUSE_TRANSIENT)
            raise
        credential = lease.credential
        request = messages.DeleteCredentialRequest(
            customer_id=credential.customer_id,
            credential_id=credential.credential_id,
            if_revision=credential.revision,
        )
        self._settle("DeleteCredential", request)

    def _abandon(self, lease: messages.RefreshLease, cause: int, detail: str = "") -> None:
        request = messages.AbandonRefreshRequest(
            customer_id=lease.credential.customer_id,
            credential_id=lease.credential.credential_id,
            lease_token=lease.lease_token,
            cause=cause,
            detail="".join(letter for letter in detail if " " <= letter <= "~")[:200],
        )
        self._settle("AbandonRefresh", request)

    # --- Single calls ---

    def _settle(self, method: str, request: Any, again: Callable[[TrisealError], bool] = lambda _: False) -> None:
        """Makes a call until it is known what became of it, whatever the caller's deadline is."""
        try:
            self._call(method, request, time.monotonic() + _BRING, again=again)
        except TrisealError as error:
            # Somebody else has brought tokens since, or erased them.
            if error.code not in (grpc.StatusCode.ABORTED, grpc.StatusCode.NOT_FOUND):
                raise

    def _call(
        self,
        method: str,
        request: Any,
        deadline: float,
        seconds: float = _CALL,
        again: Callable[[TrisealError], bool] = lambda _: False,
    ) -> Any:
        """Makes a call, again after what passes, until the deadline. Its request is the same each time, idempotency
        key and all.
        """
        for attempt in itertools.count():
            try:
                # Looked up for each attempt: meanwhile there may be new connections.
                stub_method = getattr(self._channel.stub, method)
                return stub_method(request, timeout=max(min(seconds, deadline - time.monotonic()), 0.1))
            except grpc.RpcError as error:
                failure = TrisealError.of(error)
            delay = failure.delay(attempt)
            if delay is None and again(failure):
                delay = backoff(attempt)
            if delay is None:
                raise failure
            _sleep(delay, deadline, failure)


def _is_open(error: TrisealError) -> bool:
    """Whether it is still open what becomes of a CompleteRefresh. A request that is not well-formed never will be."""
    return error.code not in (grpc.StatusCode.ABORTED, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)


def _sleep(delay: float, deadline: float, failure: Exception) -> None:
    """Unless there is no time for it: then the failure is what there is to say."""
    if time.monotonic() + delay >= deadline:
        raise failure
    time.sleep(delay)
