//! Policies on rows: what the database is told of the caller, and that nothing of it stays on a connection.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use diesel::sql_types::{Integer, Text};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use mainstay::{Answer, Call, Error};
use serde_json::json;

use super::people::Issuer;
use crate::database::pgbouncer::Pooler;
use crate::instance::{Instance, Plan};
use crate::support::Cluster;

const ROUTES: &str = r#"
[[route]]
path = "/mine"
sql = "SELECT owner, word FROM notes ORDER BY word"
auth = "jwt"

[[route]]
path = "/twice"
handler = "twice"
auth = "jwt"

[[route]]
path = "/notes"
methods = ["POST"]
handler = "note"
auth = "jwt"

[[route]]
path = "/shared"
sql = "SELECT owner, word FROM notes ORDER BY word"
auth = "jwt"
shared = true
[route.cache]
ttl = "1ms"

[[route]]
path = "/said"
result = "row"
sql = "SELECT coalesce(current_setting('app.owner', true), '') AS owner"
"#;

/// Each owner has a note, which the policy shows to nobody else.
fn notes(role: &str) -> String {
    format!(
        "CREATE TABLE notes (owner text NOT NULL, word text NOT NULL); \
         INSERT INTO notes SELECT name, 'of ' || name FROM unnest('{{alice,bob,carol}}'::text[]) AS name; \
         ALTER TABLE notes ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY own ON notes USING (owner = nullif(current_setting('app.owner', true), '')); \
         CREATE ROLE {role} LOGIN; GRANT SELECT, INSERT ON notes TO {role}"
    )
}

#[derive(QueryableByName)]
struct Word {
    #[diesel(sql_type = Text)]
    word: String,
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = Integer)]
    count: i32,
}

/// What two statements of one read see.
async fn twice(call: Call) -> Result<Answer, Error> {
    let (words, count) = call
        .read(async |conn| {
            let words: Vec<Word> = sql_query("SELECT word FROM notes ORDER BY word").load(conn).await?;
            let count: Count = sql_query("SELECT count(*)::integer AS count FROM notes").get_result(conn).await?;
            Ok((words, count.count))
        })
        .await?;
    let words: Vec<String> = words.into_iter().map(|row| row.word).collect();
    Answer::json(&json!({ "words": words, "count": count }))
}

/// Writes a note of the caller's, and one of another's where it is told to.
async fn note(call: Call) -> Result<Answer, Error> {
    let caller = call.caller.as_ref().unwrap();
    let owner = caller.header("x-owner").unwrap().to_owned();
    let rows = call.write(async |conn| {
        let insert = sql_query("INSERT INTO notes VALUES ($1, 'new')").bind::<Text, _>(&owner);
        Ok(insert.execute(conn).await?)
    });
    Answer::json(&json!({ "rows": rows.await? }))
}

struct Site {
    issuer: Issuer,
    instance: Instance,
}

/// An instance with one connection to each server, whose role owns nothing.
fn start() -> Site {
    let (cluster, issuer) = (Cluster::shared(), Issuer::new());
    let database = cluster.database();
    let role = format!("rows_{database}");
    cluster.primary.psql(&database, &notes(&role)).unwrap();
    cluster.catch_up();
    let plan = issuer.believed(Plan::new(ROUTES)).database_as(cluster, &role, &database);
    let plan = plan.set("database.pool_size", "1").set("database.write_pool_size", "1");
    let plan = plan.set("replication.lag_max", "1h").set("health.lag_max", "1h").set("database.wait_timeout", "30s");
    let instance = plan
        .set("auth.claims_settings", "app.owner=sub, app.word=word")
        .handler("twice", twice)
        .handler("note", note)
        .start();
    instance.wait_healthy();
    Site { issuer, instance }
}

