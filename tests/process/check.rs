//! `mainstay check` against the tables of `pgbench -i`.

use crate::support::{Cluster, Folder, Origin, Outcome, mainstay};

const ACCOUNTS: &str = "\
[[route]]
path = \"/accounts/{aid}\"
sql = \"SELECT aid, bid, abalance FROM pgbench_accounts WHERE aid = $1\"
result = \"row\"
params = [{ name = \"aid\", in = \"path\", type = \"integer\" }]
  [route.cache]
  ttl = \"10s\"
";

fn check(manifest: &str, url: &str, strict: bool) -> Outcome {
    let folder = Folder::new(manifest);
    let mut args = vec!["check", "--config", folder.text()];
    args.extend(strict.then_some("--strict"));
    mainstay(&args, &[("DATABASE_URL", url)])
}

#[test]
fn a_manifest_is_proved_against_the_database() {
    let cluster = Cluster::shared();
    let (database, reader, blind) = cluster.pgbench_database();
    let (reader, blind_url) = (cluster.primary.url(&reader, &database), cluster.primary.url(&blind, &database));
    let watched = format!("{ACCOUNTS}  watch = [\"pgbench_accounts\"]\n");

    let good = check(&watched, &reader, true);
    assert_eq!(good.code, Some(0), "{good:?}");
    assert!(good.stdout.contains("ok  GET /accounts/{aid}") && good.stdout.contains("0 errors"), "{good:?}");

    let refused = check(&watched, &blind_url, false);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let grant = format!("GRANT SELECT ON pgbench_accounts TO {blind}");
    assert!(refused.stdout.contains(&grant), "{refused:?}");
    cluster.primary.psql(&database, &grant).unwrap();
    assert_eq!(
        check(&watched, &blind_url, false).code,
        Some(0),
        "the GRANT that was printed is the one that was missing"
    );

    let unknown = check(&format!("\n{}", ACCOUNTS.replace("abalance", "balance")), &reader, false);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stdout.contains("routes.toml:2: error: route /accounts/{aid}: "), "{unknown:?}");
    assert!(unknown.stdout.contains("column \"balance\" does not exist"), "{unknown:?}");

    let missing = check(&format!("{ACCOUNTS}  watch = [\"pgbench_acounts\"]\n"), &reader, false);
    assert_eq!(missing.code, Some(1));
    assert!(missing.stdout.contains("there is no table pgbench_acounts"), "{missing:?}");

    let writes = ACCOUNTS.replace("SELECT aid, bid, abalance FROM pgbench_accounts", "DELETE FROM pgbench_accounts");
    let owner = cluster.primary.url("postgres", &database);
    let writes = check(&writes, &owner, false);
    assert_eq!(writes.code, Some(1), "a statement that writes is no source: {writes:?}");
}

#[test]
fn triggers_that_are_missing_are_warned_of_and_migrate_mends_them() {
    let cluster = Cluster::shared();
    let (database, reader, _) = cluster.pgbench_database();
    let (owner, reader_url) = (cluster.primary.url("postgres", &database), cluster.primary.url(&reader, &database));
    let folder = Folder::new(&format!("{ACCOUNTS}  watch = [\"pgbench_accounts\"]\n"));
    let check = || mainstay(&["check", "--strict", "--config", folder.text()], &[("DATABASE_URL", &reader_url)]);
    let migrate = |urls: &[(&str, &str)]| mainstay(&["migrate", "--config", folder.text()], urls);
    let by_owner = [("DATABASE_URL", reader_url.as_str()), ("DATABASE_DIRECT_URL", owner.as_str())];
    assert_eq!(check().code, Some(0), "nothing needs to be installed");
    assert_eq!(migrate(&by_owner).code, Some(0));
    assert_eq!(check().code, Some(0));

    let drop = "DO $$ DECLARE t text; BEGIN FOR t IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'pgbench_accounts'::regclass \
        AND NOT tgisinternal LOOP EXECUTE format('DROP TRIGGER %I ON pgbench_accounts', t); END LOOP; END $$";
    cluster.primary.psql(&database, drop).unwrap();
    let broken = check();
    assert_eq!(broken.code, Some(1), "{broken:?}");
    assert!(broken.stdout.contains("warning: ") && broken.stdout.contains("run `mainstay migrate`"), "{broken:?}");

    let refused = migrate(&[("DATABASE_URL", &reader_url)]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("DATABASE_DIRECT_URL"), "it says who may: {refused:?}");
    assert_eq!(migrate(&by_owner).code, Some(0));
    assert_eq!(check().code, Some(0));
}

#[test]
fn what_grows_wrong_in_a_cache_is_warned_of_and_strict_fails_on_it() {
    let cluster = Cluster::shared();
    let (database, reader, _) = cluster.pgbench_database();
    let url = cluster.primary.url(&reader, &database);
    let route = |sql: &str, cache: &str| {
        format!("[[route]]\npath = \"/x\"\nsql = \"{sql}\"\n  [route.cache]\n  ttl = \"10s\"\n{cache}")
    };
    for (sql, cache, warning) in [
        ("SELECT count(*) FROM pgbench_tellers", "", Some("pgbench_tellers, which no watch names")),
        ("SELECT count(*) FROM pgbench_tellers", "  watch = []\n", None),
        ("SELECT count(*) FROM pgbench_tellers", "  watch = [\"pgbench_tellers\"]\n", None),
        ("SELECT count(*) FROM pgbench_tellers", "  watch = [\"pgbench_branches\"]\n", Some("pgbench_tellers")),
        ("SELECT now() AS at", "  watch = []\n", Some("now")),
        ("SELECT random() AS x", "  watch = []\n", Some("random")),
        ("SELECT 'now() and random()' AS words -- now()", "  watch = []\n", None),
        ("SELECT current_date AS day", "  watch = []\n", Some("current_date")),
        ("SELECT pg_catalog.now () AS at", "  watch = []\n", Some("now")),
        // Names of functions may well be names of columns.
        ("SELECT tid AS age, bid AS random, tbalance AS now FROM pgbench_tellers", "  watch = []\n", None),
    ] {
        let manifest = route(sql, cache);
        let (lenient, strict) = (check(&manifest, &url, false), check(&manifest, &url, true));
        assert_eq!(lenient.code, Some(0), "{manifest}: {lenient:?}");
        match warning {
            Some(text) => {
                assert_eq!(strict.code, Some(1), "{manifest}: {strict:?}");
                assert!(strict.stdout.contains("routes.toml:1: warning: "), "{strict:?}");
                assert!(strict.stdout.contains(text), "{strict:?}");
            }
            None => assert_eq!(strict.code, Some(0), "{manifest}: {strict:?}"),
        }
    }
    // What is not kept cannot grow wrong.
    let uncached = "[[route]]\npath = \"/x\"\nsql = \"SELECT now() AS at, count(*) FROM pgbench_tellers\"\n";
    assert_eq!(check(uncached, &url, true).code, Some(0));
}

/// A server that does not tell `/Admin` from `/admin` answers for the one what the other is guarded for.
#[test]
fn a_way_around_auth_and_a_secret_in_the_clear_are_warned_of() {
    let upstream =
        "[upstream.old]\nendpoints = [\"http://127.0.0.1:1\"]\n[upstream.new]\nendpoints = [\"http://127.0.0.1:2\"]\n";
    let route = |path: &str, upstream: &str, more: &str| {
        format!("[[route]]\npath = \"{path}\"\nupstream = \"{upstream}\"\n{more}\n")
    };
    let guarded = route("/a/admin/{*rest}", "old", "auth = \"key\"");
    let strict = |routes: &str, origin: &str| {
        let folder = Folder::new(&format!("{upstream}{routes}"));
        mainstay(&["check", "--strict", "--config", folder.text()], &[("PRIMARY_ORIGIN", origin)])
    };
    for (path, upstream, more, is_around) in [
        ("/{*path}", "old", "", true),
        ("/a/{*path}", "old", "", true),
        ("/a/{*path}", "old", "auth = \"key\"", false),
        ("/b/{*path}", "old", "", false),
        ("/a/admin", "old", "", false),
    ] {
        let routes = [&guarded, &route("/new", "new", ""), &route(path, upstream, more)].map(String::as_str).concat();
        let outcome = strict(&routes, "http://127.0.0.1:3");
        assert_eq!(outcome.code, Some(i32::from(is_around)), "{path} {more}: {outcome:?}");
        let said = "and leads to the same upstream as /a/admin/{*rest}: ";
        assert_eq!(
            outcome.stdout.contains(&format!("warning: route {path}: it has no auth, {said}")),
            is_around,
            "{outcome:?}"
        );
    }
    // What another service answers is not what is guarded.
    let elsewhere = [guarded, route("/{*path}", "new", "")].concat();
    assert_eq!(strict(&elsewhere, "http://[::1]:3").code, Some(0));
    assert_eq!(strict(&elsewhere, "https://localhost").code, Some(0));
    let outcome = strict(&elsewhere, "http://0.0.0.0:3");
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stdout.contains("warning: forward.primary_origin: http:// sends "), "{outcome:?}");
    // And where nobody has checked.
    let folder = Folder::new("");
    let mut origin = Origin::start(folder.path(), &[("PRIMARY_ORIGIN", "http://0.0.0.0:3")]);
    origin.program.expect_text("forward.primary_origin: http:// sends ");
}

