//! Orders: what they cost, what they move, and what may become of them.

mod lists;
mod requests;
mod states;

use mainstay::error::Error;
use mainstay::ramp;
use mainstay::source::handler::Registry;
use postgres::{Client, NoTls};
use serde_json::{Value, json};

use super::{Customer, PRIMARY, migrated_database, sql};
use crate::openapi::checker::misfit;

const ONE_RATE: &str = "INSERT INTO exchange_rates (date, currency, rate) \
                        VALUES ('2026-10-30', 'USD', 1.1172), ('2026-10-30', 'ZAR', 18.6455), ('2026-10-30', 'GBP', 0.8338)";

/// A database with the rates of one fixing.
fn with_rates() -> String {
    let database = migrated_database();
    sql(&database, ONE_RATE);
    database
}

fn client(database: &str) -> Client {
    Client::connect(&PRIMARY.url("postgres", database), NoTls).unwrap()
}

/// That nothing is where it should not be.
fn assert_sound(database: &str) {
    assert_eq!(sql(database, "SELECT * FROM ramp.ledger_discrepancies"), "");
    assert_eq!(sql(database, "SELECT * FROM ramp.order_discrepancies"), "");
    assert_eq!(sql(database, "SELECT * FROM ramp.ledger_accounts WHERE posted - held < balance_min OR held < 0"), "");
}

/// What a system account has of each currency.
fn system(database: &str, holder: &str) -> String {
    let balances = format!(
        "SELECT coalesce(string_agg(currency || ' ' || posted, ', ' ORDER BY currency), '') FROM ramp.ledger_balances \
         WHERE holder = '{holder}' AND posted <> 0"
    );
    sql(database, &balances)
}

/// An answer of a handler, which is as its description says.
fn described(handler: &str, status: u16, body: &[u8]) -> Value {
    let mut registry = Registry::default();
    ramp::register(&mut registry);
    let description = registry.description(handler).unwrap();
    let response = description.responses.iter().find(|response| response.status == status).unwrap();
    let value = serde_json::from_slice(body).unwrap();
    assert_eq!(misfit(&Value::Null, response.schema.as_ref().unwrap(), &value), None, "{handler}: {value}");
    value
}

impl Customer {
    /// Orders something, with a key that is the body.
    fn order(&self, product: &str, body: &Value) -> Result<Value, Error> {
        let body = body.to_string();
        let handler = format!("ramp.{product}.create");
        let answer = self.call(&handler, "", &[("idempotency-key", &body)], &body)?;
        assert_eq!(answer.status, 201);
        Ok(described(&handler, 201, &answer.body))
    }

    fn get_order(&self, product: &str, id: &str) -> Result<Value, Error> {
        let handler = format!("ramp.{product}.get");
        let answer = self.call(&handler, &format!("id={id}"), &[], "")?;
        Ok(described(&handler, 200, &answer.body))
    }

    fn cancel_order(&self, product: &str, id: &str, key: &str) -> Result<Value, Error> {
        let name = format!("ramp.{product}.cancel");
        let answer = self.call(&name, &format!("id={id}"), &[("idempotency-key", key)], "{}")?;
        assert_eq!(answer.status, 200);
        Ok(described(&name, 200, &answer.body))
    }

    /// What is available and held of a currency.
    fn balance(&self, currency: &str) -> (i64, i64) {
        let held = format!(
            "SELECT coalesce(sum(held), 0) FROM ramp.ledger_accounts WHERE holder = '{}' AND currency = '{currency}'",
            self.account
        );
        (self.available(currency), sql(&self.database, &held).parse().unwrap())
    }
}

/// The header with which the sandbox signs a delivery now.
fn signature(body: &str) -> String {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, super::WEBHOOK_SECRET.as_bytes());
    let mac = ring::hmac::sign(&key, format!("{time}.{body}").as_bytes());
    let hex: String = mac.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={time},v1={hex}")
}

/// What an event makes of an order: its new status, or nothing.
fn event(database: &str, order: &Value, event: &str) -> String {
    let id = order["id"].as_str().unwrap();
    sql(database, &format!("SELECT ramp.advance('{id}', '{event}', 'sandbox:evt')"))
}

fn steps(order: &Value) -> Vec<String> {
    let history = order["history"].as_array().unwrap();
    history
        .iter()
        .map(|step| format!("{} {}", step["event"].as_str().unwrap(), step["status"].as_str().unwrap()))
        .collect()
}

