//! Handlers in Rust, found by the name that the manifest gives them.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use futures_util::future::{FutureExt, LocalBoxFuture};

use super::Answer;
use super::description::Description;
use crate::config::param::Params;
use crate::database::proof::seen;
use crate::database::read::{Column, Consistency, Database, Depth, Served, in_snapshot};
use crate::database::row_settings::RowSettings;
use crate::database::write::{Abort, Progress};
use crate::error::{Code, Error};
use crate::identity::Identity;
use crate::position::{Lsn, Position};

/// Whom a call is for, where its answer is for one caller alone.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// Who it is, on a route with `auth`.
    pub identity: Option<Arc<Identity>>,
    /// The request's headers, names in lower case.
    pub headers: Vec<(Box<str>, Box<[u8]>)>,
    /// What is said of them in each transaction of the call.
    pub rows: RowSettings,
}

impl Caller {
    /// The first value of a header whose name, in lower case, is given; none where it is no text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(other, _)| **other == *name)?;
        std::str::from_utf8(value).ok()
    }
}

/// What handlers have in common, one value of a type.
type Data = HashMap<TypeId, Arc<dyn Any + Send + Sync>>;

/// One call of a handler: the request as the manifest declares it. Where the answer is shared there is no caller in it, on
/// purpose: what is not in the cache key must not influence the answer.
#[derive(Clone)]
pub struct Call {
    /// The request's method, in capitals.
    pub method: Arc<str>,
    /// The declared parameters, canonical.
    pub params: Params,
    /// The body; empty for GET.
    pub body: Bytes,
    /// Whom the answer is for; none where it is shared.
    pub caller: Option<Arc<Caller>>,
    database: Option<Arc<Database>>,
    consistency: Consistency,
    depth: Depth,
    deadline: Instant,
    served: Rc<RefCell<Option<Served>>>,
    progress: Rc<Progress>,
    data: Option<Arc<Data>>,
}

impl Call {
    /// A call with its way to the database.
    pub fn new(
        method: Arc<str>,
        params: Params,
        body: Bytes,
        database: Option<Arc<Database>>,
        consistency: Consistency,
        depth: impl Into<Depth>,
        deadline: Instant,
    ) -> Self {
        let depth = depth.into();
        let (served, progress) = (Rc::default(), Rc::default());
        Self {
            method,
            params,
            body,
            caller: None,
            database,
            consistency,
            depth,
            deadline,
            served,
            progress,
            data: None,
        }
    }

    /// The same call, for one caller alone.
    #[must_use]
    pub fn of(self, caller: Arc<Caller>) -> Self {
        Self { caller: Some(caller), ..self }
    }

