//! `mainstay probe` and `dist-test.sh` against regions on this machine: what they say, and how they end.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use mainstay::local::{Nginx, NginxOptions, Proxy, ProxyMode, Scratch};
use serde_json::{Value, json};

use crate::support::{MAINSTAY, Origin, Outcome, Program, command, mainstay, repository};

/// A cached answer that needs no database.
const PATH: &str = "/public/greetings/Ada";
/// A far higher average than this machine has, however busy it is.
const GENEROUS: [&str; 2] = ["--target-ms", "20000"];

/// An origin, and where it is.
fn region(name: &str, env: &[(&str, &str)]) -> (Origin, SocketAddr) {
    let mut serve = command(Path::new(MAINSTAY).parent().unwrap().join("examples/own_handlers"));
    serve.args(["serve", "--config", repository("examples/own_handlers").to_str().unwrap()]);
    let env = [&[("REGION", name), ("MAINSTAY__LOG__ACCESS", "off")], env].concat();
    let origin = Origin::start_command(serve, &env);
    let address = origin.base.strip_prefix("http://").unwrap().parse().unwrap();
    (origin, address)
}

fn probe(args: &[&str]) -> Outcome {
    mainstay(&[&["probe", "--requests", "5", "--path", PATH], args].concat(), &[])
}

fn json(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
}

#[test]
fn each_region_is_reached_where_it_was_said_and_judged_by_itself() {
    let (_near, near) = region("us-east-1", &[]);
    let (_far, far) = region("eu-west-1", &[]);
    let proxy = Proxy::start(far).unwrap();
    proxy.set_delay(Duration::from_millis(60));
    // The name does not exist: only the addresses lead anywhere.
    let regions = [format!("us-east-1={near}"), format!("eu-west-1={}", proxy.address())];
    let args = ["http://api.example.test:8080", "--region", &regions[0], "--region", &regions[1], "--json"];

    let outcome = probe(&[&args[..], &GENEROUS].concat());
    let report = json(&outcome);
    assert_eq!((outcome.code, &report["passed"]), (Some(0), &json!(true)), "{report:#}");
    for (place, name, address) in [(0, "us-east-1", near), (1, "eu-west-1", proxy.address())] {
        let region = &report["regions"][place];
        assert_eq!(region["region"], name);
        assert_eq!(region["address"], address.to_string());
        assert_eq!((&region["connections"], &region["tls_ms"]), (&json!(1), &Value::Null), "{region:#}");
        let path = &region["paths"][0];
        assert_eq!((&path["path"], &path["requests"], &path["failed"]), (&json!(PATH), &json!(5), &json!(0)));
        assert_eq!((&path["origin"], &path["cdn"]), (&json!({ "hit L1": 5 }), &json!({})), "the first one is apart");
        assert_eq!(path["answered_by"], json!({ name: 5 }));
        assert_eq!((&region["layers"][0]["layer"], &region["layers"][0]["requests"]), (&json!("L1"), &json!(5)));
        let [p50, p95, p99] = ["p50_ms", "p95_ms", "p99_ms"].map(|name| path[name].as_f64().unwrap());
        assert!(0.0 < p50 && p50 <= p95 && p95 <= p99, "{path:#}");
    }

    // There and back is twice the delay; the proxy itself is near, and to connect to it takes next to nothing.
    let outcome = probe(&[&args[..], &["--target-ms", "119"]].concat());
    let report = json(&outcome);
    assert_eq!((outcome.code, &report["passed"]), (Some(1), &json!(false)), "{report:#}");
    let far = &report["regions"][1];
    assert!(far["average_ms"].as_f64().unwrap() >= 120.0 && far["passed"] == false, "{far:#}");
    assert!(outcome.stderr.contains("eu-west-1 takes "), "{}", outcome.stderr);
}

#[test]
fn a_dead_region_is_said_and_holds_up_no_other() {
    let (_origin, near) = region("us-east-1", &[]);
    let (refusing, silent) = (Proxy::start(near).unwrap(), Proxy::start(near).unwrap());
    refusing.set_mode(ProxyMode::Reset);
    silent.set_mode(ProxyMode::BlackHole);
    let regions = [near, refusing.address(), silent.address()];
    let regions =
        ["us-east-1", "eu-west-1", "ap-southeast-1"].iter().zip(regions).map(|(name, at)| format!("{name}={at}"));
    let mut args = vec!["http://api.example.test".to_owned(), "--timeout".to_owned(), "300ms".to_owned()];
    args.extend(regions.flat_map(|region| ["--region".to_owned(), region]));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();

    let outcome = probe(&[&args[..], &GENEROUS, &["--json"]].concat());
    let report = json(&outcome);
    assert_eq!(outcome.code, Some(1), "{report:#}");
    let [near, refusing, silent] = [0, 1, 2].map(|place| report["regions"][place].clone());
    assert_eq!((&near["passed"], &near["requests"]), (&json!(true), &json!(5)), "{near:#}");
    for dead in [&refusing, &silent] {
        assert_eq!((&dead["passed"], &dead["requests"], &dead["average_ms"]), (&json!(false), &json!(0), &Value::Null));
        assert_eq!(dead["failed"], 3, "it is left alone then: {dead:#}");
    }
    let reason = |region: &Value| region["reason"].as_str().unwrap().to_owned();
    assert_eq!(reason(&silent), "ap-southeast-1 does not answer (no answer within 300ms)");
    assert!(reason(&refusing).starts_with("eu-west-1 does not answer ("), "{refusing:#}");
    assert!(!outcome.stderr.contains("us-east-1") && outcome.stderr.contains("eu-west-1"), "{}", outcome.stderr);
}

