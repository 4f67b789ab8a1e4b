//! What a reader hears: every change that commits, once, and a word where something may be lost.

use mainstay::database::changes::feed::{Cursor, FeedError};
use mainstay::position::Timeline;

use super::{Site, reader, settings, watch};
use crate::support::{Cluster, fence, start};

const T: &str = "CREATE TABLE t (id int)";

async fn site() -> Site {
    Site::new(T, &[watch("t", "t:{id}")]).await
}

#[actix_rt::test]
async fn commits_that_come_out_of_order_are_each_heard_once() {
    let mut site = site().await;
    let (early, late) = (site.session().await, site.session().await);
    early.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    late.batch_execute("BEGIN; INSERT INTO t VALUES (2); SAVEPOINT s; INSERT INTO t VALUES (3); ROLLBACK TO s")
        .await
        .unwrap();
    late.batch_execute("SAVEPOINT s; INSERT INTO t VALUES (4); RELEASE s").await.unwrap();
    site.sql("INSERT INTO t VALUES (5)");
    assert_eq!(site.news().await, ["t:5", "t:any"]);
    late.batch_execute("COMMIT").await.unwrap();
    assert_eq!(site.news().await, ["t:2", "t:4", "t:any"], "what was rolled back is not told");
    assert!(site.news().await.is_empty());
    early.batch_execute("COMMIT").await.unwrap();
    assert_eq!(site.news().await, ["t:1", "t:any"]);
    let aborted = site.session().await;
    aborted.batch_execute("BEGIN; INSERT INTO t VALUES (6); ROLLBACK").await.unwrap();
    assert!(site.news().await.is_empty());
}

#[actix_rt::test]
async fn a_batch_has_a_fence_where_there_is_news_or_one_is_due() {
    let mut site = site().await;
    assert_eq!(site.poll().await.fence, None);
    let due = site.feed.poll(&site.cursor, true).await.unwrap().fence.unwrap();
    site.sql("INSERT INTO t VALUES (1)");
    let news = site.poll().await.fence.unwrap();
    assert!(due < news, "{due} {news}");
    assert!(news < fence(&site.cluster.primary, &site.name));
}

#[actix_rt::test]
async fn a_reader_goes_on_where_it_published_last() {
    let mut site = site().await;
    site.sql("INSERT INTO t VALUES (1)");
    let batch = site.poll().await;
    let last = batch.fence.unwrap();
    assert!(site.feed.advance(&batch.cursor, last).await.unwrap());
    site.sql("INSERT INTO t VALUES (2)");
    assert_eq!(site.news().await, ["t:2", "t:any"], "heard, and not noted");
    // A latecomer with less than is noted changes nothing.
    assert!(site.feed.advance(&Cursor::new("1:1:"), last).await.unwrap());
    let mut again = site.database.feed(reader("reader"));
    let started = again.start().await.unwrap();
    assert_eq!((started.last, &started.cursor), (Some(last), &batch.cursor));
    assert!(started.position > last);
    let mut tags = again.poll(&started.cursor, false).await.unwrap().soft;
    tags.sort();
    assert_eq!(tags, ["t:2", "t:any"]);
}

#[actix_rt::test]
async fn only_what_every_reader_has_is_pruned() {
    let mut site = site().await;
    let mut other = site.database.feed(reader("other"));
    let behind = other.start().await.unwrap().cursor;
    let long = site.session().await;
    long.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    site.sql("INSERT INTO t VALUES (2)");
    let advance = async |site: &mut Site| {
        let batch = site.feed.poll(&site.cursor, true).await.unwrap();
        assert!(site.feed.advance(&batch.cursor, batch.fence.unwrap()).await.unwrap());
        site.cursor = batch.cursor;
        (site.feed.prune().await.unwrap(), batch.lost)
    };
    assert_eq!(advance(&mut site).await, (0, false), "the other reader has not read it");
    let batch = other.poll(&behind, true).await.unwrap();
    assert!(other.advance(&batch.cursor, batch.fence.unwrap()).await.unwrap());
    assert_eq!(site.feed.prune().await.unwrap(), 1);
    // The row of the long transaction is older by every measure but the one that counts.
    long.batch_execute("COMMIT").await.unwrap();
    site.feed.prune().await.unwrap();
    let late = other.poll(&batch.cursor, false).await.unwrap();
    assert!(late.soft.contains(&"t:1".to_owned()) && !late.lost, "{late:?}");
    assert_eq!(advance(&mut site).await, (0, false));
    assert!(other.advance(&late.cursor, late.fence.unwrap()).await.unwrap());
    assert_eq!(site.feed.prune().await.unwrap(), 1);
}

