//! All that moves money at once: transfers, orders of every product, what providers tell of them (twice, late, in any order),
//! cancellations and expiries, by clients that repeat what was not answered, while servers are killed and the database restarted
//! under them. Afterwards every cent is where it was said to be.
//!
//! `MONEY_SEED` repeats a run, as far as processes can be repeated; `MONEY_SECONDS` makes it longer.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mainstay::local::{Postgres, PostgresOptions, Scratch, wait_until};
use ring::hmac;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::money::{Customer, Over, Site};
use crate::support::{Origin, PATIENCE, Reply, repository, request_within};

const CLIENTS: usize = 8;
const CUSTOMERS: usize = 5;
const SECONDS: u64 = 15;
/// What each customer begins with, in minor units.
const FUNDS: [(&str, i64); 2] = [("USD", 2_000_000), ("AFRI", 20_000_000_000)];
const SECRET: &str = "sandbox secret of the flows";
/// As short as may be, so that quotes expire in the middle.
const QUOTE_TTL: &str = "10s";

/// A product: where its orders are made, what is given for it, and what providers tell of it.
struct Product {
    path: &'static str,
    gives: &'static str,
    has_provider: bool,
    events: &'static [&'static str],
}

const PRODUCTS: [Product; 4] = [
    Product {
        path: "/api/v1/onramp/orders",
        gives: "USD",
        has_provider: true,
        events: &["payment.succeeded", "payment.failed", "payment.refunded"],
    },
    Product {
        path: "/api/v1/offramp/orders",
        gives: "AFRI",
        has_provider: true,
        events: &["payout.processing", "payout.succeeded", "payout.failed", "payout.returned"],
    },
    Product {
        path: "/api/v1/mint/requests",
        gives: "USD",
        has_provider: false,
        events: &["mint.succeeded", "mint.failed"],
    },
    Product {
        path: "/api/v1/redemption/requests",
        gives: "AFRI",
        has_provider: false,
        events: &["redemption.succeeded", "redemption.failed"],
    },
];

/// A request that was made under a key, and what its client was told.
struct Told {
    customer: usize,
    what: What,
    reply: Reply,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Transfer { to: usize },
    Order,
    Cancel,
}

/// An order that a client knows of.
#[derive(Clone)]
struct Order {
    id: String,
    customer: usize,
    product: usize,
}

/// What all clients share.
struct World<'a> {
    site: &'a Site<'a>,
    customers: Vec<Customer>,
    base: Mutex<String>,
    told: Mutex<HashMap<String, Told>>,
    orders: Mutex<Vec<Order>>,
    /// Bodies of events that were delivered, by id.
    events: Mutex<BTreeMap<String, String>>,
    is_over: AtomicBool,
    repeated: AtomicUsize,
}

