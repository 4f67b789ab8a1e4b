//! What may become of orders: every event in every state, any events in any order, and many at once.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use mainstay::database::maintenance::MaintenancePool;
use mainstay::local::wait_until;
use mainstay::ramp;
use postgres::Client;
use postgres::types::FromSql;
use serde_json::json;
use uuid::Uuid;

use super::super::{Customer, PRIMARY, connect, migrated_database, sql};
use super::{assert_sound, client, event, steps, system, with_rates};
use crate::instance::Plan;
use crate::support::{PATIENCE, settings};

const PRODUCTS: [&str; 4] = ["onramp", "offramp", "mint", "redemption"];
/// What an order of the tests gives and what it receives, with a fee of 10 cents.
const GIVEN: i64 = 1_000;
const RECEIVED: i64 = 900;

/// From a product, a status and an event: to which status, and what it does to the ledger.
type Table = BTreeMap<(String, String, String), (String, Option<String>)>;

fn table(client: &mut Client) -> Table {
    let rows = client.query("SELECT product, from_status, event, to_status, posting FROM ramp.order_transitions", &[]);
    rows.unwrap().iter().map(|row| ((row.get(0), row.get(1), row.get(2)), (row.get(3), row.get(4)))).collect()
}

/// The seed of a test: given by `ORDERS_SEED`, else a new one. It is printed where the test fails.
#[expect(clippy::print_stdout, reason = "whoever wants to see a failure again needs it")]
fn seed() -> u64 {
    let seed = std::env::var("ORDERS_SEED").ok().map_or_else(|| fastrand::u64(..), |text| text.parse().unwrap());
    println!("ORDERS_SEED={seed}");
    seed
}

/// The one value of a statement.
fn one<T: for<'a> FromSql<'a>>(client: &mut Client, statement: &str) -> T {
    client.query_one(statement, &[]).unwrap().get(0)
}

/// A new customer with what an order gives, in dollars and in tokens.
fn customer(client: &mut Client) -> Uuid {
    let account: String = one(client, "INSERT INTO ramp.accounts (name) VALUES ('customer') RETURNING id::text");
    let fund = format!(
        "SELECT ramp.post(gen_random_uuid(), 'test', false, ARRAY['test', 'test', '{account}', '{account}'], \
         ARRAY['USD', 'AFRI', 'USD', 'AFRI'], ARRAY[-{GIVEN}, -{GIVEN}, {GIVEN}, {GIVEN}])"
    );
    assert!(one::<bool>(client, &fund));
    account.parse().unwrap()
}

fn currencies(product: &str) -> [&'static str; 2] {
    if matches!(product, "onramp" | "mint") { ["USD", "AFRI"] } else { ["AFRI", "USD"] }
}

fn create(client: &mut Client, account: Uuid, product: &str, ttl_secs: f64) -> Uuid {
    let (id, [given, received]) = (Uuid::new_v4(), currencies(product));
    let create = format!(
        "SELECT ramp.create_order('{id}', '{account}', '{product}', 'sandbox', {GIVEN}, '{given}', {RECEIVED}, '{received}', 10, '1', {ttl_secs})"
    );
    assert!(one::<bool>(client, &create));
    id
}

/// What an event makes of an order. `amount_differs` is told as a success with another amount.
fn advance(client: &mut Client, id: Uuid, product: &str, event: &str) -> Option<String> {
    let succeeded = if product == "onramp" { "payment.succeeded" } else { "payout.succeeded" };
    let (event, amount) = if event == "amount_differs" { (succeeded, "7") } else { (event, "NULL") };
    one(client, &format!("SELECT ramp.advance('{id}', '{event}', 'sandbox:evt', {amount}, NULL)"))
}

/// Where an order stands, and how many steps it has taken.
fn status(client: &mut Client, id: Uuid) -> (String, i64) {
    let length = format!("SELECT count(*) FROM ramp.order_history WHERE order_id = '{id}'");
    (one(client, &format!("SELECT status FROM ramp.orders WHERE id = '{id}'")), one(client, &length))
}

