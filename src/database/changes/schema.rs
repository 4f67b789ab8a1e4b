//! The schema `mainstay`, brought up and, in tests, down. It keeps its own list of migrations inside itself, so that it meets
//! neither those of the reference application nor those of the user's own tables.

use diesel::connection::SimpleConnection;
use diesel::migration::{Migration, MigrationSource, Result};
use diesel::pg::Pg;
use diesel::sql_types::Text;
use diesel::{QueryableByName, RunQueryDsl, sql_query};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use crate::database::maintenance::MaintenanceConnection;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/mainstay");

/// The same for people to read before it runs, each with its version.
const TEXTS: [(&str, &str); 2] = [
    ("20261121100001", include_str!("../../../migrations/mainstay/2026-11-21-100001_change_feed/up.sql")),
    ("20261121100002", include_str!("../../../migrations/mainstay/2026-11-21-100002_api_keys/up.sql")),
];

/// The SQL of what is not applied yet.
///
/// # Errors
/// When the server cannot be asked.
pub fn pending(conn: &mut MaintenanceConnection) -> diesel::QueryResult<Vec<&'static str>> {
    #[derive(QueryableByName)]
    struct Version {
        #[diesel(sql_type = Text)]
        version: String,
    }
    // Before the first migration there is no such table, and a statement cannot name what is not there.
    const EXISTS: &str = "SELECT 'yes' AS version WHERE to_regclass('mainstay.__diesel_schema_migrations') IS NOT NULL";
    let applied = match sql_query(EXISTS).load::<Version>(conn)?.is_empty() {
        true => Vec::new(),
        false => sql_query("SELECT version FROM mainstay.__diesel_schema_migrations").load::<Version>(conn)?,
    };
    let is_pending = |version: &str| applied.iter().all(|one| one.version != version);
    Ok(TEXTS.iter().filter(|(version, _)| is_pending(version)).map(|(_, text)| *text).collect())
}

/// Applies what is not applied yet, and returns the versions applied.
///
/// # Errors
/// That of the first migration that fails; those before it stay applied.
pub fn migrate(conn: &mut MaintenanceConnection) -> Result<Vec<String>> {
    if pending(conn)?.is_empty() {
        return Ok(Vec::new());
    }
    conn.batch_execute("CREATE SCHEMA IF NOT EXISTS mainstay")?;
    within_schema(conn, |conn| {
        let applied = conn.run_pending_migrations(MIGRATIONS)?;
        Ok(applied.iter().map(ToString::to_string).collect())
    })
}

/// Takes all of it back, with the triggers on watched tables and all that the feed holds.
///
/// # Errors
/// That of the first migration that cannot be taken back.
pub fn revert(conn: &mut MaintenanceConnection) -> Result<()> {
    within_schema(conn, |conn| {
        let mut own: Vec<Box<dyn Migration<Pg>>> = MIGRATIONS.migrations()?;
        own.sort_by(|one, other| other.name().version().cmp(&one.name().version()));
        own.iter().try_for_each(|migration| conn.revert_migration(migration).map(drop))
    })?;
    conn.batch_execute("DROP TABLE mainstay.__diesel_schema_migrations; DROP SCHEMA mainstay")?;
    Ok(())
}

/// Diesel keeps its list in the first schema of the search path.
fn within_schema<T>(
    conn: &mut MaintenanceConnection,
    work: impl FnOnce(&mut MaintenanceConnection) -> Result<T>,
) -> Result<T> {
    conn.batch_execute("SET search_path = mainstay")?;
    let outcome = work(conn);
    conn.batch_execute("RESET search_path")?;
    outcome
}
