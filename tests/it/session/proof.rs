//! Read your writes: over two instances and two replicas that lag at random.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use mainstay::local::{Postgres, PostgresOptions, ReplicaOptions, Scratch, wait_until};
use postgres::{Client, NoTls};

use super::{Site, started, value, write};
use crate::instance::Instance;
use crate::support::PATIENCE;

const CLIENTS: u32 = 8;
const PAIRS: usize = 2000;

/// What was counted of reads after writes.
#[derive(Debug, Default)]
struct Counts {
    stale: AtomicUsize,
    by_replica: AtomicUsize,
    by_primary: AtomicUsize,
}

impl Counts {
    fn of(count: &AtomicUsize) -> usize {
        count.load(Ordering::Relaxed)
    }
}

/// Stops and starts the replay of a replica at random, until the end.
fn disturb(replica: &Postgres, mut random: fastrand::Rng, is_over: &AtomicBool) {
    let mut client = Client::connect(&replica.url("postgres", "postgres"), NoTls).unwrap();
    while !is_over.load(Ordering::Relaxed) {
        client.batch_execute("SELECT pg_wal_replay_pause()").unwrap();
        thread::sleep(Duration::from_millis(random.u64(1..40)));
        client.batch_execute("SELECT pg_wal_replay_resume()").unwrap();
        thread::sleep(Duration::from_millis(random.u64(1..40)));
    }
}

/// Each client writes its own note at one instance and reads it at one.
fn write_and_read(instances: &[Instance; 2], pairs: usize, seed: u64, has_tokens: bool) -> Counts {
    let counts = Counts::default();
    thread::scope(|scope| {
        for client in 1..=CLIENTS {
            let counts = &counts;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed + u64::from(client));
                let mut connections = [instances[0].connect(), instances[1].connect()];
                for number in 1..=pairs / usize::try_from(CLIENTS).unwrap() {
                    let expected = i64::try_from(number).unwrap();
                    let target = format!("/notes/{client}?value={expected}");
                    let written = connections[random.usize(..2)].request("PUT", &target, &[]);
                    assert_eq!(written.status, 200, "{written:?}");
                    let (token, cookie) = (written.said("x-consistency-token"), written.said("set-cookie"));
                    let shown = match random.bool() {
                        _ if !has_tokens => ("X-Nothing", "1"),
                        true => ("X-Consistency-Token", token),
                        false => ("Cookie", cookie.split(';').next().unwrap()),
                    };
                    let path = if random.bool() { "notes" } else { "handled" };
                    let reply = connections[random.usize(..2)].request("GET", &format!("/{path}/{client}"), &[shown]);
                    counts.stale.fetch_add(usize::from(value(&reply) != expected), Ordering::Relaxed);
                    let by = if reply.cache().ends_with("replica") { &counts.by_replica } else { &counts.by_primary };
                    by.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    counts
}

#[test]
fn what_a_session_wrote_it_reads_and_without_tokens_it_would_not() {
    let seed = fastrand::u64(..1 << 32);
    println!("seed {seed}");
    let site = Site::private("session-proof");
    let scratch = Scratch::new("session-proof-2").unwrap();
    let options = PostgresOptions::new(scratch.join("replica")).setting("recovery_min_apply_delay", "10ms");
    let options = ReplicaOptions { postgres: options, application_name: Some("second".into()), ..Default::default() };
    let second = site.primary.replica(options).unwrap();
    let replicas = [&site.replica, &second];
    let urls = replicas.map(|replica| replica.url("postgres", &site.database)).join(",");
    let plan = || {
        let plan = site.plan().set("DATABASE_READ_REPLICA_URL", &urls).set("consistency.session_wait", "20ms");
        plan.set("nodes.pick_ttl", "20ms").set("database.pool_size", "8")
    };
    let instances = [started(plan()), started(plan())];
    let is_over = AtomicBool::new(false);
    let (with, without) = thread::scope(|scope| {
        for (number, replica) in replicas.into_iter().enumerate() {
            let random = fastrand::Rng::with_seed(seed ^ u64::try_from(number).unwrap());
            let is_over = &is_over;
            scope.spawn(move || disturb(replica, random, is_over));
        }
        let counts = std::panic::catch_unwind(|| {
            (write_and_read(&instances, PAIRS, seed, true), write_and_read(&instances, PAIRS / 5, seed, false))
        });
        is_over.store(true, Ordering::Relaxed);
        counts.unwrap()
    });
    println!("with tokens {with:?}, without {without:?}");
    assert_eq!(Counts::of(&with.stale), 0, "seed {seed}: {with:?}");
    assert!(Counts::of(&without.stale) > 0, "so the test proves nothing: {without:?}");
    assert!(Counts::of(&with.by_replica) > 0 && Counts::of(&with.by_primary) > 0, "{with:?}");
}

/// A read that began before a write, and ends after it, takes nothing away from the session: reads hand no tokens out.
#[test]
fn the_answer_of_a_read_does_not_set_its_session_back() {
    let site = Site::private("session-race");
    let instance = site.start();
    let first = write(&instance, 1, 1);
    let is_there = || super::read(&instance, "/notes/1", &first).cache() == "fwd=bypass; detail=replica";
    assert!(wait_until(PATIENCE, is_there));
    let reply = super::read(&instance, "/notes/1", &first);
    assert_eq!((reply.header("x-consistency-token"), reply.header("set-cookie")), (None, None));
}
