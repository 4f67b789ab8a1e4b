//! `mainstay serve` as an operator meets it: signals, reloads, logs, the admin listener.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use mainstay::local::{Signal, wait_until};
use postgres::{Client, NoTls};

use crate::support::{Cluster, Folder, MAINSTAY, ONE, Origin, PATIENCE, command, get, mainstay, request};

#[test]
fn hanging_up_reads_the_manifest_again_and_keeps_the_old_one_on_an_error() {
    let folder = Folder::new(ONE);
    let mut origin = Origin::start(folder.path(), &[]);
    assert_eq!(origin.get("/two").status, 404);

    folder.write("routes.toml", &format!("{ONE}\n{}", ONE.replace("/one", "/two")));
    origin.program.signal(Signal::HUP);
    origin.get_until("/two", |reply| reply.code() == "database_unavailable");
    origin.program.expect_text("the manifest was read again: 2 routes");

    folder.write("routes.toml", "[[route]]\npath = \"/three\"\nhandler = \"ghost\"\n");
    origin.program.signal(Signal::HUP);
    origin.program.expect_text("the manifest was not taken, the old one stays: ");
    assert!(origin.program.output().contains("routes.toml:1: route /three"), "{}", origin.program.output());
    assert_eq!(origin.get("/two").code(), "database_unavailable");
    assert_eq!(origin.get("/three").status, 404);

    std::fs::remove_file(folder.join("routes.toml")).unwrap();
    origin.program.signal(Signal::HUP);
    origin.program.expect_text("routes.toml: cannot be read");
    assert_eq!(origin.get("/two").code(), "database_unavailable");
}

/// A route that waits until a lock of the test is let go, so that a request is in flight for exactly as long as wanted.
const SLOW: &str = "\
[[route]]
path = \"/slow\"
sql = \"SELECT 'done' AS state FROM pg_advisory_xact_lock_shared(7)\"
result = \"row\"
";

struct InFlight {
    origin: Origin,
    lock: Client,
    answer: std::thread::JoinHandle<crate::support::Reply>,
}

impl InFlight {
    /// An origin with one request under way.
    fn start(env: &[(&str, &str)]) -> Self {
        let cluster = Cluster::shared();
        let database = cluster.database("");
        let url = cluster.primary.url("postgres", &database);
        let mut lock = Client::connect(&url, NoTls).unwrap();
        lock.batch_execute("SELECT pg_advisory_lock(7)").unwrap();
        let common = [
            ("DATABASE_URL", url.as_str()),
            ("MAINSTAY__DATABASE__STATEMENT_TIMEOUT", "60s"),
            ("MAINSTAY__LIMITS__REQUEST_TIMEOUT", "60s"),
        ];
        let origin = Origin::start(Folder::new(SLOW).path(), &[&common, env].concat());
        let slow = format!("{}/slow", origin.base);
        let answer = std::thread::spawn(move || get(&slow));
        let mut waits = || {
            let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
            lock.query_one(sql, &[]).unwrap().get::<_, i64>(0) == 1
        };
        assert!(wait_until(PATIENCE, &mut waits), "the request does not arrive");
        Self { origin, lock, answer }
    }
}

#[test]
fn terminating_drains_what_is_in_flight() {
    for signal in [Signal::TERM, Signal::INT] {
        let env = [("MAINSTAY__SERVER__DRAIN_DELAY", "1s")];
        let InFlight { mut origin, mut lock, answer } = InFlight::start(&env);
        origin.get_until("/health/ready", |reply| reply.status == 200);
        origin.program.signal(signal);
        // Still accepting, for balancers to notice; but not ready. Who sits at a terminal has no balancer.
        if signal == Signal::TERM {
            let ready = origin.get_until("/health/ready", |reply| reply.status != 200);
            assert_eq!((ready.status, ready.json()["status"].as_str()), (503, Some("draining")));
            assert_eq!(origin.get("/health/live").header("connection"), "close", "clients are sent elsewhere");
        }
        assert!(wait_until(PATIENCE, || origin.get("/health/live").status == 0), "the listener closes after the delay");
        assert!(origin.program.is_running(), "it waits for the request");
        lock.batch_execute("SELECT pg_advisory_unlock(7)").unwrap();
        let answer = answer.join().unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "{\"state\":\"done\"}"), "{answer:?}");
        assert_eq!(origin.program.wait().code(), Some(0));
        assert!(origin.program.output().contains("stopped"));
    }
}

