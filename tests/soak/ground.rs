//! What origins stand on: a primary, two replicas that stream from it, Redis, and a configuration with counters to read.

use std::path::PathBuf;

use mainstay::local::{Postgres, PostgresOptions, Redis, RedisOptions, ReplicaOptions, Scratch};

use crate::history::KEYS;
use crate::support::{Folder, mainstay};

pub const ROUTES: &str = r#"
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

pub struct Ground {
    pub replicas: [Postgres; 2],
    pub primary: Postgres,
    pub redis: Redis,
    /// What Redis loads when it starts.
    pub dump: PathBuf,
    pub folder: Folder,
    _scratch: Scratch,
}

impl Ground {
    /// With these routes, and all that they watch.
    pub fn new(name: &str, routes: &str) -> Self {
        let scratch = Scratch::new(name).unwrap();
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
        let folder = Folder::new(routes);
        let migrated = mainstay(&["migrate", "--config", folder.text()], &[("DATABASE_URL", &url(&primary))]);
        assert_eq!(migrated.code, Some(0), "{migrated:?}");
        let replicas =
            ["first", "second"].map(|name| primary.replica(ReplicaOptions::new(scratch.join(name))).unwrap());
        let redis = Redis::start(&RedisOptions::new(scratch.join("redis"))).unwrap();
        let redis = redis.expect("redis-server is installed");
        let dump = redis.server.log().with_file_name("dump.rdb");
        Self { replicas, primary, redis, dump, folder, _scratch: scratch }
    }
}

pub fn url(postgres: &Postgres) -> String {
    postgres.url("postgres", "postgres")
}

/// A number of the environment.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}
