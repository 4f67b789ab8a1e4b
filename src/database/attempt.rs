//! One attempt of a read on one node: a connection, proof of how far the node has read, the query, and what its failure means.

use std::fmt::Display;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use diesel::QueryResult;
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use tokio::time::{sleep, timeout, timeout_at};

use super::classify::Meaning;
use super::connect::Link;
use super::node::Node;
use super::pools::{Lease, NoConnection};
use super::read::{Served, Shared, in_transaction};
use super::wire::SqlState;
use crate::config::settings::Pooler;
use crate::error::{Code, Error};
use crate::nodes::breaker::BreakerState;
use crate::position::{Position, SystemId, Timeline};
use crate::telemetry::traces;
use crate::telemetry::traces::{Span, SpanKind};

/// How often an attempt looks whether its node is still there.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// How long the only node that may answer is given, although the sampler finds it gone.
const LAST_CHANCE_TIME: Duration = Duration::from_secs(1);

/// Why an attempt brought no value.
pub(super) enum Failure {
    /// Another node may do better; the text is for the log.
    Elsewhere(Meaning, String),
    /// All connections of the node are in use.
    Busy,
    /// The deadline has come.
    Late,
    /// The node is well, and has not read as far as is asked.
    Behind,
    /// The answer is an error, wherever it is asked.
    Final(Error),
}

impl Failure {
    /// The stable name, for traces.
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Self::Elsewhere(meaning, _) => meaning.as_str(),
            Self::Busy => "busy",
            Self::Late => "late",
            Self::Behind => "behind",
            Self::Final(error) => error.code.as_str(),
        }
    }
}

/// The span of what is asked of one node. What is asked, and with which values, it does not say.
pub(super) fn query_span(name: &'static str, node: &Node) -> Span {
    let mut span = traces::span(name, SpanKind::Client);
    span.set("db.system.name", "postgresql");
    span.set("mainstay.node", node.name());
    span
}

/// Tells a span what was wrong, where that was not the request itself.
pub(super) fn tell<T>(span: &mut Span, outcome: &Result<T, Failure>) {
    match outcome {
        Ok(_) => {}
        Err(Failure::Final(error)) if !error.code.is_source_failure() => {
            span.set("error.type", error.code.as_str());
        }
        Err(failure) => span.fail(failure.as_str()),
    }
}

/// Whether other nodes may answer as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    Left,
    None,
    /// All have been asked, or are let alone as this one is: its breaker does not count.
    AllOpen,
}

impl Shared {
    /// Twice on the same node, where nobody else may answer: the first connection may have died with a restart.
    pub(super) async fn insist<T>(
        &self,
        node: &Node,
        at_least: Option<Position>,
        deadline: Instant,
        query: &impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>,
    ) -> Result<(T, Served), Failure> {
        match self.attempt(node, at_least, deadline, Others::None, query).await {
            Err(Failure::Elsewhere(..)) => self.attempt(node, at_least, deadline, Others::None, query).await,
            outcome => outcome,
        }
    }

    pub(super) async fn attempt<T>(
        &self,
        node: &Node,
        at_least: Option<Position>,
        deadline: Instant,
        others: Others,
        query: &impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>,
    ) -> Result<(T, Served), Failure> {
        let began = Instant::now();
        if !node.measured.admit(began) && others != Others::AllOpen {
            return Err(Failure::Elsewhere(Meaning::Node, format!("the breaker of {} is open", node.name())));
        }
        let mut span = query_span("query", node);
        let work = async {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.once(node, node.pool.lease(left).await, at_least, query).await {
                // Other connections of the pool may remember the same plan. Each is dropped as it is met.
                Err(Failure::Elsewhere(Meaning::StalePlan, _)) => {
                    match self.once(node, node.pool.fresh().await, at_least, query).await {
                        Err(Failure::Elsewhere(Meaning::StalePlan, told)) => {
                            Err(Failure::Final(self.query_failed(node, None, &told)))
                        }
                        outcome => outcome,
                    }
                }
                // Nobody else may answer, or this is the trial of the breaker: a new connection tells how the node is.
                Err(Failure::Elsewhere(Meaning::Lost, _))
                    if others != Others::Left
                        || node.measured.breaker_state(Instant::now()) != BreakerState::Closed =>
                {
                    self.once(node, node.pool.fresh().await, at_least, query).await
                }
                outcome => outcome,
            }
        };
        let outcome = tokio::select! {
            biased;
            outcome = timeout_at(deadline.into(), work) => outcome.unwrap_or(Err(Failure::Late)),
            () = gone(node, others) => Err(Failure::Elsewhere(Meaning::Node, "it stopped answering".to_owned())),
        };
        self.settle(node, began, &outcome);
        tell(&mut span, &outcome);
        outcome
    }

