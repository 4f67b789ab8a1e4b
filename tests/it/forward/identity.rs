//! Who asks is checked on both sides, by each for itself.

use std::thread;

use mainstay::auth::keys::{self, NewKey};
use mainstay::database::changes::schema;
use mainstay::database::maintenance::MaintenancePool;
use mainstay::{Answer, Call, Error};

use super::{code, url};
use crate::instance::client::Reply;
use crate::instance::{Instance, Plan};
use crate::support::{Cluster, settings};

const ROUTES: &str = r#"
[[route]]
path = "/account/me"
methods = ["GET", "POST"]
handler = "me"
auth = "key"
"#;

const OWNERS: [&str; 3] = ["ann", "bob", "cy"];

async fn me(call: Call) -> Result<Answer, Error> {
    let identity = call.caller.as_ref().and_then(|caller| caller.identity.as_ref());
    Answer::json(&identity.map(|identity| identity.subject.clone()))
}

/// A database with a key for each owner: its URL and the keys.
fn database() -> (String, [String; 3]) {
    let cluster = Cluster::shared();
    let url = cluster.primary.url("postgres", &cluster.database());
    let mut operator = MaintenancePool::open(&settings(&url, "", &[]).database).unwrap().get().unwrap();
    schema::migrate(&mut operator).unwrap();
    let keys = OWNERS.map(|owner| {
        let key = NewKey { name: "test".to_owned(), owner: Some(owner.to_owned()), ..NewKey::default() };
        keys::create(&mut operator, &key).unwrap().api_key.expose().to_owned()
    });
    (url, keys)
}

/// An origin in the primary's region, on its database, and one far from it.
fn regions(there: &str, here: &str) -> [Instance; 2] {
    let plan = |database: &str| Plan::new(ROUTES).handler("me", me).set("DATABASE_URL", database);
    let there = plan(there).set("REGION", "there-1").start();
    let here = plan(here).set("PRIMARY_ORIGIN", &url(&there)).start();
    [&there, &here].into_iter().for_each(Instance::wait_healthy);
    [there, here]
}

fn ask(instance: &Instance, method: &str, key: &str) -> Reply {
    instance.request(method, "/account/me", &[("Authorization", &format!("Bearer {key}"))])
}

#[test]
fn everyone_is_on_the_other_side_who_he_is_here() {
    let (database, keys) = database();
    let [_there, here] = &regions(&database, &database);
    thread::scope(|scope| {
        for (owner, key) in OWNERS.iter().zip(&keys) {
            scope.spawn(move || {
                for method in ["GET", "POST", "GET", "POST", "GET"] {
                    let reply = ask(here, method, key);
                    assert_eq!((reply.status, reply.said("x-region")), (200, "there-1"), "{reply:?}");
                    assert_eq!(
                        (reply.json(), reply.said("cache-control")),
                        (format!("key:{owner}").into(), "no-store, private")
                    );
                }
            });
        }
    });
}

#[test]
fn who_is_nobody_here_does_not_cross() {
    let (database, keys) = database();
    let [there, here] = regions(&database, &database);
    // One character of the secret is another one.
    let mut forged = keys[0].clone();
    let at = forged.len() - 10;
    let other = if forged[at..].starts_with('a') { "b" } else { "a" };
    forged.replace_range(at..=at, other);
    for key in [forged.as_str(), "ms_none", ""] {
        let reply = ask(&here, "POST", key);
        assert_eq!((reply.status, reply.problem().as_str()), (401, "credentials_invalid"), "{reply:?}");
        assert!(reply.header("www-authenticate").is_some());
    }
    assert_eq!(here.request("POST", "/account/me", &[]).problem(), "unauthorized");
    let at_the_door = |outcome: &str| {
        there.metric(&format!("mainstay_http_requests_total{{route=\"/account/me\",status=\"{outcome}\"}}"))
    };
    assert_eq!([at_the_door("200"), at_the_door("401")], [0.0, 0.0]);
}

/// That somebody was let in here is worth nothing there, whatever else comes with it.
#[test]
fn who_is_nobody_there_is_refused_there() {
    let (theirs, ours) = (database(), database());
    let [_there, here] = regions(&theirs.0, &ours.0);
    for method in ["GET", "POST"] {
        let reply = ask(&here, method, &ours.1[0]);
        assert_eq!((reply.status, code(&reply).as_str()), (401, "credentials_invalid"), "{reply:?}");
        assert_eq!(reply.said("x-region"), "there-1", "{reply:?}");
        assert!(reply.header("www-authenticate").is_some());
    }
}
