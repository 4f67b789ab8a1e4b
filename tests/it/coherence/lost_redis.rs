//! Redis loses what it has acknowledged.

use mainstay::local::wait_until;

use super::fleet::{Fleet, Member, assert_only};
use crate::support::PATIENCE;

const ITEM: &str = "/public/items/1";

/// A fleet with the old value in Redis, saved to disk; then the new one everywhere.
fn changed_since_saved(name: &str) -> (Fleet, [crate::instance::Instance; 2]) {
    let fleet = Fleet::new(name);
    let instances: [_; 2] = fleet.start_all();
    for instance in &instances {
        assert_only(instance, ITEM, 0);
    }
    assert!(wait_until(PATIENCE, || fleet.shared_entries() > 0));
    fleet.redis.command(&["SAVE"]).unwrap();
    let before = instances.each_ref().map(|instance| instance.changes("stream"));
    fleet.set(1, 1);
    for (instance, before) in instances.iter().zip(before) {
        instance.wait_change("stream", before);
        assert_only(instance, ITEM, 1);
    }
    fleet.catch_up();
    (fleet, instances)
}

/// Whoever joins reads the old value in Redis, and a stream that never told of its change.
#[test]
fn an_old_dump_is_current_to_nobody() {
    let (fleet, instances) = changed_since_saved("old-dump");
    fleet.redis.server.kill9();
    fleet.redis.server.start().unwrap();
    let joined = fleet.join();
    assert_only(&joined, ITEM, 1);
    for instance in &instances {
        assert_only(instance, ITEM, 1);
    }
    // The log goes on where it was.
    let before = [&instances[0], &instances[1], &joined].map(|instance| instance.changes("stream"));
    fleet.set(1, 2);
    for (instance, before) in [&instances[0], &instances[1], &joined].into_iter().zip(before) {
        instance.wait_change("stream", before);
        assert_only(instance, ITEM, 2);
    }
}

/// Nobody is left who knew better than the dump.
#[test]
fn an_old_dump_is_current_to_nobody_even_when_all_have_gone() {
    let (fleet, instances) = changed_since_saved("old-dump-alone");
    drop(instances);
    fleet.redis.server.kill9();
    fleet.redis.server.start().unwrap();
    let joined: [_; 2] = [fleet.join(), fleet.join()];
    for instance in &joined {
        assert_only(instance, ITEM, 1);
    }
}

#[test]
fn a_flushed_redis_is_a_gap_and_no_more() {
    let (fleet, instances) = changed_since_saved("flushed");
    fleet.redis.command(&["FLUSHALL"]).unwrap();
    let joined = fleet.start();
    for instance in [&instances[0], &instances[1], &joined] {
        assert_only(instance, ITEM, 1);
    }
    let before = [&instances[0], &instances[1], &joined].map(|instance| instance.changes("stream"));
    fleet.set(1, 2);
    for (instance, before) in [&instances[0], &instances[1], &joined].into_iter().zip(before) {
        instance.wait_change("stream", before);
        assert_only(instance, ITEM, 2);
    }
}

/// The message of a change is trimmed before an instance that was away has read it.
#[test]
fn what_was_trimmed_is_a_gap() {
    let fleet = Fleet::new("trimmed");
    let instances: [_; 2] = fleet.start_all();
    let away = fleet.listener("away").start();
    away.wait_hearing("stream");
    assert_only(&away, ITEM, 0);
    fleet.deafen("away");
    let before = instances.each_ref().map(|instance| instance.changes("stream"));
    let (beats, changes) = (away.heartbeats("stream"), away.changes("stream"));
    fleet.set(1, 1);
    for (instance, before) in instances.iter().zip(before) {
        instance.wait_change("stream", before);
    }
    fleet.catch_up();
    fleet.redis.command(&["XTRIM", &fleet.stream(), "MAXLEN", "0"]).unwrap();
    assert_eq!((away.heartbeats("stream"), away.changes("stream")), (beats, changes));
    fleet.hear_again("away");
    assert!(wait_until(PATIENCE, || away.heartbeats("stream") > beats));
    assert_only(&away, ITEM, 1);
}

/// Whoever reads what it cannot read goes on after it, in place of asking for it again without a pause.
#[test]
fn an_entry_of_another_version_is_read_once() {
    let fleet = Fleet::new("other-version");
    let instance = fleet.start();
    // Past all that the publisher can say, so that nothing comes after it.
    fleet.redis.command(&["XADD", &fleet.stream(), "4294967295-1", "m", "{}"]).unwrap();
    let reads = || -> u64 {
        let stats = fleet.redis.command(&["INFO", "commandstats"]).unwrap();
        let calls = stats.split("cmdstat_xread:calls=").nth(1).unwrap();
        calls.split(',').next().unwrap().parse().unwrap()
    };
    assert!(wait_until(PATIENCE, || instance.heartbeats("feed") > 0.0), "it goes on by itself");
    let (before, beats) = (reads(), instance.heartbeats("feed"));
    assert!(wait_until(PATIENCE, || instance.heartbeats("feed") > beats));
    assert!(reads() - before < 20, "{} reads within a heartbeat", reads() - before);
}
