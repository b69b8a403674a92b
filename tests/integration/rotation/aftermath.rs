//! What holds after everything was rotated and killed: nothing is lost, all stand under the primaries, and what was replaced is retired.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::sleep;
use tonic_types::StatusExt;
use triseal::factors::document::{Form, KeyState};
use triseal::grpc::v1;

use super::{CUSTOMERS, Fleet, Id, Place, answered, call, cancel_jobs, credentials, customers, id, keys, value};
use crate::support::key_documents::{EnvironmentKeys, backdate, parse, repeated, text, write_key_file};
use crate::support::site::Site;
use crate::support::{PATIENCE, Service, decrypt, opaque_data, reason, run, triseal};

/// Reads under way at once.
const AT_ONCE: usize = 16;

/// `known`: the revision of each credential that was acknowledged last. A job may take `patience`.
pub(super) async fn all_is_well(fleet: &mut Fleet<'_>, known: &BTreeMap<Id, u64>, patience: Duration) {
    let place = fleet.places[0].clone();
    cancel_jobs(&place).await;
    // Replicas that were killed are waited for a minute.
    let patience = patience + 3 * PATIENCE;
    let request = v1::StartReencryptionRequest::default();
    let started = call!(keys(&place), start_reencryption, request.clone()).await.unwrap().job.unwrap();
    ends_well(&place, started, patience).await;
    let request = v1::StartRewrapRequest::default();
    let started = call!(keys(&place), start_rewrap, request.clone()).await.unwrap().job.unwrap();
    ends_well(&place, started, patience).await;

    enable_last(&place).await;
    all_stand_under_the_primaries(&place, known).await;
    only_the_other_kms_key_is_needed(fleet).await;
    let place = fleet.places[0].clone();
    all_have_their_last_value(&place, known).await;
    retire_customers_versions(&place).await;
    retire_environment(fleet.site, &fleet.services[0]).await;
    retire_codebase(&fleet.services[0]).await;
    // And nothing that is needed was among it.
    fleet.restart().await;
    all_have_their_last_value(&fleet.places[0], known).await;
}

async fn ends_well(place: &Place, started: v1::Job, patience: Duration) {
    let ended = async {
        loop {
            let request = v1::GetJobRequest { job_id: started.job_id.clone() };
            let job = call!(keys(place), get_job, request.clone()).await.unwrap().job.unwrap();
            if job.state() != v1::JobState::Running {
                return job;
            }
            sleep(Duration::from_millis(200)).await;
        }
    };
    let job = tokio::time::timeout(patience, ended).await.expect("it ends");
    assert_eq!(job.state(), v1::JobState::Done, "{:?}", job.failures);
}

async fn enable_last(place: &Place) {
    let request = v1::EnableCustomerRequest { customer_id: id(CUSTOMERS - 1).0 };
    call!(customers(place), enable_customer, request.clone()).await.unwrap();
}

async fn customer(place: &Place, name: &str) -> v1::Customer {
    let request = v1::GetCustomerRequest { customer_id: name.to_owned() };
    call!(customers(place), get_customer, request.clone()).await.unwrap().customer.unwrap()
}

async fn all_stand_under_the_primaries(place: &Place, known: &BTreeMap<Id, u64>) {
    let mut primaries = BTreeMap::new();
    for number in 0..CUSTOMERS {
        let (name, _) = id(number);
        let primary = customer(place, &name).await.primary_version;
        primaries.insert(name, primary);
    }
    let looks = known.iter().map(|(id, revision)| {
        let lineage = v1::Lineage { codebase_version: 2, environment_version: 2, customer_version: primaries[&id.0] };
        async move {
            let request = v1::GetCredentialRequest { customer_id: id.0.clone(), credential_id: id.1.clone() };
            let found = call!(credentials(place), get_credential, request.clone()).await.unwrap();
            let found = found.credential.unwrap();
            assert_eq!((found.lineage, found.revision), (Some(lineage), *revision), "{id:?}");
        }
    });
    stream::iter(looks).buffer_unordered(AT_ONCE).collect::<()>().await;
}

/// No key of a customer is wrapped under the former KMS key. It is disabled, and what starts then knows nothing of the customers.
async fn only_the_other_kms_key_is_needed(fleet: &mut Fleet<'_>) {
    let (Site::Aws(aws), Some([first, other])) = (fleet.site, fleet.kms_keys) else { return };
    for number in 0..CUSTOMERS {
        let found = customer(&fleet.places[0], &id(number).0).await;
        assert!(found.key_versions.iter().all(|key| key.kms_key_arn == *other), "{found:?}");
    }
    aws.kms.disable_key().key_id(first).send().await.expect("it is disabled");
    fleet.restart().await;
}

async fn all_have_their_last_value(place: &Place, known: &BTreeMap<Id, u64>) {
    let reads = known.iter().map(|(id, revision)| async move {
        let read = call!(credentials(place), decrypt_credential, decrypt(&id.0, &id.1, v1::View::Full));
        let found = read.await.unwrap_or_else(|status| panic!("{id:?}: {status:?}"));
        assert_eq!(opaque_data(found.secret), value(id, *revision), "{id:?}");
    });
    stream::iter(reads).buffer_unordered(AT_ONCE).collect::<()>().await;
}

/// Retires every version of every customer but the primaries, as soon as that is permitted.
async fn retire_customers_versions(place: &Place) {
    for number in 0..CUSTOMERS {
        let (name, _) = id(number);
        let found = customer(place, &name).await;
        for version in found.key_versions.iter().map(|key| key.version).filter(|key| *key != found.primary_version) {
            let request = v1::RetireCustomerKeyVersionRequest { customer_id: name.clone(), version };
            loop {
                let retired = call!(keys(place), retire_customer_key_version, request.clone()).await;
                let Err(status) = retired else { break };
                let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
                let delay = delay.unwrap_or_else(|| panic!("version {version} of {name}: {status:?}"));
                assert_eq!(reason(&status), "KEY_VERSION_IN_USE");
                sleep(delay).await;
            }
        }
        let states: Vec<_> = customer(place, &name).await.key_versions.iter().map(|key| key.state()).collect();
        let retired = states.iter().filter(|state| **state == v1::CustomerKeyState::Retired).count();
        assert_eq!(retired, states.len() - 1, "{name}");
    }
}

async fn retire_environment(site: &Site, service: &Service) {
    let keys = EnvironmentKeys::of(site);
    keys.backdate().await;
    repeated(async || keys.triseal(&["key", "retire", "environment", "1", "--yes"], service).await).await;
    let document = keys.document().await;
    assert_eq!((document.primary, document.keys[0].state, document.keys.len()), (2, KeyState::Retired, 2));
}

/// In the key file of the next build.
async fn retire_codebase(service: &Service) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("codebase-keys.json");
    let built = parse(Form::Codebase, include_str!("../../../src/factors/codebase_development.json"));
    write_key_file(&path, &built, Form::Codebase);
    let file = path.to_str().unwrap();
    assert!(run(triseal(&["rotate", "codebase", "--file", file, "--promote"])).await.status.success());
    let read = || parse(Form::Codebase, &std::fs::read_to_string(&path).unwrap());
    let mut document = read();
    backdate(&mut document);
    write_key_file(&path, &document, Form::Codebase);
    repeated(async || {
        let mut command = triseal(&["key", "retire", "codebase", "1", "--file", file, "--yes"]);
        text(
            &run({
                command.env("TRISEAL_ENDPOINT", service.endpoint());
                command
            })
            .await,
        )
    })
    .await;
    assert_eq!(read().keys[0].state, KeyState::Retired);
}
