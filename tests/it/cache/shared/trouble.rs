//! Redis in every kind of trouble: calls end within their bound, then at once, and all is well again by itself.

use std::time::Instant;

use mainstay::cache::shared::{Look, Seen, Turn};
use mainstay::local::Proxy;

use super::*;
use crate::support::wait_for;

/// What a call may take, the machine's own business included: without a bound it would be seconds.
const BOUND: Duration = Duration::from_millis(1500);

const HASTY: [(&str, &str); 4] = [
    ("MAINSTAY__REDIS__TIMEOUT", "100ms"),
    ("MAINSTAY__REDIS__CONNECT_TIMEOUT", "2s"),
    ("MAINSTAY__REDIS__OPEN_TIME", "200ms"),
    ("MAINSTAY__REDIS__OPEN_TIME_MAX", "400ms"),
];

fn hasty(port: u16) -> Instance {
    Instance::new(&format!("redis://127.0.0.1:{port}"), &HASTY)
}

fn proxy(site: &Site) -> Proxy {
    Proxy::start(([127, 0, 0, 1], site.redis.server.port()).into()).unwrap()
}

/// An instance that has stored an entry.
async fn with_entry(port: u16) -> Instance {
    let instance = hasty(port);
    instance.recovers().await;
    while instance.body().await.is_none() {
        instance.put(KEY, &entry(1, "a"), None).await;
    }
    instance
}

async fn timed<T>(work: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let outcome = work.await;
    let took = began.elapsed();
    assert!(took < BOUND, "{took:?}");
    outcome
}

/// Every call ends within its bound, and after some of them a hundred together take no longer than one.
async fn is_left_alone(instance: &Instance) {
    let began = Instant::now();
    while instance.failures("timeout") + instance.failures("connection") + instance.failures("loading") < 3 {
        assert!(began.elapsed() < PATIENCE, "nothing fails");
        timed(instance.look(KEY, CANONICAL, &FINGERPRINT)).await;
    }
    timed(async {
        for _ in 0..100 {
            assert!(instance.is_unavailable().await);
        }
    })
    .await;
    let Turn::Lead(lease) = timed(instance.turn(&Seen::default())).await else { panic!("everybody leads") };
    timed(instance.put(KEY, &entry(1, "b"), Some(lease))).await;
    assert!(instance.lookups("unavailable") >= 100);
}

#[actix_rt::test]
async fn slow() {
    let site = Site::new("shared-slow");
    let proxy = proxy(&site);
    let instance = with_entry(proxy.port()).await;
    proxy.set_delay(Duration::from_millis(300));
    is_left_alone(&instance).await;
    proxy.set_delay(Duration::ZERO);
    instance.recovers().await;
    assert_eq!(instance.body().await.as_deref(), Some("a"));
}

#[actix_rt::test]
async fn hung() {
    let site = Site::new("shared-hung");
    let instance = with_entry(site.redis.server.port()).await;
    site.redis.server.suspend().unwrap();
    is_left_alone(&instance).await;
    site.redis.server.resume().unwrap();
    instance.recovers().await;
}

#[actix_rt::test]
async fn a_host_that_is_gone_with_all_connections_open() {
    let (gone, next) = (Site::new("shared-gone"), Site::new("shared-next"));
    let proxy = proxy(&gone);
    let instance = with_entry(proxy.port()).await;
    // The connections that exist hang for good; the name leads to another host from now on.
    gone.redis.server.suspend().unwrap();
    is_left_alone(&instance).await;
    proxy.set_target(([127, 0, 0, 1], next.redis.server.port()).into());
    instance.recovers().await;
    assert!(instance.found().await.is_none(), "it is another host");
    let listeners = || next.run::<(String, usize)>(&[b"PUBSUB", b"NUMSUB", b"mainstay:filled"]).1;
    wait_for("the subscription", || listeners() == 1).await;
}

#[actix_rt::test]
async fn unreachable_from_the_start_and_again_later() {
    let site = Site::new("shared-unreachable");
    site.redis.server.stop();
    let instance = hasty(site.redis.server.port());
    is_left_alone(&instance).await;
    site.redis.server.start().unwrap();
    instance.recovers().await;
    instance.put(KEY, &entry(1, "a"), None).await;
    assert_eq!(instance.body().await.as_deref(), Some("a"));
    site.redis.server.kill9();
    wait_for("the end", || !site.redis.server.is_running()).await;
    assert!(timed(instance.is_unavailable()).await);
    is_left_alone(&instance).await;
    site.redis.server.start().unwrap();
    instance.recovers().await;
    assert!(instance.found().await.is_none(), "it has come back empty");
}

#[actix_rt::test]
async fn connections_that_are_cut_are_made_anew() {
    let site = Site::new("shared-cut");
    let proxy = proxy(&site);
    let instance = with_entry(proxy.port()).await;
    for _ in 0..5 {
        proxy.cut();
        timed(instance.look(KEY, CANONICAL, &FINGERPRINT)).await;
        instance.recovers().await;
    }
    assert_eq!(instance.body().await.as_deref(), Some("a"));
}

