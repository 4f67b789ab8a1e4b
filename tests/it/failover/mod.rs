//! The secondary origin: what it serves when others do not answer, and what it never does.

mod hard;
mod health;
mod peers;
mod reading;
mod rights;
mod serving;
mod snapshot;
mod source;

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use mainstay::local::{Redis, RedisOptions, Scratch, wait_until};

use crate::instance::probe::Probe;
use crate::instance::{Instance, Plan};
use crate::support::PATIENCE;

fn start_redis(name: &str) -> (Redis, Scratch) {
    let scratch = Scratch::new(name).unwrap();
    let redis = Redis::start(&RedisOptions::new(scratch.join("redis"))).unwrap().expect("redis-server is installed");
    (redis, scratch)
}

/// A Redis that these tests share, each in a namespace of its own.
fn redis() -> &'static Redis {
    static SHARED: LazyLock<(Redis, Scratch)> = LazyLock::new(|| start_redis("failover"));
    &SHARED.0
}

/// Ends an origin, which takes its leave of Redis, and waits for that.
fn end(origin: Instance, redis: &Redis) {
    drop(origin);
    let leaders = || redis.command(&["EVAL", "return #redis.call('KEYS', '*:bus:leader')", "0"]).unwrap();
    assert!(wait_until(PATIENCE, || leaders() == "0"), "it does not leave");
}

/// A fleet without a database, and the failover origin that stands in for it.
struct Pair<'a> {
    redis: &'a Redis,
    namespace: String,
    routes: String,
    /// The source of the fleet.
    probe: Probe,
    /// The source of the failover origin, which must not be asked.
    unasked: Probe,
}

impl<'a> Pair<'a> {
    fn new(routes: &str, probe: Probe) -> Pair<'static> {
        Pair::on(redis(), routes, probe)
    }

    fn on(redis: &'a Redis, routes: &str, probe: Probe) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let namespace = format!("pair{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        Self { redis, namespace, routes: routes.to_owned(), probe, unasked: Probe::default() }
    }

    fn plan(&self, probe: &Probe) -> Plan {
        Plan::probed(&self.routes, probe)
            .set("CACHE_NAMESPACE", &self.namespace)
            .set("REDIS_URL", &self.redis.url())
            .set("redis.timeout", "2s")
            .set("redis.connect_timeout", "2s")
            .set("changes.heartbeat_interval", "50ms")
    }

    fn regional(&self) -> Plan {
        self.plan(&self.probe)
    }

    fn failover(&self) -> Plan {
        self.plan(&self.unasked).set("MODE", "failover")
    }

    /// An origin that has put these into Redis, and is gone.
    fn fill(&self, targets: &[&str]) {
        let origin = self.regional().start();
        self.fill_by(&origin, targets);
    }

    /// Has an origin put these into Redis.
    fn fill_by(&self, origin: &Instance, targets: &[&str]) {
        // Until it has a clock, it shares nothing.
        origin.wait_for("a clock", "/health/live", |_| {
            origin.metric("mainstay_bus_messages_total{kind=\"heartbeat\",source=\"stream\"}") > 0.0
        });
        targets.iter().for_each(|target| drop(origin.get(target)));
        let shared = || self.shared_entries() >= targets.len();
        assert!(wait_until(PATIENCE, shared), "{} of {}", self.shared_entries(), targets.len());
    }

    fn shared_entries(&self) -> usize {
        let count = format!("return #redis.call('KEYS', '{}:2:*')", self.namespace);
        self.redis.command(&["EVAL", &count, "0"]).unwrap().parse().unwrap()
    }
}
