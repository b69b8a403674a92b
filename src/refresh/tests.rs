use super::*;
use crate::ids::{CredentialId, CredentialRef, CustomerId};
use crate::store::{Changes, Leases, WriteId};

const START: i64 = 1_764_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(START + second).unwrap()
}

fn revision(number: u64) -> Revision {
    Revision::new(number).unwrap()
}

fn token(name: &str) -> TokenHash {
    TokenHash::of(name.as_bytes())
}

fn caller(name: &str) -> Caller {
    Caller::new(name)
}

/// A credential at revision 7, with these leases.
fn row(leases: impl IntoIterator<Item = Lease>) -> CredentialRow {
    CredentialRow {
        id: CredentialRef {
            customer: CustomerId::parse("acme").unwrap(),
            credential: CredentialId::parse("crm").unwrap(),
        },
        write_id: WriteId::random().unwrap(),
        revision: revision(7),
        create_time: at(-100),
        update_time: at(-100),
        changes: Changes::default(),
        leases: leases.into_iter().fold(Leases::default(), |leases, lease| leases.with(lease)),
        life: Life::Living(Living {
            envelope: vec![7],
            kind: Kind::SalesforceOAuth,
            state: State::Active,
            refresh_time: None,
            access_token_expire_time: None,
        }),
    }
}

fn with_state(state: State, row: CredentialRow) -> CredentialRow {
    let Life::Living(living) = row.life else { panic!("a tombstone") };
    CredentialRow { life: Life::Living(Living { state, ..living }), ..row }
}

fn needs_reauth(row: CredentialRow) -> CredentialRow {
    with_state(State::NeedsReauth { reason: "INVALID_GRANT".to_owned(), time: at(0) }, row)
}

fn deleted(row: CredentialRow) -> CredentialRow {
    CredentialRow { life: Life::Deleted { time: at(0) }, ..row }
}

/// RealTask's, of revision 7, from second 0 to second 60, under the token of its own name.
fn held(name: &str) -> Lease {
    Lease {
        token: token(name),
        key: IdempotencyKey::given(name),
        caller: caller("realtask"),
        revision: revision(7),
        time: at(0),
        expire_time: at(60),
        after_lapse: false,
        end: None,
    }
}

fn ended(name: &str, end: LeaseEnd) -> Lease {
    Lease { end: Some(end), ..held(name) }
}

const GOOD: Known = Known { refreshable: true, expire_time: None };

/// Tries, at this second, as a caller whose call has this name.
fn acquire(
    row: &CredentialRow,
    known: Known,
    who: &str,
    key: &str,
    rejected: Option<u64>,
    second: i64,
) -> Result<Acquired, Refusal> {
    let asked = Acquire {
        rejected: rejected.map(revision),
        min_validity: Duration::from_secs(30),
        wait: Duration::ZERO,
        ttl: Duration::from_secs(15),
        key: None,
    };
    let (caller, key) = (caller(who), IdempotencyKey::given(key));
    decide_acquire(row, known, &Attempt { caller: &caller, asked: &asked, key, token: token("new"), now: at(second) })
}

fn in_progress(available: i64) -> Result<Acquired, Refusal> {
    Err(Refusal::InProgress { available: at(available), current: revision(7) })
}

fn given(key: &str, second: i64, after_lapse: bool) -> Acquired {
    Acquired::Given(Lease {
        token: token("new"),
        key: IdempotencyKey::given(key),
        caller: caller("realtask"),
        revision: revision(7),
        time: at(second),
        expire_time: at(second + 15),
        after_lapse,
        end: None,
    })
}

#[test]
fn tokens_are_fresh_unless_they_were_refused_or_are_known_to_end() {
    let row = row([]);
    let tried = |known, rejected| acquire(&row, known, "realtask", "a", rejected, 0);
    let ends = |second| Known { expire_time: Some(at(second)), ..GOOD };
    for (known, rejected) in [(GOOD, None), (GOOD, Some(6)), (ends(31), None), (ends(-9), Some(6))] {
        assert_eq!(tried(known, rejected), Ok(Acquired::Fresh), "{known:?} {rejected:?}");
    }
    for (known, rejected) in [(GOOD, Some(7)), (ends(30), None), (ends(-9), None), (ends(31), Some(7))] {
        assert_eq!(tried(known, rejected), Ok(given("a", 0, false)), "{known:?} {rejected:?}");
    }
    assert_eq!(tried(GOOD, Some(8)), Err(Refusal::RevisionMismatch { current: revision(7) }), "of another history");
    // Without a refresh token what is there can be read, and not refreshed.
    let bare = Known { refreshable: false, ..GOOD };
    assert_eq!(tried(bare, None), Ok(Acquired::Fresh));
    assert_eq!(tried(bare, Some(7)), Err(Refusal::NotRefreshable));
}

