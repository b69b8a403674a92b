//! What every backend must show: [`check_all`] runs it on a backend that is empty.

use std::fmt::Debug;

use futures_util::future::join_all;
use jiff::Timestamp;

use super::rows::from_microsecond;
use super::{
    AbandonCause, Change, Changes, CredentialRow, Credentials, CustomerRow, CustomerState, CustomerWrite, Customers,
    Erasure, Extent, IdempotencyKey, KeyRow, KeyVersion, KeyVersionState, Lease, LeaseEnd, Leases, Life, Living,
    OperationId, OperationRow, Operations, Replaced, Revision, Rows, State, StoreError, TokenHash, Versioned, WriteId,
};
use crate::crypto::Version;
use crate::ids::{Caller, CredentialId, CredentialRef, CustomerId};
use crate::secret::Kind;

/// The three ports of one backend.
pub(crate) struct Backend<'a> {
    pub(crate) credentials: &'a dyn Credentials,
    pub(crate) customers: &'a dyn Customers,
    pub(crate) operations: &'a dyn Operations,
}

/// Runs the whole contract.
pub(crate) async fn check_all(backend: &Backend<'_>) {
    let Backend { credentials, customers, operations } = *backend;
    an_empty_store_has_one_empty_page(backend).await;

    let id = credential_ref("acme", "crm");
    a_row_is_replaced_on_its_write_id_alone(credentials, &id, || living("acme", "crm"), Clone::clone).await;
    one_of_many_writers_wins(credentials, &id, || living("acme", "crm")).await;
    let id = customer_id("acme");
    let write = || CustomerWrite::of(customer("acme"));
    a_row_is_replaced_on_its_write_id_alone(customers, &id, write, |write| write.customer.clone()).await;
    one_of_many_writers_wins(customers, &id, write).await;
    let id = OperationId { kind: "fingerprint", id: "codebase#1".to_owned() };
    a_row_is_replaced_on_its_write_id_alone(operations, &id, || operation("codebase#1"), Clone::clone).await;
    one_of_many_writers_wins(operations, &id, || operation("codebase#1")).await;

    a_customer_and_its_key_are_written_together(customers).await;
    no_key_is_written_over(customers).await;
    a_credential_is_erased_and_no_other(credentials).await;
    every_field_is_read_as_it_was_written(backend).await;
    many_are_read_in_the_order_asked(credentials).await;
    pages_hold_every_credential_once(credentials).await;
    pages_hold_every_customer_once(customers).await;
    pages_hold_every_operation_of_a_kind_once(operations).await;
    a_walk_meets_every_credential_once(credentials).await;
    a_walk_meets_every_customer_once(customers).await;
    an_operation_is_removed_on_its_write_id_alone(operations).await;
}

async fn an_empty_store_has_one_empty_page(backend: &Backend<'_>) {
    let page = backend.credentials.query(None, None, 10).await.unwrap();
    assert!(page.rows.is_empty() && page.next.is_none());
    let page = backend.credentials.query(Some(&customer_id("acme")), None, 10).await.unwrap();
    assert!(page.rows.is_empty() && page.next.is_none());
    let page = backend.customers.query(None, 10).await.unwrap();
    assert!(page.rows.is_empty() && page.next.is_none());
    assert_eq!(backend.customers.key(&customer_id("acme"), Version::FIRST).await.unwrap(), None);
}