#[actix_rt::test]
async fn full() {
    let site = Site::with("shared-full", |options| options.setting("maxmemory-policy", "noeviction"));
    let instance = site.instance();
    instance.put(KEY, &entry(1, "a"), None).await;
    let _set: () = site.run(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    let seen = instance.found().await.expect("a full server still reads").seen;
    for _ in 0..5 {
        let Turn::Lead(lease) = instance.turn(&seen).await else { panic!("no lease fits") };
        instance.put(KEY, &entry(2, "b"), Some(lease)).await;
        assert_eq!(instance.body().await.as_deref(), Some("a"), "and is read on");
    }
    assert_eq!((instance.failures("full"), instance.lookups("unavailable")), (10, 0));
    let _set: () = site.run(&[b"CONFIG", b"SET", b"maxmemory", b"0"]);
    instance.put(KEY, &entry(2, "b"), None).await;
    assert_eq!(instance.body().await.as_deref(), Some("b"));
}

#[actix_rt::test]
async fn a_server_that_fills_up_under_a_lease_still_wakes_who_waits() {
    let site = Site::new("shared-full-lease");
    let (one, other) = (site.instance(), site.instance());
    let Turn::Lead(lease) = one.turn(&Seen::default()).await else { panic!("nobody has it") };
    let Turn::Wait(waiting) = other.turn(&Seen::default()).await else { panic!("it is taken") };
    let _set: () = site.run(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    let began = Instant::now();
    let made = entry(1, "a");
    let store = one.put(KEY, &made, Some(lease));
    futures_util::future::join(waiting.done(began + Duration::from_secs(20)), store).await;
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(other.found().await.is_none());
}

#[actix_rt::test]
async fn evicting() {
    let site = Site::with("shared-evicting", |options| {
        options.setting("maxmemory", "2500kb").setting("maxmemory-policy", "allkeys-lru")
    });
    let instance = site.instance();
    let text = |number: u64| format!("{number:020}").repeat(50);
    let mut kept = 0;
    for number in 0..3000_u64 {
        let (key, text) = (mainstay::cache::key::Key(u128::from(number)), text(number));
        instance.put(key, &entry(1, &text), None).await;
        match instance.look(key, CANONICAL, &FINGERPRINT).await {
            Look::Found(found) => {
                assert_eq!(body(&found.entry), text);
                kept += 1;
            }
            Look::Nothing => {}
            Look::Unavailable => panic!("it answers"),
        }
    }
    let evicted: String = site.run(&[b"INFO", b"stats"]);
    assert!(!evicted.contains("evicted_keys:0\r"), "nothing was evicted");
    assert!(kept > 100, "{kept}");
}

#[actix_rt::test]
async fn flushed() {
    let site = Site::new("shared-flushed");
    let (one, other) = (site.instance(), site.instance());
    one.put(KEY, &entry(1, "a"), None).await;
    let seen = one.found().await.unwrap().seen;
    let Turn::Lead(lease) = one.turn(&seen).await else { panic!("nobody has it") };
    let _flushed: () = site.run(&[b"FLUSHALL"]);
    let _flushed: () = site.run(&[b"SCRIPT", b"FLUSH"]);
    assert!(one.found().await.is_none());
    let Turn::Lead(others) = other.turn(&Seen::default()).await else { panic!("the lease is gone, too") };
    other.put(KEY, &entry(2, "b"), Some(others)).await;
    one.put(KEY, &entry(1, "a"), Some(lease)).await;
    assert_eq!(one.body().await.as_deref(), Some("b"));
}

#[actix_rt::test]
async fn restored_from_an_old_dump() {
    let site = Site::new("shared-dump");
    let instance = with_entry(site.redis.server.port()).await;
    let dump = site.scratch.join("redis").join("dump.rdb");
    let _saved: () = site.run(&[b"SAVE"]);
    let old = std::fs::read(&dump).unwrap();
    instance.put(KEY, &entry(5, "b"), None).await;
    let _saved: () = site.run(&[b"SAVE"]);
    let age = instance.found().await.unwrap().entry.age(Instant::now());
    site.redis.server.kill9();
    std::fs::write(&dump, old).unwrap();
    site.redis.server.start().unwrap();
    instance.recovers().await;
    // It is back, with the stamp that it had: the fences judge it like any other.
    let found = instance.found().await.unwrap().entry;
    assert_eq!((body(&found).as_str(), found.told()), ("a", Some(at(1))));
    assert!(found.age(Instant::now()) >= age, "time has not stood still for it");
}

#[actix_rt::test]
async fn restarted_without_its_scripts_and_its_connections() {
    let site = Site::new("shared-restarted");
    let instance = with_entry(site.redis.server.port()).await;
    for _ in 0..2 {
        site.redis.server.restart().unwrap();
        instance.recovers().await;
        instance.put(KEY, &entry(1, "a"), None).await;
        instance.recovers().await;
    }
}
