"""The client against a real triseald and the Salesforce of tests/support. Run by clients/test."""

import contextlib
import itertools
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import (
    CERTIFICATES,
    CUSTOMER,
    client,
    consent,
    drain_and_restart,
    expire,
    faults,
    kill_a_replica,
    kill_and_restart,
    limits,
    mute,
    seen,
    unmute,
)

from triseal import ConnectedApp, NeedsReauth, SalesforceError, TrisealError, Unauthorized

names = (f"shared.python-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def sync():
    with client("realsync") as made:
        yield made


@pytest.fixture(scope="module")
def task():
    with client("realtask") as made:
        yield made


@pytest.fixture
def crm(sync):
    """A connection that is stored."""
    name = next(names)
    sync.store_connection(CUSTOMER, name, consent(name))
    return name


def count(connection, *which):
    found = seen(connection)
    return [found[name] for name in which]


def test_a_connection_is_stored_once_and_read_by_another_product(sync, task):
    name = next(names)
    answer = consent(name)
    stored = sync.store_connection(CUSTOMER, name, answer, if_revision=0, idempotency_key="consent-" + name)
    again = sync.store_connection(CUSTOMER, name, answer, if_revision=0, idempotency_key="consent-" + name)
    assert stored.revision == again.revision == 1
    assert stored.refresh_time.ToMilliseconds() == int(answer["issued_at"])
    with pytest.raises(TrisealError) as refused:
        sync.store_connection(CUSTOMER, name, consent(name), if_revision=0)
    assert refused.value.reason == "CREDENTIAL_EXISTS"
    token, url = task.call_with_token(CUSTOMER, name, lambda *given: given)
    assert (token, url) == (answer["access_token"], answer["instance_url"])


def test_what_policy_refuses_is_said_at_once(task):
    with pytest.raises(TrisealError) as refused:
        task.call_with_token(CUSTOMER, "realsync.crm", limits)
    assert refused.value.reason == "NOT_PERMITTED"


def test_a_dead_token_is_refreshed_and_the_call_made_again(sync, crm):
    assert sync.call_with_token(CUSTOMER, crm, limits)["connection"] == crm
    for deaths in (1, 2):
        expire(crm)
        assert sync.call_with_token(CUSTOMER, crm, limits)["connection"] == crm
        assert count(crm, "deaths", "refreshes", "reuses") == [deaths, deaths, 0]


def test_what_somebody_else_has_refreshed_is_taken(sync, task, crm):
    expire(crm)
    tokens = []

    def slow(token, url):
        tokens.append(token)
        if len(tokens) == 1:
            task.call_with_token(CUSTOMER, crm, limits)
        return limits(token, url)

    sync.call_with_token(CUSTOMER, crm, slow)
    assert len(set(tokens)) == 2 and count(crm, "refreshes", "deaths") == [1, 1]


def test_those_who_wait_get_what_one_brings_even_from_another_service(sync, task, crm):
    faults(crm, "slow", seconds=1.5)
    expire(crm)
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(who.call_with_token, CUSTOMER, crm, limits) for who in [sync, task] * 4]
        time.sleep(0.5)
        drain_and_restart()
        assert all(call.result()["connection"] == crm for call in calls)
    assert count(crm, "refreshes", "deaths", "reuses") == [1, 1, 0]


def test_a_salesforce_that_is_away_for_a_moment_is_asked_again(sync, crm):
    faults(crm, "unavailable", "odd")
    expire(crm)
    sync.call_with_token(CUSTOMER, crm, limits)
    assert count(crm, "refreshes", "reuses") == [1, 0]


def test_tokens_are_kept_though_what_is_beside_them_is_refused(sync, crm):
    faults(crm, "unstorable")
    for _ in range(2):
        expire(crm)
        assert sync.call_with_token(CUSTOMER, crm, limits)["connection"] == crm
    assert count(crm, "refreshes", "reuses") == [2, 0]


