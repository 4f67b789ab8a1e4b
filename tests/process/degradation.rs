//! A regional origin steps back and comes back by itself, and says so once a change.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mainstay::local::{Proxy, ProxyMode, Server};

use crate::support::{Cluster, Folder, Origin, get};

const ROUTES: &str = r#"
[[route]]
path = "/now"
result = "row"
sql = "SELECT 1 AS one"

[[route]]
path = "/public/kept"
result = "row"
sql = "SELECT 1 AS one"
  [route.cache]
  ttl = "10ms"
  stale_if_error = "1d"
  watch = []
"#;

fn behind_proxy(server: &Server, database: &str) -> (Proxy, String) {
    let proxy = Proxy::start(([127, 0, 0, 1], server.port()).into()).unwrap();
    let url = format!("postgres://postgres@127.0.0.1:{}/{database}", proxy.port());
    (proxy, url)
}

fn lose(proxy: &Proxy) {
    proxy.set_mode(ProxyMode::Refuse);
    proxy.cut();
}

/// Lines about steps, in order: `preferred>other_replica`, …
fn steps(origin: &Origin) -> Vec<String> {
    let text = |line: &serde_json::Value, name: &str| line["fields"][name].as_str().map(str::to_owned);
    let lines = origin.program.stdout();
    let lines = lines.lines().filter_map(|line| serde_json::from_str(line).ok());
    lines.filter_map(|line| Some(format!("{}>{}", text(&line, "from")?, text(&line, "to")?))).collect()
}

#[test]
fn each_step_is_visible_and_said_once() {
    let cluster = Cluster::shared();
    let database = "postgres";
    let (primary, primary_url) = behind_proxy(&cluster.primary.server, database);
    let (first, first_url) = behind_proxy(&cluster.replica.server, database);
    let (second, second_url) = behind_proxy(&cluster.replica.server, database);
    let folder = Folder::new(ROUTES);
    let origin = Origin::start(
        folder.path(),
        &[
            ("DATABASE_URL", &primary_url),
            ("DATABASE_READ_REPLICA_URL", &format!("{first_url},{second_url}")),
            ("MAINSTAY__REPLICATION__SAMPLE_INTERVAL", "50ms"),
            ("MAINSTAY__REPLICATION__PROBE_TIMEOUT", "1s"),
            ("MAINSTAY__NODES__OPEN_TIME", "200ms"),
            ("MAINSTAY__NODES__OPEN_TIME_MAX", "500ms"),
            ("MAINSTAY__LOG__ACCESS", "off"),
            ("LOG_FORMAT", "json"),
        ],
    );
    let is_at = |step: &str, number: u32| {
        let gauge = format!("mainstay_degradation_step {number}\n");
        origin.get_until("/health/edge", |edge| {
            edge.status != 0 && edge.json().get("step").map_or("preferred", |step| step.as_str().unwrap()) == step
        });
        assert!(get(&format!("{}/metrics", origin.admin)).body.contains(&gauge), "{step}");
    };
    origin.get_until("/health/edge", |edge| edge.status == 200 && edge.json()["status"] == "healthy");
    assert!(origin.get("/now").cache().ends_with("detail=replica"));
    assert_eq!(origin.get("/public/kept").status, 200);
    is_at("preferred", 0);
    // A standby that has just been made may need a moment.
    let at_start = steps(&origin).len();

    let (is_over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let kept = origin.get("/public/kept");
                assert_eq!(kept.status, 200, "what was kept is always answered: {kept:?}");
                origin.get("/now");
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
        let walk = || {
            lose(&first);
            is_at("other_replica", 1);
            assert!(origin.get_until("/now", |reply| reply.status == 200).cache().ends_with("detail=replica"));
            lose(&second);
            is_at("primary", 2);
            assert!(origin.get_until("/now", |reply| reply.status == 200).cache().ends_with("detail=primary"));
            lose(&primary);
            is_at("stale", 3);
            let stale = origin.get_until("/public/kept", |reply| reply.cache().contains("fwd-status=503"));
            assert!(stale.cache().starts_with("mainstay; hit; ttl=-"), "{stale:?}");
            assert_eq!(origin.get_until("/now", |reply| reply.status == 503).header("retry-after"), "2");
            let before = asked.load(Ordering::Relaxed);
            assert!(mainstay::local::wait_until(crate::support::PATIENCE, || {
                asked.load(Ordering::Relaxed) > before + 50
            }));
            [&first, &second, &primary].into_iter().for_each(|proxy| proxy.set_mode(ProxyMode::Pass));
            is_at("preferred", 0);
            assert!(origin.get_until("/now", |reply| reply.status == 200).cache().ends_with("detail=replica"));
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(walk));
        is_over.store(true, Ordering::Relaxed);
        load.join().unwrap();
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });

    let steps = &steps(&origin)[at_start..];
    let down = ["preferred>other_replica", "other_replica>primary", "primary>stale"];
    assert_eq!(steps.get(..3), Some(&down.map(str::to_owned)[..]), "{steps:?}");
    // It may come back in one step or in several, and ends where it began.
    assert!(steps.len() <= 6 && steps.last().unwrap().ends_with(">preferred"), "{steps:?}");
    assert!(origin.program.stdout().contains("replica-1: down"), "each says why: {}", origin.program.stdout());
    let (lines, asked) = (origin.program.stdout().lines().count(), asked.load(Ordering::Relaxed) * 2);
    assert!(asked > 100 && lines < 60, "{lines} lines for {asked} requests: {}", origin.program.stdout());
}
