//! Holds the envelope to the vectors that another implementation made (`tests/vectors/reference.py`): every case is
//! derived, sealed and opened to the octet, and every forgery is refused with exactly its verdict.
//!
//! The vectors are `tests/vectors/envelope-v1.json`, or the file that `TRISEAL_VECTORS` names: so freshly made ones can
//! be run as well, `reference.py make 1000 "$RANDOM" > fresh.json`.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Value, json};
use triseal::crypto::vectors::insecure_derived;
use triseal::crypto::{
    Context, Envelope, Key, Lineage, Malformed, NotAuthentic, Plaintext, Root, Salt, Version, combine, open, seal,
};
use zeroize::Zeroizing;

const FORMAT: &str = "triseal envelope v1";
const FROZEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/envelope-v1.json");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: String,
    cases: Vec<Case>,
    refused: Vec<Refusal>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    keys: Keys,
    versions: Versions,
    context: Fields,
    salt: String,
    plaintext: String,
    derived: Derived,
    envelope: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    codebase: String,
    environment: String,
    customer: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Versions {
    codebase: u32,
    environment: u32,
    customer: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    deployment: String,
    customer_id: String,
    credential_id: String,
    kind: String,
    revision: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Derived {
    root: String,
    binding: String,
    commitment: String,
    key: String,
    nonce: String,
}

/// A forgery: the keys and the context are those of its case, but for what it changes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refusal {
    name: String,
    case: String,
    envelope: String,
    #[serde(default)]
    keys: SomeKeys,
    #[serde(default)]
    context: SomeFields,
    verdict: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SomeKeys {
    codebase: Option<String>,
    environment: Option<String>,
    customer: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SomeFields {
    deployment: Option<String>,
    customer_id: Option<String>,
    credential_id: Option<String>,
    kind: Option<String>,
    revision: Option<u64>,
}

#[test]
fn the_vectors_hold() {
    #[expect(clippy::disallowed_methods, reason = "a test's own input, and no setting of the service")]
    let path = std::env::var("TRISEAL_VECTORS").unwrap_or_else(|_| FROZEN.to_owned());
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    match check(&text) {
        Ok((cases, refusals)) => println!("{path}: {cases} cases sealed and opened, {refusals} refused"),
        Err(failures) => panic!("{path}: {} failures\n{}", failures.len(), failures.join("\n")),
    }
}

/// Each change to the frozen vectors is noticed, and blamed on the case that was changed.
#[test]
fn a_changed_vector_fails() {
    let frozen: Value = serde_json::from_str(&std::fs::read_to_string(FROZEN).unwrap()).unwrap();
    // Enough for the purpose: one case and its forgeries, which are the quickest to run.
    let name = frozen["cases"][0]["name"].clone();
    let refusals = frozen["refused"].as_array().unwrap().iter().filter(|refusal| refusal["case"] == name);
    let good = json!({ "format": FORMAT, "cases": [frozen["cases"][0]], "refused": refusals.collect::<Vec<_>>() });
    check(&good.to_string()).unwrap();

    let at = |verdict: &str| {
        let of_verdict = |refusal: &Value| refusal["verdict"] == verdict;
        format!("/refused/{}", good["refused"].as_array().unwrap().iter().position(of_verdict).unwrap())
    };
    let (malformed, not_authentic) = (at("malformed"), at("not authentic"));
    let changes = [
        ("/cases/0/keys/codebase", json!("00".repeat(32)), "case-0-0-octets"),
        ("/cases/0/versions/customer", json!(77), "case-0-0-octets"),
        ("/cases/0/versions/customer", json!(0), "case-0-0-octets"),
        ("/cases/0/context/revision", json!(77), "case-0-0-octets"),
        ("/cases/0/context/revision", json!(0), "case-0-0-octets"),
        ("/cases/0/salt", json!("00".repeat(32)), "case-0-0-octets"),
        ("/cases/0/plaintext", json!("00"), "case-0-0-octets: sealing"),
        ("/cases/0/plaintext", json!("no hex"), "case-0-0-octets: plaintext"),
        ("/cases/0/derived/root", json!("00".repeat(32)), "case-0-0-octets: root"),
        ("/cases/0/derived/binding", json!("00".repeat(32)), "case-0-0-octets: binding"),
        ("/cases/0/derived/commitment", json!("00".repeat(32)), "case-0-0-octets: commitment"),
        ("/cases/0/derived/key", json!("00".repeat(32)), "case-0-0-octets: key"),
        ("/cases/0/derived/nonce", json!("00".repeat(12)), "case-0-0-octets: nonce"),
        ("/cases/0/envelope", json!("00".repeat(160)), "case-0-0-octets: sealing"),
        (&format!("{malformed}/verdict"), json!("not authentic"), "case-0-0-octets, empty: malformed"),
        (&format!("{not_authentic}/verdict"), json!("malformed"), "not authentic, and should be malformed"),
        (&format!("{not_authentic}/envelope"), good["cases"][0]["envelope"].clone(), "opened, and should be"),
        (&format!("{malformed}/case"), json!("unheard of"), "unheard of"),
        ("/cases", json!([]), "no cases"),
        ("/format", json!("triseal envelope v2"), "format"),
    ];
    for (pointer, value, expected) in changes {
        let mut changed = good.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        let failures = check(&changed.to_string()).expect_err(pointer).join("\n");
        assert!(failures.contains(expected), "{pointer}: {failures}");
    }
    check("{}").unwrap_err();
}

/// How many cases and refusals held, or every failure.
fn check(text: &str) -> Result<(usize, usize), Vec<String>> {
    let document: Document = serde_json::from_str(text).map_err(|error| vec![error.to_string()])?;
    if document.format != FORMAT {
        return Err(vec![format!("the format is {:?}, and should be {FORMAT:?}", document.format)]);
    }
    if document.cases.is_empty() {
        return Err(vec!["there are no cases".to_owned()]);
    }
    let by_name: HashMap<&str, &Case> = document.cases.iter().map(|case| (case.name.as_str(), case)).collect();
    let mut failures = Vec::new();
    if by_name.len() != document.cases.len() {
        failures.push("two cases have one name".to_owned());
    }
    for case in &document.cases {
        failures.extend(check_case(case).err().map(|failure| format!("{}: {failure}", case.name)));
    }
    for refusal in &document.refused {
        let result = match by_name.get(refusal.case.as_str()) {
            Some(case) => check_refusal(case, refusal),
            None => Err("there is no such case".to_owned()),
        };
        failures.extend(result.err().map(|failure| format!("{}, {}: {failure}", refusal.case, refusal.name)));
    }
    if failures.is_empty() { Ok((document.cases.len(), document.refused.len())) } else { Err(failures) }
}

fn check_case(case: &Case) -> Result<(), String> {
    let root = root(&case.keys.codebase, &case.keys.environment, &case.keys.customer)?;
    let version = |number| Version::new(number).ok_or("a version is 0");
    let lineage = Lineage {
        codebase: version(case.versions.codebase)?,
        environment: version(case.versions.environment)?,
        customer: version(case.versions.customer)?,
    };
    let Fields { deployment, customer_id, credential_id, kind, revision } = &case.context;
    let context = context(deployment, customer_id, credential_id, kind, *revision)?;
    let salt: [u8; 32] = octets("salt", &case.salt)?;

    let derived = insecure_derived(&root, lineage, &salt, &context);
    let steps: [(&str, &[u8], &str); 5] = [
        ("root", &derived.root, &case.derived.root),
        ("binding", &derived.binding, &case.derived.binding),
        ("commitment", &derived.commitment, &case.derived.commitment),
        ("key", &derived.key, &case.derived.key),
        ("nonce", &derived.nonce, &case.derived.nonce),
    ];
    for (step, ours, theirs) in steps {
        same(step, ours, theirs)?;
    }

    let text = Zeroizing::new(any_octets("plaintext", &case.plaintext)?);
    let plaintext = Plaintext::new(text).map_err(|error| error.to_string())?;
    let sealed = seal(&root, lineage, &context, Salt::new(salt), &plaintext).map_err(|error| error.to_string())?;
    same("sealing", sealed.as_octets(), &case.envelope)?;

    let envelope = Envelope::parse(any_octets("envelope", &case.envelope)?).map_err(|error| error.to_string())?;
    if envelope.lineage() != lineage {
        return Err(format!("parsing made the lineage {:?}", envelope.lineage()));
    }
    let opened = open(&root, &context, &envelope).map_err(|error| error.to_string())?;
    same("opening", opened.expose_secret(), &case.plaintext)
}

fn check_refusal(case: &Case, refusal: &Refusal) -> Result<(), String> {
    let (keys, fields) = (&refusal.keys, &refusal.context);
    let root = root(
        keys.codebase.as_ref().unwrap_or(&case.keys.codebase),
        keys.environment.as_ref().unwrap_or(&case.keys.environment),
        keys.customer.as_ref().unwrap_or(&case.keys.customer),
    )?;
    let context = context(
        fields.deployment.as_ref().unwrap_or(&case.context.deployment),
        fields.customer_id.as_ref().unwrap_or(&case.context.customer_id),
        fields.credential_id.as_ref().unwrap_or(&case.context.credential_id),
        fields.kind.as_ref().unwrap_or(&case.context.kind),
        fields.revision.unwrap_or(case.context.revision),
    )?;
    let verdict = match Envelope::parse(any_octets("envelope", &refusal.envelope)?) {
        Err(Malformed) => "malformed",
        Ok(envelope) => match open(&root, &context, &envelope) {
            Err(NotAuthentic) => "not authentic",
            Ok(_) => "opened",
        },
    };
    if verdict == refusal.verdict { Ok(()) } else { Err(format!("{verdict}, and should be {}", refusal.verdict)) }
}

fn root(codebase: &str, environment: &str, customer: &str) -> Result<Root, String> {
    fn key<F>(name: &str, text: &str) -> Result<Key<F>, String> {
        Ok(Key::new(Zeroizing::new(octets(name, text)?)))
    }
    let (codebase, environment) = (key("codebase", codebase)?, key("environment", environment)?);
    Ok(combine(&codebase, &environment, key("customer", customer)?))
}

fn context<'a>(
    deployment: &'a str,
    customer: &'a str,
    credential: &'a str,
    kind: &'a str,
    revision: u64,
) -> Result<Context<'a>, String> {
    Context::new(deployment, customer, credential, kind, revision).map_err(|error| error.to_string())
}

fn any_octets(name: &str, text: &str) -> Result<Vec<u8>, String> {
    hex::decode(text).map_err(|error| format!("{name}: {error}"))
}

fn octets<const N: usize>(name: &str, text: &str) -> Result<[u8; N], String> {
    any_octets(name, text)?.try_into().map_err(|_| format!("{name}: not of {N} octets"))
}

fn same(step: &str, ours: &[u8], theirs: &str) -> Result<(), String> {
    let ours = hex::encode(ours);
    if ours == theirs { Ok(()) } else { Err(format!("{step} made {ours:.80}, and should make {theirs:.80}")) }
}
