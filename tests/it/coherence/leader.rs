//! Who publishes.

use std::thread::sleep;
use std::time::{Duration, Instant};

use mainstay::local::wait_until;

use super::fleet::Fleet;
use crate::support::PATIENCE;

/// Who holds the lease, and for how many milliseconds more.
const LEASE: &str =
    "return (redis.call('GET', KEYS[1]) or 'nobody') .. ' ' .. string.format('%d', redis.call('PTTL', KEYS[1]))";

/// Changes that come more often than heartbeats are due leave out neither the heartbeat nor the lease that goes with it. Else a
/// second publisher comes beside the first for as long as there are changes, and each message is a gap to those who hear both.
#[test]
fn the_lease_is_renewed_however_often_there_are_changes() {
    let fleet = Fleet::new("leader");
    let _publisher = fleet.start();
    let mut writer = fleet.session();
    let mut change = || {
        writer.execute("UPDATE items SET value = value + 1 WHERE id = 1", &[]).unwrap();
        sleep(Duration::from_millis(20));
    };
    // What was due before is over by then.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        change();
    }
    let (mut last_holder, mut least_ms) = (String::new(), 0);
    let is_renewed = || {
        change();
        let lease = fleet.redis.command(&["EVAL", LEASE, "1", "mainstay:bus:leader"]).unwrap();
        let (holder, left_ms) = lease.rsplit_once(' ').unwrap();
        let left_ms: i64 = left_ms.parse().unwrap();
        least_ms = if holder == last_holder { left_ms.min(least_ms) } else { left_ms };
        holder.clone_into(&mut last_holder);
        holder != "nobody" && left_ms > least_ms + 200
    };
    assert!(wait_until(PATIENCE, is_renewed), "the lease of {last_holder} is not renewed");
}
