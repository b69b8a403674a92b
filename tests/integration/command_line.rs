//! `triseal` against a running service, as the README has it.

use std::process::Output;

use crate::support::{Service, data, fresh, run, run_with_input, triseal};

const ANSWER: &[u8] = br#"{"access_token":"00D5g000004XyZA!AQEAQ.MARKED_ACCESS","refresh_token":"5Aep861.MARKED_REFRESH",
  "signature":"kPXfAb0l","scope":"refresh_token web api","instance_url":"https://acme.my.salesforce.com",
  "id":"https://test.salesforce.com/id/00D5g000004XyZAEA0/0055g00000ABCDE","token_type":"Bearer","issued_at":"1764000000123",
  "sfdc_community_url":"https://acme.my.site.com"}"#;

fn text(output: &Output) -> (Option<i32>, String, String) {
    let utf8 = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
    (output.status.code(), utf8(&output.stdout), utf8(&output.stderr))
}

#[tokio::test]
async fn salesforces_answer_goes_in_and_comes_out() {
    let (service, folder) = fresh().await;
    let main = ["--customer", "demo", "--credential", "realsync.main"];
    let on = |verb: &[&'static str], more: &[&'static str]| [&["credential"], verb, &main, more].concat();

    let (code, out, error) = text(&service.triseal(&on(&["encrypt"], &["--from-salesforce"]), ANSWER).await);
    assert_eq!(code, Some(0), "{error}");
    assert!(out.contains("revision:      1") && !out.contains("MARKED"), "{out}");

    let (code, out, _) = text(&service.triseal(&on(&["decrypt"], &[]), b"").await);
    assert_eq!(code, Some(0));
    assert!(out.contains("MARKED_ACCESS") && !out.contains("MARKED_REFRESH"), "{out}");

    let arguments = on(&["decrypt"], &["--view", "full", "--output", "json"]);
    let (_, out, _) = text(&service.triseal(&arguments, b"").await);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    let oauth = &json["secret"]["salesforce_oauth"];
    assert_eq!(oauth["refresh_token"], "5Aep861.MARKED_REFRESH");
    assert_eq!(oauth["instance_url"], "https://acme.my.salesforce.com");
    assert_eq!(oauth["token_url"], "https://test.salesforce.com/services/oauth2/token");
    assert_eq!(oauth["identity_url"], "https://test.salesforce.com/id/00D5g000004XyZAEA0/0055g00000ABCDE");
    assert_eq!(oauth["scopes"], serde_json::json!(["refresh_token", "web", "api"]));
    assert_eq!(oauth["issue_time"], "2025-11-24T16:00:00.123Z");

    // From a file, and on a condition that does not hold.
    let file = folder.path().join("answer.json");
    std::fs::write(&file, ANSWER).unwrap();
    let arguments =
        [&on(&["encrypt"], &["--from-salesforce", "--if-revision", "0"])[..], &[file.to_str().unwrap()]].concat();
    let (code, _, error) = text(&service.triseal(&arguments, b"").await);
    assert_eq!(code, Some(4), "{error}");
    assert!(error.contains("revision 1") && error.contains("hint: "), "{error}");

    let (code, out, _) =
        text(&service.triseal(&["credential", "list", "--customer", "demo", "--output", "json"], b"").await);
    assert_eq!(code, Some(0));
    let listed: serde_json::Value = serde_json::from_str(out.trim()).unwrap();
    assert_eq!(listed["credential_id"], "realsync.main");

    let (code, _, _) = text(&service.triseal(&on(&["delete"], &[]), b"").await);
    assert_eq!(code, Some(2), "without a terminal it wants --yes");
    assert_eq!(service.triseal(&on(&["delete"], &["--yes"]), b"").await.status.code(), Some(0));
    let (code, _, error) = text(&service.triseal(&on(&["get"], &["--output", "json"]), b"").await);
    let json: serde_json::Value = serde_json::from_str(&error).unwrap();
    assert_eq!((code, json["error"]["reason"].as_str()), (Some(1), Some("CREDENTIAL_NOT_FOUND")));
}

