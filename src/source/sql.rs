//! `sql` sources: a declared statement becomes JSON inside Postgres, and its bytes are passed on.
//!
//! The statement is wrapped so that Postgres makes the JSON and counts rows and bytes before it sends them. Parameters are
//! bound as their canonical text and cast to the declared type, so that what was keyed is what is asked.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use diesel::QueryResult;
use diesel::pg::data_types::PgLsn;
use diesel::pg::{Pg, sql_types};
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Nullable, Text};
use tokio::sync::Mutex;

use super::Answer;
use super::handler::Call;
use crate::config::manifest::ResultShape;
use crate::config::manifest::statement::{Piece, Statement};
use crate::config::param::{Param, Params, Value};
use crate::database::proof::SEEN;
use crate::database::read::Column;
use crate::error::{Code, Error};
use crate::position::Lsn;
use crate::telemetry::traces;
use crate::telemetry::traces::SpanKind;

/// The query of one route, ready to run.
pub struct SqlSource {
    statement: Statement,
    sql_types: Vec<String>,
    result: ResultShape,
    rows_max: u32,
    response_bytes_max: usize,
    /// Made at the first run, since it takes the database to know whether the statement yields a JSON value.
    wrapped: ArcSwapOption<Wrapped>,
    /// What the last look at the columns found. Held during a look, so that those who need one at the same time share it.
    last_look: Mutex<Option<Result<Arc<Wrapped>, Error>>>,
    /// Looks that have ended.
    looks: AtomicU64,
}

/// The statement with its wrapping, as it is sent.
#[derive(PartialEq)]
struct Wrapped {
    /// For an answer that is shared: beside it comes [`SEEN`].
    shared: Vec<Piece>,
    /// For one that is its caller's alone. To compute what nobody asks for would take Postgres a quarter more.
    alone: Vec<Piece>,
}

impl SqlSource {
    /// The source of a declared statement.
    pub fn new(
        statement: &Statement,
        result: ResultShape,
        params: &[Param],
        rows_max: u32,
        response_bytes_max: usize,
    ) -> Self {
        Self {
            statement: statement.clone(),
            sql_types: params.iter().map(Param::sql_type).collect(),
            result,
            rows_max,
            response_bytes_max,
            wrapped: ArcSwapOption::empty(),
            last_look: Mutex::default(),
            looks: AtomicU64::new(0),
        }
    }

    /// Runs the query for a call.
    ///
    /// # Errors
    /// `not_found` and `row_not_unique` of a `row` result, `response_too_large`, and those of the read itself.
    pub async fn run(&self, call: &Call) -> Result<Answer, Error> {
        let mut span = traces::span("sql", SpanKind::Internal);
        let rows = span.around(self.rows(call)).await?;
        // Of many rows there is one, with their number.
        let count = rows.iter().filter_map(|(_, count)| *count).max().unwrap_or(0);
        span.set("db.response.returned_rows", count);
        let answer = self.answer(rows)?;
        span.set("mainstay.body_bytes", answer.body.len());
        Ok(answer)
    }

    async fn rows(&self, call: &Call) -> Result<Rows, Error> {
        let looks = self.looks.load(Ordering::Acquire);
        let Some(wrapped) = self.wrapped.load_full() else {
            let wrapped = self.rewrap(call, looks).await?;
            return load(&wrapped, call).await;
        };
        match load(&wrapped, call).await {
            // The statement may have met tables that have changed: where its columns are others now, it runs once more.
            Err(error) if error.code == Code::QueryFailed => {
                let fresh = self.rewrap(call, looks).await?;
                if *fresh == *wrapped { Err(error) } else { load(&fresh, call).await }
            }
            outcome => outcome,
        }
    }

