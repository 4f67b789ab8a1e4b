//! The soak: a fleet of real processes is kept busy while everything around it fails, and never serves as fresh what it should
//! know to be old. `make soak` runs it for minutes, `make test` for seconds.
#![allow(
    clippy::as_conversions,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

mod fleet;
mod ground;
mod history;
mod trouble;

#[allow(dead_code, reason = "shared with the tests of single processes, which need more of it")]
#[path = "../process/support.rs"]
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mainstay::local::wait_until;
use postgres::{Client, NoTls};

use fleet::{Fleet, INSTANCES};
use ground::number;
use history::{History, KEYS, Seen};
use support::{PATIENCE, Reply, get};
use trouble::Trouble;

/// Threads that ask one instance.
const READERS: usize = 2;
/// Threads that write, each its own keys.
const WRITERS: usize = 2;
/// Rest between two commits of a writer, and between two reads of a reader, on average.
const WRITE_PAUSE: Duration = Duration::from_millis(20);
const READ_PAUSE: Duration = Duration::from_millis(4);
/// Rest between two troubles, so that their ends are seen as well.
const CALM: Duration = Duration::from_millis(500);

#[test]
fn a_fleet_in_trouble_serves_nothing_old_as_fresh() {
    let seconds = number("SOAK_SECONDS", 10);
    let seed = number("SOAK_SEED", fastrand::u64(..));
    println!("soak: {seconds} s; again with SOAK_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let fleet = Fleet::start();
    let history = History::new();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        // A violation, or trouble that fails, ends all of it.
        let _over = Over(&is_over);
        for writer in 0..WRITERS {
            let (fleet, history, is_over, random) = (&fleet, &history, &is_over, random.fork());
            scope.spawn(move || {
                let _over = Over(is_over);
                write(fleet, history, writer, random, is_over);
            });
        }
        for instance in (0..INSTANCES).flat_map(|instance| [instance; READERS]) {
            let (fleet, history, is_over, random) = (&fleet, &history, &is_over, random.fork());
            scope.spawn(move || {
                let _over = Over(is_over);
                read(fleet, history, instance, random, is_over);
            });
        }
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let mut left: Vec<Trouble> = Vec::new();
        while Instant::now() < deadline && !is_over.load(Ordering::Relaxed) {
            if left.is_empty() {
                left = Trouble::ALL.to_vec();
                random.shuffle(&mut left);
            }
            let trouble = left.pop().unwrap();
            // Most are over before anybody's patience is, and some are not.
            let time = Duration::from_millis(random.u64(100..if seconds > 60 { 4000 } else { 1500 }));
            history.note(&format!("{trouble:?} for {time:?}"));
            trouble.make(&fleet, time, &mut random);
            history.note(&format!("{trouble:?} is over"));
            thread::sleep(CALM);
        }
    });
    // All is well again, and everybody shows what was written last, unmarked.
    for instance in 0..INSTANCES {
        for key in 0..KEYS {
            let target = format!("{}/public/counters/{key}", fleet.base(instance).expect("it lives").1);
            let is_settled = || {
                let reply = get(&target);
                reply.status == 200 && is_claimed(&reply) && value(&reply) == history.last(key)
            };
            assert!(wait_until(PATIENCE, is_settled), "{target} does not settle at {}", history.last(key));
        }
    }
    println!("{}", history.report());
    println!("{}", fleet.report());
    assert_eq!(fleet.audits_wrong(), 0.0, "the instances themselves found answers that are wrong");
}

/// Ends the soak when a thread ends, however it does.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn write(fleet: &Fleet, history: &History, writer: usize, mut random: fastrand::Rng, is_over: &AtomicBool) {
    let mut client = Client::connect(&fleet.primary_url(), NoTls).unwrap();
    while !is_over.load(Ordering::Relaxed) {
        let key = random.usize(0..KEYS / WRITERS) * WRITERS + writer;
        let row = client.query_one(
            "UPDATE counters SET value = value + 1 WHERE id = $1 RETURNING value",
            &[&i32::try_from(key).unwrap()],
        );
        history.committed(key, row.unwrap().get(0));
        thread::sleep(WRITE_PAUSE.mul_f64(random.f64() * 2.0));
    }
}

fn read(fleet: &Fleet, history: &History, instance: usize, mut random: fastrand::Rng, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        let key = random.usize(0..KEYS);
        let Some((life, base)) = fleet.base(instance) else {
            thread::sleep(READ_PAUSE);
            continue;
        };
        let asked = Instant::now();
        let reply = get(&format!("{base}/public/counters/{key}"));
        match reply.status {
            200 => {
                let is_claimed = is_claimed(&reply);
                let cache = reply.cache().to_owned();
                let seen = Seen { instance, life, key, value: value(&reply), asked, is_claimed, cache };
                history.seen(seen);
            }
            // It was ended under the request.
            0 if fleet.base(instance).is_none_or(|(later, _)| later != life) => {}
            0 => history.failed(instance, 0, &reply.body),
            status => history.failed(
                instance,
                status,
                &(reply.code() + ": " + reply.json()["detail"].as_str().unwrap_or_default()),
            ),
        }
        thread::sleep(READ_PAUSE.mul_f64(random.f64() * 2.0));
    }
}

/// Whether an answer claims to be fresh: it is no hit that is marked stale.
fn is_claimed(reply: &Reply) -> bool {
    !reply.cache().contains("ttl=-")
}

fn value(reply: &Reply) -> i64 {
    reply.json()["value"].as_i64().unwrap()
}
