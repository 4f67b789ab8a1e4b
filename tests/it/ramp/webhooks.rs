//! Deliveries of providers over HTTP: stored, applied once, whatever comes in between.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mainstay::config::settings::Settings;
use mainstay::database::maintenance::MaintenancePool;
use mainstay::error::{Code, Error};
use mainstay::local::wait_until;
use mainstay::ramp;
use mainstay::ramp::providers::{Delivery, Event, Provider};
use serde_json::json;

use super::providers::signature;
use super::{Customer, PRIMARY, migrated_database, sql};
use crate::instance::client::Reply;
use crate::instance::{Instance, Plan};
use crate::support::{PATIENCE, settings};

const SECRET: &str = "a secret that nobody guesses";
const ROUTES: &str = r#"
[[route]]
path        = "/api/v1/webhooks/{provider}"
methods     = ["POST"]
handler     = "ramp.webhooks.receive"
consistency = "strong"
params      = [{ name = "provider", in = "path", type = "text" }]
"#;

/// An instance on a database of its own, and a customer there.
struct Site {
    database: String,
    customer: Customer,
    instance: Instance,
}

/// A provider of somebody's own, whose deliveries show a password and are lines of text.
struct Acme;

impl Provider for Acme {
    fn name(&self) -> &str {
        "acme"
    }

    fn verify(&self, delivery: &Delivery<'_>) -> Result<Event, Error> {
        if delivery.header("x-password").next() != Some(b"sesame") {
            return Err(Error::new(Code::SignatureInvalid, "X-Password is not what it should be"));
        }
        let text = String::from_utf8_lossy(delivery.body);
        let mut lines = text.lines().map(str::to_owned);
        let mut next = || lines.next().ok_or_else(|| Error::new(Code::BodyInvalid, "three lines are needed"));
        let (id, kind, order) = (next()?, next()?, next()?);
        let order_id = order.parse().map_err(|_| Error::new(Code::BodyInvalid, "the third line is no order"))?;
        Ok(Event { id, kind, order_id, amount: None, currency: None })
    }
}

impl Site {
    fn plan(database: &str) -> Plan {
        Plan::new(ROUTES)
            .parts(|parts| {
                ramp::register(&mut parts.registry);
                parts.providers.add(Arc::new(Acme));
            })
            .set("DATABASE_URL", &PRIMARY.url("postgres", database))
            .set("SANDBOX_WEBHOOK_SECRET", SECRET)
            .set("webhooks.sweep_interval", "1h")
    }

    fn new() -> Self {
        let database = migrated_database();
        let instance = Self::plan(&database).start();
        instance.wait_healthy();
        Self { customer: Customer::new(&database, 1, "USD", 0), database, instance }
    }

    fn sql(&self, statement: &str) -> String {
        sql(&self.database, statement)
    }

    /// An order of 1,000 dollars' worth of tokens, of which 990 arrive.
    fn onramp(&self, provider: &str) -> String {
        let id = self.sql("SELECT gen_random_uuid()");
        let account = &self.customer.account;
        let create = format!(
            "SELECT ramp.create_order('{id}', '{account}', 'onramp', '{provider}', 100000, 'USD', 990000000, 'AFRI', 1000, '1', 900)"
        );
        assert_eq!(self.sql(&create), "t");
        id
    }

    fn status(&self, order: &str) -> String {
        self.sql(&format!("SELECT status FROM ramp.orders WHERE id = '{order}'"))
    }

    fn events(&self) -> String {
        self.sql("SELECT count(*), count(outcome) FROM ramp.webhook_events")
    }

    fn deliver(&self, body: &str) -> Reply {
        deliver(&self.instance, "sandbox", body.as_bytes())
    }

    fn assert_sound(&self) {
        assert_eq!(self.sql("SELECT * FROM ramp.ledger_discrepancies"), "");
        assert_eq!(self.sql("SELECT * FROM ramp.order_discrepancies"), "");
    }
}

fn body(id: &str, kind: &str, order: &str) -> String {
    json!({ "id": id, "type": kind, "data": { "order_id": order } }).to_string()
}

/// Delivers a body that the sandbox has signed just now.
fn deliver(instance: &Instance, provider: &str, body: &[u8]) -> Reply {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    post(instance, provider, &[("X-Signature", &signature(SECRET, now, body))], body)
}