    /// Looks at the statement's columns and wraps it accordingly, now and from now on. A look that ended after the caller
    /// had counted `looks` will do: each takes a connection of its own.
    async fn rewrap(&self, call: &Call, looks: u64) -> Result<Arc<Wrapped>, Error> {
        let mut last = self.last_look.lock().await;
        if self.looks.load(Ordering::Acquire) > looks
            && let Some(found) = &*last
        {
            return found.clone();
        }
        let columns = call.describe(&typed_sql(&self.statement, &self.sql_types)).await;
        let found = columns.map(|columns| Arc::new(self.wrap(&columns)));
        if let Ok(wrapped) = &found {
            self.wrapped.store(Some(Arc::clone(wrapped)));
        }
        // That no node answered in this call's time says nothing to others.
        if found.as_ref().err().is_none_or(|error| error.code == Code::QueryFailed) {
            *last = Some(found.clone());
            self.looks.fetch_add(1, Ordering::Release);
        }
        found
    }

    fn answer(&self, rows: Rows) -> Result<Answer, Error> {
        let mut rows = rows.into_iter().filter_map(|(body, count)| Some((body, count?)));
        match (rows.next(), rows.next()) {
            (None, _) => Err(Error::new(Code::NotFound, "there is no such thing")),
            (Some(_), Some(_)) => {
                Err(Error::new(Code::RowNotUnique, "the query of this route found more than one row"))
            }
            (Some((Some(body), _)), None) => Ok(Answer::json_bytes(Bytes::from(body))),
            (Some((None, count)), None) => Err(self.too_large(count)),
        }
    }

    fn too_large(&self, rows: i64) -> Error {
        let detail = if rows > i64::from(self.rows_max) {
            format!("the query of this route found more than {} rows", self.rows_max)
        } else {
            format!("the answer of this route would be longer than {} bytes", self.response_bytes_max)
        };
        Error::new(Code::ResponseTooLarge, detail)
    }

    fn wrap(&self, columns: &[Column]) -> Wrapped {
        Wrapped { shared: self.wrap_for(columns, true), alone: self.wrap_for(columns, false) }
    }

    /// Wraps the statement. The body comes out NULL where a limit is passed, so that the bytes are not even sent.
    fn wrap_for(&self, columns: &[Column], is_shared: bool) -> Vec<Piece> {
        let (value, guard) = match columns {
            [only] if matches!(only.type_name.as_str(), "json" | "jsonb") => (
                format!("coalesce((mainstay_q.{})::text, 'null')", quote_identifier(&only.name)),
                // Costs nothing, since the planner drops it; but once the statement yields something else than this one
                // column, it is an error, and the columns are looked at again.
                format!(" UNION ALL SELECT NULL::{} WHERE false", only.type_name),
            ),
            // With `.*` it is the row, even where a column is called mainstay_q.
            _ => ("row_to_json(mainstay_q.*)::text".to_owned(), String::new()),
        };
        let (rows_max, bytes_max) = (self.rows_max, self.response_bytes_max);
        let seen = if is_shared { format!(", {SEEN}") } else { String::new() };
        let (before, after) = match self.result {
            ResultShape::Row => {
                // Beside a row of its own, so that the position comes even where there is no row.
                let (one, on) = if is_shared { ("(SELECT) AS mainstay_one LEFT JOIN ", " ON true") } else { ("", "") };
                (
                    format!(
                        "SELECT CASE WHEN octet_length(j) <= {bytes_max} THEN j END, n{seen} FROM {one}\
                         (SELECT {value} AS j, 1::bigint AS n FROM (("
                    ),
                    format!("\n){guard}) AS mainstay_q LIMIT 2) AS mainstay_rows{on}"),
                )
            }
            ResultShape::Rows => (
                format!(
                    "SELECT CASE WHEN count(*) <= {rows_max} AND coalesce(sum(octet_length(j) + 1), 0) < {bytes_max} \
                     THEN '[' || coalesce(string_agg(j, ','), '') || ']' END, count(*){seen} FROM (SELECT {value} AS j FROM (("
                ),
                format!("\n){guard}) AS mainstay_q LIMIT {}) AS mainstay_rows", u64::from(rows_max) + 1),
            ),
        };
        let mut pieces = vec![Piece::Text(before)];
        for piece in self.statement.pieces() {
            match piece {
                Piece::Text(text) => pieces.push(Piece::Text(text.clone())),
                Piece::Placeholder(index) => {
                    let sql_type = self.sql_types.get(*index).map_or("text", String::as_str);
                    pieces.extend([
                        Piece::Text("(".to_owned()),
                        Piece::Placeholder(*index),
                        Piece::Text(format!("::{sql_type})")),
                    ]);
                }
            }
        }
        pieces.push(Piece::Text(after));
        pieces
    }
}

