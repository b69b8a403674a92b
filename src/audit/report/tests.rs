use super::super::entry::{Entry, Outcome};
use super::super::fakes::{Made, at, credential, entry, of_stream, read};
use super::*;
use crate::ids::RequestId;
use crate::secret::View;

fn change(request: &str, revision: u64, outcome: Outcome) -> Entry {
    entry("realtask", request, Event::EncryptCredential, &credential("acme", "crm"), None, revision, outcome)
}

fn answer(filter: Filter, files: &[&str]) -> Answer {
    let mut report = Report::new(filter, None, false);
    for file in files {
        report.read("log", file.as_bytes()).unwrap();
    }
    report.finish()
}

/// `credential event view revision outcome ×count`
fn shown(answer: &Answer) -> Vec<String> {
    let line = |(row, times): &(Row, Times)| {
        let revision = row.revision.map(|revision| revision.to_string()).unwrap_or_default();
        format!("{} {} {} {revision} {} ×{}", row.credential, row.event, row.view, row.outcome, times.count)
    };
    answer.rows.iter().map(line).collect()
}

fn by(caller: &str) -> Filter {
    Filter { caller: Some(caller.to_owned()), ..Filter::default() }
}

fn log(entries: &[Entry]) -> Made {
    let mut made = Made::new('a');
    made.add(&of_stream(Event::StreamOpened));
    entries.iter().for_each(|entry| made.add(entry));
    made
}

#[test]
fn it_tells_which_credentials_a_caller_saw_at_which_revision_in_which_view() {
    let (crm, erp) = (credential("acme", "crm"), credential("acme", "erp"));
    let access = Entry {
        subject: super::super::entry::Subject { view: Some(View::Access), ..read("realtask", &crm, 3).subject },
        ..read("realtask", &crm, 3)
    };
    let refused =
        entry("realtask", "r", Event::DecryptCredential, &erp, None, 0, Outcome::Refused(Reason::NotPermitted));
    let made = log(&[
        read("realtask", &crm, 3),
        read("realtask", &crm, 3),
        access,
        read("realsync", &crm, 3),
        read("realtask", &crm, 4),
        refused,
        read("realtask", &erp, 1),
    ]);
    let answer = answer(by("realtask"), &[&made.log()]);
    assert!(answer.verdict.is_clean());
    assert_eq!(
        shown(&answer),
        [
            "crm decrypt_credential access 3 ok ×1",
            "crm decrypt_credential full 3 ok ×2",
            "crm decrypt_credential full 4 ok ×1",
            "erp decrypt_credential   NOT_PERMITTED ×1",
            "erp decrypt_credential full 1 ok ×1",
        ]
    );
    let disclosed: Vec<_> = answer.rows.iter().map(|(row, _)| row.discloses()).collect();
    use Disclosed::{No, Yes};
    assert_eq!(disclosed, [Yes, Yes, Yes, No, Yes]);
    let (_, twice) = &answer.rows[1];
    assert_eq!((twice.first.as_str(), twice.last.as_str()), (entry_time(at(1)).as_str(), entry_time(at(2)).as_str()));
}

#[test]
fn it_answers_for_a_customer_and_for_a_credential_too() {
    let made = log(&[
        read("realtask", &credential("acme", "crm"), 1),
        read("realsync", &credential("acme", "erp"), 1),
        read("realsync", &credential("other", "crm"), 1),
    ]);
    let count = |filter| answer(filter, &[&made.log()]).rows.len();
    let customer = |id| Some(CustomerId::parse(id).unwrap());
    let credential = |id| Some(CredentialId::parse(id).unwrap());
    assert_eq!(count(Filter { customer: customer("acme"), ..Filter::default() }), 2);
    assert_eq!(count(Filter { credential: credential("crm"), ..Filter::default() }), 2);
    assert_eq!(count(Filter { customer: customer("acme"), ..by("realsync") }), 1);
    assert_eq!(count(Filter { customer: customer("acm"), ..Filter::default() }), 0);
    assert_eq!(count(by("realtas")), 0);
    assert_eq!(count(Filter::default()), 4, "all, the stream's own entry too");
}