def test_a_refusal_that_is_not_the_tokens_fault_ends_no_connection(sync, task, crm):
    expire(crm)
    faults(crm, "restricted")
    with pytest.raises(SalesforceError) as refused:
        sync.call_with_token(CUSTOMER, crm, limits)
    assert refused.value.description == "ip restricted"
    with client("realsync", app=ConnectedApp("test")) as unknown, pytest.raises(SalesforceError) as refused:
        unknown.call_with_token(CUSTOMER, crm, limits)
    assert refused.value.error == "invalid_client"
    task.call_with_token(CUSTOMER, crm, limits)
    assert count(crm, "refreshes", "reuses") == [1, 0]


def test_a_salesforce_that_is_not_there_keeps_nobody_waiting(sync, task):
    name = next(names)
    # Nobody listens there.
    sync.store_connection(CUSTOMER, name, consent(name), token_url="http://127.0.0.1:2/services/oauth2/token")
    expire(name)
    for who in (sync, task):
        with pytest.raises(SalesforceError):
            who.call_with_token(CUSTOMER, name, limits, timeout=3)


def test_what_is_in_doubt_lets_the_lease_lapse(sync, task):
    unread, lost = next(names), next(names)
    others = {fault: next(names) for fault in ("cut", "stalled", "bad_gateway", "busy")}
    for fault, name in {"lost_before": unread, "lost_after": lost, **others}.items():
        sync.store_connection(CUSTOMER, name, consent(name))
        faults(name, fault, seconds=15 if fault == "stalled" else 0)
        expire(name)
        with pytest.raises(SalesforceError):
            sync.call_with_token(CUSTOMER, name, limits)
        with pytest.raises(TrisealError) as refused:
            task.call_with_token(CUSTOMER, name, limits, timeout=2)
        assert refused.value.reason == "REFRESH_IN_PROGRESS"
    # 60 s of lease and 65 s more. What Salesforce had not read is refreshed then.
    task.call_with_token(CUSTOMER, unread, limits, timeout=180)
    assert count(unread, "refreshes", "reuses") == [1, 0]
    # What it had is found out once, and the customer consents again.
    for who in (task, sync):
        with pytest.raises(NeedsReauth) as refused:
            who.call_with_token(CUSTOMER, lost, limits)
        assert refused.value.reason == "NEEDS_REAUTH"
    assert count(lost, "refreshes", "reuses", "revoked") == [1, 1, True]
    sync.store_connection(CUSTOMER, lost, consent(lost))
    task.call_with_token(CUSTOMER, lost, limits)


