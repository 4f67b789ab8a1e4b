//! Tokens that are worth nothing: no error, no load, no lie.

use mainstay::auth::keys::{self, NewKey};
use mainstay::auth::token::SessionTokens;
use mainstay::config::units::Secret;
use mainstay::database::changes::schema;
use mainstay::database::maintenance::MaintenancePool;
use mainstay::local::wait_until;
use mainstay::position::{Lsn, Position};

use super::{SECRET, Site, now, primary_reads, read, started, value, write};
use crate::instance::Instance;
use crate::support::{PATIENCE, fence, settings};

fn tokens(secret: &str) -> SessionTokens {
    SessionTokens::new(&Secret::new(secret).list(), std::time::Duration::from_secs(300)).unwrap()
}

fn counted(instance: &Instance, result: &str) -> f64 {
    instance.metric(&format!("mainstay_session_tokens_total{{result=\"{result}\"}}"))
}

#[test]
fn what_is_worth_nothing_is_counted_and_asks_nobody() {
    let site = Site::private("session-worthless");
    let instance = site.start();
    let here = fence(&site.primary, &site.database);
    let far = Position { lsn: Lsn::NEVER, ..here };
    let second = std::time::Duration::from_secs(1);
    let signed = write(&instance, 1, 1);
    let mut forged = signed.clone();
    forged.replace_range(100..101, if &forged[100..101] == "A" { "B" } else { "A" });
    let shown = [
        ("malformed", "x".to_owned()),
        ("malformed", "\u{e9}".repeat(54)),
        ("malformed", "A".repeat(9000)),
        ("version", "A".repeat(108)),
        ("forged", forged),
        ("forged", tokens("a secret of somebody else").issue(far, "", now())),
        ("foreign", tokens(SECRET).issue(far, "key:ann", now())),
        ("expired", tokens(SECRET).issue(far, "", now() - 302 * second)),
        ("future", tokens(SECRET).issue(far, "", now() + 60 * second)),
    ];
    let served = primary_reads(&instance);
    for (result, token) in &shown {
        let before = counted(&instance, result);
        for _ in 0..20 {
            let reply = read(&instance, "/notes/2", token);
            assert_eq!((value(&reply), reply.cache()), (0, "fwd=bypass; detail=replica"), "{result} {token}");
            assert_eq!(reply.header("set-cookie"), None);
        }
        assert_eq!(counted(&instance, result), before + 20.0, "{token}");
    }
    assert_eq!(primary_reads(&instance), served);
    // One that is worth something among many that are not.
    site.pause();
    let good = write(&instance, 1, 2);
    let many = [vec!["x"; 7], vec![good.as_str()]].concat().join(",");
    assert_eq!(value(&read(&instance, "/notes/1", &many)), 2);
    let too_many = [vec!["x"; 8], vec![good.as_str()]].concat().join(",");
    assert_eq!(value(&read(&instance, "/notes/1", &too_many)), 1, "more are not looked at");
}

#[test]
fn a_read_sets_no_cookie() {
    let site = Site::new();
    let instance = site.start();
    let reply = instance.get_with("/notes/1", &[("Cookie", "mainstay_ct=nonsense")]);
    assert_eq!(reply.header("set-cookie"), None);
    assert_eq!(value(&reply), 0);
    for fine in ["mainstay_ct=", "other=nonsense"] {
        assert_eq!(instance.get_with("/notes/1", &[("Cookie", fine)]).header("set-cookie"), None, "{fine}");
    }
}

/// A position that no server has reached is waited for a moment, and then the primary answers.
#[test]
fn a_position_ahead_of_all_is_served_by_the_primary() {
    let site = Site::new();
    let instance = site.start();
    let here = fence(&site.primary, &site.database);
    let ahead = Position { lsn: Lsn(here.lsn.0 + (1 << 40)), ..here };
    let reply = read(&instance, "/notes/1", &tokens(SECRET).issue(ahead, "", now()));
    assert_eq!((value(&reply), reply.cache()), (0, "fwd=bypass; detail=primary"));
}

const KEYED: &str = r#"
[[route]]
path = "/notes/{id}"
methods = ["PUT"]
handler = "put"
auth = "key"
params = [{ name = "id", in = "path", type = "integer" }, { name = "value", in = "query", type = "integer" }]

[[route]]
path = "/notes/{id}"
result = "row"
consistency = "session"
sql = "SELECT value FROM notes WHERE id = $1"
auth = "key"
params = [{ name = "id", in = "path", type = "integer" }]
"#;

#[test]
fn the_token_of_one_caller_is_worth_nothing_to_another() {
    let site = Site::private("session-foreign");
    let settings = settings(&site.primary.url("postgres", &site.database), "", &[]);
    let mut operator = MaintenancePool::open(&settings.database).unwrap().get().unwrap();
    schema::migrate(&mut operator).unwrap();
    let mut create = |name: &str| {
        let key = NewKey { name: name.to_owned(), owner: Some(name.to_owned()), ..NewKey::default() };
        format!("Bearer {}", keys::create(&mut operator, &key).unwrap().api_key.expose())
    };
    let (ann, bob) = (create("ann"), create("bob"));
    site.catch_up();
    let instance = started(site.plan_with(KEYED));
    for key in [&ann, &bob] {
        let knows = || instance.get_with("/notes/1", &[("Authorization", key)]).status == 200;
        assert!(wait_until(PATIENCE, knows));
    }
    site.pause();
    let written = instance.request("PUT", "/notes/1?value=3", &[("Authorization", &ann)]);
    let token = written.said("x-consistency-token");
    let read = |key: &str| instance.get_with("/notes/1", &[("Authorization", key), ("X-Consistency-Token", token)]);
    assert_eq!(value(&read(&ann)), 3);
    assert_eq!(read(&ann).said("cache-control"), "no-store, private");
    let before = primary_reads(&instance);
    assert_eq!(value(&read(&bob)), 0, "what the replica has");
    assert_eq!((counted(&instance, "foreign"), primary_reads(&instance)), (1.0, before));
}