/// What a customer has of a currency: available and held.
fn balance(client: &mut Client, account: Uuid, currency: &str) -> (i64, i64) {
    let balance = format!(
        "SELECT posted - held, held FROM ramp.ledger_accounts WHERE account_id = '{account}' AND currency = '{currency}'"
    );
    let row = client.query_one(&balance, &[]).unwrap();
    (row.get(0), row.get(1))
}

/// The events that lead to a status, the fewest that do.
fn path(table: &Table, product: &str, to: &str) -> Vec<String> {
    let mut paths = VecDeque::from([("new".to_owned(), Vec::new())]);
    loop {
        let (status, events) = paths.pop_front().unwrap();
        if status == to {
            return events;
        }
        for ((_, _, event), (next, _)) in table.iter().filter(|((own, from, _), _)| own == product && *from == status) {
            paths.push_back((next.clone(), events.iter().chain([event]).cloned().collect()));
        }
    }
}

/// Every event of any product in every state of each: it is in the table, and does what that says to the customer's money; or nothing
/// comes of it.
#[test]
fn each_event_in_each_state_does_what_the_table_says_or_nothing() {
    let database = migrated_database();
    let mut client = client(&database);
    let table = table(&mut client);
    let events: HashSet<&str> = table.keys().map(|(_, _, event)| &**event).chain(["payment.invented", ""]).collect();
    let mut tried = 0;
    for product in PRODUCTS {
        let statuses: HashSet<&str> =
            table.iter().filter(|((own, ..), _)| own == product).map(|(_, (to, _))| &**to).collect();
        let [given, received] = currencies(product);
        for (&status_before, &event) in
            statuses.iter().flat_map(|status| events.iter().map(move |event| (status, event)))
        {
            let path = path(&table, product, status_before);
            let ttl_secs = if path.iter().any(|event| event == "expired") { 0.000_001 } else { 900.0 };
            let account = customer(&mut client);
            let id = create(&mut client, account, product, ttl_secs);
            for event in &path[1..] {
                advance(&mut client, id, product, event).unwrap();
            }
            let length = i64::try_from(path.len()).unwrap();
            assert_eq!(status(&mut client, id), (status_before.to_owned(), length));
            let money_before = [given, received].map(|currency| balance(&mut client, account, currency));
            let step = table.get(&(product.to_owned(), status_before.to_owned(), event.to_owned()));
            // The clock does not say so before it is so.
            let step = step.filter(|_| event != "expired");
            assert_eq!(
                advance(&mut client, id, product, event).as_ref(),
                step.map(|(to, _)| to),
                "{product} {status_before} {event}"
            );
            let length = length + i64::from(step.is_some());
            let expected = step.map_or(status_before, |(to, _)| to);
            assert_eq!(status(&mut client, id), (expected.to_owned(), length));
            let [(available, held), (has, _)] = money_before;
            let money = match step.and_then(|(_, posting)| posting.as_deref()) {
                Some("settle") => [(available, held - GIVEN), (has + RECEIVED * i64::from(product != "offramp"), 0)],
                Some("void") => [(available + GIVEN, held - GIVEN), (has, 0)],
                Some("post") => [(available, held), (has + RECEIVED, 0)],
                // What is held for a payout of another amount is free again once that has come back.
                Some("return") => [(available + held, 0), (has, 0)],
                _ => money_before,
            };
            let money_now = [given, received].map(|currency| balance(&mut client, account, currency));
            assert_eq!(money_now, money, "{product} {status_before} {event}");
            tried += 1;
        }
    }
    assert!(tried > 300, "{tried}");
    assert_sound(&database);
}