#[test]
fn only_a_living_active_salesforce_credential_is_read_or_refreshed() {
    let checked = |row: Option<&CredentialRow>| check_acquire(row).map(|_| ());
    let row = row([]);
    assert_eq!(checked(Some(&row)), Ok(()));
    assert_eq!(checked(None), Err(Refusal::NotFound));
    assert_eq!(checked(Some(&deleted(row.clone()))), Err(Refusal::NotFound));
    assert_eq!(checked(Some(&needs_reauth(row.clone()))), Err(Refusal::NeedsReauth));
    for kind in [Kind::Password, Kind::Opaque] {
        let mut other = row.clone();
        let Life::Living(living) = &mut other.life else { panic!("a tombstone") };
        living.kind = kind;
        assert_eq!(checked(Some(&other)), Err(Refusal::NotRefreshable));
    }
}

#[test]
fn nobody_else_gets_the_refresh_token_until_the_lease_has_lapsed_and_the_grace_is_over() {
    let row = row([held("a")]);
    let tried = |second| acquire(&row, GOOD, "realtask", "b", Some(7), second);
    // Expiry at 60, 5 s for clocks, 60 s of grace.
    for second in [0, 59, 60, 64, 65, 124] {
        assert_eq!(tried(second), in_progress(125), "at {second}");
    }
    for second in [125, 100_000] {
        assert_eq!(tried(second), Ok(given("b", second, true)), "at {second}");
    }
    // It stays so while its holder has not said what became of it.
    let abandoned = ended("b", LeaseEnd::Abandoned(AbandonCause::Transient));
    let later = self::row([held("a"), abandoned]);
    assert_eq!(acquire(&later, GOOD, "realtask", "c", Some(7), 130), Ok(given("c", 130, true)));
    // Whoever has seen an older revision refused is not kept waiting.
    assert_eq!(acquire(&row, GOOD, "realsync", "b", Some(6), 10), Ok(Acquired::Fresh));
    assert_eq!(acquire(&row, GOOD, "realsync", "b", None, 10), Ok(Acquired::Fresh));
}

#[test]
fn a_lease_that_has_ended_or_is_of_another_revision_keeps_nobody_waiting() {
    let completed = LeaseEnd::Completed { made: revision(7), time: at(5) };
    let of_six = Lease { revision: revision(6), ..ended("a", completed) };
    let open_of_six = Lease { revision: revision(6), ..held("a") };
    let abandoned = ended("a", LeaseEnd::Abandoned(AbandonCause::Transient));
    for lease in [of_six, open_of_six, abandoned] {
        let tried = acquire(&row([lease.clone()]), GOOD, "realtask", "b", Some(7), 10);
        assert_eq!(tried, Ok(given("b", 10, false)), "{lease:?}");
    }
}

#[test]
fn the_same_call_of_the_same_caller_gets_its_lease_again_under_a_new_token() {
    let row = row([held("a")]);
    let again = Lease { token: token("new"), ..held("a") };
    let tried = acquire(&row, GOOD, "realtask", "a", Some(7), 59);
    assert_eq!(tried, Ok(Acquired::Given(again.clone())), "and no longer than at first");
    // Whichever answer its holder has got, what it brings is saved.
    let both = CredentialRow { leases: row.leases.with(again), ..row.clone() };
    for name in ["a", "new"] {
        let saved = decide_complete(Some(&both), &caller("realtask"), &token(name), at(300));
        assert!(matches!(saved, Ok(Complete::Save { .. })), "{name}: {saved:?}");
        let given_up = decide_abandon(Some(&both), &caller("realtask"), &token(name), AbandonCause::Transient);
        let Ok(Abandon::End(leases)) = given_up else { panic!("{name}: {given_up:?}") };
        assert!(leases.iter().all(|lease| lease.end == Some(LeaseEnd::Abandoned(AbandonCause::Transient))));
    }
    assert_eq!(acquire(&row, GOOD, "realsync", "a", Some(7), 59), in_progress(125), "another caller");
    assert_eq!(acquire(&row, GOOD, "realtask", "b", Some(7), 59), in_progress(125), "another call");
    assert_eq!(acquire(&row, GOOD, "realtask", "a", Some(7), 60), in_progress(125), "an expired one is of no use");
}

#[test]
fn an_attempt_finds_its_own_write() {
    let own = Lease { token: token("new"), ..held("a") };
    let row = row([own.clone()]);
    for second in [0, 59, 500] {
        assert_eq!(acquire(&row, GOOD, "realtask", "a", Some(7), second), Ok(Acquired::Held(own.clone())));
    }
}