/// `make` makes a new write of the row `id`, under a new write id; `row` tells what is then read. The row does not exist.
async fn a_row_is_replaced_on_its_write_id_alone<R>(
    rows: &R,
    id: &R::Id,
    make: impl Fn() -> R::Write,
    row: impl Fn(&R::Write) -> R::Row,
) where
    R: Rows + ?Sized,
    R::Row: PartialEq + Debug,
{
    assert_eq!(rows.get(id).await.unwrap(), None);
    let (first, second, third) = (make(), make(), make());
    let (first_row, second_row) = (row(&first), row(&second));
    let (first_id, second_id) = (first.write_id(), second.write_id());

    assert_eq!(refused(rows.replace(Some(second_id), third).await), None, "a row that is not there has no write id");
    assert_eq!(rows.get(id).await.unwrap(), None, "a refused write changes nothing");

    done(rows.replace(None, first).await);
    assert_eq!(rows.get(id).await.unwrap().as_ref(), Some(&first_row));
    for expected in [None, Some(second_id), Some(make().write_id())] {
        assert_eq!(refused(rows.replace(expected, make()).await).as_ref(), Some(&first_row));
        assert_eq!(rows.get(id).await.unwrap().as_ref(), Some(&first_row), "a refused write changes nothing");
    }

    done(rows.replace(Some(first_id), second).await);
    assert_eq!(rows.get(id).await.unwrap().as_ref(), Some(&second_row));
    assert_eq!(refused(rows.replace(Some(first_id), make()).await).as_ref(), Some(&second_row));
    assert_eq!(rows.get(id).await.unwrap().as_ref(), Some(&second_row));
}

async fn one_of_many_writers_wins<R>(rows: &R, id: &R::Id, make: impl Fn() -> R::Write)
where
    R: Rows + ?Sized,
{
    const WRITERS: usize = 40;
    let expected = rows.get(id).await.unwrap().map(|row| row.write_id());
    let writes: Vec<_> = (0..WRITERS).map(|_| make()).collect();
    let ids: Vec<_> = writes.iter().map(Versioned::write_id).collect();
    let outcomes = join_all(writes.into_iter().map(|write| rows.replace(expected, write))).await;

    let mut winners = Vec::new();
    let mut shown = Vec::new();
    for (id, outcome) in ids.into_iter().zip(outcomes) {
        match outcome.unwrap() {
            Replaced::Done => winners.push(id),
            Replaced::Refused(present) => shown.push(present.map(|row| row.write_id())),
        }
    }
    assert_eq!(winners.len(), 1);
    assert!(shown.iter().all(|present| *present == Some(winners[0])), "the others are shown the winner");
    assert_eq!(rows.get(id).await.unwrap().map(|row| row.write_id()), Some(winners[0]));
}

async fn a_customer_and_its_key_are_written_together(customers: &dyn Customers) {
    let id = customer_id("together");
    let key = |number: u32, octet| KeyRow {
        version: version(number),
        wrapped: vec![octet; 97],
        kms_key_arn: format!("arn:{octet}"),
    };
    let first = CustomerWrite { key: Some(key(1, 1)), ..CustomerWrite::of(customer("together")) };
    let first_id = first.write_id();
    done(customers.replace(None, first).await);
    assert_eq!(customers.key(&id, version(1)).await.unwrap(), Some(key(1, 1)));

    // Refused: neither the row nor the key, be it new or there.
    for refused_key in [key(2, 2), key(1, 9)] {
        let write = CustomerWrite { key: Some(refused_key), ..CustomerWrite::of(customer("together")) };
        assert_eq!(refused(customers.replace(None, write).await).unwrap().write_id, first_id);
    }
    assert_eq!(customers.key(&id, version(1)).await.unwrap(), Some(key(1, 1)));
    assert_eq!(customers.key(&id, version(2)).await.unwrap(), None);

    let second = CustomerWrite { key: Some(key(2, 2)), ..CustomerWrite::of(customer("together")) };
    let second_id = second.write_id();
    done(customers.replace(Some(first_id), second).await);
    // A write without a key leaves the keys; one with a key that was wrapped anew replaces it.
    let third = CustomerWrite::of(customer("together"));
    let third_id = third.write_id();
    done(customers.replace(Some(second_id), third).await);
    assert_eq!(customers.key(&id, version(1)).await.unwrap(), Some(key(1, 1)));
    let fourth = CustomerWrite { rewrapped: Some(key(1, 7)), ..CustomerWrite::of(customer("together")) };
    let fourth_id = fourth.write_id();
    done(customers.replace(Some(third_id), fourth).await);
    assert_eq!(customers.key(&id, version(1)).await.unwrap(), Some(key(1, 7)));
    assert_eq!(customers.key(&id, version(2)).await.unwrap(), Some(key(2, 2)));

    // Erased with a change of the customer, or not at all.
    let erase = || CustomerWrite { erased: vec![version(1), version(3)], ..CustomerWrite::of(customer("together")) };
    refused(customers.replace(Some(third_id), erase()).await).unwrap();
    assert_eq!(customers.key(&id, version(1)).await.unwrap(), Some(key(1, 7)));
    done(customers.replace(Some(fourth_id), erase()).await);
    assert_eq!(customers.key(&id, version(1)).await.unwrap(), None);
    assert_eq!(customers.key(&id, version(2)).await.unwrap(), Some(key(2, 2)));

    // Another customer's key of the same version is another key, also where one id begins as the other.
    for other in ["together.", "togethe", "togetherr"] {
        assert_eq!(customers.key(&customer_id(other), version(1)).await.unwrap(), None);
    }
}

