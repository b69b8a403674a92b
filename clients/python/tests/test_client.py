"""The client against a real triseald and the Salesforce of tests/support. Run by clients/test."""

import itertools
import shutil
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
    kill_and_restart,
    limits,
    seen,
)

from triseal import NeedsReauth, TrisealError, Unauthorized

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
    faults(crm, "unavailable", "lost_before", "odd")
    expire(crm)
    sync.call_with_token(CUSTOMER, crm, limits)
    assert count(crm, "refreshes", "reuses") == [1, 0]


def test_a_lost_answer_is_found_out_and_the_customer_consents_again(sync, task, crm):
    faults(crm, "lost_after")
    expire(crm)
    for who in (sync, task):
        with pytest.raises(NeedsReauth) as refused:
            who.call_with_token(CUSTOMER, crm, limits)
        assert refused.value.reason == "NEEDS_REAUTH"
    assert count(crm, "refreshes", "revoked") == [1, True]
    sync.store_connection(CUSTOMER, crm, consent(crm))
    task.call_with_token(CUSTOMER, crm, limits)


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
    assert count(crm, "refreshes", "reuses") == [4, 0]


def test_disconnecting_revokes_and_erases(sync, task, crm):
    assert sync.disconnect(CUSTOMER, crm)
    assert count(crm, "revoked") == [True]
    with pytest.raises(TrisealError) as refused:
        task.call_with_token(CUSTOMER, crm, limits)
    assert refused.value.reason == "CREDENTIAL_NOT_FOUND"
    assert not sync.disconnect(CUSTOMER, crm), "nothing was left to revoke"


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
    with pytest.raises(NeedsReauth) as refused:
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
