//! The policy that is delivered, `deploy/policy`: who may do what by it, and the commands that tell. The matrix in `docs/` is made
//! here; what must hold whatever it says stands here, too.

mod in_force;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use triseal::access::{Action, Policies, Question, Target, Why};
use triseal::ids::{Caller, CredentialId, CustomerId};
use triseal::secret::Kind;

use crate::support::{run, triseal};

const PRODUCTS: [&str; 3] = ["realsync", "realtask", "metasync"];
const LIFECYCLE: &str = "lifecycle";
const SECURITY: &str = "security";
/// Has a certificate, and is in no list.
const STRANGER: &str = "stranger";
/// Whose credentials there are: the products', all products', and somebody's that policy does not know.
const OWNERS: [&str; 5] = ["realsync", "realtask", "metasync", "shared", "other"];
/// What an id says of the kind: nothing for a Salesforce token.
const FORMS: [(&str, Kind); 3] =
    [("", Kind::SalesforceOAuth), ("password.", Kind::Password), ("opaque.", Kind::Opaque)];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn delivered() -> Policies {
    Policies::read(&root().join("deploy/policy")).unwrap()
}

fn spiffe(caller: &str) -> Caller {
    Caller::new(&format!("spiffe://datasert.com/{caller}"))
}

/// A question about all customers, one, or one's credential.
fn question(action: Action, customer: bool, credential: Option<&str>, kind: Option<Kind>) -> Question {
    let customer = customer.then(|| CustomerId::parse("acme").unwrap());
    let credential = credential.map(|id| CredentialId::parse(id).unwrap());
    Question::new(action, customer, credential, kind).unwrap()
}

fn may(policies: &Policies, caller: &str, question: &Question) -> bool {
    match policies.explain(&spiffe(caller), question) {
        Why::Permitted(reasons) => {
            assert!(!reasons.is_empty());
            true
        }
        Why::Forbidden(_) | Why::NothingPermits | Why::UnknownCaller => false,
        Why::Failed(fault) => panic!("{fault}"),
    }
}

// --- the matrix ---

const MATRIX: &str = "docs/POLICY_MATRIX.md";

#[test]
fn the_matrix_in_docs_is_what_the_policy_permits() {
    let matrix = matrix(&delivered());
    println!("{matrix}");
    let new = Path::new(env!("CARGO_TARGET_TMPDIR")).join("POLICY_MATRIX.md");
    fs::write(&new, &matrix).unwrap();
    assert!(
        fs::read_to_string(root().join(MATRIX)).is_ok_and(|kept| kept == matrix),
        "deploy/policy permits something else than {MATRIX} says. If that is meant: cp {} {MATRIX}",
        new.display()
    );
}

fn matrix(policies: &Policies) -> String {
    let callers: Vec<_> = PRODUCTS.into_iter().chain([LIFECYCLE, SECURITY, STRANGER]).collect();
    let mut text = "\
# Who may do what by deploy/policy

Made by a test, from the policy itself: `cargo test --test integration matrix` fails when the two differ, and says how to renew this.

Callers are `spiffe://datasert.com/NAME`; *stranger* has a certificate too, but is not in `entities.json`. `–` means nothing.

## Credentials

Which ids, for any customer. `realsync.*` are all that begin so; `realsync.main` stands for those that name a Salesforce token, and
`realsync.password.*` and `realsync.opaque.*` for those that name a password or an opaque secret.

"
    .to_owned();
    let mut row = |cells: Vec<String>| text += &format!("| {} |\n", cells.join(" | "));
    let heading = |row: &mut dyn FnMut(Vec<String>)| {
        row([vec!["action".to_owned()], callers.iter().map(ToString::to_string).collect()].concat());
        row(vec!["---".to_owned(); callers.len() + 1]);
    };
    heading(&mut row);
    for action in Action::ALL {
        let kinds: &[Option<Kind>] = match action.target() {
            Target::Credential => &[None],
            Target::CredentialOfKind => &Kind::ALL.map(Some),
            Target::Customer | Target::CustomerOrAll | Target::All => continue,
        };
        for kind in kinds {
            let name = kind.map_or(action.to_string(), |kind| format!("{action} of {}", kind.as_str()));
            let cell = |caller: &&str| ids(|id| may(policies, caller, &question(*action, true, Some(id), *kind)));
            row([vec![name], callers.iter().map(cell).collect()].concat());
        }
    }
    text += "\n## Customers and keys\n\n*Each* means any one customer, and *all* what goes through all of them at once.\n\n";
    let mut row = |cells: Vec<String>| text += &format!("| {} |\n", cells.join(" | "));
    heading(&mut row);
    for action in Action::ALL {
        let forms: &[(bool, &str)] = match action.target() {
            Target::Credential | Target::CredentialOfKind => continue,
            Target::Customer => &[(true, "each")],
            Target::CustomerOrAll => &[(true, "each"), (false, "all")],
            Target::All => &[(false, "all")],
        };
        let cell = |caller: &&str| {
            let permitted = forms.iter().filter(|(of, _)| may(policies, caller, &question(*action, *of, None, None)));
            let permitted: Vec<_> = permitted.map(|(_, name)| *name).collect();
            if permitted.is_empty() { "–".to_owned() } else { permitted.join(", ") }
        };
        row([vec![action.to_string()], callers.iter().map(cell).collect()].concat());
    }
    text + "\nA list shows what GetCredential or GetCustomer permits of its items, one by one.\n"
}

