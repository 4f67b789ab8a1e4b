//! A whole site: two regional origins and a failover origin as real processes, and a proxy before each server that they use.

use std::sync::Mutex;

use mainstay::local::{Proxy, Signal};

use crate::ground::{Ground, ROUTES};
use crate::support::{Origin, get};

/// The origins: one a region, then the one that stands in for them.
pub const ORIGINS: usize = 3;
pub const REGIONS: usize = 2;
pub const FAILOVER: usize = 2;

/// Keys without number, each read once.
const NEW: &str = r#"
[[route]]
path = "/public/new/{id}"
result = "row"
sql = "SELECT $1 AS id FROM counters WHERE id = 0"
params = [{ name = "id", in = "path", type = "integer" }]
[route.cache]
ttl = "1h"
watch = []
"#;

pub struct Site {
    places: [Mutex<Place>; ORIGINS],
    pub replicas: [Proxy; 2],
    pub primary: Proxy,
    pub redis: Proxy,
    pub ground: Ground,
}

/// Where an origin is, or was.
struct Place {
    life: usize,
    base: String,
    origin: Option<Origin>,
}

impl Site {
    pub fn start() -> Self {
        let ground = Ground::new("chaos", &format!("{ROUTES}{NEW}"));
        let before = |port: u16| Proxy::start(([127, 0, 0, 1], port).into()).unwrap();
        let replicas = ground.replicas.each_ref().map(|replica| before(replica.server.port()));
        let (primary, redis) = (before(ground.primary.server.port()), before(ground.redis.server.port()));
        let places = [(); ORIGINS].map(|()| Mutex::new(Place { life: 0, base: String::new(), origin: None }));
        let site = Self { places, replicas, primary, redis, ground };
        (0..ORIGINS).for_each(|origin| site.bring_back(origin));
        site
    }

    /// Which life an origin is in, and where it is or was.
    pub fn place(&self, origin: usize) -> (usize, String) {
        let place = self.places[origin].lock().unwrap();
        (place.life, place.base.clone())
    }

    pub fn signal(&self, origin: usize, signal: Signal) {
        let place = self.places[origin].lock().unwrap();
        place.origin.as_ref().expect("it lives").program.signal(signal);
    }

    /// Ends an origin by a signal.
    pub fn end(&self, origin: usize, signal: Signal) {
        let origin = self.places[origin].lock().unwrap().origin.take();
        let mut origin = origin.expect("it lives");
        origin.program.signal(signal);
        origin.program.wait();
    }

    /// Starts an origin again.
    pub fn bring_back(&self, number: usize) {
        let postgres = |proxy: &Proxy| format!("postgres://postgres@{}/postgres", proxy.address());
        let (primary, replicas) = (postgres(&self.primary), self.replicas.each_ref().map(postgres).join(","));
        let redis = format!("redis://{}", self.redis.address());
        let common = [("REDIS_URL", redis.as_str()), ("LOG_FORMAT", "json"), ("MAINSTAY__SERVER__WORKERS", "2")];
        let regional = [
            ("REGION", ["region-a", "region-b"].get(number).copied().unwrap_or_default()),
            ("DATABASE_URL", &primary),
            ("DATABASE_READ_REPLICA_URL", &replicas),
            ("MAINSTAY__DATABASE__POOL_SIZE", "4"),
            ("MAINSTAY__CACHE__AUDIT_ONE_IN", "100"),
            ("MAINSTAY__CACHE__AUDIT_PER_SECOND_MAX", "5"),
        ];
        let failover = [("MODE", "failover"), ("FAILOVER_SOURCE", "cache-only")];
        let own: &[(&str, &str)] = if number == FAILOVER { &failover } else { &regional };
        let origin = Origin::start(self.ground.folder.path(), &[&common, own].concat());
        let mut place = self.places[number].lock().unwrap();
        *place = Place { life: place.life + 1, base: origin.base.clone(), origin: Some(origin) };
    }

    /// Answers that the origins found to be wrong by themselves, in the lives that they are in.
    pub fn audits_wrong(&self) -> f64 {
        let of = |place: &Mutex<Place>| -> f64 {
            let place = place.lock().unwrap();
            let Some(origin) = &place.origin else { return 0.0 };
            let metrics = get(&format!("{}/metrics", origin.admin)).body;
            let lines = metrics.lines().filter(|line| line.starts_with("mainstay_audit_wrong_total"));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        self.places.iter().map(of).sum()
    }

    /// What an origin has said so far, for when it matters.
    pub fn log(&self, origin: usize) -> String {
        let place = self.places[origin].lock().unwrap();
        place.origin.as_ref().map(|origin| origin.program.output()).unwrap_or_default()
    }
}