#[test]
fn a_job_may_end_in_the_stream_of_another_process() {
    let job = |outcome| {
        let subject = super::super::entry::Subject::default();
        Entry { subject, event: Event::ReencryptionJob, ..change("job", 1, outcome) }
    };
    let stream = |name, entries: &[Entry]| {
        let mut made = Made::new(name);
        made.add(&of_stream(Event::StreamOpened));
        entries.iter().for_each(|entry| made.add(entry));
        made.log()
    };
    let begun = stream('a', &[job(Outcome::Intent)]);
    for (outcome, wanted) in [
        (Outcome::Ok, " reencryption_job   ok ×1"),
        (Outcome::Refused(Reason::DoneWithFailures), " reencryption_job   DONE_WITH_FAILURES ×1"),
        (Outcome::Refused(Reason::Cancelled), " reencryption_job   CANCELLED ×1"),
    ] {
        let ended = stream('b', &[job(outcome)]);
        for files in [[begun.as_str(), ended.as_str()], [ended.as_str(), begun.as_str()]] {
            assert_eq!(shown(&answer(by("realtask"), &files)), [wanted]);
        }
    }
    assert_eq!(shown(&answer(by("realtask"), &[&begun])), [" reencryption_job   unknown ×1"]);
}

#[test]
fn it_keeps_to_its_time_and_matches_outcomes_beyond_it() {
    let made = log(&[
        change("one", 1, Outcome::Intent),
        read("realtask", &credential("acme", "crm"), 1),
        change("one", 2, Outcome::Ok),
    ]);
    let within = |since, until| {
        let filter = Filter { since: Some(at(since)), until: Some(at(until)), ..by("realtask") };
        shown(&answer(filter, &[&made.log()]))
    };
    assert_eq!(within(0, 3), ["crm decrypt_credential full 1 ok ×1"], "the intent's outcome is known, if later");
    assert_eq!(within(2, 3), ["crm decrypt_credential full 1 ok ×1"]);
    assert_eq!(within(3, 4), ["crm encrypt_credential  2 ok ×1"]);
    assert_eq!(within(4, 9), [""; 0]);
}

#[test]
fn an_intent_without_its_outcome_is_unknown() {
    let made =
        log(&[change("one", 1, Outcome::Intent), change("two", 1, Outcome::Intent), change("two", 2, Outcome::Ok)]);
    let answer = answer(by("realtask"), &[&made.log()]);
    assert_eq!(shown(&answer), ["crm encrypt_credential  1 unknown ×1", "crm encrypt_credential  2 ok ×1"]);
    assert_eq!(answer.rows[0].0.discloses(), Disclosed::Perhaps);
    assert_eq!(answer.rows[0].0.revision_seen(), None, "it would have made another revision than it expected");
    assert_eq!(answer.rows[1].0.revision_seen(), Some(2));
}

#[test]
fn an_outcome_that_leaves_it_open_is_unknown_and_a_refusal_is_none() {
    let refused = |request, reason| change(request, 1, Outcome::Refused(reason));
    let made = log(&[
        change("one", 1, Outcome::Intent),
        refused("one", Reason::StoreUnavailable),
        change("two", 1, Outcome::Intent),
        refused("two", Reason::RevisionMismatch),
        // Before anything was to be changed.
        refused("three", Reason::StoreUnavailable),
    ]);
    assert_eq!(
        shown(&answer(by("realtask"), &[&made.log()])),
        [
            "crm encrypt_credential  1 REVISION_MISMATCH ×1",
            "crm encrypt_credential  1 STORE_UNAVAILABLE ×1",
            "crm encrypt_credential  1 unknown ×1",
        ]
    );
}

#[test]
fn a_change_that_was_decided_anew_has_one_outcome() {
    let made =
        log(&[change("one", 1, Outcome::Intent), change("one", 2, Outcome::Intent), change("one", 3, Outcome::Ok)]);
    assert_eq!(shown(&answer(by("realtask"), &[&made.log()])), ["crm encrypt_credential  3 ok ×1"]);
}

