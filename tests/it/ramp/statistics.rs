//! Statistics by day: what instances add, what is counted of the ledger, and what is shown.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use mainstay::ramp::statistics::tally::{Batch, Counts};
use mainstay::ramp::statistics::{add, count_money};
use serde_json::{Value, json};
use uuid::Uuid;

use super::ledger::{client, seed};
use super::{Customer, ask, connect, migrated_database, refusal, sql};

fn batch(instance: u128, sequence: i64, rows: &[(&str, &str, [u64; 3])]) -> Batch {
    let row = |(day, route, [requests, errors, hits]): &(&str, &str, [u64; 3])| {
        let counts = Counts { requests: *requests, errors: *errors, hits: *hits };
        ((day.parse::<NaiveDate>().unwrap(), (*route).to_owned()), counts)
    };
    Batch { instance: Uuid::from_u128(instance), sequence, rows: rows.iter().map(row).collect::<BTreeMap<_, _>>() }
}

fn shown(database: &str, parameters: &str) -> Value {
    serde_json::from_str(&ask(database, "ramp.stats.daily", parameters).unwrap()).unwrap()
}

#[test]
fn a_batch_is_added_once_and_those_of_all_instances_are_summed() {
    let database = migrated_database();
    let mut conn = connect(&database);
    assert_eq!(shown(&database, ""), json!({ "days": [] }));
    let first = batch(1, 1, &[("2026-11-20", "/b", [1, 1, 0]), ("2026-11-21", "/a", [10, 1, 7])]);
    for again in [&first, &first, &batch(2, 1, &[("2026-11-21", "/a", [5, 0, 5])])] {
        add(&mut conn, again).unwrap();
    }
    add(&mut conn, &batch(1, 2, &[("2026-11-21", "/a", [100, 0, 0])])).unwrap();
    // It comes late, over a connection that had been given up.
    add(&mut conn, &first).unwrap();
    let route = |route: &str, [requests, errors, hits]: [u64; 3]| json!({ "route": route, "requests": requests, "errors": errors, "hits": hits });
    let days = json!({ "days": [
        { "day": "2026-11-20", "routes": [route("/b", [1, 1, 0])], "money": [] },
        { "day": "2026-11-21", "routes": [route("/a", [115, 1, 12])], "money": [] },
    ] });
    assert_eq!(shown(&database, ""), days);
    assert_eq!(shown(&database, "from=2026-11-21")["days"], json!([days["days"][1]]));
    assert_eq!(shown(&database, "to=2026-11-20")["days"], json!([days["days"][0]]));
    assert_eq!(shown(&database, "from=2026-11-22")["days"], json!([]));
    assert_eq!(shown(&database, "to=2026-12-20")["days"], json!([days["days"][1]]), "thirty days");
    for (span, named) in
        [("from=2026-11-22&to=2026-11-21", "from"), ("from=2026-08-20&to=2026-11-20", "92"), ("from=2000-01-01", "92")]
    {
        let (code, sentence) = refusal(ask(&database, "ramp.stats.daily", span));
        assert_eq!((code, sentence.contains(named)), ("param_invalid", true), "{span}: {sentence}");
    }
    assert_eq!(sql(&database, "SELECT count(*) FROM ramp.added_batches"), "2");
    sql(&database, "UPDATE ramp.added_batches SET added_at = now() - interval '33 days'");
    add(&mut conn, &batch(1, 3, &[("2026-11-21", "/a", [1, 0, 0])])).unwrap();
    assert_eq!(sql(&database, "SELECT count(*) FROM ramp.added_batches"), "1", "instances that are gone are forgotten");
}

/// Instances add the same routes at once, each in its own order of arrival: nobody waits in a circle, and nothing is lost.
#[test]
fn instances_add_at_once() {
    let database = migrated_database();
    std::thread::scope(|scope| {
        for instance in 0..4 {
            let database = &database;
            scope.spawn(move || {
                let mut conn = connect(database);
                for sequence in 1..=20 {
                    let rows = [
                        ("2026-11-21", "/a", [1, 0, 0]),
                        ("2026-11-21", "/b", [2, 1, 0]),
                        ("2026-11-20", "/a", [1, 0, 1]),
                    ];
                    add(&mut conn, &batch(instance, sequence, &rows)).unwrap();
                }
            });
        }
    });
    let sums = "SELECT string_agg(format('%s %s %s %s %s', day, route, requests, errors, hits), ';' ORDER BY day, route) FROM ramp.daily_requests";
    assert_eq!(sql(&database, sums), "2026-11-20 /a 80 0 80;2026-11-21 /a 80 0 0;2026-11-21 /b 160 80 0");
}