#[actix_rt::test]
async fn a_reader_that_was_given_up_is_told_that_it_lost_something() {
    let mut site = site().await;
    site.sql("UPDATE mainstay.cursors SET seen_at = now() - interval '2 hours'");
    site.sql("INSERT INTO t VALUES (1)");
    assert_eq!(site.feed.prune().await.unwrap(), 1, "nobody is left who wants it");
    let batch = site.poll().await;
    assert!(batch.lost && batch.soft.is_empty(), "{batch:?}");
    let last = site.feed.fence().await.unwrap();
    assert!(!site.feed.advance(&batch.cursor, last).await.unwrap());
    let started = site.feed.start().await.unwrap();
    assert_eq!(started.last, None);
    assert!(!site.feed.poll(&started.cursor, false).await.unwrap().lost);
}

#[actix_rt::test]
async fn too_many_tags_at_once_are_all_of_their_tables_and_purges_are_kept() {
    let mut site = site().await;
    site.sql("INSERT INTO t SELECT generate_series(1, 6000)");
    site.sql("INSERT INTO t SELECT generate_series(6001, 12000)");
    let purge = site.feed.purge(&["own".to_owned()], false).await.unwrap();
    let mut batch = site.poll().await;
    batch.soft.sort();
    assert_eq!(batch.soft, ["own", "t:all"]);
    assert_eq!(batch.purges, [purge.id]);
}

#[actix_rt::test]
async fn who_is_too_far_behind_is_told_so_and_still_hears_every_purge() {
    let mut site = site().await;
    let purge = site.feed.purge(&["own".to_owned()], true).await.unwrap();
    let many = |statements: u32| {
        format!(
            "INSERT INTO mainstay.change_feed (tables, tags, kind) \
             SELECT '{{t}}', ARRAY['t:any'], 'soft' FROM generate_series(1, {statements})"
        )
    };
    site.sql(&many(100_000));
    let batch = site.feed.poll(&site.cursor, false).await.unwrap();
    assert_eq!((batch.soft, batch.lost), (vec!["t:any".to_owned()], false));
    site.sql(&many(1));
    let batch = site.poll().await;
    assert!(batch.lost && batch.hard == ["own"] && batch.purges == [purge.id], "{batch:?}");
    assert!(!site.poll().await.lost, "said once");
    // Repeated tags are told apart only so far.
    let wide = "INSERT INTO mainstay.change_feed (tables, tags, kind) \
        SELECT '{t}', ARRAY(SELECT 't:' || n FROM generate_series(1, 5000) n), 'soft' FROM generate_series(1, 21)";
    assert_eq!(site.heard(wide).await, ["t:all"]);
}

