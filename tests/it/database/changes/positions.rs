//! What a position proves of changes: that a replica at a fence has them, and that none below was left out.

use std::time::Duration;

use mainstay::database::changes::feed::Batch;
use mainstay::database::read::{Consistency, Role};
use mainstay::position::Position;

use super::{Site, migrate, reader, watch};
use crate::support::{Cluster, PATIENCE, count, fence, soon, start_eligible};

const T: &str = "CREATE TABLE t (id int)";

/// Polls with a heartbeat until a batch is such, and returns all batches on the way.
async fn poll_until(site: &mut Site, holds: impl Fn(&Batch) -> bool) -> Vec<Batch> {
    let (mut batches, deadline) = (Vec::new(), std::time::Instant::now() + PATIENCE);
    loop {
        let batch = site.feed.poll(&site.cursor, true).await.unwrap();
        site.cursor = batch.cursor.clone();
        let is_last = holds(&batch);
        batches.push(batch);
        if is_last {
            return batches;
        }
        assert!(std::time::Instant::now() < deadline, "waited in vain: {:?}", batches.last());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[actix_rt::test]
async fn a_heartbeat_proves_the_fence_before_it() {
    let mut site = Site::new(T, &[watch("t", "t:{id}")]).await;
    let first = site.feed.poll(&site.cursor, true).await.unwrap().fence.unwrap();
    let batches = poll_until(&mut site, |batch| batch.through >= Some(first)).await;
    assert!(
        batches
            .iter()
            .all(|batch| batch.through.is_none_or(|through| batch.fence.is_some_and(|fence| through < fence)))
    );
}

/// With synchronous replication a commit is on the log long before it is visible. A replica may have it by then; so a heartbeat
/// must not say that all below has been told.
#[actix_rt::test]
async fn a_commit_between_flush_and_visibility_holds_back_what_is_proven_and_no_message() {
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::private("through")));
    let mut site = Site::on(cluster, T, &[watch("t", "t:{id}")]).await;
    let standbys = |names: &str| {
        let sql = format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'");
        cluster.primary.psql("postgres", &sql).unwrap();
        cluster.primary.psql("postgres", "SELECT pg_reload_conf()").unwrap();
        let shown = || cluster.primary.psql("postgres", "SHOW synchronous_standby_names").unwrap().trim() == names;
        assert!(mainstay::local::wait_until(PATIENCE, shown));
    };
    standbys("missing");
    let writer = site.session().await;
    let stuck = tokio::spawn(async move { writer.batch_execute("INSERT INTO t VALUES (1)").await });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'SyncRep'";
    crate::support::wait_for("the commit to wait", || site.sql(waits) == "1").await;
    // Its commit lies below this position, and nobody sees it.
    let above = fence_now(&mut site).await;
    let local = "SET synchronous_commit = local; INSERT INTO t VALUES (2)";
    site.sql(local);
    let mut batches = vec![site.feed.poll(&site.cursor, true).await.unwrap()];
    site.cursor = batches[0].cursor.clone();
    assert!(batches[0].soft.contains(&"t:2".to_owned()), "messages go on: {batches:?}");
    for _ in 0..20 {
        let batch = site.feed.poll(&site.cursor, true).await.unwrap();
        site.cursor = batch.cursor.clone();
        batches.push(batch);
    }
    assert!(batches.iter().all(|batch| batch.through.is_none_or(|through| through < above)), "{batches:?}");
    assert!(!batches.iter().any(|batch| batch.soft.contains(&"t:1".to_owned())));
    standbys("");
    stuck.await.unwrap().unwrap();
    let batches = poll_until(&mut site, |batch| batch.through >= Some(above)).await;
    assert!(
        batches.iter().any(|batch| batch.soft.contains(&"t:1".to_owned())),
        "told before it was proven: {batches:?}"
    );
}

async fn fence_now(site: &mut Site) -> Position {
    site.feed.fence().await.unwrap()
}

#[actix_rt::test]
async fn a_prepared_transaction_that_commits_is_proven_after_it_is_told() {
    let mut site = Site::new(T, &[watch("t", "t:{id}")]).await;
    let name = site.name.clone();
    let session = site.session().await;
    session.batch_execute(&format!("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION '{name}'")).await.unwrap();
    site.sql("INSERT INTO t VALUES (2)");
    let batch = site.feed.poll(&site.cursor, true).await.unwrap();
    assert!(batch.soft.contains(&"t:2".to_owned()) && !batch.soft.contains(&"t:1".to_owned()));
    site.cursor = batch.cursor;
    for _ in 0..5 {
        site.poll().await;
    }
    session.batch_execute(&format!("COMMIT PREPARED '{name}'")).await.unwrap();
    let after = fence(&site.cluster.primary, &name);
    let batches = poll_until(&mut site, |batch| batch.through.is_some_and(|through| through > after)).await;
    assert!(batches.iter().any(|batch| batch.soft.contains(&"t:1".to_owned())), "{batches:?}");
}

/// A writer that does not wait for the disk, on a server that writes it back rarely: what was seen of it before the fence is
/// on the log below the fence, so a replica that is there has it.
#[actix_rt::test]
async fn a_replica_exactly_at_the_fence_has_what_an_asynchronous_writer_did() {
    let cluster: &'static Cluster =
        Box::leak(Box::new(Cluster::with("async-writer", |options| options.setting("wal_writer_delay", "10s"))));
    let name = cluster.database();
    cluster.primary.psql(&name, T).unwrap();
    let settings = cluster.settings(&name);
    migrate(&settings, &[watch("t", "t:{id}")], false).unwrap();
    cluster.catch_up();
    let database = start_eligible(&settings).await;
    let mut feed = database.feed(reader("reader"));
    let mut cursor = feed.start().await.unwrap().cursor;
    let writer = super::session(&cluster.primary.url("postgres", &name)).await;
    writer.batch_execute("SET synchronous_commit = off").await.unwrap();
    let mut replicas = 0;
    for rows in 1..=10 {
        writer.batch_execute(&format!("INSERT INTO t VALUES ({rows})")).await.unwrap();
        let batch = feed.poll(&cursor, false).await.unwrap();
        assert!(batch.soft.contains(&format!("t:{rows}")));
        cursor = batch.cursor;
        let at_least = batch.fence.unwrap();
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", at_least.lsn);
        // On an idle server nothing else would bring it there.
        let arrived = || cluster.replica.psql(&name, &replayed).unwrap().trim() == "t";
        assert!(mainstay::local::wait_until(PATIENCE, arrived));
        let read = database.read_at_least(Consistency::Eventual, Some(at_least), soon(), async |conn| {
            count(conn, "SELECT count(*)::int AS number FROM t").await
        });
        let (seen, served) = read.await.unwrap();
        assert_eq!(seen, rows, "{served:?}");
        replicas += usize::from(served.role == Role::Replica);
    }
    assert!(replicas >= 8, "{replicas}");
}
