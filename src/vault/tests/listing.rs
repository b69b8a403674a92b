use super::*;
use crate::store::Erasure;
use crate::store::contract::living as sample_row;

/// What to list, and of whom.
#[derive(Clone, Default)]
struct Asked {
    customer: Option<CustomerId>,
    kind: Option<Kind>,
    needs_reauth: Option<bool>,
    refreshed_before: Option<Timestamp>,
}

impl Asked {
    fn filter(&self) -> ListFilter {
        let Self { kind, needs_reauth, refreshed_before, .. } = *self;
        ListFilter { kind, needs_reauth, refreshed_before }
    }
}

fn of(customer: &str) -> Asked {
    Asked { customer: Some(customer_id(customer)), ..Asked::default() }
}

/// The names of every credential that a filter wants, page by page.
async fn names(setup: &Setup, filter: &Asked, limit: usize) -> Vec<String> {
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let page = setup.vault.list_unasked(filter.customer.as_ref(), &filter.filter(), after, limit).await.unwrap();
        assert!(page.rows.len() <= limit);
        names.extend(page.rows.iter().map(|shown| format!("{}/{}", shown.id.customer, shown.id.credential)));
        match page.next {
            Some(next) => after = Some(next),
            None => return names,
        }
    }
}

#[tokio::test]
async fn lists_show_what_the_filter_wants_and_no_tombstones() {
    let setup = Setup::new().await;
    at(1_000);
    for name in ["a", "b", "gone", "late"] {
        at(if name == "late" { 9_000 } else { 1_000 });
        setup.encrypt(name, salesforce("token"), Condition::None).await.unwrap();
    }
    setup.encrypt("p", password("secret"), Condition::None).await.unwrap();
    setup.vault.delete_unasked(&caller("realtask"), &credential_ref("acme", "gone"), None).await.unwrap();
    let id = credential_ref("other", "x");
    setup.vault.encrypt_unasked(&caller("realtask"), &id, password("x"), Condition::None, None).await.unwrap();
    let time = Timestamp::from_second(7).unwrap();
    setup.change("b", |_, living| living.state = State::NeedsReauth { reason: String::new(), time }).await;

    let everything = Asked::default();
    let before = Some(Timestamp::from_second(9_000).unwrap());
    for (what, filter, wanted) in [
        ("everything", everything.clone(), &["acme/a", "acme/b", "acme/late", "acme/p", "other/x"][..]),
        ("acme's", of("acme"), &["acme/a", "acme/b", "acme/late", "acme/p"]),
        ("passwords", Asked { kind: Some(Kind::Password), ..everything.clone() }, &["acme/p", "other/x"]),
        ("opaque", Asked { kind: Some(Kind::Opaque), ..everything.clone() }, &[]),
        ("needing consent", Asked { needs_reauth: Some(true), ..everything.clone() }, &["acme/b"]),
        ("not", Asked { needs_reauth: Some(false), ..of("acme") }, &["acme/a", "acme/late", "acme/p"]),
        ("old tokens", Asked { refreshed_before: before, ..everything.clone() }, &["acme/a", "acme/b"]),
    ] {
        for limit in [1, 2, 3, 100] {
            let mut found = names(&setup, &filter, limit).await;
            found.sort();
            assert_eq!(found, wanted, "{what}, {limit} at a time");
        }
    }
}

#[tokio::test]
async fn one_call_reads_a_bounded_number_of_rows() {
    let setup = Setup::new().await;
    let rows = (0..1_250).map(|number| setup.put(sample_row("acme", &format!("credential-{number:04}"))));
    futures_util::future::join_all(rows).await;
    setup.encrypt("zz-password", password("secret"), Condition::None).await.unwrap();
    let filter = Asked { kind: Some(Kind::Password), ..of("acme") };
    let page = setup.vault.list_unasked(filter.customer.as_ref(), &filter.filter(), None, 100).await.unwrap();
    assert!(page.rows.is_empty() && page.next.is_some(), "an empty page may have a successor");
    let page = setup.vault.list_unasked(filter.customer.as_ref(), &filter.filter(), page.next, 100).await.unwrap();
    assert_eq!((page.rows.len(), page.next), (1, None));
}

#[tokio::test]
async fn an_empty_list_is_a_fact_about_a_customer_that_is_there() {
    let setup = Setup::new().await;
    let list = async |customer: &str| {
        setup
            .vault
            .list_unasked(Some(&customer_id(customer)), &ListFilter::default(), None, 10)
            .await
            .map(|page| page.rows.len())
    };
    assert_eq!(list("acme").await, Ok(0));
    assert_eq!(list("unknown").await, Err(VaultError::Keyring(KeyringError::CustomerNotFound)));
    for state in [
        CustomerState::Disabled,
        CustomerState::PendingDestruction { destroy_time: Timestamp::MAX },
        CustomerState::Destroyed { destroy_time: Timestamp::UNIX_EPOCH, erasure: Erasure::default() },
    ] {
        setup.customer_becomes("acme", state).await;
        assert_eq!(list("acme").await, Ok(0));
    }
    // Nobody knows: that is no empty list.
    let away = StoreError::Away("timed out".to_owned());
    setup.customers_are_away(true);
    assert_eq!(list("unknown").await, Err(VaultError::Keyring(KeyringError::Store(away.clone()))));
    setup.customers_are_away(false);
    setup.credentials.faults([Fault::Reading(away.clone())]);
    assert_eq!(list("acme").await, Err(VaultError::Store(away)));
}
