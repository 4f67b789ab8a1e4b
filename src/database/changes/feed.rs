//! The reader of the change feed, on a connection of its own.
//!
//! The cursor is a snapshot, in Postgres' own form: what it does not see is news. That is exact, where ids are not: they come in
//! another order than commits. A **fence** is a position on the WAL that is taken after the news was seen, so that whoever has
//! read that far has all of it: the LSN of a logical message that is flushed before it is told, and with it everything
//! before. It is flushed here, and does not wait for synchronous standbys: those may be what is down.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, SimpleQueryMessage, SimpleQueryRow};

use super::through::Through;
use super::watched::table_all;
use crate::database::connect::{Connector, RawLink};
use crate::database::read::{Database, Shared};
use crate::position::{Position, SystemId, Timeline};

/// How often a reader without news says that it is still there.
const TOUCH_INTERVAL: Duration = Duration::from_secs(10);
/// Changes that one poll looks at. Who is further behind is told that he lost something, rather than kept busy with it.
const ROWS_MAX: i64 = 100_000;
/// Tags in one poll that are worth telling apart, for each that may be told.
const REPETITIONS_MAX: i64 = 10;
/// How often a reader removes what all readers have.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);

/// Rows that one prune removes, by the function `prune` of the schema.
const PRUNED_ROWS_MAX: i64 = 50_000;

/// System and timeline, in a form that does not fail on a standby.
const BRANCH: &str = "pg_is_in_recovery(), (SELECT system_identifier::text FROM pg_control_system()), \
    CASE WHEN NOT pg_is_in_recovery() \
         THEN ('x' || substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8))::bit(32)::int::text END";

/// Who commits a row of the feed right now; see the function `committing` of the schema.
const HOLDERS: &str = "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'advisory' AND granted \
    AND classid = 1835100526 AND objid = 1 AND objsubid = 2 \
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// Who reads: a fleet, or an instance without Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Its name, under which its cursor is kept.
    pub name: String,
    /// Where it is, for operators.
    pub region: String,
}

/// What a reader has seen: a snapshot in Postgres' form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(String);

impl Cursor {
    /// A cursor that was written down before. Whether it is one, Postgres will say.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a reader begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// A fence that was taken after the cursor.
    pub position: Position,
    /// Whether there is a feed. Without one, or without the right to follow it, the cursor is good for nothing.
    pub migrated: bool,
    /// Whether there is one that this role may not follow.
    pub denied: bool,
    /// Where the reader was; of a new one, and on a new timeline: what is visible now.
    pub cursor: Cursor,
    /// The last message that was published; none if it was on another timeline, and then the cursor is new.
    pub last: Option<Position>,
}

/// What a poll brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Tags to purge softly, each once.
    pub soft: Vec<String>,
    /// Tags to purge for good, each once.
    pub hard: Vec<String>,
    /// The operators' purges among them.
    pub purges: Vec<i64>,
    /// What has been seen with it.
    pub cursor: Cursor,
    /// A fence of all of it; there is one if there was any news, or a heartbeat was due.
    pub fence: Option<Position>,
    /// Every commit at or below has been brought by this batch or an earlier one. Told once, when it is found out.
    pub through: Option<Position>,
    /// Rows may be gone that the cursor had not seen.
    pub lost: bool,
}

/// A purge that was put into the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purge {
    /// Its name in [`Batch::purges`] and [`Feed::readers_past`].
    pub id: i64,
    /// Whoever has read that far has it.
    pub fence: Position,
}

/// A registered reader, and whether it has read past something.
#[derive(Clone, Debug, PartialEq)]
pub struct ReaderState {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub region: String,
    /// Whether it has.
    pub is_past: bool,
    /// How long ago it was heard of.
    pub seen_ago: Duration,
}

/// Why the feed was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// There is no feed.
    #[error("the database has no change feed; run `mainstay migrate`")]
    NotMigrated,
    /// There is one that this role may not follow.
    #[error("the database has a change feed that this role may not follow; run `mainstay migrate`")]
    Denied,
    /// The server is a standby, or was left behind on an older timeline.
    #[error("the server is not the primary")]
    NotPrimary,
    /// Anything else.
    #[error("{0}")]
    Unavailable(String),
}

