//! Nodes that get slow, fail, and come back.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;
use std::time::Duration;

use mainstay::local::{Proxy, ProxyMode};

use super::{ask_admin, behind_proxy, node, plan, sum, wait_node};
use crate::instance::{Instance, Plan};
use crate::support::{Cluster, PATIENCE};

/// What was measured moves with the way to a node, without a single read.
#[test]
fn a_slow_way_shows_in_the_latency() {
    let cluster = Cluster::shared();
    let (proxy, replica) = behind_proxy(&cluster.replica.server);
    let instance = plan(&cluster.primary.url("postgres", "postgres"), &replica).start();
    instance.wait_healthy();
    proxy.set_delay(Duration::from_millis(60));
    let slow = wait_node(&instance, "replica-1", |node| node["latency_ms"]["p95"].as_f64() >= Some(110.0));
    assert_eq!(slow["status"], "Online", "{slow}");
    assert_eq!(sum(&instance, "replica-1", "ops"), 0, "probes are measured and are no ops");
}

/// A failure picks anew at once: the reads after it do not begin with the node that failed, although it was the fastest and
/// its breaker is closed.
#[test]
fn a_failure_moves_the_pick_at_once() {
    let cluster = Cluster::shared();
    let ((fast, fast_url), (slow, slow_url)) =
        (behind_proxy(&cluster.replica.server), behind_proxy(&cluster.replica.server));
    slow.set_delay(Duration::from_millis(60));
    let plan = plan(&cluster.primary.url("postgres", "postgres"), &format!("{fast_url},{slow_url}"));
    // Nobody but the reads of this test asks a node: without its document, no columns are looked up.
    let instance = plan.set("openapi.enabled", "false").start();
    // On a busy machine the fast one may be slow for a moment, too.
    let is_clear = || {
        let nodes = ask_admin(&instance, "/admin/status").json()["nodes"].clone();
        let latency = |index: usize| nodes[index]["latency_ms"].as_f64().filter(|_| nodes[index]["eligible"] == true);
        latency(1).zip(latency(2)).is_some_and(|(fast, slow)| fast * 2.0 < slow && slow > 110.0)
    };
    assert!(mainstay::local::wait_until(PATIENCE, is_clear));
    // Probes go on, over the connection that they have: only reads find out.
    fast.set_mode(ProxyMode::Refuse);
    for _ in 0..4 {
        assert_eq!(instance.get("/now").status, 200);
    }
    assert_eq!(sum(&instance, "replica-1", "errors"), 1);
    assert_eq!((sum(&instance, "replica-2", "ops"), sum(&instance, "replica-2", "errors")), (4, 0));
    assert_eq!(node(&instance, "replica-1")["status"], "Online", "one failure opens no breaker");
}

/// Both breakers are open, and rest for a minute: a read asks the least bad of them in place of being refused.
#[test]
fn where_every_breaker_is_open_the_least_bad_is_tried() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let ((first, first_url), (second, second_url)) =
        (behind_proxy(&cluster.primary.server), behind_proxy(&cluster.replica.server));
    let of_database = |url: &str| format!("{}/{database}", url.strip_suffix("/postgres").unwrap());
    let instance = plan(&of_database(&first_url), &of_database(&second_url)).start();
    instance.wait_healthy();
    assert_eq!(instance.get("/now").status, 200, "its statement is known from now on");
    first.set_mode(ProxyMode::Refuse);
    second.set_mode(ProxyMode::Refuse);
    // Probes go on, over the connections that they have. Those of reads end, and nothing takes their place.
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
               WHERE datname = current_database() AND query LIKE '%AS standby%' AND pid <> pg_backend_pid()";
    cluster.replica.psql(&database, sql).unwrap();
    cluster.primary.psql(&database, sql).unwrap();
    for _ in 0..4 {
        assert_eq!(instance.get("/now").problem(), "database_unavailable");
    }
    for node in ["primary", "replica-1"] {
        assert_eq!(instance.metric(&format!("mainstay_node_breaker_state{{node=\"{node}\"}}")), 2.0);
        wait_node(&instance, node, |node| node["status"] == "Offline");
    }
    let all_open = || instance.metric("mainstay_nodes_all_open{kind=\"replica\"}");
    assert!(mainstay::local::wait_until(PATIENCE, || all_open() == 1.0));
    second.set_mode(ProxyMode::Pass);
    let reply = instance.get("/now");
    assert_eq!((reply.status, reply.json()["standby"].as_bool()), (200, Some(true)), "{reply:?}");
    assert_eq!(instance.metric("mainstay_node_breaker_state{node=\"replica-1\"}"), 0.0, "it has proven itself");
    assert!(mainstay::local::wait_until(PATIENCE, || all_open() == 0.0));
}

