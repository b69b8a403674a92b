//! Refreshing over the embedded store: the whole protocol, its entries in the audit log, lost answers, states of customers.

use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::access::{AcquireRefresh, Permit};
use crate::refresh::{Acquire, LeaseToken};
use crate::secret::{SalesforceOAuth, SecretString};
use crate::store::{AbandonCause, ClockUnconfirmed, LeaseEnd};

fn crm() -> CredentialRef {
    credential_ref("acme", "crm")
}

/// Refused at this revision.
fn rejected(number: u64) -> Acquire {
    Acquire { rejected: Some(revision(number)), ..reading() }
}

fn reading() -> Acquire {
    Acquire {
        rejected: None,
        min_validity: Duration::ZERO,
        wait: Duration::ZERO,
        ttl: Duration::from_secs(15),
        key: None,
    }
}

fn tokens(access: &str) -> SalesforceOAuth {
    let Secret::SalesforceOAuth(oauth) = salesforce(access) else { panic!("another kind") };
    SalesforceOAuth { refresh_token: SecretString::new(format!("after {access}")), scopes: vec![], ..oauth }
}

fn exposed(secret: &Secret) -> (&str, &str) {
    let Secret::SalesforceOAuth(oauth) = secret else { panic!("another kind") };
    (oauth.access_token.expose_secret(), oauth.refresh_token.expose_secret())
}

/// A setup with acme's `crm` at revision 1.
async fn stored() -> Setup {
    let setup = Setup::new().await;
    setup.encrypt("crm", salesforce("first"), Condition::None).await.unwrap();
    setup
}

impl Setup {
    async fn acquire(&self, who: &str, asked: &Acquire) -> Result<Refreshed, VaultError> {
        self.vault.acquire_unasked(&caller(who), &crm(), asked).await
    }

    /// The lease that an attempt must get.
    async fn lease(&self, who: &str, number: u64) -> GivenLease {
        match self.acquire(who, &rejected(number)).await {
            Ok(Refreshed::Lease(lease)) => *lease,
            other => panic!("no lease: {other:?}"),
        }
    }

    async fn complete(&self, who: &str, token: &LeaseToken, access: &str) -> Result<Credential, VaultError> {
        self.vault.complete_unasked(&caller(who), &crm(), token, &tokens(access)).await
    }

    async fn abandon(&self, who: &str, token: &LeaseToken, cause: AbandonCause) -> Result<Credential, VaultError> {
        self.vault.abandon_unasked(&caller(who), &crm(), token, cause).await
    }

    async fn row(&self) -> CredentialRow {
        self.credentials.get(&crm()).await.unwrap().unwrap()
    }
}

fn in_progress(available: i64, number: u64) -> VaultError {
    let available = crate::store::contract::time(available * 1_000_000);
    VaultError::RefreshInProgress { available, current: revision(number) }
}

#[tokio::test]
async fn one_caller_refreshes_and_the_others_get_what_it_brings() {
    let setup = stored().await;
    let Ok(Refreshed::Fresh(fresh)) = setup.acquire("realsync", &reading()).await else { panic!("not fresh") };
    assert_eq!((exposed(&fresh.0), fresh.1.revision), (("first", ""), revision(1)));

    at(2_000);
    let lease = setup.lease("realtask", 1).await;
    assert_eq!(exposed(&lease.secret), ("first", "refresh token"));
    assert_eq!(
        (lease.expire_time.as_second(), lease.after_lapse, lease.credential.revision),
        (2_015, false, revision(1))
    );
    let row = setup.row().await;
    assert_eq!((row.revision, row.update_time.as_second()), (revision(1), 1_000), "a lease is no change of the secret");
    assert_eq!(row.leases.last().map(|lease| lease.token), Some(lease.token.hash()));
    assert_eq!(setup.acquire("realsync", &rejected(1)).await.err(), Some(in_progress(2_080, 1)));

    at(2_003);
    let made = setup.complete("realtask", &lease.token, "second").await.unwrap();
    assert_eq!((made.revision, made.update_time.as_second()), (revision(2), 2_003));
    assert_eq!((made.refresh_time, made.access_token_expire_time), (Some(made.update_time), None));
    assert_eq!(setup.vault.get_unasked(&crm()).await.unwrap(), made);
    let (secret, _) = setup.vault.decrypt_unasked(&crm(), View::Full, None).await.unwrap();
    assert_eq!(exposed(&secret), ("second", "after second"));
    let Secret::SalesforceOAuth(oauth) = secret else { panic!("another kind") };
    assert_eq!((oauth.scopes, oauth.issue_time), (vec!["api".to_owned()], Some(made.update_time)), "kept, and now");

    let Ok(Refreshed::Fresh(fresh)) = setup.acquire("realsync", &rejected(1)).await else { panic!("not fresh") };
    assert_eq!((exposed(&fresh.0), fresh.1.revision), (("second", ""), revision(2)));
    at(2_500);
    assert_eq!(setup.complete("realtask", &lease.token, "second").await.unwrap(), made, "the first answer");
    let next = setup.lease("realsync", 2).await;
    assert!(!next.after_lapse);
    setup.complete("realsync", &next.token, "third").await.unwrap();
    let again = setup.complete("realtask", &lease.token, "second").await.unwrap();
    assert_eq!(again, Credential { lineage: None, ..made }, "whose envelope is gone");
}

