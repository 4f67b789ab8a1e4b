//! Routing of reads: the fastest eligible replica, the other ones, the primary; strong reads on the primary alone.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use diesel::QueryResult;
use diesel_async::{AnsiTransactionManager, AsyncPgConnection, TransactionManager};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout_at;

use super::attempt::{Failure, Others};
use super::connect::{Connector, Session};
use super::json_type::JsonType;
use super::lag::{self, Bounds, History};
use super::node::Node;
use super::pools::Pool;
use super::sampler;
use super::status::{DatabaseStatus, NodeCounts, NodeStatus};
use super::wire::SqlState;
use super::write::{begin_write, writers};
use crate::config::ConfigError;
use crate::config::settings::{
    ChangeSettings, DatabaseSettings, DatabaseUrl, NodeSettings, Pooler, ReplicationSettings, Settings,
};
use crate::error::{Code, Error};
use crate::nodes::breaker::BreakerState;
use crate::nodes::minutes::Calendar;
use crate::nodes::node::{Identity, Kind, Node as Measured, Totals};
use crate::nodes::report::{NodeReport, Status};
use crate::nodes::select::{Candidate, Order, Pick, least_bad_first};
use crate::position::{Position, SystemId, Timeline};
use crate::telemetry::sparing::Sparing;
use crate::telemetry::traces;
use crate::telemetry::traces::SpanKind;

pub use super::served::{Depth, Reached, Role, Served};
pub use crate::config::manifest::Consistency;

/// Begins a transaction whose statements all see one state.
const BEGIN_SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// How many statements may be described at once: each takes a connection of its own.
const DESCRIBING_MAX: usize = 4;

/// A column of a statement's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The name of its type, `int4`.
    pub type_name: String,
    /// What its values are in JSON.
    pub json: JsonType,
}

/// The databases of this instance.
pub struct Database {
    pub(super) shared: Arc<Shared>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What requests and samplers share.
pub struct Shared {
    /// The primary first, where there is one, then the replicas in the order of the configuration.
    pub nodes: Vec<Node>,
    /// The primary's positions.
    pub history: Mutex<History>,
    /// The cluster, and the newest timeline of it that anyone has seen.
    pub highest: Mutex<Option<(SystemId, Timeline)>>,
    /// Connections for the change feed: to the primary, past a pooler where one is configured.
    pub feed: Connector,
    /// How changes are followed.
    pub changes: ChangeSettings,
    /// What was said of failed reads, by node and SQLSTATE.
    pub(super) said: Sparing<(Arc<str>, Option<SqlState>)>,
    /// Sampling and bounds.
    pub replication: ReplicationSettings,
    bounds: Bounds,
    node_settings: NodeSettings,
    pick: Mutex<Pick>,
    pub(super) strong: Semaphore,
    /// As many writes: what they wait for, a row perhaps, must not keep reads out.
    pub(super) writing: Semaphore,
    fallback: Semaphore,
    pub(super) describing: Semaphore,
    /// How long a read of a session waits for a replica.
    pub(super) session_wait: Duration,
    /// What begins each transaction behind a pooler.
    pub(super) begin: String,
    /// What begins each transaction that writes.
    pub(super) begin_write: String,
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
        self.read_at_least(consistency, None, deadline, query).await
    }

    /// As [`Database::read`], on a node that has read at least up to a position: a replica that is there, else the primary.
    ///
    /// # Errors
    /// As [`Database::read`].
    pub async fn read_at_least<T>(
        &self,
        consistency: Consistency,
        depth: impl Into<Depth>,
        deadline: Instant,
        query: impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>,
    ) -> Result<(T, Served), Error> {
        let mut span = traces::span("read", SpanKind::Internal);
        span.set("mainstay.consistency", consistency.as_str());
        let answer = span.around(self.read_traced(consistency, depth.into(), deadline, &query)).await;
        match &answer {
            Ok((_, served)) => span.set("mainstay.node", &served.node),
            Err(error) if error.code.is_source_failure() => span.fail(error.code.as_str()),
            Err(_) => {}
        }
        answer
    }

