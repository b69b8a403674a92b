use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::ids::{CredentialId, CredentialRef, CustomerId};
use crate::secret::{Kind, View};

mod directory;
mod sets;

const SCHEMA_TEXT: &str = include_str!("../../deploy/policy/triseal.cedarschema");
/// Two callers, one of them in a team.
const ENTITIES_TEXT: &str = r#"[
    {"uid": {"type": "Team", "id": "team"}, "attrs": {}, "parents": []},
    {"uid": {"type": "Caller", "id": "ann"}, "attrs": {}, "parents": [{"type": "Team", "id": "team"}]},
    {"uid": {"type": "Caller", "id": "bob"}, "attrs": {}, "parents": []}
]"#;
const EVERYTHING: &str = "@id(\"everything\")\npermit (principal, action, resource);\n";
const ANN_READS_HERS: &str = "@id(\"hers\")\npermit (principal == Caller::\"ann\", action == Action::\"DecryptAccess\", resource)\n\
                              when { context.credential_id like \"ann.*\" };\n";

fn text(name: &str, content: &str) -> Text {
    Text { name: name.to_owned(), content: content.to_owned() }
}

/// A set with these policies.
fn texts(policies: &str) -> Texts {
    Texts {
        schema: text(SCHEMA, SCHEMA_TEXT),
        entities: text(ENTITIES, ENTITIES_TEXT),
        policies: vec![text("test.cedar", policies)],
    }
}

fn policies(text: &str) -> Policies {
    Policies::parse(&texts(text)).unwrap()
}

fn credential(customer: &str, credential: &str) -> CredentialRef {
    CredentialRef {
        customer: CustomerId::parse(customer).unwrap(),
        credential: CredentialId::parse(credential).unwrap(),
    }
}

fn read(id: &str) -> DecryptCredential {
    DecryptCredential { id: credential("acme", id), view: View::Access }
}

fn caller(name: &str) -> Caller {
    Caller::new(name)
}

/// A question of each action, in each form that it has.
fn questions() -> Vec<Question> {
    let customer = || CustomerId::parse("acme").ok();
    let credential = || CredentialId::parse("realsync.main").ok();
    let mut questions = Vec::new();
    for action in Action::ALL {
        for kind in [None, Some(Kind::Password)] {
            for (customer, credential) in
                [(None, None), (customer(), None), (None, credential()), (customer(), credential())]
            {
                questions.extend(Question::new(*action, customer, credential, kind));
            }
        }
    }
    questions
}

#[test]
fn each_action_is_asked_in_one_form_or_two() {
    let forms = |action: Action| questions().iter().filter(|question| question.action() == action).count();
    for action in Action::ALL {
        let wanted = if action.target() == Target::CustomerOrAll { 2 } else { 1 };
        assert_eq!(forms(*action), wanted, "{action}");
    }
    let told = Question::new(Action::GetCredential, None, None, None).unwrap_err().to_string();
    assert!(told.starts_with("GetCredential is asked of a customer's credential"), "{told}");
}

#[test]
fn each_action_has_an_ask_and_each_ask_the_form_of_its_action() {
    let on = || credential("acme", "realsync.main");
    let acme = || CustomerId::parse("acme").unwrap();
    let asks: Vec<Box<dyn Ask>> = vec![
        Box::new(EncryptCredential { id: on(), kind: Kind::Password }),
        Box::new(DecryptCredential { id: on(), view: View::Access }),
        Box::new(DecryptCredential { id: on(), view: View::Full }),
        Box::new(GetCredential(on())),
        Box::new(ListCredentials(None)),
        Box::new(ListCredentials(Some(acme()))),
        Box::new(DeleteCredential(on())),
        Box::new(AcquireRefresh(on())),
        Box::new(CompleteRefresh(on())),
        Box::new(AbandonRefresh(on())),
        Box::new(MarkNeedsReauth(on())),
        Box::new(CreateCustomer(acme())),
        Box::new(GetCustomer(acme())),
        Box::new(ListCustomers(AllCustomers)),
        Box::new(DisableCustomer(acme())),
        Box::new(EnableCustomer(acme())),
        Box::new(DestroyCustomer(acme())),
        Box::new(RestoreCustomer(acme())),
        Box::new(RotateCustomerKey(acme())),
        Box::new(StartCustomerKeyRotation(None)),
        Box::new(StartCustomerKeyRotation(Some(acme()))),
        Box::new(StartRewrap(None)),
        Box::new(StartRewrap(Some(acme()))),
        Box::new(StartReencryption(None)),
        Box::new(StartReencryption(Some(acme()))),
        Box::new(GetJob(AllCustomers)),
        Box::new(ListJobs(AllCustomers)),
        Box::new(CancelJob(AllCustomers)),
        Box::new(RetireCustomerKeyVersion(acme())),
        Box::new(ListReplicas(AllCustomers)),
    ];
    let asked: Vec<_> = asks.iter().map(|ask| ask.question()).collect();
    assert_eq!(asked, questions());
}

