//! Routing of reads.

use std::sync::Arc;
use std::time::Instant;

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;

use crate::error::Error;

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
pub struct Database {}

impl Database {
    /// The columns of a statement.
    pub async fn describe(&self, _sql: &str, _deadline: Instant) -> Result<Vec<Column>, Error> {
        unimplemented!("written by the database branch")
    }

    /// Runs a read where the consistency allows, on another node where one fails, until the deadline.
    pub async fn read<T>(
        &self,
        _consistency: Consistency,
        _deadline: Instant,
        _query: impl AsyncFn(&mut AsyncPgConnection) -> QueryResult<T>,
    ) -> Result<(T, Served), Error> {
        unimplemented!("written by the database branch")
    }
}

/// A column of a statement's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The name of its type, `int4`.
    pub type_name: String,
}