/// Random events, duplicates, cancellations and the end of time included, against a model that knows the table and two rules: an order
/// whose time is over expires first, and an amount that differs is another event.
#[test]
fn any_sequence_of_events_leaves_a_legal_history_and_the_right_money() {
    const ORDERS: usize = 80;
    const EVENTS: usize = 12;
    let database = migrated_database();
    let mut client = client(&database);
    let table = table(&mut client);
    let events: Vec<&str> = table.keys().map(|(_, _, event)| &**event).collect::<HashSet<_>>().into_iter().collect();
    let mut random = fastrand::Rng::with_seed(seed());
    let mut reached = HashSet::new();
    for _ in 0..ORDERS {
        let product = *random.choice(PRODUCTS.iter()).unwrap();
        let own: Vec<&str> = events
            .iter()
            .copied()
            .filter(|event| table.keys().any(|key| key.0 == product && key.2 == *event))
            .collect();
        let is_over = random.u8(..4) == 0;
        let account = customer(&mut client);
        let id = create(&mut client, account, product, if is_over { 0.000_001 } else { 900.0 });
        let next = |status: &str, event: &str| table.get(&(product.to_owned(), status.to_owned(), event.to_owned()));
        let (mut now, mut length) = (next("new", "created").unwrap().0.clone(), 1);
        for _ in 0..EVENTS {
            let any = if random.bool() { &own } else { &events };
            let event = any[random.usize(..any.len())];
            let mut expected = None;
            let expiry = next(&now, "expired").filter(|_| is_over);
            if let Some((to, _)) = expiry {
                (now, length) = (to.clone(), length + 1);
                expected = (event == "expired").then_some(to.clone());
            }
            if event != "expired"
                && let Some((to, _)) = next(&now, event)
            {
                (now, length) = (to.clone(), length + 1);
                expected = Some(to.clone());
            }
            assert_eq!(advance(&mut client, id, product, event), expected, "{product} {event}");
            assert_eq!(status(&mut client, id), (now.clone(), length));
        }
        let [given, received] = currencies(product);
        let is_paid_here = product != "onramp";
        let money = [balance(&mut client, account, given), balance(&mut client, account, received)];
        let untouched = [(GIVEN, 0), (GIVEN, 0)];
        let expected = match (&*now, is_paid_here) {
            ("completed", true) => [(0, 0), (GIVEN + RECEIVED * i64::from(product != "offramp"), 0)],
            ("completed", false) => [(GIVEN, 0), (GIVEN + RECEIVED, 0)],
            ("pending" | "processing", _) => [(0, GIVEN), (GIVEN, 0)],
            ("in_review", true) if money[0].1 > 0 => [(0, GIVEN), (GIVEN, 0)],
            _ => untouched,
        };
        assert_eq!(money, expected, "{product} {now}");
        reached.insert((product, now));
    }
    assert!(reached.len() > 12, "too little happened: {reached:?}");
    assert_sound(&database);
}

/// Of a cancellation, a success, a failure and the clock at once, one comes first, and the others find what it has done.
#[test]
fn of_many_events_at_once_each_finds_what_the_one_before_has_done() {
    let database = with_rates();
    let mut seen = HashSet::new();
    for round in 0..12 {
        let customer = Customer::new(&database, 1, "AFRI", 20_000_000);
        let wanted = json!({ "amount": 20_000_000, "currency": "USD", "asset": "AFRI", "provider": "sandbox" });
        let order = customer.order("offramp", &wanted).unwrap();
        let id = order["id"].as_str().unwrap();
        std::thread::scope(|scope| {
            let (database, customer) = (&database, &customer);
            for kind in ["payout.succeeded", "payout.failed", "payout.succeeded"].iter().cycle().skip(round).take(3) {
                scope.spawn(move || {
                    let advance = format!("SELECT ramp.advance('{id}', '{kind}', 'sandbox:evt')");
                    client(database).query_one(&advance, &[]).unwrap();
                });
            }
            scope.spawn(move || {
                customer
                    .cancel_order("offramp", id, "key")
                    .map_err(|error| assert_eq!(error.code.as_str(), "state_conflict"))
            });
        });
        let status = sql(&database, &format!("SELECT status FROM ramp.orders WHERE id = '{id}'"));
        let expected = match &*status {
            "completed" => (0, 0),
            "failed" | "cancelled" | "in_review" => (20_000_000, 0),
            other => panic!("{other}"),
        };
        assert_eq!(customer.balance("AFRI"), expected, "{status}");
        seen.insert(status);
    }
    assert_sound(&database);
    assert!(!seen.is_empty());
}

