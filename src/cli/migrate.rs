//! `mainstay migrate`: brings the database up to what the manifest needs.

use diesel::sql_types::BigInt;
use diesel::{QueryableByName, RunQueryDsl, sql_query};

use super::{Failure, FolderArgs, maintenance_connection};
use crate::app::{Parts, problems};
use crate::database::maintenance::MaintenanceConnection;
use crate::ramp;

/// The advisory lock that keeps two instances from migrating at once: "mainstay" as a number.
const LOCK: i64 = 0x6d61_696e_7374_6179;

pub(super) fn run(args: &FolderArgs, parts: &Parts) -> Result<(), Failure> {
    let settings = args.settings(Vec::new())?;
    let manifest = parts.manifest(&args.dir).map_err(problems)?;
    if !manifest.uses_ramp() {
        println!("nothing to do: no route uses the built-in API's handlers, and your own tables are yours");
        return Ok(());
    }
    let applied = migrate(&mut *maintenance_connection(&settings)?)?;
    match applied.len() {
        0 => println!("the schema is up to date"),
        count => println!("applied {count} migrations: {}", applied.join(", ")),
    }
    Ok(())
}

/// Applies what is missing while holding the lock.
pub(super) fn migrate(conn: &mut MaintenanceConnection) -> Result<Vec<String>, Failure> {
    #[derive(QueryableByName)]
    struct Locked {
        #[diesel(sql_type = BigInt)]
        _locked: i64,
    }
    let with_lock =
        |function: &str| sql_query(format!("SELECT 1::bigint AS _locked FROM (SELECT {function}({LOCK})) AS held"));
    with_lock("pg_advisory_lock").get_result::<Locked>(conn).map_err(Failure::new)?;
    let applied = ramp::migrate(conn).map_err(Failure::new);
    with_lock("pg_advisory_unlock").get_result::<Locked>(conn).map_err(Failure::new)?;
    applied
}
