//! `mainstay dev`: everything on this machine. A throwaway primary, a streaming replica, real rates, and the server, with
//! nothing left behind when it ends.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use diesel::connection::SimpleConnection;
use diesel::sql_types::Bool;
use diesel::{QueryableByName, RunQueryDsl, sql_query};

use super::serve::Stop;
use super::{Failure, FolderArgs, import, maintenance_connection, migrate};
use crate::app::{Parts, Server, problems};
use crate::config::settings::{Layers, Settings};
use crate::local::{Postgres, PostgresOptions, Redis, RedisOptions, ReplicaOptions, wait_until};
use crate::ramp::import::bundled;
use crate::telemetry::logs;

/// Where the throwaway servers keep their data.
const DIR: &str = ".mainstay";
/// The database of the reference application.
const DATABASE: &str = "mainstay";
/// The role that serves: it may read, and see how replication goes, and nothing else.
const ROLE: &str = "mainstay_reader";
/// Opens the admin listener where no other token is set.
const ADMIN_TOKEN: &str = "dev";
/// How long the replica may take to have what was just loaded.
const CATCH_UP: Duration = Duration::from_secs(60);

#[derive(Args)]
pub(super) struct DevArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Start over with empty databases.
    #[arg(long)]
    fresh: bool,
    /// Address of the public listener; a free port where it is taken.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    bind: SocketAddr,
    /// Address of the admin listener; a free port where it is taken.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9090")]
    admin: SocketAddr,
}

pub(super) fn run(args: &DevArgs, parts: Parts) -> Result<(), Failure> {
    let began = Instant::now();
    let manifest = parts.manifest(&args.folder.dir).map_err(problems)?;
    let dir = std::path::absolute(DIR).map_err(Failure::new)?;
    if args.fresh {
        remove(&dir)?;
    }
    actix_rt::System::new().block_on(async {
        // From here on a signal ends the program in order, also while the servers start.
        let stop = Stop::listen()?;
        let folder = args.folder.clone();
        let wanted = migrate::Wanted { roles: [ROLE.to_owned()].into(), ..migrate::Wanted::by(&manifest) };
        let databases = actix_rt::task::spawn_blocking(move || Databases::start(&dir, &folder, &wanted));
        let databases = databases.await.map_err(Failure::new)??;
        let settings = databases.settings(&args.folder, free(args.bind), free(args.admin))?;
        logs::start(&settings.log)?;
        let server = Server::start(settings, args.folder.dir.clone(), parts)?;
        server.wait_sampled().await;
        announce(&server, &databases, began);
        stop.run(server).await;
        drop(databases);
        Ok(())
    })
}

/// Removes what an earlier run left, which is in another place where the server's user cannot reach the wanted one.
fn remove(dir: &Path) -> Result<(), Failure> {
    let user = crate::local::ServerUser::detect().map_err(Failure::new)?;
    let used = user.directory(dir).map_err(Failure::new)?;
    std::fs::remove_dir_all(&used).map_err(|error| Failure::new(format!("{}: {error}", used.display())))
}

/// The wanted address, or a free port on it.
fn free(wanted: SocketAddr) -> SocketAddr {
    match TcpListener::bind(wanted) {
        Ok(_) => wanted,
        Err(_) => SocketAddr::new(wanted.ip(), 0),
    }
}

/// The throwaway primary and its replica; they stop when this is dropped. The replica goes first.
struct Databases {
    redis: Option<Redis>,
    replica: Postgres,
    primary: Postgres,
}