    async fn read_traced<T>(
        &self,
        consistency: Consistency,
        depth: Depth,
        deadline: Instant,
        query: &impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>,
    ) -> Result<(T, Served), Error> {
        match consistency {
            Consistency::Eventual => {
                let furthest = depth.furthest();
                match self.shared.eventual(furthest, deadline, query).await {
                    // Who has it all is not there, or has no room. An answer counts for more than that none before it was newer.
                    Err(Error { code: Code::DatabaseUnavailable | Code::Overloaded, .. })
                        if furthest != depth.at_least =>
                    {
                        self.shared.eventual(depth.at_least, deadline, query).await
                    }
                    outcome => outcome,
                }
            }
            Consistency::Session => self.shared.session(depth.at_least, deadline, query).await,
            Consistency::Strong => self.shared.strong(depth.at_least, deadline, query).await,
        }
    }

    /// What the samplers know. Asks nobody.
    pub fn status(&self) -> DatabaseStatus {
        self.shared.status()
    }

    /// The nodes, as their users see them.
    pub fn reports(&self) -> Vec<NodeReport> {
        let now = Instant::now();
        self.shared.nodes.iter().map(|node| self.shared.report(node, now)).collect()
    }

    /// Stops the samplers and hands out no connection any more.
    pub fn shutdown(&self) {
        self.tasks.lock().drain(..).for_each(|task| task.abort());
        self.shared.nodes.iter().for_each(Node::close);
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Shared {
    fn new(settings: &Settings) -> Result<Self, ConfigError> {
        let database = &settings.database;
        let mut nodes = Vec::new();
        if !database.url.is_empty() {
            // Whatever it is, it is no primary to an instance that takes no part in the fleet.
            let role = if settings.capabilities().tells { Role::Primary } else { Role::Replica };
            nodes.push(node("database.url", "primary".into(), role, &database.url, settings)?);
        }
        for (index, url) in database.read_replica_urls.list().iter().enumerate() {
            let name = format!("replica-{}", index + 1).into();
            nodes.push(node("database.read_replica_urls", name, Role::Replica, url, settings)?);
        }
        let replication = settings.replication.clone();
        Ok(Self {
            nodes,
            history: Mutex::default(),
            highest: Mutex::default(),
            bounds: Bounds { lag_max: replication.lag_max.0, overdue: replication.overdue() },
            feed: feed_connector(database)?,
            changes: settings.changes.clone(),
            said: Sparing::default(),
            replication,
            node_settings: settings.nodes.clone(),
            pick: Mutex::default(),
            strong: Semaphore::new(database.strong_concurrency_max),
            writing: Semaphore::new(database.strong_concurrency_max),
            fallback: Semaphore::new(database.primary_fallback_max),
            describing: Semaphore::new(DESCRIBING_MAX),
            session_wait: settings.consistency.session_wait.0,
            begin: begin_sql(database),
            begin_write: begin_write(database),
        })
    }

    fn status(&self) -> DatabaseStatus {
        let now = Instant::now();
        DatabaseStatus { at: now, nodes: self.nodes.iter().map(|node| self.status_of(node, now)).collect() }
    }

    fn status_of(&self, node: &Node, now: Instant) -> NodeStatus {
        let sampled = node.sampled.load();
        let sampled = sampled.as_deref();
        let reading = sampled.and_then(|sampled| sampled.reading);
        let Totals { served, failed } = node.measured.totals();
        NodeStatus {
            name: node.name().clone(),
            role: node.served.role,
            sampled: sampled.is_some(),
            up: sampled.is_some_and(|sampled| sampled.up),
            writable: self.is_writable(node),
            ineligible: if node.is_primary() { None } else { self.eligible(node, now).err() },
            lag: sampled.and_then(|sampled| sampled.lag(now, self.bounds.overdue)),
            flowing: reading.is_some_and(|reading| reading.streaming && !reading.paused),
            timeline: reading.and_then(|reading| reading.timeline),
            lsn: reading.and_then(|reading| reading.lsn),
            breaker: node.measured.breaker_state(now),
            latency: node.measured.latency(),
            pool: node.pool.usage(),
            writers: node.writers.as_ref().map(Pool::usage),
            counts: NodeCounts { served, failed, conflicts: node.conflicts.load(Ordering::Relaxed) },
        }
    }

    fn report(&self, node: &Node, now: Instant) -> NodeReport {
        let NodeStatus { up, writable, ineligible, lag, breaker, .. } = self.status_of(node, now);
        let status = match ineligible {
            _ if !up || breaker == BreakerState::Open => Status::Offline,
            Some(lag::Ineligible::Lagging | lag::Ineligible::LagUnknown) => Status::Lagging,
            Some(_) => Status::Offline,
            None if node.is_primary() && !writable => Status::Offline,
            None => Status::Online,
        };
        NodeReport { node: Arc::clone(&node.measured), status, lag }
    }

    pub(super) fn primary(&self) -> Option<&Node> {
        self.nodes.first().filter(|node| node.is_primary())
    }

    fn replicas(&self) -> impl Iterator<Item = (usize, &Node)> {
        self.nodes.iter().enumerate().filter(|(_, node)| !node.is_primary())
    }

    fn eligible(&self, node: &Node, now: Instant) -> Result<(), lag::Ineligible> {
        let Some(primary) = self.primary() else { return lag::answers(node.sampled.load().as_deref()) };
        let primary = Some(primary.sampled.load());
        let primary = primary.as_ref().and_then(|primary| primary.as_deref());
        let last_heard = self.history.lock().newest();
        lag::eligible(now, node.sampled.load().as_deref(), primary, last_heard, self.bounds)
    }

    /// The replicas to ask, in order: the picked one, then the others by latency.
    pub(super) fn order(&self, now: Instant) -> Order {
        let candidates: SmallVec<[Candidate; 4]> = self
            .replicas()
            .filter(|(_, node)| self.eligible(node, now).is_ok() && node.measured.would_admit(now))
            .map(|(index, node)| Candidate::of(index, &node.measured, now, &self.node_settings))
            .collect();
        self.pick.lock().order(now, &candidates, &self.node_settings)
    }

    /// Tells in the trace which nodes are to be asked, and which are let alone.
    fn trace_choice(&self, order: &[usize], resting: &[usize], began: Instant) {
        let Some(here) = traces::current() else { return };
        let names = |indexes: &[usize]| {
            let names = indexes.iter().filter_map(|index| Some(&**self.nodes.get(*index)?.name()));
            names.collect::<Vec<_>>().join(",")
        };
        let mut span = here.span_since("node choice", SpanKind::Internal, began);
        span.set("mainstay.nodes", names(order));
        span.set("mainstay.nodes_resting", names(resting));
    }

    /// The nodes that could answer but for their breakers, which let nothing pass.
    pub(super) fn resting(&self, now: Instant) -> Order {
        let is_usable = |node: &Node| {
            if node.is_primary() { self.is_writable(node) } else { self.eligible(node, now).is_ok() }
        };
        let resting = |(_, node): &(usize, &Node)| !node.measured.would_admit(now) && is_usable(node);
        self.nodes.iter().enumerate().filter(resting).map(|(index, _)| index).collect()
    }

    pub(super) async fn eventual<T>(
        &self,
        at_least: Option<Position>,
        deadline: Instant,
        query: &impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>,
    ) -> Result<(T, Served), Error> {
        let now = Instant::now();
        let resting = self.resting(now);
        let order = self.order(now);
        self.trace_choice(&order, &resting, now);
        for index in order {
            let Some(node) = self.nodes.get(index) else { continue };
            match self.attempt(node, at_least, deadline, Others::Left, query).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Late) => return Err(late()),
                Err(Failure::Busy | Failure::Behind | Failure::Elsewhere(..)) => {}
            }
        }
        match self.fall_back(at_least, deadline, query).await {
            Err(error) if error.code == Code::DatabaseUnavailable && !resting.is_empty() => {
                self.try_resting(&resting, at_least, deadline, query).await.unwrap_or(Err(error))
            }
            outcome => outcome,
        }
    }

