//! `ramp.rates.latest` and `ramp.rates.history` on the real history.

use serde_json::Value;

use super::{LAST, LOADED, ask, migrated_database, refusal, sql};

fn latest(parameters: &str) -> Result<String, mainstay::error::Error> {
    ask(&LOADED, "ramp.rates.latest", parameters)
}

fn history(parameters: &str) -> Result<String, mainstay::error::Error> {
    ask(&LOADED, "ramp.rates.history", parameters)
}

fn date_of(parameters: &str) -> String {
    let answer: Value = serde_json::from_str(&latest(parameters).unwrap()).unwrap();
    answer["date"].as_str().unwrap().to_owned()
}

#[test]
fn rates_of_the_euro_are_the_published_digits_in_a_stable_order() {
    assert_eq!(
        latest("base=EUR").unwrap(),
        r#"{"base":"EUR","date":"2026-10-30","rates":{"AUD":1.5904,"BRL":6.0692,"CAD":1.5606,"CHF":0.9194,"CNY":7.4326,"#
            .to_owned()
            + r#""CZK":24.353,"DKK":7.4735,"GBP":0.8338,"HKD":8.7652,"HUF":366.33,"IDR":20275.17,"ILS":3.495,"INR":106.084,"#
            + r#""ISK":136,"JPY":175.68,"KRW":1491.76,"MXN":21.1237,"MYR":4.5325,"NOK":10.312,"NZD":1.9823,"PHP":71.143,"#
            + r#""PLN":4.4038,"RON":5.3447,"SEK":10.978,"SGD":1.4282,"THB":37.683,"TRY":55.8015,"USD":1.1172,"ZAR":18.6455}}"#
    );
}

/// By hand: 1 / 1.1172 = 0.895094880057…, 175.68 / 1.1172 = 157.250268…, 136 / 1.1172 = 121.732903…
#[test]
fn cross_rates_have_eight_digits() {
    assert_eq!(
        latest("base=USD&symbols=EUR,ISK,JPY").unwrap(),
        r#"{"base":"USD","date":"2026-10-30","rates":{"EUR":0.89509488,"ISK":121.7329,"JPY":157.25027}}"#
    );
}

/// Postgres divides exactly as many digits as one asks for, and rounds away from zero where no tie is possible.
#[test]
fn every_cross_rate_of_a_fixing_agrees_with_numeric() {
    let by_postgres = "
        WITH fixing AS (SELECT currency, rate FROM exchange_rates WHERE date = '2026-10-30' UNION VALUES ('EUR', 1)),
        exact AS (SELECT b.currency base, s.currency symbol, s.rate::numeric(60, 40) / b.rate AS r
                  FROM fixing b, fixing s WHERE b.currency NOT IN (s.currency, 'EUR'))
        SELECT base || ' ' || symbol || ' ' || trim_scale(round(r, 7 - floor(log(r))::int)) FROM exact ORDER BY base, symbol";
    let expected = sql(&LOADED, by_postgres);
    let mut ours = Vec::new();
    for base in sql(&LOADED, "SELECT currency FROM exchange_rates WHERE date = '2026-10-30' ORDER BY 1").lines() {
        let answer: serde_json::Map<String, Value> =
            serde_json::from_str(&latest(&format!("base={base}")).unwrap()).unwrap();
        let Value::Object(rates) = &answer["rates"] else { panic!("{answer:?}") };
        ours.extend(rates.iter().map(|(symbol, rate)| (base.to_owned(), symbol.clone(), rate.as_f64().unwrap())));
    }
    let expected: Vec<_> = expected
        .lines()
        .map(|line| {
            let [base, symbol, rate] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            // Eight digits survive a float, so that floats are equal exactly where the digits are.
            (base.to_owned(), symbol.to_owned(), rate.parse::<f64>().unwrap())
        })
        .collect();
    assert_eq!(ours.len(), 29 * 29);
    assert_eq!(ours, expected);
}