/// A reader of the feed. After an error, [`Feed::start`] connects anew. What needs no cursor needs no start.
pub struct Feed {
    pub(super) shared: Arc<Shared>,
    reader: Reader,
    link: Option<RawLink>,
    branch: Option<(SystemId, Timeline)>,
    /// Whether cursors are good for this connection: another one may lead to a server with other transactions.
    is_started: bool,
    through: Through,
    touched_at: Instant,
    pruned_at: Instant,
    /// What the guard found last, by table.
    pub(super) guarded: BTreeMap<String, super::guard::Look>,
}

impl Database {
    /// A reader of the change feed. It connects when it starts.
    pub fn feed(&self, reader: Reader) -> Feed {
        let now = Instant::now();
        Feed {
            shared: Arc::clone(&self.shared),
            reader,
            link: None,
            branch: None,
            is_started: false,
            through: Through::default(),
            touched_at: now,
            pruned_at: now,
            guarded: BTreeMap::new(),
        }
    }
}

impl Feed {
    /// Connects, and finds out where to go on. The cursor comes first and the fence after it: what the cursor sees is below
    /// the fence, what it does not see is news.
    ///
    /// # Errors
    /// When the primary cannot be reached. A database without a feed is none.
    pub async fn start(&mut self) -> Result<Started, FeedError> {
        let (system, timeline) = self.connect().await?;
        let named = format!("{}:{}", system.0, timeline.0);
        let (name, region) = (self.reader.name.clone(), self.reader.region.clone());
        let attach = "SELECT cursor, last FROM mainstay.attach($1, $2, $3)";
        let attached = self.one(attach, &[(&name, Type::TEXT), (&region, Type::TEXT), (&named, Type::TEXT)]).await;
        let denied = matches!(attached, Err(FeedError::Denied));
        let (row, migrated) = match attached {
            Ok(row) => (row, true),
            Err(FeedError::NotMigrated | FeedError::Denied) => {
                (self.one("SELECT pg_current_snapshot()::text, NULL::text", &[]).await?, false)
            }
            Err(error) => return Err(error),
        };
        let last = column::<Option<String>>(&row, 1)?.and_then(|last| last.parse().ok());
        let cursor = Cursor(column(&row, 0)?);
        let position = self.fence().await?;
        self.is_started = true;
        Ok(Started { position, migrated, denied, cursor, last })
    }

    async fn connect(&mut self) -> Result<(SystemId, Timeline), FeedError> {
        self.close();
        let link = self.connector().open_raw().await.map_err(|error| FeedError::Unavailable(error.to_string()))?;
        self.link = Some(link);
        let row = self.one(&format!("SELECT {BRANCH}"), &[]).await?;
        let branch = self.check_branch(&row)?;
        self.branch = Some(branch);
        Ok(branch)
    }

    /// For what needs no cursor: connects where there is no connection.
    pub(super) async fn connected(&mut self) -> Result<(), FeedError> {
        match self.link {
            Some(_) => Ok(()),
            None => self.connect().await.map(drop),
        }
    }

    /// Gives the connection up, until it is needed again.
    pub fn close(&mut self) {
        (self.link, self.branch, self.is_started, self.through) = (None, None, false, Through::default());
    }

    /// What the cursor has not seen. Above `changes.tags_per_poll_max` distinct tags of tables, all of those tables stand for
    /// them; operators' tags are kept.
    ///
    /// # Errors
    /// When the primary cannot be asked, or is none any more.
    pub async fn poll(&mut self, cursor: &Cursor, heartbeat_is_due: bool) -> Result<Batch, FeedError> {
        self.expect_start()?;
        // Before the news is read: who is gone by now is visible to it.
        let holders = if self.through.waits() { self.holders().await? } else { BTreeSet::new() };
        let through = self.through.resolve(&holders);
        let mut batch = self.news(cursor).await?;
        batch.through = through;
        let has_news = !(batch.soft.is_empty() && batch.hard.is_empty());
        if has_news || heartbeat_is_due {
            batch.fence = Some(self.fence().await?);
        }
        if self.touched_at.elapsed() > TOUCH_INTERVAL {
            let name = self.reader.name.clone();
            self.one("SELECT mainstay.touch($1)", &[(&name, Type::TEXT)]).await?;
            self.touched_at = Instant::now();
        }
        if self.pruned_at.elapsed() > PRUNE_INTERVAL {
            // As long as there is more than goes at once, it goes on at the next poll: a feed that is written to faster than
            // that must not grow for ever.
            if self.prune().await? < PRUNED_ROWS_MAX {
                self.pruned_at = Instant::now();
            }
        }
        Ok(batch)
    }

