//! A dependency that is away or says no: what goes on, what a caller is told, and that all is well again afterwards without a restart.

use std::time::Duration;

use tonic::Code;

use super::{PATIENCE, Replica, Told, command, proxies, told, until};
use crate::support::Service;
use crate::support::proxy::Fault;
use crate::support::site::{Aws, environment_of};

const AWAY: [Fault; 4] =
    [Fault::Refused, Fault::BlackHole, Fault::ResetMidAnswer, Fault::Answers(500, "InternalServerError")];
const DENIED: Fault = Fault::Answers(400, "AccessDeniedException");
const THROTTLED: Fault = Fault::Answers(400, "ThrottlingException");
const SLOW: Fault = Fault::Slow(Duration::from_millis(300));

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn without_kms_known_customers_go_on_and_others_are_told_why_not() {
    let site = Aws::new().await;
    let beside = Replica::start(&site, &[]).await;
    let replica = Replica::start(&site, &[]).await;
    replica.create("known").await;
    replica.seal("known", "known").await.unwrap();
    let away = told(Code::Unavailable, "KMS_UNAVAILABLE", true);
    let denied = told(Code::Unavailable, "KMS_REFUSED", false);
    let throttled = told(Code::ResourceExhausted, "KMS_THROTTLED", true);
    let faults = AWAY.map(|fault| (fault, &away)).into_iter().chain([(DENIED, &denied), (THROTTLED, &throttled)]);
    for (number, (fault, wanted)) in faults.enumerate() {
        let cold = format!("cold-{number}");
        beside.create(&cold).await;
        beside.seal(&cold, "cold").await.unwrap();
        replica.kms.set(fault);
        assert_eq!(replica.open("known").await.as_deref(), Ok("known"), "{fault:?}");
        assert!(replica.seal("known", "known").await.is_ok(), "{fault:?}");
        assert_eq!(replica.open(&cold).await.as_ref(), Err(wanted), "{fault:?}");
        assert_eq!(replica.seal(&cold, "x").await.as_ref(), Err(wanted), "{fault:?}");
        replica.kms.set(Fault::None);
        // A failure is not remembered.
        assert_eq!(replica.open(&cold).await.as_deref(), Ok("cold"), "after {fault:?}");
    }
    beside.create("slow").await;
    beside.seal("slow", "slow").await.unwrap();
    replica.kms.set(SLOW);
    assert_eq!(replica.open("slow").await.as_deref(), Ok("slow"));
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn without_the_store_nothing_goes_on_and_with_it_everything_does() {
    let site = Aws::new().await;
    let replica = Replica::start(&site, &[]).await;
    replica.create("acme").await;
    let mut revision = replica.seal("acme", "before").await.unwrap();
    let away = told(Code::Unavailable, "STORE_UNAVAILABLE", true);
    let throttled = told(Code::ResourceExhausted, "OVERLOADED", true);
    let faults = AWAY.map(|fault| (fault, &away)).into_iter().chain([(DENIED, &away), (THROTTLED, &throttled)]);
    for (number, (fault, wanted)) in faults.enumerate() {
        let secret = format!("secret-{number}");
        replica.store.set(fault);
        assert_eq!(replica.open("acme").await.as_ref(), Err(wanted), "{fault:?}");
        // It may have been carried out: a retry under the same key tells.
        assert_eq!(replica.seal_under("acme", &secret, &secret).await.as_ref(), Err(wanted), "{fault:?}");
        replica.store.set(Fault::None);
        revision += 1;
        assert_eq!(replica.seal_under("acme", &secret, &secret).await, Ok(revision), "after {fault:?}");
        assert_eq!(replica.open("acme").await, Ok(secret), "after {fault:?}");
    }
    replica.store.set(SLOW);
    assert!(replica.open("acme").await.is_ok());
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_write_whose_answer_is_lost_is_recognised() {
    let site = Aws::new().await;
    let replica = Replica::start(&site, &[]).await;
    replica.create("acme").await;
    replica.seal("acme", "first").await.unwrap();
    // The answer to the write is lost, and the reading after it is answered.
    replica.store.set(Fault::ResetMidAnswerOfWrites);
    assert_eq!(replica.seal("acme", "second").await, Ok(2));
    replica.create("globex").await;
    replica.store.set(Fault::None);
    assert_eq!(replica.seal("acme", "third").await, Ok(3));
    assert_eq!(replica.open("acme").await.as_deref(), Ok("third"));
    assert_eq!(replica.seal("globex", "first").await, Ok(1));
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn without_secrets_manager_sealing_ends_in_time_and_opening_goes_on() {
    let site = Aws::new().await;
    let variables =
        [("TRISEAL__FACTORS__SECRETS_MANAGER__POLL", "500ms"), ("TRISEAL__FACTORS__SECRETS_MANAGER__MAX_AGE", "3s")];
    let replica = Replica::start(&site, &variables).await;
    let beside = Replica::start(&site, &variables).await;
    replica.create("acme").await;
    let stale = Err(told(Code::Unavailable, "KEYS_STALE", true));
    for fault in AWAY.into_iter().chain([DENIED, THROTTLED]) {
        replica.seal("acme", "sealed").await.unwrap();
        replica.secrets.set(fault);
        until(&stale, async || replica.seal("acme", "x").await.map(|_| ())).await;
        assert!(replica.open("acme").await.is_ok(), "{fault:?}");
        assert!(beside.seal("acme", "beside").await.is_ok(), "the other replica reaches it");
        assert_eq!(replica.open("acme").await.as_deref(), Ok("beside"), "{fault:?}");
        replica.secrets.set(Fault::None);
        until(&Ok(()), async || replica.seal("acme", "again").await.map(|_| ())).await;
    }
    assert!(replica.service.stderr().contains("environment keys not read; the last good ones stay"));
}

/// Starts a service with one dependency away.
async fn start_without(site: &Aws, which: usize, fault: Fault) -> (Service, [crate::support::proxy::Proxy; 3]) {
    let proxies = proxies(site).await;
    proxies[which].set(fault);
    let [kms, secrets, store] = &proxies;
    (Service::spawn(command(site, &[], [kms, secrets, store])), proxies)
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn it_starts_without_kms() {
    let site = Aws::new().await;
    let (mut service, [kms, secrets, store]) = start_without(&site, 0, Fault::BlackHole).await;
    assert!(service.ready().await, "{}", service.stderr());
    kms.set(Fault::None);
    let replica = Replica { service, kms, secrets, store };
    replica.create("acme").await;
    replica.seal("acme", "one").await.unwrap();
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn without_secrets_manager_it_does_not_start_and_says_so() {
    let site = Aws::new().await;
    for (fault, says) in [
        (Fault::Refused, "the connection failed or broke off: start again when"),
        (Fault::BlackHole, "no answer in time: start again when"),
        (
            DENIED,
            "AccessDeniedException (400), request PROXY-1: the service's role needs secretsmanager:GetSecretValue",
        ),
        (THROTTLED, "the source asks for fewer requests: start again when"),
    ] {
        let (mut service, _proxies) = start_without(&site, 1, fault).await;
        assert!(!service.ready().await, "it serves without environment keys");
        let said = service.stderr();
        assert!(said.contains("the environment keys can't be read") && said.contains(says), "{fault:?}: {said}");
    }
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn without_the_store_it_starts_and_neither_opens_nor_seals_until_it_is_back() {
    let site = Aws::new().await;
    let before = Replica::start(&site, &[]).await;
    before.create("acme").await;
    before.seal("acme", "before").await.unwrap();
    for fault in [Fault::Refused, Fault::BlackHole, THROTTLED] {
        let (mut service, [kms, secrets, store]) = start_without(&site, 2, fault).await;
        assert!(service.ready().await, "{fault:?}: {}", service.stderr());
        let replica = Replica { service, kms, secrets, store };
        let refused: Told = replica.open("acme").await.unwrap_err();
        assert!(["STORE_UNAVAILABLE", "OVERLOADED"].contains(&refused.reason.as_str()), "{fault:?}: {refused:?}");
        assert!(replica.seal("acme", "x").await.is_err());
        assert_eq!(replica.service.ops("/readyz").await.0, 503, "{fault:?}");
        replica.store.set(Fault::None);
        until(&Ok("before".to_owned()), async || replica.open("acme").await).await;
        until(&200, async || replica.service.ops("/readyz").await.0).await;
        assert!(replica.seal("acme", "before").await.is_ok());
    }
    // What is not away but wrong is no reason to wait.
    let (mut service, _proxies) = start_without(&site, 2, DENIED).await;
    assert!(!service.ready().await);
    let wanted = "the store refuses: AccessDeniedException (400), request PROXY-1: \
                  `triseald check` tells which permission is missing";
    assert!(service.stderr().contains(wanted), "{}", service.stderr());
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_wrong_key_that_is_found_out_when_the_store_is_back_ends_it() {
    let site = Aws::new().await;
    let before = Replica::start(&site, &[]).await;
    before.create("acme").await;
    before.seal("acme", "before").await.unwrap();
    drop(before);
    // Another key under the same version.
    site.put_secret(&environment_of([(1, 9)], 1)).await;
    let (mut service, [kms, secrets, store]) = start_without(&site, 2, Fault::Refused).await;
    assert!(service.ready().await, "{}", service.stderr());
    store.set(Fault::None);
    let mut replica = Replica { service, kms, secrets, store };
    let ended = tokio::time::timeout(PATIENCE, replica.service.ended()).await.expect("it ends");
    assert!(!ended.success());
    let said = replica.service.stderr();
    assert!(said.contains("the environment key of version 1 is not the one"), "{said}");
}

/// A machine whose clock is wrong gets no calls; those that come all the same are answered.
#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_clock_that_differs_from_the_stores_is_not_ready_until_it_agrees() {
    let site = Aws::new().await;
    let replica = Replica::start(&site, &[]).await;
    replica.create("acme").await;
    let ready = async || {
        let (status, body) = replica.service.ops("/readyz").await;
        let report: serde_json::Value = serde_json::from_str(&body).unwrap();
        (status, report["clock"]["agrees"].as_bool().unwrap())
    };
    until(&(200, true), ready).await;
    for seconds in [-60, 60] {
        replica.store.set(Fault::Dated(seconds));
        until(&(503, false), ready).await;
        replica.seal("acme", "all the same").await.unwrap();
        replica.store.set(Fault::None);
        until(&(200, true), ready).await;
    }
}
