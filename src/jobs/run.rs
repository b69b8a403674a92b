//! Jobs at work: carried out by whichever replica takes a part.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

use super::book::{JobError, Jobs, part_id};
use super::item::Item;
use super::plan::{self, ItemId, Job, JobKind, JobState, LEASE, Part, Progress};
use super::record::write_part;
use crate::ids::{CredentialRef, CustomerId};
use crate::store::{Decision, Extent, Met, OperationRow, Page, StoreError, WriteId, change, row_time};

/// Items that are read at once.
const PAGE: usize = 256;
/// Items between two checkpoints, at most. Each is a write of its own, before which all that it tells of must have ended.
const STRETCH: usize = 16 * PAGE;
/// A checkpoint is written at least so often, well within a lease, also where a rate or the store makes a stretch long.
const STRETCH_SECONDS: f64 = 5.0;
/// Customers under way at once: KMS is asked for each.
const CUSTOMERS_AT_ONCE: usize = 32;
/// Between two looks for work.
const LOOK: Duration = Duration::from_secs(2);
/// How long a job gives way to callers, before each page.
const GIVES_WAY: Duration = Duration::from_secs(1);
/// How often a replica looks how many others share a rate with it.
const SHARE_AGAIN: Duration = Duration::from_secs(10);

/// Looks for work and does it until `stop`; then its parts are free for others at once. Each kind has a worker of its own, as a dry run
/// and not, so that none waits for another.
pub async fn work_until(jobs: Arc<Jobs>, stop: watch::Receiver<bool>) {
    let workers = JobKind::ALL.iter().flat_map(|kind| [(*kind, false), (*kind, true)]);
    join_all(workers.map(|(kind, dry_run)| work_on_kind(&jobs, kind, dry_run, stop.clone()))).await;
}

async fn work_on_kind(jobs: &Jobs, kind: JobKind, dry_run: bool, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        match jobs.work(kind, dry_run, &mut stop).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => warn!(%error, "a job can't go on now; it does when it can"),
        }
        tokio::select! {
            () = sleep(LOOK) => {}
            () = stopped(&mut stop) => {}
        }
    }
}

impl Jobs {
    /// Takes one part of the running job of a kind to its end, or to where it can't go on. Answers whether there was anything to do.
    ///
    /// # Errors
    /// A [`JobError`]: what was done until then stands.
    pub async fn work(&self, kind: JobKind, dry_run: bool, stop: &mut watch::Receiver<bool>) -> Result<bool, JobError> {
        let running = self.running(kind, dry_run).await?;
        self.1.of(kind, dry_run).running.set(f64::from(u8::from(running.is_some())));
        let Some(job) = running.filter(|_| !self.0.restored && self.knows_the_time()) else { return Ok(false) };
        let ours = self.0.reporter.present().await;
        let can_seal = kind != JobKind::Reencryption || dry_run || ours.environment.is_some();
        if !can_seal || !job.suits(&ours) {
            return Ok(false);
        }
        if job.pass_time.is_none() {
            return self.begin(&job).await;
        }
        let now = (self.0.clock)();
        let (mut pass, mut done) = (Progress::default(), 0);
        for index in 0..job.parts {
            let (part, written) = self.part(&job, index).await?;
            if part.is_free(now) && self.knows_the_time() && self.take(&job, index, part.clone(), written, stop).await?
            {
                return Ok(true);
            }
            done += u32::from(part.is_done);
            pass.add(&part.progress);
        }
        if done < job.parts {
            return Ok(false);
        }
        let settled = self.settled(&job).await?;
        let next = plan::after_pass(&job, &pass, settled, row_time((self.0.clock)()));
        self.finish(&job.id, |present| (*present == job).then(|| next.clone())).await?;
        Ok(true)
    }

    /// Begins the pass that waits, if it may begin now.
    async fn begin(&self, job: &Job) -> Result<bool, JobError> {
        let settled = self.settled(job).await?;
        let now = row_time((self.0.clock)());
        let Some(begun) = plan::begun(job, settled, now) else { return Ok(false) };
        self.finish(&job.id, |present| (present == job).then(|| begun.clone())).await?;
        Ok(true)
    }

