//! `mainstay purge`, `status` and `warm` against a running server, and what the server writes down about them.

use crate::support::{Cluster, Folder, ONE, Origin, Outcome, get, mainstay, request};

const TOKEN: &str = "correct-horse";
/// The first eight digits of the token's SHA-256.
const FINGERPRINT: &str = "9dca666e";

const ROUTES: &str = r#"
[[route]]
path = "/public/square"
sql = "SELECT $1 * $1 AS square"
result = "row"
params = [{ name = "n", in = "query", type = "integer", max = 1000 }]
[route.cache]
ttl = "1h"
tags = ["squares", "square:{n}"]
"#;

/// A server with a database, and the settings that its operators have.
struct Operated {
    origin: Origin,
    folder: Folder,
}

impl Operated {
    fn start() -> Self {
        let cluster = Cluster::shared();
        let url = cluster.primary.url("postgres", &cluster.database(""));
        let folder = Folder::new(ROUTES);
        let env = [("DATABASE_URL", url.as_str()), ("ADMIN_TOKEN", TOKEN), ("LOG_FORMAT", "json")];
        let origin = Origin::start(folder.path(), &env);
        origin.get_until("/health/edge", |reply| reply.status == 200);
        Self { origin, folder }
    }

    /// Runs a command with the right address and token.
    fn run(&self, args: &[&str]) -> Outcome {
        let address = self.origin.admin.strip_prefix("http://").unwrap();
        self.run_with(args, &[("ADMIN_ADDR", address), ("ADMIN_TOKEN", TOKEN)])
    }

    fn run_with(&self, args: &[&str], env: &[(&str, &str)]) -> Outcome {
        mainstay(&[args, &["--config", self.folder.text()]].concat(), env)
    }

    fn is_hit(&self, n: u32) -> bool {
        self.origin.get(&format!("/public/square?n={n}")).cache().contains("; hit;")
    }
}

fn json(outcome: &Outcome) -> serde_json::Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
}

#[test]
fn operators_purge_warm_and_look_and_all_is_written_down() {
    let mut operated = Operated::start();
    for n in 1..=3 {
        operated.is_hit(n);
        assert!(operated.is_hit(n));
    }
    let purged = operated.run(&["purge", "--tag", "square:1", "--tag", "square:2"]);
    assert_eq!(purged.code, Some(0), "{purged:?}");
    assert!(purged.stdout.contains("purged (soft): square:1, square:2"), "{purged:?}");
    assert!(purged.stdout.contains("1 of 1 confirmed") && purged.stdout.contains("regions   local"), "{purged:?}");
    assert_eq!([1, 2, 3].map(|n| operated.is_hit(n)), [false, false, true]);

    let by_path = operated.run(&["purge", "--path", "/public/square?n=%33", "--json"]);
    assert!(json(&by_path)["tags"][0].as_str().unwrap().starts_with("key:"), "{by_path:?}");
    assert_eq!([1, 2, 3].map(|n| operated.is_hit(n)), [true, true, false]);
    let all = operated.run(&["purge", "--all", "--hard", "--json"]);
    assert_eq!((&json(&all)["mode"], &json(&all)["tags"]), (&"hard".into(), &serde_json::json!(["*"])));

    let lines: String = (1..=120).map(|n| format!("/public/square?n={n}\n")).collect();
    operated.folder.write("paths.txt", &format!("# squares\n\n{lines}"));
    let file = operated.folder.join("paths.txt");
    let file = file.to_str().unwrap();
    let warmed = operated.run(&["warm", file]);
    assert_eq!((warmed.code, warmed.stdout.trim()), (Some(0), "120 paths: 120 warmed, 0 warm already, 0 failed"));
    assert!((1..=120).all(|n| operated.is_hit(n)));
    operated.folder.write("paths.txt", "/public/square?n=7\n/public/square?n=1001\n/nowhere\n");
    let warmed = operated.run(&["warm", file]);
    assert_eq!(warmed.code, Some(1), "{warmed:?}");
    assert!(warmed.stdout.contains("3 paths: 0 warmed, 1 warm already, 2 failed"), "{warmed:?}");
    assert!(warmed.stdout.contains("400  /public/square?n=1001  parameter n must be"), "{warmed:?}");
    assert!(warmed.stderr.contains("2 of 3 paths could not be warmed"), "{warmed:?}");
    operated.folder.write("paths.txt", "public/square\n");
    assert!(operated.run(&["warm", file]).stderr.contains("paths.txt:1: a path begins with /"));

    operated.run(&["purge", "--all"]);
    let admin = operated.origin.admin.clone();
    let hot = operated.run(&["warm", "--hot", "5", "--from", &admin, "--json"]);
    assert_eq!((&json(&hot)["paths"], &json(&hot)["warmed"]), (&5.into(), &5.into()), "{hot:?}");

    let status = operated.run(&["status"]);
    assert_eq!(status.code, Some(0), "{status:?}");
    for text in ["regional in local", "ok", "health     healthy", "primary  primary  up", "120 entries"] {
        assert!(status.stdout.contains(text), "{text}: {status:?}");
    }
    let status = operated.run(&["status", "--admin", &admin, "--json"]);
    assert_eq!(json(&status)["health"]["status"], "healthy");

    let audit = operated.run(&["audit"]);
    assert!(audit.code == Some(0) && audit.stdout.contains("wrong           0\n"), "{audit:?}");
    let acknowledged = operated.run(&["audit", "--acknowledge"]);
    assert_eq!(
        (acknowledged.code, acknowledged.stdout.trim()),
        (Some(0), "acknowledged    nothing"),
        "{acknowledged:?}"
    );

    assert_eq!(request("POST", &format!("{admin}/admin/cache/flush"), &[], Some("")).status, 401);
    operated.origin.program.signal(mainstay::local::Signal::TERM);
    assert_eq!(operated.origin.program.wait().code(), Some(0));
    let log = operated.origin.program.output();
    assert!(!log.contains(TOKEN), "{log}");
    let audit: Vec<&str> = log.lines().filter(|line| line.contains("mainstay::audit")).collect();
    assert!(audit.iter().all(|line| line.contains("127.0.0.1")), "{audit:?}");
    let id = json(&by_path)["id"].as_str().unwrap().to_owned();
    for expected in [
        ["purge", "tags square:1 square:2", "soft", "done"],
        ["purge", "path /public/square?n=%33", &id, "done"],
        ["flush", "*", "hard", "done"],
        ["warm", "50 paths, 50 stored", "", "done"],
        ["acknowledge", "nothing", "", "done"],
    ] {
        let is_there = |line: &&&str| line.contains(FINGERPRINT) && expected.iter().all(|text| line.contains(text));
        assert!(audit.iter().any(|line| is_there(&line)), "{expected:?} is not in {audit:#?}");
    }
    assert!(audit.iter().any(|line| line.contains("no token")), "{audit:#?}");
}