/// What Postgres answers: the body, where it is within the limits, and the number of rows; none where there is no row.
type Rows = Vec<(Option<String>, Option<i64>)>;

async fn load(wrapped: &Wrapped, call: &Call) -> Result<Rows, Error> {
    use diesel_async::RunQueryDsl;
    call.read_statement(async |conn| {
        if !call.is_shared() {
            let query = DeclaredQuery::<Alone>::new(&wrapped.alone, &call.params);
            return Ok((query.load(conn).await?, None));
        }
        type Row = (Option<String>, Option<i64>, Option<PgLsn>);
        let rows: Vec<Row> = DeclaredQuery::<Shared>::new(&wrapped.shared, &call.params).load(conn).await?;
        let seen = rows.iter().find_map(|(.., seen)| seen.map(|PgLsn(lsn)| Lsn(lsn)));
        Ok((rows.into_iter().map(|(body, count, _)| (body, count)).collect(), seen))
    })
    .await
}

/// The statement as it is prepared by itself: each placeholder a text, cast to its declared type.
pub fn typed_sql(statement: &Statement, sql_types: &[String]) -> String {
    statement.render(|index| {
        let sql_type = sql_types.get(index).map_or("text", String::as_str);
        let text = if sql_type.ends_with("[]") { "text[]" } else { "text" };
        format!("(${}::{text}::{sql_type})", index + 1)
    })
}

/// `a"b` → `"a""b"`.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A query that Diesel runs and keeps prepared, although its text is known only at run time. It is safe to keep since the
/// text is one of the manifest's: values only ever travel as binds.
struct DeclaredQuery<'a, Columns> {
    pieces: &'a [Piece],
    params: &'a Params,
    columns: PhantomData<Columns>,
}

/// The body and the number of rows.
type Alone = (Nullable<Text>, Nullable<BigInt>);
/// And [`SEEN`].
type Shared = (Nullable<Text>, Nullable<BigInt>, Nullable<sql_types::PgLsn>);

impl<'a, Columns> DeclaredQuery<'a, Columns> {
    const fn new(pieces: &'a [Piece], params: &'a Params) -> Self {
        Self { pieces, params, columns: PhantomData }
    }
}

impl<Columns> QueryFragment<Pg> for DeclaredQuery<'_, Columns> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        for piece in self.pieces {
            match piece {
                Piece::Text(text) => out.push_sql(text),
                Piece::Placeholder(index) => match self.params.values().nth(*index) {
                    Some(Value::One(text)) => out.push_bind_param::<Text, Cow<'static, str>>(text)?,
                    Some(Value::Many(items)) => out.push_bind_param::<Array<Text>, Vec<Cow<'static, str>>>(items)?,
                    Some(Value::Null) | None => out.push_bind_param::<Nullable<Text>, Option<String>>(&None)?,
                },
            }
        }
        Ok(())
    }
}

impl<Columns> QueryId for DeclaredQuery<'_, Columns> {
    type QueryId = ();
    // The text differs from route to route under one Rust type, so the statement cache goes by the text.
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Columns> Query for DeclaredQuery<'_, Columns> {
    type SqlType = Columns;
}

impl<Columns, Conn> diesel::RunQueryDsl<Conn> for DeclaredQuery<'_, Columns> {}
