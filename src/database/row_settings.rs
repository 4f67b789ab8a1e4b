//! What is said of a caller inside a transaction, for policies on rows (`CREATE POLICY … USING (… current_setting('app.x') …)`).

use diesel::QueryResult;
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Text};
use diesel_async::AsyncPgConnection;

/// Settings of Postgres and their values, until a transaction ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, QueryId)]
pub struct RowSettings {
    names: Vec<String>,
    values: Vec<String>,
}

impl RowSettings {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Says it in the transaction that a connection is in: with its end it is gone, so that the next one on the same
    /// connection is told nothing.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn set(&self, connection: &mut AsyncPgConnection) -> QueryResult<()> {
        use diesel_async::RunQueryDsl as _;
        self.clone().get_result::<i64>(connection).await.map(drop)
    }
}

impl FromIterator<(String, String)> for RowSettings {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(settings: I) -> Self {
        let (names, values) = settings.into_iter().unzip();
        Self { names, values }
    }
}

impl QueryFragment<Pg> for RowSettings {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        // Counted, since a query that needs none of what a function returns need not call it.
        out.push_sql("SELECT count(set_config(s.name, s.value, true)) FROM unnest(");
        out.push_bind_param::<Array<Text>, Vec<String>>(&self.names)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, Vec<String>>(&self.values)?;
        out.push_sql(") AS s (name, value)");
        Ok(())
    }
}

impl Query for RowSettings {
    type SqlType = BigInt;
}

impl<Conn> diesel::RunQueryDsl<Conn> for RowSettings {}