fn post(instance: &Instance, provider: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    instance.connect().request_with_body("POST", &format!("/api/v1/webhooks/{provider}"), headers, body)
}

#[track_caller]
fn assert_outcome(reply: &Reply, id: &str, outcome: &str) {
    assert_eq!((reply.status, reply.json()), (200, json!({ "id": id, "outcome": outcome })), "{reply:?}");
}

#[test]
fn an_event_moves_its_order_once_however_often_it_comes() {
    let site = Site::new();
    let (order, other) = (site.onramp("sandbox"), site.onramp("sandbox"));
    let paid = body("evt_1", "payment.succeeded", &order);
    let first = site.deliver(&paid);
    assert_outcome(&first, "evt_1", "completed");
    assert_eq!((first.said("cache-control"), first.header("x-route-primary")), ("no-store", Some("true")));
    assert_eq!((site.status(&order).as_str(), site.customer.available("AFRI")), ("completed", 990_000_000));
    assert_outcome(&site.deliver(&paid), "evt_1", "completed");
    // The first one counts, whatever else is said under its id.
    assert_outcome(&site.deliver(&body("evt_1", "payment.succeeded", &other)), "evt_1", "completed");
    assert_outcome(&site.deliver(&body("evt_2", "payment.succeeded", &order)), "evt_2", "not_allowed");
    assert_eq!((site.status(&other).as_str(), site.customer.available("AFRI")), ("awaiting_payment", 990_000_000));
    assert_eq!(site.events(), "2|2");
    let kept = site.sql("SELECT convert_from(payload, 'UTF8') FROM ramp.webhook_events WHERE event_id = 'evt_1'");
    assert_eq!(kept, paid, "byte for byte");
    let count = |outcome: &str| {
        site.instance.metric(&format!("mainstay_webhook_events_total{{outcome=\"{outcome}\",provider=\"sandbox\"}}"))
    };
    assert_eq!((count("moved"), count("duplicate"), count("not_allowed")), (1.0, 2.0, 1.0));
    site.assert_sound();
}

#[test]
fn of_many_deliveries_at_once_one_has_the_effect() {
    let site = Site::new();
    let order = site.onramp("sandbox");
    let paid = body("evt_1", "payment.succeeded", &order);
    let replies: Vec<Reply> = std::thread::scope(|scope| {
        let copies: Vec<_> = (0..50).map(|_| scope.spawn(|| site.deliver(&paid))).collect();
        copies.into_iter().map(|copy| copy.join().unwrap()).collect()
    });
    // Who finds no room is told to come again.
    for reply in &replies {
        match reply.status {
            200 => assert_outcome(reply, "evt_1", "completed"),
            _ => assert_eq!(reply.status, 503, "{reply:?}"),
        }
    }
    assert_outcome(&site.deliver(&paid), "evt_1", "completed");
    assert_eq!((site.customer.available("AFRI"), site.events().as_str()), (990_000_000, "1|1"));
    assert_eq!(site.sql(&format!("SELECT count(*) FROM ramp.order_history WHERE order_id = '{order}'")), "2");
    let moved = site.instance.metric("mainstay_webhook_events_total{outcome=\"moved\",provider=\"sandbox\"}");
    assert_eq!(moved, 1.0);
    site.assert_sound();
}

#[test]
fn in_whatever_order_events_come_they_end_alike() {
    let site = Site::new();
    let sets: [(&str, &[&str], &str); 4] = [
        ("awaiting_payment", &["payment.succeeded", "payment.failed", "payment.noted"], "completed"),
        ("awaiting_payment", &["payment.failed", "payment.pending"], "failed"),
        ("cancelled", &["payment.succeeded", "payment.refunded", "payment.failed"], "refunded"),
        ("cancelled", &["payment.refunded", "payment.succeeded", "payment.succeeded"], "refunded"),
    ];
    for (number, (from, kinds, to)) in sets.into_iter().enumerate() {
        for (turn, kinds) in permutations(kinds).into_iter().enumerate() {
            let order = site.onramp("sandbox");
            if from == "cancelled" {
                assert_eq!(site.sql(&format!("SELECT ramp.advance('{order}', 'cancelled', 'customer')")), "cancelled");
            }
            for (place, kind) in kinds.iter().enumerate() {
                let reply = site.deliver(&body(&format!("evt_{number}_{turn}_{place}"), kind, &order));
                assert_eq!(reply.status, 200, "{reply:?}");
            }
            assert_eq!(site.status(&order), to, "{from}: {kinds:?}");
        }
    }
    // What came before its time has an outcome of its own in the end.
    let outcomes = "SELECT string_agg(outcome, ' ' ORDER BY event_id) FROM ramp.webhook_events \
                    WHERE kind = 'payment.refunded' AND event_id LIKE 'evt\\_2\\_%'";
    assert_eq!(site.sql(outcomes), ["refunded"; 6].join(" "));
    site.assert_sound();
}