    async fn news(&mut self, cursor: &Cursor) -> Result<Batch, FeedError> {
        // Operators' purges are those of no table.
        let sql = format!(
            "WITH news AS MATERIALIZED ( \
                 SELECT tables, tags FROM mainstay.change_feed WHERE tables <> '{{}}' \
                 AND xid >= pg_snapshot_xmin($1::text::pg_snapshot) AND NOT pg_visible_in_snapshot(xid, $1::text::pg_snapshot) \
                 LIMIT {ROWS_MAX} + 1 \
             ), purges AS MATERIALIZED ( \
                 SELECT id, tags, kind FROM mainstay.change_feed WHERE tables = '{{}}' \
                 AND xid >= pg_snapshot_xmin($1::text::pg_snapshot) AND NOT pg_visible_in_snapshot(xid, $1::text::pg_snapshot) \
             ), size AS MATERIALIZED ( \
                 SELECT count(*) AS changes, coalesce(sum(cardinality(tags)), 0) AS tags FROM news \
             ), told AS MATERIALIZED ( \
                 SELECT DISTINCT tag FROM news, unnest(tags) AS tag \
                 WHERE (SELECT size.tags FROM size) <= $2 * {REPETITIONS_MAX} LIMIT $2 + 1 \
             ) \
             SELECT {BRANCH}, pg_current_snapshot()::text, ARRAY(SELECT tag FROM told), \
                 ARRAY(SELECT DISTINCT t FROM news, unnest(tables) AS t), \
                 ARRAY(SELECT DISTINCT tag FROM purges, unnest(tags) AS tag WHERE kind = 'soft'), \
                 ARRAY(SELECT DISTINCT tag FROM purges, unnest(tags) AS tag WHERE kind = 'hard'), \
                 ARRAY(SELECT id FROM purges ORDER BY id), \
                 size.changes > {ROWS_MAX} OR p.xid >= pg_snapshot_xmin($1::text::pg_snapshot) \
                     AND NOT coalesce(mainstay.covers($1::text::pg_snapshot, c.cursor), false), \
                 size.tags > $2 * {REPETITIONS_MAX} \
             FROM size, mainstay.pruned p LEFT JOIN mainstay.cursors c ON c.reader = $3"
        );
        let (name, tags_max) = (self.reader.name.clone(), i64::from(self.shared.changes.tags_per_poll_max));
        let row = self.one(&sql, &[(&cursor.0, Type::TEXT), (&tags_max, Type::INT8), (&name, Type::TEXT)]).await?;
        self.check_branch(&row)?;
        let (told, tables) = (column::<Vec<String>>(&row, 4)?, column::<Vec<String>>(&row, 5)?);
        let is_too_much = column(&row, 10)? || i64::try_from(told.len()).unwrap_or(i64::MAX) > tags_max;
        let mut soft = if is_too_much { tables.iter().map(|table| table_all(table)).collect() } else { told };
        soft.extend(column::<Vec<String>>(&row, 6)?);
        Ok(Batch {
            soft,
            hard: column(&row, 7)?,
            purges: column(&row, 8)?,
            cursor: Cursor(column(&row, 3)?),
            fence: None,
            through: None,
            lost: column(&row, 9)?,
        })
    }

    /// Notes that all up to the cursor was published, the last of it in a message at this position. False: the reader had been
    /// given up, and what it has not read may be gone.
    ///
    /// # Errors
    /// When the primary cannot be asked.
    pub async fn advance(&mut self, cursor: &Cursor, last: Position) -> Result<bool, FeedError> {
        self.expect_start()?;
        let (name, last) = (self.reader.name.clone(), last.to_string());
        let advance = "SELECT mainstay.advance($1, $2::text::pg_snapshot, $3)";
        let row = self.one(advance, &[(&name, Type::TEXT), (&cursor.0, Type::TEXT), (&last, Type::TEXT)]).await?;
        self.touched_at = Instant::now();
        column(&row, 0)
    }

    /// The reader leaves, and is forgotten.
    ///
    /// # Errors
    /// When the primary cannot be asked.
    pub async fn detach(&mut self) -> Result<(), FeedError> {
        let name = self.reader.name.clone();
        self.one("SELECT mainstay.detach($1)", &[(&name, Type::TEXT)]).await?;
        self.close();
        Ok(())
    }

