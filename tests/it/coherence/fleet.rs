//! A fleet in this process: a primary with a replica, a Redis, and instances on both.

use std::ops::Deref;
use std::time::Duration;

use mainstay::app::Parts;
use mainstay::config::auth::AccountReads;
use mainstay::database::changes::{install, schema};
use mainstay::database::maintenance::MaintenancePool;
use mainstay::local::{Postgres, Redis, RedisOptions, Scratch, wait_until};
use mainstay::position::Position;
use postgres::{Client, NoTls};
use serde_json::Value;

use crate::instance::client::{Connection, Reply};
use crate::instance::{Instance, Plan};
use crate::support::{Cluster, PATIENCE, settings};

/// The admin token of all instances.
pub const TOKEN: &str = "correct-horse";

/// One row, a list by a row's tag, a list of all, and the same held at [`GATE`] after its snapshot was taken.
pub const ROUTES: &str = r#"
[[route]]
path = "/public/items/{id}"
result = "row"
sql = "SELECT value FROM items WHERE id = $1"
params = [{ name = "id", in = "path", type = "integer" }]
[route.cache]
ttl = "1h"
stale_while_revalidate = "1h"
stale_if_error = "1d"
tags = ["items:{id}"]
watch = [{ table = "items", tag = "items:{id}" }]

[[route]]
path = "/public/items"
sql = "SELECT id, value FROM items ORDER BY id"
[route.cache]
ttl = "1h"
stale_while_revalidate = "1h"
stale_if_error = "1d"
watch = ["items"]

[[route]]
path = "/public/held/items/{id}"
result = "row"
sql = "SELECT value FROM items WHERE id = $1 AND (SELECT pg_advisory_xact_lock_shared(7)::text) IS NOT NULL"
params = [{ name = "id", in = "path", type = "integer" }]
[route.cache]
ttl = "1h"
tags = ["items:{id}"]
watch = [{ table = "items", tag = "items:{id}" }]

[[route]]
path = "/public/held/owners/{owner}"
sql = "SELECT id, value FROM items WHERE owner = $1 AND (SELECT pg_advisory_xact_lock_shared(7)::text) IS NOT NULL ORDER BY id"
params = [{ name = "owner", in = "path", type = "text" }]
[route.cache]
ttl = "1h"
tags = ["owners:{owner}"]
watch = [{ table = "items", tag = "owners:{owner}" }]
"#;

/// Ten rows of value 0, in two partitions.
const TABLE: &str = "CREATE TABLE items (id integer PRIMARY KEY, owner text NOT NULL, value bigint NOT NULL) PARTITION BY RANGE (id); \
    CREATE TABLE items_low PARTITION OF items FOR VALUES FROM (0) TO (100); \
    CREATE TABLE items_high PARTITION OF items FOR VALUES FROM (100) TO (200); \
    INSERT INTO items SELECT id, 'ann', 0 FROM generate_series(1, 10) AS id";

/// Whoever holds this lock exclusively holds the routes at `/public/held/`, once they have their snapshot.
pub const GATE: &str = "BEGIN; SELECT pg_advisory_xact_lock(7)";

/// Servers of a test's own, or those that all tests share.
enum Servers {
    Own(Box<Cluster>),
    Shared(&'static Cluster),
}

/// What a fleet stands on.
pub struct Fleet {
    servers: Servers,
    /// Its Redis, without persistence but what a test saves.
    pub redis: Redis,
    /// Its database, with [`ROUTES`]' table, migrated.
    pub database: String,
    _scratch: Scratch,
}

impl Deref for Fleet {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        match &self.servers {
            Servers::Own(cluster) => cluster,
            Servers::Shared(cluster) => cluster,
        }
    }
}

impl Fleet {
    /// A fleet on servers of its own, to be paused, promoted and stopped.
    pub fn private(name: &str) -> Self {
        Self::on(name, Servers::Own(Box::new(Cluster::private(name))))
    }

    /// As [`Fleet::private`], on a cluster with settings of its own.
    pub fn with(name: &str, cluster: Cluster) -> Self {
        Self::on(name, Servers::Own(Box::new(cluster)))
    }