/// Whoever lost the customer's row and not its keys, as in half a restore, must not lose the keys by creating the customer again.
async fn no_key_is_written_over(customers: &dyn Customers) {
    let key = |number: u32, octet| KeyRow {
        version: version(number),
        wrapped: vec![octet; 97],
        kms_key_arn: format!("arn:{octet}"),
    };
    let id = customer_id("over");
    let first = CustomerWrite { key: Some(key(1, 1)), ..CustomerWrite::of(customer("over")) };
    let first_id = first.write_id();
    done(customers.replace(None, first).await);
    let row = customers.get(&id).await.unwrap();

    let misfits = [
        CustomerWrite { key: Some(key(1, 9)), ..CustomerWrite::of(customer("over")) },
        // Nor is a key made by wrapping one anew that is gone.
        CustomerWrite { rewrapped: Some(key(2, 9)), ..CustomerWrite::of(customer("over")) },
    ];
    for misfit in misfits {
        // If the customer was changed, that is told: whoever asks again decides anew.
        assert_eq!(refused(customers.replace(None, misfit.clone()).await), row);
        let outcome = customers.replace(Some(first_id), misfit).await;
        assert!(matches!(outcome, Err(StoreError::Corrupt(_))), "{outcome:?}");
        assert_eq!(customers.get(&id).await.unwrap(), row, "nothing of it is written");
        assert_eq!(customers.key(&id, version(1)).await.unwrap(), Some(key(1, 1)));
        assert_eq!(customers.key(&id, version(2)).await.unwrap(), None);
    }
    // Others are not held up by it.
    let second = CustomerWrite { key: Some(key(2, 2)), ..CustomerWrite::of(customer("over")) };
    done(customers.replace(Some(first_id), second).await);
}

async fn a_credential_is_erased_and_no_other(credentials: &dyn Credentials) {
    let (row, other) = (living("erased", "a"), living("erased", "b"));
    done(credentials.replace(None, row.clone()).await);
    done(credentials.replace(None, other.clone()).await);
    assert_eq!(credentials.erase(&row.id).await, Ok(()));
    assert_eq!(credentials.get(&row.id).await.unwrap(), None);
    assert_eq!(credentials.erase(&row.id).await, Ok(()), "it was gone");
    assert_eq!(credentials.get(&other.id).await.unwrap(), Some(other.clone()));
    // Whoever had read it does not bring it back.
    assert_eq!(refused(credentials.replace(Some(row.write_id), living("erased", "a")).await), None);
    assert_eq!(credentials.erase(&other.id).await, Ok(()));
}

/// Of a row that the backend's own test has damaged.
pub(crate) async fn an_unreadable_credential_is_erased(credentials: &dyn Credentials, damaged: &CredentialRef) {
    let of_its_customer = Extent::Customer(damaged.customer.clone());
    let met = async || credentials.scan(&of_its_customer, None, 100).await.unwrap().rows;
    assert!(met().await.iter().any(|met| met.id == *damaged && met.row.is_err()), "it is met, and can't be read");
    let before = met().await.len();
    assert_eq!(credentials.erase(damaged).await, Ok(()));
    assert!(met().await.iter().all(|met| met.id != *damaged));
    assert_eq!((met().await.len(), credentials.get(damaged).await), (before - 1, Ok(None)));
}