#[tokio::test]
async fn customers_and_what_is_known_of_a_credential() {
    let (service, _data) = fresh().await;
    for _ in 0..2 {
        let (code, out, error) = text(&service.triseal(&["customer", "create", "acme"], b"").await);
        assert_eq!(code, Some(0), "{error}");
        assert!(out.contains("acme") && out.contains("active"), "{out}");
    }
    let (_, out, _) = text(&service.triseal(&["customer", "get", "acme", "--output", "json"], b"").await);
    let customer: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&customer["state"], &customer["primary_version"]), (&"active".into(), &1.into()));
    let (code, out, _) = text(&service.triseal(&["customer", "list", "--output", "json"], b"").await);
    let ids: Vec<_> = out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).collect();
    assert_eq!(code, Some(0));
    assert_eq!(ids.iter().map(|row| row["customer_id"].as_str().unwrap()).collect::<Vec<_>>(), ["acme", "demo"]);

    let on = ["--customer", "acme", "--credential", "jira"];
    let put = [&["credential", "encrypt", "--kind", "opaque"][..], &on].concat();
    assert_eq!(service.triseal(&put, b"a secret").await.status.code(), Some(0));
    let (code, out, _) = text(&service.triseal(&[&["credential", "get"][..], &on].concat(), b"").await);
    assert_eq!(code, Some(0));
    assert!(out.contains("lineage:       codebase 1, environment 1, customer 1"), "{out}");
    assert!(!out.contains("a secret"));
}

/// What each RPC answers in each state that the command line leads to.
#[tokio::test]
async fn a_customer_is_disabled_enabled_and_destroyed_unless_restored() {
    let (service, _folder) = fresh().await;
    let customer = async |arguments: &[&'static str]| {
        let (code, out, error) = text(&service.triseal(&[&["customer"], arguments].concat(), b"").await);
        (code, out + &error)
    };
    let of_acme = ["--customer", "acme", "--credential", "crm"];
    let credential = async |verb: &'static str, more: &[&'static str]| {
        let arguments = [&["credential", verb], &of_acme[..], more, &["--output", "json"]].concat();
        let (code, out, error) = text(&service.triseal(&arguments, b"octets").await);
        (code, out + &error)
    };
    let answers = async |state: &str, opens: Option<&str>| {
        for (verb, more) in [("encrypt", &["--kind", "opaque"][..]), ("decrypt", &["--view", "full"])] {
            let (code, told) = credential(verb, more).await;
            match opens {
                None => assert_eq!(code, Some(0), "{verb} {state}: {told}"),
                Some(reason) => assert!(code == Some(4) && told.contains(reason), "{verb} {state}: {told}"),
            }
        }
        assert_eq!(credential("get", &[]).await.0, Some(0), "metadata is shown while {state}");
        let (code, told) = customer(&["get", "acme"]).await;
        assert!(code == Some(0) && told.contains(state), "{told}");
    };
    customer(&["create", "acme"]).await;
    answers("active", None).await;
    let (code, told) = customer(&["destroy", "acme", "--days", "7", "--yes"]).await;
    assert!(code == Some(4) && told.contains("hint: disable it first"), "{told}");

    assert_eq!(customer(&["disable", "acme"]).await.0, Some(0));
    answers("disabled", Some("CUSTOMER_DISABLED")).await;
    let (code, told) = customer(&["destroy", "acme", "--days", "7"]).await;
    assert!(code == Some(2) && told.contains("add --yes"), "{told}");
    assert_eq!(customer(&["destroy", "acme", "--days", "6", "--yes"]).await.0, Some(2));

    let (code, told) = customer(&["destroy", "acme", "--days", "7", "--yes"]).await;
    assert!(code == Some(0) && told.contains("destroy_time"), "{told}");
    answers("pending_destruction", Some("CUSTOMER_PENDING_DESTRUCTION")).await;
    let (code, told) = customer(&["enable", "acme"]).await;
    assert!(code == Some(4) && told.contains("triseal customer restore acme"), "{told}");

    assert_eq!(customer(&["restore", "acme"]).await.0, Some(0));
    answers("disabled", Some("CUSTOMER_DISABLED")).await;
    assert_eq!(customer(&["enable", "acme"]).await.0, Some(0));
    answers("active", None).await;
    let (code, told) = customer(&["disable", "nobody"]).await;
    assert!(code == Some(1) && told.contains("does not exist"), "{told}");
}

