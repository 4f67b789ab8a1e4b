//! Failures of the machine under the process, and of the process itself: a full disk, a name server that does not answer, an end
//! without warning. And that a failure is a line of the log once, and not once a request.

use std::fs::OpenOptions;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use mainstay::local::{Proxy, ProxyMode, Redis, RedisOptions, Scratch, Signal, free_port, wait_until};
use rustix::process::{Resource, Rlimit, prlimit};

use crate::support::{Cluster, Folder, MAINSTAY, Origin, PATIENCE, Reply, command, get, mainstay, request};

const ROUTES: &str = r#"
[[route]]
path = "/public/kept"
result = "row"
sql = "SELECT 1 AS one FROM pg_class LIMIT 1"
[route.cache]
ttl = "1h"
stale_while_revalidate = "1h"
stale_if_error = "1d"
watch = []

# Asks the source each time.
[[route]]
path = "/public/brief"
result = "row"
sql = "SELECT 2 AS two FROM pg_class LIMIT 1"
[route.cache]
ttl = "1ms"
stale_if_error = "1d"
watch = []

[[route]]
path = "/account"
result = "row"
sql = "SELECT 3 AS three FROM pg_class LIMIT 1"
"#;

fn proxy(port: u16) -> Proxy {
    Proxy::start(([127, 0, 0, 1], port).into()).unwrap()
}

fn metric(origin: &Origin, sample: &str) -> f64 {
    let metrics = get(&format!("{}/metrics", origin.admin)).body;
    let line = metrics.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ').map(str::to_owned));
    line.map_or(0.0, |value| value.parse().unwrap())
}

fn is_fresh_hit(reply: &Reply) -> bool {
    reply.status == 200 && reply.cache().contains("; hit; ttl=3")
}

/// Nothing of a snapshot fits on the disk: what is written counts against the limit of the process, where a full disk would say no.
#[test]
fn a_full_disk_costs_the_snapshot_alone_and_the_last_one_stays() {
    let cluster = Cluster::shared();
    let url = cluster.primary.url("postgres", &cluster.database(""));
    let folder = Folder::new(ROUTES);
    let file = folder.join("snapshot");
    let env = [
        ("MAINSTAY__CACHE__SNAPSHOT_FILE", file.to_str().unwrap()),
        ("MAINSTAY__CACHE__SNAPSHOT_INTERVAL", "50ms"),
        ("DATABASE_URL", &url),
    ];
    // Else the kernel would end the process in place of refusing to write.
    let mut serve = command("/bin/sh");
    serve.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", MAINSTAY, "serve", "--config", folder.text()]);
    let mut origin = Origin::start_command(serve, &env);
    origin.get_until("/health/edge", |reply| reply.status == 200);
    origin.get_until("/public/kept", is_fresh_hit);
    let written = || metric(&origin, "mainstay_snapshots_total{outcome=\"ok\"}");
    let failed = || metric(&origin, "mainstay_snapshots_total{outcome=\"failed\"}");
    let before = written();
    assert!(wait_until(PATIENCE, || written() > before + 1.0), "no snapshot is written");

    let limit =
        prlimit(Some(origin.program.pid()), Resource::Fsize, Rlimit { current: Some(8), maximum: None }).unwrap();
    let before = failed();
    assert!(wait_until(PATIENCE, || failed() > before + 3.0), "it goes on writing");
    let kept = std::fs::read(&file).unwrap();
    assert!(is_fresh_hit(&origin.get("/public/kept")));
    assert_eq!(origin.get("/public/brief").status, 200);
    assert_eq!(origin.get("/account").status, 200);
    assert_eq!(std::fs::read(&file).unwrap(), kept, "the whole one stays");
    assert!(!folder.join("snapshot.new").exists(), "nothing is left of what did not fit");

    let before = written();
    prlimit(Some(origin.program.pid()), Resource::Fsize, limit).unwrap();
    assert!(wait_until(PATIENCE, || written() > before), "it is not written again");
    let lines = |text: &str| origin.program.output().matches(text).count();
    assert_eq!((lines("snapshot cannot be written"), lines("snapshot is written again")), (1, 1));
    origin.program.signal(Signal::TERM);
    assert_eq!(origin.program.wait().code(), Some(0));
}