async fn every_field_is_read_as_it_was_written(backend: &Backend<'_>) {
    for (index, life) in lives().into_iter().enumerate() {
        // As many leases as a row can have, and fewer.
        let leases = leases().into_iter().skip(index % 5).fold(Leases::default(), |leases, lease| leases.with(lease));
        let row = CredentialRow { life, leases, ..living("fields", &format!("credential-{index}")) };
        done(backend.credentials.replace(None, row.clone()).await);
        assert_eq!(backend.credentials.get(&row.id).await.unwrap(), Some(row));
    }
    let versions = [(KeyVersionState::Enabled, 1), (KeyVersionState::Retired, 2), (KeyVersionState::Enabled, u32::MAX)];
    let versions = versions.map(|(state, number)| KeyVersion {
        version: version(number),
        state,
        create_time: time(i64::from(number)),
        primary_until: (number == 2).then(|| time(-3)),
        kms_key_arn: format!("arn:aws:kms:eu-central-1:000000000000:key/{number}"),
    });
    let states = [
        CustomerState::Active,
        CustomerState::Disabled,
        CustomerState::PendingDestruction { destroy_time: time(4_000_000_000_000_000) },
        CustomerState::Destroyed { destroy_time: time(-1), erasure: Erasure::default() },
        CustomerState::Destroyed {
            destroy_time: time(1),
            erasure: Erasure {
                key_versions: u32::MAX,
                credentials: Some(u64::MAX),
                end_time: Some(time(2)),
                backups_end_time: Some(time(3)),
            },
        },
    ];
    for (index, state) in states.into_iter().enumerate() {
        let id = format!("fields-{index}");
        let row = CustomerRow { state, primary: version(u32::MAX), versions: versions.to_vec(), ..customer(&id) };
        let key = KeyRow { version: version(u32::MAX), wrapped: (0..=255).collect(), kms_key_arn: "x".repeat(2_000) };
        let write = CustomerWrite { key: Some(key.clone()), ..CustomerWrite::of(row.clone()) };
        done(backend.customers.replace(None, write).await);
        assert_eq!(backend.customers.get(&row.id).await.unwrap(), Some(row.clone()));
        assert_eq!(backend.customers.key(&row.id, version(u32::MAX)).await.unwrap(), Some(key));
    }
    for (index, body) in [vec![], vec![0], vec![255; 100_000]].into_iter().enumerate() {
        let row = OperationRow { body, ..operation(&format!("fields#{index}")) };
        done(backend.operations.replace(None, row.clone()).await);
        assert_eq!(backend.operations.get(&row.id).await.unwrap(), Some(row.clone()));
        let other_kind = OperationId { kind: "fingerprin", id: row.id.id };
        assert_eq!(backend.operations.get(&other_kind).await.unwrap(), None);
    }
}

async fn many_are_read_in_the_order_asked(credentials: &dyn Credentials) {
    assert!(credentials.get_many(&[]).await.is_empty());
    // More than any backend reads in one request, of two customers, and not in the order in which they are stored.
    let mut rows = Vec::new();
    for number in (0..120).rev() {
        let owner = if number % 2 == 0 { "many" } else { "many.more" };
        let life = match number % 10 {
            0 => Life::Deleted { time: time(5) },
            _ => living(owner, "x").life,
        };
        let row = CredentialRow { life, ..living(owner, &format!("credential-{number}")) };
        done(credentials.replace(None, row.clone()).await);
        rows.push(row);
    }
    // Some are missing, and some are asked for twice.
    let missing = credential_ref("many", "missing");
    let mut asked: Vec<_> = rows.iter().map(|row| (&row.id, Some(row))).collect();
    for place in [0, 7, 64, asked.len()] {
        asked.insert(place, (&missing, None));
        asked.insert(place, (&rows[3].id, Some(&rows[3])));
    }
    let ids: Vec<_> = asked.iter().map(|(id, _)| *id).collect();
    let read = credentials.get_many(&ids).await;
    assert_eq!(read.len(), asked.len());
    for ((id, row), read) in asked.iter().zip(read) {
        assert_eq!(read.unwrap().as_ref(), *row, "{id:?}");
    }
    // A write that was answered is read.
    let changed = CredentialRow { id: rows[3].id.clone(), ..living("many", "x") };
    done(credentials.replace(Some(rows[3].write_id), changed.clone()).await);
    let read = credentials.get_many(&[&changed.id, &changed.id]).await;
    assert!(read.into_iter().all(|read| read.unwrap().as_ref() == Some(&changed)));
}

