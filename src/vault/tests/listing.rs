use super::*;
use crate::store::Erasure;
use crate::store::contract::living as sample_row;

/// Of one customer, or of all, and what of them.
type Wanted = (Option<CustomerId>, ListFilter);

fn of(customer: &str) -> Wanted {
    (Some(customer_id(customer)), ListFilter::default())
}

/// The names of every credential that is wanted, page by page.
async fn names(setup: &Setup, (customer, filter): &Wanted, limit: usize) -> Vec<String> {
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let page = setup.vault.list(customer.clone(), filter, after, limit).await.unwrap();
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
    setup.vault.delete(&caller("realtask"), &credential_ref("acme", "gone"), None).await.unwrap();
    let id = credential_ref("other", "x");
    setup.vault.encrypt(&caller("realtask"), &id, password("x"), Condition::None, None).await.unwrap();
    let time = Timestamp::from_second(7).unwrap();
    setup.change("b", |_, living| living.state = State::NeedsReauth { reason: String::new(), time }).await;

    let everything = || (None, ListFilter::default());
    let only = |filter: ListFilter| (None, filter);
    let not = (of("acme").0, ListFilter { needs_reauth: Some(false), ..ListFilter::default() });
    let before = Some(Timestamp::from_second(9_000).unwrap());
    for (what, wanted_of, wanted) in [
        ("everything", everything(), &["acme/a", "acme/b", "acme/late", "acme/p", "other/x"][..]),
        ("acme's", of("acme"), &["acme/a", "acme/b", "acme/late", "acme/p"]),
        ("passwords", only(ListFilter { kind: Some(Kind::Password), ..ListFilter::default() }), &["acme/p", "other/x"]),
        ("opaque", only(ListFilter { kind: Some(Kind::Opaque), ..ListFilter::default() }), &[]),
        ("needing consent", only(ListFilter { needs_reauth: Some(true), ..ListFilter::default() }), &["acme/b"]),
        ("not", not, &["acme/a", "acme/late", "acme/p"]),
        ("old tokens", only(ListFilter { refreshed_before: before, ..ListFilter::default() }), &["acme/a", "acme/b"]),
    ] {
        for limit in [1, 2, 3, 100] {
            let mut found = names(&setup, &wanted_of, limit).await;
            found.sort();
            assert_eq!(found, wanted, "{what}, {limit} at a time");
        }
    }
}

#[tokio::test]
async fn a_list_shows_what_its_caller_may_get_and_goes_on_past_the_rest() {
    let setup = Setup::new().await;
    for name in ["mine.a", "yours.a", "mine.b", "yours.b"] {
        setup.encrypt(name, password("secret"), Condition::None).await.unwrap();
    }
    let access = Access::without_tls(
        "@id(\"list\") permit (principal, action == Action::\"ListCredentials\", resource);
         @id(\"get\") permit (principal, action == Action::\"GetCredential\", resource)
             when { context.credential_id like \"mine.*\" };",
    )
    .unwrap();
    for customer in [None, Some(customer_id("acme"))] {
        let permit = access.permit(&Caller::insecure_plaintext(), ListCredentials(customer)).unwrap();
        for limit in [1, 2, 100] {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let page = setup.vault.0.list(&access, &permit, &ListFilter::default(), after, limit).await.unwrap();
                found.extend(page.rows.into_iter().map(|shown| shown.id.credential.to_string()));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(found, ["mine.a", "mine.b"], "{limit} at a time");
        }
    }
}

#[tokio::test]
async fn one_call_reads_a_bounded_number_of_rows() {
    let setup = Setup::new().await;
    let rows = (0..1_250).map(|number| setup.put(sample_row("acme", &format!("credential-{number:04}"))));
    futures_util::future::join_all(rows).await;
    setup.encrypt("zz-password", password("secret"), Condition::None).await.unwrap();
    let (acme, filter) = (of("acme").0, ListFilter { kind: Some(Kind::Password), ..ListFilter::default() });
    let page = setup.vault.list(acme.clone(), &filter, None, 100).await.unwrap();
    assert!(page.rows.is_empty() && page.next.is_some(), "an empty page may have a successor");
    let page = setup.vault.list(acme, &filter, page.next, 100).await.unwrap();
    assert_eq!((page.rows.len(), page.next), (1, None));
}

#[tokio::test]
async fn an_empty_list_is_a_fact_about_a_customer_that_is_there() {
    let setup = Setup::new().await;
    let list = async |customer: &str| {
        let (customer, filter) = of(customer);
        setup.vault.list(customer, &filter, None, 10).await.map(|page| page.rows.len())
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