/// Money that comes when nobody expects it any more is kept apart, and goes back where it came from.
#[test]
fn what_comes_too_late_or_is_another_amount_is_kept_apart() {
    let database = with_rates();
    let customer = Customer::new(&database, 1, "AFRI", 20_000_000);
    let wanted = json!({ "amount": 100_000, "currency": "USD", "asset": "AFRI", "provider": "sandbox" });
    let order = customer.order("onramp", &wanted).unwrap();
    let id = order["id"].as_str().unwrap();
    customer.cancel_order("onramp", id, "key").unwrap();
    assert_eq!(event(&database, &order, "payment.succeeded"), "in_review");
    assert_eq!(event(&database, &order, "payment.succeeded"), "", "the same again");
    assert_eq!(
        (system(&database, "suspense:sandbox").as_str(), customer.balance("AFRI")),
        ("USD 100000", (20_000_000, 0))
    );
    let part = format!("SELECT ramp.advance('{id}', 'payment.refunded', 'sandbox:evt', 99999, 'USD')");
    assert_eq!(sql(&database, &part), "", "of a part nothing can be said");
    assert_eq!(event(&database, &order, "payment.refunded"), "refunded");
    assert_eq!(
        (system(&database, "suspense:sandbox").as_str(), system(&database, "clearing:sandbox").as_str()),
        ("", "AFRI -20000000")
    );

    let wanted = json!({ "amount": 20_000_000, "currency": "USD", "asset": "AFRI", "provider": "sandbox" });
    let order = customer.order("offramp", &wanted).unwrap();
    let id = order["id"].as_str().unwrap();
    let other = format!("SELECT ramp.advance('{id}', 'payout.succeeded', 'sandbox:evt', 1742, 'EUR')");
    assert_eq!(sql(&database, &other), "in_review");
    assert_eq!(
        (system(&database, "suspense:sandbox").as_str(), customer.balance("AFRI")),
        ("EUR -1742", (0, 20_000_000))
    );
    assert_eq!(event(&database, &order, "payout.returned"), "refunded");
    assert_eq!((system(&database, "suspense:sandbox").as_str(), customer.balance("AFRI")), ("", (20_000_000, 0)));
    assert_sound(&database);
}

#[test]
fn orders_whose_time_is_over_expire_and_nothing_stays_held() {
    let database = migrated_database();
    let mut client = client(&database);
    let pool = MaintenancePool::open(&settings(&PRIMARY.url("postgres", &database), "", &[]).database).unwrap();
    let mut conn = pool.get().unwrap();
    let accounts: Vec<Uuid> = (0..6).map(|_| customer(&mut client)).collect();
    let orders: Vec<Uuid> =
        accounts[..5].iter().map(|account| create(&mut client, *account, "redemption", 0.000_001)).collect();
    let young = create(&mut client, accounts[5], "redemption", 900.0);
    // Who works on one keeps nobody from the others.
    let mut busy = super::client(&database);
    let mut open = busy.transaction().unwrap();
    open.batch_execute(&format!("SELECT FROM ramp.orders WHERE id = '{}' FOR NO KEY UPDATE", orders[2])).unwrap();
    assert_eq!(ramp::orders::expire(&mut conn, 3).unwrap(), 3, "no more than is asked for");
    assert_eq!(ramp::orders::expire(&mut conn, 100).unwrap(), 1);
    open.rollback().unwrap();
    assert_eq!(ramp::orders::expire(&mut conn, 100).unwrap(), 1);
    assert_eq!(ramp::orders::expire(&mut conn, 100).unwrap(), 0);
    for (order, account) in orders.iter().zip(&accounts) {
        assert_eq!(status(&mut client, *order), ("expired".to_owned(), 2));
        assert_eq!(balance(&mut client, *account, "AFRI"), (GIVEN, 0));
    }
    assert_eq!(status(&mut client, young), ("pending".to_owned(), 1));
    assert_sound(&database);
}