#[test]
fn errors_say_what_to_do_next() {
    let mut operated = Operated::start();
    let address = operated.origin.admin.strip_prefix("http://").unwrap().to_owned();
    let fails = |args: &[&str], env: &[(&str, &str)], texts: &[&str]| {
        let outcome = operated.run_with(args, env);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        for text in texts {
            assert!(outcome.stderr.contains(text), "{text}: {outcome:?}");
        }
    };
    let addr = ("ADMIN_ADDR", address.as_str());
    fails(&["status"], &[addr], &["unauthorized", "set ADMIN_TOKEN, or ADMIN_TOKEN_FILE"]);
    fails(&["status"], &[addr, ("ADMIN_TOKEN", "wrong")], &["none of the server's"]);
    fails(&["status"], &[("ADMIN_ADDR", "127.0.0.1:1")], &["refused", "ADMIN_ADDR", "--admin"]);
    fails(&["status", "--admin", &operated.origin.base], &[], &["public listener"]);
    let token = ("ADMIN_TOKEN", TOKEN);
    fails(&["purge", "--path", "/public/squares"], &[addr, token], &["route_not_found", "near it are /public/square"]);
    fails(&["warm", "/nowhere/paths.txt"], &[addr, token], &["/nowhere/paths.txt"]);
    for args in [
        &["purge"][..],
        &["purge", "--all", "--tag", "a"],
        &["warm"],
        &["warm", "--hot", "0"],
        &["warm", "x", "--hot", "1"],
        &["status", "--admin", "https://127.0.0.1:1"],
        &["status", "--interval", "1s"],
        &["status", "--watch", "--interval", "1ms"],
        &["keys", "create", "--name", "a", "--expires", "soon"],
        &["keys", "create", "--name", "a", "--claim", "a=1", "--claim", "a=2"],
    ] {
        let outcome = operated.run(args);
        assert_eq!(outcome.code, Some(2), "{args:?}: {outcome:?}");
    }
    for _ in 0..10 {
        operated.run_with(&["status"], &[addr, ("ADMIN_TOKEN", "wrong")]);
    }
    fails(&["status"], &[addr, token], &["rate_limited", "wait a minute"]);

    let bare = Origin::start(Folder::new(ONE).path(), &[]);
    fails(&["status", "--admin", &bare.admin], &[token], &["with ADMIN_TOKEN set it has more"]);
    operated.origin.program.signal(mainstay::local::Signal::TERM);
    operated.origin.program.wait();
}

#[test]
fn the_token_may_come_from_a_file_and_the_first_of_a_list_is_sent() {
    let operated = Operated::start();
    operated.folder.write("token", &format!("{TOKEN},older\n"));
    let file = operated.folder.join("token");
    let env = [("ADMIN_TOKEN_FILE", file.to_str().unwrap())];
    let admin = operated.origin.admin.strip_prefix("http://").unwrap();
    assert_eq!(operated.run_with(&["status", "--admin", admin], &env).code, Some(0));
    assert_eq!(get(&format!("{}/metrics", operated.origin.admin)).status, 200);
}

#[test]
fn help_teaches_by_examples() {
    for (command, example) in
        [("purge", "mainstay purge --tag"), ("status", "mainstay status"), ("warm", "mainstay warm --hot")]
    {
        let help = mainstay(&[command, "--help"], &[]);
        assert_eq!(help.code, Some(0));
        assert!(help.stdout.contains(example) && help.stdout.contains("ADMIN_TOKEN_FILE"), "{help:?}");
    }
}