    /// Tries out a node that was let alone, and that nobody asks since: as a read would, on a new connection. The one of its sampler may
    /// be well while no other can be had, so that an answer to a probe is no proof. It counts as no read, unless it fails. It takes
    /// `database.connect_timeout` and `database.statement_timeout` at most: a new connection takes a node far away many round trips.
    pub(super) async fn try_out(&self, node: &Node) {
        let began = Instant::now();
        if !node.measured.is_unasked(began) || !node.measured.admit(began) {
            return;
        }
        let query = async |connection: &mut AsyncPgConnection| connection.batch_execute("SELECT 1").await;
        let connection = node.pool.fresh().await;
        let patience = node.pool.connector().statement_timeout();
        let outcome = timeout(patience, self.once(node, connection, None, &query)).await.unwrap_or(Err(Failure::Late));
        let now = Instant::now();
        match outcome {
            Ok(_) | Err(Failure::Final(_)) => node.measured.answered(now),
            Err(Failure::Elsewhere(Meaning::Node | Meaning::Lost, reason)) => node.measured.failed(now, &reason),
            Err(Failure::Late) => node.measured.failed(now, &"no answer within database.statement_timeout"),
            // There was no connection to be had, or what it replays came between, which says nothing of the node.
            Err(Failure::Elsewhere(..) | Failure::Busy | Failure::Behind) => node.measured.give_back(began, now),
        }
    }

    /// Tells the node what an attempt on it, which it let in at `began`, has come to.
    pub(super) fn settle<T>(&self, node: &Node, began: Instant, outcome: &Result<T, Failure>) {
        let now = Instant::now();
        match outcome {
            Ok(_) | Err(Failure::Final(_)) => node.measured.succeeded(now, now.saturating_duration_since(began)),
            Err(Failure::Elsewhere(Meaning::Node, reason)) => node.measured.failed(now, reason),
            Err(Failure::Elsewhere(Meaning::Lost, reason)) => {
                node.measured.lost_connection(now, reason);
                // It may have died long before, and whoever tries once more has to be let in.
                node.measured.give_back(began, now);
            }
            Err(Failure::Late) if !node.may_be_up() => node.measured.failed(now, &"no answer until the deadline"),
            // The next trial might take as long: it waits for its turn.
            Err(Failure::Late) => {}
            Err(Failure::Elsewhere(..)) => {
                node.conflicts.fetch_add(1, Ordering::Relaxed);
                node.measured.give_back(began, now);
            }
            Err(Failure::Busy | Failure::Behind) => node.measured.give_back(began, now),
        }
    }

    /// The connection, or what its lack means.
    pub(super) fn leased(&self, node: &Node, lease: Result<Lease, NoConnection>) -> Result<Lease, Failure> {
        lease.map_err(|error| match error {
            NoConnection::Busy => Failure::Busy,
            // The server has no more connections to give: those of the pool are in use, and well.
            NoConnection::Failed(error) if error.state.is_some_and(|state| state.as_str() == "53300") => {
                self.say(node, error.state, log::Level::Warn, "a connection was refused", &error);
                Failure::Busy
            }
            NoConnection::Failed(error) => Failure::Elsewhere(Meaning::Node, error.to_string()),
            NoConnection::Closed => Failure::Final(Error::new(Code::Draining, "the server is shutting down")),
        })
    }