#[tokio::test]
async fn a_known_end_within_what_was_asked_for_is_refreshed_before_it() {
    let setup = Setup::new().await;
    let Secret::SalesforceOAuth(oauth) = salesforce("first") else { panic!("another kind") };
    let ends = Some(crate::store::contract::time(1_100 * 1_000_000));
    let secret = Secret::SalesforceOAuth(SalesforceOAuth { access_token_expire_time: ends, ..oauth });
    setup.encrypt("crm", secret, Condition::None).await.unwrap();
    // The row's own column is a hint that somebody may have edited.
    setup.change("crm", |_, living| living.access_token_expire_time = None).await;
    let within = |seconds| Acquire { min_validity: Duration::from_secs(seconds), ..reading() };
    assert!(matches!(setup.acquire("realtask", &within(99)).await, Ok(Refreshed::Fresh(_))));
    assert!(matches!(setup.acquire("realtask", &within(100)).await, Ok(Refreshed::Lease(_))));
}

#[tokio::test]
async fn a_holder_that_never_comes_back_is_followed_after_lapse_and_grace_and_does_not_lose_its_tokens() {
    let setup = stored().await;
    let first = setup.lease("realtask", 1).await;
    // It lasts 15 s; 5 s for clocks; 60 s of grace.
    at(1_079);
    assert_eq!(setup.acquire("realsync", &rejected(1)).await.err(), Some(in_progress(1_080, 1)));
    at(1_080);
    let second = setup.lease("realsync", 1).await;
    assert!(second.after_lapse);

    // The first comes back, after all, with the only living tokens; the second is told so.
    at(1_081);
    let made = setup.complete("realtask", &first.token, "late").await.unwrap();
    assert_eq!(made.revision, revision(2));
    let mismatch = VaultError::RevisionMismatch { current: revision(2) };
    assert_eq!(setup.complete("realsync", &second.token, "x").await, Err(mismatch.clone()));
    assert_eq!(setup.abandon("realsync", &second.token, AbandonCause::InvalidGrant).await, Err(VaultError::LeaseLost));
    assert_eq!(setup.vault.get_unasked(&crm()).await.unwrap(), made);

    // The other way round, the first is told that it comes too late.
    let first = setup.lease("realtask", 2).await;
    at(2_000);
    let second = setup.lease("realsync", 2).await;
    setup.complete("realsync", &second.token, "third").await.unwrap();
    let mismatch = VaultError::RevisionMismatch { current: revision(3) };
    assert_eq!(setup.complete("realtask", &first.token, "late").await, Err(mismatch));
    let (secret, _) = setup.vault.decrypt_unasked(&crm(), View::Access, None).await.unwrap();
    assert_eq!(exposed(&secret).0, "third");
}

