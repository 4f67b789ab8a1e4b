//! Writes: one transaction on the primary, and the position from which on a standby has it.
//!
//! What is told of a write is never more than is known. Up to the moment at which COMMIT is sent, a connection that breaks, or a
//! caller that goes away, takes the transaction back: it may be tried again, or is an error that changed nothing. From then on
//! until the server's answer nobody can say, and that is an error of its own, which is never tried again here.

use std::cell::Cell;
use std::time::{Duration, Instant};

use diesel::QueryResult;
use diesel::connection::TransactionManagerStatus;
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::result::Error as QueryError;
use diesel::sql_types::{BigInt, Integer, Text};
use diesel_async::{AnsiTransactionManager, AsyncPgConnection, SimpleAsyncConnection, TransactionManager};
use tokio::time::{sleep_until, timeout_at};

use super::attempt::{Failure, Others, gone, query_span, tell};
use super::classify::Meaning;
use super::connect::{Connector, Link, Session};
use super::node::Node;
use super::pools::{Lease, NoConnection, Pool};
use super::read::{Database, Shared, in_transaction, late};
use super::wire::SqlState;
use crate::config::ConfigError;
use crate::config::settings::{DatabaseSettings, DatabaseUrl, Pooler};
use crate::error::{Code, Error};
use crate::position::{Lsn, Position, SystemId, Timeline};

/// How often a transaction is tried that lost against another one.
const TRIES_MAX: u32 = 4;
/// How long the second try waits at most; each further one twice as long as the one before.
const PAUSE: Duration = Duration::from_millis(20);
/// How long the position of what was committed is asked for.
const POSITION_TIME_MAX: Duration = Duration::from_secs(1);

/// What ends each transaction that writes, whatever its session, its role or the work itself had set: a position of the log says
/// something of a commit only if the commit was flushed. In a transaction that has failed the SET fails, too, so that the commit
/// which Postgres would turn into a rollback without a word is an error.
const COMMIT: &str = "SET LOCAL synchronous_commit = on; COMMIT";

/// feature_not_supported: what a standby says to BEGIN READ WRITE.
const STANDBY_BEGINS: &str = "0A000";
/// read_only_sql_transaction: what it says to a write, where its part has changed since.
const STANDBY_WRITES: &str = "25006";

/// Why a transaction is not committed.
#[derive(Debug)]
pub enum Abort {
    /// A statement failed.
    Query(QueryError),
    /// The work itself says no: this is what the caller is answered.
    Refused(Error),
}

impl From<QueryError> for Abort {
    fn from(error: QueryError) -> Self {
        Self::Query(error)
    }
}

impl From<Error> for Abort {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// A cluster, and the branch of its history that it writes.
type Branch = (SystemId, Timeline);

/// How far the writes of a call have got. The caller keeps it, so that it is known as well where a write was given up.
#[derive(Debug, Default)]
pub struct Progress {
    /// The branch of a COMMIT that was sent and not answered.
    committing: Cell<Option<Branch>>,
    committed: Cell<Option<Position>>,
    is_writing: Cell<bool>,
}

/// The one write of a call that is under way.
struct Writing<'a>(&'a Progress);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.is_writing.set(false);
    }
}

impl Progress {
    /// Whether COMMIT was sent and nobody knows what came of it.
    pub fn is_in_doubt(&self) -> bool {
        self.committing.get().is_some()
    }

    /// From where on a standby has all that was committed, or may have been; none where nothing was. Of what is in doubt the
    /// primary alone can tell.
    pub fn committed(&self) -> Option<Position> {
        self.committing.get().map(never).or(self.committed.get())
    }

    /// Begins a write; none while another one is under way: of two at once nobody could say which is in doubt.
    fn begin(&self) -> Option<Writing<'_>> {
        (!self.is_writing.replace(true)).then_some(Writing(self))
    }
}

impl Database {
    /// Runs a transaction on the primary, and again where it lost against another one, until the deadline: the work must do
    /// nothing that the transaction's end does not take back. Its isolation is the database's default, commonly READ COMMITTED; work
    /// that needs another one says so in its first statement.
    ///
    /// One write at a time; and none after one that is in doubt.
    ///
    /// Dropped before the end of its work, the transaction is rolled back; dropped later, [`Progress::is_in_doubt`] tells.
    ///
    /// # Errors
    /// What the work refuses with. `strong_unavailable` where there is no primary, or it has no room; `source_timeout`, `overloaded`
    /// where others write the same all the time, or hold it for longer than `database.lock_timeout`; `query_failed`, `not_found`: of all these nothing was changed. And
    /// `outcome_unknown`.
    pub async fn write<T>(
        &self,
        deadline: Instant,
        progress: &Progress,
        work: impl AsyncFn(&mut AsyncPgConnection) -> Result<T, Abort>,
    ) -> Result<T, Error> {
        self.shared.write(deadline, progress, &work).await
    }
}

