//! Reads of a session: by a replica that has read as far as the session has, at once or a moment later, else by the primary.

use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use tokio::time::{sleep_until, timeout_at};

use super::attempt::{Failure, Others};
use super::node::Node;
use super::proof::check;
use super::read::{Database, Shared, late};
use super::served::Served;
use crate::error::Error;
use crate::position::Position;

/// How often those who wait look whether a replica has got there; spread, so that they do not look all at once.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// How long it may take to say so.
const LOOK_TIME_MAX: Duration = Duration::from_millis(50);
/// How long a replica is not asked again that did not answer how far it is.
const REST_TIME: Duration = Duration::from_millis(250);

/// How far a replica said that it is, between two samples.
#[derive(Clone, Copy, Debug)]
pub struct Looked {
    /// When it was asked.
    pub asked_at: Instant,
    /// What it said.
    pub position: Position,
}

/// Where a position lies, as far as this instance knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Branch {
    /// On the newest branch.
    Ours,
    /// On another one: it proves nothing here, where what was written there may be lost. The primary shows what is left.
    Other,
    /// On one that this instance has not met yet: it may know no primary any more.
    Unknown,
}

impl Database {
    /// Waits, `consistency.session_wait` at most, until a replica has read up to a position, where one is on its way: a read that
    /// begins then need not go to the primary. Waiting takes no connection, and no place among the sources that run.
    pub async fn catch_up(&self, seen: Position) {
        self.shared.catch_up(seen).await;
    }

    /// Where the sampler found the primary, while it is one.
    pub fn primary_position(&self) -> Option<Position> {
        let node = self.shared.primary()?;
        let reading = node.sampled.load().as_deref().filter(|sampled| sampled.leads())?.reading?;
        reading.position().filter(|_| !self.shared.is_outrun(&reading))
    }
}

impl Shared {
    async fn catch_up(&self, seen: Position) {
        let until = Instant::now() + self.session_wait;
        if seen.lsn.is_never() || self.branch_of(seen) != Branch::Ours {
            return;
        }
        loop {
            let mut may_come = false;
            for index in self.order(Instant::now()) {
                let Some(node) = self.nodes.get(index) else { continue };
                if self.has_replayed(node, seen, until).await {
                    return;
                }
                may_come |= flows(node);
            }
            let now = Instant::now();
            if !may_come || now >= until {
                return;
            }
            let pause = LOOK_INTERVAL.mul_f64(1.0 + fastrand::f64());
            sleep_until((now + pause).min(until).into()).await;
        }
    }

    /// A read that sees all up to a position, by a replica that is there or else the primary; who has seen nothing is served by
    /// anybody.
    pub(super) async fn session<T>(
        &self,
        seen: Option<Position>,
        deadline: Instant,
        query: &impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>,
    ) -> Result<(T, Served), Error> {
        let Some(seen) = seen else { return self.eventual(None, deadline, query).await };
        match self.branch_of(seen) {
            Branch::Ours => match self.by_replica(seen, deadline, query).await? {
                Some(answer) => Ok(answer),
                None => self.strong(Some(seen), deadline, query).await,
            },
            Branch::Other => self.strong(None, deadline, query).await,
            Branch::Unknown => self.strong(Some(seen), deadline, query).await,
        }
    }

    fn branch_of(&self, seen: Position) -> Branch {
        match *self.highest.lock() {
            Some((system, timeline)) if system == seen.system && timeline == seen.timeline => Branch::Ours,
            Some((system, timeline)) if system != seen.system || timeline > seen.timeline => Branch::Other,
            _ => Branch::Unknown,
        }
    }

    async fn by_replica<T>(
        &self,
        seen: Position,
        deadline: Instant,
        query: &impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>,
    ) -> Result<Option<(T, Served)>, Error> {
        for index in self.order(Instant::now()) {
            let Some(node) = self.nodes.get(index) else { continue };
            if !self.has_replayed(node, seen, deadline).await {
                continue;
            }
            match self.attempt(node, Some(seen), deadline, Others::Left, query).await {
                Ok(answer) => return Ok(Some(answer)),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Late) => return Err(late()),
                Err(Failure::Behind | Failure::Busy | Failure::Elsewhere(..)) => {}
            }
        }
        Ok(None)
    }

    /// Whether a replica is known to be at a position, by the sampler or by a look.
    async fn has_replayed(&self, node: &Node, seen: Position, until: Instant) -> bool {
        let is_known = || node.known_position().is_some_and(|known| known.reaches(&seen));
        if is_known() {
            return true;
        }
        if seen.lsn.is_never() {
            return false;
        }
        self.look(node, until).await;
        is_known()
    }

    /// Asks a replica how far it is. All who want to know share one question: however many wait, it is asked as often as one
    /// would ask.
    async fn look(&self, node: &Node, until: Instant) {
        let until = until.min(Instant::now() + LOOK_TIME_MAX);
        let Ok(mut not_before) = timeout_at(until.into(), node.looking.lock()).await else { return };
        let asked_at = Instant::now();
        if not_before.is_some_and(|time| asked_at < time) {
            return;
        }
        let ask = async {
            let mut lease = node.pool.lease(until.saturating_duration_since(asked_at)).await.ok()?;
            let link = lease.link()?;
            let position = check(&mut link.connection, node.pool.connector().pooler(), &self.begin).await.ok()?;
            lease.give_back();
            position
        };
        let pause = match timeout_at(until.into(), ask).await {
            Ok(Some(position)) => {
                node.looked.store(Some(Arc::new(Looked { asked_at, position })));
                LOOK_INTERVAL
            }
            Ok(None) | Err(_) => REST_TIME,
        };
        *not_before = Some(asked_at + pause);
    }
}

/// Whether the sampler found WAL flowing to a replica: else there is nothing to wait for.
fn flows(node: &Node) -> bool {
    let sampled = node.sampled.load();
    sampled.as_ref().and_then(|sampled| sampled.reading).is_some_and(|reading| reading.streaming && !reading.paused)
}
