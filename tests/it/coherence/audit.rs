//! The audit: what no trigger told of is found, and what was told is not taken for an error.

use mainstay::local::wait_until;
use serde_json::json;

use super::fleet::{Claim, Fleet, Member};
use crate::instance::browser::Browser;
use crate::instance::client::Connection;
use crate::instance::{Instance, Plan};
use crate::support::PATIENCE;

const ROUTE: &str = "/public/items/{id}";

/// An instance that follows the feed itself and audits every hit but the first.
fn audited(fleet: &Fleet) -> Plan {
    fleet
        .plan()
        .set("REDIS_URL", "")
        .set("server.workers", "1")
        .set("cache.audit_one_in", "1")
        .set("cache.audit_per_second_max", "1000")
        .set("cache.not_found_ttl", "1h")
        .set("changes.watch_interval", "1h")
}

fn checked(instance: &Instance, route: &str) -> f64 {
    instance.metric(&format!("mainstay_audit_checked_total{{route=\"{route}\"}}"))
}

fn wrong(instance: &Instance) -> f64 {
    instance.metric(&format!("mainstay_audit_wrong_total{{route=\"{ROUTE}\"}}"))
}

/// One more audit than there were has come to its end.
fn audit(instance: &Instance, target: &str) {
    let before = checked(instance, ROUTE);
    assert!(instance.get(target).is_hit());
    assert!(wait_until(PATIENCE, || checked(instance, ROUTE) > before), "{target} is not audited");
}

#[test]
fn a_difference_that_no_trigger_told_of_is_wrong() {
    let fleet = Fleet::new("audit-untold");
    let instance = audited(&fleet).start();
    instance.wait_hearing("feed");
    for target in ["/public/items/1", "/public/items/2", "/public/items/50"] {
        assert!(!instance.get(target).is_hit());
    }
    assert!(instance.get("/public/items/1").is_hit(), "the first hit of a worker only draws");
    for target in ["/public/items/1", "/public/items/2", "/public/items/50"] {
        audit(&instance, target);
    }
    assert_eq!(wrong(&instance), 0.0, "a value, and the absence of one, are as they are on the primary");

    fleet.sql("ALTER TABLE items_low DISABLE TRIGGER USER; ALTER TABLE items DISABLE TRIGGER USER");
    fleet.sql(
        "UPDATE items SET value = 7 WHERE id = 1; DELETE FROM items WHERE id = 2; \
               INSERT INTO items VALUES (50, 'ann', 0)",
    );
    for (count, target) in [(1.0, "/public/items/1"), (2.0, "/public/items/2"), (3.0, "/public/items/50")] {
        audit(&instance, target);
        assert_eq!(wrong(&instance), count, "{target}");
    }
}

