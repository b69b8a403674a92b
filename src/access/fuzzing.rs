//! Sets of policies from any texts.

use super::asks::{Action, Question};
use super::policies::{Policies, PolicyError, Why};
use super::texts::{ENTITIES, SCHEMA, Text, Texts};
use crate::ids::{Caller, CredentialId, CustomerId};

/// Policies, and after a NUL the callers and teams. Whatever is read, nobody may do anything without a `permit`, nor whom the entities do
/// not list; and what is explained is what is decided.
pub fn policy(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    let Ok(set) = read(text) else { return };
    let (policies, entities) = split(text);
    // Without the escapes that JSON may have.
    let listed = serde_json::from_str::<serde_json::Value>(entities).map(|json| json.to_string()).unwrap_or_default();
    let (customer, credential) = (CustomerId::parse("acme").ok(), CredentialId::parse("realsync.crm").ok());
    for action in [Action::DecryptFull, Action::GetCredential] {
        let Ok(question) = Question::new(action, customer.clone(), credential.clone(), None) else { continue };
        for name in ["spiffe://datasert.com/realsync", "spiffe://datasert.com/nobody-lists-this-one"] {
            let caller = Caller::new(name);
            let (decided, why) = (set.decide(&caller, &question), set.explain(&caller, &question));
            assert_eq!(decided.clone().ok(), is_permitted(&why), "an explanation is of another decision");
            let may = decided == Ok(true);
            assert!(!may || policies.contains("permit"), "something is permitted that no policy permits");
            assert!(!may || listed.contains(name), "a caller may do something whom the entities do not list");
        }
    }
}

fn split(text: &str) -> (&str, &str) {
    text.split_once('\0').unwrap_or((text, include_str!("../../deploy/policy/entities.json")))
}

fn read(text: &str) -> Result<Policies, PolicyError> {
    let (policies, entities) = split(text);
    let text = |name: &str, content: &str| Text { name: name.to_owned(), content: content.to_owned() };
    Policies::parse(&Texts {
        schema: text(SCHEMA, include_str!("../../deploy/policy/triseal.cedarschema")),
        entities: text(ENTITIES, entities),
        policies: vec![text("fuzzing.cedar", policies)],
    })
}

fn is_permitted(why: &Why) -> Option<bool> {
    match why {
        Why::Permitted(_) => Some(true),
        Why::Forbidden(_) | Why::NothingPermits | Why::UnknownCaller => Some(false),
        Why::Failed(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::tests::seed;

    #[test]
    fn seeds_of_policies_are_what_their_names_say() {
        let full = |set: &Policies| {
            let customer = CustomerId::parse("acme").ok();
            let credential = CredentialId::parse("realsync.crm").ok();
            let question = Question::new(Action::DecryptFull, customer, credential, None).unwrap();
            set.decide(&Caller::new("spiffe://datasert.com/realsync"), &question)
        };
        let read = |name| read(&String::from_utf8(seed("policy", name)).unwrap()).map(|set| full(&set));
        assert_eq!(read("permit"), Ok(Ok(true)));
        assert_eq!(read("entities"), Ok(Ok(true)));
        assert_eq!(read("permit-and-forbid"), Ok(Ok(false)));
        assert_eq!(read("forbid-all"), Ok(Ok(false)));
        for name in ["no-entities", "template", "no-id", "unknown-team"] {
            read(name).unwrap_err();
        }
    }
}
