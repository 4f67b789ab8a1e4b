//! API keys of whole instances: what is told of one on the primary is so on all of them.

use mainstay::auth::keys::{self, NewKey, Revoked};
use mainstay::database::maintenance::{MaintenancePool, Pooled};
use mainstay::local::wait_until;

use crate::coherence::fleet::{Fleet, Member};
use crate::instance::client::Reply;
use crate::instance::{Instance, Plan};
use crate::support::{PATIENCE, settings};

/// One route of each caller's own, and one that is the same for all.
const KEYED: &str = r#"
[[route]]
path = "/mine"
result = "row"
sql = "SELECT value FROM items WHERE id = 1"
auth = "key"

[[route]]
path = "/shared"
result = "row"
sql = "SELECT value FROM items WHERE id = 1"
auth = "key"
shared = true
[route.cache]
ttl = "1h"
watch = ["items"]
"#;

/// A fleet with keys.
struct Keyed {
    fleet: Fleet,
    operator: Pooled,
}

impl Keyed {
    fn new(fleet: Fleet) -> Self {
        fleet.migrate(KEYED);
        let settings = settings(&fleet.primary.url("postgres", &fleet.database), "", &[]);
        let operator = MaintenancePool::open(&settings.database).unwrap().get().unwrap();
        Self { fleet, operator }
    }

    /// How an instance is started that would take a check for right for an hour.
    fn plan(&self) -> Plan {
        self.fleet.plan_with(KEYED).set("auth.check_ttl", "1h")
    }

    /// Two of them, which hear of changes by this.
    fn start(&self, source: &str) -> [Instance; 2] {
        let plan = || if source == "stream" { self.plan() } else { self.plan().set("REDIS_URL", "") };
        let instances = [plan().start(), plan().start()];
        instances.iter().for_each(|instance| instance.wait_hearing(source));
        instances
    }

    fn create(&mut self) -> (String, String) {
        let issued =
            keys::create(&mut self.operator, &NewKey { name: "test".to_owned(), ..NewKey::default() }).unwrap();
        (issued.api_key.expose().to_owned(), issued.prefix)
    }

    fn revoke(&mut self, prefix: &str) {
        let revoked = keys::revoke(&mut self.operator, &[prefix.to_owned()]).unwrap();
        assert_eq!(revoked, [(prefix.to_owned(), Revoked::Now)]);
    }
}

fn show(instance: &Instance, path: &str, key: &str) -> Reply {
    instance.get_with(path, &[("Authorization", &format!("Bearer {key}"))])
}

#[track_caller]
fn assert_in(instance: &Instance, key: &str) {
    for path in ["/mine", "/shared"] {
        let reply = show(instance, path, key);
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
    }
}

#[track_caller]
fn assert_out(instance: &Instance, key: &str) {
    for path in ["/mine", "/shared"] {
        let reply = show(instance, path, key);
        assert_eq!((reply.status, reply.problem().as_str()), (401, "credentials_invalid"), "{path}: {reply:?}");
        assert!(reply.said("www-authenticate").contains("invalid_token"), "{reply:?}");
    }
}

fn wait_out(instance: &Instance, key: &str) {
    let is_out = || show(instance, "/mine", key).status == 401;
    assert!(wait_until(PATIENCE, is_out), "the key is let in all the time");
}

/// A key that works at once and, once it is revoked, nowhere; nobody waits for what is remembered to grow old.
fn made_and_revoked(mut keyed: Keyed, source: &str) {
    let instances = keyed.start(source);
    let [(key, prefix), (other, _)] = [keyed.create(), keyed.create()];
    for instance in &instances {
        assert_in(instance, &key);
        assert_in(instance, &other);
        assert!(show(instance, "/shared", &key).is_hit());
    }
    keyed.revoke(&prefix);
    for instance in &instances {
        wait_out(instance, &key);
    }
    for instance in &instances {
        let remembered = || instance.metric("mainstay_auth_checks_total{method=\"key\",result=\"remembered\"}");
        let before = remembered();
        (0..10).for_each(|_| assert_out(instance, &key));
        assert_in(instance, &other);
        assert!(remembered() >= before + 20.0, "nobody is asked again and again");
    }
}