/// Neither the log nor standard error takes a word.
#[test]
fn a_log_that_cannot_be_written_is_missed_by_nobody() {
    let folder = Folder::new(ROUTES);
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    let [public, admin] = [(); 2].map(|()| format!("127.0.0.1:{}", free_port().unwrap()));
    let mut serve = command(MAINSTAY);
    serve.args(["serve", "--config", folder.text(), "--bind", &public, "--admin", &admin]);
    let mut origin = serve.env("MAINSTAY__LOG__ACCESS", "all").stdout(full()).stderr(full()).spawn().unwrap();
    let live = format!("http://{public}/health/live");
    assert!(wait_until(PATIENCE, || get(&live).status == 200), "it does not start");
    for _ in 0..50 {
        assert_eq!(get(&format!("http://{public}/public/brief")).code(), "database_unavailable");
    }
    assert_eq!(get(&live).status, 200);
    rustix::process::kill_process(rustix::process::Pid::from_child(&origin), Signal::TERM).unwrap();
    assert_eq!(origin.wait().unwrap().code(), Some(0));
}

/// Killed in the middle of an outage: the next process has what the last snapshot has.
#[test]
fn who_is_killed_in_an_outage_comes_back_with_the_last_snapshot() {
    let cluster = Cluster::shared();
    let front = proxy(cluster.primary.server.port());
    let url = format!("postgres://postgres@{}/{}", front.address(), cluster.database(""));
    let folder = Folder::new(ROUTES);
    let file = folder.join("snapshot");
    let env = [
        ("MAINSTAY__CACHE__SNAPSHOT_FILE", file.to_str().unwrap()),
        ("MAINSTAY__CACHE__SNAPSHOT_INTERVAL", "50ms"),
        ("DATABASE_URL", &url),
        ("ADMIN_TOKEN", "any"),
    ];
    let mut first = Origin::start(folder.path(), &env);
    first.get_until("/health/edge", |reply| reply.status == 200);
    // What is filled before it has a clock says nothing to its successor.
    let status = format!("{}/admin/status", first.admin);
    let told = || request("GET", &status, &[("Authorization", "Bearer any")], None).json()["bus"]["told"].is_string();
    assert!(wait_until(PATIENCE, told), "it gets no clock");
    first.get_until("/public/kept", is_fresh_hit);
    assert_eq!(first.get("/public/brief").status, 200);
    let written = || metric(&first, "mainstay_snapshots_total{outcome=\"ok\"}");
    let before = written();
    assert!(wait_until(PATIENCE, || written() > before + 1.0), "no snapshot is written");
    front.set_mode(ProxyMode::BlackHole);
    first.program.signal(Signal::KILL);
    first.program.wait();

    let mut second = Origin::start(folder.path(), &env);
    second.program.expect_text("entries were read from");
    for path in ["/public/kept", "/public/brief"] {
        let reply = second.get_until(path, |reply| reply.status == 200);
        assert!(reply.cache().contains("; hit; ttl=-"), "it does not claim to be fresh: {reply:?}");
    }
    let strong = second.get("/account");
    assert_eq!((strong.status, strong.code().as_str()), (503, "database_unavailable"));
    front.set_mode(ProxyMode::Pass);
    second.get_until("/public/kept", is_fresh_hit);
    second.get_until("/account", |reply| reply.status == 200);
}

