//! Statements prepared and not run: which parameters they take, which columns they yield, or why the server refuses them.

use std::time::{Duration, Instant};

use tokio::time::timeout_at;
use tokio_postgres::error::ErrorPosition;
use tokio_postgres::types::Type;

use super::attempt::{Others, gone};
use super::connect::RawLink;
use super::json_type::JsonType;
use super::node::Node;
use super::read::{Column, Database, Shared};
use super::wire::SqlState;
use crate::error::{Code, Error};
use crate::nodes::select::Order;

/// What a statement takes and yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The types of its parameters.
    pub parameters: Vec<String>,
    /// Its columns.
    pub columns: Vec<Column>,
}

/// Why a statement was not described.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DescribeError {
    /// The server does not accept it. For the operator, not for clients.
    #[error("{message}{} (SQLSTATE {state})", hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default())]
    Refused {
        /// The server's sentence.
        message: String,
        /// Its advice.
        hint: Option<String>,
        /// Its code.
        state: String,
        /// The character of the statement that it points at, from 1.
        position: Option<u32>,
    },
    /// A type that the database does not have.
    #[error("the database has no type {0}")]
    UnknownType(String),
    /// Nobody could be asked.
    #[error("no database can be reached: {0}")]
    Unavailable(String),
}

impl Database {
    /// The columns of a statement, from any node that reads would be sent to: requests wait for this.
    ///
    /// # Errors
    /// `query_failed` where the server refuses it, `database_unavailable` or `source_timeout` where none answers in time.
    pub async fn describe(&self, sql: &str, deadline: Instant) -> Result<Vec<Column>, Error> {
        let ask = async |node: &Node, others| ask_guarded(node, others, sql).await;
        match self.anywhere(deadline, ask).await {
            Ok(description) => Ok(description.columns),
            Err(DescribeError::Unavailable(reason)) => {
                log::debug!("a statement was not described: {reason}");
                Err(Error::new(Code::DatabaseUnavailable, "no database can be reached"))
            }
            Err(error) => {
                let state = match &error {
                    DescribeError::Refused { state, .. } => SqlState::new(state),
                    _ => None,
                };
                if let Some(kept_back) = self.shared.said.may_say(Instant::now(), ("any node".into(), state)) {
                    log::error!(kept_back; "a statement was refused: {error}");
                }
                Err(Error::new(Code::QueryFailed, "the query failed; the log says why"))
            }
        }
    }

    /// Prepares a statement with these parameter types, as Postgres names them, on any node, and does not run it. Fewer
    /// types leave the rest to the server.
    ///
    /// # Errors
    /// Why not, in the server's words.
    pub async fn prepare(&self, sql: &str, types: &[&str], deadline: Instant) -> Result<Description, DescribeError> {
        self.anywhere(deadline, async |node: &Node, _| prepare_on(node, sql, types).await).await
    }

    async fn anywhere(
        &self,
        deadline: Instant,
        ask: impl AsyncFn(&Node, Others) -> Result<Description, DescribeError>,
    ) -> Result<Description, DescribeError> {
        let late = |_| DescribeError::Unavailable("no answer came in time".to_owned());
        timeout_at(deadline.into(), self.shared.ask_anywhere(deadline, ask)).await.map_err(late)?
    }
}

impl Shared {
    async fn ask_anywhere(
        &self,
        deadline: Instant,
        ask: impl AsyncFn(&Node, Others) -> Result<Description, DescribeError>,
    ) -> Result<Description, DescribeError> {
        let _turn = self.describing.acquire().await;
        let mut reason = "none is configured".to_owned();
        let now = Instant::now();
        let all = |order: Order, others| {
            order.into_iter().filter_map(|index| self.nodes.get(index)).map(move |node| (node, others))
        };
        let primary = self.primary().map(|node| (node, Others::None));
        let resting = all(self.resting(now), Others::AllOpen);
        for (node, others) in all(self.order(now), Others::Left).chain(primary).chain(resting) {
            // Half of what is left, so that one node that hangs does not take it all.
            let share = deadline.saturating_duration_since(Instant::now()) / 2;
            match tokio::time::timeout(share.max(Duration::from_millis(50)), ask(node, others)).await {
                Ok(Err(DescribeError::Unavailable(error))) => reason = error,
                Ok(outcome) => return outcome,
                Err(_) => reason = format!("{} did not answer in time", node.name()),
            }
        }
        Err(DescribeError::Unavailable(reason))
    }
}

/// As reads are: behind the breaker, and not longer than the node is there. Else each of those who are the first to ask for
/// something would wait for a server that nobody has reached for minutes.
async fn ask_guarded(node: &Node, others: Others, sql: &str) -> Result<Description, DescribeError> {
    let began = Instant::now();
    if !node.measured.admit(began) && others != Others::AllOpen {
        return Err(DescribeError::Unavailable(format!("the breaker of {} is open", node.name())));
    }
    let outcome = tokio::select! {
        biased;
        outcome = prepare_on(node, sql, &[]) => outcome,
        () = gone(node, others) => Err(DescribeError::Unavailable(format!("{} stopped answering", node.name()))),
    };
    match &outcome {
        Err(DescribeError::Unavailable(reason)) => node.measured.failed(Instant::now(), reason),
        Ok(_) | Err(_) => node.measured.answered(Instant::now()),
    }
    outcome
}

async fn prepare_on(node: &Node, sql: &str, types: &[&str]) -> Result<Description, DescribeError> {
    let link = node.probe.open_raw().await.map_err(|error| DescribeError::Unavailable(error.to_string()))?;
    // One transaction, so that a pooler keeps to one server. It ends with the connection.
    link.client.batch_execute("BEGIN READ ONLY").await.map_err(|error| refused(&error))?;
    let types = resolve(&link, types).await?;
    let statement = link.client.prepare_typed(sql, &types).await.map_err(|error| refused(&error))?;
    let column = |column: &tokio_postgres::Column| Column {
        name: column.name().to_owned(),
        type_name: column.type_().name().to_owned(),
        json: JsonType::of(column.type_()),
    };
    let description = Description {
        parameters: statement.params().iter().map(|its| its.name().to_owned()).collect(),
        columns: statement.columns().iter().map(column).collect(),
    };
    drop(statement);
    link.client.batch_execute("ROLLBACK").await.map_err(|error| refused(&error))?;
    Ok(description)
}

/// The types behind names.
async fn resolve(link: &RawLink, names: &[&str]) -> Result<Vec<Type>, DescribeError> {
    let mut types = Vec::with_capacity(names.len());
    for name in names {
        let row =
            link.client.query_one("SELECT to_regtype($1)::oid", &[name]).await.map_err(|error| refused(&error))?;
        let oid = row.try_get::<_, Option<u32>>(0).ok().flatten();
        let unknown = || DescribeError::UnknownType((*name).to_owned());
        types.push(oid.and_then(Type::from_oid).ok_or_else(unknown)?);
    }
    Ok(types)
}

fn refused(error: &tokio_postgres::Error) -> DescribeError {
    match error.as_db_error() {
        Some(error) => DescribeError::Refused {
            message: error.message().to_owned(),
            hint: error.hint().map(str::to_owned),
            state: error.code().code().to_owned(),
            position: match error.position() {
                Some(ErrorPosition::Original(position)) => Some(*position),
                _ => None,
            },
        },
        None => DescribeError::Unavailable(error.to_string()),
    }
}