/// Which ids are permitted, in short.
fn ids(permitted: impl Fn(&str) -> bool) -> String {
    let mut cell = Vec::new();
    for owner in OWNERS {
        let of: Vec<_> = FORMS.iter().filter(|(form, _)| permitted(&format!("{owner}.{form}main"))).collect();
        if of.len() == FORMS.len() {
            cell.push(format!("`{owner}.*`"));
        } else {
            let short = |form: &str| if form.is_empty() { "main".to_owned() } else { format!("{form}*") };
            cell.extend(of.iter().map(|(form, _)| format!("`{owner}.{}`", short(form))));
        }
    }
    match cell.len() {
        0 => "–".to_owned(),
        all if all == OWNERS.len() && cell.iter().all(|of| of.ends_with(".*`")) => "any".to_owned(),
        _ => cell.join(" "),
    }
}

// --- what must hold whatever the matrix says ---

const SECRETS: [Action; 3] = [Action::DecryptAccess, Action::DecryptFull, Action::AcquireRefresh];
const USE: [Action; 6] = [
    Action::GetCredential,
    Action::DeleteCredential,
    Action::DecryptAccess,
    Action::AcquireRefresh,
    Action::CompleteRefresh,
    Action::AbandonRefresh,
];

#[test]
fn a_product_uses_its_own_credentials_and_the_shared_ones_and_no_others() {
    let policies = delivered();
    for product in PRODUCTS {
        for (owner, (form, kind)) in OWNERS.iter().flat_map(|owner| FORMS.map(|form| (owner, form))) {
            let id = format!("{owner}.{form}main");
            let its = *owner == product || *owner == "shared";
            for action in USE {
                assert_eq!(may(&policies, product, &question(action, true, Some(&id), None)), its, "{action} {id}");
            }
            let encrypt = question(Action::EncryptCredential, true, Some(&id), Some(kind));
            assert_eq!(may(&policies, product, &encrypt), its, "{id}");
        }
        // Neither a name that only begins alike, nor one in the middle.
        for id in [product.to_owned(), format!("{product}2.main"), format!("x.{product}.main"), "shared".to_owned()] {
            for action in USE.into_iter().chain([Action::DecryptFull]) {
                assert!(!may(&policies, product, &question(action, true, Some(&id), None)), "{action} {id}");
            }
        }
    }
}

#[test]
fn the_full_view_is_of_passwords_and_opaque_secrets_which_the_id_tells() {
    let policies = delivered();
    for product in PRODUCTS {
        for (owner, (form, kind)) in OWNERS.iter().flat_map(|owner| FORMS.map(|form| (owner, form))) {
            let id = format!("{owner}.{form}main");
            let its = *owner == product || *owner == "shared";
            let full = may(&policies, product, &question(Action::DecryptFull, true, Some(&id), None));
            assert_eq!(full, its && kind != Kind::SalesforceOAuth, "{product} {id}");
            // So that nobody can read a refresh token by storing it under such an id.
            for other in Kind::ALL.into_iter().filter(|other| *other != kind) {
                let encrypt = question(Action::EncryptCredential, true, Some(&id), Some(other));
                assert!(!may(&policies, product, &encrypt), "{product} stores {} as {id}", other.as_str());
            }
        }
    }
}

