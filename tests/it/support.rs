//! What tests share: servers, databases, settings, and waiting for conditions.

use std::collections::HashMap;
use std::io::Write;
use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Once};
use std::time::{Duration, Instant};

use diesel::QueryableByName;
use diesel::sql_types::{Integer, Text};
use diesel_async::RunQueryDsl;
use mainstay::config::settings::{Layers, Settings};
use mainstay::database::health::{Health, Verdict};
use mainstay::database::read::{Consistency, Database, Role, Served};
use mainstay::error::Error;
use mainstay::local::{Postgres, PostgresOptions, Proxy, ReplicaOptions, Scratch};
use mainstay::position::Position;

/// How long a condition may take to come true on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Says what fails when it fails. The harness keeps that until all tests have ended, and a run that is cut off never says it.
pub fn say_at_once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |failure| {
            let thread = std::thread::current();
            // What is written there is not captured, as what is printed would be.
            let _nobody_reads = writeln!(std::io::stderr(), "{}: {failure}", thread.name().unwrap_or_default());
            usual(failure);
        }));
    });
}

/// A primary with one replica.
pub struct Cluster {
    pub primary: Postgres,
    pub replica: Postgres,
    /// What the replica streams through.
    pub stream: Proxy,
    _scratch: Scratch,
}

impl Cluster {
    /// A cluster of a test's own, to be stopped, cut and promoted.
    pub fn private(name: &str) -> Self {
        Self::with(name, |options| options)
    }

    /// As [`Cluster::private`], with settings for both servers.
    pub fn with(name: &str, settings: impl Fn(PostgresOptions) -> PostgresOptions) -> Self {
        say_at_once();
        let scratch = Scratch::new(name).unwrap();
        let options = PostgresOptions::new(scratch.join("primary"))
            .setting("wal_retrieve_retry_interval", "100ms")
            .setting("shared_buffers", "8MB");
        let primary = Postgres::primary(settings(options)).unwrap();
        let stream = Proxy::start(([127, 0, 0, 1], primary.server.port()).into()).unwrap();
        let options =
            ReplicaOptions { upstream: Some(stream.address()), ..ReplicaOptions::new(scratch.join("replica")) };
        let replica = primary.replica(options).unwrap();
        Self { primary, replica, stream, _scratch: scratch }
    }

    /// The cluster that all tests share which only make databases in it.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Cluster> =
            LazyLock::new(|| Cluster::with("shared", |options| options.setting("max_connections", "300")));
        &SHARED
    }

    /// Makes a database, and waits until the replica has it.
    pub fn database(&self) -> String {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.primary.psql("postgres", &format!("CREATE DATABASE {name}")).unwrap();
        self.catch_up();
        name
    }

    /// Waits until the replica has replayed all that the primary has.
    pub fn catch_up(&self) {
        let lsn = self.primary.psql("postgres", "SELECT pg_current_wal_flush_lsn()").unwrap();
        let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", lsn.trim());
        let caught_up = || self.replica.psql("postgres", &sql).unwrap().trim() == "t";
        assert!(mainstay::local::wait_until(PATIENCE, caught_up), "the replica does not catch up");
    }

    /// Settings for a database of this cluster.
    pub fn settings(&self, database: &str) -> Settings {
        let replica = self.replica.url("postgres", database);
        settings(&self.primary.url("postgres", database), &replica, &[])
    }
}

/// Settings with fast sampling, and a probe timeout that a busy machine does not reach.
pub fn settings(primary: &str, replicas: &str, more: &[(&str, &str)]) -> Settings {
    let pairs = [
        ("DATABASE_URL", primary),
        ("DATABASE_READ_REPLICA_URL", replicas),
        ("MAINSTAY__REPLICATION__SAMPLE_INTERVAL", "50ms"),
        ("MAINSTAY__REPLICATION__PROBE_TIMEOUT", "1s"),
        ("MAINSTAY__REPLICATION__LAG_MAX", "1500ms"),
        ("MAINSTAY__HEALTH__LAG_MAX", "1500ms"),
        ("MAINSTAY__DATABASE__POOL_SIZE", "4"),
    ];
    let env: HashMap<String, String> = pairs
        .iter()
        .chain(more)
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    Settings::load(Layers { dir: dir.path(), env, flags: Vec::new() }).unwrap()
}

/// A started database whose nodes have all been sampled.
pub async fn start(settings: &Settings) -> Arc<Database> {
    let database = Database::start(settings).unwrap();
    wait_for("every node to be sampled", || database.status().nodes.iter().all(|node| node.sampled)).await;
    database
}

/// A started database whose replicas are all eligible.
pub async fn start_eligible(settings: &Settings) -> Arc<Database> {
    let database = start(settings).await;
    wait_for("the replicas to be eligible", || database.status().replicas().all(|node| node.is_eligible())).await;
    database
}

/// Waits for a condition, with a limit.
pub async fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Looks at health as the server does, once a sample.
pub struct Doctor<'a> {
    health: Health,
    settings: &'a Settings,
}

impl<'a> Doctor<'a> {
    pub fn new(settings: &'a Settings) -> Self {
        Self { health: Health::default(), settings }
    }

    /// Looks until the verdict is such.
    pub async fn wait_for(&mut self, database: &Database, what: &str, holds: impl Fn(&Verdict) -> bool) -> Verdict {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let verdict = self.health.tick(&database.status(), &self.settings.health);
            if holds(&verdict) {
                return verdict;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}: {verdict:?}");
            tokio::time::sleep(self.settings.replication.sample_interval.0).await;
        }
    }
}

/// A deadline that no test should reach.
pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = Integer)]
    number: i32,
}

#[derive(QueryableByName)]
struct Word {
    #[diesel(sql_type = Text)]
    word: String,
}

/// Reads an integer column called `number`.
pub async fn number(database: &Database, consistency: Consistency, sql: &str) -> Result<(i32, Served), Error> {
    let read = database.read(consistency, soon(), async |conn| diesel::sql_query(sql).get_result::<Number>(conn).await);
    read.await.map(|(row, served)| (row.number, served))
}

/// Reads a text column called `word`.
pub async fn word(database: &Database, consistency: Consistency, sql: &str) -> Result<(String, Served), Error> {
    let read = database.read(consistency, soon(), async |conn| diesel::sql_query(sql).get_result::<Word>(conn).await);
    read.await.map(|(row, served)| (row.word, served))
}

/// The integer column called `number` of a statement, on a connection.
pub async fn count(conn: &mut diesel_async::AsyncPgConnection, sql: &str) -> diesel::QueryResult<i32> {
    diesel::sql_query(sql).get_result::<Number>(conn).await.map(|row| row.number)
}

/// A position on a server's WAL that is past all that is visible there now.
pub fn fence(server: &Postgres, database: &str) -> Position {
    let sql = "SELECT s.system_identifier || ':' || ('x' || substr(pg_walfile_name(f.lsn), 1, 8))::bit(32)::int || ':' || f.lsn \
               FROM pg_control_system() s, (SELECT pg_logical_emit_message(true, 'mainstay', '') AS lsn) f";
    server.psql(database, sql).unwrap().trim().parse().unwrap()
}

/// Which part answers an eventual read now.
pub async fn who(database: &Database) -> Result<Role, Error> {
    number(database, Consistency::Eventual, "SELECT 1 AS number").await.map(|(_, served)| served.role)
}
