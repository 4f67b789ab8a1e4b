//! Who publishes.

use std::thread::sleep;
use std::time::{Duration, Instant};

use mainstay::local::wait_until;

use super::fleet::{Fleet, Member, assert_only};
use crate::support::PATIENCE;

const ITEM: &str = "/public/items/1";

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

/// In the database each region has a cursor of its own. Who leads for the first time in his region has heard from the stream
/// how far the fleet was told; and what another region's leader told since he led himself, he need not tell again. A gap would
/// cost more than fills: until purges for good are known again, nothing that was kept may be served.
#[test]
fn a_leader_of_another_region_goes_on_where_the_last_one_was() {
    let fleet = Fleet::new("leader-abroad");
    let of = |region: &str| fleet.plan().set("REGION", region).start();
    let first = of("region-a");
    assert!(wait_until(PATIENCE, || first.leads()));
    let second = of("region-b");
    let told = fleet.listener("told_abroad").start();
    [&second, &told].iter().for_each(|instance| instance.wait_hearing("stream"));
    let before = told.changes("stream");
    fleet.set(1, 1);
    told.wait_change("stream", before);
    assert_only(&told, ITEM, 1);

    let gaps = told.gaps();
    drop(first);
    fleet.set(1, 2);
    assert!(wait_until(PATIENCE, || second.leads()));
    told.wait_told(&fleet);
    assert_only(&told, ITEM, 2);
    // And back again, to a region whose cursor is one of long ago.
    let third = of("region-a");
    third.wait_hearing("stream");
    drop(second);
    fleet.set(1, 3);
    assert!(wait_until(PATIENCE, || third.leads()));
    told.wait_told(&fleet);
    assert_only(&told, ITEM, 3);
    assert_eq!(told.gaps(), gaps, "nothing was missed");
}
