//! A bulk load: the whole history of the European Central Bank.

use std::collections::BTreeSet;
use std::time::Instant;

use mainstay::ramp;

use super::{Site, maintain, migrate, watch};

/// Two hundred thousand rows are told as what they are tagged: each tag once, however many rows and statements it took.
#[actix_rt::test]
async fn the_whole_history_of_rates_costs_one_tag_for_each_currency() {
    let mut site = Site::new("", &[]).await;
    maintain(&site.settings, |conn| ramp::migrate(conn).unwrap());
    migrate(&site.settings, &[watch("exchange_rates", "rates:{currency}")], false).unwrap();
    site.news().await;
    let import = |conn: &mut _| {
        let began = Instant::now();
        let report = ramp::import::rates(conn, ramp::import::bundled(), |_, _| {}).unwrap();
        (report, began.elapsed())
    };
    let (report, took) = maintain(&site.settings, import);
    println!("{} rates with triggers: {took:?}", report.changed);
    let batch = site.poll().await;
    let tags: BTreeSet<&String> = batch.soft.iter().collect();
    assert_eq!((tags.len(), batch.soft.len()), (report.currencies + 1, report.currencies + 1), "{tags:?}");
    // One row a statement, with each of its tags once.
    let most: usize = site.sql("SELECT max(cardinality(tags)) FROM mainstay.change_feed").parse().unwrap();
    assert!(most <= report.currencies + 1, "{most}");
    let rows: usize = site.sql("SELECT count(*) FROM mainstay.change_feed").parse().unwrap();
    assert!(rows <= report.rates / 10_000 + 3, "{rows}");
    assert_eq!(maintain(&site.settings, import).0.changed, 0);
    assert!(site.news().await.is_empty(), "nothing changed, and nothing is told");
}
