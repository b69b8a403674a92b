//! The command is killed (-9) with each of its requests under way, carried out or not. The secret has the old state or the new one then, and
//! the same command, run again, finishes what was begun.

use aws_sdk_secretsmanager::types::SecretVersionsListEntry;
use triseal::factors::document::{Form, KeyDocument};

use crate::support::key_documents::{parse, text};
use crate::support::proxy::{Fault, Proxy};
use crate::support::run;
use crate::support::site::{Aws, environment};

/// Another secret of a site, with one version.
async fn new_secret(site: &Aws) -> String {
    let name = format!("test-{:016x}", getrandom::u64().unwrap());
    let made = site.secrets.create_secret().name(name).secret_string(environment(1, 1)).send().await.unwrap();
    made.arn.unwrap()
}

async fn document(site: &Aws, secret: &str) -> KeyDocument {
    let value = site.secrets.get_secret_value().secret_id(secret).send().await.unwrap();
    parse(Form::Environment, &value.secret_string.unwrap())
}

/// How many versions have a label.
async fn labelled(site: &Aws, secret: &str, label: &str) -> usize {
    let listed = site.secrets.list_secret_version_ids().secret_id(secret).send().await.unwrap();
    let has = |entry: &&SecretVersionsListEntry| entry.version_stages().iter().any(|stage| stage == label);
    listed.versions().iter().filter(has).count()
}

fn rotate(site: &Aws, secret: &str, proxy: &Proxy) -> tokio::process::Command {
    let arguments = ["rotate", "environment", "--secret", secret, "--settle", "0s", "--yes", "--output", "json"];
    let mut command = site.triseal(&arguments);
    command.env("AWS_ENDPOINT_URL_SECRETS_MANAGER", proxy.url());
    command
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn killed_with_any_request_under_way_and_run_again_it_rotates_once() {
    let site = Aws::without_tables().await;
    let [localstack, _] = site.endpoints();
    let secret = new_secret(&site).await;
    let proxy = Proxy::before(&localstack).await;
    let (code, out, told) = text(&run(rotate(&site, &secret, &proxy)).await);
    assert_eq!(code, Some(0), "{told}");
    assert!(out.contains("\"primary\":2"), "{out}");
    let requests = proxy.take_calls();
    let step =
        ["GetSecretValue", "PutSecretValue", "GetSecretValue", "UpdateSecretVersionStage", "UpdateSecretVersionStage"];
    assert_eq!(requests, [step, step].concat());

    for carried_out in [false, true] {
        for requests_before in 0..requests.len() {
            let secret = new_secret(&site).await;
            let mut proxy = Proxy::before(&localstack).await;
            proxy.set(Fault::StopsAfter { requests: requests_before, carried_out });
            let mut killed = rotate(&site, &secret, &proxy).spawn().unwrap();
            let stopped = tokio::time::timeout(crate::support::PATIENCE, proxy.stopped()).await;
            assert!(stopped.is_ok(), "it makes no request");
            killed.kill().await.unwrap();
            let at = format!("killed at request {requests_before}, carried out: {carried_out}");

            let between = document(&site, &secret).await;
            assert!(matches!((between.primary, between.keys.len()), (1, 1 | 2) | (2, 2)), "{at}");
            assert_eq!(labelled(&site, &secret, "AWSCURRENT").await, 1, "{at}");
            proxy.set(Fault::None);
            let (code, _, told) = text(&run(rotate(&site, &secret, &proxy)).await);
            assert_eq!(code, Some(0), "{at}: {told}");
            let after = document(&site, &secret).await;
            // Only where everything was done, the second run is another rotation.
            let versions = if carried_out && requests_before == requests.len() - 1 { 3 } else { 2 };
            assert_eq!((after.primary as usize, after.keys.len()), (versions, versions), "{at}");
            assert_eq!(labelled(&site, &secret, "AWSPENDING").await, 0, "{at}");
        }
    }
}
