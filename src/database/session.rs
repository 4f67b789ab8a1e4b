//! Reads of a session: by a replica that has read as far as the session has, at once or a moment later, else by the primary.

use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use smallvec::SmallVec;
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

impl Database {
    /// Where the sampler found the primary, while it is one.
    pub fn primary_position(&self) -> Option<Position> {
        let node = self.shared.primary()?;
        let reading = node.sampled.load().as_deref().filter(|sampled| sampled.leads())?.reading?;
        reading.position().filter(|_| !self.shared.is_outrun(&reading))
    }
}

impl Shared {
    /// A read that sees all up to a position; who has seen nothing is served by anybody.
    pub(super) async fn session<T>(
        &self,
        seen: Option<Position>,
        deadline: Instant,
        query: &impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>,
    ) -> Result<(T, Served), Error> {
        let Some(seen) = seen else { return self.eventual(None, deadline, query).await };
        let highest = *self.highest.lock();
        match highest {
            Some((system, timeline)) if (system, timeline) == (seen.system, seen.timeline) => {
                match self.caught_up(seen, deadline, query).await? {
                    Some(answer) => Ok(answer),
                    None => self.strong(Some(seen), deadline, query).await,
                }
            }
            // A position on another branch proves nothing on this one, where what was written there may be lost. The primary shows
            // what is left.
            Some((system, timeline)) if system != seen.system || timeline > seen.timeline => {
                self.strong(None, deadline, query).await
            }
            // It is from a primary that this instance has not met yet.
            _ => self.strong(Some(seen), deadline, query).await,
        }
    }

    /// The answer of a replica that is as far, or gets there while it is waited for.
    async fn caught_up<T>(
        &self,
        seen: Position,
        deadline: Instant,
        query: &impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>,
    ) -> Result<Option<(T, Served)>, Error> {
        let until = deadline.min(Instant::now() + self.session_wait);
        let mut failed: SmallVec<[usize; 4]> = SmallVec::new();
        loop {
            let mut may_come = false;
            for index in self.order(Instant::now()) {
                let Some(node) = self.nodes.get(index).filter(|_| !failed.contains(&index)) else { continue };
                if !self.has_replayed(node, seen, until).await {
                    may_come |= flows(node);
                    continue;
                }
                match self.attempt(node, Some(seen), deadline, Others::Left, query).await {
                    Ok(answer) => return Ok(Some(answer)),
                    Err(Failure::Final(error)) => return Err(error),
                    Err(Failure::Late) => return Err(late()),
                    Err(Failure::Behind) => may_come = true,
                    Err(Failure::Busy | Failure::Elsewhere(..)) => failed.push(index),
                }
            }
            let now = Instant::now();
            if !may_come || seen.lsn.is_never() || now >= until {
                return Ok(None);
            }
            let pause = LOOK_INTERVAL.mul_f64(1.0 + fastrand::f64());
            sleep_until((now + pause).min(until).into()).await;
        }
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
