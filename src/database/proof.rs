//! What is proven of a node before it is read: how far it has got, and whether it is still the fleet's primary.
//!
//! What a replica says of itself, to the sampler or to a look between two samples, is a lower bound for every connection that was
//! open when it was asked: the server has not restarted since, and replay only goes on. A younger connection may lead to a server that crashed, came
//! back and is behind where it was, so it is asked itself.

use diesel::pg::data_types::PgLsn;
use diesel::pg::{Pg, sql_types};
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, Text};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::AsyncPgConnection;

use super::connect::Link;
use super::lag::Reading;
use super::node::Node;
use super::read::{Database, Reached, Shared, in_transaction};
use crate::config::settings::Pooler;
use crate::position::{Lsn, Position, SystemId, Timeline};

/// The sampler's question, as far as a position goes.
const CHECK: &str = "SELECT pg_is_in_recovery() AS in_recovery, pg_last_wal_replay_lsn()::text AS lsn, \
    (SELECT received_tli FROM pg_stat_wal_receiver) AS received, \
    (SELECT timeline_id FROM pg_control_checkpoint()) AS checkpoint, \
    (SELECT system_identifier FROM pg_control_system()) AS system";

/// A position that nothing is newer than of what a statement sees that has this in its result: it is computed after the
/// statement's snapshot was taken. A standby shows a commit a moment before it counts it as replayed, so what it is replaying
/// counts as well, unless there is nothing left that it could be. What is visible on the primary lies below its insert
/// position; that may be just past the header of a page that nobody has written, where no standby would come to before the
/// next record is written.
pub const SEEN: &str = "(CASE WHEN pg_is_in_recovery() THEN \
    CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN pg_last_wal_replay_lsn() \
    ELSE pg_last_wal_replay_lsn() + 1 END \
    WHEN pg_wal_lsn_diff(pg_current_wal_insert_lsn(), pg_current_wal_flush_lsn()) = 24 THEN pg_current_wal_flush_lsn() \
    ELSE pg_current_wal_insert_lsn() END)";

/// [`SEEN`] of the snapshot that the statements before it in a transaction had.
///
/// # Errors
/// Those of the connection.
pub async fn seen(connection: &mut AsyncPgConnection) -> QueryResult<Option<Lsn>> {
    use diesel_async::RunQueryDsl as _;
    let seen: Option<PgLsn> = SeenQuery.get_result(connection).await?;
    Ok(seen.map(|PgLsn(lsn)| Lsn(lsn)))
}

/// A query of its own type, since what is written as text would be prepared anew each time.
#[derive(QueryId)]
struct SeenQuery;

impl QueryFragment<Pg> for SeenQuery {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT ");
        out.push_sql(SEEN);
        Ok(())
    }
}

impl Query for SeenQuery {
    type SqlType = Nullable<sql_types::PgLsn>;
}

impl<Conn> diesel::RunQueryDsl<Conn> for SeenQuery {}

#[derive(QueryableByName)]
struct Checked {
    #[diesel(sql_type = Bool)]
    in_recovery: bool,
    #[diesel(sql_type = Nullable<Text>)]
    lsn: Option<String>,
    #[diesel(sql_type = Nullable<Integer>)]
    received: Option<i32>,
    #[diesel(sql_type = Nullable<Integer>)]
    checkpoint: Option<i32>,
    #[diesel(sql_type = BigInt)]
    system: i64,
}

impl Checked {
    fn reading(&self) -> Reading {
        Reading {
            in_recovery: self.in_recovery,
            lsn: self.lsn.as_ref().and_then(|lsn| lsn.parse().ok()),
            timeline: self.received.map(|timeline| Timeline(timeline.cast_unsigned())),
            checkpoint_timeline: self.checkpoint.map(|timeline| Timeline(timeline.cast_unsigned())),
            system: Some(SystemId(self.system.cast_unsigned())),
            streaming: false,
            paused: false,
        }
    }
}

impl Database {
    /// The cluster and the newest timeline of it that anyone has seen.
    pub fn highest(&self) -> Option<(SystemId, Timeline)> {
        *self.shared.highest.lock()
    }

    /// Somebody else in the fleet has seen this timeline. A primary on an older one is a primary no more.
    pub fn see(&self, system: SystemId, timeline: Timeline) {
        self.shared.see_branch(system, timeline);
    }
}

