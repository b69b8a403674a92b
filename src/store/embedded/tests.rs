use super::super::contract::{self, Backend};
use super::*;

fn deployment(name: &str) -> Deployment {
    Deployment::parse(name).unwrap()
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(EmbeddedStore::open(&directory.path().join("store.redb"), &deployment("test")).unwrap());
    let credentials = EmbeddedCredentials(Arc::clone(&store));
    let customers = EmbeddedCustomers(Arc::clone(&store));
    let operations = EmbeddedOperations(store);
    contract::check_all(&Backend { credentials: &credentials, customers: &customers, operations: &operations }).await;
}
