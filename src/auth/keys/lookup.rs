//! Looking keys up in the database, all that are asked for at a time in one statement.
//!
//! However many keys are shown, right ones or made up, there is one query at a time to the replicas and one to the primary: whoever
//! asks while one is under way is part of the next one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::pg::Pg;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Binary, Bool, Jsonb, Nullable, Text};
use diesel::{QueryResult, Queryable};
use diesel_async::RunQueryDsl;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::cache::fence::{Fences, Ticket};
use crate::cache::tag::Tag;
use crate::config::manifest::access::KEYS_TABLE;
use crate::database::read::{Consistency, Database, Role, Served};
use crate::error::{Code, Error};
use crate::position::Position;

/// Keys in one statement.
const BATCH_MAX: usize = 256;
/// How long a statement may take, with finding a node for it. Who waits has a deadline of his own.
const BATCH_TIME_MAX: Duration = Duration::from_secs(2);

/// A key as the database has it.
#[derive(Clone, Debug, Queryable)]
pub(super) struct Row {
    pub(super) prefix: String,
    pub(super) hash: Vec<u8>,
    pub(super) owner: String,
    pub(super) scopes: Vec<String>,
    pub(super) claims: Value,
    pub(super) rate: Option<String>,
    /// Milliseconds until it expires.
    pub(super) left_ms: Option<i64>,
    pub(super) is_revoked: bool,
}

/// What was found under a prefix, and how far the one who was asked had read.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// None: there is no such key.
    pub(super) row: Option<Row>,
    /// Who answered.
    pub(super) role: Role,
    /// Through where this instance had been told when it asked.
    pub(super) told: Option<Position>,
    /// How far the node had read, where that is known.
    pub(super) as_of: Option<Position>,
    /// When it was asked.
    pub(super) at: Instant,
}

/// The tags of what is known of a key: its own, and that of all.
pub(super) fn tags(prefix: &str) -> [Tag; 2] {
    [Tag::new(format!("{KEYS_TABLE}:{prefix}")), Tag::new(crate::cache::tag::table_all(KEYS_TABLE))]
}

/// Look-ups of one consistency.
pub(super) struct Lookup {
    database: Arc<Database>,
    fences: Arc<Fences>,
    consistency: Consistency,
    waiting: Mutex<Vec<Waiting>>,
    turn: tokio::sync::Mutex<()>,
}

struct Waiting {
    prefix: String,
    tell: oneshot::Sender<Result<Found, Error>>,
}

impl Lookup {
    /// Look-ups where reads of this consistency go.
    pub(super) fn new(database: &Arc<Database>, fences: &Arc<Fences>, consistency: Consistency) -> Self {
        Self {
            database: Arc::clone(database),
            fences: Arc::clone(fences),
            consistency,
            waiting: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// What there is under a prefix, on a node that has read all changes of it that this instance was told of.
    ///
    /// Runs in a task that nobody drops, since others may be waiting for what it asks for them.
    ///
    /// # Errors
    /// Those of [`Database::read`].
    pub(super) async fn find(&self, prefix: &str) -> Result<Found, Error> {
        let (tell, mut told) = oneshot::channel();
        self.waiting.lock().push(Waiting { prefix: prefix.to_owned(), tell });
        let _turn = self.turn.lock().await;
        loop {
            // Whoever had the turn before may have asked for this one as well.
            match told.try_recv() {
                Ok(found) => return found,
                Err(TryRecvError::Closed) => return Err(Error::new(Code::Draining, "the server is shutting down")),
                Err(TryRecvError::Empty) => self.ask().await,
            }
        }
    }

    /// Asks for those who have waited longest.
    async fn ask(&self) {
        let batch: Vec<Waiting> = {
            let mut waiting = self.waiting.lock();
            let count = waiting.len().min(BATCH_MAX);
            waiting.drain(..count).collect()
        };
        let prefixes: Vec<String> = batch.iter().map(|one| one.prefix.clone()).collect();
        let tags: Vec<Tag> = prefixes.iter().flat_map(|prefix| tags(prefix)).collect();
        let Ticket { told, reads, .. } = self.fences.read(|ledger| ledger.ticket(&tags));
        let at = Instant::now();
        let query = async |conn: &mut _| -> QueryResult<Vec<Row>> { Find(&prefixes).load(conn).await };
        let answer = self.database.read_at_least(self.consistency, reads, at + BATCH_TIME_MAX, query).await;
        for Waiting { prefix, tell } in batch {
            let found = answer.as_ref().map(|(rows, Served { role, reached, .. })| Found {
                row: rows.iter().find(|row| row.prefix == prefix).cloned(),
                role: *role,
                told,
                as_of: reached.position(),
                at,
            });
            let _gone_or_told = tell.send(found.map_err(Clone::clone));
        }
    }
}

/// The statement, as a type of its own, so that connections keep it prepared.
struct Find<'a>(&'a [String]);

impl QueryFragment<Pg> for Find<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(
            "SELECT prefix, hash, owner, scopes, claims, rate, left_ms, is_revoked FROM mainstay.find_api_keys(",
        );
        out.push_bind_param::<Array<Text>, [String]>(self.0)?;
        out.push_sql(")");
        Ok(())
    }
}

impl QueryId for Find<'_> {
    type QueryId = Find<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for Find<'_> {
    type SqlType = (Text, Binary, Text, Array<Text>, Jsonb, Nullable<Text>, Nullable<BigInt>, Bool);
}

impl<Conn> diesel::RunQueryDsl<Conn> for Find<'_> {}