/// 0.99 % of 1,000 dollars and 30 cents are 10.20 dollars.
#[test]
fn what_is_paid_from_outside_is_credited_less_the_fee() {
    let database = with_rates();
    let customer = Customer::new(&database, 1, "USD", 0);
    let wanted = json!({ "amount": 100_000, "currency": "USD", "asset": "AFRI", "provider": "sandbox" });
    let order = customer.order("onramp", &wanted).unwrap();
    let expected = json!({
        "id": order["id"], "status": "awaiting_payment", "amount": 100_000, "currency": "USD", "asset": "AFRI", "provider": "sandbox",
        "quote": { "rate": 1, "fee": 1_020, "fee_currency": "USD", "asset_amount": 989_800_000, "expires_at": order["quote"]["expires_at"] },
        "history": [{ "status": "awaiting_payment", "event": "created", "transaction_id": null, "at": order["created_at"] }],
        "created_at": order["created_at"],
    });
    assert_eq!(order, expected);
    assert_eq!(customer.get_order("onramp", order["id"].as_str().unwrap()).unwrap(), order);
    let locked = "SELECT extract(epoch FROM expires_at - created_at)::int FROM ramp.orders";
    assert_eq!((sql(&database, locked).as_str(), customer.balance("AFRI")), ("900", (0, 0)));

    assert_eq!(event(&database, &order, "payment.succeeded"), "completed");
    assert_eq!(event(&database, &order, "payment.succeeded"), "", "once");
    let paid = customer.get_order("onramp", order["id"].as_str().unwrap()).unwrap();
    assert_eq!((&paid["status"], &paid["quote"]), (&json!("completed"), &order["quote"]));
    assert_eq!(steps(&paid), ["created awaiting_payment", "payment.succeeded completed"]);
    assert_eq!((customer.balance("AFRI"), customer.balance("USD")), ((989_800_000, 0), (0, 0)));
    assert_eq!(system(&database, "clearing:sandbox"), "USD -100000");
    assert_eq!(system(&database, "reserve"), "AFRI -989800000, USD 98980");
    assert_eq!(system(&database, "fees"), "USD 1020");
    assert_sound(&database);
}

/// 1,000 tokens are 895.09 euros, of which 0.7 % and 35 cents are the fee.
#[test]
fn what_is_paid_out_is_held_until_it_is() {
    let database = with_rates();
    let customer = Customer::new(&database, 1, "AFRI", 1_500_000_000);
    let wanted = json!({ "amount": 1_000_000_000, "currency": "EUR", "asset": "AFRI", "provider": "sandbox" });
    let order = customer.order("offramp", &wanted).unwrap();
    let quote = &order["quote"];
    assert_eq!(
        (&quote["rate"].to_string()[..], &quote["fee"], &quote["currency_amount"]),
        ("0.89509488", &json!(662), &json!(88_847))
    );
    assert_eq!((&order["status"], customer.balance("AFRI")), (&json!("pending"), (500_000_000, 1_000_000_000)));
    let error = customer
        .order("offramp", &json!({ "amount": 500_000_001, "currency": "EUR", "asset": "AFRI", "provider": "sandbox" }));
    assert_eq!(error.unwrap_err().code.as_str(), "insufficient_funds");
    assert_eq!(event(&database, &order, "payout.processing"), "processing");
    assert_eq!(event(&database, &order, "payout.succeeded"), "completed");
    assert_eq!(event(&database, &order, "payout.processing"), "", "delivered late");
    assert_eq!((customer.balance("AFRI"), customer.balance("EUR")), ((500_000_000, 0), (0, 0)));
    assert_eq!(system(&database, "clearing:sandbox"), "AFRI -1500000000, EUR 88847");
    assert_eq!(system(&database, "reserve"), "AFRI 1000000000, EUR -89509");
    assert_eq!(system(&database, "fees"), "EUR 662");
    assert_sound(&database);
}

