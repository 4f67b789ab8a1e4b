//! What happens to a fleet.

use std::thread::sleep;
use std::time::Duration;

use mainstay::local::Signal;

use crate::fleet::{Fleet, INSTANCES};

#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    ReplayPaused,
    ReplicaKilled,
    RedisFrozen,
    RedisRestartedEmpty,
    RedisRestartedOld,
    InstanceKilled,
    InstanceStopped,
}

impl Trouble {
    pub const ALL: [Self; 7] = [
        Self::ReplayPaused,
        Self::ReplicaKilled,
        Self::RedisFrozen,
        Self::RedisRestartedEmpty,
        Self::RedisRestartedOld,
        Self::InstanceKilled,
        Self::InstanceStopped,
    ];

    /// Makes it, for so long, and mends it.
    pub fn make(self, fleet: &Fleet, time: Duration, random: &mut fastrand::Rng) {
        let replica = &fleet.replicas[random.usize(0..fleet.replicas.len())];
        let instance = random.usize(0..INSTANCES);
        let redis = &fleet.redis.server;
        match self {
            Self::ReplayPaused => {
                replica.psql("postgres", "SELECT pg_wal_replay_pause()").unwrap();
                sleep(time);
                replica.psql("postgres", "SELECT pg_wal_replay_resume()").unwrap();
            }
            Self::ReplicaKilled => {
                replica.server.kill9();
                sleep(time);
                replica.server.start().unwrap();
            }
            Self::RedisFrozen => {
                redis.suspend().unwrap();
                sleep(time);
                redis.resume().unwrap();
            }
            Self::RedisRestartedEmpty => {
                redis.kill9();
                let _there_may_be_none = std::fs::remove_file(&fleet.dump);
                sleep(time);
                redis.start().unwrap();
            }
            Self::RedisRestartedOld => {
                fleet.redis.command(&["SAVE"]).unwrap();
                sleep(time);
                redis.kill9();
                redis.start().unwrap();
            }
            Self::InstanceKilled => self.restart(fleet, instance, Signal::KILL, time),
            Self::InstanceStopped => self.restart(fleet, instance, Signal::TERM, time),
        }
    }

    fn restart(self, fleet: &Fleet, instance: usize, signal: Signal, time: Duration) {
        fleet.end(instance, signal);
        sleep(time);
        fleet.bring_back(instance);
    }
}
