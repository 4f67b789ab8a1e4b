//! What is stored, found, kept and refused.

use std::sync::Arc;
use std::time::Instant;

use mainstay::cache::entry::{Entry, Origin};
use mainstay::cache::key::Key;
use mainstay::cache::shared::Look;
use mainstay::cache::variants::Encoding;
use mainstay::position::{SystemId, Timeline};

use super::*;

#[actix_rt::test]
async fn what_one_instance_stores_another_one_finds() {
    let site = Site::new("shared-store");
    let (one, other) = (site.instance(), site.instance());
    assert!(other.found().await.is_none());
    for text in ["short".to_owned(), "compressible ".repeat(500), "x".repeat(700_000)] {
        let made = entry(1, &text);
        one.put(KEY, &made, None).await;
        let found = other.found().await.unwrap().entry;
        assert_eq!((found.origin, found.told(), found.as_of()), (Origin::Shared, made.told(), made.as_of()));
        assert_eq!((&found.tags, found.limits, found.cost()), (&made.tags, made.limits, made.cost()));
        for encoding in [Encoding::Identity, Encoding::Gzip, Encoding::Brotli] {
            assert_eq!(found.body.get(encoding), made.body.get(encoding));
        }
    }
    assert_eq!((other.lookups("miss"), other.lookups("corrupt")), (1, 0));
    assert!(site.keys("").iter().all(|key| key.starts_with("mainstay:")), "{:?}", site.keys(""));
    let bytes: usize = site.run(&[b"STRLEN", &site.entry_key()]);
    assert!(bytes < 70_000, "it is kept compressed: {bytes}");
}

#[actix_rt::test]
async fn nothing_is_found_for_another_request_or_in_another_namespace() {
    let site = Site::new("shared-names");
    let one = site.instance();
    one.put(KEY, &entry(1, "a"), None).await;
    assert!(matches!(one.look(KEY, b"/other", &FINGERPRINT).await, Look::Nothing));
    assert!(matches!(one.look(KEY, CANONICAL, &[6; 16]).await, Look::Nothing));
    assert!(matches!(one.look(Key(8), CANONICAL, &FINGERPRINT).await, Look::Nothing));
    let more = [&PATIENT[..], &[("MAINSTAY__CACHE__NAMESPACE", "other")]].concat();
    let other = Instance::new(&site.redis.url(), &more);
    assert!(other.found().await.is_none());
    // Even where the bytes are carried over.
    let copy = String::from_utf8(site.entry_key()).unwrap().replace("mainstay", "other");
    let _copied: i64 = site.run(&[b"COPY", &site.entry_key(), copy.as_bytes()]);
    assert!(other.found().await.is_none());
    assert_eq!((other.lookups("miss"), other.lookups("corrupt")), (1, 1));
    assert_eq!(one.body().await.as_deref(), Some("a"));
}

#[actix_rt::test]
async fn an_entry_that_was_told_less_never_replaces_one_that_was_told_more() {
    let site = Site::new("shared-stamps");
    let instance = site.instance();
    let on = |system, timeline, lsn| {
        Some(mainstay::position::Position { system: SystemId(system), timeline: Timeline(timeline), lsn: Lsn(lsn) })
    };
    let steps = [
        (None, true, "whatever there is, is better than nothing"),
        (None, true, "as good"),
        (on(1, 1, 0), true, "told something"),
        (None, false, "told nothing"),
        (on(1, 1, 255), true, "told more"),
        (on(1, 1, 256), true, "told more, and more digits"),
        (on(1, 1, 255), false, "told less"),
        (on(1, 1, 256), true, "as good"),
        (on(1, 2, 1), true, "a later timeline"),
        (on(1, 1, u64::MAX), false, "an earlier timeline"),
        (on(u64::MAX, 1, 1), true, "another cluster, which has no order with the first"),
        (on(1, 9, 9), true, "and back"),
    ];
    let mut expected = String::new();
    for (step, (told, is_kept, why)) in steps.into_iter().enumerate() {
        let text = format!("{step}: {why}");
        instance.put(KEY, &Arc::new(Entry::new(CANONICAL, FINGERPRINT, parts(told, &text))), None).await;
        if is_kept {
            expected = text;
        }
        assert_eq!(instance.body().await, Some(expected.clone()), "after {why}");
    }
}