    /// A fleet on the cluster that all tests share, with a Redis of its own.
    pub fn new(name: &str) -> Self {
        Self::on(name, Servers::Shared(Cluster::shared()))
    }

    fn on(name: &str, servers: Servers) -> Self {
        let scratch = Scratch::new(&format!("{name}-redis")).unwrap();
        let redis = Redis::start(&RedisOptions::new(scratch.join("redis"))).unwrap();
        let redis = redis.expect("redis-server is installed");
        let mut fleet = Self { servers, redis, database: String::new(), _scratch: scratch };
        fleet.database = fleet.deref().database();
        fleet.sql(TABLE);
        fleet.migrate(ROUTES);
        fleet
    }

    /// A plan for an instance that hears of changes by the stream alone, until [`Fleet::deafen`]: its role may not follow the
    /// feed.
    pub fn listener(&self, name: &str) -> Plan {
        self.listener_with(name, ROUTES)
    }

    /// As [`Fleet::listener`], with other routes.
    pub fn listener_with(&self, name: &str, routes: &str) -> Plan {
        self.sql(&format!("CREATE ROLE {name} LOGIN; GRANT SELECT ON items TO {name}"));
        self.redis.command(&["ACL", "SETUSER", name, "on", "nopass", "~*", "&*", "+@all"]).unwrap();
        self.catch_up();
        let url = format!("redis://{name}:any@127.0.0.1:{}", self.redis.server.port());
        self.plan_with(routes).database_as(self, name, &self.database).set("REDIS_URL", &url)
    }

    /// A listener reads nothing of the stream from here on: what it waits for is cut off, and what it asks next is refused.
    pub fn deafen(&self, name: &str) {
        self.redis.command(&["ACL", "SETUSER", name, "-xread"]).unwrap();
        self.redis.command(&["CLIENT", "KILL", "USER", name]).unwrap();
    }

    /// Ends [`Fleet::deafen`].
    pub fn hear_again(&self, name: &str) {
        self.redis.command(&["ACL", "SETUSER", name, "+xread"]).unwrap();
    }

    /// Entries in Redis.
    pub fn shared_entries(&self) -> usize {
        let count = "local count = 0 for _, key in ipairs(redis.call('KEYS', '*')) do \
                     if key:find(':{', 1, true) and not key:find(':lease:', 1, true) then count = count + 1 end end return count";
        self.redis.command(&["EVAL", count, "0"]).unwrap().parse().unwrap()
    }

    /// The name of the stream.
    pub fn stream(&self) -> String {
        let name = "for _, key in ipairs(redis.call('KEYS', '*:bus:stream:*')) do return key end";
        self.redis.command(&["EVAL", name, "0"]).unwrap()
    }

