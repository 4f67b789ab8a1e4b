//! What is soaked: a primary, two replicas, Redis, and three processes of the real binary.

use std::path::PathBuf;
use std::sync::Mutex;

use mainstay::local::{Postgres, PostgresOptions, Redis, RedisOptions, ReplicaOptions, Scratch, Signal};

use crate::history::KEYS;
use crate::support::{Folder, Origin, get, mainstay};

pub const INSTANCES: usize = 3;

const ROUTES: &str = r#"
[[route]]
path = "/public/counters/{id}"
result = "row"
sql = "SELECT value FROM counters WHERE id = $1"
params = [{ name = "id", in = "path", type = "integer" }]
[route.cache]
ttl = "1h"
stale_while_revalidate = "1h"
stale_if_error = "1d"
tags = ["counters:{id}"]
watch = [{ table = "counters", tag = "counters:{id}" }]
"#;

pub struct Fleet {
    instances: [Mutex<Member>; INSTANCES],
    pub replicas: [Postgres; 2],
    pub primary: Postgres,
    pub redis: Redis,
    /// What Redis loads when it starts.
    pub dump: PathBuf,
    folder: Folder,
    _scratch: Scratch,
}

/// An instance, or the place of one.
struct Member {
    life: usize,
    /// Where it is, or was.
    base: String,
    origin: Option<Origin>,
}

impl Fleet {
    pub fn start() -> Self {
        let scratch = Scratch::new("soak").unwrap();
        let options = PostgresOptions::new(scratch.join("primary"))
            .setting("fsync", "off")
            .setting("shared_buffers", "16MB")
            .setting("wal_retrieve_retry_interval", "100ms");
        let primary = Postgres::primary(options).unwrap();
        let table = format!(
            "CREATE TABLE counters (id integer PRIMARY KEY, value bigint NOT NULL); \
             INSERT INTO counters SELECT id, 0 FROM generate_series(0, {}) AS id",
            KEYS - 1
        );
        primary.psql("postgres", &table).unwrap();
        let folder = Folder::new(ROUTES);
        let migrated = mainstay(&["migrate", "--config", folder.text()], &[("DATABASE_URL", &url(&primary))]);
        assert_eq!(migrated.code, Some(0), "{migrated:?}");
        let replicas =
            ["first", "second"].map(|name| primary.replica(ReplicaOptions::new(scratch.join(name))).unwrap());
        let redis = Redis::start(&RedisOptions::new(scratch.join("redis"))).unwrap();
        let redis = redis.expect("redis-server is installed");
        let dir = "return redis.call('CONFIG', 'GET', 'dir')[2]";
        let dump = PathBuf::from(redis.command(&["EVAL", dir, "0"]).unwrap()).join("dump.rdb");
        let instances = [(); INSTANCES].map(|()| Mutex::new(Member { life: 0, base: String::new(), origin: None }));
        let fleet = Self { instances, replicas, primary, redis, dump, folder, _scratch: scratch };
        (0..INSTANCES).for_each(|instance| fleet.bring_back(instance));
        fleet
    }

    pub fn primary_url(&self) -> String {
        url(&self.primary)
    }

    /// Which life an instance is in, and where it is.
    pub fn base(&self, instance: usize) -> (usize, String) {
        let member = self.instances[instance].lock().unwrap();
        (member.life, member.base.clone())
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
        *member = Member { life: member.life + 1, base: origin.base.clone(), origin: Some(origin) };
    }

    /// The sum of a metric over all instances as they live now.
    fn sum(&self, metric: &str) -> f64 {
        let of = |member: &Mutex<Member>| -> f64 {
            let member = member.lock().unwrap();
            let Some(origin) = &member.origin else { return 0.0 };
            let metrics = get(&format!("{}/metrics", origin.admin)).body;
            let values =
                metrics.lines().filter(|line| line.starts_with(metric)).filter_map(|line| line.rsplit(' ').next());
            values.map(|value| value.parse::<f64>().unwrap()).sum()
        };
        self.instances.iter().map(of).sum()
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

fn url(postgres: &Postgres) -> String {
    postgres.url("postgres", "postgres")
}