#[actix_rt::test]
async fn the_age_goes_on_by_the_clock_of_the_store() {
    let site = Site::new("shared-age");
    let instance = site.instance();
    let mut parts = parts(Some(at(1)), "a");
    parts.made -= Duration::from_secs(100);
    instance.put(KEY, &Arc::new(Entry::new(CANONICAL, FINGERPRINT, parts)), None).await;
    let age = async || {
        let found = instance.found().await.unwrap();
        found.entry.age(Instant::now()).as_secs()
    };
    let young = age().await;
    assert!((100..160).contains(&young), "{young}");
    // As if it had been there for an hour: the retention is a day.
    let left_ms = (23 * HOUR).as_millis().to_string();
    let _set: i64 = site.run(&[b"PEXPIRE", &site.entry_key(), left_ms.as_bytes()]);
    let old = age().await;
    assert!((3700..3760).contains(&old), "{old}");
    // Another instance may be set to keep entries for another time: the entry says how long it was to be kept.
    let more = [&PATIENT[..], &[("MAINSTAY__CACHE__RETENTION", "2h")]].concat();
    let other = Instance::new(&site.redis.url(), &more);
    let old = other.found().await.unwrap().entry.age(Instant::now()).as_secs();
    assert!((3700..3820).contains(&old), "{old}");
}

#[actix_rt::test]
async fn entries_are_kept_for_the_retention_and_absences_as_long_as_they_are_of_use() {
    let site = Site::new("shared-retention");
    let instance = site.instance();
    let left_secs = || site.run::<u64>(&[b"TTL", &site.entry_key()]);
    instance.put(KEY, &entry(1, "a"), None).await;
    assert!((86_300..=86_400).contains(&left_secs()), "{}", left_secs());
    let mut parts = parts(Some(at(2)), "");
    parts.status = 404;
    parts.absence = Some("there is no such rate".into());
    parts.limits = Limits {
        fresh: Duration::from_secs(90),
        stale_while_revalidate: Duration::ZERO,
        stale_if_error: Duration::ZERO,
    };
    instance.put(KEY, &Arc::new(Entry::new(CANONICAL, FINGERPRINT, parts)), None).await;
    assert!((30..=90).contains(&left_secs()), "{}", left_secs());
    assert_eq!(instance.found().await.unwrap().entry.absence.as_deref(), Some("there is no such rate"));
}

#[actix_rt::test]
async fn a_damaged_or_foreign_value_is_a_miss_and_makes_room() {
    let site = Site::new("shared-corrupt");
    let instance = site.instance();
    instance.put(KEY, &entry(1, "a"), None).await;
    let key = site.entry_key();
    let good: Vec<u8> = site.run(&[b"GET", &key]);
    let flipped = |place: usize| {
        let mut value = good.clone();
        value[place] ^= 1;
        value
    };
    let mut corrupt = 0;
    // The stamp, too: were it believed, its value would keep all others out.
    for value in [Vec::new(), b"x".to_vec(), good[..50].to_vec(), flipped(0), flipped(6), flipped(good.len() - 1)] {
        let _set: () = site.run(&[b"SET", &key, &value, b"PX", b"60000"]);
        assert!(instance.found().await.is_none(), "{value:?}");
        corrupt += 1;
        assert_eq!(instance.lookups("corrupt"), corrupt);
        instance.put(KEY, &entry(1, "b"), None).await;
        assert_eq!(instance.body().await.as_deref(), Some("b"));
    }
    let _kept_for_ever: i64 = site.run(&[b"PERSIST", &key]);
    assert!(instance.found().await.is_none(), "nobody knows how old it is");
    // What is no string at all is refused by Redis, which says nothing of Redis itself.
    let _pushed: i64 = site.run(&[b"RPUSH", &key, b"x"]);
    for _ in 0..10 {
        assert!(instance.is_unavailable().await);
    }
    assert_eq!((instance.failures("refused"), instance.lookups("unavailable")), (10, 10));
    let _gone: i64 = site.run(&[b"DEL", &key]);
    assert!(instance.found().await.is_none(), "the breaker is closed");
}