impl Databases {
    fn start(dir: &Path, folder: &FolderArgs, wanted: &migrate::Wanted) -> Result<Self, Failure> {
        step("starting a Postgres primary");
        let primary = Postgres::primary(PostgresOptions::new(dir.join("primary"))).map_err(Failure::new)?;
        prepare(&primary, folder, wanted)?;
        step("starting a streaming replica");
        let replica = primary.replica(ReplicaOptions::new(dir.join("replica"))).map_err(Failure::new)?;
        let caught_up = wait_until(CATCH_UP, || {
            let position = primary.psql("postgres", "SELECT pg_current_wal_flush_lsn()").unwrap_or_default();
            let reached = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", position.trim());
            replica.psql("postgres", &reached).is_ok_and(|answer| answer.trim() == "t")
        });
        if !caught_up {
            return Err(Failure::new("the replica does not catch up; `mainstay dev --fresh` starts over"));
        }
        let redis = Redis::start(&RedisOptions::new(dir.join("redis"))).map_err(Failure::new)?;
        if redis.is_none() {
            step("redis-server is not installed: there is no shared cache");
        }
        Ok(Self { redis, replica, primary })
    }

    /// Settings of a server on these databases: the folder's own, the environment's, then these.
    fn settings(&self, folder: &FolderArgs, bind: SocketAddr, admin: SocketAddr) -> Result<Settings, Failure> {
        let redis = self.redis.as_ref().map(Redis::url).unwrap_or_default();
        let mut flags = vec![
            ("redis.url", redis),
            ("database.url", self.primary.url(ROLE, DATABASE)),
            ("database.read_replica_urls", self.replica.url(ROLE, DATABASE)),
            ("server.bind_addr", bind.to_string()),
            ("server.admin_addr", admin.to_string()),
            // No balancer has to notice.
            ("server.drain_delay", "0s".to_owned()),
        ];
        if folder.settings(Vec::new())?.server.admin_token.is_empty() {
            flags.push(("server.admin_token", ADMIN_TOKEN.to_owned()));
        }
        folder.settings(flags)
    }
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
        dir: &folder.dir,
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
    match migrate::migrate(&mut conn, wanted) {
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

fn announce(server: &Server, databases: &Databases, began: Instant) {
    let base = format!("http://{}", server.public_addr);
    println!("\nMainstay is ready after {:.1} s.\n", began.elapsed().as_secs_f64());
    println!("  API      {base}");
    println!("  health   {base}/health/edge");
    println!("  metrics  http://{}/metrics", server.admin_addr);
    println!("  primary  {}", databases.primary.url("postgres", DATABASE));
    println!("  replica  {}", databases.replica.url("postgres", DATABASE));
    if let Some(redis) = &databases.redis {
        println!("  Redis    {}", redis.url());
    }
    println!("\nThings to try (the second time each is a hit; look at Cache-Status):\n");
    for request in [
        format!("curl -i '{base}/public/rates?symbols=USD,GBP'"),
        format!("curl -i '{base}/public/rates?base=USD&date=2024-12-25'"),
        format!("curl -i '{base}/api/v1/rates/history?symbols=USD&from=2026-10-01&to=2026-10-30'"),
        format!("curl -i '{base}/api/v1/fees/quote?product=onramp&amount=100000&currency=USD'"),
        format!("curl -i -H 'X-Consistency: strong' '{base}/public/rates'"),
    ] {
        println!("  {request}");
    }
    println!("\nA change in the database, and the next answer has it:\n");
    println!(
        "  psql '{}' -c \"UPDATE exchange_rates SET rate = rate * 2 WHERE currency = 'USD' AND date = (SELECT max(date) FROM exchange_rates)\"",
        databases.primary.url("postgres", DATABASE)
    );
    println!("\nA purge by hand, and what the server knows:\n");
    println!(
        "  ADMIN_TOKEN={ADMIN_TOKEN} mainstay purge --admin http://{} --path '/public/rates/*'",
        server.admin_addr
    );
    println!("  ADMIN_TOKEN={ADMIN_TOKEN} mainstay status --admin http://{}", server.admin_addr);
    println!(
        "\nCtrl-C stops everything. The data stays in {}; --fresh starts over.\n",
        parent(databases.primary.dir()).display()
    );
}

fn parent(dir: &Path) -> PathBuf {
    dir.parent().unwrap_or(dir).to_owned()
}