    async fn settled(&self, job: &Job) -> Result<Option<Timestamp>, JobError> {
        let staleness = self.0.keyring.customer_staleness().try_into().unwrap_or(jiff::SignedDuration::MAX);
        let (reported, now) = (self.reported().await?, (self.0.clock)());
        // It may seal below the target: nobody can tell.
        if reported.unreadable(now) > 0 {
            return Ok(None);
        }
        Ok(plan::settled(job, &self.0.reporter.by_our_time(reported.replicas, now), staleness, now))
    }

    /// Takes the lease of a part and works through it. Answers false if somebody else has it.
    async fn take(
        &self,
        job: &Job,
        index: u32,
        part: Part,
        written: Option<WriteId>,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<bool, JobError> {
        let Some((mut part, mut written)) = self.checkpoint(job, index, part, written, true).await? else {
            return Ok(false);
        };
        let mut pace = Pace::default();
        while !part.is_done {
            let worked = tokio::select! {
                worked = self.stretch(job, index, &part, &mut pace) => worked,
                () = stopped(stop) => {
                    self.checkpoint(job, index, part, written, false).await?;
                    return Ok(true);
                }
            };
            let next = match worked {
                Ok(next) => next,
                Err(error) => {
                    // Another replica may have more luck.
                    self.checkpoint(job, index, part, written, false).await?;
                    return Err(error);
                }
            };
            let holds = !next.is_done;
            match self.checkpoint(job, index, next, written, holds).await? {
                Some(next) => (part, written) = next,
                // The lease lapsed, and somebody else took it.
                None => return Ok(true),
            }
            if self.job(&job.id).await?.state != JobState::Running {
                return Ok(true);
            }
            if !part.is_done && !self.knows_the_time() {
                self.checkpoint(job, index, part, written, false).await?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Leases, and that a replica is gone, are told by the clock. If it may be wrong, that is logged where it is found out.
    fn knows_the_time(&self) -> bool {
        self.0.directory.check_clock().is_ok()
    }

    /// The part after a stretch of it. A page is read before all of the one before it is written, so that writes that are on their way to the
    /// disk are not waited for.
    async fn stretch(&self, job: &Job, index: u32, part: &Part, pace: &mut Pace) -> Result<Part, JobError> {
        let (began, mut next) = (Instant::now(), part.clone());
        let at_once = self.at_once(job.kind);
        let mut under_way = FuturesUnordered::new();
        pace.share(self, job).await?;
        let mut left = pace.stretch();
        loop {
            self.give_way().await;
            let page = self.items(job, index, next.after.as_ref(), left.min(PAGE)).await?;
            left = left.saturating_sub(page.rows.len());
            next.is_done = page.next.is_none();
            next.after = page.next.or_else(|| page.rows.last().map(Item::id)).or(next.after);
            for item in page.rows {
                if under_way.len() == at_once
                    && let Some((id, outcome)) = under_way.next().await
                {
                    next.progress.take(id, &outcome?);
                }
                let at = pace.next();
                under_way.push(async move {
                    if let Some(at) = at {
                        sleep_until(at).await;
                    }
                    (item.id(), self.work_on_item(job, &item).await)
                });
            }
            let is_long = left == 0 || began.elapsed().as_secs_f64() >= STRETCH_SECONDS;
            if next.is_done || is_long || !self.knows_the_time() {
                break;
            }
        }
        while let Some((id, outcome)) = under_way.next().await {
            next.progress.take(id, &outcome?);
        }
        Ok(next)
    }

    /// Items under way at once: they share the store's commits, or its round trips.
    fn at_once(&self, kind: JobKind) -> usize {
        match kind {
            JobKind::Reencryption => self.0.credentials.writes_at_once(),
            JobKind::CustomerKeyRotation | JobKind::Rewrap => CUSTOMERS_AT_ONCE,
        }
    }

    /// The next things that a part holds.
    async fn items(
        &self,
        job: &Job,
        index: u32,
        after: Option<&ItemId>,
        limit: usize,
    ) -> Result<Page<Item, ItemId>, StoreError> {
        match (job.kind, &job.customer) {
            (JobKind::Reencryption, customer) => {
                let extent = match customer {
                    Some(customer) => Extent::Customer(customer.clone()),
                    None => Extent::Part { index, of: job.parts },
                };
                let page = self.0.credentials.scan(&extent, after.and_then(credential).as_ref(), limit).await?;
                let next = page.next.map(|id| ItemId { customer: id.customer, credential: Some(id.credential) });
                Ok(Page { rows: page.rows.into_iter().map(Item::Record).collect(), next })
            }
            (JobKind::CustomerKeyRotation | JobKind::Rewrap, Some(customer)) => {
                let row = match self.0.customers.get(customer).await {
                    Ok(row) => row.map(Ok),
                    Err(error @ (StoreError::Corrupt(_) | StoreError::Newer)) => Some(Err(error)),
                    Err(error) => return Err(error),
                };
                let met = row.map(|row| Item::Customer(Met { id: customer.clone(), row }));
                Ok(Page { rows: met.into_iter().collect(), next: None })
            }
            (JobKind::CustomerKeyRotation | JobKind::Rewrap, None) => {
                let after: Option<&CustomerId> = after.map(|id| &id.customer);
                let page = self.0.customers.scan(after, limit).await?;
                let next = page.next.map(|customer| ItemId { customer, credential: None });
                Ok(Page { rows: page.rows.into_iter().map(Item::Customer).collect(), next })
            }
        }
    }

    /// Writes how far a part has come, under a lease that is renewed, or given up. `None`: somebody else has it.
    async fn checkpoint(
        &self,
        job: &Job,
        index: u32,
        part: Part,
        written: Option<WriteId>,
        holds: bool,
    ) -> Result<Option<(Part, Option<WriteId>)>, JobError> {
        let until = row_time((self.0.clock)()).checked_add(LEASE).unwrap_or(Timestamp::MAX);
        let part = Part { holder: self.0.reporter.id().to_string(), lease_time: holds.then_some(until), ..part };
        let (write_id, id) = (WriteId::random()?, part_id(&job.id, index));
        let row = OperationRow { id: id.clone(), write_id, body: write_part(&part) };
        let is_ours = change(self.0.operations.as_ref(), &id, |present: Option<OperationRow>| {
            let present = present.map(|row| row.write_id);
            let decision = if present == written {
                Decision::Replace(row.clone(), true)
            } else {
                // Ours, and only its answer was lost; or another's.
                Decision::Done(present == Some(write_id))
            };
            std::future::ready(Ok::<_, JobError>(decision))
        })
        .await?;
        Ok(is_ours.then_some((part, Some(write_id))))
    }

    async fn give_way(&self) {
        let until = Instant::now() + GIVES_WAY;
        while (self.0.is_busy)() && Instant::now() < until {
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// When the next item may begin, by this replica's share of the job's rate.
#[derive(Default)]
struct Pace {
    /// Items a second. `None`: as fast as it goes.
    share: Option<f64>,
    known: Option<Instant>,
    next: Option<Instant>,
}

impl Pace {
    /// Looks who else works, from time to time.
    async fn share(&mut self, jobs: &Jobs, job: &Job) -> Result<(), JobError> {
        let Some(rate) = job.rate else { return Ok(()) };
        if self.known.is_some_and(|known| known.elapsed() < SHARE_AGAIN) {
            return Ok(());
        }
        let now = (jobs.0.clock)();
        let reported = jobs.0.reporter.by_our_time(jobs.reported().await?.replicas, now);
        let alive = reported.iter().filter(|replica| replica.is_alive(now)).count();
        let at_work = alive.clamp(1, job.parts.max(1) as usize);
        self.share = Some(f64::from(rate.get()) / at_work as f64);
        self.known = Some(Instant::now());
        Ok(())
    }

    /// Items of a stretch.
    fn stretch(&self) -> usize {
        let within = self.share.map_or(STRETCH as f64, |share| share * STRETCH_SECONDS);
        (within as usize).clamp(1, STRETCH)
    }

    fn next(&mut self) -> Option<Instant> {
        let interval = Duration::from_secs_f64(1.0 / self.share?);
        let at = self.next.unwrap_or_else(Instant::now).max(Instant::now());
        self.next = Some(at + interval);
        Some(at)
    }
}

fn credential(id: &ItemId) -> Option<CredentialRef> {
    Some(CredentialRef { customer: id.customer.clone(), credential: id.credential.clone()? })
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Without a sender nobody says so any more.
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests;