async fn pages_hold_every_credential_once(credentials: &dyn Credentials) {
    // Ids that begin alike, and in which a separator might be looked for.
    let owners = ["a", "ab", "a.b", "a-b", "a_b", "A", "a.b.c"];
    for owner in owners {
        for credential in ["a", "a.b", "b", "z-9", "gone"] {
            let life = match credential {
                "gone" => Life::Deleted { time: time(5) },
                _ => living(owner, credential).life,
            };
            done(credentials.replace(None, CredentialRow { life, ..living(owner, credential) }).await);
        }
    }
    let all = walk_credentials(credentials, None, 7).await;
    assert!(
        all.iter().filter(|row| row.id.credential.as_str() == "gone").count() == owners.len(),
        "tombstones are rows"
    );
    for limit in [1, 2, 5, all.len(), all.len() + 1] {
        assert_eq!(walk_credentials(credentials, None, limit).await, all, "the order does not change");
    }
    for owner in owners {
        let wanted: Vec<_> = all.iter().filter(|row| row.id.customer.as_str() == owner).cloned().collect();
        assert_eq!(wanted.len(), 5);
        for limit in [1, 2, 4, 5, 6] {
            assert_eq!(walk_credentials(credentials, Some(owner), limit).await, wanted, "of {owner}");
        }
    }
    assert!(walk_credentials(credentials, Some("b"), 3).await.is_empty());

    // A page may start after a row that is not there.
    let after = credential_ref("a", "a0");
    let rest = credentials.query(Some(&customer_id("a")), Some(&after), 100).await.unwrap();
    assert!(rest.rows.iter().all(|row| row.id != after) && rest.rows.len() <= 5);
}

/// Every row of a list, page by page. No row comes twice.
async fn walk_credentials(credentials: &dyn Credentials, owner: Option<&str>, limit: usize) -> Vec<CredentialRow> {
    let owner = owner.map(customer_id);
    let (mut rows, mut after): (Vec<CredentialRow>, _) = (Vec::new(), None);
    loop {
        let page = credentials.query(owner.as_ref(), after.as_ref(), limit).await.unwrap();
        assert!(page.rows.len() <= limit);
        for row in page.rows {
            assert!(rows.iter().all(|before| before.id != row.id), "{:?} came twice", row.id);
            rows.push(row);
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return rows,
        }
    }
}