/// What the ledger says, by one plain query over all of it.
const OF_LEDGER: &str = "
    SELECT (t.settled_at AT TIME ZONE 'UTC')::date, t.kind, a.currency, count(DISTINCT t.id), sum(e.amount)
    FROM ramp.ledger_transactions t JOIN ramp.ledger_entries e ON e.transaction_id = t.id AND e.amount > 0
    JOIN ramp.ledger_accounts a ON a.id = e.ledger_account_id WHERE t.state = 'posted' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3";
const COUNTED: &str = "SELECT day, kind, currency, transactions, amount FROM ramp.daily_money ORDER BY 1, 2, 3";

/// Money is posted, held, settled, taken back and rolled back while several count: each posting is counted once, also one that is
/// committed long after later ones were counted, and after the count was given up in the middle.
#[test]
fn whatever_is_posted_is_counted_once() {
    let database = migrated_database();
    let one = Customer::new(&database, 1, "USD", 1_000_000);
    let mut random = fastrand::Rng::with_seed(seed());
    let post = |id: Uuid, kind: &str, is_pending: bool, currency: &str, amount: i64| {
        format!(
            "SELECT ramp.post('{id}', '{kind}', {is_pending}, ARRAY['clearing:sandbox', '{}', 'fees'], \
             ARRAY['{currency}', '{currency}', '{currency}'], ARRAY[-{}, {amount}, 3])",
            one.account,
            amount + 3
        )
    };
    let mut late = client("postgres", &database);
    late.batch_execute(&format!("BEGIN; {}", post(Uuid::new_v4(), "late", false, "EUR", 77))).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (mut random, database, post) = (random.fork(), &database, &post);
            scope.spawn(move || {
                let mut client = client("postgres", database);
                for _ in 0..60 {
                    let (id, is_pending) = (Uuid::from_u128(random.u128(..)), random.bool());
                    let kind = random.choice(["deposit", "payout"]).unwrap();
                    // The account of the other currency is locked by who is late.
                    let post = post(id, kind, is_pending, "USD", random.i64(1..1000));
                    let more = match random.u8(..4) {
                        0 => "ROLLBACK".to_owned(),
                        1 if is_pending => format!("COMMIT; SELECT ramp.settle('{id}', {})", random.bool()),
                        2 if !is_pending => {
                            format!("COMMIT; SELECT ramp.reverse('{}', '{id}')", Uuid::from_u128(random.u128(..)))
                        }
                        _ => "COMMIT".to_owned(),
                    };
                    client.batch_execute(&format!("BEGIN; {post}; {more}")).unwrap();
                }
            });
        }
        for _ in 0..2 {
            let database = &database;
            scope.spawn(move || {
                let (mut conn, mut given_up) = (connect(database), client("postgres", database));
                for _ in 0..40 {
                    given_up.batch_execute("BEGIN; SELECT ramp.count_money(3); ROLLBACK").unwrap();
                    count_money(&mut conn).unwrap();
                }
            });
        }
    });
    count_money(&mut connect(&database)).unwrap();
    assert_eq!(sql(&database, COUNTED), sql(&database, OF_LEDGER));
    assert_eq!(sql(&database, "SELECT count(*) FROM ramp.daily_money WHERE kind = 'late'"), "0");
    late.batch_execute("COMMIT").unwrap();
    assert_eq!(count_money(&mut connect(&database)).unwrap(), 1);
    assert_eq!(count_money(&mut connect(&database)).unwrap(), 0, "what is counted is not looked at again");
    assert_eq!(sql(&database, COUNTED), sql(&database, OF_LEDGER));
    let money = &shown(&database, "")["days"][0]["money"];
    let late = json!({ "kind": "late", "currency": "EUR", "transactions": 1, "amount": 80 });
    assert!(money.as_array().unwrap().contains(&late), "{money}");
}

/// A day's sum need not fit in 64 bits.
#[test]
fn a_great_day_is_counted_exactly() {
    let database = migrated_database();
    let amount = 1_000_000_000_000_000_i64;
    sql(
        &database,
        &format!(
            "SELECT ramp.post(gen_random_uuid(), 'test', false, ARRAY['clearing:sandbox', 'fees'], ARRAY['ZAR', 'ZAR'], ARRAY[-{amount}, {amount}])"
        ),
    );
    sql(
        &database,
        &format!(
            "INSERT INTO ramp.daily_money VALUES ((now() AT TIME ZONE 'UTC')::date, 'test', 'ZAR', 9300, 9300.0 * {amount})"
        ),
    );
    count_money(&mut connect(&database)).unwrap();
    let shown = ask(&database, "ramp.stats.daily", "").unwrap();
    assert!(shown.contains("\"transactions\" : 9301, \"amount\" : 9301000000000000000"), "{shown}");
}
