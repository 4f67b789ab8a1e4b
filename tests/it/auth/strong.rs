//! `consistency.strong_header = "authenticated"`: who is known may ask for the primary, on any route.

use mainstay::auth::keys::NewKey;

use super::people::{Issuer, bearer_of, migrate};
use crate::instance::client::Reply;
use crate::instance::{Instance, Plan};
use crate::support::Cluster;

const ROUTES: &str = r#"
[[route]]
path = "/public/who"
result = "row"
sql = "SELECT pg_is_in_recovery() AS standby"

[[route]]
path = "/mine"
result = "row"
sql = "SELECT pg_is_in_recovery() AS standby"
auth = "jwt"

[[route]]
path = "/shared"
result = "row"
sql = "SELECT pg_is_in_recovery() AS standby"
auth = "key"
shared = true
scopes = ["read"]
[route.cache]
ttl = "1m"
"#;

struct Site {
    instance: Instance,
    token: String,
    key: String,
}

fn start(setting: &str) -> Site {
    let (cluster, issuer) = (Cluster::shared(), Issuer::new());
    let database = cluster.database();
    migrate(cluster, &database);
    let key = NewKey { name: "test".to_owned(), scopes: vec!["read".to_owned()], ..NewKey::default() };
    let key = bearer_of(cluster, &database, key);
    let plan = issuer.believed(Plan::new(ROUTES)).database(cluster, &database).set("replication.lag_max", "1h");
    let instance = plan.set("health.lag_max", "1h").set("consistency.strong_header", setting).start();
    instance.wait_healthy();
    Site { instance, token: issuer.bearer("alice", ""), key }
}

impl Site {
    /// Asks for the primary, and shows this.
    fn ask(&self, target: &str, authorization: &str) -> Reply {
        self.instance.get_with(target, &[("X-Consistency", "strong"), ("Authorization", authorization)])
    }
}

#[track_caller]
fn is_strong(reply: &Reply) -> bool {
    let is_primary = !reply.json()["standby"].as_bool().unwrap();
    assert_eq!(reply.header("x-route-primary") == Some("true"), is_primary, "{reply:?}");
    assert!(!is_primary || reply.said("cache-control").starts_with("no-store"), "{reply:?}");
    is_primary
}

#[test]
fn whoever_is_known_may_ask_for_the_primary() {
    let site = start("authenticated");
    let Site { instance, token, key } = &site;
    let ignored = instance.get_with("/public/who", &[("X-Consistency", "strong")]);
    assert!(!is_strong(&ignored), "who shows nothing is answered as ever");
    for credential in [token, key] {
        assert!(is_strong(&site.ask("/public/who", credential)), "a key or a token, whichever it is");
        let plain = instance.get_with("/public/who", &[("Authorization", credential)]);
        assert!(!is_strong(&plain) && plain.is_hit(), "who does not ask for it is not asked who he is: {plain:?}");
    }
    assert!(is_strong(&site.ask("/mine", token)) && is_strong(&site.ask("/shared", key)));
    let mine = instance.get_with("/mine", &[("Authorization", token)]);
    assert!(!is_strong(&mine), "what is one caller's own is read where its route says: {mine:?}");
    assert_eq!((mine.cache(), mine.said("cache-control")), ("fwd=bypass; detail=replica", "no-store, private"));
}

#[test]
fn whoever_shows_something_wrong_with_it_is_told_so() {
    let site = start("authenticated");
    let forged = format!("{}x", site.token);
    for wrong in ["Bearer nonsense", "Basic YTpi", "Bearer a.b.c", &forged, &site.key[..30]] {
        let reply = site.ask("/public/who", wrong);
        assert_eq!((reply.status, reply.problem().as_str()), (401, "credentials_invalid"), "{wrong}: {reply:?}");
        assert_eq!(reply.header("x-route-primary"), None);
        assert_eq!(site.instance.get_with("/public/who", &[("Authorization", wrong)]).status, 200, "{wrong}");
    }
}

#[test]
fn turned_off_it_is_for_nobody_and_anyone_is_everybody() {
    let site = start("off");
    assert!(!is_strong(&site.ask("/public/who", &site.token)) && !is_strong(&site.ask("/mine", &site.token)));
    let site = start("anyone");
    assert!(is_strong(&site.ask("/public/who", "Bearer nonsense")), "nobody looks at it");
    let refused = site.ask("/mine", "Bearer nonsense");
    assert_eq!((refused.status, refused.header("x-route-primary")), (401, Some("true")));
}

#[test]
fn where_nobody_checks_credentials_the_header_is_ignored() {
    let routes = "[[route]]\npath = \"/public/x\"\nhandler = \"probe\"\n";
    let probe = crate::instance::probe::Probe::default();
    let instance = Plan::probed(routes, &probe).set("consistency.strong_header", "authenticated").start();
    let reply = instance.get_with("/public/x", &[("X-Consistency", "strong"), ("Authorization", "Bearer x.y.z")]);
    assert_eq!((reply.status, reply.cache()), (200, "fwd=miss; stored; detail=handler"), "{reply:?}");
}
