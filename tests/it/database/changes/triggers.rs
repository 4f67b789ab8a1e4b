//! What writers do, and which tags come of it.

use mainstay::cache::tag;
use mainstay::database::changes::watched;

use super::{Site, migrate, session, settings, watch};
use crate::support::PATIENCE;

const RATES: &str = "CREATE TABLE rates (base text, currency text, rate numeric, PRIMARY KEY (base, currency))";

#[test]
fn the_database_and_the_cache_call_tags_alike() {
    assert_eq!(watched::table_any("a.t"), tag::table_any("a.t"));
    assert_eq!(watched::table_all("a.t"), tag::table_all("a.t"));
}

#[actix_rt::test]
async fn each_statement_tells_the_tags_of_old_and_new_rows_once() {
    let mut site = Site::new(RATES, &[watch("rates", "rates:{base}")]).await;
    for (sql, tags) in [
        (
            "INSERT INTO rates SELECT base, code::text, 1 FROM unnest('{EUR,USD}'::text[]) base, generate_series(1, 50) code",
            vec!["rates:EUR", "rates:USD", "rates:any"],
        ),
        ("UPDATE rates SET rate = 2 WHERE base = 'EUR'", vec!["rates:EUR", "rates:any"]),
        ("UPDATE rates SET base = 'CHF' WHERE base = 'USD'", vec!["rates:CHF", "rates:USD", "rates:any"]),
        ("DELETE FROM rates WHERE base = 'CHF'", vec!["rates:CHF", "rates:any"]),
        (
            "INSERT INTO rates VALUES ('EUR', '1', 3), ('JPY', '1', 3) ON CONFLICT (base, currency) DO UPDATE SET rate = 4",
            vec!["rates:EUR", "rates:JPY", "rates:any"],
        ),
        (
            "MERGE INTO rates r USING (VALUES ('JPY'), ('SEK')) AS v (base) ON r.base = v.base \
             WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (v.base, '1', 1)",
            vec!["rates:JPY", "rates:SEK", "rates:any"],
        ),
        ("COPY rates FROM PROGRAM 'printf \"NOK\\t1\\t1\\n\"'", vec!["rates:NOK", "rates:any"]),
        ("TRUNCATE rates", vec!["rates:all"]),
        ("UPDATE rates SET rate = 3 WHERE base = 'nowhere'", vec![]),
        ("DELETE FROM rates", vec![]),
        ("INSERT INTO rates SELECT 'x', 'y', 1 WHERE false", vec![]),
    ] {
        assert_eq!(site.heard(sql).await, tags, "{sql}");
    }
}

#[actix_rt::test]
async fn two_spellings_of_a_table_and_several_tags_are_all_told() {
    let watches = [
        watch("rates", "rates:{base}"),
        watch("public.rates", "pair:{base}-{currency}!"),
        watch("rates", "constant"),
        watch("rates", ""),
    ];
    let mut site = Site::new(RATES, &watches).await;
    let told = site.heard("INSERT INTO rates VALUES ('EUR', 'O''B', 1)").await;
    assert_eq!(told, ["constant", "pair:EUR-O'B!", "public.rates:any", "rates:EUR", "rates:any"]);
    assert_eq!(site.heard("TRUNCATE rates").await, ["public.rates:all", "rates:all"]);
}

