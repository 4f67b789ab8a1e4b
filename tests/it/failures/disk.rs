//! The disk of a database is full. It is not filled here: the server is made to say what it says then.

use super::*;

/// Needs room on the disk of the servers that `full` names: `replica`, or `all`.
const SORTED: &str = "/public/sorted?full=";

#[test]
fn a_server_whose_disk_is_full_is_read_around() {
    let fleet = Fleet::new("disk-full");
    fleet.sql(
        "CREATE FUNCTION sorted(full_at text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN \
             IF full_at = 'all' OR (full_at = 'replica' AND pg_is_in_recovery()) THEN \
                 RAISE EXCEPTION 'could not write to file: No space left on device' USING ERRCODE = 'disk_full'; \
             END IF; RETURN 1; END $$",
    );
    fleet.catch_up();
    let routes = "[[route]]\npath = \"/public/sorted\"\nresult = \"row\"\nsql = \"SELECT sorted($1) AS sorted\"\n\
                  params = [{ name = \"full\", in = \"query\", type = \"text\" }]\n[route.cache]\nttl = \"1ms\"\nwatch = []\n";
    let instance = fleet.plan_with(routes).start();
    instance.wait_healthy();
    let ask = |full: &str| instance.get(&format!("{SORTED}{full}"));
    instance.wait_for("the replica", &format!("{SORTED}none"), |reply| reply.cache().ends_with("detail=replica"));
    let failed = || instance.metric("mainstay_node_reads_total{node=\"replica-1\",outcome=\"failed\"}");
    let around = ask("replica");
    assert_eq!((around.status, around.cache().ends_with("detail=primary")), (200, true), "{around:?}");
    assert!(failed() > 0.0);
    let nowhere = ask("all");
    assert_eq!((nowhere.status, nowhere.problem()), (503, "database_unavailable".to_owned()));
    instance.wait_for("the replica", &format!("{SORTED}none"), |reply| reply.cache().ends_with("detail=replica"));
}
