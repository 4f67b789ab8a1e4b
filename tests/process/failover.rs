//! The failover origin as a process: from exec to its first answer, with nothing else alive but Redis, and to its end.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use mainstay::local::{Redis, RedisOptions, Scratch, Signal, wait_until};

use crate::support::{Cluster, Folder, MAINSTAY, Origin, PATIENCE, Program, command, request};

const ROUTES: &str = "[[route]]\npath = \"/public/it\"\nsql = \"SELECT 1 AS it\"\nresult = \"row\"\n\
                      [route.cache]\nttl = \"1h\"\nstale_while_revalidate = \"1h\"\n";

/// The answer to one GET, whole; nothing where nobody listens yet.
fn try_get(port: u16, target: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\nHost: origin.test\r\nConnection: close\r\n\r\n").ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).ok()?;
    Some(reply)
}

/// A figure of a process' memory, as the kernel names it.
fn memory_kib(pid: u32, figure: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let of = |line: &str| line.strip_prefix(figure)?.strip_prefix(':')?.trim().strip_suffix(" kB")?.parse().ok();
    status.lines().find_map(of)
}

/// With all routes of the built-in API, before anybody has asked for one. A release build may take 40 MiB: 16 of them are pages of its
/// program, which are other ones here, and 24 are its own. A debug build takes 1 to 2 MiB more of its own; what grew beyond the rest is
/// something that is held twice, or memory in huge pages, where it once was 75 MiB in all.
#[test]
fn what_it_takes_of_memory_before_load_is_bounded() {
    const OWN_KIB_MAX: u64 = 28 * 1024;
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/config");
    let mut serve = command(MAINSTAY);
    serve.args(["serve", "--mode", "failover", "--config", config]).env("MAINSTAY__SERVER__WORKERS", "2");
    let origin = Origin::start_command(serve, &[]);
    // The last that is made before anybody asks.
    let encoded = [("Accept-Encoding", "br")];
    let is_encoded =
        || request("GET", &format!("{}/openapi.json", origin.base), &encoded, None).header("content-encoding") == "br";
    assert!(wait_until(PATIENCE, is_encoded), "{}", origin.program.output());
    let of = |figure| memory_kib(origin.program.id(), figure).unwrap();
    println!("{} KiB resident, {} of them its own", of("VmRSS"), of("RssAnon"));
    assert!(of("RssAnon") <= OWN_KIB_MAX, "{} KiB of its own", of("RssAnon"));
}

/// How long it takes and how much memory is printed, and not asserted: the machine may be busy.
#[test]
fn it_answers_at_once_though_all_others_are_dead() {
    let cluster = Cluster::shared();
    let url = cluster.primary.url("postgres", &cluster.database(""));
    let scratch = Scratch::new("process-failover").unwrap();
    let redis = Redis::start(&RedisOptions::new(scratch.join("redis"))).unwrap().expect("redis-server is installed");
    let folder = Folder::new(ROUTES);
    let mut region = Origin::start(folder.path(), &[("DATABASE_URL", &url), ("REDIS_URL", &redis.url())]);
    let stored = || redis.command(&["EVAL", "return #redis.call('KEYS', 'mainstay:2:*')", "0"]).unwrap() == "1";
    let is_stored = wait_until(PATIENCE, || region.get("/public/it").status == 200 && stored());
    assert!(is_stored, "{}", region.program.output());
    region.program.signal(Signal::KILL);
    region.program.wait();

    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut serve = command(MAINSTAY);
    serve.args(["serve", "--mode", "failover", "--config", folder.text(), "--admin", "127.0.0.1:0", "--bind"]);
    serve.arg(format!("127.0.0.1:{port}")).env("REDIS_URL", redis.url()).env("LOG_FORMAT", "json");
    let began = Instant::now();
    let mut failover = Program::start(serve);
    let first = loop {
        if let Some(reply) = try_get(port, "/public/it").filter(|reply| !reply.is_empty()) {
            break reply;
        }
        assert!(failover.is_running() && began.elapsed() < PATIENCE, "{}", failover.output());
        std::thread::sleep(Duration::from_millis(1));
    };
    let took_ms = began.elapsed().as_millis();
    assert!(first.starts_with("HTTP/1.1 200 "), "{first}");
    assert!(
        first.contains("detail=failover") && first.contains("max-age=600") && first.ends_with("{\"it\":1}"),
        "{first}"
    );
    println!("first 200 after {took_ms} ms, {} KiB resident", memory_kib(failover.id(), "VmRSS").unwrap_or(0));
    failover.expect_text("failover origin (cache-only) in region local, from Redis, read only, serves on ");
    failover.expect_text("this instance is degraded: failover_mode");
    failover.signal(Signal::TERM);
    assert_eq!(failover.wait().code(), Some(0));
}
