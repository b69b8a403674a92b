//! Against LocalStack's Secrets Manager, and against a stub where it never fails.

use aws_sdk_secretsmanager::Client;
use jiff::Timestamp;

use super::*;
use crate::aws::emulators::{localstack, unique};
use crate::aws::stub::{Answer, Stub};
use crate::factors::document::KeyDocument;

fn first() -> KeyDocument {
    KeyDocument::first(Zeroizing::new([1; 32]), Timestamp::UNIX_EPOCH)
}

async fn new_secret() -> (Client, SecretsManager, String) {
    let config = localstack().await;
    let client = Client::new(&config);
    let value = first().to_json(Form::Environment).to_string();
    let made = client.create_secret().name(unique("test")).secret_string(value).send().await.unwrap();
    let arn = made.arn.unwrap();
    (client, SecretsManager::new(&config, arn.clone()), arn)
}

/// With a version more than was fetched.
fn successor(fetched: Fetched) -> (Mark, Successor) {
    let octet = 1 + fetched.document.keys.len() as u8;
    let added = fetched.document.with_added(Zeroizing::new([octet; 32]), Timestamp::UNIX_EPOCH);
    (fetched.mark, added.unwrap())
}

/// Which labels which version has, without those that have none.
async fn stages(client: &Client, arn: &str) -> Vec<Vec<String>> {
    let described = client.describe_secret().secret_id(arn).send().await.unwrap();
    let mut stages: Vec<Vec<String>> = described.version_ids_to_stages.unwrap_or_default().into_values().collect();
    stages.iter_mut().for_each(|stages| stages.sort());
    stages.retain(|stages| !stages.is_empty());
    stages.sort();
    stages
}

/// That it refuses at all, and what it says then: on this everything rests.
#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn the_emulator_moves_a_label_only_from_the_version_that_has_it() {
    let (client, secret, arn) = new_secret().await;
    let current = secret.fetch().await.unwrap().mark;
    let pending = secret.put_pending(&first().to_json(Form::Environment)).await.unwrap();
    let other = "01234567-0123-0123-0123-0123456789ab";
    for (from, to) in [(pending.as_str(), current.expose_secret()), (other, pending.as_str())] {
        let moved = secret.move_stage(CURRENT, from, Some(to)).await;
        assert!(matches!(&moved, Err(FactorError::Refused(told)) if told.contains("InvalidParameter")), "{moved:?}");
    }
    assert_eq!(stages(&client, &arn).await, [["AWSCURRENT"], ["AWSPENDING"]]);
    secret.move_stage(CURRENT, current.expose_secret(), Some(&pending)).await.unwrap();
    assert_eq!(stages(&client, &arn).await, [vec!["AWSCURRENT", "AWSPENDING"], vec!["AWSPREVIOUS"]]);
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_secret_is_replaced_and_the_former_value_is_the_previous_one() {
    let (client, secret, arn) = new_secret().await;
    let (mark, next) = successor(secret.fetch().await.unwrap());
    let made = secret.replace(&mark, &next).await.unwrap();
    let fetched = secret.fetch().await.unwrap();
    assert!(fetched.mark.is_same(&made) && fetched.former_primary.is_none());
    assert_eq!((fetched.document.primary, fetched.document.keys.len()), (1, 2));
    assert_eq!(stages(&client, &arn).await, [["AWSCURRENT"], ["AWSPREVIOUS"]]);
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn of_two_changes_of_one_state_the_second_is_refused_and_leaves_nothing() {
    let (client, secret, arn) = new_secret().await;
    let (one, other) = (secret.fetch().await.unwrap(), secret.fetch().await.unwrap());
    let (mark, next) = successor(one);
    let made = secret.replace(&mark, &next).await.unwrap();
    let (mark, next) = successor(other);
    assert_eq!(secret.replace(&mark, &next).await.err(), Some(ReplaceError::Changed));
    assert!(secret.fetch().await.unwrap().mark.is_same(&made));
    assert_eq!(stages(&client, &arn).await, [["AWSCURRENT"], ["AWSPREVIOUS"]]);
}

/// Of an operator who died: before the move it counts for nothing, and after it, the change has been made.
#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn what_was_left_pending_is_taken_over_or_finished() {
    let (client, secret, arn) = new_secret().await;
    secret.put_pending(&first().to_json(Form::Environment)).await.unwrap();
    let (mark, next) = successor(secret.fetch().await.unwrap());
    let mark = secret.replace(&mark, &next).await.unwrap();
    assert_eq!(stages(&client, &arn).await, [["AWSCURRENT"], ["AWSPREVIOUS"]]);

    let promoted = secret.fetch().await.unwrap().document.with_promoted(Timestamp::UNIX_EPOCH).unwrap();
    let pending = secret.put_pending(&promoted.document().to_json(Form::Environment)).await.unwrap();
    secret.move_stage(CURRENT, mark.expose_secret(), Some(&pending)).await.unwrap();
    let fetched = secret.fetch().await.unwrap();
    assert_eq!((fetched.document.primary, fetched.former_primary), (2, Some(1)));
    secret.finish(&fetched.mark).await.unwrap();
    assert_eq!(secret.fetch().await.unwrap().former_primary, None);
    assert_eq!(stages(&client, &arn).await, [["AWSCURRENT"], ["AWSPREVIOUS"]]);
    secret.finish(&fetched.mark).await.unwrap();
}

