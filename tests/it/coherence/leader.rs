//! Who publishes.

use std::thread::sleep;
use std::time::{Duration, Instant};

use mainstay::local::wait_until;

use super::fleet::{Fleet, Member, TAKEOVER_TIME};
use crate::support::PATIENCE;

/// Changes that come more often than heartbeats are due leave out neither the heartbeat nor the lease that goes with it. Else a
/// second publisher stays beside the first for as long as there are changes, and each message is a gap to those who hear both.
#[test]
fn one_publishes_however_often_there_are_changes() {
    let fleet = Fleet::new("leader");
    let instances: [_; 2] = fleet.start_all();
    let mut writer = fleet.session();
    let mut change = || writer.execute("UPDATE items SET value = value + 1 WHERE id = 1", &[]).unwrap();
    let began = Instant::now();
    while began.elapsed() < TAKEOVER_TIME {
        change();
        sleep(Duration::from_millis(20));
    }
    let one_leads = || {
        change();
        instances.iter().filter(|instance| instance.leads()).count() == 1
    };
    assert!(wait_until(PATIENCE, one_leads), "both publish");
}