impl World<'_> {
    /// Asks until there is an answer that says what became of it.
    fn insist(&self, ask: impl Fn(&str) -> Reply, is_answer: impl Fn(&Reply) -> bool) -> Reply {
        let began = Instant::now();
        loop {
            let base = self.base.lock().unwrap().clone();
            let reply = ask(&base);
            if is_answer(&reply) {
                return reply;
            }
            let may_come = matches!(reply.status, 0 | 503) || reply.code() == "idempotency_in_flight";
            assert!(may_come && began.elapsed() < PATIENCE, "{reply:?}");
            self.repeated.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Asks for something under a key of its own, now and then twice at once, and remembers the answer.
    fn ask(
        &self,
        random: &mut fastrand::Rng,
        customer: usize,
        what: What,
        path: &str,
        body: &Value,
        key: String,
    ) -> Reply {
        let body = body.to_string();
        let once = || {
            let ask = |base: &str| self.customers[customer].post(&format!("{base}{path}"), &body, Some(&key));
            self.insist(ask, |reply| matches!(reply.status, 200..=499) && !is_in_flight(reply))
        };
        let copies = if random.u8(..4) == 0 { 2 } else { 1 };
        let mut replies: Vec<Reply> = std::thread::scope(|scope| {
            let copies: Vec<_> = (0..copies).map(|_| scope.spawn(once)).collect();
            copies.into_iter().map(|copy| copy.join().unwrap()).collect()
        });
        let reply = replies.pop().unwrap();
        for copy in replies {
            let outcome = |reply: &Reply| if reply.status < 300 { reply.body.clone() } else { reply.code() };
            assert_eq!((copy.status, outcome(&copy)), (reply.status, outcome(&reply)), "copies of {key}");
        }
        let copy = Reply { status: reply.status, headers: reply.headers.clone(), body: reply.body.clone() };
        self.told.lock().unwrap().insert(key, Told { customer, what, reply: copy });
        reply
    }

    fn transfer(&self, random: &mut fastrand::Rng, key: String) {
        let from = random.usize(..CUSTOMERS);
        let to = (from + random.usize(1..CUSTOMERS)) % CUSTOMERS;
        let (currency, funds) = FUNDS[random.usize(..FUNDS.len())];
        let body =
            json!({ "to_account_id": self.customers[to].id, "amount": random.i64(1..funds / 3), "currency": currency });
        let reply = self.ask(random, from, What::Transfer { to }, "/api/v1/transfers", &body, key);
        assert!(matches!(reply.status, 201 | 422), "{reply:?}");
    }

    fn order(&self, random: &mut fastrand::Rng, key: String) {
        let (customer, number) = (random.usize(..CUSTOMERS), random.usize(..PRODUCTS.len()));
        let product = &PRODUCTS[number];
        let amount = match product.gives {
            "USD" => random.i64(5_000..400_000),
            _ => random.i64(50_000_000..4_000_000_000),
        };
        let mut body = json!({ "amount": amount, "currency": "USD", "asset": "AFRI" });
        if product.has_provider {
            body["provider"] = json!("sandbox");
        }
        let reply = self.ask(random, customer, What::Order, product.path, &body, key);
        assert!(matches!(reply.status, 201 | 422), "{reply:?}");
        if reply.status == 201 {
            let id = reply.json()["id"].as_str().unwrap().to_owned();
            self.orders.lock().unwrap().push(Order { id, customer, product: number });
        }
    }

    /// One of the last orders, of which something may still become; now and then an old one.
    fn some_order(&self, random: &mut fastrand::Rng) -> Option<Order> {
        let orders = self.orders.lock().unwrap();
        let from = if random.u8(..4) == 0 { 0 } else { orders.len().saturating_sub(CLIENTS * 2) };
        orders.get(from..).filter(|last| !last.is_empty()).map(|last| last[random.usize(..last.len())].clone())
    }

    fn cancel(&self, random: &mut fastrand::Rng, key: String) {
        let Some(order) = self.some_order(random) else { return };
        let path = format!("{}/{}/cancel", PRODUCTS[order.product].path, order.id);
        let reply = self.ask(random, order.customer, What::Cancel, &path, &json!({}), key);
        assert!(matches!(reply.status, 200 | 409), "{reply:?}");
    }

    /// Tells of an order what its provider might, whether that fits or not; or tells something once more.
    fn event(&self, random: &mut fastrand::Rng, id: String) {
        let Some(order) = self.some_order(random) else { return };
        let (id, body) = {
            let mut events = self.events.lock().unwrap();
            let old = (random.u8(..4) == 0 && !events.is_empty()).then(|| random.usize(..events.len()));
            match old.and_then(|number| events.iter().nth(number)) {
                Some((id, body)) => (id.clone(), body.clone()),
                None => {
                    let kinds = PRODUCTS[order.product].events;
                    let mut data = json!({ "order_id": order.id });
                    if random.u8(..8) == 0 {
                        data["amount"] = json!(random.i64(1..1_000));
                        data["currency"] = json!("USD");
                    }
                    let kind = kinds[random.usize(..kinds.len())];
                    let body = json!({ "id": id, "type": kind, "data": data }).to_string();
                    events.insert(id.clone(), body.clone());
                    (id, body)
                }
            }
        };
        let copies = if random.u8(..4) == 0 { 3 } else { 1 };
        std::thread::scope(|scope| {
            for _ in 0..copies {
                scope.spawn(|| self.deliver(&id, &body));
            }
        });
    }

    fn deliver(&self, id: &str, body: &str) -> String {
        let ask = |base: &str| {
            let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
            let mac = hmac::sign(&key, format!("{time}.{body}").as_bytes());
            let mac: String = mac.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            let signature = format!("t={time},v1={mac}");
            post(&format!("{base}/api/v1/webhooks/sandbox"), &[("X-Signature", &signature)], body)
        };
        let reply = self.insist(ask, |reply| reply.status == 200).json();
        assert_eq!(reply["id"], id);
        reply["outcome"].as_str().unwrap().to_owned()
    }

    fn client(&self, client: usize, random: &mut fastrand::Rng) {
        for number in 0.. {
            if self.is_over.load(Ordering::SeqCst) {
                return;
            }
            let key = format!("client {client}, request {number}");
            match random.u8(..10) {
                0..=2 => self.transfer(random, key),
                3..=5 => self.order(random, key),
                6 => self.cancel(random, key),
                _ => self.event(random, format!("evt_{client}_{number}")),
            }
        }
    }
}

fn is_in_flight(reply: &Reply) -> bool {
    reply.status == 409 && reply.code() == "idempotency_in_flight"
}

fn post(url: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    request_within(Duration::from_secs(10), "POST", url, headers, Some(body))
}

fn serve(site: &Site<'_>) -> Origin {
    let env = [
        ("DATABASE_URL", site.serving.as_str()),
        ("SANDBOX_WEBHOOK_SECRET", SECRET),
        ("MAINSTAY__ORDERS__QUOTE_TTL", QUOTE_TTL),
        ("MAINSTAY__ORDERS__SWEEP_INTERVAL", "1s"),
        ("MAINSTAY__WEBHOOKS__SWEEP_INTERVAL", "1s"),
    ];
    let origin = Origin::start(&repository("config"), &env);
    origin.get_until("/health/edge", |reply| reply.status == 200);
    origin
}

#[test]
fn whatever_happens_at_once_every_cent_is_where_it_was_said_to_be() {
    let seed = std::env::var("MONEY_SEED").ok().map_or_else(|| fastrand::u64(..), |text| text.parse().unwrap());
    let seconds = std::env::var("MONEY_SECONDS").ok().map_or(SECONDS, |text| text.parse().unwrap());
    println!("MONEY_SEED={seed} MONEY_SECONDS={seconds}");
    let mut random = fastrand::Rng::with_seed(seed);
    let scratch = Scratch::new("flows").unwrap();
    let primary = Postgres::primary(PostgresOptions::new(scratch.join("primary"))).unwrap();
    primary.psql("postgres", "CREATE DATABASE flows").unwrap();
    let site = Site::migrated(&primary, "flows".to_owned());
    // Long runs are to end by the clock, not at what may be sent on a day.
    site.sql("UPDATE ramp.kyc_limits SET per_day = 900000000000000000");
    site.sql("INSERT INTO exchange_rates (date, currency, rate) VALUES ('2026-10-30', 'USD', 1.1172)");
    let customers: Vec<Customer> = (0..CUSTOMERS).map(|number| site.customer(&format!("customer {number}"))).collect();
    for customer in &customers {
        FUNDS.iter().for_each(|(currency, funds)| site.fund(customer, currency, *funds));
    }
    let mut origin = serve(&site);
    let world = World {
        site: &site,
        customers,
        base: Mutex::new(origin.base.clone()),
        told: Mutex::default(),
        orders: Mutex::default(),
        events: Mutex::default(),
        is_over: AtomicBool::new(false),
        repeated: AtomicUsize::new(0),
    };
    let mut troubles = [0; 2];
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (mut random, world) = (random.fork(), &world);
            scope.spawn(move || world.client(client, &mut random));
        }
        let _over = Over(&world.is_over);
        let until = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < until || troubles.contains(&0) {
            // Time is what is tested here: trouble comes at any moment.
            std::thread::sleep(Duration::from_millis(random.u64(200..2_000)));
            let is_database = random.u8(..3) == 0;
            if is_database {
                primary.server.kill9();
                primary.server.start().unwrap();
            } else {
                origin.program.signal(Signal::KILL);
                origin = serve(&site);
                *world.base.lock().unwrap() = origin.base.clone();
            }
            troubles[usize::from(is_database)] += 1;
        }
        std::thread::sleep(Duration::from_millis(200));
    });
    println!("killed {} times, the database {} times", troubles[0], troubles[1]);
    world.assert_right(&origin);
}

