//! Fleets without a database: their clock is a stream in Redis, and a new one after any loss.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use mainstay::Answer;
use mainstay::local::{Redis, RedisOptions, Scratch, wait_until};
use serde_json::{Value, json};

use super::fleet::{Claim, Member, assert_only};
use crate::instance::probe::Probe;
use crate::instance::{Instance, Plan};
use crate::support::PATIENCE;

const ROUTES: &str = "[[route]]\npath = \"/public/it\"\nhandler = \"probe\"\n[route.cache]\nttl = \"1h\"\n\
                      stale_while_revalidate = \"1h\"\nstale_if_error = \"1d\"\ntags = [\"it\"]\n";
const IT: &str = "/public/it";

/// Instances whose handlers all show one value, and their Redis.
struct Site {
    redis: Redis,
    value: Arc<AtomicI64>,
    _scratch: Scratch,
}

impl Site {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name).unwrap();
        let redis = Redis::start(&RedisOptions::new(scratch.join("redis"))).unwrap();
        let redis = redis.expect("redis-server is installed");
        Self { redis, value: Arc::default(), _scratch: scratch }
    }

    /// An instance that goes by the fleet's clock.
    fn start(&self) -> Instance {
        let value = Arc::clone(&self.value);
        let probe = Probe::answering(move |_, _| Answer::json(&json!({ "value": value.load(Ordering::SeqCst) })));
        let plan = Plan::probed(ROUTES, &probe).set("REDIS_URL", &self.redis.url()).set("ADMIN_TOKEN", "correct-horse");
        let plan = plan.set("redis.timeout", "2s").set("redis.connect_timeout", "2s").set("cache.max_silence", "1h");
        let instance = plan.start();
        assert!(wait_until(PATIENCE, || status(&instance)["caught_up"] == true), "it hears nothing");
        instance
    }

    fn set(&self, value: i64) {
        self.value.store(value, Ordering::SeqCst);
    }
}

fn status(instance: &Instance) -> Value {
    instance.admin("GET", "/admin/status", "")["bus"].clone()
}

/// Which generation of the clock an instance goes by.
fn generation(instance: &Instance) -> String {
    let told = status(instance)["told"].as_str().unwrap_or_default().to_owned();
    told.split(':').next().unwrap().to_owned()
}

/// Waits until an instance goes by another generation than this one.
fn wait_renewed(instance: &Instance, old: &str) {
    assert!(wait_until(PATIENCE, || generation(instance) != old), "it goes by the old clock");
}

#[track_caller]
fn assert_purged_everywhere(site: &Site, instances: &[Instance], value: i64) {
    for instance in instances {
        assert_only(instance, IT, value - 1);
    }
    site.set(value);
    let purged = instances[0].admin("POST", "/admin/cache/purge", r#"{"tags":["it"]}"#);
    let count = instances.len();
    assert_eq!(purged["instances"], json!({ "known": count, "confirmed": count }), "{purged}");
    for instance in instances {
        let reply = instance.get(IT);
        assert!(reply.claims_fresh() && reply.value() == value, "{reply:?}");
    }
}

#[test]
fn a_purge_reaches_all_of_a_fleet_that_has_no_database() {
    let site = Site::new("own-clock");
    let instances = [site.start(), site.start()];
    assert_purged_everywhere(&site, &instances, 1);
    assert_eq!(generation(&instances[0]), generation(&instances[1]));
    // Who joins takes what the fleet has.
    let calls = |instance: &Instance| instance.metric("mainstay_fills_total{outcome=\"ok\",route=\"/public/it\"}");
    let joined = site.start();
    assert_eq!((joined.get(IT).value(), calls(&joined)), (1, 0.0));
    let leaders = instances.iter().chain([&joined]).filter(|instance| instance.leads()).count();
    assert_eq!(leaders, 1);
    let [first, second] = instances;
    assert_purged_everywhere(&site, &[joined, second, first], 2);
}

#[test]
fn a_loss_begins_another_generation() {
    let site = Site::new("own-clock-lost");
    let instances = [site.start(), site.start()];
    let mut value = 0;
    let losses: [&[&str]; 2] =
        [&["FLUSHALL"], &["EVAL", "return redis.call('DEL', unpack(redis.call('KEYS', '*:bus:stream:*')))", "0"]];
    for loss in losses {
        value += 1;
        assert_purged_everywhere(&site, &instances, value);
        let old = generation(&instances[0]);
        // What a script answers is a number, which is no text.
        let _answer = site.redis.command(loss);
        for instance in &instances {
            wait_renewed(instance, &old);
            assert!(wait_until(PATIENCE, || status(instance)["caught_up"] == true));
        }
    }
    assert_purged_everywhere(&site, &instances, value + 1);
}

/// The purge is in no log any more, and the answer that it purged is in the shared cache again.
#[test]
fn a_redis_that_comes_back_as_it_was_long_ago_is_believed_by_nobody() {
    for all_have_gone in [false, true] {
        let site = Site::new("own-clock-dump");
        let instances = vec![site.start(), site.start()];
        assert_only(&instances[0], IT, 0);
        let entries = || site.redis.command(&["EVAL", "return #redis.call('KEYS', '*:{*')", "0"]).unwrap();
        assert!(wait_until(PATIENCE, || entries() != "0"), "nothing is shared");
        site.redis.command(&["SAVE"]).unwrap();
        assert_purged_everywhere(&site, &instances, 1);
        let old = generation(&instances[0]);
        let left = if all_have_gone { Vec::new() } else { instances };
        site.redis.server.kill9();
        site.redis.server.start().unwrap();
        let joined = site.start();
        assert_ne!(generation(&joined), old);
        assert_only(&joined, IT, 1);
        for instance in &left {
            wait_renewed(instance, &old);
            assert_only(instance, IT, 1);
        }
    }
}
