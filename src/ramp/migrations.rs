//! The tables of the reference application, brought up and, in tests, down.

use diesel::migration::{Migration, MigrationSource, Result};
use diesel::pg::Pg;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/ramp");

/// Applies what is not applied yet, in order, each in a transaction of its own, and returns the versions applied. The caller holds
/// the lock that keeps two instances from doing so at once.
///
/// # Errors
/// That of the first migration that fails; those before it stay applied.
pub fn migrate(conn: &mut impl MigrationHarness<Pg>) -> Result<Vec<String>> {
    let applied = conn.run_pending_migrations(MIGRATIONS)?;
    Ok(applied.iter().map(ToString::to_string).collect())
}

/// Takes back all of these migrations that are applied, the last one first, and with them their data. Other migrations that share the
/// database are left alone.
///
/// # Errors
/// That of the first migration that cannot be taken back.
pub fn revert(conn: &mut impl MigrationHarness<Pg>) -> Result<()> {
    let applied = conn.applied_migrations()?;
    let mut own: Vec<Box<dyn Migration<Pg>>> = MIGRATIONS.migrations()?;
    own.retain(|migration| applied.contains(&migration.name().version()));
    own.sort_by(|one, other| other.name().version().cmp(&one.name().version()));
    own.iter().try_for_each(|migration| conn.revert_migration(migration).map(drop))
}