impl Shared {
    async fn write<T>(
        &self,
        deadline: Instant,
        progress: &Progress,
        work: &impl AsyncFn(&mut AsyncPgConnection) -> Result<T, Abort>,
    ) -> Result<T, Error> {
        let unavailable = |detail: &'static str| Err(Error::new(Code::StrongUnavailable, detail));
        let writable = self.primary().and_then(|node| Some((node, node.writers.as_ref()?)));
        let Some((node, writers)) = writable else { return unavailable("no primary is configured") };
        let Ok(_permit) = self.writing.try_acquire() else { return unavailable("too many writes at once") };
        if progress.is_in_doubt() {
            return Err(in_doubt());
        }
        let Some(_writing) = progress.begin() else {
            log::error!("a handler writes twice at the same time; one write must end before the next one begins");
            return Err(Error::new(Code::Internal, "the handler of this route failed; the log says why"));
        };
        let (mut conflicts, mut is_fresh) = (0, false);
        loop {
            if self.is_standby(node) {
                return unavailable("the primary is a standby");
            }
            if self.was_outrun(node) {
                return unavailable("there is no primary on the newest timeline");
            }
            let failure = match self.try_write(node, writers, is_fresh, deadline, progress, work).await {
                Ok((value, committed)) => {
                    // For whoever does not wait for the position any more.
                    let before = progress.committed.replace(Some(never(committed.branch)));
                    let position = committed.position(node, deadline).await;
                    progress.committed.set(Some(before.map_or(position, |before| before.later(position))));
                    return Ok(value);
                }
                Err(failure) => failure,
            };
            if progress.is_in_doubt() {
                let reason = match &failure {
                    Failure::Elsewhere(_, reason) => reason,
                    _ => "its time was over",
                };
                self.say(node, None, log::Level::Warn, "nobody knows whether a write was committed", &reason);
                return Err(in_doubt());
            }
            match failure {
                Failure::Elsewhere(Meaning::Conflict, _) if conflicts + 1 < TRIES_MAX => {
                    let pause = PAUSE.mul_f64(fastrand::f64()) * 2_u32.pow(conflicts);
                    sleep_until((Instant::now() + pause).min(deadline).into()).await;
                    conflicts += 1;
                }
                Failure::Elsewhere(Meaning::Conflict, _) => {
                    return Err(Error::new(Code::Overloaded, "others write the same at the same time"));
                }
                // Nothing was committed on the connection that broke; a new one tells how the primary is.
                Failure::Elsewhere(Meaning::Lost | Meaning::StalePlan, _) if !is_fresh => is_fresh = true,
                Failure::Elsewhere(Meaning::StalePlan, reason) => {
                    return Err(self.query_failed(node, None, &reason));
                }
                Failure::Elsewhere(_, reason) => {
                    log::debug!("a write found no primary: {reason}");
                    return unavailable("the primary is out of reach");
                }
                Failure::Behind => return unavailable("the primary was replaced, and nothing was written"),
                Failure::Final(error) => return Err(error),
                Failure::Busy => return unavailable("all connections to the primary are in use"),
                Failure::Late if node.may_be_up() => return Err(late()),
                Failure::Late => return unavailable("the primary is out of reach"),
            }
        }
    }

    /// One transaction, up to the answer to its COMMIT.
    async fn try_write<T>(
        &self,
        node: &Node,
        writers: &Pool,
        is_fresh: bool,
        deadline: Instant,
        progress: &Progress,
        work: &impl AsyncFn(&mut AsyncPgConnection) -> Result<T, Abort>,
    ) -> Result<(T, Committed), Failure> {
        let began = Instant::now();
        if !node.measured.admit(began) {
            return Err(Failure::Elsewhere(Meaning::Node, format!("the breaker of {} is open", node.name())));
        }
        let mut span = query_span("write", node);
        let whole = async {
            let left = deadline.saturating_duration_since(Instant::now());
            let lease = if is_fresh { writers.fresh().await } else { writers.lease(left).await };
            self.transact(node, lease, progress, work).await
        };
        let outcome = tokio::select! {
            biased;
            outcome = timeout_at(deadline.into(), whole) => outcome.unwrap_or(Err(Failure::Late)),
            () = gone(node, Others::None) => Err(Failure::Elsewhere(Meaning::Node, "it stopped answering".to_owned())),
        };
        self.settle(node, began, &outcome);
        tell(&mut span, &outcome);
        if matches!(outcome, Err(Failure::Behind)) {
            // Its name may lead to the new primary by now: only new connections can tell.
            node.new_epoch();
        }
        outcome
    }

