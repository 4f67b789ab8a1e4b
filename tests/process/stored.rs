//! What is one caller's own, or must be as it is now, is kept by nobody: not by Mainstay, nor by the caches in front of it, however
//! generous they are. Every such route of the manifest is asked, whatever it answers, so that a new one is held to it as well.

use std::collections::{BTreeMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use mainstay::local::{Redis, RedisOptions, Scratch, free_port, wait_until};
use serde_json::{Value, json};

use crate::money::{Customer, Site};
use crate::support::{Cluster, Origin, PATIENCE, Program, Reply, command, mainstay, repository, request};

/// How often each request is made: what is stored by one is found by the next.
const TIMES: usize = 3;
/// An id that nobody has.
const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

/// A cache in front of an origin, which keeps all that it may.
struct Cache {
    name: &'static str,
    base: String,
    _program: Program,
}

impl Cache {
    /// nginx: every status is kept for an hour where the answer does not forbid it, those of POST as well, and served stale where the
    /// origin is gone.
    fn nginx(scratch: &Scratch, origin: &str) -> Self {
        let port = free_port().unwrap();
        let configuration = format!(
            "daemon off; user root; worker_processes 1; pid nginx.pid; error_log stderr;
            events {{ worker_connections 256; }}
            http {{
                access_log off;
                client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
                uwsgi_temp_path uwsgi; scgi_temp_path scgi;
                proxy_cache_path cache keys_zone=all:4m inactive=1h;
                server {{
                    listen 127.0.0.1:{port};
                    location / {{
                        proxy_pass {origin};
                        proxy_cache all;
                        proxy_cache_key $request_method$request_uri$request_body;
                        proxy_cache_methods GET HEAD POST;
                        proxy_cache_valid any 1h;
                        proxy_cache_use_stale error timeout http_500 http_502 http_503 http_504;
                    }}
                }}
            }}"
        );
        let folder = folder(scratch, "nginx");
        std::fs::write(folder.join("nginx.conf"), configuration).unwrap();
        let mut nginx = tool("nginx");
        nginx.arg("-p").arg(&folder).arg("-e").arg("stderr").arg("-c").arg(folder.join("nginx.conf"));
        Self::started("nginx", nginx, port)
    }

    /// Varnish as it is built in, with an hour for what does not say how long; and it looks into its cache for callers with a
    /// credential, too, which it would pass on otherwise.
    fn varnish(scratch: &Scratch, origin: &str) -> Self {
        let port = free_port().unwrap();
        let (host, origin_port) = origin.trim_start_matches("http://").split_once(':').unwrap();
        let program = format!(
            "vcl 4.1; backend origin {{ .host = \"{host}\"; .port = \"{origin_port}\"; }}
            sub vcl_recv {{ if (req.method == \"GET\" || req.method == \"HEAD\") {{ return (hash); }} }}"
        );
        let folder = folder(scratch, "varnish");
        std::fs::write(folder.join("all.vcl"), program).unwrap();
        let mut varnish = tool("varnishd");
        varnish.args(["-F", "-j", "none", "-s", "malloc,32m", "-t", "3600", "-n"]).arg(folder.join("work"));
        varnish.arg("-a").arg(format!("127.0.0.1:{port}")).arg("-f").arg(folder.join("all.vcl"));
        Self::started("varnish", varnish, port)
    }

    fn started(name: &'static str, command: Command, port: u16) -> Self {
        let mut program = Program::start(command);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let is_there = || !program.is_running() || TcpStream::connect(address).is_ok();
        assert!(wait_until(PATIENCE, is_there) && program.is_running(), "{name}: {}", program.output());
        Self { name, base: format!("http://{address}"), _program: program }
    }

    fn ask(&self, asked: &Asked) -> Reply {
        let headers: Vec<(&str, &str)> = asked.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        request(asked.method, &format!("{}{}", self.base, asked.target), &headers, asked.body.as_deref())
    }
}

fn folder(scratch: &Scratch, name: &str) -> PathBuf {
    let folder = scratch.join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Debian keeps servers where the path of a user does not lead.
fn tool(name: &str) -> Command {
    let places = ["/usr/sbin", "/usr/local/sbin"].map(|place| PathBuf::from(place).join(name));
    command(places.into_iter().find(|place| place.exists()).unwrap_or_else(|| PathBuf::from(name)))
}

/// A request.
#[derive(Clone, Debug)]
struct Asked {
    method: &'static str,
    target: String,
    headers: Vec<(&'static str, String)>,
    body: Option<String>,
}

/// All that is asked of a route by a customer: what succeeds as far as it is known how, and what is refused in each way there is.
fn requests(route: &Value, customer: &Customer, known: &Known) -> Vec<Asked> {
    let (path, bearer) = (route["path"].as_str().unwrap(), ("Authorization", customer.bearer.clone()));
    let wrong = ("Authorization", "Bearer ms_nobodys_key".to_owned());
    let strong = ("X-Consistency", "strong".to_owned());
    let targets: Vec<String> = match path.split_once('{') {
        None => vec![path.to_owned()],
        Some((_, rest)) => {
            let (_, after) = rest.split_once('}').unwrap();
            let own = known.ids.get(path).cloned().unwrap_or_else(|| NOBODY.to_owned());
            let before = path.split('{').next().unwrap();
            [own.as_str(), NOBODY, "seven"].map(|id| format!("{before}{id}{after}")).into()
        }
    };
    let mut all = Vec::new();
    for target in targets {
        let asked = |method, headers: &[&(&'static str, String)], body: Option<&str>| Asked {
            method,
            target: target.clone(),
            headers: headers.iter().copied().cloned().collect(),
            body: body.map(str::to_owned),
        };
        if route["methods"].as_str().unwrap().contains("GET") {
            for method in ["GET", "HEAD"] {
                all.extend([
                    asked(method, &[&bearer], None),
                    asked(method, &[&bearer, &strong], None),
                    asked(method, &[], None),
                    asked(method, &[&wrong], None),
                    Asked { target: format!("{target}?nobody_knows_this=1"), ..asked(method, &[&bearer], None) },
                ]);
            }
        }
        if route["methods"].as_str().unwrap().contains("POST") {
            let json = ("Content-Type", "application/json".to_owned());
            // One key for all of them: the first is the effect, the others are answered from it.
            let key = ("Idempotency-Key", format!("{target} once"));
            let other = ("Idempotency-Key", format!("{target} refused"));
            let (good, bad) = known.bodies.get(path).cloned().unwrap_or_default();
            all.extend([
                asked("POST", &[&bearer, &json, &key], Some(&good)),
                asked("POST", &[&bearer, &json, &key], Some(&bad)),
                asked("POST", &[&bearer, &json, &other], Some(&bad)),
                asked("POST", &[&bearer, &json], Some(&good)),
                asked("POST", &[&bearer, &json, &other], Some("{")),
                asked("POST", &[&json], Some(&good)),
            ]);
        }
    }
    all
}

/// What makes requests succeed: ids of what there is, by path, and bodies, of which the second is refused for what it asks for.
struct Known {
    ids: BTreeMap<String, String>,
    bodies: BTreeMap<&'static str, (String, String)>,
}

#[test]
fn nothing_that_is_strong_or_somebody_s_own_is_stored_anywhere() {
    let cluster = Cluster::shared();
    let site = Site::migrated(&cluster.primary, cluster.database(""));
    let (ada, bob) = (site.customer("Ada"), site.customer("Bob"));
    site.fund(&ada, "AFRI", 50_000_000);
    site.fund(&ada, "USD", 50_000);
    site.sql("INSERT INTO exchange_rates (date, currency, rate) VALUES ('2026-10-30', 'USD', 1.1172)");
    let scratch = Scratch::new("stored").unwrap();
    let redis = Redis::start(&RedisOptions::new(scratch.join("redis"))).unwrap().expect("redis-server is installed");
    let env = [
        ("DATABASE_URL", site.serving.as_str()),
        ("REDIS_URL", &redis.url()),
        ("SANDBOX_WEBHOOK_SECRET", "what the sandbox signs with"),
    ];
    let mut origin = Origin::start(&repository("config"), &env);
    origin.get_until("/health/edge", |reply| reply.status == 200);
    let sent = ada.send(&origin.base, &bob, 1, "AFRI", Some("for its id")).json();
    let transfer = |amount: i64| json!({ "to_account_id": bob.id, "amount": amount, "currency": "AFRI" }).to_string();
    let order = |amount: i64, provider: Option<&str>| {
        let mut body = json!({ "amount": amount, "currency": "USD", "asset": "AFRI" });
        provider.into_iter().for_each(|provider| body["provider"] = json!(provider));
        body.to_string()
    };
    let outside = |amount| (order(amount, Some("sandbox")), order(90_000_000_000_000, Some("sandbox")));
    let inside = |amount| (order(amount, None), order(90_000_000_000_000, None));
    let bodies = BTreeMap::from([
        ("/api/v1/transfers", (transfer(10), transfer(60_000_000))),
        ("/api/v1/onramp/orders", outside(10_000)),
        ("/api/v1/offramp/orders", outside(20_000_000)),
        ("/api/v1/mint/requests", inside(20_000)),
        ("/api/v1/redemption/requests", inside(20_000_000)),
    ]);
    let mut ids = BTreeMap::from([("/api/v1/transfers/{id}".to_owned(), sent["id"].as_str().unwrap().to_owned())]);
    for (path, (body, _)) in bodies.iter().filter(|(path, _)| !path.contains("transfers")) {
        let made = ada.post(&format!("{}{path}", origin.base), body, Some("for its id"));
        assert_eq!(made.status, 201, "{path}: {made:?}");
        let id = made.json()["id"].as_str().unwrap().to_owned();
        ids.extend(["/{id}", "/{id}/cancel"].map(|rest| (format!("{path}{rest}"), id.clone())));
    }
    let known = Known { ids, bodies };

    let listed = mainstay(&["routes", "--json", "--config", repository("config").to_str().unwrap()], &[]);
    let routes: Vec<Value> = serde_json::from_str(&listed.stdout).unwrap();
    let is_own =
        |route: &&Value| route["consistency"] == "strong" || (route["auth"] != "none" && route["shared"] != true);
    let own: Vec<Asked> = routes.iter().filter(is_own).flat_map(|route| requests(route, &ada, &known)).collect();
    let strong = |route: &Value| Asked {
        method: "GET",
        target: route["path"].as_str().unwrap().replace("{slug}", "start"),
        headers: vec![("X-Consistency", "strong".to_owned())],
        body: None,
    };
    let eventual: Vec<Asked> = routes.iter().filter(|route| !is_own(route)).map(strong).collect();
    assert!(own.len() > 50 && eventual.len() > 10, "{} and {}", own.len(), eventual.len());

    let caches = [Cache::nginx(&scratch, &origin.base), Cache::varnish(&scratch, &origin.base)];
    let (mut answered, mut statuses) = (HashSet::new(), BTreeMap::<u16, usize>::new());
    for cache in &caches {
        for asked in own.iter().chain(&eventual) {
            for _ in 0..TIMES {
                let reply = cache.ask(asked);
                let policy = reply.header("cache-control");
                assert!(policy.contains("no-store") && !policy.contains("public"), "{asked:?}: {reply:?}");
                let id = reply.header("x-request-id").to_owned();
                assert!(
                    !id.is_empty() && answered.insert(id),
                    "{} answered by itself: {asked:?}: {reply:?}",
                    cache.name
                );
                *statuses.entry(reply.status).or_default() += 1;
            }
        }
    }
    for status in [200, 201, 400, 401, 404, 422] {
        assert!(statuses.contains_key(&status), "nothing was answered {status}: {statuses:?}");
    }
    assert_eq!(site.sql("SELECT count(*) FROM ramp.transfers"), "2", "each key had one effect");
    let entries = crate::support::get(&format!("{}/metrics", origin.admin)).body;
    let in_memory = entries.lines().find_map(|line| line.strip_prefix("mainstay_cache_entries ")).unwrap();
    let in_redis = redis.command(&["EVAL", "return #redis.call('KEYS', 'mainstay:2:*')", "0"]).unwrap();
    assert_eq!((in_memory, in_redis.as_str()), ("0", "0"), "entries of L1, and of Redis");

    // What may be kept is kept, by all of them.
    let rates = Asked { method: "GET", target: "/public/currencies".to_owned(), headers: Vec::new(), body: None };
    for cache in &caches {
        let is_kept = || {
            let ids = [(); 2].map(|()| cache.ask(&rates).header("x-request-id").to_owned());
            ids[0] == ids[1]
        };
        assert!(wait_until(PATIENCE, is_kept), "{} keeps nothing at all", cache.name);
    }
    let in_redis = || redis.command(&["EVAL", "return #redis.call('KEYS', 'mainstay:2:*')", "0"]).unwrap() == "1";
    assert!(wait_until(PATIENCE, in_redis));

    // With the origin gone, only what lies in a cache can be answered.
    origin.program.signal(mainstay::local::Signal::KILL);
    origin.program.wait();
    for cache in &caches {
        assert_eq!(cache.ask(&rates).status, 200, "{}", cache.name);
        for asked in own.iter().chain(&eventual) {
            // What a strong request asks for is no part of a cache's key.
            if asked.target == rates.target {
                continue;
            }
            let reply = cache.ask(asked);
            assert!(matches!(reply.status, 502..=504), "{} has kept: {asked:?}: {reply:?}", cache.name);
        }
    }
}
