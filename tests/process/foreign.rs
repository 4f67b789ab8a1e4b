//! A database that has never heard of Mainstay, from its tables to an API, with a role that may only read and no Rust.

use crate::support::{Cluster, Folder, ONE, Origin, PATIENCE, mainstay};

#[test]
fn a_foreign_schema_becomes_an_api() {
    let cluster = Cluster::shared();
    let (database, reader, _) = cluster.pgbench_database();
    let (url, replica) = (cluster.primary.url(&reader, &database), cluster.replica.url(&reader, &database));
    let env = [("DATABASE_URL", url.as_str()), ("DATABASE_READ_REPLICA_URL", replica.as_str())];
    let folder = Folder::empty();

    let printed = mainstay(&["init", "--config", folder.text(), "--stdout"], &env);
    assert_eq!(printed.code, Some(0), "{printed:?}");
    assert!(!folder.join("routes.toml").exists(), "--stdout writes nothing");
    let written = mainstay(&["init", "--config", folder.text()], &env);
    assert_eq!(written.code, Some(0), "{written:?}");
    assert_eq!(std::fs::read_to_string(folder.join("routes.toml")).unwrap(), printed.stdout);
    let again = mainstay(&["init", "--config", folder.text()], &env);
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("routes.toml exists already"), "{again:?}");
    assert_eq!(std::fs::read_to_string(folder.join("routes.toml")).unwrap(), printed.stdout);
    let elsewhere = mainstay(&["init", "--config", folder.text(), "--schema", "nowhere", "--stdout"], &env);
    assert_eq!(elsewhere.code, Some(1), "{elsewhere:?}");

    let check = mainstay(&["check", "--strict", "--config", folder.text()], &env);
    assert_eq!(check.code, Some(0), "{check:?}");

    let routes = mainstay(&["routes", "--config", folder.text()], &[]);
    assert_eq!(routes.code, Some(0));
    let row = routes.stdout.lines().find(|line| line.contains("/pgbench_accounts ")).unwrap();
    for cell in ["GET", "sql", "eventual", "public, max-age=10, stale-while-revalidate=10", "?after&limit"] {
        assert!(row.contains(cell), "{cell} in {row}");
    }
    let routes = mainstay(&["routes", "--json", "--config", folder.text()], &[]);
    let routes: serde_json::Value = serde_json::from_str(&routes.stdout).unwrap();
    let paths: Vec<&str> = routes.as_array().unwrap().iter().map(|route| route["path"].as_str().unwrap()).collect();
    assert_eq!(
        paths,
        [
            "/pgbench_accounts",
            "/pgbench_accounts/{key}",
            "/pgbench_branches",
            "/pgbench_branches/{key}",
            "/pgbench_history",
            "/pgbench_tellers",
            "/pgbench_tellers/{key}"
        ]
    );

    cluster.catch_up();
    let origin = Origin::start(folder.path(), &env);
    origin.get_until("/health/edge", |reply| reply.status == 200);
    let miss = origin.get("/pgbench_accounts/7");
    assert_eq!(miss.status, 200, "{miss:?}");
    assert_eq!(miss.cache(), "mainstay; fwd=miss; stored; detail=replica");
    assert_eq!(miss.json()["aid"], 7);
    let hit = origin.get("/pgbench_accounts/7");
    assert!(hit.cache().starts_with("mainstay; hit; ttl="), "{hit:?}");
    assert_eq!(hit.body, miss.body);
    let page = origin.get("/pgbench_accounts?after=100&limit=2").json();
    assert_eq!(
        (page[0]["aid"].as_i64(), page[1]["aid"].as_i64(), page.as_array().unwrap().len()),
        (Some(101), Some(102), 2)
    );
    assert_eq!(origin.get("/pgbench_history").body, "[]");
    let absent = origin.get("/pgbench_accounts/999999999");
    assert_eq!((absent.status, absent.code().as_str()), (404, "not_found"));
    let wrong = origin.get("/pgbench_accounts/seven");
    assert_eq!((wrong.status, wrong.code().as_str()), (400, "param_invalid"));

    // A change is read through, past the cache, by who asks for it.
    cluster.primary.psql(&database, "UPDATE pgbench_accounts SET abalance = 5 WHERE aid = 7").unwrap();
    let url = format!("{}/pgbench_accounts/7", origin.base);
    let strong = crate::support::request("GET", &url, &[("X-Consistency", "strong")], None);
    assert_eq!((strong.json()["abalance"].as_i64(), strong.header("x-route-primary")), (Some(5), "true"));
    assert_eq!(strong.cache(), "mainstay; fwd=bypass; detail=primary");
}

#[test]
fn names_that_need_quotes_and_tables_without_a_key_are_served_too() {
    let cluster = Cluster::shared();
    let database = cluster.database(
        "CREATE TABLE \"Order Lines\" (\"Line No\" int PRIMARY KEY, \"what\"\"s\" text); \
         INSERT INTO \"Order Lines\" VALUES (1, 'a \"b\"'); \
         CREATE TABLE \"Order-Lines\" (id int PRIMARY KEY); CREATE TABLE health (id int PRIMARY KEY); \
         CREATE TABLE account (id int PRIMARY KEY); \
         CREATE TABLE keyless (select_ text); CREATE TABLE empty (); \
         CREATE TABLE \"two\nlines\" (\"the\nkey\" int PRIMARY KEY); \
         CREATE TABLE parts (day date, id int, PRIMARY KEY (day, id)) PARTITION BY RANGE (day)",
    );
    let url = cluster.primary.url("postgres", &database);
    let folder = Folder::empty();
    let env = [("DATABASE_URL", url.as_str())];
    for args in [["init", "--config"], ["check", "--config"]] {
        let outcome = mainstay(&[&args[..], &[folder.text()]].concat(), &env);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
    let origin = Origin::start(folder.path(), &env);
    let row = origin.get_until("/Order-Lines/1", |reply| reply.status != 503);
    assert_eq!(row.body, r#"{"Line No":1,"what\"s":"a \"b\""}"#);
    // Names that would meet, and those that have a meaning of their own.
    for path in ["/Order-Lines-2", "/health-2", "/account-2", "/keyless"] {
        assert_eq!(origin.get(path).body, "[]", "{path}");
    }
    assert_eq!(origin.get("/parts").body, "[]");
}

#[test]
fn a_database_that_is_down_stops_no_start_and_is_found_when_it_comes() {
    use mainstay::local::{Proxy, ProxyMode, wait_until};
    let cluster = Cluster::shared();
    let database = cluster.database("");
    let proxy = Proxy::start(([127, 0, 0, 1], cluster.primary.server.port()).into()).unwrap();
    proxy.set_mode(ProxyMode::Refuse);
    let url = format!("postgres://postgres@{}/{database}", proxy.address());
    let origin = Origin::start(Folder::new(ONE).path(), &[("DATABASE_URL", url.as_str())]);
    assert_eq!(origin.get("/health/live").status, 200);
    let down = origin.get("/one");
    assert_eq!((down.status, down.code().as_str()), (503, "database_unavailable"));
    assert_ne!(down.header("retry-after"), "");
    let edge = origin.get_until("/health/edge", |reply| reply.body.contains("primary_down"));
    assert_eq!((edge.status, edge.json()["status"].as_str()), (503, Some("unhealthy")));
    proxy.set_mode(ProxyMode::Pass);
    assert!(wait_until(PATIENCE, || origin.get("/one").status == 200));
    origin.get_until("/health/edge", |reply| reply.status == 200);
}