    async fn transact<T>(
        &self,
        node: &Node,
        lease: Result<Lease, NoConnection>,
        progress: &Progress,
        work: &impl AsyncFn(&mut AsyncPgConnection) -> Result<T, Abort>,
    ) -> Result<(T, Committed), Failure> {
        let mut lease = self.leased(node, lease)?;
        let has_served = lease.has_served();
        let Some(link) = lease.link() else { return Err(Failure::Busy) };
        let pooler = node.writers.as_ref().map_or(Pooler::None, |writers| writers.connector().pooler());
        let abort = match self.work(link, pooler, progress, work).await {
            Ok((value, branch)) => return Ok((value, Committed { lease, pooler, branch })),
            Err(abort) => abort,
        };
        let state = link.take_sqlstate();
        let failure = match abort {
            Aborted::Refused(error) => Failure::Final(error),
            Aborted::Outrun => Failure::Behind,
            Aborted::Begin(_) if is(state, STANDBY_BEGINS) => Failure::Behind,
            Aborted::Query(_) if is(state, STANDBY_WRITES) => Failure::Behind,
            Aborted::Begin(error) | Aborted::Query(error) => self.failure(node, &error, state, has_served),
        };
        let is_definite = match &failure {
            Failure::Elsewhere(meaning, _) => !matches!(meaning, Meaning::Node | Meaning::Lost),
            Failure::Final(_) | Failure::Behind => true,
            Failure::Busy | Failure::Late => false,
        };
        if is_definite {
            // It has been rolled back, or is now.
            progress.committing.set(None);
            if end(&mut link.connection, "ROLLBACK").await.is_ok() {
                lease.give_back();
            }
        }
        Err(failure)
    }

    /// The transaction from BEGIN to the answer to COMMIT.
    async fn work<T>(
        &self,
        link: &mut Link,
        pooler: Pooler,
        progress: &Progress,
        work: &impl AsyncFn(&mut AsyncPgConnection) -> Result<T, Abort>,
    ) -> Result<(T, Branch), Aborted> {
        let _earlier = link.take_sqlstate();
        if link.branch.is_some_and(|branch| self.is_branch_outrun(branch)) {
            return Err(Aborted::Outrun);
        }
        let begun = AnsiTransactionManager::begin_transaction_sql(&mut link.connection, &self.begin_write);
        begun.await.map_err(Aborted::Begin)?;
        let value = work(&mut link.connection).await?;
        let branch = self.branch(link, pooler).await?;
        if self.is_branch_outrun(branch) {
            return Err(Aborted::Outrun);
        }
        // What failed in the work and was made good there says nothing of the commit.
        let _made_good = link.take_sqlstate();
        progress.committing.set(Some(branch));
        end(&mut link.connection, COMMIT).await?;
        progress.committing.set(None);
        Ok((value, branch))
    }

    /// The branch that a transaction writes. It is asked for last: the work's first statement may be one that has to be the first.
    async fn branch(&self, link: &mut Link, pooler: Pooler) -> QueryResult<Branch> {
        if let Some(branch) = link.branch {
            return Ok(branch);
        }
        let Position { system, timeline, .. } = flushed(&mut link.connection).await?;
        self.see_branch(system, timeline);
        // Behind a pooler the next transaction may be another server's.
        link.branch = Some((system, timeline)).filter(|_| pooler == Pooler::None);
        Ok((system, timeline))
    }

    fn is_branch_outrun(&self, (system, timeline): Branch) -> bool {
        self.highest.lock().is_some_and(|(known, newest)| known == system && timeline < newest)
    }
}

/// Why a transaction came to nothing, or may have.
enum Aborted {
    /// It did not even begin.
    Begin(QueryError),
    Query(QueryError),
    Refused(Error),
    /// The fleet has seen a newer timeline.
    Outrun,
}

impl From<QueryError> for Aborted {
    fn from(error: QueryError) -> Self {
        Self::Query(error)
    }
}

impl From<Abort> for Aborted {
    fn from(abort: Abort) -> Self {
        match abort {
            Abort::Query(error) => Self::Query(error),
            Abort::Refused(error) => Self::Refused(error),
        }
    }
}

