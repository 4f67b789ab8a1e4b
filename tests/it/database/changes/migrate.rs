//! Installing, again, beside an earlier version, and taking it back.

use mainstay::database::changes::install::{self, PlanError};
use mainstay::database::changes::schema;

use super::{Site, maintain, migrate, watch};

const TABLES: &str = "CREATE TABLE a (id int, note text); CREATE TABLE b (id int)";

fn triggers(site: &Site) -> String {
    site.sql(
        "SELECT count(*) FROM pg_trigger t JOIN pg_proc p ON p.oid = tgfoid \
         WHERE p.pronamespace = 'mainstay'::regnamespace AND tgrelid::regclass::text IN ('a', 'b')",
    )
}

#[actix_rt::test]
async fn a_second_time_nothing_is_left_to_do() {
    let watches = [watch("a", "a:{id}"), watch("b", "")];
    let site = Site::new(TABLES, &watches).await;
    let again = migrate(&site.settings, &watches, false).unwrap();
    assert!(again.steps.is_empty() && again.kept.is_empty(), "{again:?}");
    assert!(migrate(&site.settings, &watches, true).unwrap().steps.is_empty());
    assert_eq!(triggers(&site), "8");
}

#[actix_rt::test]
async fn what_an_earlier_version_asked_for_stays_until_the_contract_step() {
    let mut site = Site::new(TABLES, &[watch("a", "a:{id}"), watch("b", "")]).await;
    let later = [watch("a", "note:{note}")];
    let plan = migrate(&site.settings, &later, false).unwrap();
    assert_eq!(plan.kept, ["the watch of a:{id} of a", "the watch of b"], "{plan:?}");
    assert_eq!(site.news().await, ["a:all"], "its function is another");
    assert_eq!(site.heard("INSERT INTO a VALUES (1, 'x')").await, ["a:1", "a:any", "note:x"]);
    assert_eq!(site.heard("INSERT INTO b VALUES (1)").await, ["b:any"]);
    let plan = migrate(&site.settings, &later, true).unwrap();
    assert!(plan.kept.is_empty(), "{plan:?}");
    assert_eq!(triggers(&site), "4");
    site.news().await;
    assert_eq!(site.heard("INSERT INTO a VALUES (1, 'x')").await, ["a:any", "note:x"]);
    assert!(site.heard("INSERT INTO b VALUES (1)").await.is_empty());
    migrate(&site.settings, &[], true).unwrap();
    assert_eq!(triggers(&site), "0");
}

#[actix_rt::test]
async fn a_plan_by_itself_changes_nothing() {
    let site = Site::new(TABLES, &[]).await;
    let plan = maintain(&site.settings, |conn| install::plan(conn, &[watch("a", "a:{id}")], false).unwrap());
    assert!(plan.steps.iter().any(|step| step.contains("ENABLE ALWAYS TRIGGER mainstay_truncate")), "{plan:?}");
    assert_eq!((triggers(&site), site.sql("SELECT count(*) FROM mainstay.watches")), ("0".into(), "0".into()));
}

#[actix_rt::test]
async fn what_cannot_be_followed_is_refused_by_name() {
    let site = Site::new(
        "CREATE TABLE a (id int); CREATE VIEW v AS SELECT * FROM a; CREATE MATERIALIZED VIEW m AS SELECT * FROM a; \
         CREATE UNLOGGED TABLE u (id int); CREATE TABLE p (id int) PARTITION BY LIST (id); \
         CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)",
        &[],
    )
    .await;
    for (table, tag, reason) in [
        ("v", "", "v is a view"),
        ("m", "", "m is a materialized view"),
        ("u", "", "u is unlogged"),
        ("p1", "", "p1 is part of another table"),
        ("nowhere", "", "there is no table nowhere"),
        ("a", "a:{oops}", "a has no column oops"),
    ] {
        let Err(PlanError::Refused(found)) = migrate(&site.settings, &[watch(table, tag)], false) else {
            panic!("{table} was taken")
        };
        assert!(found.starts_with(reason), "{found}");
    }
}

#[actix_rt::test]
async fn down_takes_the_triggers_along_and_up_comes_again() {
    let watches = [watch("a", "a:{id}")];
    let mut site = Site::new(TABLES, &watches).await;
    maintain(&site.settings, |conn| schema::revert(conn).unwrap());
    assert_eq!(site.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'mainstay'"), "0");
    assert_eq!(site.sql("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal"), "0");
    assert_eq!(site.sql("SELECT count(*) FROM pg_class WHERE relname LIKE '%diesel%'"), "0");
    site.sql("INSERT INTO a VALUES (1, 'x')");
    migrate(&site.settings, &watches, false).unwrap();
    site.cursor = site.feed.start().await.unwrap().cursor;
    assert_eq!(site.heard("INSERT INTO a VALUES (1, 'x')").await, ["a:1", "a:any"]);
}

#[actix_rt::test]
async fn a_role_with_the_grants_and_nothing_else_can_follow() {
    let site = Site::new(TABLES, &[watch("a", "")]).await;
    let role = format!("{}_server", site.name);
    site.sql(&format!("CREATE ROLE {role} LOGIN"));
    let settings = super::settings(&site.cluster.primary.url(&role, &site.name), "", &[]);
    let database = crate::support::start(&settings).await;
    let mut feed = database.feed(super::reader("server"));
    assert!(!feed.start().await.unwrap().migrated, "it may not yet");
    let grant = |role: String| maintain(&site.settings, move |conn| install::grants(conn, &role).unwrap());
    site.sql(&grant(role.clone()).unwrap());
    assert_eq!(grant(role), None, "nothing is lacking any more");
    assert_eq!(grant("nobody_at_all".to_owned()), None);

    let started = feed.start().await.unwrap();
    assert!(started.migrated);
    site.sql("INSERT INTO a VALUES (1, 'x')");
    let batch = feed.poll(&started.cursor, true).await.unwrap();
    assert_eq!(batch.soft, ["a:any"]);
    assert!(feed.advance(&batch.cursor, batch.fence.unwrap()).await.unwrap());
    feed.purge(&["x".to_owned()], true).await.unwrap();
    assert_eq!(feed.hard_purges().await.unwrap().len(), 1);
    feed.prune().await.unwrap();
    assert!(feed.guard(&[watch("a", "")]).await.unwrap().is_empty());
}