/// 10,000 rand less 20 are 597.98 tokens; 100 tokens are 1,668.94 rand, less 40.
#[test]
fn tokens_are_minted_from_a_balance_and_redeemed_for_one() {
    let database = with_rates();
    let customer = Customer::new(&database, 1, "ZAR", 1_000_000);
    let minted = customer.order("mint", &json!({ "amount": 1_000_000, "currency": "ZAR", "asset": "AFRI" })).unwrap();
    assert_eq!(minted["quote"]["rate"].to_string(), "0.059917943");
    assert_eq!((&minted["quote"]["fee"], &minted["quote"]["asset_amount"]), (&json!(2_000), &json!(597_981_071)));
    assert_eq!((customer.balance("ZAR"), customer.balance("AFRI")), ((0, 1_000_000), (0, 0)));
    assert_eq!(event(&database, &minted, "redemption.succeeded"), "", "of another product");
    assert_eq!(event(&database, &minted, "mint.succeeded"), "completed");
    assert_eq!((customer.balance("ZAR"), customer.balance("AFRI")), ((0, 0), (597_981_071, 0)));

    let redeemed =
        customer.order("redemption", &json!({ "amount": 100_000_000, "currency": "ZAR", "asset": "AFRI" })).unwrap();
    assert_eq!((&redeemed["quote"]["fee"], &redeemed["quote"]["currency_amount"]), (&json!(4_000), &json!(162_894)));
    assert_eq!(event(&database, &redeemed, "redemption.succeeded"), "completed");
    assert_eq!((customer.balance("ZAR"), customer.balance("AFRI")), ((162_894, 0), (497_981_071, 0)));
    let failed =
        customer.order("redemption", &json!({ "amount": 497_981_071, "currency": "GBP", "asset": "AFRI" })).unwrap();
    assert_eq!(customer.balance("AFRI"), (0, 497_981_071));
    assert_eq!(event(&database, &failed, "redemption.failed"), "failed");
    assert_eq!((customer.balance("AFRI"), customer.balance("GBP")), ((497_981_071, 0), (0, 0)));
    assert_eq!(
        event(&database, &failed, "redemption.succeeded"),
        "",
        "nothing has moved outside, so it stays as it is"
    );
    assert_sound(&database);
}

/// Where the asset is the currency itself, nothing is exchanged.
#[test]
fn money_goes_in_and_out_without_an_exchange() {
    let database = migrated_database();
    let customer = Customer::new(&database, 1, "USD", 0);
    let deposit = json!({ "amount": 100_000, "currency": "USD", "asset": "USD", "provider": "sandbox" });
    let order = customer.order("onramp", &deposit).unwrap();
    assert_eq!((&order["quote"]["rate"], &order["quote"]["asset_amount"]), (&json!(1), &json!(98_980)));
    assert_eq!(event(&database, &order, "payment.succeeded"), "completed");
    assert_eq!(customer.balance("USD"), (98_980, 0));
    let withdrawal = json!({ "amount": 98_980, "currency": "USD", "asset": "USD", "provider": "sandbox" });
    let order = customer.order("offramp", &withdrawal).unwrap();
    // 0.79 % and a dollar.
    assert_eq!((&order["quote"]["fee"], &order["quote"]["currency_amount"]), (&json!(882), &json!(98_098)));
    assert_eq!(event(&database, &order, "payout.succeeded"), "completed");
    assert_eq!(customer.balance("USD"), (0, 0));
    assert_eq!((system(&database, "reserve").as_str(), system(&database, "fees").as_str()), ("", "USD 1902"));
    assert_eq!(system(&database, "clearing:sandbox"), "USD -1902");
    assert_sound(&database);
}

#[test]
fn what_was_quoted_counts_whatever_becomes_of_rates_and_fees() {
    let database = with_rates();
    let customer = Customer::new(&database, 1, "USD", 0);
    let wanted = json!({ "amount": 10_000, "currency": "EUR", "asset": "AFRI", "provider": "sandbox" });
    let order = customer.order("onramp", &wanted).unwrap();
    assert_eq!(order["quote"]["rate"].to_string(), "1.1172", "of the euro as published");
    sql(&database, "INSERT INTO exchange_rates (date, currency, rate) VALUES ('2026-10-31', 'USD', 0.5)");
    sql(&database, "UPDATE fee_schedules SET fixed_fee = 1000");
    assert_eq!(event(&database, &order, "payment.succeeded"), "completed");
    // 100 euros less 1.15.
    assert_eq!(customer.available("AFRI"), 110_435_220);
    let again = json!({ "provider": "sandbox", "amount": 10_000, "currency": "EUR", "asset": "AFRI" });
    let again = customer
        .call("ramp.onramp.create", "", &[("idempotency-key", &wanted.to_string())], &again.to_string())
        .unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&again.body).unwrap(), order, "its first answer");
    let other = customer
        .order("onramp", &json!({ "amount": 10_001, "currency": "EUR", "asset": "AFRI", "provider": "sandbox" }));
    assert_eq!(other.unwrap()["quote"]["rate"].to_string(), "0.5");
    // The latest fixing counts, and it does not quote the pound.
    let absent = customer
        .order("onramp", &json!({ "amount": 10_000, "currency": "GBP", "asset": "AFRI", "provider": "sandbox" }));
    assert_eq!(absent.unwrap_err().code.as_str(), "rate_unavailable");
    // Where nothing was ever published, a token is a dollar all the same.
    sql(&database, "DELETE FROM exchange_rates");
    let pegged = customer
        .order("onramp", &json!({ "amount": 10_000, "currency": "USD", "asset": "AFRI", "provider": "sandbox" }));
    assert_eq!(pegged.unwrap()["quote"]["rate"].to_string(), "1");
    assert_sound(&database);
}
