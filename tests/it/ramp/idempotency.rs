//! What a key promises: one effect, and the same answer for ever after.

use mainstay::database::maintenance::MaintenancePool;
use mainstay::ramp::idempotency;
use postgres::{Client, NoTls};
use std::time::Duration;

use super::{Customer, PRIMARY, is_replayed, migrated_database, sql};
use crate::support::settings;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Two customers of a database of their own; the first has 1,000 AFRI in minor units.
fn two() -> (String, Customer, Customer) {
    let database = migrated_database();
    let (one, other) = (Customer::new(&database, 1, "AFRI", 1_000), Customer::new(&database, 1, "AFRI", 0));
    (database, one, other)
}

#[test]
fn a_repeated_request_gets_the_first_answer_byte_for_byte() {
    let (_, one, other) = two();
    let first = one.send(&other, 100, "AFRI", "first").unwrap();
    assert_eq!((first.status, is_replayed(&first.headers)), (201, false));
    let again = one.send(&other, 100, "AFRI", "first").unwrap();
    assert_eq!((again.status, &again.body, &again.content_type), (201, &first.body, &first.content_type));
    assert!(is_replayed(&again.headers));
    // The same request in another spelling is the same request.
    let spelled = format!(
        "{{ \"currency\": \"AFRI\",\n \"amount\": 100, \"to_account_id\": \"{}\" }}",
        other.account.to_uppercase()
    );
    let spelled = one.call("ramp.transfers.create", "", &[("idempotency-key", "first")], &spelled).unwrap();
    assert_eq!((&spelled.body, is_replayed(&spelled.headers)), (&first.body, true));
    assert_eq!((one.available("AFRI"), other.available("AFRI")), (900, 100));
    // Another key is another intent, and another customer's key is another key.
    assert_ne!(one.send(&other, 100, "AFRI", "second").unwrap().body, first.body);
    assert!(!is_replayed(&other.send(&one, 50, "AFRI", "first").unwrap().headers));
    assert_eq!((one.available("AFRI"), other.available("AFRI")), (850, 150));
}

#[test]
fn a_key_of_another_request_is_refused_and_does_nothing() {
    let (_, one, other) = two();
    one.send(&other, 100, "AFRI", "key").unwrap();
    assert_eq!(one.send(&other, 101, "AFRI", "key").unwrap_err().code.as_str(), "idempotency_mismatch");
    assert_eq!(one.send(&other, 100, "USD", "key").unwrap_err().code.as_str(), "idempotency_mismatch");
    assert_eq!(other.available("AFRI"), 100);
    assert!(is_replayed(&one.send(&other, 100, "AFRI", "key").unwrap().headers), "the first one stands");
}

