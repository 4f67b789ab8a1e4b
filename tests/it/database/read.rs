//! Routing of reads, with servers that fail in the ways servers fail.

use std::time::{Duration, Instant};

use diesel::QueryDsl;
use diesel_async::RunQueryDsl;
use mainstay::database::lag::Ineligible;
use mainstay::database::read::{Consistency, Database, Role};
use mainstay::database::status::NodeStatus;
use mainstay::error::Code;
use mainstay::local::{Postgres, PostgresOptions, Proxy, ProxyMode, Scratch};
use mainstay::nodes::breaker::BreakerState;

use crate::support::{Cluster, PATIENCE, number, settings, soon, start, start_eligible, wait_for, who, word};

diesel::table! {
    things (id) {
        id -> Integer,
        name -> Text,
    }
}

fn node(database: &Database, name: &str) -> NodeStatus {
    database.status().nodes.into_iter().find(|node| &*node.name == name).unwrap()
}

/// A replica of the shared cluster behind a proxy of the test's own.
fn behind_proxy(cluster: &Cluster) -> Proxy {
    Proxy::start(([127, 0, 0, 1], cluster.replica.server.port()).into()).unwrap()
}

fn proxied(proxy: &Proxy) -> String {
    format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port())
}

#[actix_rt::test]
async fn each_consistency_has_its_node() {
    let cluster = Cluster::shared();
    let database = start_eligible(&cluster.settings(&cluster.database())).await;
    let sql = "SELECT pg_is_in_recovery()::int AS number";
    for (consistency, standby, role) in [
        (Consistency::Eventual, 1, Role::Replica),
        (Consistency::Session, 1, Role::Replica),
        (Consistency::Strong, 0, Role::Primary),
    ] {
        let (number, served) = number(&database, consistency, sql).await.unwrap();
        assert_eq!((number, served.role), (standby, role));
    }
    assert_eq!(node(&database, "replica-1").counts.served, 2);
    assert_eq!(node(&database, "primary").counts.served, 1);
}

/// Who waits for a read has its future inside his own, and each of them is moved when it begins: what is not needed by nearly all
/// reads stands on the heap.
#[actix_rt::test]
async fn a_read_has_no_room_in_it_for_opening_connections() {
    let database = Database::start(&settings("postgres://postgres@127.0.0.1:1/postgres", "", &[])).unwrap();
    let bytes = size_of_val(&database.read(Consistency::Eventual, soon(), async |_| Ok(())));
    assert!(bytes < 8 * 1024, "{bytes} bytes");
}

#[actix_rt::test]
async fn sessions_cannot_write() {
    let cluster = Cluster::shared();
    let database = start_eligible(&cluster.settings(&cluster.database())).await;
    let sql = "SELECT current_setting('default_transaction_read_only') || current_setting('statement_timeout') || \
               current_setting('application_name') AS word";
    assert_eq!(word(&database, Consistency::Strong, sql).await.unwrap().0, "on5smainstay");
    let write = database.read(Consistency::Strong, soon(), async |conn| {
        diesel::sql_query("CREATE TABLE t (id int)").execute(conn).await
    });
    assert_eq!(write.await.unwrap_err().code, Code::QueryFailed);
}

#[actix_rt::test]
async fn a_database_that_is_down_stops_no_start() {
    let port = mainstay::local::free_port().unwrap();
    let database = start(&settings(&format!("postgres://x:hunter2@127.0.0.1:{port}/x"), "", &[])).await;
    let error = number(&database, Consistency::Eventual, "SELECT 1 AS number").await.unwrap_err();
    assert_eq!(error.code, Code::DatabaseUnavailable);
    assert!(!error.detail.contains("127.0.0.1"));
    let error = number(&database, Consistency::Strong, "SELECT 1 AS number").await.unwrap_err();
    assert_eq!(error.code, Code::StrongUnavailable);
    assert_eq!(database.describe("SELECT 1", soon()).await.unwrap_err().code, Code::DatabaseUnavailable);
}

#[actix_rt::test]
async fn a_malformed_url_stops_the_start_with_its_key() {
    for (primary, replica, key) in
        [("nonsense", "", "database.url"), ("postgres://a/b", "nonsense", "database.read_replica_urls")]
    {
        let Err(error) = Database::start(&settings(primary, replica, &[])) else { panic!("started") };
        assert!(error.0.starts_with(key), "{error}");
    }
}

