//! `mainstay dev`: everything on this machine. A throwaway primary with real rates, for each region a streaming replica, a Redis
//! and a regional origin, one failover origin, and where asked for nginx in the place of the CDN. Nothing is left behind when it
//! ends.

mod announce;
mod world;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use diesel::connection::SimpleConnection;
use diesel::sql_types::Bool;
use diesel::{QueryableByName, RunQueryDsl, sql_query};

use super::progress::{Progress, Shown};
use super::serve::{Asked, Signals};
use super::{Failure, FolderArgs, import, maintenance_connection, migrate};
use crate::app::{Parts, problems};
use crate::config::settings::{Layers, Settings};
use crate::local::{Postgres, Signal};
use crate::ramp::import::bundled;
use world::World;

/// Where the throwaway servers keep their data.
const DIR: &str = ".mainstay";
/// The database of the reference application.
const DATABASE: &str = "mainstay";
/// The role that serves: it may read, and see how replication goes, and nothing else.
const ROLE: &str = "mainstay_reader";
/// Opens the admin listener where no other token is set.
const ADMIN_TOKEN: &str = "dev";
/// Signs what sessions have seen where no other secret is set.
const TOKEN_SECRET: &str = "for this machine alone";
/// Signs what the sandbox provider tells of orders where no other secret is set.
const SANDBOX_SECRET: &str = "sandbox of this machine";

pub(super) const HELP: &str = "\
Signals: SIGINT and SIGTERM stop everything, SIGHUP starts again what has ended and has the origins read routes.toml again.

Example:
  mainstay dev --regions us-east-1,eu-west-1 --edge";

#[derive(Args)]
pub(super) struct DevArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Start over with empty databases.
    #[arg(long)]
    fresh: bool,
    /// Regions, separated by commas: the primary is in the first one, and far from all others. Without it there is one.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    regions: Vec<String>,
    /// Put nginx before each region's origin, in the place of a CDN with an origin group: what the regional origin does not
    /// answer, the failover origin is asked.
    #[arg(long)]
    edge: bool,
    /// With --edge, nginx keeps answers for as long as their Cache-Control allows.
    #[arg(long, requires = "edge")]
    edge_cache: bool,
    /// Address of the first public listener, the others follow; a free port where one is taken.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    bind: SocketAddr,
    /// Address of the first admin listener, the others follow; a free port where one is taken.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9090")]
    admin: SocketAddr,
    /// Address of the first region's edge, the others follow; a free port where one is taken.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8088")]
    edge_bind: SocketAddr,
}

pub(super) fn run(args: DevArgs, parts: &Parts) -> Result<(), Failure> {
    let began = Instant::now();
    let settings = args.folder.settings(Vec::new())?;
    let manifest = parts.manifest(args.folder.dir(), settings.consistency.account_reads).map_err(problems)?;
    let dir = std::path::absolute(DIR).map_err(Failure::new)?;
    if args.fresh {
        remove(&dir)?;
    }
    let wanted = migrate::Wanted { roles: [ROLE.to_owned()].into(), ..migrate::Wanted::by(&manifest) };
    actix_rt::System::new().block_on(async {
        // From here on a signal ends the program in order, also while the servers start.
        let mut signals = Signals::listen()?;
        let world = actix_rt::task::spawn_blocking(move || World::start(&dir, &args, &wanted));
        let world = Arc::new(world.await.map_err(Failure::new)??);
        announce::all(&world, began);
        while signals.next().await == Asked::Reload {
            let all = Arc::clone(&world);
            actix_rt::task::spawn_blocking(move || bring_back(&all)).await.map_err(Failure::new)?;
        }
        Ok(())
    })
}

/// Starts what has ended, and has what runs read its manifest again.
fn bring_back(world: &World) {
    for server in world.servers() {
        if let Err(error) = server.start() {
            step(&error.to_string());
        }
    }
    for (name, origin) in world.origins() {
        match origin.server.signal(Signal::HUP) {
            Ok(()) => step(&format!("{name} reads its manifest again; its log is {}", origin.server.log().display())),
            Err(error) => step(&format!("{name}: {error}")),
        }
    }
}

/// Removes what an earlier run left, which is in another place where the server's user cannot reach the wanted one.
fn remove(dir: &Path) -> Result<(), Failure> {
    let user = crate::local::ServerUser::detect().map_err(Failure::new)?;
    let used = user.directory(dir).map_err(Failure::new)?;
    std::fs::remove_dir_all(&used).map_err(|error| Failure::new(format!("{}: {error}", used.display())))
}

/// Brings a primary to where the server can run on it: database, schema, data, and a role that may only read.
fn prepare(primary: &Postgres, folder: &FolderArgs, wanted: &migrate::Wanted) -> Result<(), Failure> {
    #[derive(QueryableByName)]
    struct Found {
        #[diesel(sql_type = Bool)]
        found: bool,
    }
    let exists = primary
        .psql("postgres", &format!("SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'"))
        .map_err(Failure::new)?;
    if exists.trim().is_empty() {
        primary.psql("postgres", &format!("CREATE DATABASE {DATABASE}")).map_err(Failure::new)?;
    }
    let layers = Layers {
        dir: folder.dir(),
        env: HashMap::new(),
        flags: vec![("database.url", primary.url("postgres", DATABASE))],
    };
    let mut conn = maintenance_connection(&Settings::load(layers)?)?;
    let role = format!(
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') THEN CREATE ROLE {ROLE} LOGIN; END IF; END $$; \
         GRANT pg_monitor TO {ROLE}; GRANT USAGE ON SCHEMA public TO {ROLE}; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {ROLE}; \
         ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO {ROLE};"
    );
    conn.batch_execute(&role).map_err(Failure::new)?;
    match migrate::migrate(&mut conn, wanted, &Progress::of_steps(Shown::Shown)) {
        // Tables of one's own are made once the database is there.
        Err(Failure::Failed(reason)) if !wanted.ramp => step(&format!("changes are not followed: {reason}")),
        outcome => drop(outcome?),
    }
    if wanted.ramp {
        let is_empty = "SELECT NOT EXISTS (SELECT FROM exchange_rates) AS found";
        if sql_query(is_empty).get_result::<Found>(&mut *conn).map_err(Failure::new)?.found {
            step("importing 27 years of euro reference rates (European Central Bank)");
            let report = import::rates(&mut *conn, bundled()).map_err(Failure::new)?;
            step(&import::sentence(&report));
        }
    }
    Ok(())
}

fn step(what: &str) {
    eprintln!("  {what}");
}