/// An instance whose replica is out of reach for new connections, until its breaker has opened. From then on nobody asks.
fn let_alone(settings: &[(&str, &str)]) -> (Instance, Proxy) {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let (proxy, replica) = behind_proxy(&cluster.replica.server);
    let replica = format!("{}/{database}", replica.strip_suffix("/postgres").unwrap());
    let plan = plan(&cluster.primary.url("postgres", &database), &replica).set("openapi.enabled", "false");
    let plan = plan.set("nodes.open_time", "100ms").set("nodes.open_time_max", "100ms");
    let instance = settings.iter().fold(plan, |plan, (key, value)| plan.set(key, value)).start();
    instance.wait_healthy();
    proxy.set_mode(ProxyMode::Refuse);
    let is_let_alone = || {
        assert_eq!(instance.get("/now").status, 200);
        breaker(&instance) != 0.0
    };
    assert!(mainstay::local::wait_until(PATIENCE, is_let_alone));
    (instance, proxy)
}

fn breaker(instance: &Instance) -> f64 {
    instance.metric("mainstay_node_breaker_state{node=\"replica-1\"}")
}

/// Its breaker has opened, and then nobody asks at all. It is tried out all the same, as a read would find it: that probes are
/// answered, on the connection that they have, does not close it.
#[test]
fn a_node_that_nobody_asks_is_tried_out() {
    let (instance, proxy) = let_alone(&[]);
    let failed = || instance.metric("mainstay_node_reads_total{node=\"replica-1\",outcome=\"failed\"}");
    let before = failed();
    assert!(mainstay::local::wait_until(PATIENCE, || failed() >= before + 2.0), "{} failures", failed());
    assert_eq!(instance.metric("mainstay_node_up{node=\"replica-1\"}"), 1.0, "its probes are answered");
    assert_ne!(breaker(&instance), 0.0, "and it is of no use");
    proxy.set_mode(ProxyMode::Pass);
    assert!(mainstay::local::wait_until(PATIENCE, || breaker(&instance) == 0.0));
    assert_eq!(sum(&instance, "replica-1", "ops"), sum(&instance, "replica-1", "errors"), "no trial counts as a read");
}

/// A new connection takes several round trips, and a probe one: a node far away answers probes in time, and cannot be connected to
/// in the time of one.
#[test]
fn a_far_node_is_tried_out_with_time_to_connect() {
    let (instance, proxy) = let_alone(&[("replication.probe_timeout", "250ms")]);
    proxy.set_delay(Duration::from_millis(60));
    proxy.set_mode(ProxyMode::Pass);
    assert!(mainstay::local::wait_until(PATIENCE, || breaker(&instance) == 0.0), "it never comes back");
}

/// All readers of a region find their replica gone at once. The primary sees no more of them at a time than it may.
#[test]
fn when_replicas_leave_there_is_no_stampede_to_the_primary() {
    const FALLBACK_MAX: i64 = 2;
    let cluster = Cluster::shared();
    let database = cluster.database();
    let (proxy, replica) = behind_proxy(&cluster.replica.server);
    let replica = format!("{}/{database}", replica.strip_suffix("/postgres").unwrap());
    let routes = r#"
        [[route]]
        path = "/slow/{n}"
        result = "row"
        params = [{ name = "n", in = "path", type = "integer" }]
        sql = "SELECT $1 AS n, pg_sleep(0.02) AS nap"
    "#;
    let plan = Plan::new(routes).set("DATABASE_URL", &cluster.primary.url("postgres", &database));
    let plan = plan.set("DATABASE_READ_REPLICA_URL", &replica).set("database.pool_size", "16");
    let instance = plan.set("database.primary_fallback_max", &FALLBACK_MAX.to_string()).start();
    instance.wait_healthy();
    let (most, is_over) = (AtomicI64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let readers: Vec<_> = (0..12)
            .map(|reader| {
                let instance = &instance;
                scope.spawn(move || {
                    let mut connection = instance.connect();
                    for n in 0..15 {
                        let reply = connection.request("GET", &format!("/slow/{}", reader * 100 + n), &[]);
                        assert_eq!(reply.status, 200, "{reply:?}");
                    }
                })
            })
            .collect();
        let watch = scope.spawn(|| {
            let mut client =
                postgres::Client::connect(&cluster.primary.url("postgres", &database), postgres::NoTls).unwrap();
            let sql = "SELECT count(*) FROM pg_stat_activity \
                       WHERE datname = current_database() AND state = 'active' AND query LIKE '%AS nap%' \
                       AND pid <> pg_backend_pid()";
            while !is_over.load(Ordering::Relaxed) {
                most.fetch_max(client.query_one(sql, &[]).unwrap().get(0), Ordering::Relaxed);
            }
        });
        proxy.set_mode(ProxyMode::Refuse);
        proxy.cut();
        let outcomes: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        watch.join().unwrap();
        outcomes.into_iter().for_each(|outcome| outcome.unwrap());
    });
    let most = most.load(Ordering::Relaxed);
    assert!((1..=FALLBACK_MAX).contains(&most), "{most} reads at once on the primary");
}
