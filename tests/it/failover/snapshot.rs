//! A snapshot file that a regional origin has written.

use mainstay::local::wait_until;

use crate::coherence::fleet::{Fleet, Member};
use crate::support::PATIENCE;

const ONE: &str = "/public/items/1";

/// The file is somebody else's: it is read, and neither written nor removed, whatever is purged.
#[test]
fn a_snapshot_is_served_without_anything_else_and_stays_as_it_is() {
    let fleet = Fleet::new("failover_snapshot");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("snapshot");
    let path = file.to_str().unwrap();
    let plan = || fleet.plan().set("cache.snapshot_file", path).set("cache.snapshot_interval", "20ms");
    let origin = plan().start();
    origin.wait_hearing("stream");
    origin.wait_for("a hit", ONE, |reply| reply.is_hit() && reply.ttl() > 0);
    drop(origin);
    assert!(wait_until(PATIENCE, || std::fs::metadata(&file).is_ok_and(|metadata| metadata.len() > 100)));
    let copy = dir.path().join("copy");
    std::fs::copy(&file, &copy).unwrap();
    let before = std::fs::read(&copy).unwrap();
    let alone = || {
        let plan = plan().set("MODE", "failover").set("DATABASE_URL", "").set("DATABASE_READ_REPLICA_URL", "");
        plan.set("REDIS_URL", "").set("cache.snapshot_file", copy.to_str().unwrap())
    };
    let failover = alone().start();
    let reply = failover.get(ONE);
    assert_eq!((reply.status, reply.header("age")), (200, None), "{reply:?}");
    assert!(reply.ttl() < 0 && reply.cache().ends_with("detail=failover"), "nobody says that it is current: {reply:?}");
    failover.admin("POST", "/admin/cache/purge", r#"{"tags":["items:1"],"mode":"hard"}"#);
    assert_eq!(failover.get(ONE).status, 503);
    drop(failover);
    // A Redis that is not there takes nothing away.
    let lonely = alone().set("REDIS_URL", "redis://127.0.0.1:1").set("redis.timeout", "60ms").start();
    assert_eq!(lonely.get(ONE).status, 200);
    let refuses = alone().set("cache.past_hard_purge_max_silence", "refuse").start();
    assert_eq!(refuses.get(ONE).status, 503, "it may have been purged since, and nobody says whether");
    assert_eq!(std::fs::read(&copy).unwrap(), before);
}