/// A transaction that was committed.
struct Committed {
    lease: Lease,
    pooler: Pooler,
    branch: Branch,
}

impl Committed {
    /// The position past the commit: how far the log is flushed, once it is committed. Not how far it is written, for at the end of
    /// a page that may be a place which no standby comes to before the next record. Where it cannot be had, it is one that no
    /// standby comes to.
    async fn position(mut self, node: &Node, deadline: Instant) -> Position {
        let Some(link) = self.lease.link() else { return never(self.branch) };
        let connection = &mut link.connection;
        let ask = async {
            match self.pooler {
                Pooler::None => flushed(connection).await,
                Pooler::Transaction => in_transaction(connection, "BEGIN READ ONLY", &flushed).await,
            }
        };
        let until = deadline.min(Instant::now() + POSITION_TIME_MAX);
        match timeout_at(until.into(), ask).await {
            // Behind a pooler it may be another server that answers by now.
            Ok(Ok(position)) if (position.system, position.timeline) == self.branch => {
                self.lease.give_back();
                position
            }
            outcome => {
                let reason = match outcome {
                    Ok(Ok(position)) => format!("the server is on {position}"),
                    Ok(Err(error)) => error.to_string(),
                    Err(late) => late.to_string(),
                };
                log::debug!("{} has committed and does not say where: {reason}", node.name());
                never(self.branch)
            }
        }
    }
}

/// The error of a write of which nobody knows whether it was committed.
pub fn in_doubt() -> Error {
    let detail = "the write may have been committed or not; with an idempotency key it is safe to repeat it";
    Error::new(Code::OutcomeUnknown, detail)
}

/// A place on a branch that no standby comes to: who wants to see what was written asks the primary.
const fn never((system, timeline): Branch) -> Position {
    Position { system, timeline, lsn: Lsn::NEVER }
}

/// Ends a transaction with all its savepoints.
async fn end(connection: &mut AsyncPgConnection, sql: &str) -> QueryResult<()> {
    connection.batch_execute(sql).await?;
    *AnsiTransactionManager::transaction_manager_status_mut(connection) = TransactionManagerStatus::default();
    Ok(())
}

fn is(state: Option<SqlState>, known: &str) -> bool {
    state.is_some_and(|state| state.as_str() == known)
}

/// How far the log of a writable server is flushed.
async fn flushed(connection: &mut AsyncPgConnection) -> QueryResult<Position> {
    use diesel_async::RunQueryDsl as _;
    let (lsn, timeline, system): (String, i32, i64) = FlushedQuery.get_result(connection).await?;
    let lsn = lsn.parse().map_err(|error| QueryError::DeserializationError(Box::new(error)))?;
    Ok(Position { system: SystemId(system.cast_unsigned()), timeline: Timeline(timeline.cast_unsigned()), lsn })
}

/// A query of its own type, since what is written as text would be prepared anew each time.
#[derive(QueryId)]
struct FlushedQuery;

impl QueryFragment<Pg> for FlushedQuery {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(
            "SELECT pg_current_wal_flush_lsn()::text, \
             ('x' || substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8))::bit(32)::int, \
             (SELECT system_identifier FROM pg_control_system())",
        );
        Ok(())
    }
}

impl Query for FlushedQuery {
    type SqlType = (Text, Integer, BigInt);
}

impl<Conn> diesel::RunQueryDsl<Conn> for FlushedQuery {}

/// Connections for writes.
pub(super) fn writers(url: &DatabaseUrl, workers: usize, settings: &DatabaseSettings) -> Result<Pool, ConfigError> {
    let connector = Connector::new("database.url", url, Session::Write, settings)?;
    Pool::new(connector, workers, &DatabaseSettings { pool_size: settings.write_pool_size, ..settings.clone() })
}

/// What begins a transaction that writes. Behind a pooler nothing of a session can be relied on.
pub(super) fn begin_write(settings: &DatabaseSettings) -> String {
    let (timeout_ms, lock_timeout_ms) = (settings.statement_timeout.0.as_millis(), settings.lock_timeout.0.as_millis());
    match settings.pooler {
        Pooler::None => "BEGIN READ WRITE".to_owned(),
        Pooler::Transaction => format!(
            "BEGIN READ WRITE; SET LOCAL statement_timeout = {timeout_ms}; SET LOCAL lock_timeout = {lock_timeout_ms}; \
             SET LOCAL idle_in_transaction_session_timeout = {timeout_ms}; SET LOCAL TIME ZONE 'UTC'"
        ),
    }
}
