//! `mainstay simulate`: what it says of a log is what happens when its requests are sent.

use std::fmt::Write as _;

use serde_json::Value;

use crate::support::{Cluster, Folder, Origin, Outcome, Reply, mainstay, request};

const TOKEN: &str = "correct-horse";
const ROUTES: &str = r#"
[[route]]
path = "/public/square"
sql = "SELECT $1 * $1 AS square, $2 AS words"
result = "row"
params = [
  { name = "n", in = "query", type = "integer", max = 30 },
  { name = "words", in = "query", type = "text[]", default = [], set = true },
]
[route.cache]
ttl = "1h"
tags = ["squares", "square:{n}"]

[[route]]
path = "/public/items/{id}"
sql = "SELECT $1 AS id WHERE $1 % 3 > 0"
result = "row"
params = [{ name = "id", in = "path", type = "integer" }]
[route.cache]
ttl = "1h"

[[route]]
path = "/plain"
sql = "SELECT 1 AS one"
"#;
/// What plays no part here: time.
const SETTINGS: &str =
    "[cache]\nnot_found_ttl = \"1h\"\n[log]\naccess = \"all\"\naccess_per_second_max = 100000\nformat = \"json\"\n";

fn json(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
}

fn route<'a>(report: &'a Value, name: &str) -> &'a Value {
    let routes = report["routes"].as_array().unwrap();
    routes.iter().find(|route| route["route"] == name).unwrap_or_else(|| panic!("{name}: {report:#}"))
}

/// Requests in many spellings, some of them wrong.
fn targets(random: &mut fastrand::Rng) -> Vec<String> {
    let one = |random: &mut fastrand::Rng| {
        let n = random.u32(1..=30);
        match random.u32(0..12) {
            0 => format!("/public/square?n={n}&words="),
            1 => format!("/public/square?words=b,a&n=0{n}"),
            2 => format!("/public/square?n=%2B{n}&words=a&words=b,a"),
            3 => "/public/square".to_owned(),
            4 => "/public/square?n=31".to_owned(),
            5 => format!("/public/square?n={n}&utm_source=mail"),
            6 | 7 => format!("/public/items/{n}"),
            8 => "/plain".to_owned(),
            9 => format!("/nowhere/{}", random.u32(0..3)),
            10 => "/health/live".to_owned(),
            _ => format!("/public/square?n={n}"),
        }
    };
    (0..400).map(|_| one(random)).collect()
}

