//! Against LocalStack's Secrets Manager.

use aws_sdk_secretsmanager::primitives::Blob;

use super::*;
use crate::aws::emulators::{localstack, unique};
use crate::aws::stub::{Answer, Stub, credential_codes};

const DOCUMENT: &str = r#"{"format": "triseal-environment-keys/v1", "primary": 1, "keys": [{"version": 1,
    "key": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="}]}"#;

async fn new_secret(value: Option<&str>) -> (Client, String) {
    let client = Client::new(&localstack().await);
    let made = client.create_secret().name(unique("test")).set_secret_string(value.map(str::to_owned)).send().await;
    (client, made.unwrap().arn.unwrap())
}

async fn source(arn: &str) -> SecretsManager {
    SecretsManager::new(&localstack().await, arn.to_owned())
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn the_value_that_counts_is_the_current_one() {
    let (client, arn) = new_secret(Some(DOCUMENT)).await;
    let source = source(&arn).await;
    assert_eq!(source.fetch().await.unwrap().primary().get(), 1);
    let second = DOCUMENT.replace("\"primary\": 1", "\"primary\": 2").replace("\"version\": 1", "\"version\": 2");
    let pending = client.put_secret_value().secret_id(&arn).secret_string(&second).version_stages("AWSPENDING");
    let pending = pending.send().await.unwrap().version_id.unwrap();
    assert_eq!(source.fetch().await.unwrap().primary().get(), 1, "one that is pending does not count");
    let current = client.get_secret_value().secret_id(&arn).send().await.unwrap().version_id.unwrap();
    let promoted = client.update_secret_version_stage().secret_id(&arn).version_stage("AWSCURRENT");
    promoted.move_to_version_id(pending).remove_from_version_id(current).send().await.unwrap();
    assert_eq!(source.fetch().await.unwrap().primary().get(), 2);
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_secret_that_is_missing_empty_deleted_or_malformed_is_told_apart() {
    let (client, arn) = new_secret(Some(DOCUMENT)).await;
    let missing = source(&format!("{}XXXXXX", &arn[..arn.len() - 6])).await.fetch().await;
    assert!(matches!(missing.map(|_| ()), Err(FactorError::Absent(_))));
    let (_, empty) = new_secret(None).await;
    assert!(matches!(source(&empty).await.fetch().await.map(|_| ()), Err(FactorError::Absent(_))));

    let source = source(&arn).await;
    for (text, field) in [
        ("MARKED", "document"),
        (&DOCUMENT.replace("AQE=", "MARKED"), "keys[0].key"),
        (&DOCUMENT.replace("environment", "codebase"), "format"),
    ] {
        client.put_secret_value().secret_id(&arn).secret_string(text).send().await.unwrap();
        let told = source.fetch().await.map(|_| ()).unwrap_err();
        let FactorError::Corrupt(text) = told else { panic!("{told:?}") };
        assert!(text.contains(field) && !text.contains("MARKED"), "{text}");
    }
    let binary = client.create_secret().name(unique("test")).secret_binary(Blob::new(DOCUMENT)).send().await.unwrap();
    let binary = SecretsManager::new(&localstack().await, binary.arn.unwrap());
    assert!(matches!(binary.fetch().await.map(|_| ()), Err(FactorError::Corrupt(_))));

    client.delete_secret().secret_id(&arn).recovery_window_in_days(7).send().await.unwrap();
    assert!(matches!(source.fetch().await.map(|_| ()), Err(FactorError::Refused(_))));
}

#[tokio::test]
async fn each_failure_of_secrets_manager_is_told_apart() {
    let stub = Stub::new().await;
    let source = SecretsManager::new(&stub.config().await, "arn".to_owned());
    let told = async |answer| {
        stub.answer(&[answer]);
        let told = source.fetch().await.map(|_| ()).unwrap_err();
        assert!(!format!("{told:?}").contains("MARKED"));
        (told, stub.calls().len())
    };
    let detail = |code: &str, status: u16| format!("{code} ({status}), request REQUEST-1");
    for (code, wanted) in [
        ("AccessDeniedException", FactorError::Refused as fn(String) -> FactorError),
        ("DecryptionFailure", FactorError::Refused),
        ("InvalidRequestException", FactorError::Refused),
        ("ResourceNotFoundException", FactorError::Absent),
    ] {
        assert_eq!(told(Answer::Error(400, code)).await, (wanted(detail(code, 400)), 1));
    }
    for code in credential_codes() {
        let wanted = format!("AWS does not take this process's credentials: {}", detail(code, 400));
        assert_eq!(told(Answer::Error(400, code)).await, (FactorError::Away(wanted), 1));
    }
    let (code, status) = ("InternalServiceError", 500);
    assert_eq!(told(Answer::Error(status, code)).await, (FactorError::Away(detail(code, status)), 3));
    assert_eq!(told(Answer::Error(400, "ThrottlingException")).await.0, FactorError::Throttled);
    for answer in [Answer::Half, Answer::Nothing, Answer::Hangs] {
        let (error, calls) = told(answer).await;
        assert!(matches!(error, FactorError::Away(_)) && calls > 1, "{answer:?}: {error:?} after {calls} calls");
    }
    assert!(matches!(told(Answer::Fine("{}")).await.0, FactorError::Corrupt(_)));
}
