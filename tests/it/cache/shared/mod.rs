//! L2 on real servers: what these tests share.

mod cluster;
mod lease;
mod store;
mod tls;
mod trouble;

use std::sync::Arc;
use std::time::{Duration, Instant};

use mainstay::cache::entry::{Entry, Origin, Parts};
use mainstay::cache::key::Key;
use mainstay::cache::policy::Limits;
use mainstay::cache::shared::{Found, Look, Seen, Shared, Turn};
use mainstay::cache::tag::Tag;
use mainstay::cache::variants::Variants;
use mainstay::config::ConfigError;
use mainstay::local::{Redis, RedisOptions, Scratch};
use mainstay::position::{Lsn, Position, SystemId, Timeline};
use mainstay::telemetry::metrics::Metrics;

use crate::support::{PATIENCE, settings};

const CANONICAL: &[u8] = b"/rates?base=EUR";
const FINGERPRINT: [u8; 16] = [5; 16];
const KEY: Key = Key(7);
const HOUR: Duration = Duration::from_secs(3600);

/// Settings with which a busy machine is no reason to go on without Redis.
const PATIENT: [(&str, &str); 3] = [
    ("MAINSTAY__REDIS__TIMEOUT", "10s"),
    ("MAINSTAY__REDIS__CONNECT_TIMEOUT", "10s"),
    ("MAINSTAY__REDIS__LEASE_TIMEOUT", "30s"),
];

/// A Redis of a test's own.
struct Site {
    redis: Redis,
    scratch: Scratch,
}

impl Site {
    fn new(name: &str) -> Self {
        Self::with(name, |options| options)
    }

    fn with(name: &str, more: impl Fn(RedisOptions) -> RedisOptions) -> Self {
        let scratch = Scratch::new(name).unwrap();
        let options = more(RedisOptions::new(scratch.join("redis")));
        let redis = Redis::start(&options).unwrap().expect("redis-server is installed");
        Self { redis, scratch }
    }

    /// An instance of the fleet.
    fn instance(&self) -> Instance {
        Instance::new(&self.redis.url(), &PATIENT)
    }

    /// Runs a command on the server, as somebody else would.
    fn run<T: redis::FromRedisValue>(&self, words: &[&[u8]]) -> T {
        let mut connection = redis::Client::open(self.redis.url()).unwrap().get_connection().unwrap();
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        command.query(&mut connection).unwrap()
    }

    /// Keys that have this in their names.
    fn keys(&self, part: &str) -> Vec<String> {
        let keys: Vec<String> = self.run(&[b"KEYS", b"*"]);
        keys.into_iter().filter(|key| key.contains(part)).collect()
    }

    /// The key of the one entry that is there.
    fn entry_key(&self) -> Vec<u8> {
        let keys = self.keys(":2:");
        assert_eq!(keys.len(), 1, "{keys:?}");
        keys[0].clone().into_bytes()
    }
}

/// One process' view of L2.
struct Instance {
    shared: Shared,
    metrics: Arc<Metrics>,
}

impl std::ops::Deref for Instance {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Instance {
    fn new(url: &str, more: &[(&str, &str)]) -> Self {
        Self::try_new(url, more).unwrap()
    }

    /// One who only looks.
    fn reading(url: &str, more: &[(&str, &str)]) -> Self {
        let more: Vec<_> = more.iter().copied().chain([("REDIS_URL", url)]).collect();
        let settings = settings("", "", &more);
        let metrics = Arc::new(Metrics::new().unwrap());
        let shared = Shared::reading(&settings.redis, &settings.cache, 1024 * 1024, &metrics).unwrap();
        Self { shared, metrics }
    }

    fn try_new(url: &str, more: &[(&str, &str)]) -> Result<Self, ConfigError> {
        let more: Vec<_> = more.iter().copied().chain([("REDIS_URL", url)]).collect();
        let settings = settings("", "", &more);
        let metrics = Arc::new(Metrics::new().unwrap());
        let shared = Shared::new(&settings.redis, &settings.cache, 1024 * 1024, &metrics)?;
        Ok(Self { shared, metrics })
    }

    /// What a lookup of the one key finds.
    async fn found(&self) -> Option<Found> {
        match self.look(KEY, CANONICAL, &FINGERPRINT).await {
            Look::Found(found) => Some(found),
            Look::Nothing => None,
            Look::Unavailable => panic!("Redis is unavailable"),
        }
    }

    async fn body(&self) -> Option<String> {
        self.found().await.map(|found| body(&found.entry))
    }

    async fn turn(&self, seen: &Seen) -> Turn {
        self.lead(KEY, CANONICAL, &FINGERPRINT, seen).await
    }

    async fn is_unavailable(&self) -> bool {
        matches!(self.look(KEY, CANONICAL, &FINGERPRINT).await, Look::Unavailable)
    }

    /// Waits until Redis is in use again.
    async fn recovers(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.is_unavailable().await {
            assert!(Instant::now() < deadline, "Redis is not used again");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Lookups that came to this.
    fn lookups(&self, result: &str) -> u64 {
        self.metrics.lookups.with_label_values(&["L2", result]).get()
    }

    /// Waves that failed for this reason.
    fn failures(&self, reason: &str) -> u64 {
        self.metrics.redis_failures.with_label_values(&[reason]).get()
    }
}

fn at(lsn: u64) -> Position {
    Position { system: SystemId(1), timeline: Timeline(1), lsn: Lsn(lsn) }
}

fn parts(told: Option<Position>, body: &str) -> Parts {
    Parts {
        status: 200,
        content_type: "application/json",
        body: Variants::of(body.to_owned().into(), 1024),
        tags: vec![Tag::new("rates"), Tag::of_key(KEY)],
        told,
        is_local: false,
        as_of: told,
        seen: told,
        outlives_change: false,
        origin: Origin::Filled,
        made: Instant::now(),
        cost: Duration::from_millis(3),
        limits: Limits {
            fresh: Duration::from_secs(300),
            stale_while_revalidate: Duration::from_secs(60),
            stale_if_error: 24 * HOUR,
        },
        detail: "replica",
        absence: None,
    }
}

fn entry(told: u64, body: &str) -> Arc<Entry> {
    Arc::new(Entry::new(CANONICAL, FINGERPRINT, parts(Some(at(told)), body)))
}

fn body(entry: &Entry) -> String {
    String::from_utf8(entry.body.identity().bytes.to_vec()).unwrap()
}