#[test]
fn a_revoked_key_is_refused_by_all_as_soon_as_the_stream_tells() {
    made_and_revoked(Keyed::new(Fleet::new("keys-stream")), "stream");
}

#[test]
fn a_revoked_key_is_refused_by_all_as_soon_as_the_feed_tells() {
    made_and_revoked(Keyed::new(Fleet::new("keys-feed")), "feed");
}

/// The replica has the row as it was before the revocation, for as long as it replays nothing.
#[test]
fn a_replica_that_is_behind_brings_no_revoked_key_back() {
    let mut keyed = Keyed::new(Fleet::private("keys-paused"));
    let (key, prefix) = keyed.create();
    keyed.fleet.catch_up();
    let [one, other] = keyed.start("stream");
    assert_in(&one, &key);
    keyed.fleet.pause_replay();
    let (new, _) = keyed.create();
    assert_in(&one, &new);
    keyed.revoke(&prefix);
    wait_out(&one, &key);
    // The other one has never seen it.
    other.wait_told(&keyed.fleet);
    for instance in [&one, &other] {
        (0..10).for_each(|_| assert_out(instance, &key));
        assert_in(instance, &new);
    }
    // What is known of all keys falls, and is asked for anew.
    keyed.fleet.sql("SELECT mainstay.purge('{mainstay.api_keys:all}', false)");
    for instance in [&one, &other] {
        instance.wait_told(&keyed.fleet);
        (0..10).for_each(|_| assert_out(instance, &key));
        assert_in(instance, &new);
    }
    keyed.fleet.resume_replay();
    keyed.fleet.catch_up();
    assert_out(&one, &key);
    assert_in(&one, &new);
}

#[test]
fn a_restart_of_the_primary_keeps_nobody_out_and_loses_no_revocation() {
    let mut keyed = Keyed::new(Fleet::private("keys-restart"));
    let [(key, _), (revoked, prefix)] = [keyed.create(), keyed.create()];
    keyed.fleet.catch_up();
    let [one, _] = keyed.start("stream");
    assert_in(&one, &key);
    assert_in(&one, &revoked);
    keyed.revoke(&prefix);
    wait_out(&one, &revoked);
    keyed.fleet.primary.server.kill9();
    for _ in 0..20 {
        assert_eq!(show(&one, "/shared", &key).status, 200);
        assert_eq!(show(&one, "/shared", &revoked).status, 401);
    }
    let unknown = show(&one, "/shared", "mk_000000000000_0000000000000000000000000000000000000000000");
    assert_eq!((unknown.status, unknown.problem().as_str()), (503, "auth_unavailable"), "it may be right: {unknown:?}");
    assert!(unknown.header("retry-after").is_some());
    keyed.fleet.primary.server.start().unwrap();
    let refused = || show(&one, "/shared", "mk_000000000000_0000000000000000000000000000000000000000000").status == 401;
    assert!(wait_until(PATIENCE, refused));
    assert_in(&one, &key);
    assert_out(&one, &revoked);
}

#[test]
fn last_uses_are_written_down_now_and_then_and_at_the_end() {
    let mut keyed = Keyed::new(Fleet::new("keys-uses"));
    let [(key, prefix), (late, late_prefix)] = [keyed.create(), keyed.create()];
    let often = keyed.plan().set("auth.last_use_interval", "50ms").start();
    let seldom = keyed.plan().set("auth.last_use_interval", "1h").set("server.shutdown_timeout", "20s").start();
    // Until it has reached a database, nobody can say of a key that it is right.
    [&often, &seldom].iter().for_each(|instance| instance.wait_reaching());
    assert_in(&often, &key);
    let used = |prefix: &str| format!("SELECT EXISTS (SELECT FROM mainstay.api_key_uses WHERE prefix = '{prefix}')");
    keyed.fleet.wait_sql("the use to be written down", &used(&prefix));
    assert_in(&seldom, &late);
    assert_eq!(keyed.fleet.sql(&used(&late_prefix)), "f");
    drop(seldom);
    keyed.fleet.wait_sql("the last uses to be written down", &used(&late_prefix));
}