    /// Installs what routes watch, as `mainstay migrate` does.
    pub fn migrate(&self, routes: &str) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("routes.toml"), routes).unwrap();
        let manifest = Parts::default().manifest(dir.path(), AccountReads::Strong).unwrap();
        let settings = settings(&self.primary.url("postgres", &self.database), "", &[]);
        let mut conn = MaintenancePool::open(&settings.database).unwrap().get().unwrap();
        schema::migrate(&mut conn).unwrap();
        let plan = install::plan(&mut conn, &manifest.watches(), false).unwrap();
        install::apply(&mut conn, &plan).unwrap();
        drop(conn);
        self.catch_up();
    }

    /// What an instance of this fleet is started with. What stands in for staleness on a busy machine is put out of the way:
    /// a lagging replica stays eligible, and silence is not what keeps an old answer from being claimed as fresh.
    pub fn plan(&self) -> Plan {
        self.plan_with(ROUTES)
    }

    /// As [`Fleet::plan`], with other routes.
    pub fn plan_with(&self, routes: &str) -> Plan {
        Plan::new(routes)
            .database(self, &self.database)
            .set("REDIS_URL", &self.redis.url())
            .set("ADMIN_TOKEN", TOKEN)
            .set("replication.lag_max", "1h")
            .set("health.lag_max", "1h")
            .set("cache.max_silence", "1h")
            .set("redis.timeout", "2s")
            .set("redis.connect_timeout", "2s")
            .set("database.statement_timeout", "60s")
            .set("limits.request_timeout", "60s")
            .set("cache.audit_one_in", "0")
    }

    /// An instance that has begun and hears the stream.
    pub fn start(&self) -> Instance {
        let instance = self.plan().start();
        instance.wait_hearing("stream");
        instance
    }

    /// An instance that has just come, and may not have been told of anything yet.
    pub fn join(&self) -> Instance {
        let instance = self.plan().start();
        instance.wait_reaching();
        instance
    }

    /// So many of them.
    pub fn start_all<const N: usize>(&self) -> [Instance; N] {
        std::array::from_fn(|_| self.start())
    }

    /// Runs SQL on the primary.
    pub fn sql(&self, sql: &str) -> String {
        self.primary.psql(&self.database, sql).unwrap().trim_end().to_owned()
    }

    /// A session on the primary that stays.
    pub fn session(&self) -> Client {
        self.session_on(&self.primary)
    }

    /// A session on one of the servers that stays.
    pub fn session_on(&self, server: &Postgres) -> Client {
        Client::connect(&server.url("postgres", &self.database), NoTls).unwrap()
    }

    /// Holds the row of every reader's cursor, so that whoever has published waits before it notes that. Ends with the session.
    pub fn hold_cursors(&self) -> Client {
        let mut session = self.session();
        session.batch_execute("BEGIN; SELECT FROM mainstay.cursors FOR UPDATE").unwrap();
        session
    }

    /// Sets the value of a row.
    pub fn set(&self, id: u32, value: i64) {
        self.sql(&format!("UPDATE items SET value = {value} WHERE id = {id}"));
    }

    /// The replica replays nothing from here on.
    pub fn pause_replay(&self) {
        self.replica.psql("postgres", "SELECT pg_wal_replay_pause()").unwrap();
        let is_paused = || {
            let state = self.replica.psql("postgres", "SELECT pg_get_wal_replay_pause_state()").unwrap();
            state.trim() == "paused"
        };
        assert!(wait_until(PATIENCE, is_paused), "replay is not paused");
    }

    /// Ends [`Fleet::pause_replay`].
    pub fn resume_replay(&self) {
        self.replica.psql("postgres", "SELECT pg_wal_replay_resume()").unwrap();
    }

    /// Waits until SQL on the primary comes to `t`.
    pub fn wait_sql(&self, what: &str, sql: &str) {
        assert!(wait_until(PATIENCE, || self.sql(sql) == "t"), "waited in vain for {what}");
    }

    /// Waits until so many sessions wait at [`GATE`] on a server.
    pub fn wait_held(&self, server: &Postgres, count: usize) {
        let waiting = format!(
            "SELECT count(*) >= {count} FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        );
        let are_held = || server.psql(&self.database, &waiting).unwrap().trim() == "t";
        assert!(wait_until(PATIENCE, are_held), "{count} requests do not come to the gate");
    }
}

/// What tests of a fleet ask of an instance.
pub trait Member {
    /// Messages with tags that came from the stream, or from the feed.
    fn changes(&self, source: &str) -> f64;
    /// Waits until it has reached its databases.
    fn wait_reaching(&self);
    /// Waits until it is told by this source, and knows where it began.
    fn wait_hearing(&self, source: &str);
    /// Messages without tags.
    fn heartbeats(&self, source: &str) -> f64;
    /// Waits until it is on this timeline.
    fn wait_timeline(&self, timeline: u32);
    /// Waits until it has heard of one change more than `before`.
    fn wait_change(&self, source: &str, before: f64);
    /// Waits until it was told of all commits so far.
    fn wait_told(&self, fleet: &Fleet);
    /// Gaps that it has noticed.
    fn gaps(&self) -> f64;
    /// Whether it publishes.
    fn leads(&self) -> bool;
    /// A request to the admin listener.
    fn admin(&self, method: &str, target: &str, body: &str) -> Value;
}

