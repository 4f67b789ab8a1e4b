//! What must never write does not, whatever its SQL says; and what may only read is enough.

use super::sql::tables_in;
use crate::instance::Plan;

const TABLES: &str = "CREATE TABLE log (at timestamptz DEFAULT now()); CREATE SEQUENCE numbers;
    CREATE FUNCTION write() RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO log DEFAULT VALUES RETURNING 1';
    CREATE FUNCTION unlock() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
        PERFORM set_config('transaction_read_only', 'off', true);
        INSERT INTO log DEFAULT VALUES; RETURN 1; END $$";

/// The routes read the primary, for a standby would refuse to write in any case.
fn strong(statements: &[&str]) -> String {
    let route = |(index, sql): (usize, &&str)| {
        format!("[[route]]\npath = \"/{index}\"\nconsistency = \"strong\"\nsql = '''{sql}'''\n")
    };
    statements.iter().enumerate().map(route).collect()
}

#[test]
fn no_statement_writes() {
    let statements = [
        "INSERT INTO log DEFAULT VALUES RETURNING 1",
        "WITH w AS (INSERT INTO log DEFAULT VALUES RETURNING 1) SELECT * FROM w",
        "WITH w AS (DELETE FROM log RETURNING 1) SELECT count(*) FROM w",
        "SELECT write()",
        "SELECT unlock()",
        "SELECT nextval('numbers')",
        "SELECT 1 FROM log FOR UPDATE",
        "SELECT 1 INTO made FROM log",
        "SELECT 1)) AS mainstay_q) AS x -- ",
    ];
    let refused_at_once = [
        "SELECT SET_CONFIG('transaction_read_only', 'off', true), write()",
        "SELECT pg_catalog . set_config ('default_transaction_read_only', 'off', false), write()",
        "SELECT 1) AS mainstay_q) AS x; INSERT INTO log DEFAULT VALUES; SELECT 1 FROM (SELECT (SELECT 1",
    ];
    let (cluster, name) = tables_in(TABLES);
    for sql in refused_at_once {
        assert!(Plan::new(&strong(&[sql])).try_start().is_err(), "{sql}");
    }
    let instance = Plan::new(&strong(&statements)).database(cluster, &name).set("database.pool_size", "1").start();
    instance.wait_healthy();
    for (index, sql) in statements.iter().enumerate() {
        let reply = instance.get(&format!("/{index}"));
        assert_eq!((reply.status, reply.problem()), (500, "query_failed".to_owned()), "{sql}");
    }
    assert_eq!(cluster.primary.psql(&name, "SELECT count(*) FROM log").unwrap().trim(), "0");
}

/// A user's own database: tables of any kind, a role that may only read, nothing installed, no Rust.
#[test]
fn the_tables_of_pgbench_are_served_to_a_role_that_may_only_read() {
    let (cluster, name) = tables_in("");
    let mut pgbench = cluster.primary.command("pgbench");
    let made = pgbench.args(["-i", "-s", "1", "-q", &cluster.primary.url("postgres", &name)]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let role = format!("reader_{name}");
    let grants = format!("CREATE ROLE {role} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}");
    cluster.primary.psql(&name, &grants).unwrap();
    cluster.catch_up();
    let routes = r#"
[[route]]
path = "/accounts/{aid}"
result = "row"
sql = "SELECT aid, bid, abalance FROM pgbench_accounts WHERE aid = $1"
params = [{ name = "aid", in = "path", type = "integer", min = 1 }]
  [route.cache]
  ttl = "1m"

[[route]]
path = "/branches"
sql = "SELECT b.bid, count(*) AS tellers FROM pgbench_branches b JOIN pgbench_tellers t USING (bid) GROUP BY b.bid"

[[route]]
path = "/history"
sql = "INSERT INTO pgbench_history (tid) VALUES (1) RETURNING tid"
"#;
    let instance = Plan::new(routes).database_as(cluster, &role, &name).start();
    instance.wait_healthy();
    let account = instance.get("/accounts/77777");
    assert_eq!(
        (account.text().as_str(), account.cache()),
        (r#"{"aid":77777,"bid":1,"abalance":0}"#, "fwd=miss; stored; detail=replica")
    );
    assert!(instance.get("/accounts/077777").is_hit());
    assert_eq!(instance.get("/accounts/100001").status, 404);
    assert_eq!(instance.get("/accounts/0").status, 400);
    assert_eq!(instance.get("/branches").text(), r#"[{"bid":1,"tellers":10}]"#);
    assert_eq!(instance.get("/history").problem(), "query_failed");
    let strong = instance.get_with("/accounts/5", &[("X-Consistency", "strong")]);
    assert_eq!((strong.status, strong.cache()), (200, "fwd=bypass; detail=primary"));
}