/// One that cannot be expired keeps nobody waiting, and neither does the sweep overtake what a provider has told in time.
#[test]
fn what_was_told_in_time_counts_and_one_bad_order_blocks_no_other() {
    let database = migrated_database();
    let mut client = client(&database);
    let pool = MaintenancePool::open(&settings(&PRIMARY.url("postgres", &database), "", &[]).database).unwrap();
    let mut conn = pool.get().unwrap();
    let [bad, told, last] = [(); 3].map(|()| {
        let account = customer(&mut client);
        create(&mut client, account, "redemption", 0.000_001)
    });
    let by_hand = "SELECT ramp.settle(transaction_id, true) FROM ramp.order_history WHERE order_id =";
    assert!(one::<bool>(&mut client, &format!("{by_hand} '{bad}'")));
    let store = "SELECT ramp.store_webhook_event('sandbox', 'evt', 'redemption.succeeded',";
    assert_eq!(one::<String>(&mut client, &format!("{store} '{told}', NULL, NULL, '')")), "stored");
    assert!(ramp::orders::expire(&mut conn, 100).is_err(), "somebody has to see to the bad one");
    let statuses = [bad, told, last].map(|id| status(&mut client, id).0);
    assert_eq!(statuses, ["pending", "pending", "expired"]);
    let advance = "'redemption.succeeded', 'sandbox:evt', told_at => created_at) FROM ramp.orders WHERE id =";
    let moved: Option<String> = one(&mut client, &format!("SELECT ramp.advance(id, {advance} '{told}'"));
    assert_eq!(moved.as_deref(), Some("completed"));
}

/// What nothing comes of uses up no limit, and what was moved in an unknown amount moves nothing.
#[test]
fn limits_are_given_back_and_a_currency_is_no_amount() {
    let database = with_rates();
    let customer = Customer::new(&database, 1, "AFRI", 20_000_000);
    let counted = || sql(&database, "SELECT coalesce(sum(amount), 0) FROM ramp.daily_volumes");
    let wanted = json!({ "amount": 100_000, "currency": "USD", "asset": "AFRI", "provider": "sandbox" });
    let order = customer.order("onramp", &wanted).unwrap();
    assert_eq!(counted(), "100000");
    let id = order["id"].as_str().unwrap();
    let foreign = format!("SELECT ramp.advance('{id}', 'payment.succeeded', 'sandbox:evt', NULL, 'EUR')");
    assert_eq!(sql(&database, &foreign), "");
    customer.cancel_order("onramp", id, "key").unwrap();
    assert_eq!(counted(), "0");
    // What came after that is taken back by hand, and the provider tells of it, too.
    assert_eq!(event(&database, &order, "payment.succeeded"), "in_review");
    let by_hand = "SELECT ramp.reverse(gen_random_uuid(), id) FROM ramp.ledger_transactions WHERE kind = 'suspense'";
    assert_eq!(sql(&database, by_hand), "t");
    assert_eq!(event(&database, &order, "payment.refunded"), "refunded");
    assert_eq!((counted().as_str(), system(&database, "suspense:sandbox").as_str()), ("0", ""));
    assert_sound(&database);
}

#[test]
fn a_server_sees_to_it_that_orders_expire() {
    let database = migrated_database();
    let mut client = client(&database);
    let account = customer(&mut client);
    let id = create(&mut client, account, "redemption", 0.000_001);
    let route = "[[route]]\npath = \"/api/v1/mint/requests\"\nmethods = [\"POST\"]\nhandler = \"ramp.mint.create\"\nauth = \"key\"";
    let plan = Plan::new(route).parts(|parts| ramp::register(&mut parts.registry));
    let plan = plan.set("DATABASE_URL", &PRIMARY.url("postgres", &database)).set("orders.sweep_interval", "50ms");
    let _instance = plan.start();
    assert!(wait_until(PATIENCE, || status(&mut client, id) == ("expired".to_owned(), 2)));
    assert_eq!(balance(&mut client, account, "AFRI"), (GIVEN, 0));
}