#[actix_rt::test]
async fn partitions_are_heard_whichever_way_they_are_written() {
    let tables = "CREATE TABLE days (day date, note text) PARTITION BY RANGE (day); \
        CREATE TABLE days_old PARTITION OF days FOR VALUES FROM ('2000-01-01') TO ('2020-01-01'); \
        CREATE TABLE days_new PARTITION OF days FOR VALUES FROM ('2020-01-01') TO ('2040-01-01') PARTITION BY RANGE (day); \
        CREATE TABLE days_2026 PARTITION OF days_new FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')";
    let mut site = Site::new(tables, &[watch("days", "days:{day}")]).await;
    for table in ["days", "days_new", "days_2026"] {
        let sql = format!("INSERT INTO {table} VALUES ('2026-11-21', 'x')");
        assert_eq!(site.heard(&sql).await, ["days:2026-11-21", "days:any"], "{table}");
    }
    let moved = "UPDATE days SET day = '2001-01-01' WHERE day > '2026-01-01'";
    assert_eq!(site.heard(moved).await, ["days:2001-01-01", "days:2026-11-21", "days:any"], "a row that moves");
    assert_eq!(site.heard("DELETE FROM days_old").await, ["days:2001-01-01", "days:any"]);
    assert_eq!(site.heard("TRUNCATE days_2026").await, ["days:all"]);
    // Attached later, and brought up to date by migrating again.
    site.sql(
        "CREATE TABLE days_next (LIKE days); \
              ALTER TABLE days_new ATTACH PARTITION days_next FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')",
    );
    migrate(&site.settings, &[watch("days", "days:{day}")], false).unwrap();
    assert_eq!(site.news().await, ["days:all"], "what came before the triggers was told to nobody");
    let direct = "INSERT INTO days_next VALUES ('2027-01-01', 'x')";
    assert_eq!(site.heard(direct).await, ["days:2027-01-01", "days:any"]);
}

#[actix_rt::test]
async fn neither_rights_nor_settings_of_the_writer_matter() {
    let mut site = Site::new("CREATE TABLE days (day date, note text)", &[watch("days", "days:{day}")]).await;
    let name = site.name.clone();
    site.sql(&format!("CREATE ROLE {name}_writer LOGIN; GRANT ALL ON days TO {name}_writer"));
    let writer = session(&site.cluster.primary.url(&format!("{name}_writer"), &name)).await;
    let insert = "INSERT INTO public.days VALUES (date '2026-02-01', 'x')";
    let told = ["days:2026-02-01", "days:any"];
    for settings in [
        "SET DateStyle = 'SQL, DMY'",
        "SET search_path = nowhere",
        "SET bytea_output = escape",
        "SET standard_conforming_strings = off",
        "SET row_security = off",
    ] {
        writer.batch_execute(&format!("{settings}; {insert}; RESET ALL")).await.unwrap();
        assert_eq!(site.news().await, told, "{settings}");
    }
    assert!(writer.batch_execute("SELECT * FROM mainstay.change_feed").await.is_err(), "it has no right to the feed");
    let replica = format!("SET session_replication_role = replica; {insert}");
    assert_eq!(site.heard(&replica).await, told, "triggers are there always");
    let prepared = format!("BEGIN; {insert}; PREPARE TRANSACTION '{name}'");
    let owner = site.session().await;
    owner.batch_execute(&prepared).await.unwrap();
    assert!(site.news().await.is_empty(), "it is not committed");
    owner.batch_execute(&format!("COMMIT PREPARED '{name}'")).await.unwrap();
    assert_eq!(site.news().await, told);
}

#[actix_rt::test]
async fn more_tags_than_a_statement_may_tell_are_all_of_the_table() {
    let mut site = Site::new("CREATE TABLE t (id int, note text)", &[watch("t", "t:{id}")]).await;
    let many = site.heard("INSERT INTO t SELECT id, 'x' FROM generate_series(1, 9999) id").await;
    assert_eq!(many.len(), 10_000);
    assert_eq!(site.heard("INSERT INTO t SELECT id, 'x' FROM generate_series(1, 10001) id").await, ["t:all"]);
    assert_eq!(site.heard("INSERT INTO t SELECT NULL, 'x' FROM generate_series(1, 20000)").await, ["t:any"]);
}

#[actix_rt::test]
async fn a_column_that_is_gone_breaks_no_write() {
    let mut site = Site::new("CREATE TABLE t (id int, note text)", &[watch("t", "t:{id}")]).await;
    site.sql("ALTER TABLE t RENAME id TO number");
    assert_eq!(site.heard("INSERT INTO t VALUES (1, 'x')").await, ["t:all"]);
}

