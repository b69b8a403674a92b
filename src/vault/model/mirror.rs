//! A real store beside the simulated one: what reaches the one reaches the other, and both must answer alike. It lives in threads of its
//! own, since the histories' time is not real.

use std::sync::Arc;

use tokio::runtime::Runtime;

use crate::ids::{CredentialRef, CustomerId};
use crate::store::dynamodb::tests::tables;
use crate::store::dynamodb::{DynamoCredentials, DynamoCustomers};
use crate::store::{CredentialRow, CustomerRow, CustomerWrite, Customers, Replaced, Rows, Versioned, WriteId};

/// Some tables in DynamoDB Local, new for each history.
#[derive(Clone)]
pub(super) struct Mirror {
    runtime: Arc<Runtime>,
    credentials: Arc<DynamoCredentials>,
    customers: Arc<DynamoCustomers>,
}

impl Mirror {
    pub(super) fn new(runtime: &Arc<Runtime>) -> Self {
        let store = wait(runtime, tables());
        Self {
            runtime: Arc::clone(runtime),
            credentials: Arc::new(DynamoCredentials(Arc::clone(&store))),
            customers: Arc::new(DynamoCustomers(store)),
        }
    }

    pub(super) fn get_credential(&self, id: &CredentialRef, ours: Option<&CredentialRow>) {
        let (credentials, id) = (Arc::clone(&self.credentials), id.clone());
        let theirs = wait(&self.runtime, async move { credentials.get(&id).await }).unwrap();
        assert_eq!(theirs.as_ref(), ours);
    }

    pub(super) fn replace_credential(
        &self,
        expected: Option<WriteId>,
        row: &CredentialRow,
        ours: Result<(), Option<&CredentialRow>>,
    ) {
        let (credentials, row) = (Arc::clone(&self.credentials), row.clone());
        same(wait(&self.runtime, async move { credentials.replace(expected, row).await }).unwrap(), ours);
    }

    pub(super) fn get_customer(&self, id: &CustomerId, ours: Option<&CustomerRow>) {
        let (customers, id) = (Arc::clone(&self.customers), id.clone());
        let theirs = wait(&self.runtime, async move { customers.get(&id).await }).unwrap();
        assert_eq!(theirs.as_ref(), ours);
    }

    pub(super) fn replace_customer(
        &self,
        expected: Option<WriteId>,
        write: &CustomerWrite,
        ours: Result<(), Option<&CustomerRow>>,
    ) {
        let (customers, written) = (Arc::clone(&self.customers), write.clone());
        same(wait(&self.runtime, async move { customers.replace(expected, written).await }).unwrap(), ours);
        let Some(key) = &write.key else { return };
        let (customers, id, version) = (Arc::clone(&self.customers), write.customer.id.clone(), key.version);
        let theirs = wait(&self.runtime, async move { customers.key(&id, version).await }).unwrap();
        assert_eq!(theirs.as_ref() == Some(key), ours.is_ok(), "the key comes and stays away with its customer");
    }
}

#[track_caller]
fn same<R: Versioned + PartialEq + std::fmt::Debug>(theirs: Replaced<R>, ours: Result<(), Option<&R>>) {
    match theirs {
        Replaced::Done => assert_eq!(ours, Ok(())),
        Replaced::Refused(present) => assert_eq!(ours, Err(present.as_ref())),
    }
}

/// Blocks this thread, and with it the history.
fn wait<T: Send + 'static>(runtime: &Runtime, work: impl Future<Output = T> + Send + 'static) -> T {
    let (answer, answered) = std::sync::mpsc::channel();
    runtime.spawn(async move { answer.send(work.await) });
    answered.recv().expect("an answer")
}
