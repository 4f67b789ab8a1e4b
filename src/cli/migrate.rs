//! `mainstay migrate`: brings the database up to what the manifest needs: the change feed with its triggers on watched tables,
//! the table of API keys, and the tables of the built-in API where it is used.

use std::collections::BTreeSet;

use clap::Args;
use diesel::connection::SimpleConnection;
use diesel::sql_types::Text;
use diesel::{QueryableByName, RunQueryDsl, sql_query};

use super::progress::{Progress, Shown};
use super::{Failure, FolderArgs, maintenance_connection, put};
use crate::app::{Parts, problems};
use crate::config::manifest::{Manifest, Watch};
use crate::config::settings::Settings;
use crate::database::changes::install::{self, PlanError};
use crate::database::changes::schema;
use crate::database::maintenance::MaintenanceConnection;
use crate::database::target::Target;
use crate::ramp;

pub(super) const HELP: &str = "\
Connects with DATABASE_DIRECT_URL, else DATABASE_URL, as the owner of the watched tables. Running it again changes nothing.
The user of DATABASE_URL, and each --role, is granted what serving takes: to read the feed, to say how far it has read,
and to look up API keys one by one.
Triggers that an earlier manifest asked for stay, so that its version can run on beside this one; --contract drops them.";

/// The advisory lock that keeps two instances from migrating at once: "mainstay" as a number.
const LOCK: i64 = 0x6d61_696e_7374_6179;

#[derive(Args)]
pub(super) struct MigrateArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Print the SQL, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Drop what this manifest does not ask for. No other version may run beside it any more.
    #[arg(long)]
    contract: bool,
    /// A role that serves, beside the user of DATABASE_URL. May be given several times.
    #[arg(long = "role", value_name = "NAME")]
    roles: Vec<String>,
}

/// What a database is to have.
pub(super) struct Wanted {
    /// The tables of the built-in API.
    pub ramp: bool,
    /// What all routes watch.
    pub watches: Vec<Watch>,
    /// Whether everything else is dropped.
    pub contract: bool,
    /// Who serves.
    pub roles: BTreeSet<String>,
}

impl Wanted {
    /// What a manifest asks for.
    pub(super) fn by(manifest: &Manifest) -> Self {
        Self { ramp: manifest.uses_ramp(), watches: manifest.watches(), contract: false, roles: BTreeSet::new() }
    }

    fn is_nothing(&self) -> bool {
        !self.ramp && self.watches.is_empty() && !self.contract
    }
}

pub(super) fn run(args: &MigrateArgs, parts: &Parts) -> Result<(), Failure> {
    let settings = args.folder.settings_or_problems(Vec::new(), parts)?;
    let manifest = parts.manifest(args.folder.dir(), settings.consistency.account_reads).map_err(problems)?;
    let mut roles: BTreeSet<String> = args.roles.iter().cloned().collect();
    roles.extend(serving_role(&settings));
    let wanted = Wanted { contract: args.contract, roles, ..Wanted::by(&manifest) };
    if wanted.is_nothing() {
        say!(
            "nothing to do: no route watches a table, asks for API keys or uses the built-in API's handlers, and your own tables are yours"
        );
        return Ok(());
    }
    let mut conn = maintenance_connection(&settings)?;
    let progress = Progress::of_steps(Shown::Shown);
    for role in &args.roles {
        if !is_role(&mut conn, role)? {
            return Err(Failure::Failed(format!("--role {role}: there is no such role")));
        }
    }
    if args.dry_run {
        drop(progress);
        return preview(&mut conn, &wanted);
    }
    let done = migrate(&mut conn, &wanted, &progress)?;
    drop(progress);
    match (done.migrations.len(), done.changes) {
        (0, 0) => say!("the schema is up to date"),
        (0, changes) => say!("brought triggers and grants up to date in {changes} steps"),
        (count, _) => say!("applied {count} migrations: {}", done.migrations.join(", ")),
    }
    done.kept.iter().for_each(|kept| say!("kept, until --contract: {kept}"));
    Ok(())
}

fn is_role(conn: &mut MaintenanceConnection, name: &str) -> Result<bool, Failure> {
    #[derive(QueryableByName)]
    struct Role {
        #[diesel(sql_type = Text)]
        _name: String,
    }
    let role = sql_query("SELECT rolname::text AS _name FROM pg_roles WHERE rolname = $1").bind::<Text, _>(name);
    Ok(!role.load::<Role>(conn).map_err(Failure::new)?.is_empty())
}