#[test]
fn draining_ends_at_its_deadline() {
    let env = [("MAINSTAY__SERVER__SHUTDOWN_TIMEOUT", "1s")];
    let InFlight { mut origin, lock: _lock, answer } = InFlight::start(&env);
    let began = Instant::now();
    origin.program.signal(Signal::TERM);
    assert_eq!(origin.program.wait().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_ne!(answer.join().unwrap().status, 200);
}

#[test]
fn who_cannot_wait_signals_twice() {
    let InFlight { mut origin, lock: _lock, answer } = InFlight::start(&[]);
    let began = Instant::now();
    origin.program.signal(Signal::INT);
    origin.program.expect_text("draining");
    // Time itself is tested: on the heels of the first it would be the same wish, told twice.
    std::thread::sleep(Duration::from_millis(600));
    origin.program.signal(Signal::INT);
    assert_eq!(origin.program.wait().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_ne!(answer.join().unwrap().status, 200);
}

#[test]
fn malformed_requests_do_not_flood_the_log() {
    let origin = Origin::start(Folder::new(ONE).path(), &[]);
    let address = origin.base.strip_prefix("http://").unwrap();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET / HTTP/9.9\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    assert!(!origin.program.output().contains("parse error"), "{}", origin.program.output());
}

#[test]
fn every_log_line_is_json_and_none_holds_a_secret() {
    let cluster = Cluster::shared();
    let database = cluster.database("");
    let url = format!("postgres://postgres:hunter2@127.0.0.1:{}/{database}", cluster.primary.server.port());
    let routes = format!(
        "{ONE}\n[[route]]\npath = \"/broken\"\nsql = \"SELECT 1 / ($1 - 1) AS x\"\nresult = \"row\"\n\
         params = [{{ name = \"n\", in = \"query\", type = \"integer\", default = 1 }}]\n"
    );
    for level in ["debug", "trace"] {
        let env = [
            ("DATABASE_URL", url.as_str()),
            ("DATABASE_READ_REPLICA_URL", "postgres://reader:swordfish@127.0.0.1:1/gone"),
            ("ORIGIN_SECRET", "opensesame,shibboleth"),
            ("ADMIN_TOKEN", "correct-horse"),
            ("MAINSTAY__LOG__LEVEL", level),
            ("MAINSTAY__LOG__ACCESS", "all"),
            ("LOG_FORMAT", "json"),
        ];
        let folder = Folder::new(&routes);
        let mut origin = Origin::start(folder.path(), &env);
        let ask = |path: &str, secret| {
            request("GET", &format!("{}{path}", origin.base), &[("X-Origin-Verify", secret)], None)
        };
        assert!(wait_until(PATIENCE, || ask("/one", "shibboleth").status == 200));
        assert_eq!(ask("/one", "opensesame").status, 200);
        assert_eq!(ask("/one", "wrong").code(), "origin_forbidden");
        assert_eq!(ask("/broken", "shibboleth").code(), "query_failed");
        assert_eq!(ask("/a\"b%22", "shibboleth").status, 404);
        let token = [("Authorization", "Bearer correct-horse")];
        assert_eq!(request("GET", &format!("{}/metrics", origin.admin), &token, None).status, 200);
        origin.program.signal(Signal::HUP);
        origin.program.expect_text("read again");
        origin.program.signal(Signal::TERM);
        assert_eq!(origin.program.wait().code(), Some(0));

        let (stdout, stderr) = (origin.program.stdout(), origin.program.stderr());
        assert_eq!(stderr, "", "logs go to standard output");
        assert!(stdout.lines().count() > 5, "{stdout}");
        for line in stdout.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert!(line["level"].is_string() && line["timestamp"].is_string(), "{line}");
        }
        let access = stdout.lines().filter(|line| line.contains("mainstay::access"));
        assert!(access.count() >= 3, "{stdout}");
        for secret in ["hunter2", "swordfish", "opensesame", "shibboleth", "correct-horse"] {
            let leaked = stdout.lines().find(|line| line.contains(secret));
            assert_eq!(leaked, None, "{secret} is in the log at {level}");
        }
    }
}

#[test]
fn logs_are_pretty_where_asked_for() {
    let origin = Origin::start(Folder::new(ONE).path(), &[("LOG_FORMAT", "pretty")]);
    assert!(!origin.program.stdout().starts_with('{'), "{}", origin.program.stdout());
}

#[test]
fn secrets_that_can_be_guessed_are_said_and_not_shown() {
    for name in ["SANDBOX_WEBHOOK_SECRET", "TOKEN_SECRET"] {
        let mut origin = Origin::start(Folder::new(ONE).path(), &[(name, "hunter2")]);
        origin.program.expect_text(&format!("{name}: a secret of fewer than 16 characters can be guessed"));
        assert!(!origin.program.output().contains("hunter2"));
    }
}

#[test]
fn the_admin_listener_has_metrics_and_with_a_token_a_console_and_the_public_one_has_neither() {
    for token in ["", "correct-horse"] {
        let origin = Origin::start(Folder::new(ONE).path(), &[("ADMIN_TOKEN", token)]);
        assert_eq!(origin.get("/one").status, 503);
        let metrics = get(&format!("{}/metrics", origin.admin));
        assert_eq!((metrics.status, metrics.header("content-type")), (200, "text/plain; version=0.0.4"));
        assert!(
            metrics.body.contains("mainstay_http_requests_total{route=\"/one\",status=\"503\"} 1"),
            "{}",
            metrics.body
        );
        let page = get(&format!("{}/", origin.admin));
        assert_eq!(
            page.status,
            if token.is_empty() { 404 } else { 200 },
            "the console needs a token to be signed in with"
        );
        for path in ["/one", "/health/live", "/purge", "/status", "/metrics/", "/admin"] {
            let reply =
                request("GET", &format!("{}{path}", origin.admin), &[("Authorization", "Bearer correct-horse")], None);
            assert_eq!((reply.status, reply.code().as_str()), (404, "route_not_found"), "{path}");
        }
        for method in ["POST", "PUT", "DELETE"] {
            let reply = request(method, &format!("{}/metrics", origin.admin), &[], Some(""));
            assert_eq!((reply.status, reply.code().as_str()), (405, "method_not_allowed"), "{method}");
            assert_eq!(reply.header("allow"), "GET");
        }
        for path in ["/", "/metrics", "/admin", "/admin/metrics", "/purge", "/status", "/console", "/debug"] {
            assert_eq!(origin.get(path).code(), "route_not_found", "{path}");
        }
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = Folder::new(ONE);
    for (flag, key) in [("--bind", "server.bind_addr"), ("--admin", "server.admin_addr")] {
        let other = if flag == "--bind" { "--admin" } else { "--bind" };
        let args = ["serve", "--config", folder.text(), flag, &address, other, "127.0.0.1:0"];
        let outcome = mainstay(&args, &[]);
        assert_eq!(outcome.code, Some(64), "{outcome:?}");
        assert!(outcome.stderr.contains(key) && outcome.stderr.contains(&address), "{outcome:?}");
    }
}

/// The soft limit of open files is 1024 under most service managers, and `server.connections_max` is far beyond.
#[test]
fn the_soft_limit_of_open_files_is_no_limit() {
    const CONNECTIONS: usize = 100;
    let folder = Folder::new(ONE);
    let mut limited = command("/bin/sh");
    limited.args(["-c", "ulimit -Sn 64; exec \"$0\" \"$@\"", MAINSTAY, "serve", "--config", folder.text()]);
    let origin = Origin::start_command(limited, &[]);
    let address = origin.base.strip_prefix("http://").unwrap();
    let open = || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        stream
    };
    let _open: Vec<_> = (0..CONNECTIONS).map(|_| open()).collect();
}