impl Member for Instance {
    fn changes(&self, source: &str) -> f64 {
        self.metric(&format!("mainstay_bus_messages_total{{kind=\"change\",source=\"{source}\"}}"))
    }

    fn wait_reaching(&self) {
        let are_up = || {
            let status = self.admin("GET", "/admin/status", "");
            status["nodes"].as_array().unwrap().iter().all(|node| node["up"] == true)
        };
        assert!(wait_until(PATIENCE, are_up), "it does not reach its databases");
    }

    fn heartbeats(&self, source: &str) -> f64 {
        self.metric(&format!("mainstay_bus_messages_total{{kind=\"heartbeat\",source=\"{source}\"}}"))
    }

    fn wait_hearing(&self, source: &str) {
        self.wait_reaching();
        assert!(wait_until(PATIENCE, || self.heartbeats(source) > 0.0), "no heartbeat of the {source}");
        let status = || self.admin("GET", "/admin/status", "")["bus"]["caught_up"] == true;
        assert!(wait_until(PATIENCE, status), "it does not catch up");
    }

    fn wait_timeline(&self, timeline: u32) {
        let told =
            || -> Option<Position> { self.admin("GET", "/admin/status", "")["bus"]["told"].as_str()?.parse().ok() };
        let is_there = || told().is_some_and(|told| told.timeline.0 == timeline);
        assert!(wait_until(PATIENCE, is_there), "it is not on timeline {timeline}: {:?}", told());
    }

    fn wait_change(&self, source: &str, before: f64) {
        assert!(wait_until(PATIENCE, || self.changes(source) > before), "the {source} does not tell of the change");
    }

    fn wait_told(&self, fleet: &Fleet) {
        let fence = crate::support::fence(&fleet.primary, &fleet.database);
        let through =
            || -> Option<Position> { self.admin("GET", "/admin/status", "")["bus"]["through"].as_str()?.parse().ok() };
        let is_told = || through().is_some_and(|through| through >= fence);
        assert!(wait_until(PATIENCE, is_told), "it is not told through {fence}: {:?}", through());
    }

    fn gaps(&self) -> f64 {
        ["stream", "feed"]
            .iter()
            .map(|source| self.metric(&format!("mainstay_bus_gaps_total{{source=\"{source}\"}}")))
            .sum()
    }

    fn leads(&self) -> bool {
        self.metric("mainstay_bus_leading") == 1.0
    }

    fn admin(&self, method: &str, target: &str, body: &str) -> Value {
        let authorization = format!("Bearer {TOKEN}");
        let headers = [("Authorization", authorization.as_str())];
        let reply = Connection::open(self.admin).request_with_body(method, target, &headers, body.as_bytes());
        assert_eq!(reply.status, 200, "{target}: {reply:?}");
        reply.json()
    }
}

/// What a reply says about whether it is current.
pub trait Claim {
    /// Whether it claims to be: it is no hit that is marked stale.
    fn claims_fresh(&self) -> bool;
    /// The value of the one row.
    fn value(&self) -> i64;
}

impl Claim for Reply {
    fn claims_fresh(&self) -> bool {
        !self.is_hit() || self.ttl() >= 0
    }

    fn value(&self) -> i64 {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()["value"].as_i64().unwrap_or_else(|| panic!("no value: {self:?}"))
    }
}

/// Asks for a row again and again, for so long, and checks that what is claimed to be current has this value; until then it
/// may be marked stale. Ends at the first answer that is a fresh hit.
#[track_caller]
pub fn assert_only(instance: &Instance, target: &str, value: i64) -> Reply {
    let mut last = None;
    let came = wait_until(PATIENCE, || {
        let reply = instance.get(target);
        assert!(!reply.claims_fresh() || reply.value() == value, "not {value}: {reply:?}");
        let is_fresh_hit = reply.is_hit() && reply.claims_fresh();
        last = Some(reply);
        is_fresh_hit
    });
    let last = last.unwrap();
    assert!(came, "no fresh hit: {last:?}");
    last
}

/// How long a takeover may last: three seconds, and as long again on a busy machine.
pub const TAKEOVER_TIME: Duration = Duration::from_secs(6);