async fn pages_hold_every_customer_once(customers: &dyn Customers) {
    for id in ["p", "pq", "p.q", "p-q", "customer", "key", "zz"] {
        let key = KeyRow { version: version(1), wrapped: vec![1], kms_key_arn: "arn".to_owned() };
        done(customers.replace(None, CustomerWrite { key: Some(key), ..CustomerWrite::of(customer(id)) }).await);
    }
    let mut lists = Vec::new();
    for limit in [1, 2, 3, 100] {
        let (mut rows, mut after) = (Vec::new(), None);
        loop {
            let page = customers.query(after.as_ref(), limit).await.unwrap();
            assert!(page.rows.len() <= limit);
            rows.extend(page.rows.into_iter().map(|row| row.id));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        lists.push(rows);
    }
    assert!(lists.windows(2).all(|pair| pair[0] == pair[1]), "the order does not change");
    let mut once = lists.remove(0);
    // acme, together, over, five of the fields, and those above.
    assert_eq!(once.len(), 15);
    once.sort();
    once.dedup();
    assert_eq!(once.len(), 15);
}

async fn pages_hold_every_operation_of_a_kind_once(operations: &dyn Operations) {
    let kinds = ["listed", "listed-", "liste", "listed.more"];
    let ids = ["a", "a#1", "ab", "z", "0"];
    for kind in kinds {
        for id in ids {
            let row = OperationRow { id: OperationId { kind, id: id.to_owned() }, ..operation(id) };
            done(operations.replace(None, row).await);
        }
    }
    for kind in kinds {
        let mut lists = Vec::new();
        for limit in [1, 2, 5, 100] {
            let (mut rows, mut after): (Vec<OperationRow>, Option<String>) = (Vec::new(), None);
            loop {
                let page = operations.query(kind, after.as_deref(), limit).await.unwrap();
                assert!(page.rows.len() <= limit);
                rows.extend(page.rows);
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
            assert!(rows.iter().all(|row| row.id.kind == kind && row.body == [1, 2, 3]));
            assert!(rows.is_sorted_by_key(|row| row.id.id.clone()));
            lists.push(rows.into_iter().map(|row| row.id.id).collect::<Vec<_>>());
        }
        assert!(lists.windows(2).all(|pair| pair[0] == pair[1]), "the order does not change");
        let mut once = lists.remove(0);
        once.sort();
        assert_eq!(once, ["0", "a", "a#1", "ab", "z"]);
    }
    let none = operations.query("nothing", None, 10).await.unwrap();
    assert!(none.rows.is_empty() && none.next.is_none());
}

/// After all that stands in the store by now.
async fn a_walk_meets_every_credential_once(credentials: &dyn Credentials) {
    let all = walk_credentials(credentials, None, 100).await;
    let of = credentials.parts();
    assert!(of >= 1);
    for limit in [1, 7, all.len() + 1] {
        let mut met = Vec::new();
        for index in 0..of {
            met.extend(scan(credentials, &Extent::Part { index, of }, limit).await);
        }
        assert!(all.iter().all(|row| met.contains(row)) && met.len() == all.len(), "each in exactly one part");
    }
    for owner in ["a", "a.b", "nobody"] {
        let wanted = walk_credentials(credentials, Some(owner), 100).await;
        for limit in [1, 4, 5, 6] {
            assert_eq!(scan(credentials, &Extent::Customer(customer_id(owner)), limit).await, wanted);
        }
    }
}

async fn scan(credentials: &dyn Credentials, extent: &Extent, limit: usize) -> Vec<CredentialRow> {
    let (mut rows, mut after): (Vec<CredentialRow>, _) = (Vec::new(), None);
    loop {
        let page = credentials.scan(extent, after.as_ref(), limit).await.unwrap();
        assert!(page.rows.len() <= limit);
        for met in page.rows {
            let row = met.row.unwrap();
            assert_eq!(row.id, met.id);
            assert!(rows.iter().all(|before| before.id != row.id), "{:?} came twice", row.id);
            rows.push(row);
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return rows,
        }
    }
}

async fn a_walk_meets_every_customer_once(customers: &dyn Customers) {
    let all = customers.query(None, 1_000).await.unwrap();
    assert!(all.next.is_none() && all.rows.len() >= 14);
    for limit in [1, 3, 1_000] {
        let (mut rows, mut after) = (Vec::new(), None);
        loop {
            let page = customers.scan(after.as_ref(), limit).await.unwrap();
            assert!(page.rows.len() <= limit);
            rows.extend(page.rows.into_iter().map(|met| met.row.unwrap()));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert_eq!(rows, all.rows);
    }
}

async fn an_operation_is_removed_on_its_write_id_alone(operations: &dyn Operations) {
    let (row, other) = (operation("removed"), operation("removed#1"));
    done(operations.replace(None, row.clone()).await);
    done(operations.replace(None, other.clone()).await);
    assert_eq!(refused(operations.remove(&row.id, other.write_id).await), Some(row.clone()));
    assert_eq!(operations.get(&row.id).await.unwrap(), Some(row.clone()));
    done(operations.remove(&row.id, row.write_id).await);
    assert_eq!(operations.get(&row.id).await.unwrap(), None);
    done(operations.remove(&row.id, row.write_id).await);
    assert_eq!(operations.get(&other.id).await.unwrap(), Some(other));
}

fn done<R: Debug>(outcome: Result<Replaced<R>, StoreError>) {
    assert!(matches!(outcome.as_ref().unwrap(), Replaced::Done), "{outcome:?}");
}

fn refused<R: Debug>(outcome: Result<Replaced<R>, StoreError>) -> Option<R> {
    match outcome.unwrap() {
        Replaced::Refused(present) => present,
        Replaced::Done => panic!("the write was not refused"),
    }
}

fn lives() -> Vec<Life> {
    let needs_reauth =
        State::NeedsReauth { reason: "grün ☂ \u{0} \"x\"".to_owned(), time: time(-62_000_000_000_000_000) };
    let mut lives = vec![Life::Deleted { time: time(0) }, Life::Deleted { time: time(-1) }];
    for kind in Kind::ALL {
        for state in [State::Active, needs_reauth.clone()] {
            for times in [None, Some(time(-1_500_000)), Some(time(253_402_207_200_999_999))] {
                lives.push(Life::Living(Living {
                    envelope: (0..=255).collect(),
                    kind,
                    state: state.clone(),
                    refresh_time: times,
                    access_token_expire_time: times,
                }));
            }
        }
    }
    lives
}

/// One for each way in which a lease can end.
fn leases() -> Vec<Lease> {
    let completed = LeaseEnd::Completed { made: Revision::new(u64::MAX).unwrap(), time: time(-1) };
    let abandoned = [AbandonCause::InvalidGrant, AbandonCause::Transient].map(LeaseEnd::Abandoned);
    let ends = [None, Some(completed), Some(abandoned[0]), Some(abandoned[1])];
    let leases = ends.into_iter().enumerate().map(|(index, end)| Lease {
        token: TokenHash::of(&[index as u8]),
        key: IdempotencyKey::given("acquire"),
        caller: Caller::new("spiffe://example.org/realtask"),
        revision: Revision::new(u64::MAX - 1).unwrap(),
        time: time(1_764_000_000_000_000),
        expire_time: time(1_764_000_060_000_000),
        after_lapse: index % 2 == 1,
        end,
    });
    leases.collect()
}

pub(crate) fn time(microsecond: i64) -> Timestamp {
    from_microsecond(microsecond).unwrap()
}

pub(crate) fn version(number: u32) -> Version {
    Version::new(number).unwrap()
}

pub(crate) fn customer_id(id: &str) -> CustomerId {
    CustomerId::parse(id).unwrap()
}

pub(crate) fn credential_ref(customer: &str, credential: &str) -> CredentialRef {
    CredentialRef { customer: customer_id(customer), credential: CredentialId::parse(credential).unwrap() }
}

/// A row with every field set, under a new write id.
pub(crate) fn living(customer: &str, credential: &str) -> CredentialRow {
    let change = |name: &str, revision| Change {
        key: IdempotencyKey::given(name),
        caller: Caller::new("spiffe://example.org/realtask"),
        revision: Revision::new(revision).unwrap(),
        time: time(1_764_000_000_000_001),
    };
    CredentialRow {
        id: credential_ref(customer, credential),
        write_id: WriteId::random().unwrap(),
        revision: Revision::new(u64::MAX).unwrap(),
        create_time: time(1_764_000_000_000_002),
        update_time: time(1_764_000_000_000_003),
        changes: Changes::default().with(change("first", 1)).with(change("second", u64::MAX)),
        leases: Leases::default(),
        life: Life::Living(Living {
            envelope: vec![7; 300],
            kind: Kind::SalesforceOAuth,
            state: State::Active,
            refresh_time: Some(time(1_764_000_000_000_004)),
            access_token_expire_time: Some(time(1_764_000_000_000_005)),
        }),
    }
}

/// An active customer with one key version, under a new write id.
pub(crate) fn customer(id: &str) -> CustomerRow {
    let create_time = time(1_764_000_000_000_006);
    let first = KeyVersion {
        version: Version::FIRST,
        state: KeyVersionState::Enabled,
        create_time,
        primary_until: None,
        kms_key_arn: "arn".to_owned(),
    };
    CustomerRow {
        id: customer_id(id),
        write_id: WriteId::random().unwrap(),
        state: CustomerState::Active,
        primary: Version::FIRST,
        versions: vec![first],
        create_time,
    }
}

/// One of the service's own records, under a new write id.
pub(crate) fn operation(id: &str) -> OperationRow {
    OperationRow {
        id: OperationId { kind: "fingerprint", id: id.to_owned() },
        write_id: WriteId::random().unwrap(),
        body: vec![1, 2, 3],
    }
}