#[actix_rt::test]
async fn errors_of_the_query_are_told_apart_and_not_told_to_the_client() {
    let cluster = Cluster::shared();
    let mut settings = cluster.settings(&cluster.database());
    settings.database.statement_timeout.0 = Duration::from_millis(200);
    let database = start_eligible(&settings).await;
    for (sql, code) in [
        ("SELECT 1 AS number FROM secret_table", Code::QueryFailed),
        ("SELECT 1 / 0 AS number", Code::QueryFailed),
        ("SELECT 1 AS number FROM pg_sleep(30)", Code::SourceTimeout),
        ("SELECT 1 AS number WHERE false", Code::NotFound),
    ] {
        let error = number(&database, Consistency::Eventual, sql).await.unwrap_err();
        assert_eq!(error.code, code, "{sql}");
        assert!(!error.detail.contains("secret"), "{error}");
    }
    let replica = node(&database, "replica-1");
    assert_eq!((replica.breaker, replica.counts.failed), (BreakerState::Closed, 0));
    assert_eq!(node(&database, "primary").counts.served, 0, "nobody else was asked");
}

#[actix_rt::test]
async fn connections_are_used_again_after_errors_of_the_query() {
    let cluster = Cluster::shared();
    let database = start_eligible(&cluster.settings(&cluster.database())).await;
    let pid = async || number(&database, Consistency::Eventual, "SELECT pg_backend_pid() AS number").await.unwrap().0;
    let first = pid().await;
    number(&database, Consistency::Eventual, "SELECT 1 / 0 AS number").await.unwrap_err();
    assert_eq!(pid().await, first);
}

#[actix_rt::test]
async fn a_read_that_is_given_up_does_not_leave_its_connection_behind() {
    let cluster = Cluster::shared();
    let mut settings = cluster.settings(&cluster.database());
    settings.database.pool_size = 1;
    let database = start_eligible(&settings).await;
    let slow =
        async |conn: &mut diesel_async::AsyncPgConnection| diesel::sql_query("SELECT pg_sleep(3)").execute(conn).await;
    let deadline = Instant::now() + Duration::from_millis(200);
    let error = database.read(Consistency::Strong, deadline, slow).await.unwrap_err();
    assert_eq!(error.code, Code::SourceTimeout);
    let begin = Instant::now();
    number(&database, Consistency::Strong, "SELECT 1 AS number").await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(2), "it did not wait for the slow query");
}

#[actix_rt::test]
async fn a_statement_whose_result_changed_runs_again_on_a_new_connection() {
    let cluster = Cluster::shared();
    let name = cluster.database();
    cluster
        .primary
        .psql(&name, "CREATE TABLE things (id int, name varchar(9)); INSERT INTO things VALUES (1, 'a')")
        .unwrap();
    let database = start_eligible(&cluster.settings(&name)).await;
    let read = async || {
        let names = async |conn: &mut _| things::table.select(things::name).load::<String>(conn).await;
        database.read(Consistency::Strong, soon(), names).await.unwrap().0
    };
    // Every connection of the pool has prepared it.
    let all = futures_util::future::join_all((0..4).map(|_| read())).await;
    assert_eq!(all, [["a"], ["a"], ["a"], ["a"]]);
    assert_eq!(node(&database, "primary").pool.open, 4);
    cluster.primary.psql(&name, "ALTER TABLE things ALTER name TYPE text").unwrap();
    for _ in 0..8 {
        assert_eq!(read().await, ["a"]);
    }
    assert_eq!(node(&database, "primary").counts.failed, 0);
    // A query that says the same on every connection is at fault itself.
    let error =
        number(&database, Consistency::Strong, "SELECT 1 AS number FROM nowhere.to.be.found").await.unwrap_err();
    assert_eq!(error.code, Code::QueryFailed);
}

#[actix_rt::test]
async fn a_killed_backend_is_not_noticed_by_the_reader() {
    let cluster = Cluster::shared();
    let name = cluster.database();
    let database = start_eligible(&cluster.settings(&name)).await;
    who(&database).await.unwrap();
    // The query runs on the replica while its backend is terminated: 57P01, and the primary answers.
    let kill = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{name}' AND query LIKE '%pg_sleep%' \
         AND pid <> pg_backend_pid()"
    );
    let url = cluster.replica.url("postgres", "postgres");
    let killer = tokio::task::spawn_blocking(move || {
        let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
        let killed = || client.query_one(&kill, &[]).unwrap().get::<_, i64>(0) > 0;
        assert!(mainstay::local::wait_until(PATIENCE, killed), "there was nothing to kill");
    });
    let sql = "SELECT 1 AS number FROM (SELECT pg_sleep(CASE WHEN pg_is_in_recovery() THEN 4 ELSE 0 END)) AS nap";
    let (_, served) = number(&database, Consistency::Eventual, sql).await.unwrap();
    assert_eq!(served.role, Role::Primary);
    killer.await.unwrap();
}