    /// Nobody else is left, so those that are let alone are asked all the same: a breaker is there to spare a node, not to refuse
    /// what it could answer. Few at once, as with the primary; the others are refused quickly.
    async fn try_resting<T>(
        &self,
        resting: &[usize],
        at_least: Option<Position>,
        deadline: Instant,
        query: &impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>,
    ) -> Option<Result<(T, Served), Error>> {
        let _permit = self.fallback.try_acquire().ok()?;
        let nodes = resting.iter().filter_map(|index| Some((*index, &*self.nodes.get(*index)?.measured)));
        for index in least_bad_first(nodes) {
            let Some(node) = self.nodes.get(index) else { continue };
            match self.attempt(node, at_least, deadline, Others::AllOpen, query).await {
                Ok(answer) => return Some(Ok(answer)),
                Err(Failure::Final(error)) => return Some(Err(error)),
                Err(_) => {}
            }
        }
        None
    }

    /// The primary, for reads that prefer a replica. While replicas are configured, few at once: all reads of a region
    /// at once would take the primary down as well.
    async fn fall_back<T>(
        &self,
        at_least: Option<Position>,
        deadline: Instant,
        query: &impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>,
    ) -> Result<(T, Served), Error> {
        let unavailable = |detail: &'static str| Err(Error::new(Code::DatabaseUnavailable, detail));
        let Some(node) = self.primary() else { return unavailable("no database is configured") };
        if self.is_standby(node) {
            return unavailable("no replica can answer, and the primary is a standby");
        }
        if at_least.is_some() && !self.is_primary_at(node, at_least) {
            return unavailable("no replica has read far enough, and there is no primary on the newest timeline");
        }
        let _permit = if self.nodes.len() > 1 {
            match timeout_at(deadline.into(), self.fallback.acquire()).await {
                Ok(permit) => permit.ok(),
                Err(_) => {
                    return Err(Error::new(Code::Overloaded, "no replica can answer, and the primary has its share"));
                }
            }
        } else {
            None
        };
        match self.insist(node, at_least, deadline, query).await {
            Ok(answer) => Ok(answer),
            Err(Failure::Final(error)) => Err(error),
            Err(Failure::Late) => Err(late()),
            Err(Failure::Behind) => unavailable("the primary was replaced while it was asked"),
            Err(Failure::Busy) => Err(Error::new(Code::Overloaded, "all connections to the database are in use")),
            Err(Failure::Elsewhere(_, reason)) => {
                log::debug!("a read found no database: {reason}");
                unavailable("no database can be reached")
            }
        }
    }

