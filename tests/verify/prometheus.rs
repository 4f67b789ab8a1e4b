//! The committed rules and alerts in a real Prometheus that scrapes a real server: every expression can be evaluated, what is wrong
//! rings, and rings no more when it is well again. How long a condition must hold is promtool's to test: here each `for:` is taken
//! out of a copy of the alerts, or a quarter of an hour would pass.

use std::fs;
use std::path::Path;

use mainstay::local::{free_port, wait_until};
use serde_json::Value;

use super::support::{Cluster, Folder, Origin, PATIENCE, Program, command, get, repository};

/// One route reads from a replica, and the other one from where nobody listens.
const ROUTES: &str = r#"
[upstream.nobody]
endpoints = ["http://127.0.0.1:1"]

[[route]]
path = "/public/one"
result = "row"
sql = "SELECT 1 AS one"

[[route]]
path = "/orders"
upstream = "nobody"
"#;

/// A running Prometheus with the rules of this repository.
struct Prometheus {
    base: String,
    program: Program,
    _folder: Folder,
}

impl Prometheus {
    /// One that scrapes this target each second, and evaluates all as often.
    fn start(target: &str) -> Self {
        let folder = Folder::empty();
        let copy = |name: &str| fs::read_to_string(repository("infra/prometheus").join(name)).unwrap();
        folder.write("rules.yml", &copy("mainstay.rules.yml"));
        let alerts = copy("mainstay.alerts.yml");
        let at_once: String = alerts.lines().filter(|line| !is_for(line)).map(|line| format!("{line}\n")).collect();
        assert!(at_once.len() < alerts.len());
        folder.write("alerts.yml", &at_once);
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: [rules.yml, alerts.yml]\n\
             scrape_configs:\n\
             - {{job_name: mainstay, static_configs: [{{targets: [\"{target}\"], labels: {{region: eu-west-1}}}}]}}\n"
        );
        folder.write("prometheus.yml", &config);
        let base = format!("127.0.0.1:{}", free_port().unwrap());
        let mut prometheus = command(Path::new("prometheus"));
        prometheus
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={base}"))
            .current_dir(folder.path());
        let mut program = Program::start(prometheus);
        program.expect_text("Server is ready to receive web requests");
        Self { base: format!("http://{base}"), program, _folder: folder }
    }

    fn ask(&self, path: &str) -> Value {
        let reply = get(&format!("{}/api/v1/{path}", self.base));
        assert_eq!(reply.status, 200, "{path}: {reply:?}\n{}", self.program.output());
        reply.json()["data"].take()
    }

    /// The names of the alerts that ring.
    fn rings(&self) -> Vec<String> {
        let alerts = self.ask("alerts");
        let alerts = alerts["alerts"].as_array().unwrap().iter();
        let firing = alerts.filter(|alert| alert["state"] == "firing");
        firing.map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_owned()).collect()
    }

    fn wait_rings(&self, what: &str, holds: impl Fn(&[String]) -> bool) {
        let mut last = Vec::new();
        let came = wait_until(PATIENCE, || {
            last = self.rings();
            holds(&last)
        });
        assert!(came, "{what}: {last:?}");
        println!("{what}: {last:?}");
    }

    /// Waits until every rule has been evaluated, and says how many there are. None may fail.
    fn wait_rules(&self) -> usize {
        let mut rules = Vec::new();
        let all_are_ok = || {
            rules = self.ask("rules")["groups"]
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|group| group["rules"].as_array().unwrap().clone())
                .collect();
            assert!(rules.iter().all(|rule| rule["health"] != "err"), "{rules:#?}");
            !rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok")
        };
        assert!(wait_until(PATIENCE, all_are_ok));
        rules.len()
    }
}

/// Whether a line says how long a condition must hold.
fn is_for(line: &str) -> bool {
    line.trim_start().starts_with("for: ")
}

fn has(rings: &[String], alert: &str) -> bool {
    rings.iter().any(|name| name == alert)
}

#[test]
#[ignore = "`make verify` runs it"]
fn a_real_prometheus_rings_and_rings_no_more() {
    let cluster = Cluster::shared();
    let database = cluster.database("CREATE TABLE written (at timestamptz)");
    cluster.catch_up();
    let folder = Folder::new(ROUTES);
    let (primary, replica) = (cluster.primary.url("postgres", &database), cluster.replica.url("postgres", &database));
    let env = [("DATABASE_URL", primary.as_str()), ("DATABASE_READ_REPLICA_URL", replica.as_str())];
    let origin = Origin::start(folder.path(), &env);
    origin.get_until("/public/one", |reply| reply.status == 200);
    let prometheus = Prometheus::start(origin.admin.strip_prefix("http://").unwrap());
    println!("{} rules are evaluated without an error", prometheus.wait_rules());
    prometheus.wait_rings("all is well", <[String]>::is_empty);

    // All between two scrapes: the counter has stood at zero before, so that its first count is an increase.
    let failures = || {
        for _ in 0..20 {
            assert_eq!(origin.get("/orders").status, 503);
        }
    };
    failures();
    prometheus.wait_rings("a burst of failures", |rings| has(rings, "MainstayErrorBudgetBurnFast"));

    let paused = |function: &str| cluster.replica.psql("postgres", &format!("SELECT {function}()")).unwrap();
    paused("pg_wal_replay_pause");
    cluster.primary.psql(&database, "INSERT INTO written VALUES (now())").unwrap();
    prometheus.wait_rings("a replica stands still", |rings| has(rings, "MainstayReplicationLag"));
    paused("pg_wal_replay_resume");
    prometheus.wait_rings("it goes on", |rings| !has(rings, "MainstayReplicationLag"));
    assert!(!has(&prometheus.rings(), "MainstayDown"));

    drop(origin);
    prometheus.wait_rings("the server is gone", |rings| has(rings, "MainstayDown"));
    prometheus.wait_rules();
}
