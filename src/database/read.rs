//! Routing of reads: the fastest eligible replica, the other ones, the primary; strong reads on the primary alone.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use diesel::QueryResult;
use diesel_async::{AnsiTransactionManager, AsyncPgConnection, TransactionManager};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout_at};

use super::classify::Meaning;
use super::connect::{Connector, Link, Session};
use super::lag::{self, Bounds, History};
use super::node::Node;
use super::pools::{NoConnection, Pool};
use super::sampler;
use super::status::{DatabaseStatus, NodeCounts, NodeStatus};
use crate::config::ConfigError;
use crate::config::settings::{DatabaseSettings, DatabaseUrl, NodeSettings, Pooler, ReplicationSettings, Settings};
use crate::error::{Code, Error};
use crate::nodes::breaker::Breaker;
use crate::nodes::select::{Candidate, Pick};

/// How often an attempt looks whether its node is still there.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// Which nodes may answer a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// Any eligible replica, else the primary.
    Eventual,
    /// A replica at or past the caller's token; without tokens the primary.
    Session,
    /// The primary.
    Strong,
}

/// The part that a node plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The writable Postgres.
    Primary,
    /// A streaming read-only Postgres.
    Replica,
}

/// Who answered a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// `primary`, `replica-1`, …
    pub node: Arc<str>,
    /// Its part.
    pub role: Role,
}

/// The databases of this instance.
pub struct Database {
    pub(super) shared: Arc<Shared>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What requests and samplers share.
pub struct Shared {
    /// The primary first, then the replicas in the order of the configuration.
    pub nodes: Vec<Node>,
    /// The primary's positions.
    pub history: Mutex<History>,
    /// Sampling and bounds.
    pub replication: ReplicationSettings,
    bounds: Bounds,
    node_settings: NodeSettings,
    pick: Mutex<Pick>,
    strong: Semaphore,
    fallback: Semaphore,
    /// What begins each transaction behind a pooler.
    begin: String,
}

impl Database {
    /// Sets the nodes up and starts their samplers on the current runtime. No server needs to be there yet.
    ///
    /// # Errors
    /// When a URL cannot be used, with the name of its key.
    pub fn start(settings: &Settings) -> Result<Arc<Self>, ConfigError> {
        let shared = Arc::new(Shared::new(settings)?);
        let sampler = |index| tokio::spawn(sampler::run(shared.clone(), index));
        let tasks = (0..shared.nodes.len()).map(sampler).collect();
        Ok(Arc::new(Self { shared, tasks: Mutex::new(tasks) }))
    }

    /// Runs a read where the consistency allows, on another node where one fails, until the deadline. The closure may run
    /// again on another node, so it only reads.
    ///
    /// # Errors
    /// `database_unavailable`, `strong_unavailable`, `source_timeout`, `overloaded` where nobody could answer in time;
    /// `query_failed` or `not_found` where the query itself is at fault.
    pub async fn read<T>(
        &self,
        consistency: Consistency,
        deadline: Instant,
        query: impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>,
    ) -> Result<(T, Served), Error> {
        match consistency {
            Consistency::Eventual => self.shared.eventual(deadline, &query).await,
            Consistency::Session | Consistency::Strong => self.shared.strong(deadline, &query).await,
        }
    }

    /// What the samplers know. Asks nobody.
    pub fn status(&self) -> DatabaseStatus {
        let now = Instant::now();
        DatabaseStatus { at: now, nodes: self.shared.nodes.iter().map(|node| self.shared.status_of(node, now)).collect() }
    }