#[tokio::test]
async fn passwords_and_octets_too() {
    let (service, _data) = fresh().await;
    let put = ["credential", "encrypt", "--customer", "demo", "--credential"];
    let get = ["credential", "decrypt", "--customer", "demo", "--view", "full", "--credential"];
    let password = br#"{"username": "u", "password": "p4ss", "security_token": "t"}"#;
    let (code, _, error) = text(&service.triseal(&[&put[..], &["pw", "--kind", "password"]].concat(), password).await);
    assert_eq!(code, Some(0), "{error}");
    let (_, out, _) = text(&service.triseal(&[&get[..], &["pw"]].concat(), b"").await);
    assert!(out.contains("password: p4ss"), "{out}");

    let octets = [0_u8, 10, 13, 255, 128];
    let arguments = [&put[..], &["key", "--kind", "opaque", "--content-type", "application/x-key"]].concat();
    assert_eq!(service.triseal(&arguments, &octets).await.status.code(), Some(0));
    assert_eq!(service.triseal(&[&get[..], &["key"]].concat(), b"").await.stdout, octets);

    let (code, _, error) =
        text(&service.triseal(&["credential", "decrypt", "--customer", "demo", "--credential", "key"], b"").await);
    assert_eq!(code, Some(4));
    assert!(error.contains("--view full"), "{error}");
}

