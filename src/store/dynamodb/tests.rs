//! Against DynamoDB Local, and against a stub for what that does not do. The first test shows that it refuses; without that, the
//! others would show nothing.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use futures_util::future::join_all;

use super::super::contract::{
    self, Backend, an_unreadable_credential_is_erased, credential_ref, customer, customer_id, living, operation,
    version,
};
use super::super::{ChangeError, Decision, Versioned, change};
use super::wire::{item_of, key_item};
use super::*;
use crate::aws::emulators::{dynamodb, unique};
use crate::aws::stub::{Answer, Stub, credential_codes};

/// Names of tables that are not there.
fn table_names() -> TableNames {
    let name = unique("test");
    TableNames {
        credentials: format!("{name}-credentials"),
        customers: format!("{name}-customers"),
        operations: format!("{name}-operations"),
    }
}

/// A store on new tables.
pub(crate) async fn tables() -> Arc<DynamoStore> {
    let store = DynamoStore::new(&dynamodb().await, table_names());
    for table in Table::ALL {
        store.create(table).await.expect("a new table");
    }
    Arc::new(store)
}

async fn credentials() -> (Arc<DynamoStore>, DynamoCredentials) {
    let store = tables().await;
    (Arc::clone(&store), DynamoCredentials(store))
}

async fn raw() -> Client {
    Client::new(&dynamodb().await)
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn the_emulator_refuses_a_failed_condition_and_shows_the_item() {
    let (store, client) = (tables().await, raw().await);
    let key = key_item(Table::Operations, &("kind".to_owned(), "id".to_owned()));
    let put = |octet: u8| {
        let mut item = key.clone();
        item.insert("row".to_owned(), AttributeValue::B(Blob::new([octet])));
        client
            .put_item()
            .table_name(store.name(Table::Operations))
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(kind)")
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
    };
    put(1).await.unwrap();
    let refused = put(2).await.unwrap_err().into_service_error();
    let PutItemError::ConditionalCheckFailedException(refusal) = refused else { panic!("{refused:?}") };
    assert_eq!(refusal.item.unwrap()["row"], AttributeValue::B(Blob::new([1])));
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn it_keeps_the_contract() {
    let store = tables().await;
    let credentials = DynamoCredentials(Arc::clone(&store));
    let customers = DynamoCustomers(Arc::clone(&store));
    let operations = DynamoOperations(store);
    contract::check_all(&Backend { credentials: &credentials, customers: &customers, operations: &operations }).await;
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_table_that_is_missing_is_named_and_is_no_missing_row() {
    let names = table_names();
    let store = Arc::new(DynamoStore::new(&dynamodb().await, names.clone()));
    let absent = |name: &str| StoreError::Absent(name.to_owned());
    let credentials = DynamoCredentials(Arc::clone(&store));
    let row = living("acme", "main");
    assert_eq!(credentials.get(&row.id).await.unwrap_err(), absent(&names.credentials));
    assert_eq!(credentials.replace(None, row).await.unwrap_err(), absent(&names.credentials));
    assert_eq!(credentials.query(None, None, 1).await.unwrap_err(), absent(&names.credentials));
    let owner = customer_id("acme");
    assert_eq!(credentials.query(Some(&owner), None, 1).await.unwrap_err(), absent(&names.credentials));
    let customers = DynamoCustomers(Arc::clone(&store));
    assert_eq!(customers.key(&owner, version(1)).await.unwrap_err(), absent(&names.customers));
    let key = KeyRow { version: version(1), wrapped: vec![1], kms_key_arn: "arn".to_owned() };
    let write = CustomerWrite { key: Some(key), ..CustomerWrite::of(customer("acme")) };
    assert_eq!(customers.replace(None, write).await.unwrap_err(), absent(&names.customers));
    assert_eq!(DynamoOperations(store).get(&operation("x").id).await.unwrap_err(), absent(&names.operations));
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn tables_are_made_once_and_only_with_their_keys() {
    let names = table_names();
    let store = DynamoStore::new(&dynamodb().await, names.clone());
    for table in Table::ALL {
        assert_eq!(store.create(table).await, Ok(Created::New));
        assert_eq!(store.create(table).await, Ok(Created::Already));
    }
    // The names in another order: each table is there, with the keys of another.
    let exchanged = TableNames { credentials: names.operations.clone(), ..names };
    let store = DynamoStore::new(&dynamodb().await, exchanged);
    assert!(matches!(store.create(Table::Credentials).await, Err(StoreError::Refused(_))));
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn what_cannot_be_read_is_told_apart_and_never_written_over() {
    let (store, credentials) = credentials().await;
    let client = raw().await;
    let (good, bad) = (living("acme", "good"), living("acme", "bad"));
    let whole = encoding::encode_credential(&bad);
    let cut = whole[..whole.len() - 1].to_vec();
    let newer = [&[3], &whole[1..]].concat();
    let other_mark = WriteId::random().unwrap();
    for (octets, mark, wanted) in [
        (Some(cut), bad.write_id, StoreError::Corrupt("a row is not of its form".to_owned())),
        (Some(newer), bad.write_id, StoreError::Newer),
        (None, bad.write_id, StoreError::Corrupt("an item has no row".to_owned())),
        (Some(whole), other_mark, StoreError::Corrupt("the write id beside a row is not its own".to_owned())),
    ] {
        let put = Put { key: credential_key(&bad.id), write_id: mark, octets: octets.clone().unwrap_or_default() };
        let mut item = item_of(Table::Credentials, put);
        if octets.is_none() {
            item.remove("row");
        }
        client.put_item().table_name(store.name(Table::Credentials)).set_item(Some(item)).send().await.unwrap();

        assert_eq!(credentials.get(&bad.id).await.unwrap_err(), wanted);
        // Whoever expects no row, or another one, is shown that it can't be read.
        for expected in [None, Some(good.write_id)] {
            assert_eq!(credentials.replace(expected, living("acme", "bad")).await.unwrap_err(), wanted);
        }
        let replaced = change(&credentials, &bad.id, |_| async {
            Ok::<_, ChangeError>(Decision::Replace(living("acme", "bad"), ()))
        });
        assert_eq!(replaced.await, Err(ChangeError::Store(wanted.clone())));
        // It hides no other row.
        let _ = credentials.replace(None, good.clone()).await.unwrap();
        for owner in [None, Some(&good.id.customer)] {
            for limit in [1, 2, 10] {
                let (mut rows, mut after) = (Vec::new(), None);
                loop {
                    let page = credentials.query(owner, after.as_ref(), limit).await.unwrap();
                    rows.extend(page.rows);
                    match page.next {
                        Some(next) => after = Some(next),
                        None => break,
                    }
                }
                assert_eq!(rows, std::slice::from_ref(&good), "{wanted}");
            }
        }
        // Who must miss nothing meets it.
        let acme = Extent::Customer(good.id.customer.clone());
        let met = credentials.scan(&acme, None, 10).await.unwrap().rows;
        let unreadable = Met { id: bad.id.clone(), row: Err(wanted.clone()) };
        assert!(
            met.len() == 2
                && met.contains(&unreadable)
                && met.contains(&Met { id: good.id.clone(), row: Ok(good.clone()) })
        );
        an_unreadable_credential_is_erased(&credentials, &bad.id).await;
    }
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn names_of_somebody_else_end_no_list() {
    let (store, credentials) = credentials().await;
    let client = raw().await;
    let table = store.name(Table::Credentials);
    for number in 0..5 {
        let key = ("acme".to_owned(), format!("/no id {number}"));
        client.put_item().table_name(table).set_item(Some(key_item(Table::Credentials, &key))).send().await.unwrap();
    }
    let row = living("acme", "main");
    let _ = credentials.replace(None, row.clone()).await.unwrap();
    let owner = customer_id("acme");
    for limit in [1, 2, 5, 6] {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = credentials.query(Some(&owner), after.as_ref(), limit).await.unwrap();
            found.extend(page.rows);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, std::slice::from_ref(&row), "{limit} at a time");
    }
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_page_ends_where_dynamodb_ends_it_and_none_is_lost() {
    // 1 MiB is what DynamoDB reads at once.
    let (_store, credentials) = credentials().await;
    let mut written = Vec::new();
    for number in 0..40 {
        let mut row = living("acme", &format!("c{number:02}"));
        if let super::super::Life::Living(living) = &mut row.life {
            living.envelope = vec![7; 65_000];
        }
        let _ = credentials.replace(None, row.clone()).await.unwrap();
        written.push(row);
    }
    let owner = customer_id("acme");
    for owner in [None, Some(&owner)] {
        let (mut rows, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = credentials.query(owner, after.as_ref(), 1_000).await.unwrap();
            pages += 1;
            rows.extend(page.rows);
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert!(pages > 1, "the pages were not cut");
        assert_eq!(rows, written);
    }
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_row_that_is_too_long_is_refused_before_it_is_sent() {
    let store = tables().await;
    let operations = DynamoOperations(store);
    let longest = OperationRow { body: vec![1; 399_000], ..operation("longest") };
    assert!(matches!(operations.replace(None, longest.clone()).await, Ok(Replaced::Done)));
    assert_eq!(operations.get(&longest.id).await.unwrap(), Some(longest));
    let too_long = OperationRow { body: vec![1; 400_000], ..operation("too long") };
    assert!(matches!(operations.replace(None, too_long).await, Err(StoreError::Refused(_))));
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn of_customers_created_at_once_with_their_keys_one_is_there() {
    let customers = DynamoCustomers(tables().await);
    let id = &customer_id("acme");
    let creations = (0..20_u8).map(|octet| {
        let customers = &customers;
        async move {
            change(customers, id, |present: Option<CustomerRow>| async move {
                Ok::<_, ChangeError>(match present {
                    Some(row) => Decision::Done(row.write_id),
                    None => {
                        let row = customer("acme");
                        let key = KeyRow { version: version(1), wrapped: vec![octet], kms_key_arn: octet.to_string() };
                        let made = row.write_id;
                        Decision::Replace(CustomerWrite { key: Some(key), ..CustomerWrite::of(row) }, made)
                    }
                })
            })
            .await
        }
    });
    let outcomes = join_all(creations).await;
    let row = customers.get(id).await.unwrap().unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == Ok(row.write_id())), "{outcomes:?}");
    let key = customers.key(id, version(1)).await.unwrap().unwrap();
    assert_eq!(key.wrapped[0].to_string(), key.kms_key_arn);
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_probe_finds_what_may_be_done_and_leaves_nothing() {
    let (store, credentials) = credentials().await;
    let _ = credentials.replace(None, living("acme", "main")).await.unwrap();
    for table in Table::ALL {
        let tried = store.probe(table, WriteId::random().unwrap()).await;
        assert_eq!(tried.len(), 5);
        assert!(tried.iter().all(|(_, outcome)| outcome.is_ok()), "{tried:?}");
        let (items, _) = store.scan(table, None, None, None, 10).await.unwrap();
        assert!(items.iter().all(|item| !item.is_probe()));
    }
    let missing = DynamoStore::new(&dynamodb().await, table_names());
    let tried = missing.probe(Table::Customers, WriteId::random().unwrap()).await;
    assert!(tried.iter().all(|(_, outcome)| matches!(outcome, Err(StoreError::Absent(_)))), "{tried:?}");
    // An id that begins as the probe's partition can't be.
    assert!(CustomerId::parse(tables::PROBE).is_err());
    assert_eq!(credential_ref("acme", "main").customer.as_str(), "acme");
}

/// The parts of a store that is a stub.
async fn stubbed(stub: &Stub) -> (DynamoCredentials, DynamoCustomers) {
    let store = Arc::new(DynamoStore::new(&stub.config().await, table_names()));
    (DynamoCredentials(Arc::clone(&store)), DynamoCustomers(store))
}

fn with_key() -> CustomerWrite {
    let key = KeyRow { version: version(1), wrapped: vec![1], kms_key_arn: "arn".to_owned() };
    CustomerWrite { key: Some(key), ..CustomerWrite::of(customer("acme")) }
}

#[tokio::test]
async fn each_failure_of_dynamodb_is_told_apart_for_every_request() {
    let stub = Stub::new().await;
    let (credentials, customers) = stubbed(&stub).await;
    // The error, and the calls of reading, of writing, and of the rest.
    let told = async |answer| {
        let id = credential_ref("acme", "main");
        stub.answer(&[answer]);
        let error = credentials.get(&id).await.unwrap_err();
        let reads = stub.calls().len();
        stub.answer(&[answer]);
        assert_eq!(credentials.replace(None, living("acme", "main")).await.unwrap_err(), error);
        let writes = stub.calls().len();
        stub.answer(&[answer]);
        assert_eq!(customers.replace(None, with_key()).await.map(|_| ()).map_err(kind), Err(kind(error.clone())));
        assert_eq!(stub.calls(), vec!["TransactWriteItems"; writes]);
        stub.answer(&[answer]);
        assert_eq!(credentials.erase(&id).await.unwrap_err(), error);
        assert_eq!(stub.calls(), vec!["DeleteItem"; writes]);
        stub.answer(&[answer]);
        assert_eq!(credentials.query(Some(&id.customer), None, 1).await.unwrap_err(), error);
        assert_eq!(credentials.query(None, None, 1).await.unwrap_err(), error);
        assert_eq!(kind(customers.key(&id.customer, version(1)).await.unwrap_err()), kind(error.clone()));
        assert!(!format!("{error:?}").contains("MARKED"));
        (error, reads, writes)
    };
    let detail = |code: &str, status: u16| format!("{code} ({status}), request REQUEST-1");
    for code in ["AccessDeniedException", "ValidationException", "SomethingNewException"] {
        assert_eq!(told(Answer::Error(400, code)).await, (StoreError::Refused(detail(code, 400)), 1, 1));
    }
    for code in credential_codes() {
        let wanted = format!("AWS does not take this process's credentials: {}", detail(code, 400));
        assert_eq!(told(Answer::Error(400, code)).await, (StoreError::Away(wanted), 1, 1));
    }
    let (absent, reads, writes) = told(Answer::Error(400, "ResourceNotFoundException")).await;
    assert!(matches!(absent, StoreError::Absent(_)) && (reads, writes) == (1, 1));
    for (code, status) in [("InternalServerError", 500), ("ServiceUnavailable", 503)] {
        // A write that may have been carried out is not sent again: its refusal would look like another's.
        assert_eq!(told(Answer::Error(status, code)).await, (StoreError::Away(detail(code, status)), 3, 1));
    }
    for code in ["ThrottlingException", "ProvisionedThroughputExceededException", "RequestLimitExceeded"] {
        assert_eq!(told(Answer::Error(400, code)).await, (StoreError::Throttled, 3, 3), "{code}");
    }
    for answer in [Answer::Half, Answer::Nothing, Answer::Hangs] {
        let (error, reads, writes) = told(answer).await;
        assert!(matches!(error, StoreError::Away(_)) && reads > 1 && writes == 1, "{answer:?}: {error:?}");
    }
}

/// Without the table's name, which differs.
fn kind(error: StoreError) -> StoreError {
    match error {
        StoreError::Absent(_) => StoreError::Absent(String::new()),
        error => error,
    }
}

#[tokio::test]
async fn a_write_that_was_throttled_is_sent_again_and_then_counts() {
    let stub = Stub::new().await;
    let (credentials, customers) = stubbed(&stub).await;
    let throttled = Answer::Error(400, "ThrottlingException");
    stub.answer(&[throttled, throttled, Answer::Fine("{}")]);
    assert!(matches!(credentials.replace(None, living("acme", "main")).await, Ok(Replaced::Done)));
    assert_eq!(stub.calls(), ["PutItem"; 3]);
    // Once it was throttled, an unanswered sending is still an unanswered one.
    stub.answer(&[throttled, Answer::Nothing]);
    assert!(matches!(customers.replace(None, with_key()).await, Err(StoreError::Away(_))));
    assert_eq!(stub.calls(), ["TransactWriteItems"; 2]);
}

#[tokio::test]
async fn a_cancelled_transaction_says_why() {
    let stub = Stub::new().await;
    let (_, customers) = stubbed(&stub).await;
    let reasons = |first: &str, second: &str| {
        let body = format!(
            r#"{{"__type":"x#TransactionCanceledException","CancellationReasons":[{{"Code":"{first}"}},{{"Code":"{second}"}}]}}"#
        );
        Answer::Told(400, String::leak(body))
    };
    let told = async |answers: &[Answer]| {
        stub.answer(answers);
        customers.replace(None, with_key()).await
    };
    assert!(matches!(told(&[reasons("ConditionalCheckFailed", "None")]).await, Ok(Replaced::Refused(None))));
    for (first, second) in [("None", "ThrottlingError"), ("ProvisionedThroughputExceeded", "None")] {
        assert!(matches!(told(&[reasons(first, second)]).await, Err(StoreError::Throttled)));
    }
    // Another's condition than the customer's: a wrapped key is not as we left it.
    assert!(matches!(told(&[reasons("None", "ConditionalCheckFailed")]).await, Err(StoreError::Corrupt(_))));
    let refused = told(&[reasons("None", "ValidationError")]).await;
    assert_eq!(refused.unwrap_err(), StoreError::Refused("ValidationError, request REQUEST-1".to_owned()));
    let under_way = Answer::Error(400, "TransactionInProgressException");
    assert!(matches!(told(&[under_way]).await, Err(StoreError::Away(_))));
    // Another transaction has the item: it is read, and whoever asked decides again.
    let refused = told(&[reasons("TransactionConflict", "None"), Answer::Fine("{}")]).await;
    assert!(matches!(refused, Ok(Replaced::Refused(None))));
    assert_eq!(stub.calls(), ["TransactWriteItems", "GetItem"]);
}
