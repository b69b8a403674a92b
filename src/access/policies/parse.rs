//! A set of policies from its texts: all that is wrong with it is found here, before anything is asked of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cedar_policy::ffi::DetailedError;
use cedar_policy::{
    Authorizer, Entities, Entity, EntityUid, Policy, PolicyId, PolicySet, Schema, ValidationError, ValidationMode,
    Validator,
};

use super::{Names, Place, Policies, PolicyError, Problem, uid};
use crate::access::asks::{Action, Question, Target};
use crate::access::texts::{ENTITIES, SCHEMA, Text, Texts};
use crate::ids::{CredentialId, CustomerId};
use crate::secret::Kind;

/// A set has at most so many policies. Each costs a decision about a microsecond, and a page of a list may take 1,000 decisions.
const MAX_POLICIES: usize = 250;
/// And at most so many callers and teams.
const MAX_ENTITIES: usize = 10_000;

impl Policies {
    /// Reads a set.
    ///
    /// # Errors
    /// [`PolicyError`] with everything that is wrong, as far as one fault does not hide another.
    pub(in crate::access) fn parse(texts: &Texts) -> Result<Self, PolicyError> {
        let names = Names::new()?;
        let (schema, mut notes) = parse_schema(&texts.schema, &names)?;
        let mut problems = Vec::new();
        let (set, places) = parse_policies(&texts.policies, &mut problems);
        let entities = parse_entities(&texts.entities, &schema, &names).map_err(|problem| problems.push(problem)).ok();
        if let Some(entities) = &entities {
            problems.extend(unlisted(&schema, &set, &places, entities));
        }
        let (wrong, odd) = validate(&schema, &set, &places, &texts.policies);
        problems.extend(wrong);
        notes.extend(odd);
        match entities {
            Some(entities) if problems.is_empty() => {
                let (callers, notes) = (callers(&entities, &names), in_order(notes));
                Ok(Self { schema, set, entities, authorizer: Authorizer::new(), callers, names, places, notes })
            }
            Some(_) | None => Err(PolicyError(in_order(problems))),
        }
    }
}

/// The schema, and what is odd about it.
fn parse_schema(text: &Text, names: &Names) -> Result<(Schema, Vec<Problem>), PolicyError> {
    let (schema, warnings) =
        Schema::from_cedarschema_str(&text.content).map_err(|error| located(Some(text), &error))?;
    let about = |what: String| Problem::about(SCHEMA, None, what);
    let misfits: Vec<_> = Action::ALL.iter().filter_map(|action| misfit(*action, &schema, names)).map(about).collect();
    if !misfits.is_empty() {
        // All else would follow from these.
        return Err(PolicyError(misfits));
    }
    // A newer release's schema may have more. An action that is no release's is misspelt.
    let groups: BTreeSet<_> = schema.action_groups().collect();
    let is_known = |id: &str| Action::ALL.iter().any(|action| action.as_str() == id);
    let unknown = schema.actions().filter(|action| !groups.contains(action) && !is_known(action.id().unescaped()));
    let unknown = unknown.map(|action| about(format!("this release has no {action}: nothing is ever asked of it")));
    let notes = unknown.chain(warnings.map(|warning| located(Some(text), &warning))).collect();
    Ok((schema, notes))
}

/// Why the schema does not take a question that this release asks.
fn misfit(action: Action, schema: &Schema, names: &Names) -> Option<String> {
    let customer = || CustomerId::parse("sample").ok();
    let credential = || CredentialId::parse("sample").ok();
    let samples = match action.target() {
        Target::Credential => vec![Question::new(action, customer(), credential(), None)],
        Target::CredentialOfKind => vec![Question::new(action, customer(), credential(), Some(Kind::Opaque))],
        Target::Customer => vec![Question::new(action, customer(), None, None)],
        Target::CustomerOrAll => {
            vec![Question::new(action, customer(), None, None), Question::new(action, None, None, None)]
        }
        Target::All => vec![Question::new(action, None, None, None)],
    };
    let caller = uid(&names.caller, "sample");
    let refused = samples.into_iter().flatten().find_map(|sample| names.request(caller.clone(), &sample, schema).err());
    refused.map(|why| format!("is not this release's, which stands in its deploy/policy: {action}: {why}"))
}

/// The policies of all files, each under its `@id`, and where they stand.
fn parse_policies(texts: &[Text], problems: &mut Vec<Problem>) -> (PolicySet, BTreeMap<PolicyId, Place>) {
    let (mut set, mut places) = (PolicySet::new(), BTreeMap::<PolicyId, Place>::new());
    for text in texts {
        let parsed = match text.content.parse::<PolicySet>() {
            Ok(parsed) => parsed,
            Err(errors) => {
                problems.extend(errors.iter().map(|error| located(Some(text), error)));
                continue;
            }
        };
        let mut complain = |line, what: String| problems.push(Problem::about(&text.name, line, what));
        if parsed.num_of_templates() > 0 {
            complain(None, "has a template (`?principal` or `?resource`), which nothing links: name them".to_owned());
        }
        for (policy, line) in with_lines(&parsed, &text.content) {
            let place = Place { file: text.name.clone(), line };
            // One without a name of its own is looked at all the same.
            let mut id = PolicyId::new(format!("{}:{line}", text.name));
            match policy.annotation("id").filter(|id| !id.is_empty()).map(PolicyId::new) {
                None => complain(Some(line), "the policy has no @id(\"…\") to be named by".to_owned()),
                Some(taken) if places.contains_key(&taken) => {
                    let by = places.get(&taken).map(|place| format!("{}:{}", place.file, place.line));
                    complain(Some(line), format!("@id(\"{taken}\") is taken by {}", by.unwrap_or_default()));
                }
                Some(own) => id = own,
            }
            if places.len() == MAX_POLICIES {
                complain(Some(line), format!("there are more than {MAX_POLICIES} policies"));
                return (set, places);
            }
            match set.add(policy.new_id(id.clone())) {
                Ok(()) => drop(places.insert(id, place)),
                Err(error) => complain(Some(line), error.to_string()),
            }
        }
    }
    (set, places)
}