/// Whoever comes after its time finds the order expired, whether it was swept or not.
#[test]
fn nobody_is_too_quick_for_the_clock() {
    let database = migrated_database();
    let mut client = client(&database);
    let account = customer(&mut client);
    let caller = Customer { database: database.clone(), account: account.to_string() };
    let order = create(&mut client, account, "offramp", 0.000_001);
    let error = caller.cancel_order("offramp", &order.to_string(), "key").unwrap_err();
    assert_eq!((error.code.as_str(), error.detail.contains("is expired")), ("state_conflict", true), "{error}");
    assert_eq!(advance(&mut client, order, "offramp", "payout.failed"), None);
    let shown = caller.get_order("offramp", &order.to_string()).unwrap();
    assert_eq!(
        steps(&shown),
        ["created pending", "expired expired"],
        "which was kept, although nothing came of the event"
    );
    let paid = create(&mut client, account, "onramp", 0.000_001);
    assert_eq!(advance(&mut client, paid, "onramp", "payment.succeeded").as_deref(), Some("in_review"));
    let shown = caller.get_order("onramp", &paid.to_string()).unwrap();
    assert_eq!(steps(&shown), ["created awaiting_payment", "expired expired", "payment.succeeded in_review"]);
    assert_sound(&database);
}

/// Nobody writes a history that may not be, or orders that have none: not the role that serves, nor the owner of the tables.
#[test]
fn nobody_makes_an_order_what_it_may_not_become() {
    let database = migrated_database();
    let mut owner = client(&database);
    let account = customer(&mut owner);
    let id = create(&mut owner, account, "mint", 900.0);
    let role = format!("serving_{database}");
    sql(&database, &format!("CREATE ROLE {role} LOGIN"));
    sql(&database, &ramp::grants::grants(&mut connect(&database), &role).unwrap().unwrap());
    let mut serving = postgres::Client::connect(&PRIMARY.url(&role, &database), postgres::NoTls).unwrap();
    let step = |seq: u8, from: &str, event: &str, to: &str| {
        format!(
            "INSERT INTO ramp.order_history (order_id, seq, product, from_status, event, to_status, cause, at) \
             VALUES ('{id}', {seq}, 'mint', '{from}', '{event}', '{to}', 'me', now())"
        )
    };
    let refused = [
        step(2, "pending", "cancelled", "completed"),
        step(2, "pending", "payment.succeeded", "completed"),
        step(3, "pending", "cancelled", "cancelled"),
        step(1, "new", "created", "pending"),
        step(2, "new", "created", "pending"),
        "UPDATE ramp.orders SET status = 'completed'".to_owned(),
        "UPDATE ramp.orders SET received_amount = received_amount + 1".to_owned(),
        "UPDATE ramp.orders SET expires_at = now() + interval '1 day'".to_owned(),
        "UPDATE ramp.order_history SET cause = 'me'".to_owned(),
        "DELETE FROM ramp.order_history".to_owned(),
        "DELETE FROM ramp.orders".to_owned(),
        "TRUNCATE ramp.orders, ramp.order_history".to_owned(),
        "UPDATE ramp.order_transitions SET to_status = 'completed' WHERE product = 'mint' AND event = 'created'"
            .to_owned(),
        format!(
            "SELECT ramp.create_order(gen_random_uuid(), '{account}', 'lottery', 'sandbox', 1, 'USD', 1, 'AFRI', 0, '1', 900)"
        ),
        format!(
            "SELECT ramp.create_order(gen_random_uuid(), '{account}', 'mint', 'sandbox', -1, 'USD', 1, 'AFRI', 0, '1', 900)"
        ),
        format!(
            "SELECT ramp.create_order(gen_random_uuid(), '{account}', 'onramp', 'sandbox', 1, 'USD', 1, 'AFRI', -1, '1', 900)"
        ),
        format!(
            "SELECT ramp.create_order(gen_random_uuid(), '{account}', 'onramp', 'sandbox', 1, 'USD', 1, 'AFRI', 0, '1', 0)"
        ),
    ];
    for statement in &refused {
        assert!(owner.batch_execute(statement).is_err(), "{statement}");
        assert!(serving.batch_execute(statement).is_err(), "to the serving role: {statement}");
    }
    for statement in [
        step(2, "pending", "cancelled", "cancelled"),
        "INSERT INTO ramp.order_transitions VALUES ('mint', 'pending', 'mine', 'completed', 'settle')".to_owned(),
        format!("SELECT ramp.step('{id}', 'mint.succeeded', 'me', NULL, NULL)"),
    ] {
        let error = serving.batch_execute(&statement).unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("42501"), "{statement}: {error}");
    }
    assert_sound(&database);
    let advance = format!("SELECT ramp.advance('{id}', 'mint.succeeded', 'sandbox:evt')");
    assert_eq!(serving.query_one(&advance, &[]).unwrap().get::<_, &str>(0), "completed", "by the function it may");
    // An owner who writes a step that may be taken has moved no money, and that shows.
    let account = customer(&mut owner);
    let other = create(&mut owner, account, "mint", 900.0);
    let step = step(2, "pending", "mint.succeeded", "completed").replace(&id.to_string(), &other.to_string());
    owner.batch_execute(&step).unwrap();
    assert_eq!(sql(&database, "SELECT count(*) FROM ramp.order_discrepancies"), "2");
}