/// Each change of each part is one line of the log, however many requests meet it.
#[test]
fn a_failure_and_its_end_are_said_once() {
    let cluster = Cluster::shared();
    let database = cluster.database("");
    let scratch = Scratch::new("said-once").unwrap();
    let redis = Redis::start(&RedisOptions::new(scratch.join("redis"))).unwrap().expect("redis-server is installed");
    let [primary, replica, shared] =
        [cluster.primary.server.port(), cluster.replica.server.port(), redis.server.port()].map(proxy);
    let url = |proxy: &Proxy| format!("postgres://postgres@{}/{database}", proxy.address());
    let folder = Folder::new(ROUTES);
    let migrated = mainstay(&["migrate", "--config", folder.text()], &[("DATABASE_URL", &url(&primary))]);
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
    cluster.catch_up();
    let env = [
        ("DATABASE_URL", url(&primary)),
        ("DATABASE_READ_REPLICA_URL", url(&replica)),
        ("REDIS_URL", format!("redis://{}", shared.address())),
        ("LOG_FORMAT", "json".to_owned()),
        ("MAINSTAY__LOG__ACCESS", "off".to_owned()),
        ("MAINSTAY__REPLICATION__PROBE_TIMEOUT", "1s".to_owned()),
        ("MAINSTAY__REDIS__TIMEOUT", "500ms".to_owned()),
    ];
    let origin = Origin::start(folder.path(), &env.each_ref().map(|(name, value)| (*name, value.as_str())));
    let lines = |text: &str| origin.program.output().matches(text).count();
    let state = |expected: &str| origin.get_until("/health/edge", |reply| reply.json()["status"] == expected);
    state("healthy");
    origin.get_until("/public/kept", is_fresh_hit);
    let ask = || {
        for _ in 0..50 {
            assert_eq!(origin.get("/public/kept").status, 200);
            assert_eq!(origin.get("/public/brief").status, 200);
        }
    };
    ask();
    for (part, name) in [(&replica, "replica-1"), (&primary, "primary")] {
        let (down, up) = (format!("{name} is down: "), format!("{name} is up, and "));
        let before = (lines(&down), lines(&up));
        part.set_mode(ProxyMode::Refuse);
        part.cut();
        ask();
        state("unhealthy");
        ask();
        part.set_mode(ProxyMode::Pass);
        state("healthy");
        ask();
        assert_eq!((lines(&down), lines(&up)), (before.0 + 1, before.1 + 1), "{}", origin.program.output());
    }
    shared.set_mode(ProxyMode::Refuse);
    shared.cut();
    let left_alone = "Redis is left alone for a while: ";
    let used = "Redis is in use again";
    origin.get_until("/public/brief", |_| lines(left_alone) > 0);
    ask();
    shared.set_mode(ProxyMode::Pass);
    origin.get_until("/public/brief", |_| lines(used) > 0);
    ask();
    assert_eq!((lines(left_alone), lines(used)), (1, 1), "{}", origin.program.output());
    // Hundreds of requests met all of it.
    assert!(origin.program.output().lines().count() < 80, "{}", origin.program.output());
}

/// A name server that swallows what it is asked: nobody waits for it but those who need the name, and an end is an end.
#[test]
fn a_name_server_that_does_not_answer_holds_nobody_up() {
    // Both take rights that a container or a user may not have.
    let Ok(silent) = UdpSocket::bind("127.0.0.53:53").or_else(|_| UdpSocket::bind("127.0.0.2:53")) else {
        return println!("not tested: a name server cannot be played here");
    };
    let folder = Folder::new(ROUTES);
    folder.write("resolv.conf", &format!("nameserver {}\n", silent.local_addr().unwrap().ip()));
    let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    let within = |program: &[&str]| {
        let mut command = command("/usr/bin/unshare");
        command.args(["-m", "sh", "-c", script]).arg(folder.join("resolv.conf")).args(program);
        command
    };
    if !within(&["true"]).output().is_ok_and(|output| output.status.success()) {
        return println!("not tested: no mounts of one's own here");
    }
    let env = [
        ("DATABASE_URL", "postgres://any@primary.example/any"),
        ("DATABASE_READ_REPLICA_URL", "postgres://any@replica.example/any"),
        ("REDIS_URL", "redis://redis.example"),
    ];
    let serve = within(&[MAINSTAY, "serve", "--config", folder.text()]);
    let mut origin = Origin::start_command(serve, &env);
    for _ in 0..5 {
        let began = Instant::now();
        assert_eq!(origin.get("/public/brief").code(), "database_unavailable");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert_eq!(origin.get("/health/live").status, 200);
    }
    let began = Instant::now();
    origin.program.signal(Signal::TERM);
    assert_eq!(origin.program.wait().code(), Some(0));
    // The resolver gives up after ten seconds, and whoever asked has long gone.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