@contextlib.contextmanager
def interrupted(seconds):
    """As Celery's time limit interrupts a task."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "end", [lambda: pytest.raises(TrisealError), lambda: interrupted(0.5)], ids=["late", "interrupted"]
)
def test_a_lease_of_which_nobody_knows_is_given_back(end, task, crm):
    def dies(token, url):
        expire(crm)
        mute()
        raise Unauthorized

    with client("realsync", os.environ["TRISEAL_LINE"]) as far:
        with end():
            far.call_with_token(CUSTOMER, crm, dies, timeout=1)
        unmute()
        assert task.call_with_token(CUSTOMER, crm, limits)["connection"] == crm
    assert count(crm, "refreshes", "reuses") == [1, 0]


def test_what_interrupts_a_caller_does_not_end_a_refresh(sync, task, crm):
    faults(crm, "slow", seconds=1.5)
    expire(crm)
    with interrupted(0.7):
        sync.call_with_token(CUSTOMER, crm, limits)
    task.call_with_token(CUSTOMER, crm, limits)
    assert count(crm, "refreshes", "deaths", "reuses") == [1, 1, 0]


def test_closing_waits_for_a_refresh_that_is_under_way(task, crm):
    closing = client("realsync")
    faults(crm, "slow", seconds=1.5)
    expire(crm)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(closing.call_with_token, CUSTOMER, crm, limits)
        time.sleep(0.7)
        closing.close()
    task.call_with_token(CUSTOMER, crm, limits)
    assert count(crm, "refreshes", "deaths", "reuses") == [1, 1, 0]


def test_all_replicas_are_used_and_one_that_dies_is_not_missed():
    name = next(names)
    answer = consent(name)
    with client("realsync", os.environ["REPLICAS_TARGET"]) as both:
        # They share no store: each takes it once.
        taken, end = 0, time.monotonic() + 30
        while taken < 2:
            try:
                both.store_connection(CUSTOMER, name, answer, if_revision=0)
                taken += 1
            except TrisealError as error:
                assert error.reason == "CREDENTIAL_EXISTS" and time.monotonic() < end
        kill_a_replica()
        for _ in range(20):
            assert both.call_with_token(CUSTOMER, name, limits)["connection"] == name


def test_a_service_that_is_killed_while_salesforce_answers_loses_no_tokens(sync, crm):
    faults(crm, "slow", seconds=1)
    expire(crm)
    killer = threading.Timer(0.5, kill_and_restart)
    killer.start()
    sync.call_with_token(CUSTOMER, crm, limits)
    killer.join()
    kill_and_restart()
    sync.call_with_token(CUSTOMER, crm, limits)
    assert count(crm, "refreshes", "deaths", "reuses") == [1, 1, 0]


def test_a_401_that_is_no_tokens_fault_ends(sync, crm):
    def refused(token, url):
        raise Unauthorized

    with pytest.raises(Unauthorized):
        sync.call_with_token(CUSTOMER, crm, refused)
    assert count(crm, "refreshes", "reuses") == [2, 0]


def test_disconnecting_revokes_and_erases(sync, task, crm):
    assert sync.disconnect(CUSTOMER, crm)
    assert count(crm, "revoked") == [True]
    with pytest.raises(TrisealError) as refused:
        task.call_with_token(CUSTOMER, crm, limits)
    assert refused.value.reason == "CREDENTIAL_NOT_FOUND"
    assert not sync.disconnect(CUSTOMER, crm), "nothing was left to revoke"


def test_what_is_revoked_is_erased_however_long_it_takes(sync, crm):
    faults(crm, "revoke_slow", seconds=1.5)
    with client("realsync", os.environ["TRISEAL_LINE"]) as far:
        far.call_with_token(CUSTOMER, crm, limits)
        timers = [threading.Timer(0.7, mute), threading.Timer(3, unmute)]
        for timer in timers:
            timer.start()
        assert far.disconnect(CUSTOMER, crm, timeout=1)
        for timer in timers:
            timer.join()
    assert not sync.disconnect(CUSTOMER, crm), "nothing was left"


def test_what_is_not_revoked_is_left_as_it_was(sync, task, crm):
    faults(crm, "revoke_unavailable")
    with pytest.raises(SalesforceError):
        sync.disconnect(CUSTOMER, crm)
    expire(crm)
    task.call_with_token(CUSTOMER, crm, limits)
    assert count(crm, "refreshes", "revoked") == [1, False]


def test_a_certificate_that_is_exchanged_is_taken(tmp_path):
    def exchange(caller):
        for kind in ("pem", "key"):
            shutil.copy(f"{CERTIFICATES}/{caller}.{kind}", tmp_path / "new")
            (tmp_path / "new").rename(tmp_path / f"own.{kind}")

    exchange("realsync")
    own = {"certificate": str(tmp_path / "own.pem"), "key": str(tmp_path / "own.key")}
    with client("realsync", **own) as changing:
        changing.store_connection(CUSTOMER, "realsync.python", consent("realsync.python"))
        changing.call_with_token(CUSTOMER, "realsync.python", limits)
        exchange("realtask")
        with pytest.raises(TrisealError) as refused:
            for _ in range(60):
                time.sleep(0.5)
                changing.call_with_token(CUSTOMER, "realsync.python", limits)
        assert refused.value.reason == "NOT_PERMITTED", "it is another caller now"


def test_nothing_prints_a_secret(sync, crm, capfd, caplog):
    answer = consent(crm)
    sync.store_connection(CUSTOMER, crm, answer)
    faults(crm, "lost_after")
    expire(crm)
    with pytest.raises(SalesforceError) as refused:
        sync.call_with_token(CUSTOMER, crm, limits)
    said = capfd.readouterr()
    everything = [
        repr(refused.value),
        str(refused.getrepr(showlocals=False)),
        said.out,
        said.err,
        caplog.text,
        repr(sync._app),
    ]
    for secret in (answer["access_token"], answer["refresh_token"], "app-secret"):
        assert not any(secret in text for text in everything)