#[tokio::test]
async fn wrong_things_are_told_without_repeating_a_secret() {
    let (service, _data) = fresh().await;
    let put = ["credential", "encrypt", "--customer", "demo", "--credential", "x"];
    for (more, input) in [
        (&["--from-salesforce"][..], &br#"{"access_token": 7, "MARKED": "MARKED"}"#[..]),
        (&["--from-salesforce"], br#"{"access_token": "MARKED"#),
        (&["--from-salesforce"], br#"{"error":"invalid_grant","error_description":"MARKED"}"#),
        (&["--kind", "password"], br#"{"password": "MARKED", "pasword": "MARKED"}"#),
        (&["--kind", "password"], b"MARKED"),
        (&["--kind", "opaque"], b""),
    ] {
        let (code, out, error) = text(&service.triseal(&[&put[..], more].concat(), input).await);
        assert_eq!(code, Some(2), "{more:?} {error}");
        assert!(!error.contains("MARKED") && out.is_empty() && error.starts_with("error: "), "{error}");
    }
    for arguments in [
        &["credential", "get", "--customer", "a/b", "--credential", "x"][..],
        &["credential", "get", "--customer", "demo"],
        &["credential", "encrypt", "--customer", "demo", "--credential", "x"],
        &["customer", "create", ""],
        &["nothing"],
    ] {
        assert_eq!(service.triseal(arguments, b"").await.status.code(), Some(2), "{arguments:?}");
    }
    let (code, _, error) = text(&service.triseal(&["customer", "get", "nobody"], b"").await);
    assert_eq!(code, Some(1));
    assert!(error.contains("triseal customer create nobody"), "{error}");
}

#[tokio::test]
async fn a_secret_that_is_too_long_is_refused_by_its_field_and_not_stored() {
    let (service, _data) = fresh().await;
    let put = ["credential", "encrypt", "--customer", "demo", "--credential", "x"];
    let long = |octets: usize| "MARKED".repeat(octets / 6 + 1)[..octets].to_owned();
    let password = |octets| format!(r#"{{"username": "u", "password": "{}"}}"#, long(octets)).into_bytes();
    let tokens = |octets| format!(r#"{{"access_token": "{}"}}"#, long(octets)).into_bytes();
    for (kind, input, named) in [
        (&["--kind", "opaque"][..], long(32_769).into_bytes(), "secret.opaque.data: must have at most 32768 octets"),
        (&["--kind", "password"], password(4_097), "secret.password.password: must have at most 4096 octets"),
        (&["--kind", "salesforce_oauth"], tokens(16_385), "access_token: must have at most 16384 octets"),
        (&["--from-salesforce"], tokens(16_385), "access_token: must have at most 16384 octets"),
        // Above what a message may have, by its envelope; and above what is read at all.
        (&["--kind", "opaque"], long(1 << 20).into_bytes(), "no longer than its fields may be"),
        (&["--kind", "opaque"], long((1 << 20) + 1).into_bytes(), "the input is longer than 1048576 octets"),
    ] {
        let (code, out, error) = text(&service.triseal(&[&put[..], kind].concat(), &input).await);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{error}");
        assert!(error.starts_with("error: ") && error.contains(named) && !error.contains("MARKED"), "{error}");
    }
    let get = ["credential", "get", "--customer", "demo", "--credential", "x"];
    assert_eq!(service.triseal(&get, b"").await.status.code(), Some(1), "nothing was stored");
    // And what is just short enough goes in.
    let longest = long(32_768).into_bytes();
    assert_eq!(service.triseal(&[&put[..], &["--kind", "opaque"]].concat(), &longest).await.status.code(), Some(0));
    assert!(!service.stderr().contains("MARKED"));
}

#[tokio::test]
async fn an_endpoint_that_is_away_or_not_permitted_is_told() {
    let mut command = triseal(&["customer", "list"]);
    command.env("TRISEAL_ENDPOINT", "http://127.0.0.1:1");
    let (code, _, error) = text(&run_with_input(command, b"").await);
    assert_eq!(code, Some(1));
    // Whoever says where it is does not want to try one on this machine.
    assert!(error.contains("is --endpoint right?") && !error.contains("cargo run"), "{error}");
    for endpoint in ["http://triseal.example:7443", "https://127.0.0.1:7443", "127.0.0.1:7443", "http://10.0.0.1:1"] {
        let mut command = triseal(&["customer", "list"]);
        command.env("TRISEAL_ENDPOINT", endpoint);
        assert_eq!(run_with_input(command, b"").await.status.code(), Some(2), "{endpoint}");
    }
}

#[tokio::test]
async fn keys_are_made_once_and_never_shown() {
    let (_folder, data) = data();
    let mut command = triseal(&["keygen", "environment"]);
    command.env("TRISEAL_ENDPOINT", "http://127.0.0.1:1");
    let (code, _, error) = text(&run(command).await);
    assert!(code == Some(2) && error.contains("<FILE>") && !error.contains("--endpoint"), "{error}");
    std::fs::create_dir(&data).unwrap();
    for factor in ["codebase", "environment"] {
        let file = data.join(factor);
        let (code, out, error) = text(&run(triseal(&["keygen", factor, file.to_str().unwrap()])).await);
        assert_eq!(code, Some(0), "{error}");
        let made = std::fs::read_to_string(&file).unwrap();
        let key = &made.split("\"key\": \"").nth(1).unwrap()[..44];
        assert!(!(out.clone() + &error).contains(key));
        assert!(out.contains("keep a copy offline") && !out.contains("delete"), "{out}");
        let next = match factor {
            "codebase" => format!("TRISEAL_CODEBASE_KEYS={} ", file.display()),
            _ => format!("factors.file.path = \"{}\"", file.display()),
        };
        assert!(out.contains(&next), "{out}");
        assert_eq!(out.contains("value of the secret"), factor == "environment", "{out}");
        let (code, _, error) = text(&run(triseal(&["keygen", factor, file.to_str().unwrap()])).await);
        assert_eq!(code, Some(4), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), made);
    }
    // What was made is what a service takes.
    std::fs::rename(data.join("environment"), data.join("environment.json")).unwrap();
    let service = Service::dev(&data).await;
    assert_eq!(service.triseal(&["customer", "get", "demo"], b"").await.status.code(), Some(0));
}