#[test]
fn what_is_simulated_is_what_happens() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let targets = targets(&mut fastrand::Rng::with_seed(seed));
    let cluster = Cluster::shared();
    let url = cluster.primary.url("postgres", &cluster.database(""));
    let folder = Folder::new(ROUTES);
    folder.write("mainstay.toml", SETTINGS);
    let origin = Origin::start(folder.path(), &[("DATABASE_URL", &url), ("ADMIN_TOKEN", TOKEN)]);
    origin.get_until("/health/edge", |reply| reply.status == 200);

    let answers: Vec<Reply> = targets.iter().map(|target| origin.get(target)).collect();
    let mut log = String::new();
    for (second, (target, answer)) in targets.iter().zip(&answers).enumerate() {
        let (minute, second) = (second / 60, second % 60);
        let bytes = answer.body.len();
        let status = answer.status;
        writeln!(
            log,
            "- - - [21/Oct/2026:12:{minute:02}:{second:02} +0000] \"GET {target} HTTP/1.1\" {status} {bytes}"
        )
        .unwrap();
    }
    folder.write("access.log", &log);
    let simulate = |file: &str| {
        let file = folder.join(file);
        mainstay(&["simulate", file.to_str().unwrap(), "--config", folder.text(), "--json"], &[])
    };
    let simulated = simulate("access.log");
    assert_eq!(simulated.code, Some(0), "{simulated:?}");
    let report = json(&simulated);

    let of_path = |path: &str| -> Vec<&Reply> {
        targets.iter().zip(&answers).filter(|(target, _)| target.starts_with(path)).map(|(_, answer)| answer).collect()
    };
    let count = |answers: &[&Reply], is: fn(&Reply) -> bool| answers.iter().filter(|answer| is(answer)).count();
    for (name, path) in [("GET /public/square", "/public/square"), ("GET /public/items/{id}", "/public/items/")] {
        let (told, happened) = (route(&report, name), of_path(path));
        assert_eq!(told["requests"], happened.len(), "{name}");
        assert_eq!(told["fresh"], count(&happened, |answer| answer.cache().contains("; hit;")), "{name}");
        assert_eq!(told["source"], count(&happened, |answer| answer.cache().contains("fwd=miss")), "{name}");
        assert_eq!(told["refused"], count(&happened, |answer| answer.status == 400), "{name}");
        assert_eq!(told["runs"], told["source"], "{name}");
        assert_eq!(told["entries_max"], told["source"], "each was asked for once: {name}");
    }
    let (square, items) = (route(&report, "GET /public/square"), route(&report, "GET /public/items/{id}"));
    assert!(square["fresh"].as_u64() > Some(20) && items["fresh"].as_u64() > Some(5), "{report:#}");
    assert_eq!(route(&report, "GET /plain")["runs"], of_path("/plain").len());
    assert_eq!(report["unmatched"]["requests"], of_path("/nowhere/").len());
    assert_eq!(report["built_in"], of_path("/health/").len());
    assert_eq!(
        report["refused"]["requests"],
        count(&answers.iter().collect::<Vec<_>>(), |answer| answer.status == 400)
    );

    // Bodies are this short that they are kept as they are, so that even the bytes are the same.
    let headers = [("authorization", format!("Bearer {TOKEN}"))];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let status = request("GET", &format!("{}/admin/status", origin.admin), &headers, None).json();
    assert_eq!(report["l1"]["entries_max"], status["cache"]["entries"], "{report:#}");
    assert_eq!(report["l1"]["bytes_max"], status["cache"]["bytes"], "{report:#}");

    // The server's own log of the same requests, which has other lines as well, and does not say how large answers were.
    folder.write("own.log", &origin.program.stdout());
    let own = json(&simulate("own.log"));
    for name in ["GET /public/square", "GET /public/items/{id}"] {
        for member in ["requests", "refused", "runs", "entries_max"] {
            assert_eq!(route(&own, name)[member], route(&report, name)[member], "{name} {member}");
        }
        // Who asks twice within the time that a source is given waits, where the real one was quicker.
        let hits = |report| {
            ["fresh", "coalesced"].map(|member| route(report, name)[member].as_u64().unwrap()).iter().sum::<u64>()
        };
        assert_eq!(hits(&own), hits(&report), "{name}");
    }
}