impl Shared {
    /// Takes in which branch a node was found on. What the configured primary says of its cluster holds; replicas, and others
    /// of the fleet, can only tell of newer timelines of the same.
    pub(super) fn see(&self, node: &Node, reading: &Reading) {
        let timeline = reading.timeline.max(reading.checkpoint_timeline);
        let Some((system, timeline)) = reading.system.zip(timeline) else { return };
        if node.is_primary() && !reading.in_recovery {
            let mut highest = self.highest.lock();
            if highest.is_none_or(|(known, _)| known != system) {
                *highest = Some((system, timeline));
            }
        }
        self.see_branch(system, timeline);
    }

    pub(super) fn see_branch(&self, system: SystemId, timeline: Timeline) {
        let mut highest = self.highest.lock();
        match &mut *highest {
            Some((known, newest)) if *known == system => *newest = timeline.max(*newest),
            Some(_) => {}
            None => *highest = Some((system, timeline)),
        }
    }

    /// Whether a server was left behind on an older timeline: it may be writable, and what is written there is lost.
    pub(super) fn is_outrun(&self, reading: &Reading) -> bool {
        let highest = *self.highest.lock();
        highest.is_some_and(|(system, newest)| {
            reading.system == Some(system) && reading.timeline.is_some_and(|timeline| timeline < newest)
        })
    }

    /// Whether the sampler found this configured primary on an older timeline than the fleet has seen.
    pub(super) fn was_outrun(&self, node: &Node) -> bool {
        let sampled = node.sampled.load();
        sampled.as_ref().and_then(|sampled| sampled.reading).is_some_and(|reading| self.is_outrun(&reading))
    }

    /// Whether a node is the primary of the fleet: writable, and on the newest timeline that anyone has seen. A position that is
    /// asked for counts as seen.
    pub(super) fn is_primary_at(&self, node: &Node, asked: Option<Position>) -> bool {
        let sampled = node.sampled.load();
        let Some(reading) = sampled.as_ref().filter(|sampled| sampled.leads()).and_then(|sampled| sampled.reading)
        else {
            return false;
        };
        let is_asked_branch = |asked: Position| {
            reading.system == Some(asked.system) && reading.timeline.is_some_and(|timeline| timeline >= asked.timeline)
        };
        asked.is_none_or(is_asked_branch) && !self.is_outrun(&reading)
    }

    /// What a read on this connection will have seen, at least; nothing where that is less than what is asked for.
    pub(super) async fn prove(
        &self,
        node: &Node,
        link: &mut Link,
        asked: Option<Position>,
    ) -> QueryResult<Option<Reached>> {
        if node.is_primary() {
            let reached = if self.is_primary_at(node, asked) { Some(Reached::Now) } else { None };
            return Ok(reached.or(asked.is_none().then_some(Reached::Unknown)));
        }
        let pooler = node.pool.connector().pooler();
        let known = node.known_position_since(link.opened_at).filter(|_| pooler == Pooler::None);
        match (known, asked) {
            (known, None) => Ok(Some(known.map_or(Reached::Unknown, Reached::Position))),
            (Some(position), Some(asked)) if position.reaches(&asked) => Ok(Some(Reached::Position(position))),
            (_, Some(asked)) => {
                let position = check(&mut link.connection, pooler, &self.begin).await?;
                Ok(position.filter(|position| position.reaches(&asked)).map(Reached::Position))
            }
        }
    }
}

/// Asks a standby, in a statement of its own that ends before the read begins: a snapshot that is taken with the question may
/// lack what the answer promises.
pub(super) async fn check(
    connection: &mut AsyncPgConnection,
    pooler: Pooler,
    begin: &str,
) -> QueryResult<Option<Position>> {
    use diesel_async::RunQueryDsl as _;
    let ask = async |connection: &mut AsyncPgConnection| sql_query(CHECK).get_result::<Checked>(connection).await;
    let checked = match pooler {
        Pooler::None => ask(connection).await?,
        Pooler::Transaction => in_transaction(connection, begin, &ask).await?,
    };
    let reading = checked.reading();
    Ok(reading.position().filter(|_| reading.in_recovery))
}
