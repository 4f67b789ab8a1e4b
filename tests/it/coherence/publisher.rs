//! The publisher paused between its two writes.

use super::fleet::{Claim, Fleet, Member, assert_only};
use crate::support::PATIENCE;
use mainstay::local::wait_until;

const ITEM: &str = "/public/items/1";

/// What was published and not yet noted is told again later. Meanwhile one instance, which hears nothing any more, fills from
/// a replica that lags and shares what it got; nobody who was told takes that for current.
#[test]
fn what_a_deaf_instance_shares_is_current_to_nobody_who_was_told() {
    let fleet = Fleet::private("publisher");
    let publisher = fleet.start();
    assert!(wait_until(PATIENCE, || publisher.leads()));
    let told = fleet.start();
    let deaf = fleet.listener("deaf").start();
    deaf.wait_hearing("stream");
    // The first message of a fleet's life says that it knows nothing of what came before.
    let gaps = [&publisher, &told].map(|instance| instance.gaps());

    fleet.pause_replay();
    let paused = fleet.hold_cursors();
    fleet.deafen("deaf");
    let heard = deaf.changes("stream");
    let before = [publisher.changes("stream"), told.changes("stream")];
    fleet.set(1, 1);
    publisher.wait_change("stream", before[0]);
    told.wait_change("stream", before[1]);
    fleet.wait_sql(
        "the publisher at its second write",
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%mainstay.advance%'",
    );

    let old =
        deaf.wait_for("an answer of the replica", ITEM, |reply| reply.cache() == "fwd=miss; stored; detail=replica");
    assert_eq!(old.value(), 0, "it was told nothing, and may");
    assert_eq!(deaf.changes("stream"), heard);
    assert!(wait_until(PATIENCE, || fleet.shared_entries() > 0), "what it filled is shared");
    let new = told.get(ITEM);
    assert_eq!((new.value(), new.cache()), (1, "fwd=miss; stored; detail=primary"));
    assert_only(&publisher, ITEM, 1);
    // One that comes now finds what the deaf one shared, or what was filled since.
    let joined = fleet.join();
    assert_only(&joined, ITEM, 1);

    drop(paused);
    fleet.resume_replay();
    for instance in [&publisher, &told, &joined] {
        instance.wait_told(&fleet);
        assert_only(instance, ITEM, 1);
    }
    assert_eq!([&publisher, &told].map(|instance| instance.gaps()), gaps, "what is told twice is no gap");
}

/// It would tell of nothing, and all would believe that nothing has changed.
#[test]
fn who_may_not_follow_the_feed_does_not_lead() {
    let fleet = Fleet::new("blind");
    let blind = fleet.listener("blind").start();
    blind.wait_reaching();
    let reads_the_feed = fleet.start();
    blind.wait_hearing("stream");
    assert!(reads_the_feed.leads() && !blind.leads());
    assert_only(&blind, ITEM, 0);
    let before = blind.changes("stream");
    fleet.set(1, 1);
    blind.wait_change("stream", before);
    assert_only(&blind, ITEM, 1);
}

/// The fleet's cursor has gone, as it does after `changes.cursor_retention`, and with it the rows that it kept. Whoever leads next
/// cannot know what was committed, though it has heard what was published last.
#[test]
fn a_publisher_without_the_fleets_cursor_is_a_gap_for_all() {
    let fleet = Fleet::new("cursor-gone");
    let publisher = fleet.start();
    assert!(wait_until(PATIENCE, || publisher.leads()));
    let told = fleet.listener("told").start();
    told.wait_hearing("stream");
    let before = told.changes("stream");
    fleet.set(2, 1);
    told.wait_change("stream", before);
    assert_only(&told, ITEM, 0);

    fleet.redis.command(&["SET", "mainstay:bus:leader", "nobody"]).unwrap();
    assert!(wait_until(PATIENCE, || !publisher.leads()));
    fleet.sql("DELETE FROM mainstay.cursors WHERE reader LIKE 'fleet %'");
    fleet.set(1, 1);
    let prune = "SELECT mainstay.prune('1 day', '1 day') >= 0 AND NOT EXISTS (SELECT FROM mainstay.change_feed)";
    fleet.wait_sql("the rows to go", prune);
    let gaps = told.gaps();
    fleet.redis.command(&["DEL", "mainstay:bus:leader"]).unwrap();
    told.wait_told(&fleet);
    assert_only(&told, ITEM, 1);
    assert_eq!(told.gaps(), gaps + 1.0);
}

/// The same, while the rows are still there: what the last message of the stream shows was told, and the rest is to be told.
#[test]
fn a_publisher_without_the_fleets_cursor_goes_on_from_the_end_of_the_stream() {
    let fleet = Fleet::new("cursor-heard");
    let publisher = fleet.start();
    assert!(wait_until(PATIENCE, || publisher.leads()));
    let told = fleet.listener("told_end").start();
    told.wait_hearing("stream");
    assert_only(&told, ITEM, 0);

    let gaps = told.gaps();
    fleet.redis.command(&["SET", "mainstay:bus:leader", "nobody"]).unwrap();
    assert!(wait_until(PATIENCE, || !publisher.leads()));
    fleet.sql("DELETE FROM mainstay.cursors WHERE reader LIKE 'fleet %'");
    fleet.set(1, 1);
    fleet.redis.command(&["DEL", "mainstay:bus:leader"]).unwrap();
    told.wait_told(&fleet);
    assert_only(&told, ITEM, 1);
    assert_eq!(told.gaps(), gaps);
}

/// Else the lease ends between two heartbeats, and a second one leads beside the first.
#[test]
fn the_lease_outlives_the_time_between_two_heartbeats() {
    let fleet = Fleet::new("slow-beat");
    let publisher = fleet.plan().set("changes.heartbeat_interval", "10s").start();
    assert!(wait_until(PATIENCE, || publisher.leads()));
    let left_ms: i64 = fleet.redis.command(&["PTTL", "mainstay:bus:leader"]).unwrap().parse().unwrap();
    assert!(left_ms > 10_000, "{left_ms}");
}