    async fn once<T>(
        &self,
        node: &Node,
        lease: Result<Lease, NoConnection>,
        at_least: Option<Position>,
        query: &impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>,
    ) -> Result<(T, Served), Failure> {
        let mut lease = self.leased(node, lease)?;
        let has_served = lease.has_served();
        let Some(link) = lease.link() else { return Err(Failure::Busy) };
        let _earlier = link.take_sqlstate();
        let outcome = async {
            let Some(reached) = self.prove(node, link, at_least).await? else { return Ok(None) };
            let value = self.run(link, node.pool.connector().pooler(), query).await?;
            Ok(Some((value, Served { reached, branch: branch(node), ..node.served.clone() })))
        };
        let error = match outcome.await {
            Ok(outcome) => {
                lease.give_back();
                return outcome.ok_or(Failure::Behind);
            }
            Err(error) => error,
        };
        let state = link.take_sqlstate();
        let failure = self.failure(node, &error, state, has_served);
        if !matches!(failure, Failure::Elsewhere(Meaning::Node | Meaning::Lost | Meaning::StalePlan, _)) {
            lease.give_back();
        }
        Err(failure)
    }

    /// What an error of a statement means.
    pub(super) fn failure(
        &self,
        node: &Node,
        error: &diesel::result::Error,
        state: Option<SqlState>,
        has_served: bool,
    ) -> Failure {
        let told = Told { node: node.name(), state: state.as_ref().map_or("-", |state| state.as_str()), error };
        match Meaning::of(error, state) {
            Meaning::Node if has_served => Failure::Elsewhere(Meaning::Lost, told.to_string()),
            meaning @ (Meaning::Node | Meaning::Lost | Meaning::Conflict | Meaning::StalePlan) => {
                Failure::Elsewhere(meaning, told.to_string())
            }
            Meaning::NotFound => Failure::Final(Error::new(Code::NotFound, "there is no such row")),
            Meaning::Timeout => {
                self.say(node, state, log::Level::Warn, "a query was cancelled", &told);
                Failure::Final(Error::new(Code::SourceTimeout, "the query took longer than its statement timeout"))
            }
            Meaning::Locked => Failure::Final(Error::new(Code::Overloaded, "others hold what this needs for too long")),
            Meaning::Query => Failure::Final(self.query_failed(node, state, &told)),
        }
    }

    pub(super) fn query_failed(&self, node: &Node, state: Option<SqlState>, told: &dyn Display) -> Error {
        self.say(node, state, log::Level::Error, "a query failed", told);
        Error::new(Code::QueryFailed, "the query failed; the log says why")
    }

    /// What goes wrong with one request goes wrong with the next: the log hears of it now and then.
    pub(super) fn say(&self, node: &Node, state: Option<SqlState>, level: log::Level, what: &str, told: &dyn Display) {
        if let Some(kept_back) = self.said.may_say(Instant::now(), (node.name().clone(), state)) {
            log::log!(level, kept_back; "{what}: {told}");
        }
    }

    /// Behind a pooler in transaction mode, prepared statements must be prepared, run and closed on one server: inside one
    /// transaction.
    async fn run<T>(
        &self,
        link: &mut Link,
        pooler: Pooler,
        query: &impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>,
    ) -> QueryResult<T> {
        match pooler {
            Pooler::None => query(&mut link.connection).await,
            Pooler::Transaction => in_transaction(&mut link.connection, &self.begin, query).await,
        }
    }
}

/// The branch that the sampler found a node on.
fn branch(node: &Node) -> Option<(SystemId, Timeline)> {
    let position = node.sampled.load().as_deref()?.reading?.position()?;
    Some((position.system, position.timeline))
}

/// What the log says of a failed query. The client is told nothing of it.
struct Told<'a> {
    node: &'a str,
    state: &'a str,
    error: &'a diesel::result::Error,
}

impl Display for Told<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on {}: {}", self.state, self.node, self.error)
    }
}

/// Comes back once the sampler finds the node gone. A query that takes long on a node that answers is not disturbed.
pub(super) async fn gone(node: &Node, others: Others) {
    sleep(if others == Others::Left { WATCH_INTERVAL } else { LAST_CHANCE_TIME }).await;
    while node.may_be_up() {
        sleep(WATCH_INTERVAL).await;
    }
}
