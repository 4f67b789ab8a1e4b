//! What customers may ask for, and what they are told where they may not.

use serde_json::{Value, json};

use super::super::Customer;
use super::{assert_sound, event, signature, sql, steps, with_rates};

#[test]
fn what_cannot_be_ordered_is_refused_by_name() {
    let database = with_rates();
    let customer = Customer::new(&database, 1, "AFRI", 50_000_000);
    customer.fund("USD", 50_000);
    let onramp = |fields: &str| format!(r#"{{{fields},"asset":"AFRI","provider":"sandbox"}}"#);
    let mint = |fields: &str| format!(r#"{{{fields},"asset":"AFRI"}}"#);
    let cases = [
        ("onramp", onramp(r#""amount":0,"currency":"USD""#), "body_invalid", "amount"),
        ("onramp", onramp(r#""amount":-1,"currency":"USD""#), "body_invalid", "amount"),
        ("onramp", onramp(r#""amount":1.5,"currency":"USD""#), "body_invalid", "amount"),
        ("onramp", onramp(r#""amount":9223372036854775808,"currency":"USD""#), "body_invalid", "amount"),
        ("onramp", onramp(r#""amount":9223372036854775807,"currency":"USD""#), "body_invalid", "too large"),
        ("onramp", onramp(r#""amount":1000000000000001,"currency":"USD""#), "body_invalid", "too large"),
        ("onramp", onramp(r#""amount":50,"currency":"USD""#), "body_invalid", "the fee, which is 50"),
        ("onramp", onramp(r#""amount":1000001,"currency":"USD""#), "limit_exceeded", "at once"),
        ("onramp", onramp(r#""amount":100000,"currency":"usd""#), "body_invalid", "currency"),
        ("onramp", onramp(r#""amount":100000,"currency":"AFRI""#), "body_invalid", "currency"),
        ("onramp", onramp(r#""amount":100000,"currency":"US\u0000""#), "body_invalid", "currency"),
        ("onramp", onramp(r#""amount":100000,"currency":"XXX""#), "body_invalid", "no onramp in XXX"),
        ("onramp", onramp(r#""amount":100000,"currency":"TRL""#), "body_invalid", "/public/fees"),
        ("onramp", onramp(r#""amount":100000,"currency":"JPY""#), "rate_unavailable", "from JPY to AFRI"),
        ("onramp", onramp(r#""amount":100000,"currency":"USD","note":1"#), "body_invalid", "note"),
        ("onramp", onramp(r#""amount":100000,"amount":1,"currency":"USD""#), "body_invalid", "amount"),
        ("onramp", r#"{"amount":100000,"currency":"USD","asset":"AFRI"}"#.to_owned(), "body_invalid", "provider"),
        (
            "onramp",
            r#"{"amount":100000,"currency":"USD","asset":"AFRI","provider":"x'--"}"#.to_owned(),
            "body_invalid",
            "provider",
        ),
        (
            "onramp",
            r#"{"amount":100000,"currency":"USD","asset":"EUR","provider":"sandbox"}"#.to_owned(),
            "body_invalid",
            "asset",
        ),
        ("onramp", "{".to_owned(), "body_invalid", "EOF"),
        ("onramp", onramp(r#""amount":100000,"currency":"USD""#) + " {}", "body_invalid", "trailing"),
        (
            "offramp",
            onramp(r#""amount":50000001,"currency":"USD""#),
            "insufficient_funds",
            "50000001 minor units of AFRI",
        ),
        ("offramp", onramp(r#""amount":9999,"currency":"USD""#), "body_invalid", "the fee, which is 150"),
        ("mint", onramp(r#""amount":10000,"currency":"USD""#), "body_invalid", "provider"),
        ("mint", r#"{"amount":10000,"currency":"USD","asset":"USD"}"#.to_owned(), "body_invalid", "asset"),
        ("mint", mint(r#""amount":50001,"currency":"USD""#), "insufficient_funds", "50001 minor units of USD"),
        ("mint", mint(r#""amount":10000,"currency":"EUR""#), "insufficient_funds", "EUR"),
        ("redemption", mint(r#""amount":50000001,"currency":"USD""#), "insufficient_funds", "AFRI"),
        // Above the limit as well: what is not there is not there.
        ("redemption", mint(r#""amount":10000000001,"currency":"USD""#), "insufficient_funds", "AFRI"),
    ];
    for (number, (product, body, code, named)) in cases.iter().enumerate() {
        let (handler, key) = (format!("ramp.{product}.create"), number.to_string());
        let error = customer.call(&handler, "", &[("idempotency-key", &key)], body).unwrap_err();
        assert_eq!((error.code.as_str(), error.detail.contains(named)), (*code, true), "{product} {body}: {error}");
        let keyless = customer.call(&handler, "", &[], body).unwrap_err();
        let expected = if *code == "body_invalid" {
            ["body_invalid", "idempotency_key_missing"]
        } else {
            ["idempotency_key_missing"; 2]
        };
        assert!(expected.contains(&keyless.code.as_str()), "{body}: {keyless}");
    }
    assert_eq!(sql(&database, "SELECT count(*) FROM ramp.orders"), "0");
    assert_eq!(sql(&database, "SELECT count(*) FROM ramp.daily_volumes"), "0", "what was refused is not counted");
    assert_eq!((customer.balance("AFRI"), customer.balance("USD")), ((50_000_000, 0), (50_000, 0)));
    customer
        .order("offramp", &json!({ "amount": 50_000_000, "currency": "USD", "asset": "AFRI", "provider": "sandbox" }))
        .unwrap();
    assert_sound(&database);
}

#[test]
fn what_is_given_counts_against_the_limits() {
    let database = with_rates();
    let customer = Customer::new(&database, 0, "USD", 0);
    let order = |amount: i64| {
        customer
            .order("onramp", &json!({ "amount": amount, "currency": "USD", "asset": "AFRI", "provider": "sandbox" }))
    };
    for number in 0..5 {
        order(9_000 + number).unwrap();
    }
    let error = order(9_900).unwrap_err();
    assert_eq!((error.code.as_str(), error.detail.contains("today")), ("limit_exceeded", true), "{error}");
}

#[test]
fn an_order_is_cancelled_once_by_whose_it_is_while_it_can_be() {
    let database = with_rates();
    let (customer, other) = (Customer::new(&database, 1, "AFRI", 20_000_000), Customer::new(&database, 1, "AFRI", 0));
    let wanted = json!({ "amount": 20_000_000, "currency": "USD", "asset": "AFRI", "provider": "sandbox" });
    let order = customer.order("offramp", &wanted).unwrap();
    let id = order["id"].as_str().unwrap();
    let nobody = "00000000-0000-4000-8000-000000000000";
    for (who, product, id) in [
        (&other, "offramp", id),
        (&customer, "onramp", id),
        (&customer, "offramp", nobody),
        (&customer, "offramp", "x"),
    ] {
        assert_eq!(who.get_order(product, id).unwrap_err().code.as_str(), "not_found");
        assert_eq!(who.cancel_order(product, id, "key").unwrap_err().code.as_str(), "not_found");
    }
    let cancel = |headers: &[(&str, &str)], body: &str| {
        customer.call("ramp.offramp.cancel", &format!("id={id}"), headers, body).unwrap_err().code.as_str()
    };
    assert_eq!(cancel(&[], "{}"), "idempotency_key_missing");
    assert_eq!(cancel(&[("idempotency-key", "x")], r#"{"why":"so"}"#), "body_invalid");
    assert_eq!(customer.balance("AFRI"), (0, 20_000_000));

    let cancelled = customer.cancel_order("offramp", id, "mine").unwrap();
    assert_eq!(
        (&cancelled["status"], steps(&cancelled)),
        (&json!("cancelled"), vec!["created pending".to_owned(), "cancelled cancelled".to_owned()])
    );
    assert_eq!(customer.balance("AFRI"), (20_000_000, 0));
    assert_eq!(customer.cancel_order("offramp", id, "mine").unwrap(), cancelled, "its first answer");
    let again = customer.cancel_order("offramp", id, "another").unwrap_err();
    assert_eq!((again.code.as_str(), again.detail.contains("is cancelled")), ("state_conflict", true), "{again}");

    let wanted = json!({ "amount": 20_000_000, "currency": "EUR", "asset": "AFRI", "provider": "sandbox" });
    let order = customer.order("offramp", &wanted).unwrap();
    assert_eq!(event(&database, &order, "payout.processing"), "processing");
    let late = customer.cancel_order("offramp", order["id"].as_str().unwrap(), "late").unwrap_err();
    assert_eq!((late.code.as_str(), late.detail.contains("processing")), ("state_conflict", true), "{late}");
    assert_eq!(customer.balance("AFRI"), (0, 20_000_000));
    assert_sound(&database);
}

/// What others may not tell: of orders that are not theirs, what only customers and the clock may say, and amounts that there are not.
#[test]
fn providers_tell_of_their_own_orders_and_in_their_own_words() {
    let database = with_rates();
    let customer = Customer::new(&database, 1, "AFRI", 20_000_000);
    let wanted = json!({ "amount": 100_000, "currency": "USD", "asset": "AFRI", "provider": "sandbox" });
    let order = customer.order("onramp", &wanted).unwrap();
    let id = order["id"].as_str().unwrap();
    let other = "00000000-0000-4000-8000-000000000001";
    sql(
        &database,
        &format!(
            "SELECT ramp.create_order('{other}', '{}', 'onramp', 'other', 1000, 'USD', 900, 'USD', 100, '1', 900)",
            customer.account
        ),
    );
    let mut number = 0;
    let mut deliver = |kind: &str, data: Value| {
        number += 1;
        let body = json!({ "id": format!("evt_{number}"), "type": kind, "data": data }).to_string();
        let answer =
            customer.call("ramp.webhooks.receive", "provider=sandbox", &[("x-signature", &signature(&body))], &body);
        let answer: Value = serde_json::from_slice(&answer.unwrap().body).unwrap();
        answer["outcome"].as_str().unwrap().to_owned()
    };
    for (kind, data, outcome) in [
        ("payment.succeeded", json!({ "order_id": "00000000-0000-4000-8000-000000000000" }), "unknown_order"),
        ("payment.succeeded", json!({ "order_id": other }), "unknown_order"),
        ("cancelled", json!({ "order_id": id }), "unknown_kind"),
        ("expired", json!({ "order_id": id }), "unknown_kind"),
        ("amount_differs", json!({ "order_id": id }), "unknown_kind"),
        ("payment.invented", json!({ "order_id": id }), "unknown_kind"),
        ("payout.succeeded", json!({ "order_id": id }), "not_allowed"),
        ("payment.succeeded", json!({ "order_id": id, "amount": 0 }), "amount_invalid"),
        ("payment.succeeded", json!({ "order_id": id, "amount": -100_000 }), "amount_invalid"),
        ("payment.succeeded", json!({ "order_id": id, "amount": i64::MAX }), "amount_invalid"),
        ("payment.succeeded", json!({ "order_id": id, "amount": 100_000, "currency": "XXX" }), "currency_invalid"),
        ("payment.succeeded", json!({ "order_id": id, "amount": 100_000, "currency": "USD" }), "completed"),
    ] {
        assert_eq!(deliver(kind, data.clone()), outcome, "{kind} {data}");
    }
    assert_eq!(customer.balance("AFRI"), (1_009_800_000, 0));
    assert_eq!(sql(&database, &format!("SELECT status FROM ramp.orders WHERE id = '{other}'")), "awaiting_payment");
    assert_sound(&database);
}