#[test]
fn a_request_without_one_right_key_is_refused() {
    let (_, one, other) = two();
    let body = format!(r#"{{"to_account_id":"{}","amount":1,"currency":"AFRI"}}"#, other.account);
    let longest = "k".repeat(255);
    let refused: [&[(&str, &str)]; 5] = [
        &[],
        &[("idempotency-key", "")],
        &[("idempotency-key", "tab\tbed")],
        &[("idempotency-key", "schlüssel")],
        &[("idempotency-key", "one"), ("idempotency-key", "two")],
    ];
    for headers in refused {
        let error = one.call("ramp.transfers.create", "", headers, &body).unwrap_err();
        assert_eq!(error.code.as_str(), "idempotency_key_missing", "{headers:?}");
    }
    let longer = format!("{longest}k");
    let error = one.call("ramp.transfers.create", "", &[("idempotency-key", &longer)], &body).unwrap_err();
    assert_eq!(error.code.as_str(), "idempotency_key_missing");
    assert_eq!(other.available("AFRI"), 0);
    assert_eq!(one.call("ramp.transfers.create", "", &[("idempotency-key", &longest)], &body).unwrap().status, 201);
    assert_eq!(one.send(&other, 1, "AFRI", "with spaces, \"quotes\" and ~").unwrap().status, 201);
}

/// Who was told that nothing happened can rely on it, whatever copies of the request are still under way.
#[test]
fn a_refusal_stays_one_for_its_key() {
    let (database, one, other) = two();
    let first = one.send(&other, 1_001, "AFRI", "key").unwrap_err();
    assert_eq!((first.code.as_str(), first.headers.is_empty()), ("insufficient_funds", true), "{first}");
    one.fund("AFRI", 500);
    let again = one.send(&other, 1_001, "AFRI", "key").unwrap_err();
    assert_eq!((again.code, &again.detail, is_replayed(&again.headers)), (first.code, &first.detail, true));
    assert_eq!(one.send(&other, 1_001, "AFRI", "new key").unwrap().status, 201);
    assert_eq!(sql(&database, "SELECT sum(amount) FROM ramp.daily_volumes"), "1001", "what was refused is not counted");
}

/// What says nothing of the request itself leaves its key free.
#[test]
fn a_request_that_failed_may_be_tried_again_with_its_key() {
    let (database, one, other) = two();
    sql(&database, "ALTER TABLE ramp.transfers ADD CONSTRAINT broken CHECK (amount <> 7) NOT VALID");
    assert_eq!(one.send(&other, 7, "AFRI", "key").unwrap_err().code.as_str(), "query_failed");
    let left = "SELECT (SELECT count(*) FROM ramp.idempotency_keys), (SELECT count(*) FROM ramp.daily_volumes)";
    assert_eq!((sql(&database, left).as_str(), one.available("AFRI")), ("0|0", 1_000));
    assert_eq!(one.send(&other, 1, "AFRI", "key").unwrap().status, 201, "even for something else");
    sql(&database, "ALTER TABLE ramp.transfers DROP CONSTRAINT broken");
    assert_eq!(one.send(&other, 7, "AFRI", "other key").unwrap().status, 201);
}

#[test]
fn a_request_in_flight_is_not_waited_for() {
    let (database, one, other) = two();
    let mut client = Client::connect(&PRIMARY.url("postgres", &database), NoTls).unwrap();
    let mut open = client.transaction().unwrap();
    let claim = format!(
        "SELECT ramp.claim_idempotency_key('{}', 'ramp.transfers.create', 'key', sha256(''::bytea))",
        one.account
    );
    assert_eq!(open.query_one(&claim, &[]).unwrap().get::<_, &str>(0), "claimed");
    assert_eq!(one.send(&other, 1, "AFRI", "key").unwrap_err().code.as_str(), "idempotency_in_flight");
    assert_eq!(one.send(&other, 1, "AFRI", "other key").unwrap().status, 201);
    open.rollback().unwrap();
    assert_eq!(one.send(&other, 1, "AFRI", "key").unwrap().status, 201, "its server died, and took all of it back");
}

#[test]
fn of_many_copies_at_once_one_has_the_effect() {
    let (database, one, other) = two();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let (one, other) = (&one, &other);
        let copies: Vec<_> = (0..12)
            .map(|copy: i32| scope.spawn(move || one.send(other, 10, "AFRI", &format!("key {}", copy % 2))))
            .collect();
        copies.into_iter().map(|copy| copy.join().unwrap()).collect()
    });
    let granted: Vec<_> = answers.iter().flatten().collect();
    let bodies: std::collections::HashSet<_> = granted.iter().map(|answer| &answer.body).collect();
    let first = granted.iter().filter(|answer| !is_replayed(&answer.headers)).count();
    assert_eq!((bodies.len(), first), (2, 2), "one for each key: {answers:?}");
    let refused = answers.iter().filter_map(|answer| answer.as_ref().err());
    refused.for_each(|error| assert_eq!(error.code.as_str(), "idempotency_in_flight", "{error}"));
    assert_eq!((one.available("AFRI"), other.available("AFRI")), (980, 20));
    assert_eq!(sql(&database, "SELECT count(*) FROM ramp.transfers"), "2");
}

#[test]
fn keys_are_forgotten_after_a_day_and_not_before() {
    let (database, one, other) = two();
    for key in ["old", "young"] {
        one.send(&other, 1, "AFRI", key).unwrap();
    }
    let age = |hours: u32, key: &str| {
        let hours = format!("now() - interval '{hours} hours'");
        sql(&database, &format!("UPDATE ramp.idempotency_keys SET created_at = {hours} WHERE key = '{key}'"));
    };
    age(25, "old");
    age(23, "young");
    let pool = MaintenancePool::open(&settings(&PRIMARY.url("postgres", &database), "", &[]).database).unwrap();
    let mut conn = pool.get().unwrap();
    assert_eq!(idempotency::prune(&mut conn, DAY * 2).unwrap(), 0);
    assert_eq!(idempotency::prune(&mut conn, Duration::ZERO).unwrap(), 1, "a day, whatever is asked for");
    assert!(is_replayed(&one.send(&other, 1, "AFRI", "young").unwrap().headers));
    assert!(!is_replayed(&one.send(&other, 1, "AFRI", "old").unwrap().headers));
}
