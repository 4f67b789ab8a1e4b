//! One source run for all who ask at the same time.

use std::sync::Barrier;
use std::thread;

use mainstay::error::Code;
use mainstay::{Answer, Error};

use crate::instance::client::{Connection, Reply, head};
use crate::instance::probe::{Probe, Told};
use crate::instance::{Instance, Plan};
use crate::support::{Cluster, PATIENCE};

const ROUTES: &str = r#"
[[route]]
path = "/public/echo"
handler = "probe"
params = [{ name = "q", in = "query", type = "text", optional = true }]
"#;

/// So many clients ask for the same at once; their replies.
fn stampede(instance: &Instance, clients: usize, target: &str) -> Vec<Reply> {
    let start = Barrier::new(clients);
    thread::scope(|scope| {
        let ask = || {
            let mut connection = instance.connect();
            start.wait();
            connection.request("GET", target, &[])
        };
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Waits until so many requests wait for a fill that another one leads.
fn wait_followers(instance: &Instance, followers: u32) {
    let sample = "mainstay_fill_waiters_total{route=\"/public/echo\"}";
    let there = || instance.metric(sample) >= f64::from(followers);
    assert!(mainstay::local::wait_until(PATIENCE, there), "{} of {followers}", instance.metric(sample));
}

#[test]
fn two_hundred_cold_requests_run_one_handler() {
    let probe = Probe::default();
    probe.close();
    let instance = Instance::probed(ROUTES, &probe);
    let replies = thread::scope(|scope| {
        let clients = scope.spawn(|| stampede(&instance, 200, "/public/echo"));
        wait_followers(&instance, 199);
        probe.open();
        clients.join().unwrap()
    });
    assert!(replies.iter().all(|reply| reply.status == 200 && reply.body == replies[0].body));
    let count = |status: &str| replies.iter().filter(|reply| reply.cache() == status).count();
    assert_eq!(count("fwd=miss; stored; detail=handler"), 1);
    assert_eq!(count("fwd=miss; stored; collapsed; detail=handler"), 199);
    assert_eq!(probe.calls(), 1);
}

/// A source that answers at once is the harder case: a request that missed a moment ago must find what was stored since.
#[test]
fn a_fast_source_runs_once_for_each_key_too() {
    const KEYS: usize = 150;
    let probe = Probe::default();
    let instance = Plan::probed(ROUTES, &probe).set("server.workers", "4").start();
    for key in 0..KEYS {
        stampede(&instance, 12, &format!("/public/echo?q={key}"));
    }
    assert_eq!(probe.calls(), KEYS);
}

/// Counted by Postgres itself: each run of the query scans the table once.
#[test]
fn two_hundred_cold_requests_run_one_query() {
    let cluster = Cluster::shared();
    let name = cluster.database();
    cluster.primary.psql(&name, "CREATE TABLE runs (at timestamptz)").unwrap();
    cluster.catch_up();
    let routes = "[[route]]\npath = \"/public/slow\"\nsql = \"SELECT count(*) FROM runs, pg_sleep(0.3)\"\n";
    let instance = Plan::new(routes).database(cluster, &name).start();
    instance.wait_healthy();
    let scans = || {
        let sql = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'runs'";
        [&cluster.primary, &cluster.replica].map(|node| node.psql(&name, sql).unwrap().trim().to_owned())
    };
    assert_eq!(scans(), ["0", "0"]);
    let replies = stampede(&instance, 200, "/public/slow");
    assert!(replies.iter().all(|reply| reply.status == 200 && reply.text() == "[{\"count\":0}]"), "{:?}", replies[0]);
    // A backend reports what it counted once it has been idle for a moment.
    assert!(mainstay::local::wait_until(PATIENCE, || scans()[1] != "0"), "nothing was counted");
    assert_eq!(scans(), ["0", "1"]);
}

#[test]
fn a_leader_that_goes_cuts_nobody_off_and_its_fill_goes_on() {
    let probe = Probe::default();
    probe.close();
    let instance = Instance::probed(ROUTES, &probe);
    let mut leader = instance.connect();
    leader.send(head("GET", "/public/echo", &[]));
    probe.wait_calls(1);
    let mut follower = instance.connect();
    follower.send(head("GET", "/public/echo", &[]));
    wait_followers(&instance, 1);
    drop(leader);
    probe.open();
    let reply = follower.reply("GET");
    assert_eq!((reply.status, reply.json()["call"].as_u64()), (200, Some(1)));
    assert!(instance.get("/public/echo").is_hit());
    assert_eq!(probe.calls(), 1);
}

#[test]
fn a_fill_outlives_the_only_client_that_asked() {
    let probe = Probe::default();
    probe.close();
    let instance = Instance::probed(ROUTES, &probe);
    let mut only = instance.connect();
    only.send(head("GET", "/public/echo", &[]));
    probe.wait_calls(1);
    drop(only);
    probe.open();
    probe.wait_finished(1);
    instance.wait_for("what the fill left", "/public/echo", Reply::is_hit);
    assert_eq!(probe.calls(), 1);
}

/// Answers that are not kept go to all who waited, at once and not one after another.
#[test]
fn an_answer_that_is_not_kept_serialises_nobody() {
    let failures: [Told; 3] = [
        |_, _| Err(Error::new(Code::Overloaded, "as told")),
        |_, _| Ok(Answer { status: 410, ..Answer::json_bytes("{}") }),
        |_, _| panic!("as told"),
    ];
    for failure in failures {
        let probe = Probe::answering(failure);
        probe.close();
        let instance = Instance::probed(ROUTES, &probe);
        let replies = thread::scope(|scope| {
            let clients = scope.spawn(|| stampede(&instance, 50, "/public/echo"));
            wait_followers(&instance, 49);
            probe.open();
            clients.join().unwrap()
        });
        assert!(replies.iter().all(|reply| reply.status == replies[0].status && reply.status >= 410));
        assert!(replies.iter().all(|reply| reply.header("cache-control") == Some("no-store")));
        assert_eq!(probe.calls(), 1, "{:?}", replies[0]);
        instance.get("/public/echo");
        assert_eq!(probe.calls(), 2, "the next one asks again");
    }
}

#[test]
fn more_fills_than_allowed_are_refused_and_hits_go_on() {
    let probe = Probe::default();
    let instance = Plan::probed(ROUTES, &probe).set("limits.fills_max", "2").start();
    instance.get("/public/echo?q=kept");
    probe.close();
    let held: Vec<Connection<_>> = (0..2)
        .map(|number| {
            let mut connection = instance.connect();
            connection.send(head("GET", &format!("/public/echo?q={number}"), &[]));
            connection
        })
        .collect();
    probe.wait_calls(3);
    let reply = instance.get("/public/echo?q=more");
    assert_eq!((reply.status, reply.problem()), (503, "overloaded".to_owned()));
    assert!(instance.get("/public/echo?q=kept").is_hit());
    probe.open();
    for mut connection in held {
        assert_eq!(connection.reply("GET").status, 200);
    }
    assert_eq!(instance.get("/public/echo?q=more").status, 200);
}

/// A follower that gives up costs the others nothing, and one that comes with other headers gets its own variant.
#[test]
fn followers_get_the_variant_that_they_take() {
    let probe = Probe::answering(|_, _| Ok(Answer::json_bytes(format!("\"{}\"", "y".repeat(5_000)))));
    probe.close();
    let instance = Instance::probed(ROUTES, &probe);
    let mut asked: Vec<_> = ["br", "gzip", "identity"]
        .into_iter()
        .map(|encoding| {
            let mut connection = instance.connect();
            connection.send(head("GET", "/public/echo", &[("Accept-Encoding", encoding)]));
            (encoding, connection)
        })
        .collect();
    let mut gives_up = instance.connect();
    gives_up.send(head("GET", "/public/echo", &[]));
    wait_followers(&instance, 3);
    drop(gives_up);
    probe.open();
    for (encoding, connection) in &mut asked {
        let reply = connection.reply("GET");
        assert_eq!(reply.header("content-encoding").unwrap_or("identity"), *encoding);
    }
    assert_eq!(probe.calls(), 1);
}
