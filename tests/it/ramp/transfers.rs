//! Transfers and the limits of those who send them.

use serde_json::{Value, json};

use super::{Customer, migrated_database, sql};

fn shown(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

#[test]
fn a_transfer_is_shown_to_both_and_to_nobody_else() {
    let database = migrated_database();
    let customer = |funds| Customer::new(&database, 1, "USD", funds);
    let (one, other, third) = (customer(100_000), customer(0), customer(0));
    let answer = one.send(&other, 10_000, "USD", "key").unwrap();
    let transfer = shown(&answer.body);
    let id = transfer["id"].as_str().unwrap();
    // 0.05 % of 100 dollars, on top of the amount.
    assert_eq!(
        (answer.status, &transfer),
        (
            201,
            &json!({ "status": "completed", "id": id, "from_account_id": one.account, "to_account_id": other.account,
                "currency": "USD", "amount": 10_000, "fee": 5, "created_at": transfer["created_at"] })
        )
    );
    assert_eq!((one.available("USD"), other.available("USD")), (89_995, 10_000));
    assert_eq!(sql(&database, "SELECT posted FROM ramp.ledger_balances WHERE holder = 'fees'"), "5");
    let get = |who: &Customer, id: &str| who.call("ramp.transfers.get", &format!("id={id}"), &[], "");
    for who in [&one, &other] {
        assert_eq!(get(who, id).unwrap().body, answer.body);
    }
    for (who, id) in [(&third, id), (&one, "00000000-0000-4000-8000-000000000000"), (&one, "seven")] {
        assert_eq!(get(who, id).unwrap_err().code.as_str(), "not_found");
    }
    sql(&database, &format!("SELECT ramp.reverse(gen_random_uuid(), '{id}')"));
    assert_eq!(shown(&get(&other, id).unwrap().body)["status"], "reversed");
    assert_eq!((one.available("USD"), other.available("USD")), (100_000, 0));
}

#[test]
fn what_cannot_be_sent_is_refused_by_name() {
    let database = migrated_database();
    let (one, other) = (Customer::new(&database, 1, "USD", 1_000), Customer::new(&database, 1, "USD", 0));
    let post = |body: &str| one.call("ramp.transfers.create", "", &[("idempotency-key", body)], body).unwrap_err();
    let to = &other.account;
    let cases = [
        (r#"{"to_account_id":"TO","amount":0,"currency":"USD"}"#, "body_invalid", "amount"),
        (r#"{"to_account_id":"TO","amount":-5,"currency":"USD"}"#, "body_invalid", "amount"),
        (r#"{"to_account_id":"TO","amount":1.5,"currency":"USD"}"#, "body_invalid", "amount"),
        (r#"{"to_account_id":"TO","amount":"1","currency":"USD"}"#, "body_invalid", "amount"),
        (r#"{"to_account_id":"TO","amount":9223372036854775808,"currency":"USD"}"#, "body_invalid", "amount"),
        (r#"{"to_account_id":"TO","amount":1}"#, "body_invalid", "currency"),
        (r#"{"to_account_id":"TO","amount":1,"currency":"US\u0000"}"#, "body_invalid", "currency"),
        (r#"{"to_account_id":"TO","amount":1,"currency":"XXXXX"}"#, "body_invalid", "currency"),
        (r#"{"to_account_id":"TO","amount":1,"currency":"USD","note":"x"}"#, "body_invalid", "note"),
        (r#"{"to_account_id":"TO","amount":1,"currency":"USD"} {}"#, "body_invalid", "trailing"),
        (r#"{"to_account_id":"somebody","amount":1,"currency":"USD"}"#, "body_invalid", "to_account_id"),
        ("{", "body_invalid", "EOF"),
        (r#" ["TO",1,"USD"]"#, "body_invalid", "object"),
        // More than the limits as well: what is not there is not there.
        (
            r#"{"to_account_id":"TO","amount":900000000000000,"currency":"USD"}"#,
            "insufficient_funds",
            "900000000000500",
        ),
        (r#"{"to_account_id":"ME","amount":1,"currency":"USD"}"#, "body_invalid", "to_account_id"),
        (
            r#"{"to_account_id":"00000000-0000-4000-8000-000000000000","amount":1,"currency":"USD"}"#,
            "not_found",
            "to_account_id",
        ),
        (r#"{"to_account_id":"TO","amount":1,"currency":"XXX"}"#, "body_invalid", "there is no XXX"),
        (r#"{"to_account_id":"TO","amount":1,"currency":"SEK"}"#, "limit_exceeded", "may not send SEK"),
        (r#"{"to_account_id":"TO","amount":1,"currency":"CHF"}"#, "insufficient_funds", "2 minor units of CHF"),
        (r#"{"to_account_id":"TO","amount":1500001,"currency":"JPY"}"#, "insufficient_funds", "JPY"),
        (r#"{"to_account_id":"TO","amount":1,"currency":"USD'; --"}"#, "body_invalid", "currency"),
        (r#"{"to_account_id":"TO","amount":1001,"currency":"USD"}"#, "insufficient_funds", "1002"),
        (r#"{"to_account_id":"TO","amount":1000,"currency":"USD"}"#, "insufficient_funds", "1001"),
    ];
    for (body, code, named) in cases {
        let error = post(&body.replace("TO", to).replace("ME", &one.account));
        assert_eq!((error.code.as_str(), error.detail.contains(named)), (code, true), "{body}: {error}");
    }
    assert_eq!(sql(&database, "SELECT count(*) FROM ramp.transfers"), "0");
    assert_eq!(one.send(&other, 999, "USD", "all").unwrap().status, 201);
    assert_eq!(one.available("USD"), 0);
}

#[test]
fn what_has_fees_has_limits_for_every_tier() {
    let database = migrated_database();
    let without = "SELECT count(*) FROM fee_schedules f CROSS JOIN generate_series(0, 2) AS tier
        WHERE NOT EXISTS (SELECT FROM ramp.kyc_limits l WHERE l.currency = f.currency AND l.kyc_tier = tier)";
    assert_eq!(sql(&database, without), "0");
}

#[test]
fn who_has_no_account_sends_nothing() {
    let database = migrated_database();
    let somebody = Customer::new(&database, 1, "USD", 0);
    for sub in ["billing", "00000000-0000-4000-8000-000000000000"] {
        let nobody = Customer { database: database.clone(), account: sub.to_owned() };
        let error = nobody.send(&somebody, 1, "USD", "key").unwrap_err();
        assert_eq!(error.code.as_str(), "claim_invalid", "{sub}: {error}");
    }
}

/// The limits of a tier, also where many requests at once would each find room below them.
#[test]
fn limits_hold_for_all_requests_together() {
    let database = migrated_database();
    let (one, other) = (Customer::new(&database, 0, "USD", 1_000_000), Customer::new(&database, 1, "USD", 0));
    let error = one.send(&other, 10_001, "USD", "too much").unwrap_err();
    assert_eq!((error.code.as_str(), error.detail.contains("at once")), ("limit_exceeded", true), "{error}");
    let answers: Vec<_> = std::thread::scope(|scope| {
        let (one, other) = (&one, &other);
        let sent: Vec<_> =
            (0..8).map(|copy| scope.spawn(move || one.send(other, 9_000, "USD", &format!("key {copy}")))).collect();
        sent.into_iter().map(|sent| sent.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 5, "500 dollars a day: {answers:?}");
    for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!((error.code.as_str(), error.detail.contains("today")), ("limit_exceeded", true), "{error}");
    }
    assert_eq!(other.available("USD"), 45_000);
    assert_eq!(one.send(&other, 5_000, "USD", "the rest").unwrap().status, 201);
    assert_eq!(one.send(&other, 1, "USD", "more").unwrap_err().code.as_str(), "limit_exceeded");
    // Another day, another tier.
    sql(&database, "UPDATE ramp.daily_volumes SET day = day - 1");
    assert_eq!(one.send(&other, 1, "USD", "tomorrow").unwrap().status, 201);
    sql(&database, &format!("UPDATE ramp.accounts SET kyc_tier = 1 WHERE id = '{}'", one.account));
    assert_eq!(one.send(&other, 500_000, "USD", "known better").unwrap().status, 201);
}