/// The user of the URL with which the server connects.
fn serving_role(settings: &Settings) -> Option<String> {
    let target = Target::parse(settings.database.url.current().expose()).ok()?;
    target.config.get_user().map(str::to_owned)
}

/// What was done.
#[derive(Default)]
pub(super) struct Done {
    /// Versions that were applied.
    migrations: Vec<String>,
    /// Steps beside them.
    changes: usize,
    /// What nobody asks for any more.
    kept: Vec<String>,
}

/// Applies what is missing while holding the lock.
pub(super) fn migrate(conn: &mut MaintenanceConnection, wanted: &Wanted, progress: &Progress) -> Result<Done, Failure> {
    #[derive(QueryableByName)]
    struct Locked {
        #[diesel(sql_type = Text)]
        _locked: String,
    }
    let with_lock =
        |function: &str| sql_query(format!("SELECT '' AS _locked FROM (SELECT {function}({LOCK})) AS held"));
    progress.step("waiting until nobody else migrates");
    with_lock("pg_advisory_lock").get_result::<Locked>(conn).map_err(Failure::new)?;
    let done = migrate_alone(conn, wanted, progress).map_err(with_owner);
    with_lock("pg_advisory_unlock").get_result::<Locked>(conn).map_err(Failure::new)?;
    done
}

/// Whoever serves commonly may not migrate, and the server does not say who may.
fn with_owner(failure: Failure) -> Failure {
    match failure {
        Failure::Failed(sentence) if sentence.contains("permission denied") || sentence.contains("must be owner") => {
            Failure::Failed(format!("{sentence}; migrate as the owner of the tables, whom DATABASE_DIRECT_URL names"))
        }
        other => other,
    }
}

fn migrate_alone(conn: &mut MaintenanceConnection, wanted: &Wanted, progress: &Progress) -> Result<Done, Failure> {
    let mut done = Done::default();
    progress.step("applying migrations");
    if wanted.ramp {
        done.migrations = ramp::migrate(conn).map_err(Failure::new)?;
    }
    done.migrations.extend(schema::migrate(conn).map_err(Failure::new)?);
    progress.step("installing triggers, which waits for those who write to the tables");
    let plan = install::plan(conn, &wanted.watches, wanted.contract).map_err(Failure::new)?;
    install::apply(conn, &plan).map_err(Failure::new)?;
    done.changes = plan.steps.len();
    done.kept = plan.kept;
    progress.step("granting what serving takes");
    for role in &wanted.roles {
        for grants in grants(conn, wanted, role)? {
            conn.batch_execute(&grants).map_err(Failure::new)?;
            done.changes += 1;
        }
    }
    Ok(done)
}

/// What a role lacks.
fn grants(conn: &mut MaintenanceConnection, wanted: &Wanted, role: &str) -> Result<Vec<String>, Failure> {
    let ramp = if wanted.ramp { ramp::grants::grants(conn, role).map_err(Failure::new)? } else { None };
    Ok(install::grants(conn, role).map_err(Failure::new)?.into_iter().chain(ramp).collect())
}

/// Prints what [`migrate_alone`] would run.
fn preview(conn: &mut MaintenanceConnection, wanted: &Wanted) -> Result<(), Failure> {
    if wanted.ramp {
        put("-- The migrations of the built-in API come first, where they are not applied yet.");
    }
    let pending = schema::pending(conn).map_err(Failure::new)?;
    if !pending.is_empty() {
        put("CREATE SCHEMA IF NOT EXISTS mainstay;\n");
    }
    pending.iter().for_each(|text| put(text));
    match install::plan(conn, &wanted.watches, wanted.contract) {
        Ok(plan) => {
            plan.steps.iter().for_each(|step| say!("BEGIN;\n{step};\nCOMMIT;\n"));
            plan.kept.iter().for_each(|kept| say!("-- kept, until --contract: {kept}"));
        }
        // Tables that migrations are still to make.
        Err(PlanError::Refused(reason)) if wanted.ramp || !pending.is_empty() => {
            say!("-- Triggers cannot be planned yet: {reason}")
        }
        Err(error) => return Err(Failure::new(error)),
    }
    for role in &wanted.roles {
        for grants in grants(conn, wanted, role)? {
            say!("{grants};");
        }
    }
    Ok(())
}