#[actix_rt::test]
async fn connections_that_are_all_killed_do_not_shut_their_node_out() {
    let cluster = Cluster::shared();
    let name = cluster.database();
    let mut settings = settings(&cluster.primary.url("postgres", &name), "", &[]);
    settings.database.pool_size = 4;
    let database = start(&settings).await;
    let naps = async |seconds: f32| {
        let sql = format!("SELECT 1 AS number FROM pg_sleep({seconds})");
        futures_util::future::join_all((0..4).map(|_| number(&database, Consistency::Strong, &sql))).await
    };
    // Every connection has served before, and is in the middle of a query when all are terminated.
    naps(0.1).await.into_iter().for_each(|answer| drop(answer.unwrap()));
    let url = cluster.primary.url("postgres", "postgres");
    let killer = tokio::task::spawn_blocking(move || {
        let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
        let all =
            format!("FROM pg_stat_activity WHERE datname = '{name}' AND query LIKE '%pg_sleep%' AND state = 'active'");
        let mut count =
            |what: &str| client.query_one(&format!("SELECT count({what}) {all}"), &[]).unwrap().get::<_, i64>(0);
        assert!(mainstay::local::wait_until(PATIENCE, || count("*") == 4), "they do not all run");
        assert_eq!(count("pg_terminate_backend(pid)"), 4);
    });
    naps(2.0).await.into_iter().for_each(|answer| drop(answer.unwrap()));
    killer.await.unwrap();
    assert_eq!(node(&database, "primary").breaker, BreakerState::Closed);
}

#[actix_rt::test]
async fn a_replica_that_dies_costs_no_request() {
    let cluster = Cluster::private("dies");
    let database = start_eligible(&cluster.settings("postgres")).await;
    assert_eq!(who(&database).await.unwrap(), Role::Replica);
    cluster.replica.server.kill9();
    for _ in 0..50 {
        assert_eq!(who(&database).await.unwrap(), Role::Primary);
    }
    wait_for("it to count as down", || node(&database, "replica-1").ineligible == Some(Ineligible::Down)).await;
    cluster.replica.server.start().unwrap();
    wait_for("it to be back", || node(&database, "replica-1").is_eligible()).await;
    let begin = Instant::now();
    while who(&database).await.unwrap() != Role::Replica {
        assert!(begin.elapsed() < PATIENCE, "the breaker does not close");
    }
}

#[actix_rt::test]
async fn a_replica_that_falls_silent_costs_little_and_comes_back() {
    let cluster = Cluster::shared();
    let proxy = behind_proxy(cluster);
    let mut settings = settings(&cluster.primary.url("postgres", "postgres"), &proxied(&proxy), &[]);
    settings.replication.probe_timeout.0 = Duration::from_millis(250);
    let database = start_eligible(&settings).await;
    assert_eq!(who(&database).await.unwrap(), Role::Replica);
    proxy.set_mode(ProxyMode::BlackHole);
    let begin = Instant::now();
    assert_eq!(who(&database).await.unwrap(), Role::Primary);
    assert!(begin.elapsed() < Duration::from_secs(5), "half of the deadline: {:?}", begin.elapsed());
    // From then on nobody waits for it.
    let begin = Instant::now();
    for _ in 0..100 {
        assert_eq!(who(&database).await.unwrap(), Role::Primary);
    }
    assert!(begin.elapsed() < Duration::from_secs(10), "well below a probe each: {:?}", begin.elapsed());
    proxy.set_mode(ProxyMode::Pass);
    proxy.cut();
    wait_for("it to be back", || node(&database, "replica-1").is_eligible()).await;
    let begin = Instant::now();
    while who(&database).await.unwrap() != Role::Replica {
        assert!(begin.elapsed() < PATIENCE, "the breaker does not close");
    }
}