/// `docs/orders.md` has the table, row by row.
#[test]
fn the_documented_transitions_are_those_of_the_database() {
    let database = migrated_database();
    let table = table(&mut client(&database));
    let page = std::fs::read_to_string("docs/orders.md").unwrap();
    let rows =
        page.lines().filter(|line| PRODUCTS.iter().any(|product| line.starts_with(&format!("| `{product}` | `"))));
    let mut documented = HashMap::new();
    for row in rows {
        let [_, product, from, event, to, posting, _] =
            row.split('|').map(|cell| cell.trim().trim_matches('`')).collect::<Vec<_>>()[..]
        else {
            panic!("{row}")
        };
        let posting = (posting != "–").then(|| posting.to_owned());
        let key = (product.to_owned(), from.to_owned(), event.to_owned());
        assert_eq!(documented.insert(key, (to.to_owned(), posting)), None, "twice: {row}");
    }
    assert_eq!(documented.into_iter().collect::<Table>(), table);
    // What handlers and the manifest say of states.
    let manifest = std::fs::read_to_string("config/routes.toml").unwrap();
    for product in PRODUCTS {
        let statuses: HashSet<&str> =
            table.iter().filter(|(key, _)| key.0 == product).map(|(_, (to, _))| &**to).collect();
        let (_, route) = manifest.split_once(&format!("\"ramp.{product}.list\"")).unwrap();
        let (_, pattern) = route.split_once("\"^(").unwrap();
        let pattern: HashSet<&str> = pattern.split_once(")$\"").unwrap().0.split('|').collect();
        assert_eq!(pattern, statuses, "{product}");
    }
}

/// A sweep finds what is over by an index, however many orders there are.
#[test]
fn a_sweep_looks_at_what_is_open_alone() {
    let database = migrated_database();
    let plan = sql(
        &database,
        "SET enable_seqscan = off; EXPLAIN (COSTS OFF) SELECT o.id FROM ramp.orders o WHERE o.open_until <= now() \
         ORDER BY o.open_until LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED",
    );
    assert!(plan.contains("orders_open") && !plan.contains("Sort"), "{plan}");
}
