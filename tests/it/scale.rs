//! The figures of `docs/scale.md`: what can be simulated is, with a seed, and what can be measured is measured. They take a while and
//! judge nothing but themselves, so that they run when they are asked for.
//!
//! `cargo test --test it scale:: -- --ignored --nocapture --test-threads 1`

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use fastrand::Rng;
use mainstay::Answer;
use mainstay::cache::fence::{Ledger, Message};
use mainstay::cache::tag::Tag;
use mainstay::local::{Redis, RedisOptions, Scratch};
use mainstay::position::{Lsn, Position, SystemId, Timeline};

use crate::instance::probe::Probe;
use crate::instance::{Instance, Plan};

/// As in config/default.toml.
const POLL_US: u64 = 40_000;
const HEARTBEAT_US: u64 = 500_000;
/// What Redis works for one instance that is told one message: the answer, and the next XREAD. Measured below.
const DELIVERY_US: u64 = 21;
/// A message on the wire, with its protocol.
const MESSAGE_BYTES: u64 = 350;
/// Simulated time.
const RUN_US: u64 = 60_000_000;

fn at(lsn: u64) -> Position {
    Position { lsn: Lsn(lsn), ..Position::start_of(SystemId(7), Timeline(1)) }
}

/// A message by which all before it is told.
fn message(lsn: u64, prev: u64, soft: Vec<Tag>) -> Message {
    Message {
        at: at(lsn),
        reads: Some(at(lsn)),
        prev: Some(at(prev)),
        through: at(lsn - 1),
        cursor: String::new(),
        soft,
        hard: Vec::new(),
        purges: Vec::new(),
    }
}

/// What a fleet of some size sees of changes that come so often.
struct Seen {
    p50_ms: u64,
    p99_ms: u64,
    max_ms: u64,
    redis_busy_percent: u64,
    megabytes_s: u64,
    messages_s: u64,
}

/// A leader polls, publishes, and Redis hands what is published to one reader after the other; each applies it to a ledger of its own,
/// by the rules that instances go by. A commit counts as told when the last one has heard of it.
fn fleet(instances: usize, commits_per_s: u64, seed: u64) -> Seen {
    let mut rng = Rng::with_seed(seed);
    let ledger = || {
        let mut ledger = Ledger::new(1000);
        ledger.begin(at(1), Some(at(1)));
        // Of what came before the first message everybody has missed something.
        ledger.apply(&message(2, 1, Vec::new()));
        ledger
    };
    let mut ledgers: Vec<Ledger> = (0..instances).map(|_| ledger()).collect();
    let mut commits: BinaryHeap<Reverse<u64>> =
        (0..commits_per_s * RUN_US / 1_000_000).map(|_| Reverse(rng.u64(..RUN_US))).collect();
    let (mut redis_free_at, mut redis_worked, mut messages) = (0, 0, 0);
    let (mut lsn, mut prev, mut beat_at, mut delays) = (2, 1, 0, Vec::new());
    let mut poll_at = 0;
    while poll_at < RUN_US {
        // The poll, its fence, and the way to Redis: a few round trips on the primary's side, of a flush at least.
        let published_at = poll_at + rng.u64(1_500..6_000);
        let mut told = Vec::new();
        while commits.peek().is_some_and(|Reverse(commit)| *commit <= poll_at) {
            told.extend(commits.pop().map(|Reverse(commit)| commit));
        }
        if !told.is_empty() || poll_at >= beat_at + HEARTBEAT_US {
            beat_at = poll_at;
            lsn += 10;
            messages += 1;
            let soft = if told.is_empty() { Vec::new() } else { vec![Tag::new(format!("rates:{}", rng.u8(..)))] };
            let has_tags = !soft.is_empty();
            let message = message(lsn, prev, soft);
            prev = if has_tags { lsn } else { prev };
            // Redis does one thing at a time, so that the last reader waits for all the others.
            let begin = redis_free_at.max(published_at);
            let mut last = 0;
            for (place, ledger) in (1_u64..).zip(&mut ledgers) {
                let heard_at = begin + place * DELIVERY_US + rng.u64(100..600);
                last = last.max(heard_at);
                let applied = ledger.apply(&message);
                assert!(!applied.gap && !applied.foreign, "seed {seed}: a message that is not the next one");
            }
            let work = u64::try_from(instances).unwrap() * DELIVERY_US;
            redis_free_at = begin + work;
            redis_worked += work;
            delays.extend(told.into_iter().map(|commit| last - commit));
        }
        // The next poll comes an interval after this one has ended.
        poll_at = published_at + POLL_US;
    }
    assert!(ledgers.iter().all(|ledger| ledger.told() == Some(at(lsn))), "seed {seed}: all were told of all");
    delays.sort_unstable();
    let rank = |percent: usize| delays[(delays.len() * percent).div_ceil(100).max(1) - 1] / 1000;
    let seconds = RUN_US / 1_000_000;
    Seen {
        p50_ms: rank(50),
        p99_ms: rank(99),
        max_ms: rank(100),
        redis_busy_percent: 100 * redis_worked / RUN_US,
        megabytes_s: messages * u64::try_from(instances).unwrap() * MESSAGE_BYTES / seconds / 1_000_000,
        messages_s: messages / seconds,
    }
}

