use std::collections::BTreeSet;

use super::requests::METHODS;
use super::*;

/// One input: these calls, each with a whole message.
fn input<'a>(calls: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> Vec<u8> {
    let number = |path: &str| METHODS.iter().position(|method| method.path.ends_with(path)).unwrap() as u8;
    let call = |(path, message): (&str, Vec<u8>)| {
        [&[number(path)][..], &(message.len() as u16).to_be_bytes(), &message].concat()
    };
    calls.into_iter().flat_map(call).collect()
}

#[test]
fn every_method_of_the_protocol_is_fuzzed() {
    let fuzzed: BTreeSet<_> = METHODS.iter().map(|method| method.path).collect();
    assert_eq!(fuzzed.len(), METHODS.len(), "a method stands in METHODS twice");
    for path in structure::paths() {
        assert!(
            fuzzed.contains(path),
            "{path} is not fuzzed: add it, with a request that it answers with OK, to the end of METHODS in src/grpc/fuzzing/requests.rs"
        );
    }
    assert_eq!(structure::paths().count(), METHODS.len(), "METHODS has what the protocol has not");
    assert_eq!(
        structure::unknown_fields(),
        [""; 0],
        "src/grpc/fuzzing/structure.rs fills no field of such a type: teach it"
    );
}

#[test]
fn every_method_answers_its_sample() {
    for method in METHODS {
        service::block_on(async {
            let service = Service::start().await;
            let answer = service.call(method.path, (method.sample)()).await;
            let is_ok = answer.status.code() == Code::Ok;
            assert!(
                answer.reason == method.answer && is_ok == method.answer.is_empty(),
                "{}: {:?}",
                method.path,
                answer.status
            );
            assert_eq!(answer.has(&KEPT), method.shows_secrets, "{}: shows_secrets is not what it does", method.path);
            check(method, &answer);
        });
    }
}

/// The placeholder becomes the token: otherwise no input would ever end a lease.
#[test]
fn a_lease_is_completed() {
    let sample = |name: &str| METHODS.iter().find(|method| method.path.ends_with(name)).unwrap();
    service::block_on(async {
        let service = Service::start().await;
        for name in ["AcquireRefresh", "CompleteRefresh"] {
            let method = sample(name);
            let answer = service.call(method.path, (method.sample)()).await;
            assert_eq!(answer.status.code(), Code::Ok, "{name}: {:?}", answer.status);
        }
    });
}

#[test]
fn an_answer_that_breaks_a_promise_is_found() {
    use tonic::Status;
    let reads = &METHODS[3];
    let broken = |status: Status| {
        let answer = Answer::of(&status);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(reads, &answer))).is_err()
    };
    let told = |text: &str| Status::from(crate::vault::VaultError::CredentialNotFound).message().to_owned() + text;
    let with = |text: String| {
        let good = Status::from(crate::vault::VaultError::CredentialNotFound);
        Status::with_metadata(good.code(), text, good.metadata().clone())
    };
    assert!(!broken(with(told(""))), "a good answer");
    assert!(broken(Status::internal("")), "an internal error");
    assert!(broken(Status::not_found("")), "an error without a reason");
    for secret in [needles::SENT_SECRET, needles::KEPT_SECRET] {
        assert!(broken(with(told(secret))), "a secret in an error");
        assert!(broken(with(told(&secret.escape_default().to_string()))), "an escaped secret in an error");
    }
    assert!(broken(with(told(&format!("{:?}", needles::CODEBASE)))), "a key in an error");
}

#[test]
fn a_message_of_choices_is_of_its_type() {
    use prost::Message;
    let request = structure::request_of("/triseal.v1.CredentialService/DecryptCredential").unwrap();
    // Present, "acme"; present, "crm"; present, 2; present, 1.
    let octets = structure::message(&mut requests::Input(&[1, 1, 1, 6, 1, 2, 1, 1]), request);
    let message = crate::grpc::wire::v1::DecryptCredentialRequest::decode(octets.as_slice()).unwrap();
    assert_eq!((message.customer_id.as_str(), message.credential_id.as_str()), ("acme", "crm"));
    assert_eq!((message.view, message.if_revision), (2, Some(1)));
}

#[test]
fn seeds_of_certificates_are_what_their_names_say() {
    let seed = |name| crate::fuzzing::tests::seed("certificate", name).split_off(1);
    let naming = Naming { trust_domain: TrustDomain::parse("datasert.com").unwrap(), allow_dns_names: true };
    let caller = |name| naming.caller(&seed(name)).map(|caller| caller.as_str().to_owned());
    assert_eq!(caller("spiffe").as_deref(), Ok("spiffe://datasert.com/realtask"));
    assert_eq!(caller("dns").as_deref(), Ok("dns:worker.internal"));
    for name in ["two-spiffe", "wildcard", "no-name", "other-domain", "dots", "server", "ca-as-a-client"] {
        caller(name).unwrap_err();
    }
    let refused = |name| client_files(Path::new("file.pem"), &seed(name), now()).len();
    // Without the server's pair; without the CA, with and without a list.
    assert_eq!([refused("ca-with-list"), refused("server-pair"), refused("key-misplaced")], [1, 2, 3]);
}

/// The corpus holds what these are made of: `fuzz/README.md`.
#[test]
fn the_corpus_has_a_sample_of_every_method() {
    for (number, method) in METHODS.iter().enumerate() {
        let name = method.path.rsplit('/').next().unwrap();
        crate::fuzzing::tests::expect_seed("rpc", name, &input([(method.path, (method.sample)())]));
        // Every field is there: "acme", 1, and the same below it.
        let choices = [&[requests::OF_CHOICES + number as u8][..], &[1; 40]].concat();
        crate::fuzzing::tests::expect_seed("rpc", &format!("{name}-of-choices"), &choices);
    }
    let lease = ["AcquireRefresh", "CompleteRefresh", "AcquireRefresh", "AbandonRefresh"];
    let lease = lease.map(|name| METHODS.iter().find(|method| method.path.ends_with(name)).unwrap());
    let lease = lease.map(|method| (method.path, (method.sample)()));
    crate::fuzzing::tests::expect_seed("rpc", "leases", &input(lease));
    let all = METHODS.iter().map(|method| (method.path, (method.sample)()));
    let all: Vec<_> = all.collect();
    for (index, calls) in all.chunks(8).enumerate() {
        let name = format!("all-{index}");
        crate::fuzzing::tests::expect_seed("rpc", &name, &input(calls.iter().cloned()));
    }
}