/// The policies of one text in their order, each with the line on which it starts.
fn with_lines<'a>(parsed: &'a PolicySet, text: &str) -> Vec<(&'a Policy, usize)> {
    let mut from = 0;
    let line = |policy: &'a Policy| {
        // Cedar keeps each policy's own octets.
        let own = policy.to_cedar().unwrap_or_default();
        let start = text.get(from..).and_then(|rest| rest.find(&own)).map_or(from, |at| from + at);
        from = start + own.len();
        (policy, line_of(text, start))
    };
    parsed.policies().map(line).collect()
}

fn parse_entities(text: &Text, schema: &Schema, names: &Names) -> Result<Entities, Problem> {
    let entities = Entities::from_json_str(&text.content, Some(schema)).map_err(|error| located(Some(text), &error))?;
    // The schema's actions are among them.
    let listed = entities.iter().filter(|entity| *entity.uid().type_name() != names.action).count();
    if listed > MAX_ENTITIES {
        return Err(Problem::about(&text.name, None, format!("lists more than {MAX_ENTITIES} callers and teams")));
    }
    Ok(entities)
}

fn callers(entities: &Entities, names: &Names) -> HashMap<String, EntityUid> {
    let callers = entities.iter().map(Entity::uid).filter(|uid| *uid.type_name() == names.caller);
    callers.map(|uid| (uid.id().unescaped().to_owned(), uid)).collect()
}

/// Callers and teams that a policy names and the entities do not: misspelt, most often, and then a `forbid` for nobody.
fn unlisted(schema: &Schema, set: &PolicySet, places: &BTreeMap<PolicyId, Place>, entities: &Entities) -> Vec<Problem> {
    let listed: BTreeSet<_> = entities.iter().map(Entity::uid).collect();
    let above: BTreeSet<_> = listed.iter().filter_map(|uid| entities.ancestors(uid)).flatten().collect();
    // Customers are the store's, and validation knows what the schema has all of, or nothing.
    let types = schema.entity_types().filter(|name| !["Customer", "AllCustomers"].contains(&name.basename()));
    let types: BTreeSet<_> = types.collect();
    let unlisted = |uid: &&EntityUid| types.contains(uid.type_name()) && !listed.contains(uid) && !above.contains(uid);
    let mut problems = Vec::new();
    for policy in set.policies() {
        let named: BTreeSet<_> = policy.entity_literals().into_iter().collect();
        for uid in named.iter().filter(unlisted) {
            let place = places.get(policy.id());
            let file = place.map(|place| place.file.clone()).unwrap_or_default();
            let what = format!("for policy `{}`, {ENTITIES} does not list {uid}", policy.id());
            problems.push(Problem::about(file, place.map(|place| place.line), what));
        }
    }
    problems
}

/// What strict validation finds wrong, and what it finds odd.
fn validate(
    schema: &Schema,
    set: &PolicySet,
    places: &BTreeMap<PolicyId, Place>,
    texts: &[Text],
) -> (Vec<Problem>, Vec<Problem>) {
    let found = Validator::new(schema.clone()).validate(set, ValidationMode::Strict);
    let text_of = |id: &PolicyId| {
        let file = places.get(id).map(|place| place.file.as_str());
        texts.iter().find(|text| Some(text.name.as_str()) == file)
    };
    // A name that the schema does not have stands for anything, and so nothing that is done with it is right.
    let is_name = |error: &&ValidationError| {
        matches!(error, ValidationError::UnrecognizedEntityType(_) | ValidationError::UnrecognizedActionId(_))
    };
    let misnamed: BTreeSet<_> = found.validation_errors().filter(is_name).map(ValidationError::policy_id).collect();
    let errors = found.validation_errors().filter(|error| is_name(error) || !misnamed.contains(error.policy_id()));
    let wrong = errors.map(|error| located(text_of(error.policy_id()), error)).collect();
    let odd = found.validation_warnings().map(|warning| located(text_of(warning.policy_id()), warning)).collect();
    (wrong, odd)
}

/// In order, and one for each line: one mistake makes many.
fn in_order(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort_by(|a, b| (&a.file, a.line, &a.text).cmp(&(&b.file, b.line, &b.text)));
    problems.dedup_by(|a, b| a.line.is_some() && (&a.file, a.line) == (&b.file, b.line));
    problems
}

/// A finding of Cedar's: its text, its advice, and the line that it points to.
fn located<E>(text: Option<&Text>, error: &E) -> Problem
where
    DetailedError: for<'a> From<&'a E>,
{
    let found = DetailedError::from(error);
    let start = found.source_locations.first().map(|label| label.loc.start);
    Problem {
        file: text.map(|text| text.name.clone()).unwrap_or_default(),
        line: text.zip(start).map(|(text, start)| line_of(&text.content, start)),
        text: match found.help {
            Some(help) => format!("{}: {help}", found.message),
            None => found.message,
        },
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or_default();
    before.iter().filter(|octet| **octet == b'\n').count() + 1
}