#[test]
fn the_name_stays_in_tls_and_is_proved() {
    let made = rcgen::generate_simple_self_signed(["api.example.test".to_owned()]).unwrap();
    let scratch = Scratch::new("probe-tls").unwrap();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| scratch.join(name).to_str().unwrap().to_owned());
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = [("MAINSTAY__SERVER__TLS_CERT_FILE", cert.as_str()), ("MAINSTAY__SERVER__TLS_KEY_FILE", key.as_str())];
    let (_origin, address) = region("us-east-1", &tls);
    let at = format!("us-east-1={address}");
    let ask = |name: &str, trusted: &[&str]| {
        let url = format!("https://{name}");
        json(&probe(&[&[url.as_str(), "--region", &at, "--json"], trusted, &GENEROUS].concat()))
    };
    let trusted = ask("api.example.test", &["--ca-file", &cert]);
    assert_eq!(trusted["passed"], true, "{trusted:#}");
    assert!(trusted["regions"][0]["tls_ms"].as_f64().unwrap() > 0.0);
    for refused in [ask("api.example.test", &[]), ask("another.example.test", &["--ca-file", &cert])] {
        let reason = refused["regions"][0]["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains("TLS: invalid peer certificate"), "{reason}");
    }
}

/// A server that takes one request a connection, and hands on the heads of requests.
#[test]
fn what_is_sent_names_the_host_and_a_server_that_keeps_no_connection_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = format!("eu-west-1={}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let take = |_| {
            let (mut stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
            let head: Vec<String> = lines.collect();
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").unwrap();
            head
        };
        (0..6).map(take).collect::<Vec<_>>()
    });
    let args = ["http://api.example.test:8080", "--region", &at, "--header", "X-Probe: yes", "--json"];
    let report = json(&probe(&[&args[..], &GENEROUS].concat()));
    assert_eq!((&report["passed"], &report["regions"][0]["connections"]), (&json!(true), &json!(6)), "{report:#}");
    assert_eq!(report["regions"][0]["layers"][0]["layer"], "unknown", "nobody says who answered");
    for head in server.join().unwrap() {
        assert_eq!(head[0], format!("GET {PATH} HTTP/1.1"));
        for line in ["host: api.example.test:8080", "x-probe: yes"] {
            assert!(head.iter().any(|other| other.to_lowercase() == line), "{head:?}");
        }
    }
}

#[test]
fn an_edge_that_has_the_answer_is_a_layer_of_its_own() {
    let (origin, address) = region("us-east-1", &[]);
    let scratch = Scratch::new("probe-edge").unwrap();
    let nginx = Nginx::start(&NginxOptions {
        dir: scratch.join("nginx"),
        primary: address.to_string(),
        secondary: address.to_string(),
        cache: true,
        response_timeout: Duration::from_secs(30),
        ..NginxOptions::default()
    })
    .unwrap();
    let outcome = probe(&[&[nginx.url().as_str(), origin.base.as_str(), "--json"], &GENEROUS[..]].concat());
    let report = json(&outcome);
    let (edge, direct) = (&report["regions"][0], &report["regions"][1]);
    assert_eq!(
        (&edge["paths"][0]["cdn"], &edge["layers"][0]["layer"]),
        (&json!({ "hit": 5 }), &json!("CDN")),
        "{edge:#}"
    );
    assert_eq!((&direct["paths"][0]["cdn"], &direct["layers"][0]["layer"]), (&json!({}), &json!("L1")), "{direct:#}");
    let place = nginx.url().strip_prefix("http://").unwrap().to_owned();
    assert_eq!(edge["region"], place, "several URLs are told apart by where they are");

    let table = probe(&[&[nginx.url().as_str()], &GENEROUS[..]].concat()).stdout;
    for text in ["region ", " p99 ", "hit 5", "us-east-1 5", "layer", "CDN", "1 connection: TCP", ": well"] {
        assert!(table.contains(text), "{text}\n{table}");
    }
}

