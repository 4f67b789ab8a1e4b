//! How often a key may be used, and how often anyone may show one that is none.

use mainstay::auth::keys::NewKey;
use mainstay::config::overload::Rate;

use super::people::{Issuer, bearer_of, migrate};
use crate::coherence::fleet::{Member, TOKEN};
use crate::instance::client::Reply;
use crate::instance::{Instance, Plan};
use crate::support::Cluster;

const ROUTES: &str = r#"
[[route]]
path = "/shared"
sql = "SELECT 1 AS one"
auth = "key"
shared = true
[route.cache]
ttl = "1h"

[[route]]
path = "/mine"
sql = "SELECT 1 AS one"
auth = "key"
rate_limit = { per_key = "2/h" }

[[route]]
path = "/scoped"
sql = "SELECT 1 AS one"
auth = "key"
scopes = ["none"]
"#;

struct Site {
    instance: Instance,
    database: String,
}

impl Site {
    fn start(change: impl FnOnce(Plan) -> Plan) -> Self {
        let cluster = Cluster::shared();
        let database = cluster.database();
        migrate(cluster, &database);
        let instance = change(Plan::new(ROUTES).database(cluster, &database).set("ADMIN_TOKEN", TOKEN)).start();
        instance.wait_hearing("feed");
        Self { instance, database }
    }

    /// A key that may be used so often.
    fn key(&self, rate: Option<&str>) -> String {
        let rate = rate.map(|rate| serde_json::from_value::<Rate>(rate.into()).unwrap());
        bearer_of(Cluster::shared(), &self.database, NewKey { name: "test".to_owned(), rate, ..NewKey::default() })
    }

    fn get(&self, target: &str, bearer: &str) -> Reply {
        self.instance.get_with(target, &[("Authorization", bearer)])
    }
}

#[track_caller]
fn limited(reply: &Reply, says: &str) {
    assert_eq!((reply.status, reply.problem().as_str()), (429, "rate_limited"), "{reply:?}");
    assert!(reply.json()["detail"].as_str().unwrap().contains(says), "{says}: {reply:?}");
    assert_eq!(reply.said("cache-control"), "no-store, private");
    let wait: u64 = reply.said("retry-after").parse().unwrap();
    assert!(wait > 10, "it says when: {reply:?}");
}

#[test]
fn a_key_has_a_rate_of_its_own_which_counts_hits_as_well() {
    let site = Site::start(|plan| plan);
    let (key, other) = (site.key(Some("3/h")), site.key(None));
    for left in (0..3).rev() {
        let reply = site.get("/shared", &key);
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.said("ratelimit-policy"), "\"key\";q=3;w=3600");
        assert!(reply.said("ratelimit").starts_with(&format!("\"key\";r={left};")), "{reply:?}");
        assert_eq!(reply.is_hit(), left < 2, "all but the first are hits, and count: {reply:?}");
    }
    limited(&site.get("/shared", &key), "3/h requests came with this key");
    limited(&site.get("/scoped", &key), "3/h requests came with this key");
    let reply = site.get("/shared", &other);
    assert!(reply.is_hit() && reply.header("ratelimit").is_none(), "a key without a rate: {reply:?}");
    assert_eq!(site.instance.metric("mainstay_rate_limited_total{route=\"/shared\"}"), 1.0);
}

#[test]
fn refusals_for_want_of_a_scope_count_too() {
    let site = Site::start(|plan| plan);
    let key = site.key(Some("2/h"));
    for _ in 0..2 {
        assert_eq!(site.get("/scoped", &key).problem(), "scope_missing");
    }
    limited(&site.get("/scoped", &key), "with this key");
}

#[test]
fn keys_without_a_rate_have_that_of_the_settings_and_routes_may_have_another() {
    let site = Site::start(|plan| plan.set("rate_limit.per_key", "4/h"));
    let (key, own) = (site.key(None), site.key(Some("100/h")));
    let reply = site.get("/mine", &key);
    assert_eq!(reply.said("ratelimit-policy"), "\"route-key\";q=2;w=3600, \"key\";q=4;w=3600");
    assert_eq!(site.get("/mine", &key).status, 200);
    limited(&site.get("/mine", &key), "2/h requests came with this key on this route");
    assert_eq!((site.get("/shared", &key).status, site.get("/shared", &key).status), (200, 200));
    limited(&site.get("/shared", &key), "4/h requests came with this key");
    for _ in 0..6 {
        assert_eq!(site.get("/shared", &own).status, 200, "its own takes the place of the setting's");
    }
}

#[test]
fn whoever_makes_keys_up_is_held_by_his_address() {
    let site = Site::start(|plan| plan.set("rate_limit.per_client", "5/h"));
    let key = site.key(None);
    assert_eq!(site.get("/shared", &key).status, 200, "it was asked for, and is counted once");
    let made_up = |number: u32| format!("Bearer mk_{number:012}_{}", "a".repeat(43));
    let statuses: Vec<u16> = (0..6).map(|number| site.get("/shared", &made_up(number)).status).collect();
    assert_eq!(statuses, [401, 401, 401, 401, 429, 429]);
    limited(&site.get("/shared", &made_up(9)), "5/h requests came from this client");
    assert!(site.get("/shared", &key).is_hit(), "what is known and there costs nothing, and is answered");
}

#[test]
fn rates_of_keys_are_for_routes_that_ask_for_keys() {
    let issuer = Issuer::new();
    let routes = "[[route]]\npath = \"/x\"\nsql = \"SELECT 1\"\nauth = \"jwt\"\nrate_limit = { per_key = \"1/s\" }\n";
    let error = issuer.believed(Plan::new(routes)).try_start().err().unwrap();
    assert!(error.contains("rate_limit.per_key is for routes with auth = \"key\""), "{error}");
}
