//! Tables that change under a running server.

use std::sync::Barrier;
use std::thread;

use super::sql::tables_in;
use crate::instance::{Instance, Plan};
use crate::support::{Cluster, PATIENCE};

struct Served {
    cluster: &'static Cluster,
    database: String,
    instance: Instance,
}

impl Served {
    /// One route that is never kept, so that every request asks the table.
    fn new(table: &str, sql: &str) -> Self {
        let (cluster, database) = tables_in(table);
        let routes = format!("[[route]]\npath = \"/it\"\nresult = \"row\"\nsql = \"{sql}\"\n");
        let instance = Plan::new(&routes).database(cluster, &database).start();
        instance.wait_healthy();
        Self { cluster, database, instance }
    }

    fn alter(&self, sql: &str) {
        self.cluster.primary.psql(&self.database, sql).unwrap();
        self.cluster.catch_up();
    }

    /// What the route answers; each of the pooled connections is asked more than once.
    #[track_caller]
    fn answers(&self, expected: &str) {
        for _ in 0..6 {
            let reply = self.instance.get("/it");
            assert_eq!((reply.status, reply.text().as_str()), (200, expected));
        }
    }
}

#[test]
fn a_column_that_changes_its_type_or_is_added_shows_at_once() {
    let served = Served::new("CREATE TABLE t (id int); INSERT INTO t VALUES (1)", "SELECT * FROM t");
    served.answers(r#"{"id":1}"#);
    served.alter("ALTER TABLE t ALTER id TYPE text");
    served.answers(r#"{"id":"1"}"#);
    served.alter("ALTER TABLE t ADD more boolean DEFAULT true");
    served.answers(r#"{"id":"1","more":true}"#);
    served.alter("ALTER TABLE t DROP id");
    served.answers(r#"{"more":true}"#);
}

/// What is passed on as JSON has to be JSON: a column that stops being it is wrapped like any other.
#[test]
fn a_json_column_that_becomes_text_is_wrapped_from_then_on() {
    let served = Served::new("CREATE TABLE t (doc jsonb); INSERT INTO t VALUES ('[1]')", "SELECT doc FROM t");
    served.answers("[1]");
    served.alter("ALTER TABLE t ALTER doc TYPE text USING 'no json'");
    served.answers(r#"{"doc":"no json"}"#);
}

#[test]
fn a_column_beside_a_json_column_is_not_lost() {
    let served = Served::new("CREATE TABLE t (doc jsonb); INSERT INTO t VALUES ('[1]')", "SELECT * FROM t");
    served.answers("[1]");
    served.alter("ALTER TABLE t ADD more int DEFAULT 2");
    served.answers(r#"{"doc":[1],"more":2}"#);
}

#[test]
fn a_json_column_keeps_its_order_and_its_kind() {
    let table = "CREATE TABLE t (doc jsonb, n int); INSERT INTO t VALUES ('{\"b\":1,\"aa\":2}', 1)";
    let served = Served::new(table, "SELECT doc FROM t ORDER BY n");
    served.answers(r#"{"b": 1, "aa": 2}"#);
    served.alter("ALTER TABLE t ALTER doc TYPE json");
    served.answers(r#"{"b": 1, "aa": 2}"#);
}

#[test]
fn a_table_that_goes_and_comes_back_is_served_again() {
    let served = Served::new("CREATE TABLE t (id int); INSERT INTO t VALUES (1)", "SELECT id FROM t");
    served.answers(r#"{"id":1}"#);
    served.alter("ALTER TABLE t RENAME TO gone");
    assert_eq!(served.instance.get("/it").problem(), "query_failed");
    served.alter("CREATE TABLE t (id text); INSERT INTO t VALUES ('new')");
    served.answers(r#"{"id":"new"}"#);
}

/// To look at a statement's columns takes a connection of its own, so those who need to know at the same time look once.
#[test]
fn a_cold_route_that_many_ask_at_once_is_described_once() {
    const CLIENTS: usize = 40;
    let (cluster, database) = tables_in("");
    let routes = "[[route]]\npath = \"/it\"\nsql = \"SELECT $1 AS n\"\nparams = [{ name = \"n\", in = \"query\", type = \"integer\" }]\n";
    let instance = Plan::new(routes).database(cluster, &database).start();
    instance.wait_healthy();
    let sessions = || -> u32 {
        let sql = format!("SELECT sessions FROM pg_stat_database WHERE datname = '{database}'");
        [&cluster.primary, &cluster.replica]
            .map(|node| node.psql("postgres", &sql).unwrap().trim().parse::<u32>().unwrap())
            .iter()
            .sum()
    };
    let before = sessions();
    let start = Barrier::new(CLIENTS);
    thread::scope(|scope| {
        for n in 0..CLIENTS {
            let (mut connection, start) = (instance.connect(), &start);
            scope.spawn(move || {
                start.wait();
                let reply = connection.request("GET", &format!("/it?n={n}"), &[]);
                assert_eq!((reply.status, reply.text()), (200, format!("[{{\"n\":{n}}}]")));
            });
        }
    });
    drop(instance);
    // Sessions are counted when they end: the pool's and the samplers', and one that described.
    assert!(mainstay::local::wait_until(PATIENCE, || sessions() > before), "nothing was counted");
    thread::sleep(std::time::Duration::from_millis(500));
    let opened = sessions() - before;
    assert!(opened < 20, "{opened} sessions");
}