impl World<'_> {
    /// Nothing is under way any more: what is told, what is kept and what has moved are the same.
    fn assert_right(&self, origin: &Origin) {
        for (id, body) in &*self.events.lock().unwrap() {
            self.deliver(id, body);
        }
        let due = "SELECT count(*) FROM ramp.orders WHERE open_until <= clock_timestamp()";
        assert!(
            wait_until(PATIENCE, || self.site.sql("SELECT count(*) FROM ramp.orders WHERE open_until IS NOT NULL")
                == "0"),
            "expired: {}",
            self.site.sql(due)
        );
        self.site.assert_sound();
        for (what, sql) in NOTHING {
            assert_eq!(self.site.sql(sql), "", "{what}");
        }
        self.assert_keys();
        self.assert_balances(origin);
    }

    /// Each key has had one effect, which is what was told of it; and there is no effect beside these.
    fn assert_keys(&self) {
        let told = self.told.lock().unwrap();
        let kept = self.site.sql(
            "SELECT key || '|' || outcome || '|' || coalesce(convert_from(body, 'UTF8'), '') FROM ramp.idempotency_keys",
        );
        let mut kept: HashMap<&str, (&str, &str)> = kept
            .lines()
            .map(|line| {
                let [key, outcome, body] = line.splitn(3, '|').collect::<Vec<_>>().try_into().unwrap();
                (key, (outcome, body))
            })
            .collect();
        let ids = |sql: &str| -> Vec<String> { self.site.sql(sql).lines().map(str::to_owned).collect() };
        let (mut transfers, mut orders) = (ids("SELECT id FROM ramp.transfers"), ids("SELECT id FROM ramp.orders"));
        let (mut cancelled, mut statuses) = (0, BTreeMap::<(u16, String), usize>::new());
        for (key, Told { what, reply, .. }) in &*told {
            let code = if reply.status < 300 { String::new() } else { reply.code() };
            *statuses.entry((reply.status, code.clone())).or_default() += 1;
            let Some((outcome, body)) = kept.remove(key.as_str()) else {
                assert!(matches!(code.as_str(), "state_conflict" | "body_invalid"), "{key} is not kept: {reply:?}");
                continue;
            };
            if reply.status >= 300 {
                assert_eq!(outcome, code, "{key}");
                continue;
            }
            assert_eq!((outcome, body), (reply.status.to_string().as_str(), reply.body.as_str()), "{key}");
            let id = &reply.json()["id"];
            let effects = match what {
                What::Transfer { .. } => &mut transfers,
                What::Order => &mut orders,
                What::Cancel => {
                    cancelled += 1;
                    continue;
                }
            };
            let at = effects.iter().position(|effect| id == effect);
            effects.swap_remove(at.unwrap_or_else(|| panic!("{key} has no effect: {reply:?}")));
        }
        println!("{statuses:?}");
        assert!(kept.is_empty(), "nobody was told of {kept:?}");
        assert!(transfers.is_empty() && orders.is_empty(), "beside what was told: {transfers:?} {orders:?}");
        let steps = self.site.sql("SELECT count(*) FROM ramp.order_history WHERE event = 'cancelled'");
        assert_eq!(steps, cancelled.to_string(), "cancellations");
        assert!(self.repeated.load(Ordering::Relaxed) > 0, "nobody noticed anything");
    }

    /// What everybody has is what they began with, and what they were told of their transfers and orders.
    fn assert_balances(&self, origin: &Origin) {
        let mut expected: HashMap<(String, String), (i64, i64)> = HashMap::new();
        for customer in &self.customers {
            for (currency, funds) in FUNDS {
                expected.insert((customer.id.clone(), currency.to_owned()), (funds, 0));
            }
        }
        let mut add = |holder: &str, currency: &str, posted: i64, held: i64| {
            let balance = expected.entry((holder.to_owned(), currency.to_owned())).or_default();
            *balance = (balance.0 + posted, balance.1 + held);
        };
        for Told { customer, what, reply } in self.told.lock().unwrap().values() {
            let What::Transfer { to } = what else { continue };
            if reply.status == 201 {
                let (transfer, number) =
                    (reply.json(), |transfer: &Value, name: &str| transfer[name].as_i64().unwrap());
                let (amount, fee) = (number(&transfer, "amount"), number(&transfer, "fee"));
                let currency = transfer["currency"].as_str().unwrap();
                add(&self.customers[*customer].id, currency, -amount - fee, 0);
                add(&self.customers[*to].id, currency, amount, 0);
            }
        }
        let orders = self.site.sql(
            "SELECT o.account_id, o.product, o.status, o.given_currency, o.given_amount, o.received_currency, o.received_amount, h.from_status
             FROM ramp.orders o JOIN ramp.order_history h ON h.order_id = o.id AND h.seq = o.seq",
        );
        let mut statuses = BTreeMap::<String, usize>::new();
        for line in orders.lines() {
            let [account, product, status, given_currency, given, received_currency, received, from_status] =
                line.split('|').collect::<Vec<_>>().try_into().unwrap();
            *statuses.entry(format!("{product} {status}")).or_default() += 1;
            let (given, received): (i64, i64) = (given.parse().unwrap(), received.parse().unwrap());
            let is_under_way = |status: &str| matches!(status, "pending" | "processing");
            // Who looks into an order keeps what is held for it; what was free before the money moved stays so.
            let is_held = is_under_way(status) || (status == "in_review" && is_under_way(from_status));
            match (product, status) {
                ("onramp", "completed") => add(account, received_currency, received, 0),
                ("offramp", "completed") => add(account, given_currency, -given, 0),
                (_, "completed") => {
                    add(account, given_currency, -given, 0);
                    add(account, received_currency, received, 0);
                }
                ("offramp" | "mint" | "redemption", _) if is_held => add(account, given_currency, 0, given),
                _ => {}
            }
        }
        println!("{statuses:?}");
        for ((holder, currency), (posted, held)) in expected {
            let shown = self.customers.iter().find(|customer| customer.id == holder).unwrap();
            let balances = shown.get(origin, "/account/balances").json();
            let mut all = balances["balances"].as_array().unwrap().iter();
            let shown =
                all.find(|one| one["currency"] == currency.as_str()).map(|one| (&one["available"], &one["held"]));
            assert_eq!(shown, Some((&json!(posted - held), &json!(held))), "{holder} {currency}");
        }
    }
}

