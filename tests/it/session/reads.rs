//! Who answers a read of a session.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mainstay::local::{ProxyMode, wait_until};

use super::{Site, primary_reads, read, started, value, write};
use crate::support::{Cluster, PATIENCE};

#[test]
fn who_has_written_reads_it_and_the_others_read_replicas() {
    let site = Site::private("session-reads");
    let instance = site.start();
    site.pause();
    let token = write(&instance, 1, 5);
    for path in ["/notes/1", "/handled/1"] {
        let reply = read(&instance, path, &token);
        assert_eq!((value(&reply), reply.cache()), (5, "fwd=bypass; detail=primary"), "{path}");
        assert_eq!((reply.said("x-route-primary"), reply.said("cache-control")), ("true", "no-store"));
        assert_eq!(reply.header("x-consistency-token"), None);
        let other = instance.get(path);
        assert_eq!(
            (value(&other), other.cache()),
            (0, "fwd=bypass; detail=replica"),
            "who has seen nothing waits for nothing"
        );
        assert_eq!((other.header("x-route-primary"), other.said("cache-control")), (None, "no-store"));
    }
    let eventual = read(&instance, "/eventual/1", &token);
    assert_eq!(
        (value(&eventual), eventual.cache()),
        (0, "fwd=bypass; detail=replica"),
        "eventual routes take no tokens"
    );
    site.resume();
    for path in ["/notes/1", "/handled/1"] {
        let reply = read(&instance, path, &token);
        assert_eq!((value(&reply), reply.cache()), (5, "fwd=bypass; detail=replica"), "{path}");
        assert_eq!(reply.header("x-route-primary"), None);
    }
    let cookie = instance.get_with("/notes/1", &[("Cookie", &format!("a=b; mainstay_ct={token}"))]);
    assert_eq!((value(&cookie), cookie.header("set-cookie")), (5, None));
}

/// The later of two tokens counts, wherever each of them stands.
#[test]
fn of_several_tokens_the_latest_counts() {
    let site = Site::private("session-several");
    let instance = site.start();
    let early = write(&instance, 1, 1);
    site.catch_up();
    site.pause();
    let late = write(&instance, 1, 2);
    let read = |header: &str, cookie: &str| {
        let cookie = format!("mainstay_ct={cookie}");
        value(&instance.get_with("/notes/1", &[("X-Consistency-Token", header), ("Cookie", &cookie)]))
    };
    assert_eq!((read(&early, &late), read(&late, &early), read(&early, &early)), (2, 2, 1));
    assert_eq!((read(&format!("{early}, {late}"), ""), read(&format!("{late},{early}"), "")), (2, 2));
}

/// The replica gets there a moment later.
#[test]
fn a_replica_that_is_nearly_there_is_waited_for() {
    let site = Site::on(Some(Cluster::with("session-wait", |it| it.setting("recovery_min_apply_delay", "300ms"))));
    // No sample says that it has got there: those who wait look themselves.
    let plan = || site.plan().set("replication.sample_interval", "1s");
    let patient = started(plan().set("consistency.session_wait", "5s"));
    let hasty = started(plan().set("consistency.session_wait", "1ms"));
    let token = write(&patient, 1, 5);
    let began = Instant::now();
    let reply = read(&patient, "/notes/1", &token);
    assert_eq!((value(&reply), reply.cache()), (5, "fwd=bypass; detail=replica"));
    assert!(began.elapsed() > Duration::from_millis(100), "it waited");
    let token = write(&hasty, 1, 6);
    let reply = read(&hasty, "/notes/1", &token);
    assert_eq!((value(&reply), reply.cache()), (6, "fwd=bypass; detail=primary"));
}

/// However many wait for a replica, it is asked as if one did.
#[test]
fn a_crowd_that_waits_asks_one_question() {
    let site = Site::on(Some(Cluster::with("session-crowd", |options| {
        options.setting("recovery_min_apply_delay", "500ms").setting("log_statement", "all")
    })));
    let plan = site.plan().set("replication.sample_interval", "1s").set("consistency.session_wait", "5s");
    let instance = started(plan.set("database.pool_size", "16"));
    let token = write(&instance, 1, 5);
    std::thread::scope(|scope| {
        for _ in 0..30 {
            scope.spawn(|| assert_eq!(value(&read(&instance, "/notes/1", &token)), 5));
        }
    });
    let log = std::fs::read_to_string(site.replica.server.log()).unwrap();
    let looks = log.matches("pg_last_wal_replay_lsn()::text AS lsn").count();
    assert!((1..400).contains(&looks), "{looks} looks: 500 ms at most every 5 ms, and a proof for each new connection");
}

/// The primary is away: who is as far as the session answers all the same, and nobody else.
#[test]
fn without_the_primary_a_replica_that_is_there_answers_and_nobody_else() {
    let site = Site::private("session-outage");
    let instance = site.start();
    let there = write(&instance, 1, 1);
    site.catch_up();
    let reply = read(&instance, "/notes/1", &there);
    assert_eq!((value(&reply), reply.cache()), (1, "fwd=bypass; detail=replica"));
    site.stream.set_mode(ProxyMode::Refuse);
    site.stream.cut();
    let lost = write(&instance, 1, 2);
    site.primary.server.stop();
    let reply = read(&instance, "/notes/1", &there);
    assert_eq!((value(&reply), reply.cache()), (1, "fwd=bypass; detail=replica"));
    let reply = read(&instance, "/notes/1", &lost);
    assert_eq!((reply.status, reply.problem().as_str()), (503, "strong_unavailable"));
    assert_eq!(reply.said("x-route-primary"), "true");
    assert_eq!(value(&instance.get("/notes/1")), 1);
}

/// Reads of sessions that nobody but the primary can serve have the cap of strong reads.
#[test]
fn sessions_are_capped_on_the_primary() {
    let site = Site::private("session-cap");
    let instance = started(site.plan().set("database.strong_concurrency_max", "1"));
    site.pause();
    let token = write(&instance, 1, 5);
    let before = primary_reads(&instance);
    let outcomes: Vec<u16> = std::thread::scope(|scope| {
        let slow = scope.spawn(|| instance.get("/slow").status);
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(1)%' AND state = 'active' AND pid <> pg_backend_pid()";
        let is_under_way = || site.primary.psql(&site.database, sql).unwrap().trim() == "1";
        assert!(wait_until(PATIENCE, is_under_way));
        let refused = read(&instance, "/notes/1", &token);
        assert_eq!(refused.problem(), "strong_unavailable");
        vec![slow.join().unwrap(), refused.status]
    });
    assert_eq!((outcomes, primary_reads(&instance)), (vec![200, 503], before + 1.0), "the slow one alone");
    assert_eq!(value(&read(&instance, "/notes/1", &token)), 5);
}

/// Who reads at the same time has not seen the same: each read of a session runs by itself.
#[test]
fn reads_of_sessions_join_nobody() {
    let site = Site::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let instance = started(site.plan().handler("get", move |call| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            actix_rt::time::sleep(Duration::from_millis(300)).await;
            super::get(call).await
        }
    }));
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| assert_eq!(instance.get("/handled/1").cache(), "fwd=bypass; detail=replica"));
        }
    });
    assert_eq!(calls.load(Ordering::Relaxed), 5);
}