    /// What was added to the registry for all handlers ([`Registry::add_data`]), by its type.
    pub fn data<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.data.as_ref()?.get(&TypeId::of::<T>())?.downcast_ref()
    }

    /// Reads with the route's consistency, within the request's deadline. All statements of the closure see one state of
    /// the database. It may run again on another node, so it only reads.
    ///
    /// # Errors
    /// Those of [`Database::read`]; `database_unavailable` where no database is configured, or `strong_unavailable` where
    /// the read would have to be on the primary.
    pub async fn read<T>(&self, query: impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>) -> Result<T, Error> {
        let query = async |conn: &mut AsyncPgConnection| {
            let value = query(conn).await?;
            // One more round trip, for what others are shown as well.
            let seen = if self.is_shared() { seen(conn).await? } else { None };
            Ok((value, seen))
        };
        self.read_statement(async |conn| in_snapshot(conn, &query).await).await
    }

    /// As [`Call::read`], for a single statement: it needs no transaction around it, which would take two more round trips. Beside
    /// its value comes [`SEEN`](crate::database::proof::SEEN), where the answer [is shared](Call::is_shared).
    pub(super) async fn read_statement<T>(
        &self,
        query: impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<(T, Option<Lsn>)>,
    ) -> Result<T, Error> {
        let database = self.database()?;
        let query = async |conn: &mut AsyncPgConnection| match self.rows() {
            None => query(conn).await,
            Some(rows) => {
                let query = async |conn: &mut AsyncPgConnection| {
                    rows.set(conn).await?;
                    query(conn).await
                };
                in_snapshot(conn, &query).await
            }
        };
        let ((value, seen), served) =
            database.read_at_least(self.consistency, self.depth, self.deadline, query).await?;
        let seen = served.branch.zip(seen).map(|((system, timeline), lsn)| Position { system, timeline, lsn });
        let mut last = self.served.borrow_mut();
        // Of several reads the one counts that saw the least, and the one that may have seen the most.
        let reached = last.as_ref().map_or(served.reached, |last| last.reached.least(served.reached));
        let before = last.as_ref().and_then(|last| last.seen);
        let seen = seen.zip(before).map(|(one, other)| one.later(other)).or(seen).or(before);
        *last = Some(Served { reached, seen, ..served });
        Ok(value)
    }

    /// Writes: all statements of the closure are one transaction on the primary, within the request's deadline. It may run again
    /// where it lost against another one, so whatever else it does must be harmless to repeat. Once it has returned a value,
    /// that is committed, and flushed to disk; with an error nothing is.
    ///
    /// ```no_run
    /// # use mainstay::{Abort, Answer, Call, Code, Error};
    /// # use diesel_async::RunQueryDsl;
    /// async fn rename(call: Call) -> Result<Answer, Error> {
    ///     let renamed = call.write(async |conn| {
    ///         let rows = diesel::sql_query("UPDATE things SET name = 'new' WHERE id = 1").execute(conn).await?;
    ///         if rows == 0 { Err(Abort::from(Error::new(Code::NotFound, "there is no such thing"))) } else { Ok(rows) }
    ///     });
    ///     Answer::json(&renamed.await?)
    /// }
    /// ```
    ///
    /// A client that goes away does not end it: requests that may write run to their end by themselves.
    ///
    /// # Errors
    /// Those of [`Database::write`]; `strong_unavailable` where no database is configured; `internal` in a call of GET, whose
    /// answer somebody may keep or ask for twice.
    pub async fn write<T>(&self, work: impl AsyncFn(&mut AsyncPgConnection) -> Result<T, Abort>) -> Result<T, Error> {
        if !self.may_write() {
            log::error!("a handler wants to write in a call of {}, which only reads", self.method);
            return Err(Error::new(Code::Internal, "the handler of this route may not write here; the log says why"));
        }
        let missing = || Error::new(Code::StrongUnavailable, "no database is configured");
        let database = self.database.as_ref().ok_or_else(missing)?;
        let work = async |conn: &mut AsyncPgConnection| {
            if let Some(rows) = self.rows() {
                rows.set(conn).await?;
            }
            work(conn).await
        };
        database.write(self.deadline, &self.progress, work).await
    }

    /// Whether others are shown the answer as well, so that the next one must not be older.
    pub(super) fn is_shared(&self) -> bool {
        self.caller.is_none() && self.consistency == Consistency::Eventual
    }

    /// What is said of the caller in each transaction, where anything is.
    fn rows(&self) -> Option<&RowSettings> {
        self.caller.as_ref().map(|caller| &caller.rows).filter(|rows| !rows.is_empty())
    }

    fn may_write(&self) -> bool {
        self.consistency == Consistency::Strong && !matches!(&*self.method, "GET" | "HEAD" | "OPTIONS")
    }

    /// From where on a standby has all that this call has committed, or may have; none where that is nothing.
    pub fn committed(&self) -> Option<Position> {
        self.progress.committed()
    }

    /// The columns of a statement, without running it.
    ///
    /// # Errors
    /// Those of the node that is asked.
    pub async fn describe(&self, sql: &str) -> Result<Vec<Column>, Error> {
        let database = self.database()?;
        database.describe(sql, self.deadline).await
    }

    /// When the caller no longer waits.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    fn database(&self) -> Result<&Arc<Database>, Error> {
        let code = match self.consistency {
            Consistency::Eventual => Code::DatabaseUnavailable,
            Consistency::Session | Consistency::Strong => Code::StrongUnavailable,
        };
        self.database.as_ref().ok_or_else(|| Error::new(code, "no database is configured"))
    }

    /// Who answered the last read of this call, and how far all of its reads had read.
    pub fn served(&self) -> Option<Served> {
        self.served.borrow().clone()
    }
}

/// A handler as it is kept: it runs on the worker that took the request, so that its future need not be `Send`.
pub type Handler = Arc<dyn Fn(Call) -> LocalBoxFuture<'static, Result<Answer, Error>> + Send + Sync>;

/// Handlers by name, and what they say of themselves.
#[derive(Clone, Default)]
pub struct Registry {
    handlers: HashMap<String, Handler>,
    descriptions: HashMap<String, Arc<Description>>,
    data: Data,
}

impl Registry {
    /// Adds a handler; a later one of the same name takes its place.
    pub fn add<F, Fut>(&mut self, name: impl Into<String>, handler: F)
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Answer, Error>> + 'static,
    {
        self.handlers.insert(name.into(), Arc::new(move |call| handler(call).boxed_local()));
    }

    /// Says what the handler of a name takes and gives; what was said of it before counts no more.
    pub fn describe(&mut self, name: impl Into<String>, description: Description) {
        self.descriptions.insert(name.into(), Arc::new(description));
    }

    /// What the handler of a name says of itself.
    pub fn description(&self, name: &str) -> Option<&Arc<Description>> {
        self.descriptions.get(name)
    }

    /// Adds what calls of all handlers are given ([`Call::data`]): what is known only once the server starts, when its handlers have
    /// long been named. A later value of the same type takes its place.
    pub fn add_data<T: Send + Sync + 'static>(&mut self, value: Arc<T>) {
        self.data.insert(TypeId::of::<T>(), value);
    }

    /// The handler of a name, with what all of them have in common by now.
    pub fn get(&self, name: &str) -> Option<Handler> {
        let (handler, data) = (Arc::clone(self.handlers.get(name)?), Arc::new(self.data.clone()));
        Some(Arc::new(move |call| handler(Call { data: Some(Arc::clone(&data)), ..call })))
    }

    /// All names, sorted, for messages.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.handlers.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }
}