#[tokio::test]
async fn an_invalid_grant_stops_everybody_until_there_are_new_tokens() {
    let setup = stored().await;
    let lease = setup.lease("realtask", 1).await;
    let transient = setup.lease_then_abandon(&lease).await;
    assert_eq!(transient.state, State::Active);

    let lease = setup.lease("realtask", 1).await;
    at(1_234);
    let marked = setup.abandon("realtask", &lease.token, AbandonCause::InvalidGrant).await.unwrap();
    let time = crate::store::contract::time(1_234 * 1_000_000);
    assert_eq!(marked.state, State::NeedsReauth { reason: "INVALID_GRANT".to_owned(), time });
    assert_eq!((marked.revision, marked.update_time.as_second()), (revision(1), 1_000));
    assert_eq!(
        setup.abandon("realtask", &lease.token, AbandonCause::InvalidGrant).await,
        Ok(marked.clone()),
        "a retry"
    );

    let needs_reauth = Some(VaultError::NeedsReauth);
    for asked in [reading(), rejected(1)] {
        assert_eq!(setup.acquire("realsync", &asked).await.err(), needs_reauth);
    }
    assert_eq!(setup.vault.decrypt_unasked(&crm(), View::Access, None).await.err(), needs_reauth);
    assert!(setup.vault.decrypt_unasked(&crm(), View::Full, None).await.is_ok(), "to revoke it at Salesforce");
    assert_eq!(setup.vault.get_unasked(&crm()).await.unwrap(), marked);
    let filter = |needs_reauth| ListFilter { needs_reauth: Some(needs_reauth), ..ListFilter::default() };
    for (wanted, found) in [(true, vec![marked]), (false, vec![])] {
        let page = setup.vault.list_unasked(None, &filter(wanted), None, 10).await.unwrap();
        assert_eq!(page.rows, found);
    }
    let anew = setup.encrypt("crm", salesforce("consented"), Condition::None).await.unwrap();
    assert_eq!(anew.state, State::Active);
    assert!(setup.vault.decrypt_unasked(&crm(), View::Access, None).await.is_ok());

    // Late tokens end it, too: they are living ones.
    let lease = setup.lease("realtask", 2).await;
    let marked = setup.vault.mark_unasked(&caller("security"), &crm(), None).await.unwrap();
    assert!(matches!(marked.state, State::NeedsReauth { .. }));
    let saved = setup.complete("realtask", &lease.token, "late").await.unwrap();
    assert_eq!((saved.state, saved.revision), (State::Active, revision(3)));

    // What somebody has said before stays.
    let lease = setup.lease("realtask", 3).await;
    let marked = setup.vault.mark_unasked(&caller("security"), &crm(), None).await.unwrap();
    at(9_000);
    let abandoned = setup.abandon("realtask", &lease.token, AbandonCause::InvalidGrant).await.unwrap();
    assert_eq!(abandoned.state, marked.state);
}

impl Setup {
    async fn lease_then_abandon(&self, lease: &GivenLease) -> Credential {
        let ended = self.abandon("realtask", &lease.token, AbandonCause::Transient).await.unwrap();
        assert_eq!(
            self.row().await.leases.last().and_then(|lease| lease.end),
            Some(LeaseEnd::Abandoned(AbandonCause::Transient))
        );
        ended
    }
}

#[tokio::test]
async fn marking_twice_changes_nothing_and_a_condition_holds() {
    let setup = stored().await;
    let mark = async |number: Option<u64>| {
        setup.vault.mark_unasked(&caller("security"), &crm(), number.and_then(Revision::new)).await
    };
    assert_eq!(mark(Some(2)).await, Err(VaultError::RevisionMismatch { current: revision(1) }));
    let marked = mark(Some(1)).await.unwrap();
    at(5_000);
    let written = setup.row().await.write_id;
    assert_eq!(mark(None).await, Ok(marked));
    assert_eq!(setup.row().await.write_id, written);

    // Marked, its answer lost, and undone since: it is not marked again.
    setup.encrypt("crm", salesforce("anew"), Condition::None).await.unwrap();
    setup.credentials.faults([Fault::LostAfter]);
    let marked = mark(None).await.unwrap();
    assert!(matches!(marked.state, State::NeedsReauth { .. }));
    let missing = setup.vault.mark_unasked(&caller("security"), &credential_ref("acme", "missing"), None).await;
    assert_eq!(missing, Err(VaultError::CredentialNotFound));
}

