//! What happens to a site.

use std::time::Duration;

use mainstay::local::{Proxy, ProxyMode, Server, Signal};

use crate::site::{FAILOVER, Site};

/// How a network fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Cut,
    Reset,
    BlackHole,
    Delay,
    Throttle,
}

/// Which servers it fails before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Replica(usize),
    Replicas,
    Primary,
    Databases,
    Redis,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    Network(Part, How),
    ReplayPaused(usize),
    ReplicaFrozen(usize),
    ReplicaKilled(usize),
    PrimaryKilled,
    RedisFrozen,
    RedisKilled,
    RedisOld,
    OriginFrozen(usize),
    OriginKilled(usize),
    OriginRestarted(usize),
    FailoverKilled,
}

/// What takes a store of cached answers away. Of each two of these, one alone at a time: else nothing may be left that could
/// answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Store {
    Database,
    Redis,
    Origin,
}

impl Trouble {
    /// All there is, in an order of its own.
    pub fn shuffled(random: &mut fastrand::Rng) -> Vec<Self> {
        use Part::{Databases, Primary, Redis, Replica, Replicas};
        let hows = [How::Cut, How::Reset, How::BlackHole, How::Delay, How::Throttle];
        let parts = [Replica(random.usize(0..2)), Replicas, Primary, Databases, Redis];
        let mut all: Vec<Self> = parts.into_iter().flat_map(|part| hows.map(|how| Self::Network(part, how))).collect();
        let mut one = || random.usize(0..2);
        all.extend([
            Self::ReplayPaused(one()),
            Self::ReplicaFrozen(one()),
            Self::ReplicaKilled(one()),
            Self::PrimaryKilled,
            Self::RedisFrozen,
            Self::RedisKilled,
            Self::RedisOld,
            Self::OriginFrozen(one()),
            Self::OriginKilled(one()),
            Self::OriginRestarted(one()),
            Self::FailoverKilled,
        ]);
        random.shuffle(&mut all);
        all
    }

    /// The name without its numbers, by which the summary adds up.
    pub fn kind(self) -> String {
        let text = format!("{self:?}");
        text.replace("(0)", "").replace("(1)", "")
    }

    fn store(self) -> Store {
        match self {
            Self::Network(Part::Redis, _) | Self::RedisFrozen | Self::RedisKilled | Self::RedisOld => Store::Redis,
            Self::OriginFrozen(_) | Self::OriginKilled(_) | Self::OriginRestarted(_) | Self::FailoverKilled => {
                Store::Origin
            }
            _ => Store::Database,
        }
    }

    /// Whether two may happen at once, without leaving viewers with nothing that could answer what they read all the time.
    pub fn leaves_something_beside(self, other: Self) -> bool {
        match (self.store(), other.store()) {
            (Store::Database, Store::Database) => false,
            (Store::Database, _) | (_, Store::Database) => true,
            _ => false,
        }
    }

    /// Begins.
    pub fn begin(self, site: &Site) {
        match self {
            Self::Network(part, how) => site.proxies(part).into_iter().for_each(|proxy| how.begin(proxy)),
            Self::ReplayPaused(replica) => {
                site.ground.replicas[replica].psql("postgres", "SELECT pg_wal_replay_pause()").unwrap();
            }
            Self::ReplicaFrozen(replica) => site.replica(replica).suspend().unwrap(),
            Self::ReplicaKilled(replica) => site.replica(replica).kill9(),
            Self::PrimaryKilled => site.ground.primary.server.kill9(),
            Self::RedisFrozen => site.ground.redis.server.suspend().unwrap(),
            Self::RedisKilled => {
                site.ground.redis.server.kill9();
                let _there_may_be_none = std::fs::remove_file(&site.ground.dump);
            }
            Self::RedisOld => drop(site.ground.redis.command(&["SAVE"]).unwrap()),
            Self::OriginFrozen(origin) => site.signal(origin, Signal::STOP),
            Self::OriginKilled(origin) => site.end(origin, Signal::KILL),
            Self::OriginRestarted(origin) => site.end(origin, Signal::TERM),
            Self::FailoverKilled => site.end(FAILOVER, Signal::KILL),
        }
    }

    /// Is over.
    pub fn end(self, site: &Site) {
        match self {
            Self::Network(part, _) => site.proxies(part).into_iter().for_each(mend),
            Self::ReplayPaused(replica) => {
                site.ground.replicas[replica].psql("postgres", "SELECT pg_wal_replay_resume()").unwrap();
            }
            Self::ReplicaFrozen(replica) => site.replica(replica).resume().unwrap(),
            Self::ReplicaKilled(replica) => site.replica(replica).start().unwrap(),
            Self::PrimaryKilled => site.ground.primary.server.start().unwrap(),
            Self::RedisFrozen => site.ground.redis.server.resume().unwrap(),
            Self::RedisKilled => site.ground.redis.server.start().unwrap(),
            // It comes back with what it had then.
            Self::RedisOld => {
                site.ground.redis.server.kill9();
                site.ground.redis.server.start().unwrap();
            }
            Self::OriginFrozen(origin) => site.signal(origin, Signal::CONT),
            Self::OriginKilled(origin) | Self::OriginRestarted(origin) => site.bring_back(origin),
            Self::FailoverKilled => site.bring_back(FAILOVER),
        }
    }
}

impl How {
    fn begin(self, proxy: &Proxy) {
        match self {
            Self::Cut => {
                proxy.set_mode(ProxyMode::Refuse);
                proxy.cut();
            }
            Self::Reset => {
                proxy.set_mode(ProxyMode::Reset);
                proxy.reset();
            }
            Self::BlackHole => proxy.set_mode(ProxyMode::BlackHole),
            Self::Delay => proxy.set_delay(Duration::from_millis(400)),
            Self::Throttle => proxy.set_throttle(Some(200)),
        }
    }
}

fn mend(proxy: &Proxy) {
    proxy.set_mode(ProxyMode::Pass);
    proxy.set_delay(Duration::ZERO);
    proxy.set_throttle(None);
}

impl Site {
    fn replica(&self, number: usize) -> &Server {
        &self.ground.replicas[number].server
    }

    fn proxies(&self, part: Part) -> Vec<&Proxy> {
        let [first, second] = &self.replicas;
        match part {
            Part::Replica(number) => vec![&self.replicas[number]],
            Part::Replicas => vec![first, second],
            Part::Primary => vec![&self.primary],
            Part::Databases => vec![&self.primary, first, second],
            Part::Redis => vec![&self.redis],
        }
    }
}
