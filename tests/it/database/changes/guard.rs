//! What no trigger notices, and the guard does.

use super::{Site, migrate, watch};

/// Looks, and returns what is wrong and what was purged for it.
async fn look(site: &mut Site, table: &str) -> (usize, Vec<String>) {
    let findings = site.feed.guard(&[watch(table, "")]).await.unwrap();
    (findings.len(), site.news().await)
}

#[actix_rt::test]
async fn a_table_that_is_swapped_is_purged_and_alarmed_of_until_it_is_mended() {
    let mut site = Site::new("CREATE TABLE t (id int)", &[watch("t", "")]).await;
    assert_eq!(look(&mut site, "t").await, (0, vec![]));
    site.sql("CREATE TABLE t_new (id int); ALTER TABLE t RENAME TO t_old; ALTER TABLE t_new RENAME TO t");
    assert_eq!(look(&mut site, "t").await, (1, vec!["t:all".into()]));
    assert!(site.heard("INSERT INTO t VALUES (1)").await.is_empty(), "nobody tells");
    assert_eq!(look(&mut site, "t").await, (1, vec!["t:all".into()]), "what is kept stays young");
    migrate(&site.settings, &[watch("t", "")], false).unwrap();
    assert_eq!(site.heard("INSERT INTO t VALUES (1)").await, ["t:all", "t:any"]);
    assert_eq!(look(&mut site, "t").await, (0, vec!["t:all".into()]), "a last time");
    assert_eq!(look(&mut site, "t").await, (0, vec![]));
    site.sql("DROP TABLE t");
    assert_eq!(look(&mut site, "t").await, (1, vec!["t:all".into()]));
}

#[actix_rt::test]
async fn partitions_that_come_and_go_are_noticed() {
    let tables = "CREATE TABLE p (id int) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); \
                  INSERT INTO p VALUES (1); CREATE TABLE p2 (id int); INSERT INTO p2 VALUES (2)";
    let mut site = Site::new(tables, &[watch("p", "")]).await;
    assert_eq!(look(&mut site, "p").await, (0, vec![]));
    site.sql("ALTER TABLE p ATTACH PARTITION p2 FOR VALUES IN (2)");
    assert_eq!(look(&mut site, "p").await, (1, vec!["p:all".into()]));
    migrate(&site.settings, &[watch("p", "")], false).unwrap();
    look(&mut site, "p").await;
    site.sql("ALTER TABLE p DETACH PARTITION p1");
    assert_eq!(look(&mut site, "p").await, (0, vec!["p:all".into()]), "its rows are gone, and nothing is amiss");
    assert_eq!(look(&mut site, "p").await, (0, vec![]));
}

#[actix_rt::test]
async fn a_trigger_that_is_disabled_dropped_or_for_some_sessions_only_is_noticed() {
    let mut site = Site::new("CREATE TABLE t (id int)", &[watch("t", "")]).await;
    for sql in [
        "ALTER TABLE t DISABLE TRIGGER mainstay_update",
        "ALTER TABLE t DISABLE TRIGGER ALL",
        "ALTER TABLE t ENABLE TRIGGER mainstay_insert",
        "DROP TRIGGER mainstay_delete ON t",
    ] {
        assert_eq!(look(&mut site, "t").await, (0, vec![]));
        site.sql(sql);
        assert_eq!(look(&mut site, "t").await, (1, vec!["t:all".into()]), "{sql}");
        migrate(&site.settings, &[watch("t", "")], false).unwrap();
        assert_eq!(look(&mut site, "t").await, (0, vec!["t:all".into()]), "{sql}");
    }
}

#[actix_rt::test]
async fn a_manifest_that_asks_for_more_than_was_installed_is_noticed() {
    let mut site = Site::new("CREATE TABLE t (id int)", &[watch("t", "")]).await;
    assert_eq!(look(&mut site, "t").await, (0, vec![]));
    assert_eq!(look(&mut site, "public.t").await, (1, vec!["public.t:all".into()]), "its triggers say t:any alone");
    let tagged = [watch("t", "t:{id}")];
    assert_eq!(site.feed.guard(&tagged).await.unwrap().len(), 1, "they say nothing of rows");
    assert_eq!(site.news().await, ["t:all"]);
    migrate(&site.settings, &tagged, false).unwrap();
    assert!(site.feed.guard(&tagged).await.unwrap().is_empty());
}