#[tokio::test]
async fn a_customer_that_is_not_active_gets_no_lease_and_its_last_tokens_are_saved() {
    let pending = CustomerState::PendingDestruction { destroy_time: crate::store::contract::time(1) };
    for (state, refused) in
        [(CustomerState::Disabled, KeyringError::CustomerDisabled), (pending, KeyringError::CustomerPendingDestruction)]
    {
        let setup = stored().await;
        let lease = setup.lease("realtask", 1).await;
        setup.customer_becomes("acme", state).await;
        for asked in [reading(), rejected(1)] {
            assert_eq!(setup.acquire("realtask", &asked).await.err(), Some(VaultError::Keyring(refused.clone())));
        }
        let saved = setup.complete("realtask", &lease.token, "second").await.unwrap();
        assert_eq!(saved.revision, revision(2));
        assert_eq!(setup.abandon("realtask", &lease.token, AbandonCause::Transient).await, Err(VaultError::LeaseLost));
        let missing = credential_ref("acme", "missing");
        let none = setup.vault.complete_unasked(&caller("realtask"), &missing, &lease.token, &tokens("x")).await;
        assert_eq!(none, Err(VaultError::CredentialNotFound), "which ends the holder's tries");
        setup.customer_becomes("acme", CustomerState::Active).await;
        let (secret, _) = setup.vault.decrypt_unasked(&crm(), View::Full, None).await.unwrap();
        assert_eq!(exposed(&secret), ("second", "after second"));
    }
    let setup = stored().await;
    let lease = setup.lease("realtask", 1).await;
    let erasure = crate::store::Erasure::default();
    let destroyed = CustomerState::Destroyed { destroy_time: crate::store::contract::time(1), erasure };
    setup.customer_becomes("acme", destroyed).await;
    assert_eq!(setup.complete("realtask", &lease.token, "x").await, Err(VaultError::CredentialNotFound));
    let nobody = credential_ref("nobody", "crm");
    let none = setup.vault.abandon_unasked(&caller("realtask"), &nobody, &lease.token, AbandonCause::Transient).await;
    assert_eq!(none, Err(VaultError::Keyring(KeyringError::CustomerNotFound)));
}

#[tokio::test]
async fn a_lease_that_could_not_be_completed_is_not_given() {
    let setup = stored().await;
    setup.primary_is_lost().await;
    let refused = setup.acquire("realtask", &rejected(1)).await.err();
    assert_eq!(refused, Some(VaultError::Keyring(KeyringError::KeyVersionUnknown)));
    assert_eq!(setup.row().await.leases.last(), None);
    assert!(matches!(setup.acquire("realtask", &reading()).await, Ok(Refreshed::Fresh(_))), "it opens");
}

#[tokio::test]
async fn a_lost_answer_gives_one_lease_and_one_revision() {
    for fault in [|| Fault::LostAfter, || Fault::LostBefore, || Fault::Overtaken] {
        let setup = stored().await;
        setup.credentials.faults([fault()]);
        let lease = setup.lease("realtask", 1).await;
        let row = setup.row().await;
        assert_eq!((row.leases.iter().count(), row.leases.last().unwrap().token), (1, lease.token.hash()));

        setup.credentials.faults([fault()]);
        let made = setup.complete("realtask", &lease.token, "second").await.unwrap();
        assert_eq!((made.revision, setup.row().await.revision), (revision(2), revision(2)));

        let lease = setup.lease("realtask", 2).await;
        setup.credentials.faults([fault()]);
        let marked = setup.abandon("realtask", &lease.token, AbandonCause::InvalidGrant).await.unwrap();
        assert!(matches!(marked.state, State::NeedsReauth { .. }));
    }
}

#[tokio::test]
async fn the_same_call_gets_its_lease_again() {
    let setup = stored().await;
    let asked = Acquire { key: Some(IdempotencyKey::given("refresh-1")), ..rejected(1) };
    let Ok(Refreshed::Lease(first)) = setup.acquire("realtask", &asked).await else { panic!("no lease") };
    at(1_010);
    let Ok(Refreshed::Lease(again)) = setup.acquire("realtask", &asked).await else { panic!("no lease") };
    assert_eq!((again.expire_time, exposed(&again.secret)), (first.expire_time, exposed(&first.secret)));
    assert!(setup.acquire("realsync", &asked).await.is_err(), "another caller's key is another key");
    // Which answer came is not known here: an attempt may be carried out after a later one was answered. Either is good, once.
    assert_eq!(setup.complete("realtask", &first.token, "second").await.unwrap().revision, revision(2));
    let mismatch = VaultError::RevisionMismatch { current: revision(2) };
    assert_eq!(setup.complete("realtask", &again.token, "third").await, Err(mismatch));
}

#[tokio::test]
async fn deleting_ends_what_a_lease_was_for() {
    let setup = stored().await;
    let lease = setup.lease("realtask", 1).await;
    setup.vault.delete_unasked(&caller("realtask"), &crm(), None).await.unwrap();
    assert_eq!(setup.complete("realtask", &lease.token, "x").await, Err(VaultError::CredentialNotFound));
    assert_eq!(setup.acquire("realtask", &reading()).await.err(), Some(VaultError::CredentialNotFound));
    setup.encrypt("crm", salesforce("another life"), Condition::Absent).await.unwrap();
    let mismatch = VaultError::RevisionMismatch { current: revision(2) };
    assert_eq!(setup.complete("realtask", &lease.token, "x").await, Err(mismatch));
    assert!(!setup.lease("realsync", 2).await.after_lapse, "the former life's leases keep nobody waiting");
}

