//! A writer that does not wait for the disk, on a server that is in no hurry to write.
//!
//! The same trap awaits reads by a session's token: `session/flush.rs` is about that.

use mainstay::local::wait_until;
use postgres::Client;

use super::fleet::{Claim, Fleet, Member};
use crate::instance::Instance;
use crate::support::{Cluster, PATIENCE};

const ITEM: &str = "/public/items/1";
const ROUNDS_MAX: i64 = 20;

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
    let before = instance.changes("stream");
    fleet.set(1, 0);
    instance.wait_change("stream", before);
    fleet.catch_up();

    let mut writer = fleet.session();
    writer.batch_execute("CREATE TABLE unwatched (id integer)").unwrap();
    writer.batch_execute("SET synchronous_commit = off").unwrap();
    // The server may flush for reasons of its own. It need be quiet only once for the proof, and the answer is right each time.
    let was_quiet = (1..=ROUNDS_MAX).any(|value| round(&fleet, &instance, &mut writer, value));
    assert!(was_quiet, "this server flushes by itself all the time, so the test proves nothing");
}

/// One change. Says whether nothing but its fence flushed it, and nothing was flushed after that.
fn round(fleet: &Fleet, instance: &Instance, writer: &mut Client, value: i64) -> bool {
    // Who publishes has noted what it published last, and so need not write anything before it publishes this.
    let noted = "SELECT bool_and(pg_visible_in_snapshot(f.xid, c.cursor)) \
                 FROM mainstay.change_feed f, mainstay.cursors c WHERE c.reader LIKE 'fleet %'";
    fleet.wait_sql("the last change to be noted", noted);
    let _paused = fleet.hold_cursors();
    writer.batch_execute("INSERT INTO unwatched VALUES (1)").unwrap();
    let is_lazy = fleet.sql("SELECT pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn()") == "t";
    let before = instance.changes("stream");
    writer.batch_execute(&format!("UPDATE items SET value = {value} WHERE id = 1")).unwrap();
    instance.wait_change("stream", before);
    fleet.catch_up();
    let flushed = || fleet.sql("SELECT pg_current_wal_flush_lsn()");
    let at_fence = flushed();
    let reply = instance.get(ITEM);
    assert_eq!((reply.value(), reply.cache()), (value, "fwd=stale; stored; detail=replica"));
    let hit = instance.get(ITEM);
    assert!(hit.is_hit() && hit.claims_fresh() && hit.value() == value, "{hit:?}");
    is_lazy && flushed() == at_fence
}
