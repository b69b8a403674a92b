//! Against LocalStack's KMS. The first test shows that it refuses; without that, the others would show nothing.

use aws_sdk_kms::types::{KeySpec, KeyUsageType};

use super::*;
use crate::aws::emulators::{localstack, unique};
use crate::aws::stub::{Answer, Stub};
use crate::crypto::Version;
use crate::ids::{CustomerId, Deployment};

/// Owns what a context borrows.
struct Binding(Deployment, CustomerId, Version);

impl Binding {
    fn new(deployment: &str, customer: &str, version: u32) -> Self {
        let (deployment, customer) = (Deployment::parse(deployment).unwrap(), CustomerId::parse(customer).unwrap());
        Self(deployment, customer, Version::new(version).unwrap())
    }

    fn context(&self) -> WrapContext<'_> {
        WrapContext { deployment: &self.0, customer: &self.1, version: self.2 }
    }
}

fn acme() -> Binding {
    Binding::new("test", "acme", 1)
}

async fn new_key(client: &Client) -> String {
    client.create_key().send().await.unwrap().key_metadata.unwrap().arn.unwrap()
}

async fn wrapper() -> (Client, KmsWrapper) {
    let config = localstack().await;
    let client = Client::new(&config);
    let arn = new_key(&client).await;
    (client, KmsWrapper::new(&config, arn, Vec::new()))
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn the_emulator_refuses_another_context_and_a_disabled_key() {
    let client = Client::new(&localstack().await);
    let arn = new_key(&client).await;
    let made =
        client.generate_data_key_without_plaintext().key_id(&arn).number_of_bytes(32).encryption_context("a", "b");
    let blob = made.send().await.unwrap().ciphertext_blob.unwrap();
    let decrypt =
        |value: &str| client.decrypt().key_id(&arn).ciphertext_blob(blob.clone()).encryption_context("a", value).send();
    assert!(decrypt("b").await.is_ok());
    assert!(decrypt("c").await.unwrap_err().into_service_error().is_invalid_ciphertext_exception());
    client.disable_key().key_id(&arn).send().await.unwrap();
    assert!(decrypt("b").await.unwrap_err().into_service_error().is_disabled_exception());
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_key_is_unwrapped_for_its_context_alone() {
    let (_, wrapper) = wrapper().await;
    let wrapped = wrapper.wrap_new(&acme().context()).await.unwrap();
    assert_eq!(wrapped.kms_key_arn, wrapper.wrap_with);
    let key = wrapper.unwrap(&acme().context(), &wrapped).await.unwrap();
    assert!(wrapper.unwrap(&acme().context(), &wrapped).await.unwrap().is_same(&key));
    assert!(!wrapped.octets.windows(32).any(|octets| octets == key.expose_secret()));
    let second = wrapper.wrap_new(&acme().context()).await.unwrap();
    assert!(!wrapper.unwrap(&acme().context(), &second).await.unwrap().is_same(&key), "every new key is another");

    for other in [Binding::new("other", "acme", 1), Binding::new("test", "acm", 1), Binding::new("test", "acme", 2)] {
        let refused = wrapper.unwrap(&other.context(), &wrapped).await;
        assert!(matches!(refused, Err(FactorError::Corrupt(_))), "{refused:?}");
    }
    let mut changed = wrapped.clone();
    *changed.octets.last_mut().unwrap() ^= 1;
    let refused = wrapper.unwrap(&acme().context(), &changed).await;
    assert!(matches!(refused, Err(FactorError::Corrupt(_))), "{refused:?}");
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn only_configured_kms_keys_unwrap() {
    let (client, wrapper) = wrapper().await;
    let config = localstack().await;
    let wrapped = wrapper.wrap_new(&acme().context()).await.unwrap();
    let key = wrapper.unwrap(&acme().context(), &wrapped).await.unwrap();

    let other = KmsWrapper::new(&config, new_key(&client).await, Vec::new());
    let refused = other.unwrap(&acme().context(), &wrapped).await;
    assert!(matches!(refused, Err(FactorError::Refused(_))), "{refused:?}");
    // Named as the other's, it is not the other's.
    let renamed = WrappedKey { kms_key_arn: other.wrap_with.clone(), ..wrapped.clone() };
    let refused = other.unwrap(&acme().context(), &renamed).await;
    assert!(matches!(refused, Err(FactorError::Corrupt(_))), "{refused:?}");

    let both = KmsWrapper::new(&config, other.wrap_with.clone(), vec![wrapper.wrap_with.clone()]);
    assert!(both.unwrap(&acme().context(), &wrapped).await.unwrap().is_same(&key));
    // Wrapped anew it is the same key, under the KMS key that wraps now, and for its context alone.
    let anew = both.rewrap(&acme().context(), &wrapped).await.unwrap();
    assert_eq!(anew.kms_key_arn, other.wrap_with);
    assert!(other.unwrap(&acme().context(), &anew).await.unwrap().is_same(&key));
    let elsewhere = Binding::new("test", "other", 1);
    let refused = both.rewrap(&elsewhere.context(), &wrapped).await;
    assert!(matches!(refused, Err(FactorError::Corrupt(_))), "{refused:?}");
    let refused = other.rewrap(&acme().context(), &wrapped).await;
    assert!(matches!(refused, Err(FactorError::Refused(_))), "{refused:?}");
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_kms_key_that_is_disabled_pending_deletion_or_missing_is_told_apart() {
    let (client, wrapper) = wrapper().await;
    let arn = wrapper.wrap_with.clone();
    let wrapped = wrapper.wrap_new(&acme().context()).await.unwrap();
    let refused = async |wanted: &str| {
        let told = [
            wrapper.wrap_new(&acme().context()).await.map(|_| ()),
            wrapper.unwrap(&acme().context(), &wrapped).await.map(|_| ()),
            wrapper.rewrap(&acme().context(), &wrapped).await.map(|_| ()),
        ];
        for told in told {
            assert!(matches!(&told, Err(FactorError::Refused(text)) if text.starts_with(wanted)), "{told:?}");
        }
    };
    client.disable_key().key_id(&arn).send().await.unwrap();
    refused("DisabledException").await;
    client.enable_key().key_id(&arn).send().await.unwrap();
    assert!(wrapper.unwrap(&acme().context(), &wrapped).await.is_ok());
    client.schedule_key_deletion().key_id(&arn).pending_window_in_days(7).send().await.unwrap();
    refused("KMSInvalidStateException").await;

    let missing = format!("{}{}", &arn[..arn.len() - 8], "00000000");
    let wrapper = KmsWrapper::new(&localstack().await, missing.clone(), Vec::new());
    let absent = wrapper.wrap_new(&acme().context()).await;
    assert!(matches!(absent, Err(FactorError::Absent(_))), "{absent:?}");
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn what_another_key_answers_is_not_taken() {
    // An alias stands for a key whose ARN is not what was asked for.
    let (client, wrapper) = wrapper().await;
    let alias = format!("alias/{}", unique("test"));
    client.create_alias().alias_name(&alias).target_key_id(&wrapper.wrap_with).send().await.unwrap();
    let aliased = KmsWrapper::new(&localstack().await, alias, Vec::new());
    let refused = aliased.wrap_new(&acme().context()).await;
    assert!(matches!(refused, Err(FactorError::Refused(_))), "{refused:?}");
    // Nor a key that is not 32 octets long.
    for octets in [0, 31, 33] {
        let made = client.encrypt().key_id(&wrapper.wrap_with).plaintext(Blob::new(vec![7; octets]));
        let Ok(made) = made.set_encryption_context(Some(entries(&acme().context()))).send().await else {
            assert_eq!(octets, 0, "KMS wraps nothing but nothing");
            continue;
        };
        let wrapped = super::wrapped_key(made.ciphertext_blob, &wrapper.wrap_with).unwrap();
        let refused = wrapper.unwrap(&acme().context(), &wrapped).await;
        assert!(matches!(refused, Err(FactorError::Corrupt(_))), "{refused:?}");
    }
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_mac_is_its_messages_and_its_keys() {
    let config = localstack().await;
    let client = Client::new(&config);
    let new_mac = async || {
        let made = client.create_key().key_usage(KeyUsageType::GenerateVerifyMac).key_spec(KeySpec::Hmac256);
        KmsMac::new(&config, made.send().await.unwrap().key_metadata.unwrap().arn.unwrap())
    };
    let (mac, other) = (new_mac().await, new_mac().await);
    let made = mac.make(b"message").await.unwrap();
    assert_eq!(made.len(), 32);
    assert_eq!(mac.verify(b"message", &made).await, Ok(true));
    assert_eq!(mac.verify(b"another message", &made).await, Ok(false));
    assert_eq!(mac.verify(b"message", &[0; 32]).await, Ok(false));
    assert_eq!(other.verify(b"message", &made).await, Ok(false));
    // A key that encrypts makes no MACs.
    let encrypting = KmsMac::new(&config, new_key(&client).await);
    assert!(matches!(encrypting.make(b"message").await, Err(FactorError::Refused(_))));
    client.disable_key().key_id(&mac.key).send().await.unwrap();
    assert!(matches!(mac.make(b"message").await, Err(FactorError::Refused(_))));
    assert!(matches!(mac.verify(b"message", &made).await, Err(FactorError::Refused(_))));
}

const ARN: &str = "arn:aws:kms:eu-central-1:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab";

/// What a wrapper tells of an answer, and how often KMS was called: unwrapping first, then wrapping.
async fn told(stub: &Stub, answer: Answer) -> [(FactorError, usize); 2] {
    let wrapper = KmsWrapper::new(&stub.config().await, ARN.to_owned(), Vec::new());
    let wrapped = WrappedKey { octets: vec![1; 8], kms_key_arn: ARN.to_owned() };
    stub.answer(&[answer]);
    let unwrapping = wrapper.unwrap(&acme().context(), &wrapped).await.map(|_| ()).unwrap_err();
    let unwraps = stub.calls();
    assert!(unwraps.iter().all(|call| call == "Decrypt"));
    stub.answer(&[answer]);
    let wrapping = wrapper.wrap_new(&acme().context()).await.unwrap_err();
    let told = format!("{unwrapping:?} {wrapping:?}");
    assert!(!told.contains("MARKED") && !told.contains("arn"), "{told}");
    [(unwrapping, unwraps.len()), (wrapping, stub.calls().len())]
}

#[tokio::test]
async fn each_failure_of_kms_is_told_apart_and_only_what_may_pass_is_tried_again() {
    let stub = Stub::new().await;
    let detail = |code: &str, status: u16| format!("{code} ({status}), request REQUEST-1");
    for (status, code, wanted) in [
        (400, "AccessDeniedException", FactorError::Refused as fn(String) -> FactorError),
        (400, "DisabledException", FactorError::Refused),
        (400, "KMSInvalidStateException", FactorError::Refused),
        (400, "InvalidKeyUsageException", FactorError::Refused),
        (400, "UnrecognizedClientException", FactorError::Refused),
        (400, "SomethingNewException", FactorError::Refused),
        (400, "NotFoundException", FactorError::Absent),
        (400, "InvalidCiphertextException", FactorError::Corrupt),
        (400, "IncorrectKeyException", FactorError::Corrupt),
    ] {
        for (error, calls) in told(&stub, Answer::Error(status, code)).await {
            assert_eq!((error, calls), (wanted(detail(code, status)), 1), "{code}");
        }
    }
    for (status, code) in
        [(500, "KMSInternalException"), (503, "DependencyTimeoutException"), (500, "KeyUnavailableException")]
    {
        for (error, calls) in told(&stub, Answer::Error(status, code)).await {
            assert_eq!((error, calls), (FactorError::Away(detail(code, status)), 3), "{code}");
        }
    }
    for (status, code) in [(400, "ThrottlingException"), (400, "LimitExceededException"), (429, "Unknown")] {
        for (error, calls) in told(&stub, Answer::Error(status, code)).await {
            assert_eq!(error, FactorError::Throttled, "{code}");
            assert!(calls > 1 || status == 429, "{code}");
        }
    }
    for answer in [Answer::Half, Answer::Nothing, Answer::Hangs] {
        for (error, calls) in told(&stub, answer).await {
            assert!(matches!(error, FactorError::Away(_)) && calls > 1, "{answer:?}: {error:?} after {calls} calls");
        }
    }
    // Answers without what was asked for, and of another key.
    for (body, wanted) in [
        ("{}", "another KMS key answered"),
        (
            r#"{"KeyId": "arn:aws:kms:eu-central-1:000000000000:key/other", "CiphertextBlob": "AQ=="}"#,
            "another KMS key",
        ),
    ] {
        for (error, _) in told(&stub, Answer::Fine(body)).await {
            assert!(matches!(&error, FactorError::Refused(text) if text.contains(wanted)), "{error:?}");
        }
    }
}