#[test]
#[ignore = "figures of docs/scale.md"]
fn how_far_one_stream_carries() {
    let seed = std::env::var("SCALE_SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("SCALE_SEED={seed}; Redis works {DELIVERY_US} us for each message and instance");
    println!("| instances | changes / s | messages / s | told after p50 | p99 | max | Redis busy | Redis sends |");
    println!("|---|---|---|---|---|---|---|---|");
    for instances in [3, 30, 100, 300, 1000, 2000, 3000] {
        for commits_per_s in [1, 1000] {
            let seen = fleet(instances, commits_per_s, seed);
            println!(
                "| {instances} | {commits_per_s} | {} | {} ms | {} ms | {} ms | {} % | {} MB/s |",
                seen.messages_s, seen.p50_ms, seen.p99_ms, seen.max_ms, seen.redis_busy_percent, seen.megabytes_s
            );
        }
    }
}

/// The same seed sees the same, and more instances are told later: what the table is made of is no accident.
#[test]
fn the_simulation_repeats_itself() {
    let of = |instances| {
        let seen = fleet(instances, 20, 7);
        (seen.p50_ms, seen.p99_ms, seen.max_ms)
    };
    assert_eq!(of(30), of(30));
    assert!(of(300).1 > of(3).1);
}

fn redis(name: &str) -> (Redis, Scratch) {
    let scratch = Scratch::new(name).unwrap();
    let options = RedisOptions::new(scratch.join("redis")).setting("maxclients", "5000");
    (Redis::start(&options).unwrap().expect("redis-server is installed"), scratch)
}

/// A number of INFO.
fn info(redis: &Redis, section: &str, name: &str) -> f64 {
    let text = redis.command(&["INFO", section]).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    value.trim().parse().unwrap()
}

#[test]
#[ignore = "figures of docs/scale.md"]
fn what_redis_works_to_tell_many() {
    const READERS: u32 = 1000;
    const MESSAGES: u32 = 100;
    let (redis, _scratch) = redis("scale-delivery");
    let mut readers: Vec<TcpStream> =
        (0..READERS).map(|_| TcpStream::connect(("127.0.0.1", redis.server.port())).unwrap()).collect();
    let body = "x".repeat(200);
    let cpu = || info(&redis, "cpu", "used_cpu_user") + info(&redis, "cpu", "used_cpu_sys");
    let mut worked = 0.0;
    for number in 1..=MESSAGES {
        let before = cpu();
        let read = format!("XREAD COUNT 1000 BLOCK 60000 STREAMS stream 1-{}\r\n", number - 1);
        readers.iter_mut().for_each(|reader| reader.write_all(read.as_bytes()).unwrap());
        while info(&redis, "clients", "blocked_clients") < f64::from(READERS) {}
        redis.command(&["XADD", "stream", &format!("1-{number}"), "m", &body]).unwrap();
        for reader in &mut readers {
            let mut answer = Vec::new();
            while !answer.ends_with(format!("{body}\r\n").as_bytes()) {
                let mut buffer = [0; 1024];
                let length = reader.read(&mut buffer).unwrap();
                answer.extend_from_slice(&buffer[..length]);
            }
        }
        worked += cpu() - before;
    }
    println!("{:.1} us of Redis' CPU for each message and reader", worked * 1e6 / f64::from(READERS * MESSAGES));
}

#[test]
#[ignore = "figures of docs/scale.md"]
fn what_redis_keeps_of_a_million_entries() {
    const ENTRIES: u32 = 50_000;
    const ROUTES: &str = r#"
[[route]]
path = "/public/things/{id}"
handler = "probe"
params = [{ name = "id", in = "path", type = "integer" }]
  [route.cache]
  ttl = "1h"
  tags = ["things:{id}"]
"#;
    for body_bytes in [200, 1024, 10 * 1024] {
        let (redis, _scratch) = redis("scale-memory");
        // Nothing in it repeats, as in the worst of bodies.
        let probe = Probe::answering(move |call, number| {
            let mut rng = Rng::with_seed(u64::try_from(number).unwrap());
            let text: String = (0..body_bytes - 20).map(|_| rng.alphanumeric()).collect();
            Answer::json(&serde_json::json!({ "id": call.params.text("id"), "text": text }))
        });
        let instance = Plan::probed(ROUTES, &probe).set("REDIS_URL", &redis.url()).set("redis.timeout", "5s").start();
        instance.wait_for("an answer", "/public/things/0", |reply| reply.status == 200);
        let before = info(&redis, "memory", "used_memory");
        let entries = ENTRIES * 1024 / body_bytes.max(1024);
        std::thread::scope(|scope| {
            for part in 0..4 {
                let instance = &instance;
                scope.spawn(move || {
                    let mut connection = instance.connect();
                    for id in (1..=entries).filter(|id| id % 4 == part) {
                        assert_eq!(connection.request("GET", &format!("/public/things/{id}"), &[]).status, 200);
                    }
                });
            }
        });
        let count = || redis.command(&["DBSIZE"]).unwrap().trim().parse::<u32>().unwrap();
        assert!(mainstay::local::wait_until(crate::support::PATIENCE, || count() >= entries), "{} keys", count());
        let each = (info(&redis, "memory", "used_memory") - before) / f64::from(entries);
        println!("{body_bytes} B of body: {each:.0} B of Redis' memory an entry, {:.2} GB a million", each / 1000.0);
    }
}

/// Routes of which every other one has a cache policy.
fn many_routes(count: usize) -> String {
    let route = |number: usize| {
        let cache = if number.is_multiple_of(2) { "  [route.cache]\n  ttl = \"1h\"\n" } else { "" };
        format!("[[route]]\npath = \"/v1/things-of-kind-{number:04}\"\nhandler = \"probe\"\n{cache}")
    };
    (0..count).map(route).collect()
}

#[test]
#[ignore = "figures of docs/scale.md"]
fn what_metrics_of_many_routes_weigh() {
    const ROUTES: usize = 2000;
    let probe = Probe::answering(|_, _| Answer::json(&serde_json::json!({ "ok": true })));
    let instance = Instance::probed(&many_routes(ROUTES), &probe);
    let measure = |when: &str| {
        let mut took: Vec<_> = (0..5)
            .map(|_| {
                let begin = Instant::now();
                let bytes = instance.metrics().len();
                (begin.elapsed(), bytes)
            })
            .collect();
        took.sort();
        let (took, bytes) = took[2];
        println!("{when}: {bytes} B, {} ms", took.as_millis());
    };
    measure("nobody has asked");
    let ask = |routes: usize| {
        let mut connection = instance.connect();
        for route in (0..routes).flat_map(|number| [number; 2]) {
            let path = format!("/v1/things-of-kind-{route:04}");
            assert_eq!(connection.request("GET", &path, &[]).status, 200);
        }
    };
    ask(ROUTES / 10);
    measure("every tenth route was asked twice");
    ask(ROUTES);
    measure("each was");
}