#[test]
fn the_base_is_priced_only_when_asked_for() {
    let rates = |parameters: &str| latest(parameters).unwrap().split_once("\"rates\":").unwrap().1.to_owned();
    assert_eq!(rates("base=USD&symbols=EUR,USD"), r#"{"EUR":0.89509488,"USD":1}}"#);
    assert_eq!(rates("base=EUR&symbols=EUR"), r#"{"EUR":1}}"#);
    assert!(!rates("base=USD").contains("USD"));
}

/// No fixing quotes the token, and none needs to: it is worth a dollar, to those who name it.
#[test]
fn the_token_is_priced_by_the_dollar() {
    let rates = |parameters: &str| latest(parameters).unwrap().split_once("\"rates\":").unwrap().1.to_owned();
    assert_eq!(rates("base=USD&symbols=AFRI"), r#"{"AFRI":1}}"#);
    assert_eq!(rates("base=EUR&symbols=AFRI,GBP"), r#"{"AFRI":1.1172,"GBP":0.8338}}"#);
    assert_eq!(rates("base=AFRI&symbols=EUR,USD"), r#"{"EUR":0.89509488,"USD":1}}"#);
    assert!(!rates("base=USD").contains("AFRI"));
    let two_days = history("base=AFRI&symbols=EUR&from=2026-10-29&to=2026-10-30").unwrap();
    let dollars = history("base=USD&symbols=EUR&from=2026-10-29&to=2026-10-30").unwrap();
    assert_eq!(two_days.replace("AFRI", "USD"), dollars);
}

#[test]
fn a_day_without_fixing_has_the_last_one_before_it() {
    assert_eq!(date_of("date=2026-10-25"), "2026-10-23", "a Sunday has the rates of Friday");
    assert_eq!(date_of("date=2026-10-23"), "2026-10-23");
    assert_eq!(date_of("date=2026-01-01"), "2025-12-31");
    assert_eq!(date_of(""), LAST);
    assert_eq!(date_of("date=9999-12-31"), LAST);
    assert_eq!(date_of("date=1999-01-04"), "1999-01-04");
}

#[test]
fn before_the_first_fixing_there_is_nothing() {
    for date in ["1999-01-03", "0000-01-01"] {
        let (code, detail) = refusal(latest(&format!("date={date}")));
        assert_eq!((code, detail), ("not_found", format!("there are no rates of EUR at or before {date}")));
    }
}

#[test]
fn unknown_currencies_are_named_with_their_parameter() {
    for ask in [latest, history] {
        let (code, detail) = refusal(ask("base=XXX"));
        assert_eq!((code, detail.starts_with("base: XXX ")), ("param_invalid", true), "{detail}");
        let (code, detail) = refusal(ask("base=USD&symbols=EUR,YYY"));
        assert_eq!((code, detail.starts_with("symbols: YYY ")), ("param_invalid", true), "{detail}");
    }
    assert_eq!(refusal(latest("base=XXX&date=1990-01-01")).0, "param_invalid", "even where there are no rates");
}

#[test]
fn what_a_fixing_does_not_quote_is_left_out() {
    assert!(latest("symbols=CYP,USD").unwrap().ends_with(r#""rates":{"USD":1.1172}}"#));
    let (code, detail) = refusal(latest("symbols=CYP,TRL"));
    assert_eq!((code, detail.as_str()), ("not_found", "the fixing of 2026-10-30 quotes none of the symbols"));
}

#[test]
fn a_base_of_the_past_answers_with_its_last_fixing() {
    assert_eq!(date_of("base=HRK"), "2022-12-30");
    assert_eq!(date_of("base=HRK&date=2022-12-30"), "2022-12-30");
    let (code, detail) = refusal(latest("base=BRL&date=2000-01-01"));
    assert_eq!((code, detail.as_str()), ("not_found", "there are no rates of BRL at or before 2000-01-01"));
}

#[test]
fn a_history_holds_the_fixings_of_its_days() {
    assert_eq!(
        history("symbols=ISK,USD&from=2026-10-24&to=2026-10-27").unwrap(),
        r#"{"base":"EUR","start_date":"2026-10-24","end_date":"2026-10-27","rates":{"#.to_owned()
            + &sql(&LOADED, HISTORY_BY_POSTGRES)
            + "}}"
    );
    // 1 / 1.113 = 0.898472596…, 175.92 / 1.113 = 158.059299…
    assert_eq!(
        history("base=USD&symbols=EUR,JPY,USD&from=2026-10-29&to=2026-10-30").unwrap(),
        r#"{"base":"USD","start_date":"2026-10-29","end_date":"2026-10-30","rates":{"2026-10-29":{"EUR":0.8984726,"#
            .to_owned()
            + r#""JPY":158.0593,"USD":1},"2026-10-30":{"EUR":0.89509488,"JPY":157.25027,"USD":1}}}"#
    );
}

const HISTORY_BY_POSTGRES: &str = "
    SELECT string_agg(format('\"%s\":{\"ISK\":%s,\"USD\":%s}', i.date, i.rate, u.rate), ',' ORDER BY i.date)
    FROM exchange_rates i JOIN exchange_rates u USING (date)
    WHERE i.currency = 'ISK' AND u.currency = 'USD' AND date BETWEEN '2026-10-24' AND '2026-10-27'";

fn span(parameters: &str) -> (String, String, usize) {
    let answer: Value = serde_json::from_str(&history(parameters).unwrap()).unwrap();
    let text = |name: &str| answer[name].as_str().unwrap().to_owned();
    (text("start_date"), text("end_date"), answer["rates"].as_object().unwrap().len())
}

#[test]
fn a_history_without_ends_is_that_of_the_data() {
    assert_eq!(span("symbols=USD"), ("2026-09-30".to_owned(), LAST.to_owned(), 23));
    assert_eq!(span("symbols=USD&to=1999-01-06"), ("1998-12-07".to_owned(), "1999-01-06".to_owned(), 3));
    assert_eq!(span("symbols=EUR&from=2026-10-26&to=2026-10-30").2, 5, "the euro in itself, on each day with a fixing");
    assert_eq!(span("from=2026-10-24&to=2026-10-25").2, 0, "a weekend");
    assert_eq!(span("from=2027-01-01").2, 0);
    assert_eq!(
        span("base=CYP&symbols=USD&from=2007-12-20&to=2008-01-10").2,
        6,
        "days that do not quote the base are absent"
    );
}

#[test]
fn spans_that_cannot_be_answered_say_why() {
    let (code, detail) = refusal(history("from=2026-10-30&to=2026-10-29"));
    assert_eq!((code, detail.starts_with("from must not be after to")), ("param_invalid", true), "{detail}");
    let (code, detail) = refusal(history("from=1999-01-01"));
    assert_eq!((code, detail.contains("more than 60000 rates")), ("param_invalid", true), "{detail}");
    assert_eq!(span("symbols=USD&from=1999-01-01").2, 7126, "one symbol over all years is no problem");
    assert_eq!(span("base=GBP&symbols=CAD,CHF,DKK,JPY,NOK,SEK,USD&from=1999-01-01").2, 7126);
}

#[test]
fn without_rates_there_is_nothing_to_answer() {
    let empty = migrated_database();
    for handler in ["ramp.rates.latest", "ramp.rates.history"] {
        assert_eq!(refusal(ask(&empty, handler, "base=USD")).0, "not_found");
    }
}

/// What makes "the latest fixing" instant: no plan of it reads more than its own rows.
#[test]
fn the_latest_fixing_is_found_by_an_index() {
    let plan = "EXPLAIN SELECT date FROM exchange_rates WHERE base = 'EUR' AND date <= '2026-01-01' ORDER BY date DESC LIMIT 1";
    let by_base =
        "EXPLAIN SELECT date FROM exchange_rates WHERE base = 'EUR' AND currency = 'USD' ORDER BY date DESC LIMIT 1";
    for query in [plan, by_base] {
        let plan = sql(&LOADED, query);
        assert!(plan.contains("Index Only Scan Backward"), "{plan}");
    }
}