#[test]
fn the_security_team_works_on_keys_and_opens_no_secret() {
    let policies = delivered();
    for id in OWNERS.iter().flat_map(|owner| FORMS.map(|(form, _)| format!("{owner}.{form}main"))) {
        for action in SECRETS.into_iter().chain([Action::CompleteRefresh, Action::AbandonRefresh]) {
            assert!(!may(&policies, SECURITY, &question(action, true, Some(&id), None)), "{action} {id}");
        }
        for kind in Kind::ALL {
            assert!(!may(&policies, SECURITY, &question(Action::EncryptCredential, true, Some(&id), Some(kind))));
        }
        assert!(!may(&policies, SECURITY, &question(Action::DeleteCredential, true, Some(&id), None)));
        assert!(may(&policies, SECURITY, &question(Action::GetCredential, true, Some(&id), None)));
        assert!(may(&policies, SECURITY, &question(Action::MarkNeedsReauth, true, Some(&id), None)));
    }
    let works = [
        (Action::RotateCustomerKey, true),
        (Action::RetireCustomerKeyVersion, true),
        (Action::StartCustomerKeyRotation, true),
        (Action::StartCustomerKeyRotation, false),
        (Action::StartRewrap, false),
        (Action::StartReencryption, true),
        (Action::StartReencryption, false),
        (Action::GetJob, false),
        (Action::ListJobs, false),
        (Action::CancelJob, false),
        (Action::ListReplicas, false),
        (Action::DisableCustomer, true),
        (Action::GetCustomer, true),
        (Action::ListCustomers, false),
        (Action::ListCredentials, true),
        (Action::ListCredentials, false),
    ];
    for (action, customer) in works {
        let question = question(action, customer, None, None);
        assert!(may(&policies, SECURITY, &question), "{action}");
        let keys = ["Rotat", "Retire", "Start", "Job", "Replicas"].iter().any(|part| action.as_str().contains(part));
        for other in PRODUCTS.into_iter().chain([LIFECYCLE]).filter(|_| keys) {
            assert!(!may(&policies, other, &question), "{other} {action}");
        }
    }
}

#[test]
fn only_the_lifecycle_team_destroys_and_it_sees_no_credential() {
    let policies = delivered();
    let of = |action| question(action, true, None, None);
    for action in [Action::EnableCustomer, Action::DestroyCustomer, Action::RestoreCustomer] {
        assert!(may(&policies, LIFECYCLE, &of(action)), "{action}");
        for other in PRODUCTS.into_iter().chain([SECURITY]) {
            assert!(!may(&policies, other, &of(action)), "{other} {action}");
        }
    }
    assert!(may(&policies, LIFECYCLE, &of(Action::DisableCustomer)));
    for action in Action::ALL {
        let of = match action.target() {
            Target::Credential => question(*action, true, Some("shared.main"), None),
            Target::CredentialOfKind => question(*action, true, Some("shared.main"), Some(Kind::SalesforceOAuth)),
            Target::CustomerOrAll => question(*action, true, None, None),
            Target::Customer | Target::All => continue,
        };
        assert!(!may(&policies, LIFECYCLE, &of), "{action}");
    }
    for product in PRODUCTS {
        assert!(may(&policies, product, &of(Action::CreateCustomer)));
        assert!(!may(&policies, product, &of(Action::DisableCustomer)));
    }
    assert!(
        !may(&policies, LIFECYCLE, &of(Action::CreateCustomer))
            && !may(&policies, SECURITY, &of(Action::CreateCustomer))
    );
}

#[test]
fn every_rpc_has_its_action() {
    let mut rpcs = BTreeSet::new();
    for file in fs::read_dir(root().join("proto/triseal/v1")).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("rpc ")?.split('(').next());
        rpcs.extend(names.map(str::to_owned));
    }
    assert!(rpcs.remove("DecryptCredential"), "the files were not read");
    rpcs.remove("BatchDecryptCredentials");
    let actions: BTreeSet<_> = Action::ALL.iter().map(ToString::to_string).collect();
    let missing: Vec<_> = rpcs.difference(&actions).collect();
    assert!(missing.is_empty(), "src/access/asks.rs and triseal.cedarschema lack {missing:?}");
}

// --- the commands ---

async fn policy(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = run(triseal(&[&["policy"], arguments].concat())).await;
    let utf8 = |octets| String::from_utf8(octets).unwrap();
    (status.code(), utf8(stdout), utf8(stderr))
}

fn deployed() -> String {
    root().join("deploy/policy").to_str().unwrap().to_owned()
}

#[tokio::test]
async fn check_shows_what_stands_in_a_directory() {
    let (code, out, error) = policy(&["check", &deployed()]).await;
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert!(out.starts_with("FILE ") && out.ends_with("\nThe policy is good.\n"), "{out}");
    assert!(out.contains("\nproducts   spiffe://datasert.com/realtask\n"), "{out}");

    let (code, out, _) = policy(&["check", &deployed(), "--output", "json"]).await;
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["files"][0]["file"]), (Some(0), &"kinds.cedar".into()));
    assert_eq!(json["teams"][2]["callers"], serde_json::json!(["spiffe://datasert.com/security"]));
}