#[test]
fn each_caller_sees_the_rows_that_a_policy_shows_them() {
    let Site { issuer, instance } = start();
    let get = |target: &str, who: &str| instance.get_with(target, &[("Authorization", &issuer.bearer(who, ""))]);
    for who in ["alice", "bob", "alice", "carol", "nobody"] {
        let own = if who == "nobody" { json!([]) } else { json!([{ "owner": who, "word": format!("of {who}") }]) };
        assert_eq!(get("/mine", who).json(), own, "{who}");
        let words = if who == "nobody" { vec![] } else { vec![format!("of {who}")] };
        assert_eq!(get("/twice", who).json(), json!({ "words": words, "count": words.len() }), "{who}");
        let strong = [("Authorization", issuer.bearer(who, "")), ("X-Consistency", "strong".to_owned())];
        let strong: Vec<_> = strong.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(instance.get_with("/mine", &strong).json(), own, "{who} on the primary");
        assert_eq!(get("/shared", who).json(), json!([]), "what is shared is read for nobody");
        assert_eq!(instance.get("/said").json(), json!({ "owner": "" }), "nothing is left on the connection");
    }
    let reply = instance.get_with("/mine", &[("Authorization", &issuer.claiming("alice", json!({ "word": "a\0b" })))]);
    assert_eq!((reply.status, reply.problem().as_str()), (403, "claim_invalid"));
}

#[test]
fn a_write_is_bound_to_its_caller_as_well() {
    let Site { issuer, instance } = start();
    let post = |who: &str, owner: &str| {
        instance.request("POST", "/notes", &[("Authorization", &issuer.bearer(who, "")), ("X-Owner", owner)])
    };
    assert_eq!(post("alice", "alice").json(), json!({ "rows": 1 }));
    assert_eq!(post("alice", "bob").status, 500, "the policy refuses a row that is another's");
    assert_eq!(post("bob", "bob").json(), json!({ "rows": 1 }));
    let strong = [("Authorization", issuer.bearer("bob", "")), ("X-Consistency", "strong".to_owned())];
    let strong: Vec<_> = strong.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let words: Vec<_> = instance.get_with("/mine", &strong).json().as_array().unwrap().clone();
    assert_eq!(words.len(), 2, "{words:?}");
}

/// Many at once ask over few connections, each of which many callers have used.
fn nobody_sees_what_is_anothers(issuer: &Issuer, instance: &Instance, target: &str) {
    let seen = AtomicUsize::new(0);
    thread::scope(|scope| {
        for who in ["alice", "bob", "carol", "dave"] {
            let seen = &seen;
            scope.spawn(move || {
                let (bearer, mut connection) = (issuer.bearer(who, ""), instance.connect());
                for _ in 0..40 {
                    let reply = connection.request("GET", target, &[("Authorization", &bearer)]);
                    let rows = reply.json();
                    for row in rows.as_array().unwrap_or_else(|| panic!("{reply:?}")) {
                        assert_eq!(row["owner"], who);
                        seen.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert!(seen.into_inner() >= 120, "all of them saw something");
}

#[test]
fn callers_who_share_a_connection_share_nothing_else() {
    let Site { issuer, instance } = start();
    nobody_sees_what_is_anothers(&issuer, &instance, "/mine");
}

#[test]
fn it_holds_behind_a_pooler_of_transactions() {
    let (cluster, issuer) = (Cluster::shared(), Issuer::new());
    let pooler = Pooler::start(cluster, &cluster.database());
    let routes = ROUTES
        .replace("SELECT owner, word FROM notes ORDER BY word", "SELECT current_setting('app.owner', true) AS owner");
    let plan = issuer.believed(Plan::new(&routes)).handler("twice", twice).handler("note", note);
    let plan =
        plan.set("DATABASE_URL", &pooler.url("primary")).set("DATABASE_READ_REPLICA_URL", &pooler.url("replica"));
    let plan = plan.set("database.pooler", "transaction").set("auth.claims_settings", "app.owner=sub");
    let instance = plan.set("replication.lag_max", "1h").set("health.lag_max", "1h").start();
    instance.wait_healthy();
    nobody_sees_what_is_anothers(&issuer, &instance, "/mine");
    assert_eq!(instance.get("/said").json(), json!({ "owner": "" }));
}

#[test]
fn what_is_no_setting_of_ones_own_is_refused() {
    for wrong in [
        "role=sub",
        "search_path=sub",
        "app.x",
        "app.x=",
        "app.X=sub",
        "a.b.c=sub",
        "pg_catalog.x=sub",
        "plpgsql.variable_conflict=sub",
        "app.x'=sub",
    ] {
        let error =
            Plan::new("").set("auth.claims_settings", wrong).try_start().err().unwrap_or_else(|| panic!("{wrong}"));
        assert!(error.contains("auth.claims_settings") && error.contains("app.account_id=sub"), "{wrong}: {error}");
    }
}