fn permutations<'a>(of: &[&'a str]) -> Vec<Vec<&'a str>> {
    if of.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (at, first) in of.iter().enumerate() {
        let rest = [&of[..at], &of[at + 1..]].concat();
        all.extend(permutations(&rest).into_iter().map(|rest| [vec![*first], rest].concat()));
    }
    all
}

#[test]
fn what_is_refused_is_not_stored() {
    let site = Site::new();
    let order = site.onramp("sandbox");
    let paid = body("evt_1", "payment.succeeded", &order);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let old = signature(SECRET, now - 400, paid.as_bytes());
    let forged = signature("another secret of somebody", now, paid.as_bytes());
    for headers in [&[][..], &[("X-Signature", &*old)], &[("X-Signature", &*forged)], &[("X-Signature", "t=1")]] {
        let reply = post(&site.instance, "sandbox", headers, paid.as_bytes());
        assert_eq!((reply.status, reply.problem().as_str()), (401, "signature_invalid"), "{reply:?}");
        assert_eq!(reply.said("www-authenticate"), "Signature realm=\"mainstay\"");
        assert!(!reply.text().contains("secret"), "{reply:?}");
    }
    let long = format!("{}{}", paid, " ".repeat(64 * 1024));
    for (body, status, code, named) in [
        (body("evt 1", "payment.succeeded", &order), 400, "body_invalid", "id"),
        (body("", "payment.succeeded", &order), 400, "body_invalid", "id"),
        (body(&"e".repeat(256), "payment.succeeded", &order), 400, "body_invalid", "id"),
        (body("evt\u{0}", "payment.succeeded", &order), 400, "body_invalid", "id"),
        (body("evt_é", "payment.succeeded", &order), 400, "body_invalid", "id"),
        (body("evt_1", "", &order), 400, "body_invalid", "type"),
        (body("evt_1", &"x".repeat(101), &order), 400, "body_invalid", "type"),
        (paid.replace("}}", ",\"currency\":\"dollars\"}}"), 400, "body_invalid", "currency"),
        ("{".to_owned(), 400, "body_invalid", "EOF"),
        (long, 413, "body_too_large", "65536"),
    ] {
        let reply = site.deliver(&body);
        assert_eq!(
            (reply.status, reply.problem().as_str(), reply.text().contains(named)),
            (status, code, true),
            "{reply:?}"
        );
    }
    for provider in ["nobody", "Sandbox", "sandbox%20"] {
        let reply = deliver(&site.instance, provider, paid.as_bytes());
        assert_eq!((reply.status, reply.problem().as_str()), (404, "not_found"), "{reply:?}");
    }
    assert_eq!((site.status(&order).as_str(), site.events().as_str()), ("awaiting_payment", "0|0"));
    let refused = site.instance.metric("mainstay_webhook_events_total{outcome=\"refused\",provider=\"sandbox\"}");
    assert_eq!(refused, 13.0, "what is too long is not looked at");
    assert_outcome(&site.deliver(&body("evt_1", "payment.succeeded", &order)), "evt_1", "completed");
}