/// The table of docs/REFRESH.md: what a late Complete is answered. Each row is one state of the lease, each column one of the revision.
#[test]
fn late_completions_are_answered_by_the_table() {
    let complete =
        |row: &CredentialRow, who: &str, name: &str| decide_complete(Some(row), &caller(who), &token(name), at(300));
    let saved = |lease: Lease| {
        let end = Some(LeaseEnd::Completed { made: revision(8), time: at(300) });
        Ok(Complete::Save { revision: revision(8), lease: Lease { end, ..lease } })
    };
    let moved = |lease: Lease| row([Lease { revision: revision(6), ..lease }]);
    let mismatch = Err(Refusal::RevisionMismatch { current: revision(7) });
    let abandoned = |name: &str| ended(name, LeaseEnd::Abandoned(AbandonCause::InvalidGrant));

    // Recorded, the revision unmoved: saved, however late, under newer leases, abandoned, and in NEEDS_REAUTH.
    for leases in [vec![held("a")], vec![held("a"), held("b"), held("c"), held("d")], vec![abandoned("a")]] {
        let (unmoved, lease) = (row(leases.clone()), leases[0].clone());
        assert_eq!(complete(&unmoved, "realtask", "a"), saved(lease.clone()), "{leases:?}");
        assert_eq!(complete(&needs_reauth(unmoved), "realtask", "a"), saved(lease));
    }
    // Recorded, the revision moved by it: the first answer, also when it has moved on since, or is gone.
    let made = LeaseEnd::Completed { made: revision(7), time: at(20) };
    let mover = Lease { revision: revision(6), ..ended("a", made) };
    let first = Ok(Complete::Repeated { made: revision(7), time: at(20) });
    let further = CredentialRow { revision: revision(9), ..row([mover.clone()]) };
    for row in [row([mover.clone()]), further, deleted(row([mover]))] {
        assert_eq!(complete(&row, "realtask", "a"), first);
    }
    // Recorded, moved by something else.
    for lease in [held("a"), abandoned("a")] {
        assert_eq!(complete(&moved(lease), "realtask", "a"), mismatch);
    }
    // Those that were given up are forgotten before it.
    let refused = ["b", "c", "d", "e", "f"].map(abandoned);
    assert_eq!(complete(&row([held("a")].into_iter().chain(refused)), "realtask", "a"), saved(held("a")));
    // Not recorded: never given, forgotten, or another's.
    let forgotten = row([held("a"), held("b"), held("c"), held("d"), held("e")]);
    for (row, who, name) in [
        (row([]), "realtask", "a"),
        (forgotten, "realtask", "a"),
        (row([held("a")]), "realsync", "a"),
        (row([held("a")]), "realtask", "b"),
    ] {
        assert_eq!(complete(&row, who, name), Err(Refusal::LeaseLost));
        let moved = CredentialRow { revision: revision(9), ..row };
        assert_eq!(complete(&moved, who, name), Err(Refusal::LeaseLost));
    }
    // Nothing lives there.
    assert_eq!(decide_complete(None, &caller("realtask"), &token("a"), at(0)), Err(Refusal::NotFound));
    for row in [row([held("a")]), row([])] {
        assert_eq!(complete(&deleted(row), "realtask", "a"), Err(Refusal::NotFound));
    }
}

#[test]
fn only_the_present_lease_is_abandoned_and_once() {
    const CAUSES: [AbandonCause; 2] = [AbandonCause::InvalidGrant, AbandonCause::Transient];
    let abandon = |row: &CredentialRow, who: &str, name: &str, cause| {
        decide_abandon(Some(row), &caller(who), &token(name), cause)
    };
    for cause in CAUSES {
        let end = ended("a", LeaseEnd::Abandoned(cause));
        let ends = |leases: Vec<Lease>| Ok(Abandon::End(row(leases).leases));
        assert_eq!(abandon(&row([held("a")]), "realtask", "a", cause), ends(vec![end.clone()]));
        let lapsed = row([held("z"), held("a")]);
        assert_eq!(abandon(&lapsed, "realtask", "a", cause), ends(vec![held("z"), end.clone()]));
        // The answer was lost.
        assert_eq!(abandon(&row([end.clone()]), "realtask", "a", cause), Ok(Abandon::Repeated));
        let moved = row([Lease { revision: revision(6), ..end.clone() }]);
        assert_eq!(abandon(&moved, "realtask", "a", cause), Ok(Abandon::Repeated));
        assert_eq!(abandon(&row([end, held("b")]), "realtask", "a", cause), Ok(Abandon::Repeated), "and b's stays");
        // Lapsed and given anew, moved on, completed, another's, unknown.
        let completed =
            Lease { revision: revision(6), ..ended("a", LeaseEnd::Completed { made: revision(7), time: at(1) }) };
        for (row, who) in [
            (row([held("a"), held("b")]), "realtask"),
            (row([Lease { revision: revision(6), ..held("a") }]), "realtask"),
            (row([completed]), "realtask"),
            (row([held("a")]), "realsync"),
            (row([]), "realtask"),
        ] {
            assert_eq!(abandon(&row, who, "a", cause), Err(Refusal::LeaseLost), "{row:?}");
        }
        assert_eq!(abandon(&deleted(row([held("a")])), "realtask", "a", cause), Err(Refusal::NotFound));
        assert_eq!(decide_abandon(None, &caller("realtask"), &token("a"), cause), Err(Refusal::NotFound));
    }
    let transient = ended("a", LeaseEnd::Abandoned(AbandonCause::Transient));
    assert_eq!(abandon(&row([transient]), "realtask", "a", AbandonCause::InvalidGrant), Err(Refusal::LeaseLost));
}

