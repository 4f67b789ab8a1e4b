//! The bound of L1.

use mainstay::Answer;

use crate::instance::Plan;
use crate::instance::probe::Probe;

const ROUTES: &str = r#"
[[route]]
path = "/public/page"
handler = "probe"
params = [{ name = "q", in = "query", type = "integer" }]
"#;

#[test]
fn memory_stays_within_its_bytes_and_counts_what_it_holds() {
    const BOUND: f64 = 1_000_000.0;
    let probe = Probe::answering(|_, _| Ok(Answer::json_bytes(vec![b'1'; 10_000])));
    let plan = Plan::probed(ROUTES, &probe).set("cache.memory_bytes_max", "1000000");
    let instance = plan.set("cache.compress_bytes_min", "100000").start();
    let mut connection = instance.connect();
    for key in 0..50 {
        connection.request("GET", &format!("/public/page?q={key}"), &[]);
    }
    let (entries, bytes) = (instance.metric("mainstay_cache_entries"), instance.metric("mainstay_cache_bytes"));
    assert_eq!(entries, 50.0, "all of them fit");
    let each = bytes / entries;
    assert!((10_000.0..11_000.0).contains(&each), "{each} bytes for a body of 10,000");
    for key in 50..1_000 {
        connection.request("GET", &format!("/public/page?q={key}"), &[]);
        if key % 100 == 0 {
            assert!(instance.metric("mainstay_cache_bytes") <= BOUND);
        }
    }
    let entries = instance.metric("mainstay_cache_entries");
    assert!((80.0..=100.0).contains(&entries), "{entries} entries of 10,000 bytes in {BOUND}");
    assert_eq!(probe.calls(), 1_000);
}

#[test]
fn what_is_larger_than_all_memory_is_answered_and_not_kept() {
    let probe = Probe::answering(|_, _| Ok(Answer::json_bytes(vec![b'1'; 10_000])));
    let plan = Plan::probed(ROUTES, &probe).set("cache.memory_bytes_max", "5000");
    let instance = plan.set("cache.compress_bytes_min", "100000").start();
    for _ in 0..3 {
        assert_eq!(instance.get("/public/page?q=1").body.len(), 10_000);
    }
    assert_eq!(instance.metric("mainstay_cache_entries"), 0.0);
}

/// Entries that are of no use any more leave without anybody asking for them.
#[test]
fn what_expired_for_good_leaves() {
    let routes = ROUTES.to_owned() + "[route.cache]\nttl = \"100ms\"\n";
    let probe = Probe::default();
    let instance = Plan::probed(&routes, &probe).start();
    for key in 0..20 {
        instance.get(&format!("/public/page?q={key}"));
    }
    let is_empty = || instance.metric("mainstay_cache_entries") == 0.0;
    assert!(mainstay::local::wait_until(crate::support::PATIENCE, is_empty), "entries stay");
}