#[tokio::test]
async fn who_waits_is_answered_when_the_tokens_come_and_when_the_service_drains() {
    let setup = stored().await;
    let lease = setup.lease("realtask", 1).await;
    let patient = Acquire { wait: Duration::from_secs(60), ..rejected(1) };
    let waiting = (0..50).map(|_| setup.acquire("realsync", &patient));
    let completing = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        setup.complete("realtask", &lease.token, "second").await.unwrap();
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(waiting), completing);
    for answer in answers {
        let Ok(Refreshed::Fresh(fresh)) = answer else { panic!("not fresh") };
        assert_eq!(exposed(&fresh.0), ("second", ""));
    }

    // Of those who wait for one that is given up, one gets the next lease, and the others go on waiting.
    let lease = setup.lease("realtask", 2).await;
    let patient = Acquire { wait: Duration::from_secs(60), ..rejected(2) };
    let waiting = (0..20).map(|_| setup.acquire("realsync", &patient));
    let abandoning = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        setup.abandon("realtask", &lease.token, AbandonCause::Transient).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        setup.vault.stop_waiting();
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(waiting), abandoning);
    let leases = answers.iter().filter(|answer| matches!(answer, Ok(Refreshed::Lease(_)))).count();
    let told = answers.iter().filter(|answer| matches!(answer, Err(VaultError::RefreshInProgress { .. }))).count();
    assert_eq!((leases, told), (1, 19));
    let late = setup.acquire("realsync", &patient).await.err();
    assert!(matches!(late, Some(VaultError::RefreshInProgress { .. })), "and nobody waits any more: {late:?}");
}