#[test]
fn an_outcome_belongs_to_its_own_intent() {
    let of = |customer: &str, caller: &str, event, outcome| {
        entry(caller, "same", event, &credential(customer, "crm"), None, 1, outcome)
    };
    let intent = of("acme", "realtask", Event::EncryptCredential, Outcome::Intent);
    for other in [
        of("other", "realtask", Event::EncryptCredential, Outcome::Ok),
        of("acme", "realsync", Event::EncryptCredential, Outcome::Ok),
        of("acme", "realtask", Event::DeleteCredential, Outcome::Ok),
    ] {
        let made = log(&[intent.clone(), other]);
        let unknown = shown(&answer(Filter::default(), &[&made.log()])).into_iter().filter(|row| row.contains(UNKNOWN));
        assert_eq!(unknown.count(), 1);
    }
    // Of another process.
    let (one, mut other) = (log(&[intent]), Made::new('b'));
    other.add(&of("acme", "realtask", Event::EncryptCredential, Outcome::Ok));
    let rows = shown(&answer(by("realtask"), &[&one.log(), &other.log()]));
    assert_eq!(rows, ["crm encrypt_credential  1 ok ×1", "crm encrypt_credential  1 unknown ×1"]);
}

#[test]
fn a_later_call_under_the_same_given_id_hides_nothing() {
    let given = RequestId::parse("the-same").unwrap();
    let crm = credential("acme", "crm");
    let call = |outcomes: &[Outcome]| {
        let request = RequestId::of_call(&given);
        let entry =
            |outcome: &Outcome| entry("realtask", request.as_str(), Event::DeleteCredential, &crm, None, 1, *outcome);
        outcomes.iter().map(entry).collect::<Vec<_>>()
    };
    let absent = Outcome::Refused(Reason::CredentialNotFound);
    // A deletion that was done, whose caller let its deadline pass; and then the same once more.
    let mut made = call(&[Outcome::Intent]);
    made.extend(call(&[absent]));
    assert_eq!(
        shown(&answer(by("realtask"), &[&log(&made).log()])),
        ["crm delete_credential  1 CREDENTIAL_NOT_FOUND ×1", "crm delete_credential  1 unknown ×1"]
    );
    // What a call says of itself counts as before.
    let made = call(&[Outcome::Intent, absent]);
    assert_eq!(
        shown(&answer(by("realtask"), &[&log(&made).log()])),
        ["crm delete_credential  1 CREDENTIAL_NOT_FOUND ×1"]
    );
}

#[test]
fn an_outcome_is_found_in_the_next_file() {
    let made = log(&[change("one", 1, Outcome::Intent), change("one", 2, Outcome::Ok)]);
    let answer = answer(by("realtask"), &[&made.lines[..2].concat(), &made.lines[2..].concat()]);
    assert_eq!(shown(&answer), ["crm encrypt_credential  2 ok ×1"]);
}

#[test]
fn a_lease_is_a_disclosure_of_its_revision_even_if_its_outcome_is_unknown() {
    let lease =
        entry("realtask", "r", Event::AcquireRefresh, &credential("acme", "crm"), Some(View::Full), 5, Outcome::Intent);
    let answer = answer(by("realtask"), &[&log(&[lease]).log()]);
    assert_eq!(shown(&answer), ["crm acquire_refresh full 5 unknown ×1"]);
    assert_eq!(answer.rows[0].0.revision_seen(), Some(5));
}

#[test]
fn metadata_and_deletions_disclose_nothing() {
    for event in Event::ALL {
        let row = Row {
            caller: String::new(),
            customer: String::new(),
            credential: String::new(),
            event: event.as_str().to_owned(),
            view: String::new(),
            revision: Some(1),
            outcome: "ok".to_owned(),
        };
        let secret = matches!(
            event,
            Event::EncryptCredential
                | Event::DecryptCredential
                | Event::BatchDecryptCredentials
                | Event::AcquireRefresh
                | Event::CompleteRefresh
        );
        assert_eq!(row.discloses() == Disclosed::Yes, secret, "{event:?}");
    }
}

#[test]
fn a_log_that_was_tampered_with_is_reported_as_that() {
    let made = log(&[read("realtask", &credential("acme", "crm"), 3)]);
    let answer = answer(by("realtask"), &[&made.log().replace("\"revision\":3", "\"revision\":2")]);
    assert_eq!(answer.verdict.total_findings, 1);
    assert_eq!(answer.rows.len(), 1);
}
