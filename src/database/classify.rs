//! What a failed attempt means: for the caller, for the node, and for whether another node is asked.

use diesel::result::{DatabaseErrorKind, Error as QueryError};

use super::wire::SqlState;

/// The meaning of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The node is out of reach, shutting down, or not what it was: another node is asked, the connection is dropped and
    /// the breaker told.
    Node,
    /// The same on a connection that had served before. Its node may be well: connections are killed, and die with a restart.
    Lost,
    /// The node is well and cancelled this query for its own reasons, a recovery conflict or a deadlock: another is asked.
    Conflict,
    /// The connection's prepared statement is out of date: once more on a new connection.
    StalePlan,
    /// The statement ran into its timeout.
    Timeout,
    /// Somebody else holds what it wants, for longer than it may wait.
    Locked,
    /// Nothing was found where something was asked for.
    NotFound,
    /// The query is wrong: every node would say the same.
    Query,
}

impl Meaning {
    /// The stable name, for traces.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Lost => "connection_lost",
            Self::Conflict => "conflict",
            Self::StalePlan => "stale_plan",
            Self::Timeout => "timeout",
            Self::Locked => "locked",
            Self::NotFound => "not_found",
            Self::Query => "query",
        }
    }

    /// From what Diesel says and what the tap saw.
    pub fn of(error: &QueryError, state: Option<SqlState>) -> Self {
        match (error, state) {
            (QueryError::NotFound, _) => Self::NotFound,
            (
                QueryError::DatabaseError(
                    DatabaseErrorKind::UnableToSendCommand | DatabaseErrorKind::ClosedConnection,
                    _,
                ),
                _,
            ) => Self::Node,
            (QueryError::DatabaseError(..) | QueryError::RollbackErrorOnCommit { .. }, Some(state)) => {
                Self::of_state(state)
            }
            (QueryError::DatabaseError(DatabaseErrorKind::SerializationFailure, _), None) => Self::Conflict,
            (QueryError::DatabaseError(DatabaseErrorKind::ReadOnlyTransaction, _), None) => Self::Query,
            (QueryError::BrokenTransactionManager, _) => Self::Node,
            _ => Self::Query,
        }
    }

    /// From the server's word.
    ///
    /// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
    pub fn of_state(state: SqlState) -> Self {
        match state.as_str() {
            // serialization_failure is what most recovery conflicts say; deadlock_detected is said by those on buffer pins.
            "40001" | "40P01" => Self::Conflict,
            "57014" => Self::Timeout,
            "55P03" => Self::Locked,
            // "cached plan must not change result type", and a prepared statement that a pooler or DISCARD took away.
            "0A000" | "26000" => Self::StalePlan,
            // admin_shutdown, crash_shutdown, cannot_connect_now, database_dropped, idle_session_timeout; all of 08.
            "57P01" | "57P02" | "57P03" | "57P04" | "57P05" => Self::Node,
            // disk_full, out_of_memory, io_error: of this very machine.
            "53100" | "53200" | "58030" => Self::Node,
            text if text.starts_with("08") => Self::Node,
            _ => Self::Query,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database_error(kind: DatabaseErrorKind) -> QueryError {
        QueryError::DatabaseError(kind, Box::new("what the server said, in any language".to_owned()))
    }

    #[test]
    fn the_sqlstate_decides_whatever_the_language_of_the_message() {
        for (state, meaning) in [
            ("40001", Meaning::Conflict),
            ("40P01", Meaning::Conflict),
            ("57P01", Meaning::Node),
            ("08006", Meaning::Node),
            ("57014", Meaning::Timeout),
            ("55P03", Meaning::Locked),
            ("0A000", Meaning::StalePlan),
            ("42P01", Meaning::Query),
            ("22012", Meaning::Query),
            ("25006", Meaning::Query),
        ] {
            let error = database_error(DatabaseErrorKind::Unknown);
            assert_eq!(Meaning::of(&error, SqlState::new(state)), meaning, "{state}");
        }
    }

    #[test]
    fn a_connection_that_broke_is_the_node_s_failure() {
        assert_eq!(Meaning::of(&database_error(DatabaseErrorKind::UnableToSendCommand), None), Meaning::Node);
        assert_eq!(Meaning::of(&QueryError::NotFound, SqlState::new("57P01")), Meaning::NotFound);
    }
}