    /// A position past all that is visible now.
    ///
    /// # Errors
    /// When the primary cannot be asked, or is none any more.
    pub async fn fence(&mut self) -> Result<Position, FeedError> {
        self.connected().await?;
        // One message to the server: those who hold the lock are read once the fence is flushed.
        let sql = format!(
            "BEGIN READ WRITE; SET LOCAL synchronous_commit = local; \
             SELECT {BRANCH}, pg_logical_emit_message(true, 'mainstay', ''); COMMIT; {HOLDERS}"
        );
        let rows = self.simple(&sql).await?;
        let missing = || FeedError::Unavailable("the server answered a fence with nothing".to_owned());
        let (first, holders) = rows.split_first().ok_or_else(missing)?;
        let text = |column| first.try_get(column).ok().flatten();
        let position = || -> Option<Position> { format!("{}:{}:{}", text(1)?, text(2)?, text(3)?).parse().ok() };
        let position = position().ok_or(FeedError::NotPrimary)?;
        self.check_same((position.system, position.timeline))?;
        let holders = holders.iter().filter_map(|row| row.try_get(0).ok().flatten()).map(str::to_owned);
        self.through.note(position, holders.collect());
        Ok(position)
    }

    /// Puts tags into the feed, so that every region purges them.
    ///
    /// # Errors
    /// When the primary cannot be asked. The purge may be in the feed even so.
    pub async fn purge(&mut self, tags: &[String], hard: bool) -> Result<Purge, FeedError> {
        self.connected().await?;
        let purge = "SELECT mainstay.purge($1, $2)";
        let row = self.one(purge, &[(&tags, Type::TEXT_ARRAY), (&hard, Type::BOOL)]).await?;
        let id: i64 = column(&row, 0)?;
        let fence = self.fence().await?;
        if hard {
            let text = fence.to_string();
            self.one("SELECT mainstay.fenced($1, $2)", &[(&id, Type::INT8), (&text, Type::TEXT)]).await?;
        }
        Ok(Purge { id, fence })
    }

    /// All registered readers, and whether each has read past an operator's purge.
    ///
    /// # Errors
    /// When the primary cannot be asked.
    pub async fn readers_past(&mut self, id: i64) -> Result<Vec<ReaderState>, FeedError> {
        // What was pruned has been read by everybody.
        const READERS: &str = "SELECT c.reader, c.region, \
            coalesce((SELECT pg_visible_in_snapshot(f.xid, c.cursor) FROM mainstay.change_feed f WHERE f.id = $1), true), \
            greatest(0, extract(epoch FROM clock_timestamp() - c.seen_at))::float8 FROM mainstay.cursors c ORDER BY c.reader";
        self.connected().await?;
        let rows = self.rows(READERS, &[(&id, Type::INT8)]).await?;
        let state = |row: &Row| {
            Ok(ReaderState {
                name: column(row, 0)?,
                region: column(row, 1)?,
                is_past: column(row, 2)?,
                seen_ago: Duration::try_from_secs_f64(column(row, 3)?).unwrap_or(Duration::MAX),
            })
        };
        rows.iter().map(state).collect()
    }

    /// The hard purges that are remembered, each tag with its newest fence. Where none was noted, one is taken now.
    ///
    /// # Errors
    /// When the primary cannot be asked.
    pub async fn hard_purges(&mut self) -> Result<Vec<(String, Position)>, FeedError> {
        self.connected().await?;
        let rows = self.rows("SELECT tag, fence FROM mainstay.hard_purges", &[]).await?;
        let now = self.fence().await?;
        let mut purges: BTreeMap<String, Position> = BTreeMap::new();
        for row in &rows {
            let fence = column::<Option<String>>(row, 1)?.and_then(|text| text.parse().ok()).unwrap_or(now);
            let newest = purges.entry(column(row, 0)?).or_insert(fence);
            *newest = newest.later(fence);
        }
        Ok(purges.into_iter().collect())
    }

    /// Removes what all registered readers have read, and readers that were not heard of for `changes.cursor_retention`; at most
    /// one reader at a time does. [`Feed::poll`] does so now and then. Says how many rows went.
    ///
    /// # Errors
    /// When the primary cannot be asked.
    pub async fn prune(&mut self) -> Result<i64, FeedError> {
        let seconds = |span: Duration| format!("{} seconds", span.as_secs());
        let changes = &self.shared.changes;
        let (cursors, hard) = (seconds(changes.cursor_retention.0), seconds(changes.hard_retention.0));
        let prune = "SELECT mainstay.prune($1::text::interval, $2::text::interval)";
        let row = self.one(prune, &[(&cursors, Type::TEXT), (&hard, Type::TEXT)]).await?;
        column(&row, 0)
    }

