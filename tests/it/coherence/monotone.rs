//! Two replicas, of which one was paused: what an instance has shown it does not take back.

use std::net::{Ipv4Addr, SocketAddr};

use mainstay::local::{Postgres, Proxy, ProxyMode, ReplicaOptions, Scratch, wait_until};

use super::fleet::{Claim, Fleet, Member};
use crate::instance::Instance;
use crate::instance::client::Reply;
use crate::support::PATIENCE;

/// Nobody is told of changes: time alone makes an answer fall, and no fence asks for what came before.
const ROUTES: &str = r#"
[[route]]
path = "/public/brief/{id}"
result = "row"
sql = "SELECT value FROM items WHERE id = $1"
params = [{ name = "id", in = "path", type = "integer" }]
[route.cache]
ttl = "300ms"
watch = []
"#;
const ITEM: &str = "/public/brief/1";

fn proxied(server: &Postgres, database: &str) -> (Proxy, String) {
    let proxy = Proxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, server.server.port()))).unwrap();
    let url = server.url("postgres", database);
    let url = url.replace(&format!(":{}/", server.server.port()), &format!(":{}/", proxy.port()));
    (proxy, url)
}

fn shut(proxy: &Proxy) {
    proxy.set_mode(ProxyMode::Refuse);
    proxy.cut();
}

fn wait_up(instance: &Instance, node: &str, up: bool) {
    let holds = || {
        let status = instance.admin("GET", "/admin/status", "");
        let nodes = status["nodes"].as_array().unwrap().clone();
        nodes.iter().any(|it| it["name"] == node && it["up"] == up)
    };
    let status = || instance.admin("GET", "/admin/status", "");
    assert!(wait_until(PATIENCE, holds), "{node} is not {}: {}", if up { "up" } else { "down" }, status());
}

/// The next answer that comes from a database.
fn filled(instance: &Instance) -> Reply {
    instance.wait_for("a fill", ITEM, |reply| !reply.is_hit())
}

#[test]
fn a_replica_behind_what_was_shown_is_asked_only_where_nobody_else_is_left() {
    let fleet = Fleet::private("monotone");
    let scratch = Scratch::new("monotone-second").unwrap();
    let second = fleet.primary.replica(ReplicaOptions::new(scratch.join("data"))).unwrap();
    second.psql("postgres", "SELECT pg_wal_replay_pause()").unwrap();
    let is_paused = || second.psql("postgres", "SELECT pg_get_wal_replay_pause_state()").unwrap().trim() == "paused";
    assert!(wait_until(PATIENCE, is_paused));
    let (current, behind) = (proxied(&fleet.replica, &fleet.database), proxied(&second, &fleet.database));
    let (primary, primary_url) = proxied(&fleet.primary, &fleet.database);
    let plan = fleet.plan_with(ROUTES).unset("REDIS_URL").set("DATABASE_URL", &primary_url);
    let instance = plan.set("DATABASE_READ_REPLICA_URL", &format!("{},{}", current.1, behind.1)).start();
    wait_up(&instance, "replica-1", true);
    wait_up(&instance, "replica-2", true);
    // From here on the second is behind, and not so far that any fence would say so.
    fleet.set(1, 1);
    fleet.catch_up();
    shut(&behind.0);
    wait_up(&instance, "replica-2", false);
    let reply = filled(&instance);
    assert_eq!((reply.value(), reply.cache().contains("detail=replica")), (1, true), "{reply:?}");

    behind.0.set_mode(ProxyMode::Pass);
    wait_up(&instance, "replica-2", true);
    shut(&current.0);
    wait_up(&instance, "replica-1", false);
    let reply = filled(&instance);
    assert_eq!((reply.value(), reply.cache().contains("detail=primary")), (1, true), "{reply:?}");

    // An answer counts for more than that it is not older than the last one.
    shut(&primary);
    wait_up(&instance, "primary", false);
    let reply = instance.wait_for("an answer of the replica", ITEM, |reply| reply.cache().contains("detail=replica"));
    assert_eq!(reply.value(), 0, "{reply:?}");
}
