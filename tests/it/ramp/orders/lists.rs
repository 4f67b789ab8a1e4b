//! Lists of orders.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::super::Customer;
use super::{described, event, with_rates};

fn page(customer: &Customer, product: &str, parameters: &str) -> Value {
    let handler = format!("ramp.{product}.list");
    described(&handler, 200, &customer.call(&handler, parameters, &[], "").unwrap().body)
}

#[test]
fn pages_show_each_order_of_the_caller_once_the_newest_first() {
    let database = with_rates();
    let (customer, other) = (Customer::new(&database, 1, "USD", 0), Customer::new(&database, 1, "USD", 100_000));
    let order = |customer: &Customer, amount: i64| {
        let wanted = json!({ "amount": amount, "currency": "USD", "asset": "AFRI", "provider": "sandbox" });
        customer.order("onramp", &wanted).unwrap()
    };
    let mut orders: Vec<Value> = (0..7).map(|number| order(&customer, 10_000 + number)).collect();
    let others = order(&other, 10_000);
    other.order("mint", &json!({ "amount": 10_000, "currency": "USD", "asset": "AFRI" })).unwrap();
    assert_eq!(event(&database, &orders[2], "payment.failed"), "failed");
    orders[2] = customer.get_order("onramp", orders[2]["id"].as_str().unwrap()).unwrap();
    orders.reverse();
    assert_eq!(page(&customer, "onramp", ""), json!({ "orders": orders, "next_cursor": null }));

    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let shown = page(&customer, "onramp", &format!("limit=3{cursor}"));
        seen.extend(shown["orders"].as_array().unwrap().clone());
        // What comes in between moves nothing.
        order(&customer, 20_000 + i64::try_from(seen.len()).unwrap());
        let Some(next) = shown["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
        let foreign = other.call("ramp.onramp.list", &format!("limit=3{cursor}"), &[], "").unwrap_err();
        let elsewhere = customer.call("ramp.offramp.list", &format!("limit=3{cursor}"), &[], "").unwrap_err();
        assert_eq!((foreign.code.as_str(), elsewhere.code.as_str()), ("param_invalid", "param_invalid"));
    }
    assert_eq!(seen, orders);
    assert_eq!(seen.iter().map(|order| order["id"].as_str().unwrap()).collect::<HashSet<_>>().len(), 7);
    assert_eq!(page(&customer, "onramp", "status=failed")["orders"], json!([orders[4]]));
    assert_eq!(page(&customer, "onramp", "status=completed"), json!({ "orders": [], "next_cursor": null }));
    assert_eq!(page(&other, "onramp", "")["orders"], json!([others]));
    assert_eq!(page(&other, "mint", "")["orders"].as_array().unwrap().len(), 1);
}