const PUT: Answer = Answer::Fine(r#"{"VersionId": "new"}"#);
const MOVED: Answer = Answer::Fine("{}");
const REFUSED: Answer = Answer::Error(400, "InvalidParameterException");

/// The answer to whoever reads the new version.
fn read(version: &str, successor: &Successor) -> Answer {
    let text = serde_json::to_string(successor.document().to_json(Form::Environment).as_str()).unwrap();
    Answer::Fine(format!(r#"{{"VersionId": "{version}", "SecretString": {text}}}"#).leak())
}

#[tokio::test]
async fn an_answer_that_was_lost_is_recognised_and_nothing_is_written_twice() {
    let stub = Stub::new().await;
    let secret = SecretsManager::new(&stub.config().await, "arn".to_owned());
    let next = first().with_added(Zeroizing::new([2; 32]), Timestamp::UNIX_EPOCH).unwrap();
    let before = Mark::new(Zeroizing::new("old".to_owned()));
    let (new, old, third) = (read("new", &next), read("old", &next), read("third", &next));
    for (answers, outcome) in [
        (&[PUT, new, MOVED, MOVED][..], Ok(())),
        // The move was carried out, its answer lost, and the SDK's second attempt refused.
        (&[PUT, new, Answer::Nothing, REFUSED, new, MOVED], Ok(())),
        // The label was taken off meanwhile, by somebody else's value.
        (&[PUT, new, MOVED, REFUSED], Ok(())),
        (&[PUT, new, REFUSED, third, MOVED], Err("somebody else has changed")),
        (&[PUT, new, REFUSED, old, MOVED], Err("InvalidParameterException (400)")),
        (&[PUT, old, MOVED], Ok(())),
        (&[PUT, Answer::Fine(r#"{"VersionId": "new", "SecretString": "otherwise"}"#)], Err("read back otherwise")),
        (&[PUT, Answer::Error(400, "ResourceNotFoundException"), new, MOVED, MOVED], Ok(())),
        (&[Answer::Error(400, "AccessDeniedException")], Err("AccessDeniedException (400)")),
    ] {
        stub.answer(answers);
        let replaced = secret.replace(&before, &next).await;
        match outcome {
            Ok(()) => {
                assert_eq!(replaced.map(|mark| mark.expose_secret().to_owned()), Ok("new".to_owned()), "{answers:?}")
            }
            Err(told) => assert!(replaced.err().unwrap().to_string().contains(told), "{answers:?}"),
        }
        let calls = stub.calls();
        assert_eq!(calls.iter().filter(|call| *call == "PutSecretValue").count(), 1, "{calls:?}");
        if outcome == Err("read back otherwise") {
            assert_eq!(calls, ["PutSecretValue", "GetSecretValue"], "what was not compared is not moved");
        }
    }
}