/// What there must be none of.
const NOTHING: [(&str, &str); 9] = [
    (
        "currencies whose entries do not sum to zero",
        "SELECT a.currency, sum(e.amount) FROM ramp.ledger_entries e JOIN ramp.ledger_accounts a ON a.id = e.ledger_account_id
         GROUP BY a.currency HAVING sum(e.amount) <> 0",
    ),
    ("orders that are not where their history and the ledger say", "SELECT * FROM ramp.order_discrepancies"),
    (
        "steps that no rule allows",
        "SELECT h.* FROM ramp.order_history h LEFT JOIN ramp.order_transitions t USING (product, from_status, event, to_status)
         WHERE t.product IS NULL",
    ),
    (
        "steps that do not begin where the one before has ended",
        "SELECT * FROM (SELECT order_id, seq, from_status, coalesce(lag(to_status) OVER w, 'new') AS before, row_number() OVER w AS number
                        FROM ramp.order_history WINDOW w AS (PARTITION BY order_id ORDER BY seq)) AS steps
         WHERE from_status <> before OR seq <> number",
    ),
    (
        "events that were applied more than once",
        "SELECT cause FROM ramp.order_history WHERE cause LIKE 'sandbox:%' GROUP BY cause HAVING count(*) > 1",
    ),
    (
        "events whose outcome is not the step that they caused",
        "SELECT e.event_id, e.outcome, h.to_status
         FROM ramp.webhook_events e FULL JOIN (SELECT * FROM ramp.order_history WHERE cause LIKE 'sandbox:%') AS h
             ON h.cause = 'sandbox:' || e.event_id AND h.order_id = e.order_id
         WHERE e.outcome IS NULL OR e.outcome IS DISTINCT FROM coalesce(h.to_status, 'not_allowed')",
    ),
    (
        "what is held, and no open order holds",
        "SELECT t.id FROM ramp.ledger_transactions t WHERE t.state = 'pending' AND NOT EXISTS (
             SELECT FROM ramp.order_history h JOIN ramp.orders o ON o.id = h.order_id
             WHERE h.transaction_id = t.id AND o.status IN ('pending', 'processing', 'in_review'))",
    ),
    (
        "completed orders that moved something else than was quoted",
        "WITH moved AS (
             SELECT o.id, a.currency, sum(e.amount)::bigint AS amount
             FROM ramp.orders o JOIN ramp.order_history h ON h.order_id = o.id
             JOIN ramp.ledger_transactions t ON t.id = h.transaction_id AND t.state = 'posted'
             JOIN ramp.ledger_entries e ON e.transaction_id = t.id
             JOIN ramp.ledger_accounts a ON a.id = e.ledger_account_id AND a.account_id = o.account_id
             WHERE o.status = 'completed' AND h.event <> 'created' OR (o.status = 'completed' AND h.event = 'created' AND NOT EXISTS (
                 SELECT FROM ramp.order_history l WHERE l.order_id = o.id AND l.seq > h.seq AND l.transaction_id = h.transaction_id))
             GROUP BY o.id, a.currency
         ), quoted AS (
             SELECT id, given_currency AS currency, -given_amount AS amount FROM ramp.orders WHERE status = 'completed' AND product <> 'onramp'
             UNION ALL
             SELECT id, received_currency, received_amount FROM ramp.orders WHERE status = 'completed' AND product <> 'offramp'
         )
         (SELECT * FROM moved EXCEPT SELECT * FROM quoted) UNION ALL (SELECT * FROM quoted EXCEPT SELECT * FROM moved)",
    ),
    (
        "fees that nobody was quoted",
        "SELECT * FROM (
             SELECT a.currency, sum(e.amount)::bigint AS amount
             FROM ramp.ledger_entries e JOIN ramp.ledger_accounts a ON a.id = e.ledger_account_id AND a.holder = 'fees'
             JOIN ramp.ledger_transactions t ON t.id = e.transaction_id AND t.state = 'posted' GROUP BY a.currency
         ) AS taken FULL JOIN (
             SELECT currency, sum(fee)::bigint AS amount FROM (
                 SELECT currency, fee FROM ramp.transfers
                 UNION ALL SELECT CASE given_currency WHEN 'AFRI' THEN received_currency ELSE given_currency END, fee
                 FROM ramp.orders WHERE status = 'completed'
             ) AS all_fees GROUP BY currency HAVING sum(fee) > 0
         ) AS quoted USING (currency) WHERE taken.amount IS DISTINCT FROM quoted.amount",
    ),
];
