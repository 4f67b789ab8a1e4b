//! One fill for the fleet.

use std::cell::Cell;
use std::future::Future;
use std::time::Instant;

use futures_util::future::join_all;
use mainstay::cache::shared::waiters::Waiting;
use mainstay::cache::shared::{Lease, Seen, Turn};

use super::*;
use crate::support::wait_for;

/// A wait that takes as long as this is a wait in vain.
const LONG: Duration = Duration::from_secs(10);

async fn lease(instance: &Instance) -> Lease {
    match instance.turn(&Seen::default()).await {
        Turn::Lead(lease) => lease,
        Turn::Found(_) => panic!("there is an entry"),
        Turn::Wait(_) => panic!("somebody has it"),
    }
}

async fn waiting(instance: &Instance) -> Waiting {
    match instance.turn(&Seen::default()).await {
        Turn::Wait(waiting) => waiting,
        Turn::Found(_) => panic!("there is an entry"),
        Turn::Lead(_) => panic!("nobody has it"),
    }
}

/// Whether a wait ends before long.
async fn ends(waiting: Waiting, meanwhile: impl Future<Output = ()>) -> bool {
    let began = Instant::now();
    futures_util::future::join(waiting.done(began + LONG), meanwhile).await;
    began.elapsed() < LONG
}

/// Waits until the instances listen to each other.
async fn hear_each_other(site: &Site, instances: usize) {
    let channel = || site.run::<(String, usize)>(&[b"PUBSUB", b"NUMSUB", b"mainstay:filled"]).1;
    wait_for("the subscriptions", || channel() == instances).await;
}

#[actix_rt::test]
async fn who_waits_is_woken_when_the_entry_is_there() {
    let site = Site::new("lease-put");
    let (one, other) = (site.instance(), site.instance());
    hear_each_other(&site, 2).await;
    let lease = lease(&one).await;
    let waits = (waiting(&other).await, waiting(&one).await);
    assert!(ends(waits.0, one.put(KEY, &entry(1, "a"), Some(lease))).await);
    assert!(ends(waits.1, async {}).await, "and who waits in the same process");
    assert_eq!(other.body().await.as_deref(), Some("a"));
    assert!(site.keys("lease").is_empty());
}

#[actix_rt::test]
async fn who_waits_is_woken_when_the_fill_fails() {
    let site = Site::new("lease-release");
    let (one, other) = (site.instance(), site.instance());
    hear_each_other(&site, 2).await;
    let first = lease(&one).await;
    let wait = waiting(&other).await;
    assert!(ends(wait, one.release(first)).await);
    let _it_is_free = lease(&other).await;
}

#[actix_rt::test]
async fn an_entry_that_is_too_long_is_not_shared_and_ends_the_lease_all_the_same() {
    let site = Site::new("lease-long");
    let instance = site.instance();
    let first = lease(&instance).await;
    let mut parts = parts(Some(at(1)), "");
    parts.body = Variants::of(vec![b'a'; 1024 * 1024].into(), usize::MAX);
    instance.put(KEY, &Arc::new(Entry::new(CANONICAL, FINGERPRINT, parts)), Some(first)).await;
    assert!(site.keys("").is_empty(), "{:?}", site.keys(""));
}

#[actix_rt::test]
async fn an_entry_that_was_stored_since_the_look_is_found_and_the_one_that_was_seen_is_not() {
    let site = Site::new("lease-seen");
    let (one, other) = (site.instance(), site.instance());
    one.put(KEY, &entry(1, "a"), None).await;
    let Turn::Found(found) = other.turn(&Seen::default()).await else { panic!("it is there") };
    assert_eq!(body(&found.entry), "a");
    let Turn::Lead(lease) = other.turn(&found.seen).await else { panic!("it was seen") };
    // Of the same stamp: nothing was told meanwhile.
    other.put(KEY, &entry(1, "b"), Some(lease)).await;
    let Turn::Found(found) = one.turn(&found.seen).await else { panic!("it is another one") };
    assert_eq!(body(&found.entry), "b");
}

