//! A writer that does not wait for the disk, on a server that is in no hurry to write.
//!
//! A read by a session token, which the same trap awaits, is not in this version.

use super::fleet::{Claim, Fleet, Member};
use crate::support::{Cluster, PATIENCE};
use mainstay::local::wait_until;

const ITEM: &str = "/public/items/1";

/// What is visible is not yet on the log, and a position of the log is no fence of it. The fence that purges it has to bring it
/// there: then a replica that has replayed just that far, and nothing after it, has the new row.
#[test]
fn a_replica_at_the_fence_of_an_unflushed_commit_has_it() {
    let cluster = Cluster::with("unflushed", |options| options.setting("wal_writer_delay", "10s"));
    let fleet = Fleet::with("unflushed", cluster);
    // Nothing but what is tested here writes to the log meanwhile.
    let instance = fleet.plan().set("changes.heartbeat_interval", "20s").start();
    assert!(wait_until(PATIENCE, || instance.leads()));
    let reply = instance.wait_for("a fresh hit", ITEM, |reply| reply.is_hit() && reply.claims_fresh());
    assert_eq!(reply.value(), 0);
    fleet.catch_up();

    let _paused = fleet.hold_cursors();
    let unflushed = "SELECT pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn()";
    let mut writer = fleet.session();
    writer
        .batch_execute(
            "CREATE TABLE unwatched (id integer); SET synchronous_commit = off; INSERT INTO unwatched VALUES (1)",
        )
        .unwrap();
    assert_eq!(fleet.sql(unflushed), "t", "this server flushes by itself, so the test proves nothing");
    let before = instance.changes("stream");
    writer.batch_execute("UPDATE items SET value = 1 WHERE id = 1").unwrap();
    instance.wait_change("stream", before);
    fleet.catch_up();
    let flushed = fleet.sql("SELECT pg_current_wal_flush_lsn()");
    let reply = instance.get(ITEM);
    assert_eq!((reply.value(), reply.cache()), (1, "fwd=stale; stored; detail=replica"));
    let entry = instance.admin("GET", &format!("/admin/cache/entry?path={ITEM}"), "");
    assert_eq!(entry["standing"], "current", "{entry}");
    assert_eq!(fleet.sql("SELECT pg_current_wal_flush_lsn()"), flushed, "something else has flushed it");
    assert!(instance.get(ITEM).is_hit());
}