#[test]
fn who_waits_goes_on_only_for_something_to_do() {
    let next = |row: &CredentialRow, second| decide_next(row, revision(7), at(second));
    let leased = row([held("a")]);
    assert_eq!(next(&leased, 0), Next::Wait);
    assert_eq!(next(&leased, 124), Next::Wait);
    assert_eq!(next(&leased, 125), Next::Try);
    assert_eq!(next(&row([ended("a", LeaseEnd::Abandoned(AbandonCause::Transient))]), 0), Next::Try);
    assert_eq!(next(&needs_reauth(leased.clone()), 0), Next::Answer);
    assert_eq!(next(&deleted(leased.clone()), 0), Next::Answer);
    assert_eq!(next(&CredentialRow { revision: revision(8), ..leased.clone() }, 0), Next::Answer);
    // Read before what was seen.
    assert_eq!(next(&CredentialRow { revision: revision(6), ..leased }, 0), Next::Wait);
}

fn tokens(access: &str, refresh: &str, url: &str, scopes: &[&str]) -> SalesforceOAuth {
    SalesforceOAuth {
        access_token: SecretString::new(access.to_owned()),
        refresh_token: SecretString::new(refresh.to_owned()),
        instance_url: url.to_owned(),
        token_url: url.to_owned(),
        identity_url: url.to_owned(),
        scopes: scopes.iter().map(ToString::to_string).collect(),
        issue_time: Some(at(-50)),
        access_token_expire_time: Some(at(50)),
    }
}

#[test]
fn what_a_holder_leaves_out_is_kept_but_for_the_expiry() {
    let shown = |oauth: &SalesforceOAuth| {
        let (access, refresh) = (oauth.access_token.expose_secret(), oauth.refresh_token.expose_secret());
        (
            format!("{access} {refresh} {} {} {}", oauth.instance_url, oauth.token_url, oauth.identity_url),
            oauth.scopes.clone(),
        )
    };
    let old = || tokens("old", "old-refresh", "https://old", &["api"]);
    let bare = SalesforceOAuth { issue_time: None, access_token_expire_time: None, ..tokens("new", "", "", &[]) };
    let kept = merged(&bare, old(), at(1));
    assert_eq!(
        shown(&kept),
        ("new old-refresh https://old https://old https://old".to_owned(), vec!["api".to_owned()])
    );
    assert_eq!((kept.issue_time, kept.access_token_expire_time), (Some(at(1)), None));

    let brought = tokens("new", "new-refresh", "https://new", &["full"]);
    let new = merged(&brought, old(), at(1));
    assert_eq!(shown(&new), shown(&brought));
    assert_eq!((new.issue_time, new.access_token_expire_time), (Some(at(-50)), Some(at(50))));
}

#[test]
fn a_lease_token_is_read_as_it_was_written_and_printed_as_its_name() {
    let token = LeaseToken::random().unwrap();
    let text = token.expose_secret();
    assert_eq!(text.len(), LeaseToken::LENGTH);
    assert_eq!(LeaseToken::parse(&text).map(|token| token.hash()), Some(token.hash()));
    assert_ne!(LeaseToken::random().unwrap().hash(), token.hash());
    assert_eq!(format!("{token:?} {:?}", token.hash()), "LeaseToken TokenHash");
    for bad in ["", "AAAA", &text[1..], &format!("{text}A"), &format!("{}+", &text[1..]), &"=".repeat(43)] {
        assert!(LeaseToken::parse(bad).is_none(), "{bad}");
    }
}