/// What an entry says: event, view, revision, outcome.
fn entries(lines: &str) -> Vec<String> {
    let field = |entry: &serde_json::Value, name| match &entry[name] {
        serde_json::Value::Null => "-".to_owned(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let told = |line: &str| {
        let entry = serde_json::from_str(line).unwrap();
        ["event", "view", "revision", "outcome"].map(|name| field(&entry, name)).join(" ")
    };
    lines.lines().map(told).collect()
}

#[tokio::test]
async fn each_step_has_its_entries_and_a_lease_is_a_disclosure_of_all() {
    let setup = stored().await;
    let (vault, log) = setup.audited();
    let (task, sync) = (caller("realtask"), caller("realsync"));
    let acquire = async |who, asked: &Acquire| vault.acquire_unasked(who, &crm(), asked).await;
    acquire(&sync, &reading()).await.unwrap();
    let Ok(Refreshed::Lease(lease)) = acquire(&task, &rejected(1)).await else { panic!("no lease") };
    acquire(&sync, &rejected(1)).await.unwrap_err();
    let patient = Acquire { wait: Duration::from_millis(300), ..rejected(1) };
    acquire(&sync, &patient).await.unwrap_err();
    vault.complete_unasked(&task, &crm(), &lease.token, &tokens("second")).await.unwrap();
    vault.complete_unasked(&task, &crm(), &lease.token, &tokens("second")).await.unwrap();
    vault.abandon_unasked(&task, &crm(), &lease.token, AbandonCause::Transient).await.unwrap_err();
    vault.mark_unasked(&task, &crm(), None).await.unwrap();
    vault.mark_unasked(&task, &crm(), None).await.unwrap();
    let wanted = [
        "acquire_refresh access 1 ok",
        "acquire_refresh full 1 intent",
        "acquire_refresh full 1 ok",
        "acquire_refresh full - REFRESH_IN_PROGRESS",
        "acquire_refresh full - REFRESH_IN_PROGRESS",
        "complete_refresh - 1 intent",
        "complete_refresh - 2 ok",
        "complete_refresh - 2 ok",
        "abandon_refresh - - LEASE_LOST",
        "mark_needs_reauth - 2 intent",
        "mark_needs_reauth - 2 ok",
        "mark_needs_reauth - 2 ok",
    ];
    assert_eq!(entries(&log.lines()), wanted);
    assert!(!log.lines().contains(&lease.token.expose_secret()));
}

#[tokio::test]
async fn whoever_is_gone_while_it_waits_is_given_no_lease() {
    let setup = stored().await;
    let held = setup.lease("realtask", 1).await;
    let permit = Permit::unasked(caller("realsync"), AcquireRefresh(crm()));
    let asked = Acquire { wait: Duration::from_secs(3_600), ..rejected(1) };
    let until = Instant::now() + asked.wait;
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let waiting = setup.vault.acquire_refresh(&permit, &asked, until, async { drop(gone.await) }, || {});
    let leaving = async {
        tokio::task::yield_now().await;
        drop(go);
    };
    let (answer, ()) = tokio::join!(waiting, leaving);
    assert!(matches!(answer, Err(VaultError::RefreshInProgress { .. })), "{answer:?}");
    setup.complete("realtask", &held.token, "second").await.unwrap();
}

#[tokio::test]
async fn no_lease_is_given_by_a_clock_that_the_store_does_not_confirm() {
    let setup = stored().await;
    let heard = Arc::new(StoreClock::default());
    let (vault, _log) = setup.audited();
    let vault = vault.with_store_clock(Some(Arc::clone(&heard)));
    let acquire = async |asked| vault.acquire_unasked(&caller("realtask"), &crm(), &asked).await;
    for ahead_ms in [None, Some(3_000), Some(-3_000)] {
        if let Some(ahead_ms) = ahead_ms {
            heard.set(ahead_ms);
        }
        let refused = acquire(rejected(1)).await.err();
        assert_eq!(refused, Some(VaultError::Clock(ClockUnconfirmed)), "{ahead_ms:?}");
    }
    heard.set(1_000);
    let Ok(Refreshed::Lease(lease)) = acquire(rejected(1)).await else { panic!("no lease") };
    // What is there is read, and what is brought is saved, whatever the clock says.
    heard.set(3_000);
    assert!(matches!(acquire(reading()).await, Ok(Refreshed::Fresh(_))));
    assert_eq!(setup.complete("realtask", &lease.token, "second").await.unwrap().revision, revision(2));
}

#[tokio::test]
async fn a_holder_that_finds_the_row_contended_is_not_told_that_its_tokens_are_of_no_use() {
    let setup = stored().await;
    let lease = setup.lease("realtask", 1).await;
    setup.credentials.faults((0..5).map(|_| Fault::Overtaken));
    let refused = setup.complete("realtask", &lease.token, "second").await;
    assert_eq!(refused, Err(VaultError::Store(StoreError::Throttled)));
    assert_eq!(setup.complete("realtask", &lease.token, "second").await.unwrap().revision, revision(2));
}

#[tokio::test]
async fn whoever_comes_to_wait_where_others_do_reads_nothing() {
    let setup = stored().await;
    let _held = setup.lease("realtask", 1).await;
    let patient = Acquire { wait: Duration::from_secs(60), ..rejected(1) };
    let first = setup.acquire("realsync", &patient);
    let others = async {
        while setup.vault.waiting.lately(&crm()).is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let before = setup.credentials.reads();
        let brief = Acquire { wait: Duration::from_millis(20), ..rejected(1) };
        for _ in 0..20 {
            let come = (0..10).map(|_| setup.acquire("realsync", &brief));
            for answer in futures_util::future::join_all(come).await {
                assert!(matches!(answer, Err(VaultError::RefreshInProgress { .. })), "{answer:?}");
            }
        }
        let reads = setup.credentials.reads() - before;
        assert!(reads < 100, "{reads} for 200 who came");
        // What was read before somebody brought the revision that is refused now is no answer.
        let row = setup.vault.waiting.lately(&crm()).unwrap();
        assert_eq!(row.revision, revision(1));
        let later = Acquire { wait: Duration::from_millis(20), ..rejected(2) };
        assert!(setup.vault.waited_for(&crm(), &later).is_none());
    };
    tokio::select! {
        _ = first => panic!("it waits"),
        () = others => {}
    }
}

#[tokio::test]
async fn a_lease_that_was_announced_and_not_given_is_withdrawn() {
    let setup = stored().await;
    let (vault, log) = setup.audited();
    // Somebody else is quicker, each time.
    setup.credentials.faults((0..5).map(|_| Fault::Overtaken));
    let refused = vault.acquire_unasked(&caller("realtask"), &crm(), &rejected(1)).await.err();
    assert_eq!(refused, Some(VaultError::ChangedConcurrently));
    let told = entries(&log.lines());
    assert!(told.len() > 1 && told[..told.len() - 1].iter().all(|entry| entry == "acquire_refresh full 1 intent"));
    assert_eq!(told.last().map(String::as_str), Some("acquire_refresh full 1 CHANGED_CONCURRENTLY"), "{told:?}");
}