#[test]
fn how_it_ends_is_as_documented() {
    let (origin, _) = region("us-east-1", &[]);
    let base = origin.base.as_str();
    assert_eq!(probe(&[&[base], &GENEROUS[..]].concat()).code, Some(0));

    let missing = probe(&[&[base, "--path", "/public/nothing"], &GENEROUS[..]].concat());
    assert_eq!(missing.code, Some(1), "{missing:?}");
    assert!(missing.stdout.contains("/public/nothing: 6 × status 404"), "{missing:?}");
    assert!(missing.stderr.contains("failed 6 requests"), "{missing:?}");

    for (args, culprit) in [
        (&[][..], "<URL>"),
        (&["api.example.com"], "api.example.com"),
        (&["ftp://api.example.com"], "http://"),
        (&["http://api.example.com/public/rates"], "--path"),
        (&["http://user@api.example.com"], "--header"),
        (&[base, "--region", "eu-west-1"], "eu-west-1=203.0.113.9"),
        (&[base, "--region", "eu-west-1=nowhere"], "nowhere"),
        (&[base, "--path", "public"], "begins with /"),
        (&[base, "--target-ms", "0"], "above 0"),
        (&[base, "--requests", "100000"], "1..=1000"),
        (&[base, "--timeout", "soon"], "500ms"),
        (&[base, "--header", "X"], "X-Name: value"),
    ] {
        let outcome = mainstay(&[&["probe"], args].concat(), &[]);
        assert_eq!(outcome.code, Some(2), "{args:?}: {outcome:?}");
        assert!(outcome.stderr.contains(culprit), "{args:?}: {}", outcome.stderr);
    }
    let unreadable = probe(&["https://api.example.test", "--ca-file", "/nowhere/roots.pem"]);
    assert_eq!(unreadable.code, Some(64), "{unreadable:?}");
    assert!(unreadable.stderr.contains("--ca-file: ") && unreadable.stderr.contains("/nowhere/roots.pem"));
}

fn dist_test(args: &[&str], env: &[(&str, &str)]) -> Outcome {
    let mut command = command(repository("dist-test.sh"));
    command.args(args).env("MAINSTAY", MAINSTAY).envs(env.iter().copied());
    let mut program = Program::start(command);
    let code = program.wait().code();
    Outcome { code, stdout: program.stdout(), stderr: program.stderr() }
}

#[test]
fn the_script_is_the_command_with_the_regions_of_the_reference_infrastructure() {
    let (origin, address) = region("us-east-1", &[]);
    let proxy = Proxy::start(address).unwrap();
    proxy.set_delay(Duration::from_millis(20));
    let (near, far) = (address.to_string(), proxy.address().to_string());
    let regions = [("US_EAST_1_IP", near.as_str()), ("EU_WEST_1_IP", &far), ("AP_SOUTHEAST_1_IP", &near)];
    let args = ["--path", PATH, "--requests", "3", "--json"];
    let with = |more: &[(&'static str, &'static str)]| [&regions[..], more].concat();

    let outcome = dist_test(&args, &with(&[("BASE_URL", "http://api.example.test"), ("TARGET_MS", "20000")]));
    let names =
        |report: &Value| report["regions"].as_array().unwrap().iter().map(|r| r["region"].clone()).collect::<Vec<_>>();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(names(&json(&outcome)), ["us-east-1", "eu-west-1", "ap-southeast-1"]);

    // 40 ms there and back, and 30 are the target where nothing else is said.
    let slow =
        dist_test(&[&["http://api.example.test"], &args[..]].concat(), &with(&[("BASE_URL", "http://unused.test")]));
    assert_eq!((slow.code, &json(&slow)["target_ms"]), (Some(1), &json!(30.0)), "{slow:?}");
    assert!(slow.stderr.contains("eu-west-1 takes "), "{}", slow.stderr);

    let base = [("BASE_URL", origin.base.as_str()), ("TARGET_MS", "20000")];
    let alone = dist_test(&args, &base);
    assert_eq!((alone.code, names(&json(&alone))), (Some(0), vec![json!(near)]), "without addresses the name leads");

    let nothing = dist_test(&[], &[]);
    assert_eq!(nothing.code, Some(64), "{nothing:?}");
    assert!(nothing.stderr.contains("BASE_URL is not set"), "{nothing:?}");
    assert_eq!(dist_test(&["--help"], &[]).code, Some(0));
    let no_scheme = dist_test(&["api.example.com"], &base);
    assert_eq!(no_scheme.code, Some(2), "{no_scheme:?}");
    assert!(no_scheme.stderr.contains("api.example.com") && no_scheme.stderr.contains("https://"), "{no_scheme:?}");
    let unknown = dist_test(&["--no-such-thing"], &base);
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    let no_program = dist_test(&[], &[("MAINSTAY", "/nowhere/mainstay"), ("BASE_URL", "http://x.test")]);
    assert_eq!(no_program.code, Some(64), "{no_program:?}");
}