    /// Stops the samplers and hands out no connection any more.
    pub fn shutdown(&self) {
        self.tasks.lock().drain(..).for_each(|task| task.abort());
        self.shared.nodes.iter().for_each(|node| node.pool.close());
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Why an attempt brought no value.
enum Failure {
    /// Another node may do better; the text is for the log.
    Elsewhere(Meaning, String),
    /// All connections of the node are in use.
    Busy,
    /// The deadline has come.
    Late,
    /// The answer is an error, wherever it is asked.
    Final(Error),
}

impl Shared {
    fn new(settings: &Settings) -> Result<Self, ConfigError> {
        let database = &settings.database;
        let mut nodes = vec![node("database.url", "primary".into(), Role::Primary, &database.url, settings)?];
        for (index, url) in database.read_replica_urls.list().iter().enumerate() {
            let name = format!("replica-{}", index + 1).into();
            nodes.push(node("database.read_replica_urls", name, Role::Replica, url, settings)?);
        }
        let replication = settings.replication.clone();
        let overdue = replication.sample_interval.0 * 2 + replication.probe_timeout.0;
        Ok(Self {
            nodes,
            history: Mutex::default(),
            bounds: Bounds { lag_max: replication.lag_max.0, overdue },
            replication,
            node_settings: settings.nodes.clone(),
            pick: Mutex::default(),
            strong: Semaphore::new(database.strong_concurrency_max),
            fallback: Semaphore::new(database.primary_fallback_max),
            begin: begin_sql(database),
        })
    }

    fn status_of(&self, node: &Node, now: Instant) -> NodeStatus {
        let sampled = node.sampled.load();
        let sampled = sampled.as_deref();
        let reading = sampled.and_then(|sampled| sampled.reading);
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        NodeStatus {
            name: node.name().clone(),
            role: node.served.role,
            sampled: sampled.is_some(),
            up: sampled.is_some_and(|sampled| sampled.up),
            writable: sampled.is_some_and(lag::Sampled::leads),
            ineligible: if node.is_primary() { None } else { self.eligible(node, now).err() },
            lag: sampled.and_then(|sampled| sampled.lag(now, self.bounds.overdue)),
            flowing: reading.is_some_and(|reading| reading.streaming && !reading.paused),
            timeline: reading.and_then(|reading| reading.timeline),
            lsn: reading.and_then(|reading| reading.lsn),
            breaker: node.breaker_state(now),
            latency: node.latency(),
            pool: node.pool.usage(),
            counts: NodeCounts {
                served: count(&node.counts.served),
                failed: count(&node.counts.failed),
                conflicts: count(&node.counts.conflicts),
                breaker_opened: count(&node.counts.opened),
            },
        }
    }

    fn primary(&self) -> Option<&Node> {
        self.nodes.first()
    }

    fn replicas(&self) -> impl Iterator<Item = (usize, &Node)> {
        self.nodes.iter().enumerate().skip(1)
    }

    fn eligible(&self, node: &Node, now: Instant) -> Result<(), lag::Ineligible> {
        let primary = self.primary().map(|primary| primary.sampled.load());
        let primary = primary.as_ref().and_then(|primary| primary.as_deref());
        let last_heard = self.history.lock().newest();
        lag::eligible(now, node.sampled.load().as_deref(), primary, last_heard, self.bounds)
    }

    /// The replicas to ask, in order: the picked one, then the others by latency.
    fn order(&self, now: Instant) -> SmallVec<[usize; 4]> {
        let candidates: SmallVec<[Candidate; 4]> = self
            .replicas()
            .filter(|(_, node)| self.eligible(node, now).is_ok() && node.would_admit(now))
            .map(|(index, node)| Candidate { node: index, latency: node.latency() })
            .collect();
        let picked = self.pick.lock().choose(now, &candidates, &self.node_settings);
        let mut order = candidates;
        order.sort_by_key(|one| (Some(one.node) != picked, one.latency.unwrap_or(Duration::MAX)));
        order.into_iter().map(|candidate| candidate.node).collect()
    }

    async fn eventual<T>(
        &self,
        deadline: Instant,
        query: &impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>,
    ) -> Result<(T, Served), Error> {
        for index in self.order(Instant::now()) {
            let Some(node) = self.nodes.get(index) else { continue };
            match self.attempt(node, deadline, Others::Left, query).await {
                Ok(value) => return Ok((value, node.served.clone())),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Late) => return Err(late()),
                Err(Failure::Busy) => {}
                Err(Failure::Elsewhere(meaning, _)) => {
                    if meaning == Meaning::Node {
                        self.pick.lock().forget(index);
                    }
                }
            }
        }
        self.fall_back(deadline, query).await
    }

    /// The primary, for reads that prefer a replica. While replicas are configured, few at once: all reads of a region
    /// at once would take the primary down as well.
    async fn fall_back<T>(
        &self,
        deadline: Instant,
        query: &impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>,
    ) -> Result<(T, Served), Error> {
        let unavailable = |detail: &'static str| Err(Error::new(Code::DatabaseUnavailable, detail));
        let Some(node) = self.primary() else { return unavailable("no database is configured") };
        if self.is_standby(node) {
            return unavailable("no replica can answer, and the primary is a standby");
        }
        let _permit = if self.nodes.len() > 1 {
            match timeout_at(deadline.into(), self.fallback.acquire()).await {
                Ok(permit) => permit.ok(),
                Err(_) => return Err(Error::new(Code::Overloaded, "no replica can answer, and the primary has its share")),
            }
        } else {
            None
        };
        match self.insist(node, deadline, query).await {
            Ok(value) => Ok((value, node.served.clone())),
            Err(Failure::Final(error)) => Err(error),
            Err(Failure::Late) => Err(late()),
            Err(Failure::Busy) => Err(Error::new(Code::Overloaded, "all connections to the database are in use")),
            Err(Failure::Elsewhere(_, reason)) => {
                log::warn!("a read found no database: {reason}");
                unavailable("no database can be reached")
            }
        }
    }

    async fn strong<T>(
        &self,
        deadline: Instant,
        query: &impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>,
    ) -> Result<(T, Served), Error> {
        let unavailable = |detail: &'static str| Err(Error::new(Code::StrongUnavailable, detail));
        let Some(node) = self.primary() else { return unavailable("no primary is configured") };
        let Ok(_permit) = self.strong.try_acquire() else { return unavailable("too many strong reads at once") };
        if self.is_standby(node) {
            return unavailable("the primary is a standby");
        }
        match self.insist(node, deadline, query).await {
            Ok(value) => Ok((value, node.served.clone())),
            Err(Failure::Final(error)) => Err(error),
            Err(Failure::Late) if node.may_be_up() => Err(late()),
            Err(Failure::Late) => unavailable("the primary is out of reach"),
            Err(Failure::Busy) => unavailable("all connections to the primary are in use"),
            Err(Failure::Elsewhere(_, reason)) => {
                log::warn!("a strong read found no primary: {reason}");
                unavailable("the primary is out of reach")
            }
        }
    }

    /// The sampler found a configured primary in recovery. What it shows may be older than any replica's data.
    fn is_standby(&self, node: &Node) -> bool {
        let sampled = node.sampled.load();
        sampled.as_ref().and_then(|sampled| sampled.reading).is_some_and(|reading| reading.in_recovery)
    }

    /// Twice on the same node, where nobody else may answer: the first connection may have died with a restart.
    async fn insist<T>(
        &self,
        node: &Node,
        deadline: Instant,
        query: &impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>,
    ) -> Result<T, Failure> {
        match self.attempt(node, deadline, Others::None, query).await {
            Err(Failure::Elsewhere(..)) => self.attempt(node, deadline, Others::None, query).await,
            outcome => outcome,
        }
    }

    async fn attempt<T>(
        &self,
        node: &Node,
        deadline: Instant,
        others: Others,
        query: &impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>,
    ) -> Result<T, Failure> {
        if !node.admit(Instant::now()) {
            return Err(Failure::Elsewhere(Meaning::Node, format!("the breaker of {} is open", node.name())));
        }
        let work = async {
            match self.once(node, deadline, query).await {
                Err(Failure::Elsewhere(Meaning::StalePlan, _)) => self.once(node, deadline, query).await,
                outcome => outcome,
            }
        };
        let outcome = tokio::select! {
            outcome = timeout_at(deadline.into(), work) => outcome.unwrap_or(Err(Failure::Late)),
            () = gone(node), if others == Others::Left => Err(Failure::Elsewhere(Meaning::Node, "it stopped answering".to_owned())),
        };
        match &outcome {
            Ok(_) | Err(Failure::Final(_)) => node.succeeded(),
            Err(Failure::Elsewhere(Meaning::Node, reason)) => node.failed(Instant::now(), reason),
            Err(Failure::Late) if !node.may_be_up() => node.failed(Instant::now(), &"no answer until the deadline"),
            Err(Failure::Elsewhere(..)) => {
                node.counts.conflicts.fetch_add(1, Ordering::Relaxed);
            }
            Err(Failure::Late | Failure::Busy) => {}
        }
        outcome
    }

    async fn once<T>(
        &self,
        node: &Node,
        deadline: Instant,
        query: &impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>,
    ) -> Result<T, Failure> {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut lease = node.pool.lease(left).await.map_err(|error| match error {
            NoConnection::Busy => Failure::Busy,
            NoConnection::Failed(error) => Failure::Elsewhere(Meaning::Node, error.to_string()),
            NoConnection::Closed => Failure::Final(Error::new(Code::Draining, "the server is shutting down")),
        })?;
        let Some(link) = lease.link() else { return Err(Failure::Busy) };
        let _earlier = link.take_sqlstate();
        let error = match self.run(link, node.pool.connector().pooler(), query).await {
            Ok(value) => {
                lease.give_back();
                return Ok(value);
            }
            Err(error) => error,
        };
        let state = link.take_sqlstate();
        let meaning = Meaning::of(&error, state);
        if !matches!(meaning, Meaning::Node | Meaning::StalePlan) {
            lease.give_back();
        }
        let told = Told { node: node.name(), state: state.as_ref().map_or("-", |state| state.as_str()), error: &error };
        Err(match meaning {
            Meaning::Node | Meaning::Conflict | Meaning::StalePlan => Failure::Elsewhere(meaning, told.to_string()),
            Meaning::NotFound => Failure::Final(Error::new(Code::NotFound, "there is no such row")),
            Meaning::Timeout => {
                log::warn!("a query was cancelled: {told}");
                Failure::Final(Error::new(Code::SourceTimeout, "the query took longer than its statement timeout"))
            }
            Meaning::Query => {
                log::error!("a query failed: {told}");
                Failure::Final(Error::new(Code::QueryFailed, "the query failed; the log says why"))
            }
        })
    }

    /// Behind a pooler in transaction mode, prepared statements must be prepared, run and closed on one server: inside one
    /// transaction.
    async fn run<T>(
        &self,
        link: &mut Link,
        pooler: Pooler,
        query: &impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>,
    ) -> QueryResult<T> {
        let connection = &mut link.connection;
        if pooler == Pooler::None {
            return query(connection).await;
        }
        AnsiTransactionManager::begin_transaction_sql(connection, &self.begin).await?;
        match query(connection).await {
            Ok(value) => {
                AnsiTransactionManager::commit_transaction(connection).await?;
                Ok(value)
            }
            Err(error) => {
                let _first_error_counts = AnsiTransactionManager::rollback_transaction(connection).await;
                Err(error)
            }
        }
    }
}

/// Whether other nodes may answer as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Others {
    Left,
    None,
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
async fn gone(node: &Node) {
    sleep(WATCH_INTERVAL).await;
    while node.may_be_up() {
        sleep(WATCH_INTERVAL).await;
    }
}

fn late() -> Error {
    Error::new(Code::SourceTimeout, "no answer came before the request's deadline")
}

fn node(key: &str, name: Arc<str>, role: Role, url: &DatabaseUrl, settings: &Settings) -> Result<Node, ConfigError> {
    let database = &settings.database;
    let pool = Pool::new(Connector::new(key, url, Session::Read, database)?, database)?;
    let probe = Connector::new(key, url, Session::Probe, database)?;
    Ok(Node::new(Served { node: name, role }, pool, probe, Breaker::new(&settings.nodes)))
}

fn begin_sql(settings: &DatabaseSettings) -> String {
    let timeout_ms = settings.statement_timeout.0.as_millis();
    format!("BEGIN READ ONLY; SET LOCAL statement_timeout = {timeout_ms}; SET LOCAL TIME ZONE 'UTC'")
}