/// Nothing that a provider could mend by repeating it: it is stored, for people, and answered.
#[test]
fn what_is_of_no_order_is_kept_and_changes_nothing() {
    let site = Site::new();
    let (order, of_another) = (site.onramp("sandbox"), site.onramp("acme"));
    let nowhere = "00000000-0000-4000-8000-000000000000";
    let with_amount = |amount: &str| body("evt_3", "payment.succeeded", &order).replace("}}", &format!("{amount}}}}}"));
    for (body, id, outcome) in [
        (body("evt_1", "payment.succeeded", nowhere), "evt_1", "unknown_order"),
        (body("evt_2", "payment.succeeded", &of_another), "evt_2", "unknown_order"),
        (with_amount(r#","amount":-5,"currency":"USD""#), "evt_3", "amount_invalid"),
        (body("evt_4", "customer.updated", &order), "evt_4", "unknown_kind"),
        (body("evt_5", "cancelled", &order), "evt_5", "unknown_kind"),
    ] {
        assert_outcome(&site.deliver(&body), id, outcome);
        assert_outcome(&site.deliver(&body), id, outcome);
    }
    assert_eq!((site.status(&order), site.status(&of_another)), ("awaiting_payment".into(), "awaiting_payment".into()));
    assert_eq!(site.events(), "5|5");
    let unknown = site.instance.metric("mainstay_webhook_events_total{outcome=\"unknown_order\",provider=\"sandbox\"}");
    assert_eq!(unknown, 2.0);
}

#[test]
fn a_provider_of_ones_own_stands_beside_the_sandbox() {
    let site = Site::new();
    let (order, of_sandbox) = (site.onramp("acme"), site.onramp("sandbox"));
    let lines = |id: &str, order: &str| format!("{id}\npayment.succeeded\n{order}\n");
    let send = |password: &str, body: &str| post(&site.instance, "acme", &[("X-Password", password)], body.as_bytes());
    assert_eq!(send("open", &lines("1", &order)).problem(), "signature_invalid");
    assert_eq!(send("sesame", "1\n").problem(), "body_invalid");
    assert_eq!(send("sesame", &lines("1 or 2", &order)).problem(), "body_invalid", "whoever has read it");
    assert_outcome(&send("sesame", &lines("1", &of_sandbox)), "1", "unknown_order");
    assert_outcome(&send("sesame", &lines("2", &order)), "2", "completed");
    // Their ids are their own.
    assert_outcome(&site.deliver(&body("2", "payment.succeeded", &of_sandbox)), "2", "completed");
    assert_eq!(site.sql("SELECT sum(amount) FROM ramp.ledger_entries e JOIN ramp.ledger_accounts a ON a.id = e.ledger_account_id WHERE a.holder = 'clearing:acme'"), "-100000");
}

#[test]
fn without_a_secret_there_is_no_sandbox() {
    let database = migrated_database();
    let instance = Site::plan(&database).unset("SANDBOX_WEBHOOK_SECRET").start();
    let reply = deliver(&instance, "sandbox", b"{}");
    assert_eq!((reply.status, reply.problem().as_str()), (404, "not_found"));
    assert!(reply.text().contains("there is no provider sandbox"), "{reply:?}");
    let named = |name: &'static str| {
        struct Named(&'static str);
        impl Provider for Named {
            fn name(&self) -> &str {
                self.0
            }
            fn verify(&self, _: &Delivery<'_>) -> Result<Event, Error> {
                Err(Error::new(Code::SignatureInvalid, "no"))
            }
        }
        Site::plan(&database).parts(|parts| parts.providers.add(Arc::new(Named(name)))).try_start().err()
    };
    let refused = named("sandbox").unwrap();
    assert!(refused.starts_with("webhooks.sandbox_secret"), "{refused}");
    for name in ["", "Acme", "acme:2", "a_name_that_is_longer_than_it_may_be"] {
        let refused = named(name).unwrap();
        assert!(refused.contains(&format!("the provider {name:?}")), "{refused}");
    }
}

/// An event that was stored when nothing else could be done: its next delivery, or the sweep, sees to it.
#[test]
fn what_was_stored_and_not_applied_is_applied_later() {
    let site = Site::new();
    let orders: Vec<String> = (0..4).map(|_| site.onramp("sandbox")).collect();
    let bodies: Vec<String> =
        orders.iter().enumerate().map(|(at, order)| body(&format!("evt_{at}"), "payment.succeeded", order)).collect();
    site.sql("ALTER TABLE ramp.order_history ADD CONSTRAINT broken CHECK (event = 'created') NOT VALID");
    for body in &bodies[..3] {
        let reply = site.deliver(body);
        assert_eq!((reply.status, reply.problem().as_str()), (500, "query_failed"), "{reply:?}");
    }
    assert_eq!((site.events().as_str(), site.customer.available("AFRI")), ("3|0", 0));
    // One of them cannot be applied for longer than the others.
    site.sql(
        "ALTER TABLE ramp.order_history DROP CONSTRAINT broken, \
         ADD CONSTRAINT broken CHECK (cause <> 'sandbox:evt_2') NOT VALID",
    );
    assert_outcome(&site.deliver(&bodies[0]), "evt_0", "completed");
    assert_eq!(site.events(), "3|1");
    let sweeper = Site::plan(&site.database).set("webhooks.sweep_interval", "50ms").start();
    assert!(wait_until(PATIENCE, || site.events() == "3|2"), "{}", site.events());
    assert!(wait_until(PATIENCE, || sweeper.metric("mainstay_webhook_events_waiting") == 1.0));
    assert_outcome(&site.deliver(&bodies[1]), "evt_1", "completed");
    assert_outcome(&site.deliver(&bodies[3]), "evt_3", "completed");
    assert_eq!(site.deliver(&bodies[2]).status, 500);
    site.sql("ALTER TABLE ramp.order_history DROP CONSTRAINT broken");
    assert!(wait_until(PATIENCE, || site.events() == "4|4"), "{}", site.events());
    assert!(wait_until(PATIENCE, || sweeper.metric("mainstay_webhook_events_waiting") == 0.0));
    assert_eq!(site.customer.available("AFRI"), 4 * 990_000_000);
    site.assert_sound();
}

/// Sweeps of a whole fleet and deliveries, all after the same events.
#[test]
fn sweeps_and_deliveries_at_once_apply_each_event_once() {
    let site = Site::new();
    let orders: Vec<String> = (0..20).map(|_| site.onramp("sandbox")).collect();
    let bodies: Vec<String> =
        orders.iter().enumerate().map(|(at, order)| body(&format!("evt_{at}"), "payment.succeeded", order)).collect();
    for (at, order) in orders.iter().enumerate() {
        let store = format!(
            "SELECT ramp.store_webhook_event('sandbox', 'evt_{at}', 'payment.succeeded', '{order}', NULL, NULL, 'x')"
        );
        assert_eq!(site.sql(&store), "stored");
    }
    site.sql("UPDATE ramp.webhook_events SET received_at = now() - interval '1 minute'");
    let fleet: Vec<Instance> =
        (0..3).map(|_| Site::plan(&site.database).set("webhooks.sweep_interval", "20ms").start()).collect();
    std::thread::scope(|scope| {
        for instance in &fleet {
            scope.spawn(|| {
                for body in &bodies {
                    let reply = deliver(instance, "sandbox", body.as_bytes());
                    assert!(matches!(reply.status, 200 | 503), "{reply:?}");
                }
            });
        }
    });
    assert!(wait_until(PATIENCE, || site.events() == "20|20"), "{}", site.events());
    assert_eq!(site.customer.available("AFRI"), 20 * 990_000_000);
    assert_eq!(site.sql("SELECT count(*) FROM ramp.order_history"), "40");
    site.assert_sound();
}

#[test]
fn events_are_forgotten_when_they_are_old_and_seen_to() {
    let site = Site::new();
    for (id, days, outcome) in [
        ("young", 6, "'completed'"),
        ("older", 8, "'completed'"),
        ("old", 100, "'completed'"),
        ("waiting", 100, "NULL"),
    ] {
        site.sql(&format!(
            "INSERT INTO ramp.webhook_events (provider, event_id, kind, order_id, payload, received_at, outcome, processed_at) \
             SELECT 'sandbox', '{id}', 'payment.succeeded', gen_random_uuid(), 'x', now() - interval '{days} days', o, \
             CASE WHEN o IS NOT NULL THEN now() END FROM (SELECT {outcome}::text AS o) s"
        ));
    }
    let settings: Settings = settings(&PRIMARY.url("postgres", &site.database), "", &[]);
    let pool = MaintenancePool::open(&settings.database).unwrap();
    let mut conn = pool.get().unwrap();
    let left = || site.sql("SELECT string_agg(event_id, ' ' ORDER BY event_id) FROM ramp.webhook_events");
    assert_eq!(ramp::webhooks::prune(&mut conn, settings.webhooks.retention.0).unwrap(), 1);
    assert_eq!(left(), "older waiting young");
    assert_eq!(ramp::webhooks::prune(&mut conn, Duration::ZERO).unwrap(), 1, "a week, whatever is asked for");
    assert_eq!(left(), "waiting young");
}