#[test]
fn logs_that_are_no_logs_stop_nothing() {
    let folder = Folder::new(ROUTES);
    let line = |time: &str, target: &str| format!("h - - [{time} +0000] \"GET {target} HTTP/1.1\" 200 -\n");
    let mut log = line("21/Oct/2026:12:00:00", "/public/square?n=1").into_bytes();
    log.extend_from_slice(b"\xff\xfe\x00 nothing\n\n");
    log.extend_from_slice(&[b'x'; 1 << 20]);
    log.extend_from_slice(b"\n\"\"\"[[[]]]\n{\"a\":[[[[\n");
    log.extend_from_slice(line("21/Oct/0000:12:00:00", "/public/square?n=1").as_bytes());
    log.extend_from_slice(line("21/Oct/2199:12:00:00", "/public/square?n=1").as_bytes());
    log.extend_from_slice(line("21/Oct/2026:11:59:59", "/public/square?n=1").as_bytes());
    log.extend_from_slice(line("21/Oct/2026:12:00:01", "/\\x1b[2Jpath").as_bytes());
    log.extend_from_slice(line("21/Oct/2026:12:00:01", "/%1b[2Jpath").as_bytes());
    log.extend_from_slice(line("21/Oct/2026:12:00:01", &format!("/{}", "y".repeat(60_000))).as_bytes());
    log.extend_from_slice(b"h - - [21/Oct/2026:12:00:02 +0000] \"GET /public/square?n=1");
    std::fs::write(folder.join("access.log"), &log).unwrap();
    let file = folder.join("access.log");
    let args = ["simulate", file.to_str().unwrap(), "--config", folder.text()];
    let outcome = mainstay(&args, &[]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for text in [
        "longer than 64 KiB: line 4",
        "neither the common log format nor a JSON object with a request: line 2, 5, 6",
        "line 7",
    ] {
        assert!(outcome.stdout.contains(text), "{text}: {}", outcome.stdout);
    }
    assert!(!outcome.stdout.contains('\u{1b}'), "what a client sent does not reach the terminal: {outcome:?}");
    let report = json(&mainstay(&[&args[..], &["--json"]].concat(), &[]));
    assert_eq!(report, json(&mainstay(&[&args[..], &["--json"]].concat(), &[])), "the same each time");
    assert_eq!((&report["requests"], &report["lines_behind"]), (&5.into(), &1.into()), "{report:#}");
    let square = route(&report, "GET /public/square");
    assert_eq!((&square["requests"], &square["fresh"]), (&3.into(), &0.into()), "{report:#}");
    assert_eq!(square["coalesced"], 2, "one line does not turn the clock: {report:#}");
}

#[test]
fn what_it_is_told_and_how_it_ends_is_as_documented() {
    let folder = Folder::new(ROUTES);
    let log = |times: std::ops::Range<u32>| -> String {
        let line = |second: u32| {
            let (minute, second) = (second / 60, second % 60);
            format!(
                "{{\"time\":\"2026-10-21T12:{minute:02}:{second:02}Z\",\"method\":\"GET\",\"uri\":\"/public/square?n=1\",\"status\":200,\"size\":9}}\n"
            )
        };
        times.map(line).collect()
    };
    let packed = |text: &str| {
        use std::io::Write as _;
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(text.as_bytes()).unwrap();
        packer.finish().unwrap()
    };
    // As where packed logs were put one after the other.
    let both = [packed(&log(0..300)), packed(&log(300..600))].concat();
    // What packed it is told by how it begins, whatever it is called.
    std::fs::write(folder.join("access.log.1"), both).unwrap();
    let file = folder.join("access.log.1");
    let file = file.to_str().unwrap();
    let simulate = |args: &[&str]| mainstay(&[&["simulate", file, "--config", folder.text()], args].concat(), &[]);
    let runs = |args: &[&str]| json(&simulate(&[args, &["--json"]].concat()))["total"]["runs"].clone();
    assert_eq!(runs(&[]), 1);
    assert_eq!(runs(&["--instances", "3"]), 3);
    assert_eq!(runs(&["--instances", "3", "--l2-bytes", "100000"]), 1);
    assert_eq!(runs(&["--changes", "square:1=60"]), 10, "one a minute");
    assert_eq!(runs(&["--changes", "square:2=60", "--changes", "other=3600"]), 1);
    let text = simulate(&[]).stdout;
    assert!(text.contains("600 requests, from 2026-10-21 12:00:00 to 2026-10-21 12:09:59 UTC (9m 59s)"), "{text}");
    assert!(text.contains("99.8 % of those are hits; the source runs 1 times in place of 600"), "{text}");

    let broken = std::fs::read(file).unwrap();
    std::fs::write(folder.join("broken.gz"), &broken[..broken.len() / 2]).unwrap();
    folder.write("empty.log", "# nothing\n");
    for (args, code, text) in [
        (vec!["simulate", "/nowhere/access.log"], 1, "/nowhere/access.log"),
        (vec!["simulate", folder.join("broken.gz").to_str().unwrap()], 1, "after line"),
        (vec!["simulate", folder.join("empty.log").to_str().unwrap()], 1, "no request in it"),
        (vec!["simulate", file, "--instances", "0"], 2, "--instances"),
        (vec!["simulate", file, "--source-time", "soon"], 2, "a time like"),
        (vec!["simulate", file, "--changes", "rates"], 2, "like rates=4"),
        (vec!["simulate", file, "--config", "/nowhere"], 64, "--config /nowhere"),
    ] {
        let args = if args.contains(&"--config") { args } else { [args, vec!["--config", folder.text()]].concat() };
        let outcome = mainstay(&args, &[]);
        assert_eq!(outcome.code, Some(code), "{args:?}: {outcome:?}");
        assert!(outcome.stderr.contains(text), "{text}: {outcome:?}");
    }
}
