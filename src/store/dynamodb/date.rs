//! Listens to the time in DynamoDB's answers, for [`StoreClock`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_sdk_dynamodb::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::BoxError;

use super::super::clock::StoreClock;

/// One request's. The SDK's own correction of a wrong clock concerns signatures only.
#[derive(Debug)]
pub(super) struct Listen {
    clock: Arc<StoreClock>,
    sent: Mutex<SystemTime>,
}

impl Listen {
    pub(super) fn new(clock: &Arc<StoreClock>) -> Self {
        Self { clock: Arc::clone(clock), sent: Mutex::new(SystemTime::now()) }
    }
}

impl Intercept for Listen {
    fn name(&self) -> &'static str {
        "Listen"
    }

    /// Before each attempt: one that is sent again has its own time.
    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner) = SystemTime::now();
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        // An answer without a date, or with none that is one, says nothing.
        let date = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
        if let Some(seconds) = date.and_then(|date| u64::try_from(date.timestamp().as_second()).ok()) {
            let sent = *self.sent.lock().unwrap_or_else(PoisonError::into_inner);
            self.clock.heard(sent, SystemTime::UNIX_EPOCH + Duration::from_secs(seconds), SystemTime::now());
        }
        Ok(())
    }
}
