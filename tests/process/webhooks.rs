//! Deliveries of the sandbox provider to the real binary, under a role that may do no more than it must, and servers that are killed
//! between storing an event and applying it.

use std::time::{SystemTime, UNIX_EPOCH};

use mainstay::local::wait_until;
use postgres::{Client, NoTls};
use ring::hmac;
use rustix::process::Signal;
use serde_json::json;

use crate::money::{Customer, Site};
use crate::support::{Cluster, Origin, PATIENCE, Reply, repository, request};

const SECRET: &str = "a secret that nobody guesses";

fn serve(site: &Site<'_>, more: &[(&str, &str)]) -> Origin {
    let env: Vec<_> = [("DATABASE_URL", &*site.serving)].into_iter().chain(more.iter().copied()).collect();
    let origin = Origin::start(&repository("config"), &env);
    origin.get_until("/health/edge", |reply| reply.status == 200);
    origin
}

/// Delivers an event as the sandbox does.
fn deliver(base: &str, secret: &str, id: &str, kind: &str, order: &str) -> Reply {
    let body = json!({ "id": id, "type": kind, "data": { "order_id": order } }).to_string();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), format!("{now}.{body}").as_bytes());
    let mac: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let headers = [("X-Signature", &*format!("t={now},v1={mac}")), ("Content-Type", "application/json")];
    request("POST", &format!("{base}/api/v1/webhooks/sandbox"), &headers, Some(&body))
}

/// An order of 1,000 dollars' worth of tokens, of which 990 arrive.
fn onramp(site: &Site<'_>, customer: &Customer) -> String {
    let id = site.sql("SELECT gen_random_uuid()");
    let create = format!(
        "SELECT ramp.create_order('{id}', '{}', 'onramp', 'sandbox', 100000, 'USD', 990000000, 'AFRI', 1000, '1', 900)",
        customer.id
    );
    assert_eq!(site.sql(&create), "t");
    id
}

#[test]
fn an_order_is_paid_by_what_its_provider_tells() {
    let cluster = Cluster::shared();
    let site = Site::migrated(&cluster.primary, cluster.database(""));
    site.sql("INSERT INTO exchange_rates (date, base, currency, rate) VALUES ('2026-10-30', 'EUR', 'USD', 1.1172)");
    let ada = site.customer("Ada");
    let origin = serve(&site, &[("SANDBOX_WEBHOOK_SECRET", SECRET)]);
    let headers = [("Authorization", &*ada.bearer), ("Idempotency-Key", "first"), ("Content-Type", "application/json")];
    let wanted = json!({ "amount": 100_000, "currency": "USD", "asset": "AFRI", "provider": "sandbox" }).to_string();
    let made = request("POST", &format!("{}/api/v1/onramp/orders", origin.base), &headers, Some(&wanted));
    let order = made.json();
    assert_eq!((made.status, &order["status"]), (201, &json!("awaiting_payment")), "{made:?}");
    assert_eq!(ada.available(&origin, "AFRI"), 0);
    let id = order["id"].as_str().unwrap();
    let told = deliver(&origin.base, SECRET, "evt_1", "payment.succeeded", id);
    assert_eq!((told.status, told.json()), (200, json!({ "id": "evt_1", "outcome": "completed" })), "{told:?}");
    // A thousand dollars less the fee that the quote has said.
    assert_eq!((&order["quote"]["fee"], &order["quote"]["asset_amount"]), (&json!(1_020), &json!(989_800_000)));
    assert_eq!(ada.available(&origin, "AFRI"), 989_800_000);
    let shown = request("GET", &format!("{}/api/v1/onramp/orders/{id}", origin.base), &headers[..1], None);
    assert_eq!(shown.json()["status"], "completed");
    site.assert_sound();
}