#[actix_rt::test]
async fn a_dead_holder_costs_its_lease_at_most() {
    let site = Site::new("lease-death");
    let more = [("MAINSTAY__REDIS__TIMEOUT", "10s"), ("MAINSTAY__REDIS__LEASE_TIMEOUT", "400ms")];
    let (one, other) = (Instance::new(&site.redis.url(), &more), Instance::new(&site.redis.url(), &more));
    let lost = lease(&one).await;
    let wait = waiting(&other).await;
    // Its process is gone, and with it its connections.
    drop(one);
    assert!(ends(wait, async {}).await);
    let mut turn = other.turn(&Seen::default()).await;
    while let Turn::Wait(wait) = turn {
        // The clocks of two machines end the lease within a moment of each other.
        wait.done(Instant::now() + LONG).await;
        turn = other.turn(&Seen::default()).await;
    }
    let Turn::Lead(own) = turn else { panic!("nobody has filled it") };
    // It comes back from the dead: what it has is as good as any, but the lease is another's now.
    other.put(KEY, &entry(1, "late"), Some(lost)).await;
    assert_eq!(site.keys("lease").len(), 1);
    other.release(own).await;
    assert!(site.keys("lease").is_empty());
}

#[actix_rt::test]
async fn what_was_said_while_nobody_listened_is_not_waited_for() {
    let site = Site::new("lease-deaf");
    let (one, other) = (site.instance(), site.instance());
    hear_each_other(&site, 2).await;
    let lease = lease(&one).await;
    let wait = waiting(&other).await;
    let meanwhile = async {
        let _killed: i64 = site.run(&[b"CLIENT", b"KILL", b"TYPE", b"pubsub"]);
        one.put(KEY, &entry(1, "a"), Some(lease)).await;
    };
    assert!(ends(wait, meanwhile).await);
}

#[actix_rt::test]
async fn where_nobody_may_publish_waits_are_short_and_lead_to_the_entry() {
    let site = Site::new("lease-mute");
    let _set: () = site.run(&[b"ACL", b"SETUSER", b"app", b"on", b">geheim", b"~*", b"resetchannels", b"+@all"]);
    let url = site.redis.url().replace("redis://", "redis://app:geheim@");
    let (one, other) = (Instance::new(&url, &PATIENT), Instance::new(&url, &PATIENT));
    let lease = lease(&one).await;
    assert!(ends(waiting(&other).await, async {}).await, "its caller asks again");
    let wait = waiting(&other).await;
    assert!(ends(wait, one.put(KEY, &entry(1, "a"), Some(lease))).await);
    assert_eq!(other.body().await.as_deref(), Some("a"));
    assert_eq!(one.failures("refused"), 0, "that it could not be said is no failure of the store");
}

#[actix_rt::test]
async fn a_lease_that_lost_its_end_is_given_another() {
    let site = Site::new("lease-endless");
    let instance = Instance::new(&site.redis.url(), &[PATIENT[0], ("MAINSTAY__REDIS__LEASE_TIMEOUT", "200ms")]);
    let _set: () = site.run(&[b"SET", format!("mainstay:lease:{{{:032x}}}", KEY.0).as_bytes(), b"0endless"]);
    let mut turn = instance.turn(&Seen::default()).await;
    let mut waits = 0;
    while let Turn::Wait(wait) = turn {
        wait.done(Instant::now() + LONG).await;
        waits += 1;
        turn = instance.turn(&Seen::default()).await;
    }
    assert!(matches!(turn, Turn::Lead(_)) && (1..10).contains(&waits), "{waits}");
}

#[actix_rt::test]
async fn a_thousand_requests_at_three_cold_instances_run_one_fill() {
    let site = Site::new("lease-herd");
    let instances = [site.instance(), site.instance(), site.instance()];
    let fills = Cell::new(0);
    let request = async |instance: &Instance| loop {
        if let Some(body) = instance.body().await {
            return body;
        }
        match instance.turn(&Seen::default()).await {
            Turn::Found(found) => return body(&found.entry),
            Turn::Wait(waiting) => waiting.done(Instant::now() + PATIENCE).await,
            Turn::Lead(lease) => {
                fills.set(fills.get() + 1);
                tokio::time::sleep(Duration::from_millis(50)).await;
                instance.put(KEY, &entry(1, "a"), Some(lease)).await;
            }
        }
    };
    let requests = (0..1000).map(|number| request(&instances[number % 3]));
    let bodies = join_all(requests).await;
    assert!(bodies.iter().all(|body| body == "a"));
    assert_eq!(fills.get(), 1);
}
