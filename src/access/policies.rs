//! One set of Cedar policies, checked as a whole, and what it answers. Only this file and `parse` know Cedar; they know neither
//! where the texts come from nor that there are other sets before and after it.
//!
//! Cedar's own default is to deny, and to leave out a policy that fails while it is evaluated. Here such a failure denies, since the
//! policy left out may be the one that forbids; and so does a caller that the entities do not list.

mod parse;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use cedar_policy::{
    Authorizer, Context, Decision, Entities, EntityId, EntityTypeName, EntityUid, PolicyId, PolicySet, Request,
    Response, RestrictedExpression, Schema,
};

use super::asks::Question;
use crate::ids::Caller;

/// Something that is wrong with a policy directory, or worth a look, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file's name, or the directory's path.
    pub file: String,
    /// Counted from 1, where it is known.
    pub line: Option<usize>,
    /// What it is, and perhaps what to do.
    pub text: String,
}

impl Problem {
    pub(super) fn about(file: impl Into<String>, line: Option<usize>, text: impl fmt::Display) -> Self {
        Self { file: file.into(), line, text: text.to_string() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.text),
            None => write!(f, "{}: {}", self.file, self.text),
        }
    }
}

/// The set can't be used. All that was found is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("; "))]
pub struct PolicyError(pub Vec<Problem>);

impl From<Problem> for PolicyError {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

/// A set of policies that was validated against its schema, and that schema against this release.
pub struct Policies {
    schema: Schema,
    set: PolicySet,
    entities: Entities,
    authorizer: Authorizer,
    /// The callers that the entities list.
    callers: HashMap<String, EntityUid>,
    names: Names,
    places: BTreeMap<PolicyId, Place>,
    notes: Vec<Problem>,
}

/// Where a policy stands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    file: String,
    line: usize,
}

/// A decision, with what led to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// These policies permit it.
    Permitted(Vec<Reason>),
    /// These forbid it.
    Forbidden(Vec<Reason>),
    /// None permits it.
    NothingPermits,
    /// The entities do not list the caller.
    UnknownCaller,
    /// This failed.
    Failed(String),
}

/// A policy that decided something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Its `@id`.
    pub id: String,
    /// Where it stands.
    pub file: String,
    /// Where it starts.
    pub line: usize,
}

/// What stands in a set, to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The files with policies, and how many each has.
    pub files: Vec<(String, usize)>,
    /// The teams, each with its callers.
    pub teams: Vec<(String, Vec<String>)>,
    /// Callers that are in no team.
    pub teamless: Vec<String>,
    /// What is worth a look.
    pub notes: Vec<Problem>,
}

impl Policies {
    /// Decides a question.
    ///
    /// # Errors
    /// What failed while it was evaluated: a refusal, and a fault of the set.
    pub(super) fn decide(&self, caller: &Caller, question: &Question) -> Result<bool, String> {
        self.evaluate(caller, question)?.as_ref().map_or(Ok(false), verdict)
    }

    /// Decides a question, and tells which policies did.
    pub fn explain(&self, caller: &Caller, question: &Question) -> Why {
        let response = match self.evaluate(caller, question) {
            Ok(Some(response)) => response,
            Ok(None) => return Why::UnknownCaller,
            Err(fault) => return Why::Failed(fault),
        };
        let mut reasons: Vec<_> = response.diagnostics().reason().map(|id| self.reason(id)).collect();
        reasons.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        match verdict(&response) {
            Ok(true) => Why::Permitted(reasons),
            Ok(false) if reasons.is_empty() => Why::NothingPermits,
            Ok(false) => Why::Forbidden(reasons),
            Err(fault) => Why::Failed(fault),
        }
    }

    /// What stands in the set.
    pub fn contents(&self) -> Contents {
        let mut files = BTreeMap::<_, usize>::new();
        for place in self.places.values() {
            *files.entry(place.file.clone()).or_default() += 1;
        }
        let mut teams = BTreeMap::<_, Vec<_>>::new();
        let mut teamless = Vec::new();
        let callers: BTreeMap<_, _> = self.callers.iter().collect();
        for (id, uid) in callers {
            let of: BTreeSet<_> = self.entities.ancestors(uid).into_iter().flatten().collect();
            for team in &of {
                teams.entry(team.id().unescaped().to_owned()).or_default().push(id.clone());
            }
            if of.is_empty() {
                teamless.push(id.clone());
            }
        }
        Contents {
            files: files.into_iter().collect(),
            teams: teams.into_iter().collect(),
            teamless,
            notes: self.notes.clone(),
        }
    }

    /// How many policies and callers it has.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.set.num_of_policies(), self.callers.len())
    }

    /// What Cedar answers; nothing about a caller that the entities do not list.
    fn evaluate(&self, caller: &Caller, question: &Question) -> Result<Option<Response>, String> {
        let Some(principal) = self.callers.get(caller.as_str()) else { return Ok(None) };
        let request = self.names.request(principal.clone(), question, &self.schema)?;
        Ok(Some(self.authorizer.is_authorized(&request, &self.set, &self.entities)))
    }

    fn reason(&self, id: &PolicyId) -> Reason {
        let place = self.places.get(id);
        Reason {
            id: id.to_string(),
            file: place.map(|place| place.file.clone()).unwrap_or_default(),
            line: place.map(|place| place.line).unwrap_or_default(),
        }
    }
}

fn verdict(response: &Response) -> Result<bool, String> {
    let faults: Vec<_> = response.diagnostics().errors().map(ToString::to_string).collect();
    match response.decision() {
        _ if !faults.is_empty() => Err(faults.join("; ")),
        Decision::Allow => Ok(true),
        Decision::Deny => Ok(false),
    }
}

// --- questions, as Cedar has them ---

/// The names of what a request consists of, made once.
struct Names {
    caller: EntityTypeName,
    action: EntityTypeName,
    customer: EntityTypeName,
    all_customers: EntityUid,
}

impl Names {
    fn new() -> Result<Self, PolicyError> {
        let name = |text: &str| text.parse::<EntityTypeName>().map_err(|error| Problem::about(text, None, error));
        Ok(Self {
            caller: name("Caller")?,
            action: name("Action")?,
            customer: name("Customer")?,
            all_customers: uid(&name("AllCustomers")?, "*"),
        })
    }

    /// The one place where a question becomes a request. The schema checks it, so that a policy meets what it was validated for.
    fn request(&self, principal: EntityUid, question: &Question, schema: &Schema) -> Result<Request, String> {
        let action = uid(&self.action, question.action().as_str());
        let resource = match question.customer() {
            Some(customer) => uid(&self.customer, customer.as_str()),
            None => self.all_customers.clone(),
        };
        let text = |name: &str, value: &str| (name.to_owned(), RestrictedExpression::new_string(value.to_owned()));
        let credential = question.credential().map(|credential| text("credential_id", credential.as_str()));
        let kind = question.kind().map(|kind| text("kind", kind.as_str()));
        let context = Context::from_pairs(credential.into_iter().chain(kind)).map_err(|error| error.to_string())?;
        Request::new(principal, action, resource, context, Some(schema)).map_err(|error| error.to_string())
    }
}

fn uid(of: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(of.clone(), EntityId::new(id))
}
