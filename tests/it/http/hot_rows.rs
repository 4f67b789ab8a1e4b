//! Many writes of one row, which only one of them can have at a time: they hold up each other, and nobody else.

use diesel::sql_types::Integer;
use diesel_async::RunQueryDsl;
use mainstay::local::wait_until;
use mainstay::{Answer, Call, Error};
use postgres::{Client, NoTls};

use crate::instance::client::{Connection, head};
use crate::instance::{Instance, Plan};
use crate::support::{Cluster, PATIENCE};

const ROUTES: &str = r#"
[[route]]
path = "/rows/{id}"
methods = ["POST"]
handler = "raise"
params = [{ name = "id", in = "path", type = "integer" }]

[[route]]
path = "/rows/{id}"
result = "row"
consistency = "strong"
sql = "SELECT value FROM rows WHERE id = $1"
params = [{ name = "id", in = "path", type = "integer" }]
"#;

const TABLE: &str =
    "CREATE TABLE rows (id int PRIMARY KEY, value int NOT NULL); INSERT INTO rows VALUES (1, 0), (2, 0)";
const WRITE_CONNECTIONS: usize = 4;

async fn raise(call: Call) -> Result<Answer, Error> {
    let id: i32 = call.params.text("id").unwrap().parse().unwrap();
    let update = "UPDATE rows SET value = value + 1 WHERE id = $1";
    let raised =
        call.write(async |conn| Ok(diesel::sql_query(update).bind::<Integer, _>(id).execute(conn).await?)).await?;
    Answer::json(&raised)
}

/// An instance, and its database.
fn started(change: impl FnOnce(Plan) -> Plan) -> (Instance, String) {
    let cluster = Cluster::shared();
    let name = cluster.database();
    cluster.primary.psql(&name, TABLE).unwrap();
    let plan = Plan::new(ROUTES)
        .handler("raise", raise)
        .database(cluster, &name)
        .set("database.write_pool_size", &WRITE_CONNECTIONS.to_string())
        .set("database.statement_timeout", "60s")
        .set("limits.request_timeout", "60s");
    let instance = change(plan).start();
    instance.wait_healthy();
    (instance, name)
}

/// Somebody else's connection, in whose transaction the first row is changed.
fn changing(name: &str) -> Client {
    let mut client = Client::connect(&Cluster::shared().primary.url("postgres", name), NoTls).unwrap();
    client.batch_execute("BEGIN; UPDATE rows SET value = value + 1 WHERE id = 1").unwrap();
    client
}

#[test]
fn writes_that_wait_for_one_row_keep_no_reads_out() {
    let (instance, name) = started(|plan| plan.set("database.wait_timeout", "60s").set("database.lock_timeout", "60s"));
    let mut other = changing(&name);
    let mut writes: Vec<Connection<_>> = (0..40).map(|_| instance.connect()).collect();
    writes.iter_mut().for_each(|write| write.send(head("POST", "/rows/1", &[])));
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    let are_waiting = || {
        let count = Cluster::shared().primary.psql(&name, waiting).unwrap();
        count.trim() == WRITE_CONNECTIONS.to_string()
    };
    assert!(wait_until(PATIENCE, are_waiting), "every connection for writes waits for the row");
    for _ in 0..40 {
        let read = instance.get("/rows/2");
        assert_eq!(read.status, 200, "{read:?}");
    }
    other.batch_execute("ROLLBACK").unwrap();
    let statuses: Vec<u16> = writes.iter_mut().map(|write| write.reply("POST").status).collect();
    let written = statuses.iter().filter(|status| **status == 200).count();
    assert!(written >= WRITE_CONNECTIONS, "{statuses:?}");
    assert!(statuses.iter().all(|status| matches!(status, 200 | 503)), "{statuses:?}");
    assert_eq!(instance.get("/rows/1").text(), format!("{{\"value\":{written}}}"));
}

#[test]
fn who_waits_too_long_for_a_row_is_told_to_come_back_and_has_written_nothing() {
    let (instance, name) = started(|plan| plan.set("database.lock_timeout", "50ms"));
    let mut other = changing(&name);
    let refused = instance.request("POST", "/rows/1", &[]);
    assert_eq!((refused.status, refused.problem()), (503, "overloaded".to_owned()), "{refused:?}");
    assert!(refused.said("retry-after").parse::<u32>().unwrap() >= 1);
    assert_eq!(instance.request("POST", "/rows/2", &[]).status, 200, "other rows are as free as ever");
    other.batch_execute("COMMIT").unwrap();
    assert_eq!(instance.request("POST", "/rows/1", &[]).status, 200);
    let values = ["/rows/1", "/rows/2"].map(|row| instance.get(row).text());
    assert_eq!(values, [r#"{"value":2}"#, r#"{"value":1}"#]);
}