#[tokio::test]
async fn check_tells_each_fault_with_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(deployed()).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let directory = folder.path().to_str().unwrap();
    assert_eq!(policy(&["check", directory]).await.0, Some(0), "the copy is good");
    let lines = fs::read_to_string(folder.path().join("lifecycle.cedar")).unwrap().lines().count();
    let mut text = fs::read_to_string(folder.path().join("lifecycle.cedar")).unwrap();
    text += "\n@id(\"more\")\npermit (principal in Team::\"lifecicle\", action == Action::\"DestroyCustomers\", resource);\n";
    fs::write(folder.path().join("lifecycle.cedar"), text).unwrap();

    let (code, out, error) = policy(&["check", directory]).await;
    assert_eq!((code, out.as_str()), (Some(1), ""));
    let wanted = [
        "error: the policy is refused, for 2 things".to_owned(),
        format!("  lifecycle.cedar:{}: for policy `more`, entities.json does not list Team::\"lifecicle\"", lines + 2),
        format!(
            "  lifecycle.cedar:{}: for policy `more`, unrecognized action `Action::\"DestroyCustomers\"`: \
             did you mean `Action::\"DestroyCustomer\"`?",
            lines + 3
        ),
    ];
    assert_eq!(error.lines().collect::<Vec<_>>(), wanted);
    let (code, _, error) = policy(&["check", "/nowhere", "--output", "json"]).await;
    let json: serde_json::Value = serde_json::from_str(&error).unwrap();
    assert_eq!((code, &json["error"]["details"][0]), (Some(1), &"/nowhere: is not there".into()));
}

#[tokio::test]
async fn explain_tells_which_policy_decides_and_by_its_exit_code_how() {
    let directory = deployed();
    let explain = async |caller: &str, more: &str| {
        let caller = format!("spiffe://datasert.com/{caller}");
        let fixed = ["explain", &directory, "--caller", &caller, "--action"];
        policy(&fixed.into_iter().chain(more.split(' ')).collect::<Vec<_>>()).await
    };
    let line = |file: &str, id: &str| {
        let text = fs::read_to_string(root().join("deploy/policy").join(file)).unwrap();
        text.lines().position(|line| line == format!("@id(\"{id}\")")).unwrap() + 1
    };

    let (code, out, error) = explain("realtask", "DecryptAccess --customer acme --credential realtask.crm").await;
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let place = format!("realtask.own, products.cedar:{}", line("products.cedar", "realtask.own"));
    assert_eq!(
        out,
        format!("decision: permitted\nbecause:  a policy permits it, and none forbids it\npolicy:   {place}\n")
    );

    let (code, out, error) = explain("realtask", "DecryptAccess --customer acme --credential realsync.crm").await;
    assert_eq!((code, error.as_str()), (Some(4), ""));
    assert_eq!(out, "decision: refused\nbecause:  no policy permits it\n");

    let (code, out, _) =
        explain("security", "DecryptFull --customer acme --credential shared.password.a --output json").await;
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    let forbids = line("security.cedar", "security.no-secrets");
    let wanted = serde_json::json!({
        "decision": "refused", "because": "a policy forbids it",
        "policies": [{"id": "security.no-secrets", "file": "security.cedar", "line": forbids}],
    });
    assert_eq!((code, json), (Some(4), wanted));

    let (code, out, _) = explain("stranger", "ListCustomers").await;
    assert_eq!(code, Some(4));
    assert!(out.contains("entities.json does not list the caller"), "{out}");
    assert_eq!(explain("security", "StartReencryption").await.0, Some(0), "of all customers");

    for (wrong, told) in [
        ("DecryptCredential --customer acme --credential a", "possible values: EncryptCredential, DecryptAccess"),
        ("GetCredential --customer acme", "name the customer and the credential, and no kind"),
        ("EncryptCredential --customer acme --credential a", "name the customer, the credential and the kind"),
        ("ListJobs --customer acme", "of all customers"),
        ("GetCustomer --customer a/b", "must have 1 to 128"),
    ] {
        let (code, _, error) = explain("security", wrong).await;
        assert_eq!(code, Some(2), "{wrong}: {error}");
        assert!(error.contains(told), "{wrong}: {error}");
    }
}