#[test]
fn a_wrong_answer_degrades_until_somebody_acknowledges_it_and_the_next_one_anew() {
    const TOKEN: &str = "correct-horse";
    let fleet = Fleet::new("audit-acknowledged");
    let instance = audited(&fleet).set("ADMIN_TOKEN", TOKEN).start();
    instance.wait_hearing("feed");
    for _ in 0..2 {
        instance.get("/public/items/1");
    }
    fleet.sql("ALTER TABLE items_low DISABLE TRIGGER USER; ALTER TABLE items DISABLE TRIGGER USER");
    fleet.sql("UPDATE items SET value = 7 WHERE id = 1");
    let unacknowledged = || instance.metric(&format!("mainstay_audit_unacknowledged{{route=\"{ROUTE}\"}}"));
    let ask_with = |method: &str, path: &str, body: &str| {
        let headers = [("Authorization", &*format!("Bearer {TOKEN}"))];
        Connection::open(instance.admin).request_with_body(method, path, &headers, body.as_bytes()).json()
    };
    let ask = |method: &str, path: &str| ask_with(method, path, "");
    let first = || ask("GET", "/admin/status")["degraded"][0].clone();

    audit(&instance, "/public/items/1");
    assert_eq!((wrong(&instance), unacknowledged()), (1.0, 1.0));
    assert_eq!((&first()["reason"], &first()["level"]), (&json!("audit_wrong"), &json!("critical")));
    let detail = "1 cached answer was not what the primary said: /public/items/{id}.";
    assert_eq!(first()["detail"], detail);
    let acknowledge = |body: &str| ask_with("POST", "/admin/audit/acknowledge", body);
    assert_eq!(acknowledge(r#"{"seen": {"/other": 7}}"#), json!({ "acknowledged": {} }), "nobody has seen it");
    assert_eq!(acknowledge(r#"{"all": true}"#)["code"], "body_invalid");
    assert_eq!(unacknowledged(), 1.0);
    let done = acknowledge(&json!({ "seen": { ROUTE: 7 } }).to_string());
    assert_eq!(done, json!({ "acknowledged": { ROUTE: 1 } }));
    assert_eq!((wrong(&instance), unacknowledged()), (1.0, 0.0), "what was counted stays counted");
    assert_eq!(ask("GET", "/admin/status")["degraded"], json!([]));
    let event = &ask("GET", "/admin/journal")["events"];
    let event = event.as_array().unwrap().iter().find(|event| event["kind"] == "acknowledge").unwrap().clone();
    assert_eq!((&event["what"], &event["result"]), (&json!(format!("wrong answers: 1 at {ROUTE}")), &json!("done")));
    assert!(event["by"].as_str().unwrap().starts_with("token ") && event["at"].is_string(), "{event}");
    assert_eq!(ask("POST", "/admin/audit/acknowledge"), json!({ "acknowledged": {} }));

    // The next ones are news. Whoever has seen one of them knows of no more.
    (0..2).for_each(|_| audit(&instance, "/public/items/1"));
    assert_eq!((wrong(&instance), unacknowledged()), (3.0, 2.0));
    let done = acknowledge(&json!({ "seen": { ROUTE: 1 } }).to_string());
    assert_eq!((done, unacknowledged()), (json!({ "acknowledged": { ROUTE: 1 } }), 1.0));
    // The other one is acknowledged by hand, with a keyboard alone.
    assert_eq!(first()["reason"], "audit_wrong");
    let browser = Browser::start();
    browser.open(&format!("http://{}/", instance.admin));
    browser.wait_for("#door h1", "Mainstay console");
    browser.type_in(&format!("{TOKEN}\u{e007}"));
    browser.wait_for("#sentence", detail);
    assert_eq!(browser.text("#acknowledge"), "Acknowledge 1 wrong answer");
    browser.picture("audit-wrong");
    // From the sentence, which has the focus.
    browser.type_in("\u{e004} ");
    browser.wait_for("#acknowledged", "Acknowledged: 1 at /public/items/{id}.");
    browser.wait_for("#sentence", "All is well.");
    assert_eq!(browser.text("#acknowledged"), "Acknowledged: 1 at /public/items/{id}.", "until there is news");
    let is_offered = "return document.getElementById('acknowledge').checkVisibility()";
    assert_eq!((browser.run(is_offered), unacknowledged()), (json!(false), 0.0));
    assert_eq!(browser.run("return document.activeElement.id"), "sentence");
}

#[test]
fn a_change_that_is_told_a_moment_later_explains_the_difference() {
    let fleet = Fleet::new("audit-told");
    let instance = audited(&fleet).set("changes.poll_interval", "1s").start();
    instance.wait_hearing("feed");
    instance.get("/public/items/1");
    instance.get("/public/items/1");
    for mode in ["soft", "hard"] {
        let mut value = 0;
        let came = wait_until(PATIENCE, || {
            let current = instance.wait_for("a hit", "/public/items/1", |reply| reply.is_hit() && reply.claims_fresh());
            value = current.value() + 1;
            let before = checked(&instance, ROUTE);
            let tags = if mode == "hard" {
                "INSERT INTO mainstay.change_feed (tables, tags, kind) VALUES ('{}', '{items:1}', 'hard')"
            } else {
                "SELECT"
            };
            fleet.sql(&format!("BEGIN; UPDATE items SET value = {value} WHERE id = 1; {tags}; COMMIT"));
            // A hit on what has changed already, unless it was told in between.
            let old = instance.get("/public/items/1");
            let met_it = old.is_hit() && old.value() < value;
            met_it && wait_until(PATIENCE, || checked(&instance, ROUTE) > before)
        });
        assert!(came, "no hit came between a change and its message");
        instance.wait_for("the new value", "/public/items/1", |reply| reply.claims_fresh() && reply.value() == value);
    }
    assert_eq!(wrong(&instance), 0.0);
}

/// The primary holds each audit at the gate, and but one may be there at once.
#[test]
fn an_audit_holds_up_no_hit_and_stays_within_the_bound_of_strong_reads() {
    const HELD: &str = "/public/held/items/{id}";
    let fleet = Fleet::new("audit-held");
    let instance = audited(&fleet).set("database.strong_concurrency_max", "1").start();
    instance.wait_hearing("feed");
    instance.get("/public/held/items/1");
    instance.get("/public/held/items/1");
    let mut gate = fleet.session();
    gate.batch_execute(super::fleet::GATE).unwrap();
    for _ in 0..50 {
        assert!(instance.get("/public/held/items/1").is_hit());
    }
    fleet.wait_held(&fleet.primary, 1);
    assert_eq!(checked(&instance, HELD), 0.0);
    let strong = instance.get_with("/public/items/1", &[("X-Consistency", "strong")]);
    assert_eq!((strong.status, strong.problem().as_str()), (503, "strong_unavailable"));
    gate.batch_execute("COMMIT").unwrap();
    assert!(wait_until(PATIENCE, || checked(&instance, HELD) == 1.0), "{}", checked(&instance, HELD));
}