    pub(super) async fn strong<T>(
        &self,
        at_least: Option<Position>,
        deadline: Instant,
        query: &impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>,
    ) -> Result<(T, Served), Error> {
        let unavailable = |detail: &'static str| Err(Error::new(Code::StrongUnavailable, detail));
        let Some(node) = self.primary() else { return unavailable("no primary is configured") };
        let Ok(_permit) = self.strong.try_acquire() else { return unavailable("too many strong reads at once") };
        if self.is_standby(node) {
            return unavailable("the primary is a standby");
        }
        if self.was_outrun(node) || (at_least.is_some() && !self.is_primary_at(node, at_least)) {
            return unavailable("there is no primary on the newest timeline");
        }
        match self.insist(node, at_least, deadline, query).await {
            Ok(answer) => Ok(answer),
            Err(Failure::Behind) => unavailable("the primary was replaced while it was asked"),
            Err(Failure::Final(error)) => Err(error),
            Err(Failure::Late) if node.may_be_up() => Err(late()),
            Err(Failure::Late) => unavailable("the primary is out of reach"),
            Err(Failure::Busy) => unavailable("all connections to the primary are in use"),
            Err(Failure::Elsewhere(_, reason)) => {
                log::debug!("a strong read found no primary: {reason}");
                unavailable("the primary is out of reach")
            }
        }
    }

