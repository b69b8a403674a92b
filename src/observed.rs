//! A backend that is watched at work: how long each operation takes, how it ends, and so whether the dependency answers. It changes no
//! answer, but for one: what has not answered in time is away.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::crypto::{CustomerKey, Environment, Version};
use crate::factors::{EnvironmentSource, FactorError, KeySet, KeyWrapper, WrapContext, WrappedKey};
use crate::ids::{CredentialRef, CustomerId};
use crate::store::{
    CredentialRow, Credentials, CustomerRow, Customers, Extent, KeyRow, Met, OperationId, OperationRow, Operations,
    Page, Replaced, Rows, StoreError, WriteId,
};
use crate::telemetry::dependency::{Dependency, Failure, Operation, Outcome};

/// Any backend of the store, source of keys or wrapper of keys, as a part of a dependency.
pub struct Observed<T> {
    inner: T,
    dependency: Arc<Dependency>,
}

impl<T> Observed<T> {
    /// Watches it.
    pub fn new(inner: T, dependency: &Arc<Dependency>) -> Self {
        Self { inner, dependency: Arc::clone(dependency) }
    }
}

/// What reading and writing a row of a table is called.
pub trait Table {
    /// Reading one.
    const GET: Operation;
    /// Writing one.
    const REPLACE: Operation;
}

impl Table for CredentialRow {
    const GET: Operation = Operation::CredentialsGet;
    const REPLACE: Operation = Operation::CredentialsReplace;
}

impl Table for CustomerRow {
    const GET: Operation = Operation::CustomersGet;
    const REPLACE: Operation = Operation::CustomersReplace;
}

impl Table for OperationRow {
    const GET: Operation = Operation::OperationsGet;
    const REPLACE: Operation = Operation::OperationsReplace;
}

#[async_trait]
impl<T> Rows for Observed<T>
where
    T: Rows,
    T::Row: Table,
{
    type Id = T::Id;
    type Row = T::Row;
    type Write = T::Write;

    async fn get(&self, id: &T::Id) -> Result<Option<T::Row>, StoreError> {
        self.dependency.watch(T::Row::GET, self.inner.get(id)).await
    }

    async fn replace(&self, expected: Option<WriteId>, write: T::Write) -> Result<Replaced<T::Row>, StoreError> {
        self.dependency.watch(T::Row::REPLACE, self.inner.replace(expected, write)).await
    }
}

#[async_trait]
impl<T: Credentials> Credentials for Observed<T> {
    async fn get_many(&self, ids: &[&CredentialRef]) -> Vec<Result<Option<CredentialRow>, StoreError>> {
        self.dependency.watch_many(Operation::CredentialsGetMany, ids.len(), self.inner.get_many(ids)).await
    }

    async fn query(
        &self,
        customer: Option<&CustomerId>,
        after: Option<&CredentialRef>,
        limit: usize,
    ) -> Result<Page<CredentialRow, CredentialRef>, StoreError> {
        self.dependency.watch(Operation::CredentialsQuery, self.inner.query(customer, after, limit)).await
    }

    fn parts(&self) -> u32 {
        self.inner.parts()
    }

    fn writes_at_once(&self) -> usize {
        self.inner.writes_at_once()
    }

    async fn scan(
        &self,
        extent: &Extent,
        after: Option<&CredentialRef>,
        limit: usize,
    ) -> Result<Page<Met<CredentialRef, CredentialRow>, CredentialRef>, StoreError> {
        self.dependency.watch(Operation::CredentialsScan, self.inner.scan(extent, after, limit)).await
    }

    async fn erase(&self, id: &CredentialRef) -> Result<(), StoreError> {
        self.dependency.watch(Operation::CredentialsErase, self.inner.erase(id)).await
    }
}

#[async_trait]
impl<T: Customers> Customers for Observed<T> {
    async fn key(&self, customer: &CustomerId, version: Version) -> Result<Option<KeyRow>, StoreError> {
        self.dependency.watch(Operation::CustomersKey, self.inner.key(customer, version)).await
    }

    async fn query(
        &self,
        after: Option<&CustomerId>,
        limit: usize,
    ) -> Result<Page<CustomerRow, CustomerId>, StoreError> {
        self.dependency.watch(Operation::CustomersQuery, self.inner.query(after, limit)).await
    }

    async fn scan(
        &self,
        after: Option<&CustomerId>,
        limit: usize,
    ) -> Result<Page<Met<CustomerId, CustomerRow>, CustomerId>, StoreError> {
        self.dependency.watch(Operation::CustomersScan, self.inner.scan(after, limit)).await
    }
}

#[async_trait]
impl<T: Operations> Operations for Observed<T> {
    async fn query(
        &self,
        kind: &'static str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<OperationRow, String>, StoreError> {
        self.dependency.watch(Operation::OperationsQuery, self.inner.query(kind, after, limit)).await
    }

    async fn remove(&self, id: &OperationId, expected: WriteId) -> Result<Replaced<OperationRow>, StoreError> {
        self.dependency.watch(Operation::OperationsRemove, self.inner.remove(id, expected)).await
    }
}

#[async_trait]
impl<T: EnvironmentSource> EnvironmentSource for Observed<T> {
    async fn fetch(&self) -> Result<KeySet<Environment>, FactorError> {
        self.dependency.watch(Operation::Fetch, self.inner.fetch()).await
    }

    fn lag(&self) -> Duration {
        self.inner.lag()
    }
}

#[async_trait]
impl<T: KeyWrapper> KeyWrapper for Observed<T> {
    async fn wrap_new(&self, context: &WrapContext<'_>) -> Result<WrappedKey, FactorError> {
        self.dependency.watch(Operation::Wrap, self.inner.wrap_new(context)).await
    }

    async fn unwrap(&self, context: &WrapContext<'_>, wrapped: &WrappedKey) -> Result<CustomerKey, FactorError> {
        self.dependency.watch(Operation::Unwrap, self.inner.unwrap(context, wrapped)).await
    }

    async fn rewrap(&self, context: &WrapContext<'_>, wrapped: &WrappedKey) -> Result<WrappedKey, FactorError> {
        self.dependency.watch(Operation::Rewrap, self.inner.rewrap(context, wrapped)).await
    }

    fn wraps_with(&self) -> &str {
        self.inner.wraps_with()
    }
}

impl Failure for StoreError {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Away(_) => Outcome::Away,
            Self::Throttled => Outcome::Throttled,
            Self::Refused(_) => Outcome::Refused,
            Self::Absent(_) => Outcome::Absent,
            Self::Newer | Self::Corrupt(_) => Outcome::Corrupt,
        }
    }

    fn late() -> Self {
        Self::Away("no answer in time".to_owned())
    }
}

impl Failure for FactorError {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Absent(_) => Outcome::Absent,
            Self::Refused(_) => Outcome::Refused,
            Self::Throttled => Outcome::Throttled,
            Self::Away(_) => Outcome::Away,
            Self::Corrupt(_) => Outcome::Corrupt,
        }
    }

    fn late() -> Self {
        Self::Away("no answer in time".to_owned())
    }
}