#[actix_rt::test]
async fn rows_that_logical_replication_writes_are_heard() {
    let origin =
        Site::new("CREATE TABLE t (id int PRIMARY KEY, note text); CREATE PUBLICATION p FOR TABLE t", &[]).await;
    let target = super::cluster().database();
    let port = origin.cluster.primary.server.port();
    let slot = format!("{}_slot", origin.name);
    // On one server the slot has to be there before.
    origin.sql(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
    let subscribe = format!(
        "CREATE TABLE t (id int PRIMARY KEY, note text); \
         CREATE SUBSCRIPTION {slot} CONNECTION 'host=127.0.0.1 port={port} user=postgres dbname={}' PUBLICATION p \
         WITH (create_slot = false, slot_name = '{slot}', copy_data = false)",
        origin.name
    );
    origin.cluster.primary.psql(&target, &subscribe).unwrap();
    let settings = settings(&origin.cluster.primary.url("postgres", &target), "", &[]);
    migrate(&settings, &[watch("t", "t:{id}")], false).unwrap();
    let database = crate::support::start(&settings).await;
    let mut feed = database.feed(super::reader("reader"));
    let mut cursor = feed.start().await.unwrap().cursor;
    let deadline = std::time::Instant::now() + PATIENCE;
    for (sql, expected) in [
        ("INSERT INTO t VALUES (1, 'x')", vec!["t:1", "t:any"]),
        ("UPDATE t SET id = 2", vec!["t:1", "t:2", "t:any"]),
        ("DELETE FROM t", vec!["t:2", "t:any"]),
        ("TRUNCATE t", vec!["t:all"]),
    ] {
        origin.sql(sql);
        let told = loop {
            let batch = feed.poll(&cursor, false).await.unwrap();
            cursor = batch.cursor;
            if !batch.soft.is_empty() {
                break batch.soft;
            }
            assert!(std::time::Instant::now() < deadline, "nothing comes of {sql}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        };
        let mut told = told;
        told.sort();
        assert_eq!(told, expected, "{sql}");
    }
    origin.cluster.primary.psql(&target, "INSERT INTO t SELECT generate_series(1, 100)").unwrap();
    let rows =
        origin.cluster.primary.psql(&target, "SELECT count(*) FROM mainstay.change_feed WHERE tags @> '{t:100}'");
    assert_eq!(rows.unwrap().trim(), "1", "here the statement tells, and rows are silent");
    let drop = format!(
        "ALTER SUBSCRIPTION {slot} DISABLE; ALTER SUBSCRIPTION {slot} SET (slot_name = NONE); DROP SUBSCRIPTION {slot}"
    );
    origin.cluster.primary.psql(&target, &drop).unwrap();
}

#[actix_rt::test]
async fn a_long_name_of_many_bytes_is_a_name_like_others() {
    let table = "ц".repeat(31);
    let watches = [watch(&table, "")];
    let mut site = Site::new(&format!("CREATE TABLE {table} (id int)"), &watches).await;
    assert_eq!(site.heard(&format!("INSERT INTO {table} VALUES (1)")).await, [format!("{table}:any")]);
    let again = migrate(&site.settings, &watches, false).unwrap();
    assert!(again.steps.is_empty(), "{:?}", again.steps);
}

#[actix_rt::test]
async fn a_tag_that_is_too_long_is_all_of_the_table() {
    let mut site = Site::new("CREATE TABLE t (id text)", &[watch("t", "t:{id}")]).await;
    assert_eq!(site.heard("INSERT INTO t VALUES (repeat('x', 1022)), ('y')").await.len(), 3);
    assert_eq!(site.heard("INSERT INTO t VALUES (repeat('x', 1023)), ('y')").await, ["t:all"]);
    assert_eq!(site.heard("DELETE FROM t WHERE id LIKE 'x%'").await, ["t:all"]);
}