#[actix_rt::test]
async fn an_operator_s_purge_reaches_every_reader_and_who_has_read_it_is_known() {
    let mut site = site().await;
    let mut other = site.database.feed(reader("other"));
    let started = other.start().await.unwrap();
    let soft = site.feed.purge(&["a".to_owned(), "b".to_owned()], false).await.unwrap();
    let hard = site.feed.purge(&["c".to_owned()], true).await.unwrap();
    assert!(hard.id > soft.id && hard.fence > soft.fence);
    let batch = other.poll(&started.cursor, false).await.unwrap();
    assert_eq!(
        (batch.soft, batch.hard, batch.purges),
        (vec!["a".into(), "b".into()], vec!["c".into()], vec![soft.id, hard.id])
    );
    let is_past = async |site: &mut Site| {
        let states = site.feed.readers_past(hard.id).await.unwrap();
        states.into_iter().map(|state| (state.name, state.is_past)).collect::<Vec<_>>()
    };
    assert_eq!(is_past(&mut site).await, [("other".into(), false), ("reader".into(), false)]);
    assert!(other.advance(&batch.cursor, batch.fence.unwrap()).await.unwrap());
    assert_eq!(is_past(&mut site).await, [("other".into(), true), ("reader".into(), false)]);
    assert_eq!(other.hard_purges().await.unwrap(), [("c".to_owned(), hard.fence)]);
    // Cut short before its fence was noted: whoever asks takes a later one.
    site.sql("UPDATE mainstay.hard_purges SET fence = NULL");
    assert!(other.hard_purges().await.unwrap()[0].1 > hard.fence);
    site.sql("UPDATE mainstay.hard_purges SET at = now() - interval '9 days'");
    site.feed.prune().await.unwrap();
    assert!(other.hard_purges().await.unwrap().is_empty());
}

#[actix_rt::test]
async fn without_a_feed_there_is_still_a_clock() {
    let cluster = Cluster::shared();
    let database = start(&settings(&cluster.primary.url("postgres", &cluster.database()), "", &[])).await;
    let mut feed = database.feed(reader("reader"));
    feed.fence().await.unwrap();
    let not_begun = feed.poll(&Cursor::new("1:1:"), true).await.unwrap_err();
    assert!(matches!(not_begun, FeedError::Unavailable(_)), "it may be another server: {not_begun:?}");
    let started = feed.start().await.unwrap();
    assert!(!started.migrated);
    assert_eq!(feed.poll(&started.cursor, true).await.unwrap_err(), FeedError::NotMigrated);
    assert!(feed.fence().await.unwrap() > started.position);
}

#[actix_rt::test]
async fn a_standby_is_no_place_to_read_the_feed_and_a_lost_connection_is_found_out() {
    let cluster = Cluster::shared();
    let database = start(&settings(&cluster.replica.url("postgres", "postgres"), "", &[])).await;
    assert_eq!(database.feed(reader("reader")).start().await.unwrap_err(), FeedError::NotPrimary);

    let mut site = site().await;
    site.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
    );
    for what in ["the connection is gone", "and comes back", "for what needs no cursor"] {
        let error = site.feed.poll(&site.cursor, false).await.unwrap_err();
        assert!(matches!(error, FeedError::Unavailable(_)), "{what}: {error:?}");
        site.feed.fence().await.unwrap();
    }
    site.sql("INSERT INTO t VALUES (1)");
    let started = site.feed.start().await.unwrap();
    assert_eq!(started.cursor, site.cursor, "it goes on where it was");
    assert_eq!(site.news().await, ["t:1", "t:any"]);
}

#[actix_rt::test]
async fn after_a_promotion_a_cursor_is_worth_nothing() {
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::private("feed-promoted")));
    let mut site = Site::on(cluster, T, &[watch("t", "t:{id}")]).await;
    let last = site.feed.fence().await.unwrap();
    assert!(site.feed.advance(&site.cursor, last).await.unwrap());
    cluster.catch_up();
    cluster.replica.promote().unwrap();
    let promoted = start(&settings(&cluster.replica.url("postgres", &site.name), "", &[])).await;
    let started = promoted.feed(reader("reader")).start().await.unwrap();
    assert_eq!((started.last, started.position.timeline), (None, Timeline(2)));
    // The old primary lives on. Once the new timeline is known, it is read no more.
    site.database.see(last.system, Timeline(2));
    assert_eq!(site.feed.poll(&site.cursor, true).await.unwrap_err(), FeedError::NotPrimary);
    assert_eq!(site.feed.start().await.unwrap_err(), FeedError::NotPrimary);
}
