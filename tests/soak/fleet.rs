//! What is soaked: a primary, two replicas, Redis, and three processes of the real binary.

use std::ops::Deref;
use std::sync::Mutex;

use mainstay::local::Signal;

use crate::ground::{Ground, ROUTES, url};
use crate::support::{Origin, get};

pub const INSTANCES: usize = 3;

pub struct Fleet {
    instances: [Mutex<Member>; INSTANCES],
    ground: Ground,
}

impl Deref for Fleet {
    type Target = Ground;

    fn deref(&self) -> &Ground {
        &self.ground
    }
}

/// An instance, or the place of one.
struct Member {
    life: usize,
    origin: Option<Origin>,
}

impl Fleet {
    pub fn start() -> Self {
        let instances = [(); INSTANCES].map(|()| Mutex::new(Member { life: 0, origin: None }));
        let fleet = Self { instances, ground: Ground::new("soak", ROUTES) };
        (0..INSTANCES).for_each(|instance| fleet.bring_back(instance));
        fleet
    }

    pub fn primary_url(&self) -> String {
        url(&self.primary)
    }

    /// Which life an instance is in, and where it is; none while it is dead.
    pub fn base(&self, instance: usize) -> Option<(usize, String)> {
        let member = self.instances[instance].lock().unwrap();
        member.origin.as_ref().map(|origin| (member.life, origin.base.clone()))
    }

    /// Ends an instance by a signal.
    pub fn end(&self, instance: usize, signal: Signal) {
        let origin = self.instances[instance].lock().unwrap().origin.take();
        let mut origin = origin.expect("it lives");
        origin.program.signal(signal);
        origin.program.wait();
    }

    /// Starts an instance again.
    pub fn bring_back(&self, instance: usize) {
        let replicas = self.replicas.each_ref().map(url).join(",");
        let (primary, redis) = (url(&self.primary), self.redis.url());
        let env = [
            ("DATABASE_URL", primary.as_str()),
            ("DATABASE_READ_REPLICA_URL", &replicas),
            ("REDIS_URL", &redis),
            ("LOG_FORMAT", "json"),
            ("MAINSTAY__SERVER__WORKERS", "2"),
            ("MAINSTAY__DATABASE__POOL_SIZE", "4"),
            ("MAINSTAY__CACHE__AUDIT_ONE_IN", "100"),
            ("MAINSTAY__CACHE__AUDIT_PER_SECOND_MAX", "5"),
        ];
        let origin = Origin::start(self.folder.path(), &env);
        let mut member = self.instances[instance].lock().unwrap();
        *member = Member { life: member.life + 1, origin: Some(origin) };
    }

    /// The sum of a metric over all instances as they live now.
    fn sum(&self, metric: &str) -> f64 {
        let of = |member: &Mutex<Member>| -> f64 {
            let member = member.lock().unwrap();
            let Some(origin) = &member.origin else { return 0.0 };
            let metrics = get(&format!("{}/metrics", origin.admin)).body;
            let values =
                metrics.lines().filter(|line| line.starts_with(metric)).filter_map(|line| line.rsplit(' ').next());
            values.map(|value| value.parse::<f64>().unwrap()).fold(0.0, |sum, value| sum + value)
        };
        self.instances.iter().map(of).fold(0.0, |sum, value| sum + value)
    }

    /// Answers that the instances found to be wrong by themselves.
    pub fn audits_wrong(&self) -> f64 {
        self.sum("mainstay_audit_wrong_total")
    }

    /// What the instances say of themselves.
    pub fn report(&self) -> String {
        let metrics = ["mainstay_audit_checked_total", "mainstay_audit_wrong_total", "mainstay_bus_gaps_total"];
        metrics.map(|metric| format!("{metric} {}", self.sum(metric))).join(", ")
    }
}