    /// It answers and is writable, on the newest timeline that anyone has seen.
    fn is_writable(&self, node: &Node) -> bool {
        node.sampled.load().as_deref().is_some_and(lag::Sampled::leads) && !self.was_outrun(node)
    }

    /// The sampler found a configured primary in recovery. What it shows may be older than any replica's data.
    pub(super) fn is_standby(&self, node: &Node) -> bool {
        let sampled = node.sampled.load();
        sampled.as_ref().and_then(|sampled| sampled.reading).is_some_and(|reading| reading.in_recovery)
    }
}

/// Runs statements that see one state of the database. Behind a pooler they are in a transaction already.
///
/// # Errors
/// Those of the statements, and of the transaction around them.
pub async fn in_snapshot<T>(
    connection: &mut AsyncPgConnection,
    query: &impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>,
) -> QueryResult<T> {
    let status = AnsiTransactionManager::transaction_manager_status_mut(connection);
    match status.transaction_depth()? {
        Some(_) => query(connection).await,
        None => in_transaction(connection, BEGIN_SNAPSHOT, query).await,
    }
}

/// Runs a query in a transaction that begins so.
pub(super) async fn in_transaction<T>(
    connection: &mut AsyncPgConnection,
    begin: &str,
    query: &impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>,
) -> QueryResult<T> {
    AnsiTransactionManager::begin_transaction_sql(connection, begin).await?;
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

pub(super) fn late() -> Error {
    Error::new(Code::SourceTimeout, "no answer came before the request's deadline")
}

fn node(key: &str, name: Arc<str>, role: Role, url: &DatabaseUrl, settings: &Settings) -> Result<Node, ConfigError> {
    let database = &settings.database;
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let workers = if settings.server.workers == 0 { cores() } else { settings.server.workers };
    let pool = Pool::new(Connector::new(key, url, Session::Read, database)?, workers, database)?;
    let writers = (role == Role::Primary).then(|| writers(url, workers, database)).transpose()?;
    let probe = Connector::new(key, url, Session::Probe, database)?;
    let kind = match role {
        Role::Primary => Kind::Primary,
        Role::Replica => Kind::Replica,
    };
    let region = settings.nodes.region(&name).map(str::to_owned);
    let identity = Identity { id: name.clone(), kind, endpoint: probe.endpoint().to_owned(), region };
    let measured = Measured::new(identity, &settings.nodes, Calendar::of_this_machine());
    let served = Served { node: name, role, reached: Reached::Unknown, branch: None, seen: None };
    Ok(Node::new(served, pool, writers, probe, measured))
}

fn feed_connector(settings: &DatabaseSettings) -> Result<Connector, ConfigError> {
    if settings.direct_url.is_empty() {
        // Where there is no primary nobody follows its feed.
        let replica = settings.read_replica_urls.list().into_iter().next().unwrap_or_default();
        let url = if settings.url.is_empty() { &replica } else { &settings.url };
        return Connector::new("database.url", url, Session::Feed, settings);
    }
    let settings = DatabaseSettings { pooler: Pooler::None, ..settings.clone() };
    Connector::new("database.direct_url", &settings.direct_url, Session::Feed, &settings)
}

fn begin_sql(settings: &DatabaseSettings) -> String {
    let timeout_ms = settings.statement_timeout.0.as_millis();
    format!("{BEGIN_SNAPSHOT}; SET LOCAL statement_timeout = {timeout_ms}; SET LOCAL TIME ZONE 'UTC'")
}
