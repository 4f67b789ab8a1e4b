//! What a session has written it reads, whoever answers.

mod account;
mod branches;
mod flush;
mod proof;
mod reads;
mod tokens;
mod writes;

use std::ops::Deref;
use std::time::Duration;

use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Integer};
use diesel_async::RunQueryDsl;
use mainstay::local::wait_until;
use mainstay::{Abort, Answer, Call, Code, Error};
use serde_json::json;

use crate::instance::client::Reply;
use crate::instance::{Instance, Plan};
use crate::support::{Cluster, PATIENCE};

pub const SECRET: &str = "a secret of sixteen or more";
pub const COOKIE: &str = "mainstay_ct";

/// One table, written by a handler, and read in all the ways there are.
const ROUTES: &str = r#"
[[route]]
path = "/notes/{id}"
methods = ["PUT"]
handler = "put"
params = [
  { name = "id", in = "path", type = "integer" },
  { name = "value", in = "query", type = "integer" },
  { name = "then", in = "query", type = "text", default = "" },
]

[[route]]
path = "/notes/{id}"
result = "row"
consistency = "session"
sql = "SELECT value FROM notes WHERE id = $1"
params = [{ name = "id", in = "path", type = "integer" }]

[[route]]
path = "/handled/{id}"
handler = "get"
consistency = "session"
params = [{ name = "id", in = "path", type = "integer" }]

[[route]]
path = "/eventual/{id}"
result = "row"
sql = "SELECT value FROM notes WHERE id = $1"
params = [{ name = "id", in = "path", type = "integer" }]

[[route]]
path = "/slow"
result = "row"
consistency = "strong"
sql = "SELECT 1 AS value FROM pg_sleep(1)"

[[route]]
path = "/writing/{id}"
handler = "put"
params = [{ name = "id", in = "path", type = "integer" }, { name = "value", in = "query", type = "integer", default = 1 }]
"#;

const TABLE: &str = "CREATE TABLE notes (id int PRIMARY KEY, value bigint NOT NULL);
    INSERT INTO notes SELECT id, 0 FROM generate_series(1, 100) AS id";

#[derive(QueryableByName)]
struct Value {
    #[diesel(sql_type = BigInt)]
    value: i64,
}

fn number(call: &Call, name: &str) -> i64 {
    call.params.text(name).unwrap().parse().unwrap()
}

/// Writes a note, and answers as `then` says.
async fn put(call: Call) -> Result<Answer, Error> {
    let (id, value) = (number(&call, "id"), number(&call, "value"));
    let then = call.params.text("then").unwrap_or_default().to_owned();
    let written = call.write(async |conn| {
        let rows = diesel::sql_query("UPDATE notes SET value = $1 WHERE id = $2")
            .bind::<BigInt, _>(value)
            .bind::<Integer, _>(i32::try_from(id).unwrap())
            .execute(conn)
            .await?;
        match &*then {
            "refuse" => Err(Abort::from(Error::new(Code::BodyInvalid, "no"))),
            "sleep" => {
                diesel::sql_query("SELECT pg_sleep(1)").execute(conn).await?;
                Ok(rows)
            }
            _ => Ok(rows),
        }
    });
    let rows = written.await?;
    if then == "fail" {
        return Err(Error::new(Code::QueryFailed, "after the commit"));
    }
    Answer::json(&json!({ "rows": rows }))
}

async fn get(call: Call) -> Result<Answer, Error> {
    let sql = format!("SELECT value FROM notes WHERE id = {}", number(&call, "id"));
    let row = call.read(async |conn| diesel::sql_query(&sql).get_result::<Value>(conn).await).await?;
    Answer::json(&json!({ "value": row.value }))
}

/// A cluster and a database with notes in it.
pub struct Site {
    own: Option<Cluster>,
    pub database: String,
}

impl Deref for Site {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.own.as_ref().unwrap_or_else(|| Cluster::shared())
    }
}

impl Site {
    /// On the servers that all tests share.
    pub fn new() -> Self {
        Self::on(None)
    }

    /// On servers of its own, to be paused, promoted and stopped.
    pub fn private(name: &str) -> Self {
        Self::on(Some(Cluster::private(name)))
    }

    pub fn on(own: Option<Cluster>) -> Self {
        let mut site = Self { own, database: String::new() };
        site.database = site.deref().database();
        site.primary.psql(&site.database, TABLE).unwrap();
        site.catch_up();
        site
    }

    pub fn plan(&self) -> Plan {
        self.plan_with(ROUTES)
    }

    pub fn plan_with(&self, routes: &str) -> Plan {
        let plan = Plan::new(routes).handler("put", put).handler("get", get);
        // A replica that is held back stays eligible, however long the machine takes.
        plan.database(self, &self.database).set("TOKEN_SECRET", SECRET).set("replication.lag_max", "2m")
    }

    pub fn start(&self) -> Instance {
        started(self.plan())
    }

    pub fn pause(&self) {
        self.replica.psql("postgres", "SELECT pg_wal_replay_pause()").unwrap();
        let is_paused = || {
            let state = self.replica.psql("postgres", "SELECT pg_get_wal_replay_pause_state()").unwrap();
            state.trim() == "paused"
        };
        assert!(wait_until(PATIENCE, is_paused));
    }

    pub fn resume(&self) {
        self.replica.psql("postgres", "SELECT pg_wal_replay_resume()").unwrap();
        self.catch_up();
    }
}

/// An instance that reads from its replica by now.
pub fn started(plan: Plan) -> Instance {
    let instance = plan.start();
    instance.wait_healthy();
    instance
}

/// Writes a note, which must go well, and returns the token.
#[track_caller]
pub fn write(instance: &Instance, id: u32, value: i64) -> String {
    let reply = instance.request("PUT", &format!("/notes/{id}?value={value}"), &[]);
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.said("x-consistency-token").to_owned()
}

/// Reads with a token.
pub fn read(instance: &Instance, path: &str, token: &str) -> Reply {
    instance.get_with(path, &[("X-Consistency-Token", token)])
}

#[track_caller]
pub fn value(reply: &Reply) -> i64 {
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["value"].as_i64().unwrap()
}

/// The time since the epoch.
pub fn now() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap()
}

/// The reads that the primary has served.
pub fn primary_reads(instance: &Instance) -> f64 {
    instance.metric("mainstay_node_reads_total{node=\"primary\",outcome=\"served\"}")
}
