//! A failover origin only reads what the fleet shares.

use redis::{Commands, Connection};
use serde_json::json;

use super::{Pair, end, start_redis};
use crate::instance::client;
use crate::instance::probe::Probe;

const ROUTES: &str = r#"
[[route]]
path = "/public/page"
handler = "probe"
params = [{ name = "q", in = "query", type = "text", default = "" }]
[route.cache]
ttl = "1s"
tags = ["pages"]

[[route]]
path = "/public/other"
handler = "probe"
[route.cache]
ttl = "1h"
"#;

/// What it sends beside what a connection begins with.
const READS: [&str; 4] = ["get", "ping", "pttl", "xread"];
/// What a connection begins with, and what this test asks.
const OTHERS: [&str; 7] = ["acl|log", "auth", "client|setinfo", "config|resetstat", "dbsize", "hello", "info"];

fn ask<T: redis::FromRedisValue>(connection: &mut Connection, words: &[&str]) -> T {
    let mut command = redis::Cmd::new();
    command.arg(words);
    command.query(connection).unwrap()
}

/// It runs as the user of docs/failover.md, who may not write, is refused nothing, and sends nothing but reads in all its life, its end included: also
/// where it finds nothing, a damaged value, or a purge that others confirm.
#[test]
fn nothing_is_written_to_redis() {
    let (server, _scratch) = start_redis("reading");
    let mut observer = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    let pair = Pair::on(&server, ROUTES, Probe::default());
    let origin = pair.regional().set("ADMIN_TOKEN", "t").start();
    pair.fill_by(&origin, &["/public/page", "/public/page?q=damaged", "/public/other"]);
    let purge = json!({ "tags": ["nothing"], "mode": "hard" }).to_string();
    let headers = [("Authorization", "Bearer t")];
    let told = client::Connection::open(origin.admin).request_with_body(
        "POST",
        "/admin/cache/purge",
        &headers,
        purge.as_bytes(),
    );
    assert_eq!(told.status, 200, "{told:?}");
    end(origin, &server);
    let damaged = format!("{}:2:*", pair.namespace);
    let keys: Vec<String> = ask(&mut observer, &["KEYS", &damaged]);
    let is_damaged = |key: &String, observer: &mut Connection| {
        let value: Vec<u8> = observer.get(key).unwrap();
        value.windows(7).any(|window| window == b"damaged")
    };
    let key = keys.into_iter().find(|key| is_damaged(key, &mut observer)).unwrap();
    let _length: i64 = ask(&mut observer, &["SETRANGE", &key, "60", "xxxx"]);
    ask::<()>(
        &mut observer,
        &[
            "ACL",
            "SETUSER",
            "reader",
            "on",
            "nopass",
            "~*",
            "resetchannels",
            "-@all",
            "+@connection",
            "+get",
            "+pttl",
            "+xread",
        ],
    );
    let all_keys = |observer: &mut Connection| -> usize { ask(observer, &["DBSIZE"]) };
    let before = all_keys(&mut observer);
    ask::<()>(&mut observer, &["CONFIG", "RESETSTAT"]);

    let url = format!("redis://reader:any@127.0.0.1:{}", server.server.port());
    let failover = pair.failover().set("REDIS_URL", &url).start();
    failover.wait_for("a stale answer", "/public/page", |reply| reply.status == 200 && reply.ttl() < -1);
    assert_eq!(failover.get("/public/other").status, 200);
    assert_eq!(failover.get("/public/page?q=none").status, 503);
    assert_eq!(failover.get("/public/page?q=damaged").status, 503);
    failover.wait_for("the purge", "/health/live", |_| {
        failover.metric("mainstay_bus_messages_total{kind=\"change\",source=\"stream\"}") > 0.0
    });
    drop(failover);

    let stats: String = ask(&mut observer, &["INFO", "commandstats"]);
    let calls: Vec<&str> = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split(':').next()).collect();
    let foreign: Vec<_> = calls.iter().filter(|call| !READS.contains(call) && !OTHERS.contains(call)).collect();
    assert!(foreign.is_empty(), "{foreign:?} of {calls:?}");
    for read in READS {
        assert!(calls.contains(&read), "{read} in {calls:?}");
    }
    let refused: Vec<redis::Value> = ask(&mut observer, &["ACL", "LOG"]);
    assert!(refused.is_empty(), "{refused:?}");
    assert!(all_keys(&mut observer) <= before);
}