#[test]
fn an_event_whose_server_was_killed_before_it_was_applied_is_applied_once() {
    let cluster = Cluster::shared();
    let site = Site::migrated(&cluster.primary, cluster.database(""));
    let ada = site.customer("Ada");
    let order = onramp(&site, &ada);
    let env = [("SANDBOX_WEBHOOK_SECRET", SECRET), ("MAINSTAY__WEBHOOKS__SWEEP_INTERVAL", "100ms")];
    // Somebody holds the order, so that the event is stored and cannot be applied; nor can the sweep do it.
    let mut holder = Client::connect(&site.primary.url("postgres", &site.name), NoTls).unwrap();
    let mut held = holder.transaction().unwrap();
    held.execute(&format!("SELECT FROM ramp.orders WHERE id = '{order}' FOR UPDATE"), &[]).unwrap();
    let mut first = serve(&site, &env);
    std::thread::scope(|scope| {
        let (base, order) = (first.base.clone(), &order);
        let delivery = scope.spawn(move || deliver(&base, SECRET, "evt_1", "payment.succeeded", order));
        let stored = || site.sql("SELECT count(*), count(outcome) FROM ramp.webhook_events") == "1|0";
        assert!(wait_until(PATIENCE, stored));
        first.program.signal(Signal::KILL);
        first.program.wait();
        assert_eq!(delivery.join().unwrap().status, 0, "nobody was told anything");
    });
    held.rollback().unwrap();
    assert_eq!(site.sql("SELECT count(outcome) FROM ramp.webhook_events"), "0");
    let second = serve(&site, &env);
    let is_applied = || site.sql("SELECT outcome FROM ramp.webhook_events") == "completed";
    assert!(wait_until(PATIENCE, is_applied), "{}", second.program.output());
    assert_eq!(ada.available(&second, "AFRI"), 990_000_000);
    // The provider was not answered, and delivers again.
    let again = deliver(&second.base, SECRET, "evt_1", "payment.succeeded", &order);
    assert_eq!((again.status, again.json()), (200, json!({ "id": "evt_1", "outcome": "completed" })), "{again:?}");
    assert_eq!(ada.available(&second, "AFRI"), 990_000_000);
    site.assert_sound();
    assert_eq!(site.sql("SELECT * FROM ramp.order_discrepancies"), "");
}

#[test]
fn secrets_come_from_a_file_change_one_after_the_other_and_are_in_no_log() {
    let cluster = Cluster::shared();
    let site = Site::migrated(&cluster.primary, cluster.database(""));
    let ada = site.customer("Ada");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "new secret of the sandbox, old secret of the sandbox\n").unwrap();
    let env = [
        ("SANDBOX_WEBHOOK_SECRET_FILE", file.path().to_str().unwrap()),
        ("MAINSTAY__LOG__LEVEL", "trace"),
        ("MAINSTAY__LOG__ACCESS", "all"),
    ];
    let origin = serve(&site, &env);
    for (id, secret, status) in
        [("evt_1", "old secret", 200), ("evt_2", "new secret", 200), ("evt_3", "other secret", 401)]
    {
        let order = onramp(&site, &ada);
        let reply = deliver(&origin.base, &format!("{secret} of the sandbox"), id, "payment.succeeded", &order);
        assert_eq!(reply.status, status, "{reply:?}");
    }
    assert_eq!(ada.available(&origin, "AFRI"), 2 * 990_000_000);
    let mut origin = origin;
    origin.program.expect_text("a delivery of sandbox is refused");
    let log = origin.program.output();
    assert!(!log.contains("secret of the sandbox") && !log.contains("v1="), "{log}");
}

/// What the role that serves may do with events, it does by functions.
#[test]
fn the_role_that_serves_writes_no_event_by_itself() {
    let cluster = Cluster::shared();
    let site = Site::migrated(&cluster.primary, cluster.database(""));
    let mut serving = Client::connect(&site.serving, NoTls).unwrap();
    let store = "SELECT ramp.store_webhook_event('sandbox', 'evt_1', 'x', gen_random_uuid(), NULL, NULL, '')";
    assert_eq!(serving.query_one(store, &[]).unwrap().get::<_, &str>(0), "stored");
    for statement in [
        "INSERT INTO ramp.webhook_events (provider, event_id, kind, order_id, payload) VALUES ('a', 'b', 'c', gen_random_uuid(), '')",
        "UPDATE ramp.webhook_events SET outcome = NULL",
        "DELETE FROM ramp.webhook_events",
        "TRUNCATE ramp.webhook_events",
        "SELECT FROM ramp.webhook_events FOR UPDATE",
    ] {
        let error = serving.execute(statement, &[]).unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42501", "{statement}: {error}");
    }
    let keep = |outcome: &str| format!("SELECT ramp.keep_webhook_outcome('sandbox', 'evt_1', '{outcome}')");
    assert!(serving.query_one(&keep("completed"), &[]).unwrap().get::<_, bool>(0));
    assert!(!serving.query_one(&keep("failed"), &[]).unwrap().get::<_, bool>(0), "it is said once");
    // A table of the caller's own in the way of a function's does not lead it astray.
    serving.batch_execute("CREATE TEMP TABLE webhook_events (outcome text)").unwrap();
    assert_eq!(serving.query_one(store, &[]).unwrap().get::<_, &str>(0), "other");
}