#[test]
fn a_permit_says_who_may_do_what() {
    let access = Access::of(policies(ANN_READS_HERS));
    let permit = access.permit(&caller("ann"), read("ann.crm")).unwrap();
    assert_eq!((permit.caller(), &permit.asked().id), (&caller("ann"), &credential("acme", "ann.crm")));

    for (who, what) in [("ann", read("bob.crm")), ("bob", read("ann.crm")), ("eve", read("ann.crm"))] {
        let wanted = what.question();
        let denied = access.permit(&caller(who), what).unwrap_err();
        assert_eq!(denied.question, wanted);
        assert_eq!(denied.to_string(), "policy does not permit this", "the same for each refusal");
    }
}

#[test]
fn a_list_shows_what_may_be_seen_one_by_one() {
    let access = Access::of(policies(
        "@id(\"list\")\npermit (principal, action == Action::\"ListCredentials\", resource);\n\
         @id(\"get\")\npermit (principal == Caller::\"ann\", action == Action::\"GetCredential\", resource)\n\
         when { context.credential_id like \"ann.*\" };",
    ));
    let list = access.permit(&caller("ann"), ListCredentials(None)).unwrap();
    assert!(access.shows(&list, &GetCredential(credential("acme", "ann.crm"))));
    assert!(!access.shows(&list, &GetCredential(credential("acme", "bob.crm"))));
    let list = access.permit(&caller("bob"), ListCredentials(None)).unwrap();
    assert!(!access.shows(&list, &GetCredential(credential("acme", "ann.crm"))));
}

#[test]
fn without_tls_the_one_caller_may_do_everything_and_no_other_anything() {
    let access = Access::development().unwrap();
    for question in questions() {
        assert!(access.decide(&Caller::insecure_plaintext(), &question), "{question:?}");
        for other in ["", "insecure:", "spiffe://datasert.com/realtask", "insecure:plaintext "] {
            assert!(!access.decide(&caller(other), &question), "{other:?}: {question:?}");
        }
    }
}

#[test]
fn a_decision_ends_with_its_set() {
    let access = Access::of(policies(ANN_READS_HERS));
    let decided = |id: &str| access.permit(&caller("ann"), read(id)).is_ok();
    let both = || [decided("ann.crm"), decided("bob.crm")];
    assert_eq!([both(), both()], [[true, false]; 2], "asked, and remembered");

    access.replace(policies(&ANN_READS_HERS.replace("ann.*", "bob.*")));
    assert_eq!([both(), both()], [[false, true]; 2]);
    assert_eq!(access.in_force().generation, 2);
}

#[test]
fn decisions_are_bounded() {
    let access = Access::of(policies(EVERYTHING));
    for number in 0..MAX_DECISIONS + 5_000 {
        assert!(access.permit(&caller("ann"), read(&format!("id-{number}"))).is_ok());
    }
    let kept = access.in_force().decisions.len();
    assert!((1_000..=MAX_DECISIONS).contains(&kept), "{kept}");
}

/// Policies that tell apart each input of a decision.
const TELLING: &str = r#"
    @id("caller") permit (principal == Caller::"ann", action == Action::"GetCredential", resource);
    @id("action") permit (principal, action == Action::"DeleteCredential", resource);
    @id("customer") permit (principal, action, resource == Customer::"b");
    @id("all") permit (principal, action in [Action::"ListCredentials", Action::"ListJobs"], resource == AllCustomers::"*");
    @id("credential") permit (principal, action == Action::"DecryptFull", resource) when { context.credential_id == "b" };
    @id("kind") permit (principal, action == Action::"EncryptCredential", resource) when { context.kind == "password" };
    @id("not") forbid (principal in Team::"team", action == Action::"EncryptCredential", resource)
        when { context.credential_id == "c" };
    @id("fails") forbid (principal == Caller::"bob", action == Action::"MarkNeedsReauth", resource)
        when { context.credential_id == "c" && 9223372036854775807 + 1 > 0 };
"#;

/// Every question about three customers and three credentials, and who asks it.
fn asked() -> Vec<(&'static str, Question)> {
    let ids = [None, Some("a"), Some("b"), Some("c")];
    let kinds = [None, Some(Kind::SalesforceOAuth), Some(Kind::Password)];
    let mut asked = Vec::new();
    for action in Action::ALL {
        for (customer, credential) in ids.iter().flat_map(|customer| ids.map(|credential| (customer, credential))) {
            for (kind, who) in kinds.iter().flat_map(|kind| ["ann", "bob", "eve"].map(|who| (kind, who))) {
                let customer = customer.map(|id| CustomerId::parse(id).unwrap());
                let credential = credential.map(|id| CredentialId::parse(id).unwrap());
                asked.extend(Question::new(*action, customer, credential, *kind).map(|question| (who, question)));
            }
        }
    }
    asked
}

proptest! {
    // Few and long: each reads its set anew.
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn a_remembered_decision_is_the_one_that_would_be_made(
        asked in proptest::collection::vec(proptest::sample::select(asked()), 1..1_000)
    ) {
        let access = Access::of(policies(TELLING));
        for (who, question) in asked.iter().chain(&asked) {
            let anew = access.in_force().policies.decide(&caller(who), question).unwrap_or(false);
            prop_assert_eq!(access.decide(&caller(who), question), anew, "{} {:?}", who, question);
        }
        let distinct: std::collections::HashSet<_> = asked.iter().collect();
        prop_assert_eq!(access.in_force().decisions.len(), distinct.len(), "each is remembered");
    }
}