    fn expect_start(&self) -> Result<(), FeedError> {
        let is_ready = self.is_started && self.link.is_some();
        if is_ready { Ok(()) } else { Err(not_connected()) }
    }

    async fn holders(&mut self) -> Result<BTreeSet<String>, FeedError> {
        let rows = self.rows(HOLDERS, &[]).await?;
        rows.iter().map(|row| column(row, 0)).collect()
    }

    fn connector(&self) -> &Connector {
        &self.shared.feed
    }

    /// The first three columns of a row say where it comes from.
    fn check_branch(&mut self, row: &Row) -> Result<(SystemId, Timeline), FeedError> {
        let number = |index| column::<Option<String>>(row, index);
        let system = number(1)?.and_then(|text| text.parse().ok()).map(|id: i64| SystemId(id.cast_unsigned()));
        let timeline = number(2)?.and_then(|text| text.parse().ok()).map(Timeline);
        let branch = system.zip(timeline).filter(|_| !column::<bool>(row, 0).unwrap_or(true));
        match branch {
            Some(branch) => self.check_same(branch).map(|()| branch),
            None => Err(self.fail(FeedError::NotPrimary)),
        }
    }

    /// A server that is another one all of a sudden stands behind a pooler, or was promoted: its transaction ids are others. One
    /// on an older timeline than anyone has seen is no primary any more.
    fn check_same(&mut self, branch: (SystemId, Timeline)) -> Result<(), FeedError> {
        self.shared.see_branch(branch.0, branch.1);
        let highest = *self.shared.highest.lock();
        if highest.is_some_and(|(system, timeline)| system == branch.0 && timeline > branch.1) {
            return Err(self.fail(FeedError::NotPrimary));
        }
        if self.branch.is_some_and(|known| known != branch) {
            return Err(self.fail(FeedError::Unavailable("the server has become another one".to_owned())));
        }
        Ok(())
    }

    pub(super) async fn one(&mut self, sql: &str, params: &[(&(dyn ToSql + Sync), Type)]) -> Result<Row, FeedError> {
        let rows = self.rows(sql, params).await?;
        rows.into_iter().next().ok_or_else(|| FeedError::Unavailable("the server answered with no row".to_owned()))
    }

    /// One round trip, and no statement with a name: a pooler may pass it on to any of its servers' connections.
    pub(super) async fn rows(
        &mut self,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, FeedError> {
        let limit = self.connector().statement_timeout();
        let Some(link) = &self.link else { return Err(not_connected()) };
        let answer = timeout(limit, link.client.query_typed(sql, params)).await;
        answer
            .map_err(|_| late())
            .and_then(|rows| rows.map_err(|error| meaning(&error)))
            .map_err(|error| self.fail(error))
    }

    async fn simple(&mut self, sql: &str) -> Result<Vec<SimpleQueryRow>, FeedError> {
        let limit = self.connector().statement_timeout();
        let Some(link) = &self.link else { return Err(not_connected()) };
        let answer = timeout(limit, link.client.simple_query(sql)).await;
        let messages = answer.map_err(|_| late()).and_then(|answer| answer.map_err(|error| meaning(&error)));
        let messages = messages.map_err(|error| self.fail(error))?;
        let row = |message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    /// Whatever failed, the connection is not used again, unless there is only no feed.
    fn fail(&mut self, error: FeedError) -> FeedError {
        if !matches!(error, FeedError::NotMigrated | FeedError::Denied) {
            self.link = None;
        }
        error
    }
}

fn not_connected() -> FeedError {
    FeedError::Unavailable("the feed is not connected".to_owned())
}

fn late() -> FeedError {
    FeedError::Unavailable("the server did not answer in time".to_owned())
}

/// What the server's word means for a reader.
fn meaning(error: &tokio_postgres::Error) -> FeedError {
    match error.code().map(|state| state.code()) {
        // No such schema, table, or function; no right to it.
        Some("3F000" | "42P01" | "42883") => FeedError::NotMigrated,
        Some("42501") => FeedError::Denied,
        // A standby writes nothing, and has no WAL of its own.
        Some("25006" | "55000") => FeedError::NotPrimary,
        _ => FeedError::Unavailable(
            error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned()),
        ),
    }
}

fn column<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, index: usize) -> Result<T, FeedError> {
    row.try_get(index).map_err(|error| FeedError::Unavailable(error.to_string()))
}