#[actix_rt::test]
async fn strong_reads_do_not_hang_on_a_silent_primary() {
    let cluster = Cluster::shared();
    let proxy = Proxy::start(([127, 0, 0, 1], cluster.primary.server.port()).into()).unwrap();
    let mut settings = settings(&proxied(&proxy), "", &[]);
    settings.replication.probe_timeout.0 = Duration::from_millis(250);
    let database = start(&settings).await;
    let strong = async || number(&database, Consistency::Strong, "SELECT 1 AS number").await;
    wait_for("the primary", || node(&database, "primary").up).await;
    strong().await.unwrap();
    proxy.set_mode(ProxyMode::BlackHole);
    let begin = Instant::now();
    assert_eq!(strong().await.unwrap_err().code, Code::StrongUnavailable);
    assert!(begin.elapsed() < Duration::from_secs(6), "well before the deadline: {:?}", begin.elapsed());
    proxy.set_mode(ProxyMode::Pass);
    proxy.cut();
    let begin = Instant::now();
    while strong().await.is_err() {
        assert!(begin.elapsed() < PATIENCE, "the primary does not come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[actix_rt::test]
async fn the_fastest_replica_is_read_and_the_next_one_when_it_fails() {
    let cluster = Cluster::shared();
    let (slow, fast) = (behind_proxy(cluster), behind_proxy(cluster));
    slow.set_delay(Duration::from_millis(150));
    let urls = format!("{},{}", proxied(&slow), proxied(&fast));
    let database = start_eligible(&settings(&cluster.primary.url("postgres", "postgres"), &urls, &[])).await;
    let name = async || number(&database, Consistency::Eventual, "SELECT 1 AS number").await.unwrap().1.node;
    wait_for("both to be measured", || database.status().replicas().all(|node| node.latency.is_some())).await;
    for _ in 0..10 {
        assert_eq!(&*name().await, "replica-2");
    }
    fast.set_mode(ProxyMode::Refuse);
    fast.cut();
    assert_eq!(&*name().await, "replica-1");
    slow.set_mode(ProxyMode::Refuse);
    slow.cut();
    assert_eq!(&*name().await, "primary");
}

#[actix_rt::test]
async fn a_recovery_conflict_is_read_elsewhere() {
    let cluster = Cluster::with("conflict", |options| options.setting("max_standby_streaming_delay", "50ms"));
    let sql =
        "CREATE TABLE things (id int, name text); INSERT INTO things SELECT n, 'x' FROM generate_series(1, 100) n";
    cluster.primary.psql("postgres", sql).unwrap();
    cluster.catch_up();
    let database = start_eligible(&cluster.settings("postgres")).await;
    let (primary, replica) = (cluster.primary.url("postgres", "postgres"), cluster.replica.url("postgres", "postgres"));
    let writer = tokio::task::spawn_blocking(move || {
        let mut client = postgres::Client::connect(&replica, postgres::NoTls).unwrap();
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%nap%' AND state = 'active' AND pid <> pg_backend_pid()";
        let reads = || client.query_one(sql, &[]).unwrap().get::<_, i64>(0) > 0;
        assert!(mainstay::local::wait_until(PATIENCE, reads), "the replica reads nothing");
        let mut client = postgres::Client::connect(&primary, postgres::NoTls).unwrap();
        client.batch_execute("ALTER TABLE things ADD more int").unwrap();
    });
    let sql = "SELECT count(*)::int AS number FROM things, \
               (SELECT pg_sleep(CASE WHEN pg_is_in_recovery() THEN 4 ELSE 0 END)) AS nap";
    let (count, served) = number(&database, Consistency::Eventual, sql).await.unwrap();
    assert_eq!((count, served.role), (100, Role::Primary));
    writer.await.unwrap();
    let replica = node(&database, "replica-1");
    assert_eq!((replica.counts.conflicts, replica.counts.failed, replica.breaker), (1, 0, BreakerState::Closed));
}

#[actix_rt::test]
async fn strong_reads_and_fallen_back_ones_are_capped() {
    let cluster = Cluster::shared();
    let port = mainstay::local::free_port().unwrap();
    let replica = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    let mut settings = settings(&cluster.primary.url("postgres", "postgres"), &replica, &[]);
    settings.database.strong_concurrency_max = 1;
    settings.database.primary_fallback_max = 1;
    let database = start(&settings).await;
    for (consistency, code) in
        [(Consistency::Strong, Code::StrongUnavailable), (Consistency::Eventual, Code::Overloaded)]
    {
        let nap = async |conn: &mut diesel_async::AsyncPgConnection| {
            diesel::sql_query("SELECT pg_sleep(1)").execute(conn).await
        };
        let long = database.read(consistency, soon(), nap);
        let second = async {
            // By then the first one has its permit.
            tokio::task::yield_now().await;
            let deadline = Instant::now() + Duration::from_millis(300);
            database.read(consistency, deadline, nap).await
        };
        let (first, second) = futures_util::future::join(long, second).await;
        assert_eq!(first.unwrap().1.role, Role::Primary);
        assert_eq!(second.unwrap_err().code, code);
    }
}

#[actix_rt::test]
async fn a_rotated_password_is_used_by_the_next_login() {
    let scratch = Scratch::new("rotated").unwrap();
    let mut options = PostgresOptions::new(scratch.join("postgres"));
    options.hba = vec!["host all app 127.0.0.1/32 scram-sha-256".to_owned()];
    let postgres = Postgres::primary(options).unwrap();
    let set = |password: &str| postgres.psql("postgres", &format!("ALTER ROLE app PASSWORD '{password}'")).unwrap();
    postgres.psql("postgres", "CREATE ROLE app LOGIN").unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let url = |password: &str| format!("postgres://app:{password}@127.0.0.1:{}/postgres\n", postgres.server.port());
    set("first");
    std::fs::write(file.path(), url("first")).unwrap();
    let settings = settings("", "", &[("DATABASE_URL_FILE", file.path().to_str().unwrap())]);
    let database = start(&settings).await;
    who(&database).await.unwrap();

    set("second");
    std::fs::write(file.path(), url("second")).unwrap();
    postgres.server.restart().unwrap();
    wait_for("the sampler to log in", || node(&database, "primary").up).await;
    let begin = Instant::now();
    while who(&database).await.is_err() {
        assert!(begin.elapsed() < PATIENCE, "nobody logs in with the new password");
    }
}

#[actix_rt::test]
async fn the_address_of_the_primary_may_move_to_a_promoted_replica() {
    let cluster = Cluster::private("moves");
    let address = Proxy::start(([127, 0, 0, 1], cluster.primary.server.port()).into()).unwrap();
    let database = start(&settings(&proxied(&address), "", &[])).await;
    let port = async || number(&database, Consistency::Strong, "SELECT inet_server_port() AS number").await;
    assert_eq!(port().await.unwrap().0, i32::from(cluster.primary.server.port()));
    let timeline = node(&database, "primary").timeline.unwrap();

    // A standby behind the address is refused until it is promoted.
    address.set_target(([127, 0, 0, 1], cluster.replica.server.port()).into());
    address.cut();
    wait_for("the standby to be seen", || node(&database, "primary").up && !node(&database, "primary").writable).await;
    assert_eq!(port().await.unwrap_err().code, Code::StrongUnavailable);
    cluster.replica.promote().unwrap();
    wait_for("the promotion to be seen", || node(&database, "primary").writable).await;
    assert_eq!(port().await.unwrap().0, i32::from(cluster.replica.server.port()));
    assert!(node(&database, "primary").timeline.unwrap() > timeline);
}

#[actix_rt::test]
async fn statements_are_described_and_not_run() {
    let cluster = Cluster::shared();
    let name = cluster.database();
    cluster.primary.psql(&name, "CREATE TABLE t (id int, body jsonb)").unwrap();
    cluster.catch_up();
    let database = start_eligible(&cluster.settings(&name)).await;
    let sql = "SELECT id, body, $1 AS given FROM t WHERE id = $2";
    let description = database.prepare(sql, &["date", "integer"], soon()).await.unwrap();
    assert_eq!(description.parameters, ["date", "int4"]);
    let columns: Vec<_> = description.columns.iter().map(|column| (&*column.name, &*column.type_name)).collect();
    assert_eq!(columns, [("id", "int4"), ("body", "jsonb"), ("given", "date")]);
    let error = database.prepare("SELECT idd FROM t", &[], soon()).await.unwrap_err().to_string();
    assert!(error.contains("idd") && error.contains("42703"), "{error}");
    assert!(database.prepare("SELECT $1", &["no_such_type"], soon()).await.is_err());
    database.describe("SELECT pg_sleep(60)", soon()).await.unwrap();
}

#[actix_rt::test]
async fn after_the_shutdown_nothing_is_read() {
    let cluster = Cluster::shared();
    let database = start_eligible(&cluster.settings("postgres")).await;
    database.shutdown();
    assert_eq!(who(&database).await.unwrap_err().code, Code::Draining);
}
