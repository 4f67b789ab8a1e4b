//! `ramp.fees.quote` on the schedules that the migrations bring.

use super::{LOADED, ask, refusal, sql};

fn quote(parameters: &str) -> Result<serde_json::Value, mainstay::error::Error> {
    ask(&LOADED, "ramp.fees.quote", parameters).map(|body| serde_json::from_str(&body).unwrap())
}

#[test]
fn a_quote_shows_its_schedule_and_its_rounding() {
    assert_eq!(
        ask(&LOADED, "ramp.fees.quote", "product=onramp&amount=10000&currency=EUR").unwrap(),
        "{\"product\":\"onramp\",\"currency\":\"EUR\",\"amount\":10000,\"fee\":115,\"total\":10115,\"net\":9885,\
         \"schedule\":{\"percent_ppm\":9000,\"fixed_fee\":25,\"min_fee\":50,\"max_fee\":25000},\"rounding\":\"half-even\"}"
    );
}

#[test]
fn bounds_and_rounding_by_hand() {
    let cases = [
        // 1 % of one cent is nothing; the least fee applies, and the amount does not cover it.
        ("product=onramp&amount=1&currency=EUR", 50, -49),
        ("product=onramp&amount=100000000&currency=EUR", 25_000, 99_975_000),
        // 0.05 % of 5000 yen is 2.5 yen: the even neighbour.
        ("product=transfer&amount=5000&currency=JPY", 2, 4_998),
        ("product=transfer&amount=7000&currency=JPY", 4, 6_996),
        ("product=redemption&amount=1000000&currency=USD", 1_600, 998_400),
    ];
    for (parameters, fee, net) in cases {
        let quote = quote(parameters).unwrap();
        assert_eq!((&quote["fee"], &quote["net"]), (&fee.into(), &net.into()), "{parameters}");
    }
}

#[test]
fn huge_amounts_do_not_overflow() {
    let quote_of = |amount: i64| quote(&format!("product=transfer&amount={amount}&currency=EUR"));
    let quote = quote_of(i64::MAX - 500).unwrap();
    assert_eq!((&quote["fee"], &quote["total"]), (&500.into(), &i64::MAX.into()));
    let (code, detail) = refusal(quote_of(i64::MAX - 499).map(|quote| quote.to_string()));
    assert_eq!((code, detail.starts_with("amount is too large")), ("param_invalid", true), "{detail}");
}

#[test]
fn what_cannot_be_quoted_is_told_apart() {
    let refused = |parameters: &str| refusal(ask(&LOADED, "ramp.fees.quote", parameters));
    let (code, detail) = refused("product=onramp&amount=1&currency=XXX");
    assert_eq!((code, detail.starts_with("currency: XXX ")), ("param_invalid", true), "{detail}");
    let (code, detail) = refused("product=onramp&amount=1&currency=TRL");
    assert_eq!((code, detail.as_str()), ("not_found", "there is no fee schedule for onramp in TRL"));
    assert_eq!(refused("product=lottery&amount=1&currency=EUR").0, "not_found");
    assert_eq!(refused("product=onramp&amount=0&currency=EUR").0, "param_invalid");
    assert_eq!(refused("product=onramp&currency=EUR").0, "param_missing");
}

/// Who can bring a currency in can take it out. Transfers in rand are free.
#[test]
fn all_products_of_orders_have_the_same_currencies() {
    let products = "SELECT string_agg(product, ' ' ORDER BY product), currencies FROM (\
                        SELECT product, string_agg(currency, ' ' ORDER BY currency) AS currencies FROM fee_schedules GROUP BY product\
                    ) AS p GROUP BY currencies ORDER BY 1";
    let expected = "mint offramp onramp redemption|CHF EUR GBP JPY USD ZAR\ntransfer|CHF EUR GBP JPY USD";
    assert_eq!(sql(&LOADED, products), expected);
}