#[test]
fn what_cannot_be_watched_is_refused_with_its_reason() {
    let cluster = Cluster::shared();
    let (database, reader, _) = cluster.pgbench_database();
    let tables = "CREATE VIEW rich AS SELECT * FROM pgbench_accounts WHERE abalance > 0; \
        CREATE UNLOGGED TABLE fleeting (id int); \
        CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
        CREATE TABLE kinds (id bigint, day date, code text COLLATE blind, size numeric, at timestamptz, mark char(3)); \
        CREATE TABLE parts (id int) PARTITION BY LIST (id); CREATE TABLE part PARTITION OF parts FOR VALUES IN (1)";
    cluster.primary.psql(&database, tables).unwrap();
    cluster.primary.psql(&database, &format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}")).unwrap();
    let url = cluster.primary.url(&reader, &database);
    let route = |watch: &str, name: &str, kind: &str| {
        format!(
            "[[route]]\npath = \"/x\"\nsql = \"SELECT $1 AS x\"\nparams = [{{ name = \"{name}\", in = \"query\", type = \"{kind}\" }}]\n  \
             [route.cache]\n  ttl = \"10s\"\n  tags = [\"x:{{{name}}}\"]\n  watch = [{{ table = \"{watch}\", tag = \"x:{{{name}}}\" }}]\n"
        )
    };
    for (table, column, kind, reason) in [
        ("rich", "aid", "integer", "rich is a view"),
        ("fleeting", "id", "integer", "fleeting is unlogged"),
        ("part", "id", "integer", "part is part of another table"),
        ("kinds", "nothing", "integer", "kinds has no column nothing"),
        ("kinds", "id", "text", "column id of kinds is int8"),
        ("kinds", "code", "text", "column code of kinds is text of a collation"),
        ("kinds", "id", "integer", ""),
        ("kinds", "day", "date", ""),
        ("kinds", "mark", "text", ""),
    ] {
        let outcome = check(&route(table, column, kind), &url, false);
        if reason.is_empty() {
            assert_eq!(outcome.code, Some(0), "{table} {column}: {outcome:?}");
        } else {
            assert_eq!(outcome.code, Some(1), "{table} {column}: {outcome:?}");
            assert!(outcome.stdout.contains(reason), "{reason}: {outcome:?}");
        }
    }
    // What needs no database to be known to be wrong stops every command.
    for (column, kind) in [("size", "number"), ("at", "timestamp")] {
        let outcome = check(&route("kinds", column, kind), &url, false);
        assert_eq!(outcome.code, Some(64), "{outcome:?}");
        assert!(outcome.stderr.contains("is a number or a timestamp"), "{outcome:?}");
    }
}
