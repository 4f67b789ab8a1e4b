//! What the log says and never says, that whoever stops reading it holds nobody up, and that its levels change while it runs.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;

use mainstay::config::settings::{Layers, Settings};
use mainstay::local::{Proxy, Signal, free_port, wait_until};
use mainstay::telemetry::logs::line::{EVERY, FIELDS, Kind};
use rustix::process::{Pid, kill_process};
use serde_json::Value;

use crate::support::{Cluster, Folder, MAINSTAY, ONE, Origin, PATIENCE, command, mainstay, repository, request};

const TOKEN: &str = "correct-horse-battery";

/// The lines of a program's log.
fn lines(output: &str) -> Vec<Value> {
    output.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn access(output: &str) -> Vec<Value> {
    lines(output).into_iter().filter(|line| line["target"] == "mainstay::access").collect()
}

/// Sends bytes as they are, and says what came back.
fn send(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    let _until_closed = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

const ROUTES: &str = r#"
[[route]]
path = "/public/square"
sql = "SELECT $1 * $1 AS square"
result = "row"
params = [{ name = "n", in = "query", type = "integer" }]
unknown_params = "ignore"
[route.cache]
ttl = "1h"
watch = []

[[route]]
path = "/account/mine"
sql = "SELECT $1 AS id"
result = "row"
params = [{ name = "id", in = "query", type = "text" }]

[[route]]
path = "/broken"
sql = "SELECT 1 / $1 AS x"
result = "row"
params = [{ name = "n", in = "query", type = "integer", default = 0 }]

[[route]]
path = "/slow"
sql = "SELECT pg_sleep($1)::text AS slept"
result = "row"
params = [{ name = "seconds", in = "query", type = "integer" }]
"#;

fn with_database(env: &[(&str, &str)]) -> Origin {
    let cluster = Cluster::shared();
    let url = cluster.primary.url("postgres", &cluster.database(""));
    let ours = [("DATABASE_URL", url.as_str()), ("LOG_FORMAT", "json"), ("ADMIN_TOKEN", TOKEN)];
    let origin = Origin::start(Folder::new(ROUTES).path(), &[&ours, env].concat());
    origin.get_until("/health/edge", |reply| reply.status == 200);
    origin
}

fn end(mut origin: Origin) -> String {
    origin.program.signal(Signal::TERM);
    assert_eq!(origin.program.wait().code(), Some(0));
    origin.program.stdout()
}

#[test]
fn every_field_of_a_line_is_one_that_the_index_takes() {
    let template: Value =
        serde_json::from_str(&std::fs::read_to_string(repository("infra/logging/index-template.json")).unwrap())
            .unwrap();
    let mappings = &template["template"]["mappings"];
    assert_eq!(mappings["dynamic"], "strict");
    let properties = mappings["properties"].as_object().unwrap();
    let mut expected: Vec<(&str, &str)> = EVERY.map(|name| (name, "keyword")).to_vec();
    expected.extend(FIELDS.map(|(name, kind)| (name, if kind == Kind::Long { "long" } else { "keyword" })));
    expected.extend([("fields", "flattened"), ("@timestamp", "date"), ("tags", "keyword")]);
    for (name, kind) in &mut expected {
        *kind = match *name {
            "timestamp" => "date_nanos",
            "message" => "text",
            _ => kind,
        };
        assert_eq!(properties[*name]["type"], **kind, "{name}");
    }
    let (ours, theirs): (BTreeSet<&str>, BTreeSet<&str>) =
        (expected.iter().map(|(name, _)| *name).collect(), properties.keys().map(String::as_str).collect());
    assert_eq!(ours, theirs);

    let origin = with_database(&[
        ("MAINSTAY__LOG__ACCESS", "all"),
        ("MAINSTAY__LOG__ACCESS_CLIENT", "true"),
        ("MAINSTAY__LOG__LEVEL", "trace"),
    ]);
    for path in ["/public/square?n=2", "/public/square?n=2", "/broken", "/nowhere"] {
        origin.get(path);
    }
    request("POST", &format!("{}/admin/cache/flush", origin.admin), &[], Some(""));
    request(
        "POST",
        &format!("{}/admin/cache/flush", origin.admin),
        &[("Authorization", &format!("Bearer {TOKEN}"))],
        Some(""),
    );
    let written = lines(&end(origin));
    assert!(written.len() > 20, "{written:?}");
    for line in &written {
        for (name, value) in line.as_object().unwrap() {
            let fits = match properties.get(name).and_then(|property| property["type"].as_str()) {
                Some("long") => value.is_i64(),
                Some("keyword" | "text") => value.is_string(),
                Some("date_nanos") => chrono::DateTime::parse_from_rfc3339(value.as_str().unwrap()).is_ok(),
                Some("flattened") => value.is_object(),
                _ => false,
            };
            assert!(fits, "{name} in {line}");
        }
        assert!(EVERY.iter().all(|name| line.get(name).is_some()), "{line}");
    }
    assert!(
        written.iter().any(|line| line["client"] == "127.0.0.1" && line["outcome"] == "hit" && line["bytes"].is_i64())
    );
}

#[test]
fn the_pipeline_names_fields_that_lines_have() {
    let text = std::fs::read_to_string(repository("infra/logging/mainstay.conf")).unwrap();
    let code: String =
        text.lines().filter(|line| !line.trim_start().starts_with('#')).map(|line| format!("{line}\n")).collect();
    let mut depth = 0_i32;
    let mut is_quoted = false;
    for char in code.chars() {
        match char {
            '"' => is_quoted = !is_quoted,
            '{' | '[' if !is_quoted => depth += 1,
            '}' | ']' if !is_quoted => depth -= 1,
            _ => {}
        }
        assert!(depth >= 0, "{code}");
    }
    assert!(depth == 0 && !is_quoted);
    for section in ["input {", "filter {", "output {"] {
        assert_eq!(code.matches(section).count(), 1, "{section}");
    }
    let sources = code.split("source => [").nth(1).unwrap().split(']').next().unwrap();
    for name in sources.split(',').map(|name| name.trim().trim_matches('"')) {
        assert!(EVERY.contains(&name) || FIELDS.iter().any(|(known, _)| *known == name), "{name}");
    }
}

#[test]
fn an_access_line_has_of_a_query_what_is_in_the_key_of_an_answer_for_all() {
    let origin = with_database(&[("MAINSTAY__LOG__ACCESS", "all")]);
    let secret = "s3cr3t-value";
    for path in [
        format!("/public/square?n=3&api_key={secret}"),
        format!("/public/square?n=3&api_key={secret}"),
        format!("/account/mine?id={secret}"),
        format!("/nowhere?token={secret}"),
        format!("/public/square?{secret}"),
    ] {
        origin.get(&path);
    }
    let hostile = "GET /nowhere%0a%7b%22level%22/\u{202e}\u{85}x HTTP/1.1\r\nHost: a\r\nX-Request-Id: a\u{1b}[2Jb\r\nConnection: close\r\n\r\n";
    send(&origin.base, hostile.as_bytes());
    send(
        &origin.base,
        b"GET /nowhere/\xff\xfe%ff%00 HTTP/1.1\r\nHost: a\r\nX-Request-Id: \xff\xfe\r\nConnection: close\r\n\r\n",
    );
    let metrics = request("GET", &format!("{}/metrics", origin.admin), &[], None).body;
    assert!(metrics.contains("mainstay_log_lines_total{sink=\"stdout\"}"), "{metrics}");
    let output = end(origin);
    assert!(!output.contains(secret), "{output}");
    let lines = access(&output);
    let of = |route: &str| lines.iter().filter(|line| line["route"] == route).collect::<Vec<_>>();
    let squares = of("/public/square");
    assert_eq!(squares.len(), 3, "{output}");
    for (line, outcome, status) in [(squares[0], "miss", 200), (squares[1], "hit", 200), (squares[2], "refused", 400)] {
        assert_eq!((&line["outcome"], &line["status"]), (&outcome.into(), &status.into()), "{line}");
        assert_eq!(line["path"], "/public/square");
    }
    assert_eq!((&squares[0]["query"], &squares[2]["query"]), (&"n=3".into(), &Value::Null));
    assert_eq!(of("/account/mine")[0]["query"], Value::Null);
    assert!(squares.iter().all(|line| line["client"].is_null()), "it is personal data");
}

/// Every secret that there is goes in by a setting or by a request, right and wrong, while the server's own modules say all they
/// can.
#[test]
fn no_secret_is_in_any_line() {
    const KEY: &str = "mk_live_9f2c4e6a8b0d1f3a_ZXhhbXBsZS1zZWNyZXQtb2YtYS1rZXk";
    const JWT: &str =
        "eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.eyJzdWIiOiJhZGEtbG92ZWxhY2UifQ.c2lnbmF0dXJlLXRoYXQtaXMtbm9uZQ";
    const ROUTES: &str = r#"
[[route]]
path = "/keyed"
auth = "key"
sql = "SELECT 1 AS one"
result = "row"

[[route]]
path = "/tokened"
auth = "jwt"
sql = "SELECT 1 AS one"
result = "row"

[[route]]
path = "/session"
consistency = "session"
sql = "SELECT 1 AS one"
result = "row"

[[route]]
path = "/broken"
sql = "SELECT 1 / 0 AS x"
result = "row"

[[route]]
path = "/bound"
sql = "SELECT $1 AS bound"
result = "row"
params = [{ name = "value", in = "query", type = "text" }]

[[route]]
path = "/webhooks/{provider}"
methods = ["POST"]
handler = "ramp.webhooks.receive"
consistency = "strong"
params = [{ name = "provider", in = "path", type = "text" }]
"#;
    let cluster = Cluster::shared();
    let database = cluster.database("");
    let folder = Folder::new(ROUTES);
    folder.write("jwks.json", "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"kid\":\"a\",\"alg\":\"ES256\",\"use\":\"sig\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\",\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}]}");
    let url = format!("postgres://postgres:secret-of-primary@127.0.0.1:{}/{database}", cluster.primary.server.port());
    let jwks = folder.join("jwks.json").to_str().unwrap().to_owned();
    let secrets = [
        ("DATABASE_URL", url.as_str(), "secret-of-primary"),
        ("DATABASE_READ_REPLICA_URL", "postgres://reader:secret-of-replica@127.0.0.1:1/gone", "secret-of-replica"),
        ("DATABASE_DIRECT_URL", "postgres://owner:secret-of-owner@127.0.0.1:1/gone", "secret-of-owner"),
        ("REDIS_URL", "redis://:secret-of-redis@127.0.0.1:1", "secret-of-redis"),
        ("LOG_AMQP_URL", "amqp://logs:secret-of-rabbit@127.0.0.1:1", "secret-of-rabbit"),
        ("ORIGIN_SECRET", "secret-of-origin", "secret-of-origin"),
        ("ADMIN_TOKEN", "secret-of-admin", "secret-of-admin"),
        ("TOKEN_SECRET", "secret-of-tokens-which-is-long", "secret-of-tokens"),
        ("SANDBOX_WEBHOOK_SECRET", "secret-of-webhooks-which-is-long", "secret-of-webhooks"),
        ("AWS_SECRET_ACCESS_KEY", "secret-of-aws", "secret-of-aws"),
        ("MAINSTAY__NODES__PUBLIC_TOKEN", "secret-of-nodes", "secret-of-nodes"),
    ];
    for level in ["info,mainstay=trace", "trace"] {
        let mut env: Vec<(&str, &str)> = secrets.map(|(name, value, _)| (name, value)).to_vec();
        env.extend([
            ("MAINSTAY__AUTH__JWKS_FILE", jwks.as_str()),
            ("MAINSTAY__AUTH__ISSUER", "https://issuer.example"),
            ("MAINSTAY__AUTH__AUDIENCE", "api"),
            ("MAINSTAY__NODES__PUBLIC", "true"),
            ("MAINSTAY__LOG__LEVEL", level),
            ("MAINSTAY__LOG__ACCESS", "all"),
            ("MAINSTAY__LOG__ACCESS_PER_SECOND_MAX", "100000"),
            ("MAINSTAY__LOG__BUFFER_BYTES", "268435456"),
            ("LOG_FORMAT", "json"),
        ]);
        let origin = Origin::start(folder.path(), &env);
        let ask = |method: &str, path: &str, headers: &[(&str, &str)]| {
            let verified = [headers, &[("X-Origin-Verify", "secret-of-origin")]].concat();
            let body = (method == "POST").then_some("{\"card\":\"4111-secret-of-body\"}");
            request(method, &format!("{}{path}", origin.base), &verified, body).status
        };
        assert!(wait_until(PATIENCE, || ask("GET", "/broken", &[]) == 500));
        let bearer = |token: &str| format!("Bearer {token}");
        for token in [KEY, JWT, "secret-of-admin", "secret-of-guess"] {
            for path in ["/keyed", "/tokened", "/session", "/broken", "/nodes", "/nowhere"] {
                ask("GET", path, &[("Authorization", &bearer(token)), ("Cookie", "mainstay_ct=secret-of-cookie")]);
                ask("GET", path, &[("X-Api-Key", token), ("X-Consistency-Token", "secret-of-session")]);
            }
            let admin = [("Authorization", &*bearer(token))];
            for path in ["/metrics", "/admin/status", "/admin/settings", "/admin/cache/purge"] {
                request("GET", &format!("{}{path}", origin.admin), &admin, None);
            }
        }
        ask("GET", "/nodes", &[("Authorization", &bearer("secret-of-nodes"))]);
        assert_eq!(ask("GET", "/bound?value=secret-of-parameter", &[]), 200);
        request("GET", &format!("{}/broken", origin.base), &[("X-Origin-Verify", "secret-of-stranger")], None);
        ask("POST", "/webhooks/sandbox", &[("Webhook-Signature", "v1,secret-of-signature"), ("Webhook-Id", "a")]);
        ask("POST", "/webhooks/sandbox", &[]);
        let mut origin = origin;
        origin.program.signal(Signal::HUP);
        origin.program.expect_text("read again");
        origin.program.signal(Signal::TERM);
        assert_eq!(origin.program.wait().code(), Some(0));
        let output = origin.program.output();
        assert!(lines(&output).len() > 50, "{output}");
        assert!(output.contains("log lines do not get to RabbitMQ"), "{output}");
        for secret in ["secret-of-", "4111-", KEY, "ZXhhbXBsZS1zZWNyZXQ", JWT, "c2lnbmF0dXJl", "eyJzdWIi"] {
            let bytes: Vec<String> = secret.bytes().map(|byte| byte.to_string()).collect();
            let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
            for written in [secret.to_owned(), bytes.join(", "), hex] {
                let leaked = output.lines().find(|line| line.contains(&written));
                assert_eq!(leaked, None, "{secret} is in the log at {level}");
            }
        }
    }
}

#[test]
fn a_request_whose_client_goes_away_gets_a_line() {
    let origin = with_database(&[("MAINSTAY__LOG__ACCESS", "all")]);
    let metrics = || request("GET", &format!("{}/metrics", origin.admin), &[], None).body;
    let proxy = Proxy::start(origin.base.strip_prefix("http://").unwrap().parse().unwrap()).unwrap();
    let mut client = TcpStream::connect(proxy.address()).unwrap();
    client.write_all(b"GET /slow?seconds=8 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert!(wait_until(PATIENCE, || metrics().contains("mainstay_overload_running{kind=\"direct\"} 1\n")));
    proxy.reset();
    let gone = "mainstay_http_requests_total{route=\"/slow\",status=\"499\"} 1\n";
    assert!(wait_until(PATIENCE, || metrics().contains(gone)), "{}", metrics());
    let lines = access(&end(origin));
    let line = lines.iter().find(|line| line["route"] == "/slow").unwrap();
    assert_eq!((&line["status"], &line["outcome"]), (&499.into(), &"gone".into()), "{line}");
    assert!(line["request_id"].is_string() && line["query"].is_null(), "{line}");
}

#[test]
fn a_flood_of_errors_is_bounded_and_counted() {
    let env =
        [("LOG_FORMAT", "json"), ("MAINSTAY__LOG__ACCESS_PER_SECOND_MAX", "2"), ("MAINSTAY__LOG__ACCESS", "errors")];
    let origin = Origin::start(Folder::new(ONE).path(), &env);
    let began = std::time::Instant::now();
    (0..200).for_each(|_| assert_eq!(origin.get("/one").status, 503));
    let seconds = began.elapsed().as_secs() + 2;
    let metrics = request("GET", &format!("{}/metrics", origin.admin), &[], None).body;
    let name = "mainstay_log_lines_dropped_total{reason=\"over_rate\",sink=\"access\"} ";
    let left_out: u64 = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap();
    let lines = access(&end(origin));
    let written = u64::try_from(lines.len()).unwrap();
    assert!(written <= 2 * seconds, "{written} lines in {seconds} s");
    assert_eq!(written + left_out, 200);
    let said: u64 = lines.iter().filter_map(|line| line["left_out"].as_u64()).sum();
    assert!(said <= left_out && (written <= 2 || said > 0), "{said} of {left_out}");
}

/// Nobody reads the pipe, or whoever does is stopped, and every request is answered all the same.
#[test]
fn a_reader_that_stops_holds_up_nobody() {
    let folder = Folder::new(ONE);
    let mut serve = command(MAINSTAY);
    serve.args(["serve", "--config", folder.text(), "--bind", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let env = [
        ("LOG_FORMAT", "json"),
        ("MAINSTAY__LOG__ACCESS", "all"),
        ("MAINSTAY__LOG__ACCESS_PER_SECOND_MAX", "1000000"),
        ("MAINSTAY__LOG__BUFFER_BYTES", "65536"),
        ("MAINSTAY__SERVER__DRAIN_DELAY", "0s"),
    ];
    // What reads is a process of its own, which can be stopped; it keeps what it has read.
    let kept = folder.join("kept");
    let mut reader = command("/bin/cat");
    reader.stdin(Stdio::piped()).stdout(std::fs::File::create(&kept).unwrap());
    let mut reader = reader.spawn().unwrap();
    serve.envs(env).stdout(Stdio::from(reader.stdin.take().unwrap())).stderr(Stdio::inherit());
    let mut server = serve.spawn().unwrap();
    drop(serve);
    let between = |text: &str, before: &str| Some(text.split(before).nth(1)?.split([',', '/']).next()?.to_owned());
    let mut addresses = None;
    let found = wait_until(PATIENCE, || {
        let text = std::fs::read_to_string(&kept).unwrap();
        addresses = between(&text, " serves on ").zip(between(&text, "metrics on http://"));
        addresses.is_some()
    });
    assert!(found);
    let (public, admin) = addresses.unwrap();
    let reader_pid = Pid::from_raw(reader.id().try_into().unwrap()).unwrap();
    kill_process(reader_pid, Signal::STOP).unwrap();
    let dropped = || {
        let metrics = request("GET", &format!("http://{admin}/metrics"), &[], None).body;
        let name = "mainstay_log_lines_dropped_total{reason=\"buffer_full\",sink=\"stdout\"} ";
        metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse::<u64>().unwrap()
    };
    // A pipe holds 64 KiB, and the buffer as much again.
    let flood =
        || (0..100).for_each(|_| assert_eq!(request("GET", &format!("http://{public}/one"), &[], None).status, 503));
    let is_full = wait_until(PATIENCE, || {
        flood();
        dropped() > 0
    });
    assert!(is_full, "nothing was dropped");
    kill_process(reader_pid, Signal::CONT).unwrap();
    assert!(wait_until(PATIENCE, || {
        let before = dropped();
        request("GET", &format!("http://{public}/one"), &[], None);
        dropped() == before
    }));
    kill_process(Pid::from_raw(server.id().try_into().unwrap()).unwrap(), Signal::TERM).unwrap();
    assert_eq!(server.wait().unwrap().code(), Some(0));
    assert!(reader.wait().unwrap().success());
    let written = lines(&std::fs::read_to_string(&kept).unwrap());
    assert_eq!(written.last().unwrap()["message"], "stopped", "the last line gets out");
}

/// Nobody has read the pipe since before it started.
#[test]
fn a_reader_that_never_reads_does_not_keep_it_from_starting_serving_and_ending() {
    use std::io::Write;
    let (_unread, mut pipe) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&pipe, true).unwrap();
    while pipe.write(&[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&pipe, false).unwrap();
    let (folder, port) = (Folder::new(ONE), free_port().unwrap());
    let mut serve = command(MAINSTAY);
    let bind = format!("127.0.0.1:{port}");
    serve.args(["serve", "--config", folder.text(), "--bind", &bind, "--admin", "127.0.0.1:0"]);
    serve.env("MAINSTAY__SERVER__DRAIN_DELAY", "0s").stdout(pipe);
    let mut server = serve.spawn().unwrap();
    let ask = |path: &str| request("GET", &format!("http://{bind}{path}"), &[], None).status;
    assert!(wait_until(PATIENCE, || ask("/health/live") == 200));
    assert_eq!(ask("/one"), 503);
    kill_process(Pid::from_raw(server.id().try_into().unwrap()).unwrap(), Signal::TERM).unwrap();
    let ends = wait_until(PATIENCE, || server.try_wait().unwrap().is_some());
    if !ends {
        server.kill().unwrap();
    }
    assert_eq!(server.wait().unwrap().code(), Some(0), "it waits for a reader that never comes");
}

/// A program that panics and ends at once, for the test below.
#[test]
#[ignore = "it is run as a program of its own"]
fn program_that_panics() {
    let (folder, env) = (Folder::empty(), [("LOG_FORMAT".to_owned(), "json".to_owned())]);
    let settings = Settings::load(Layers { dir: folder.path(), env: env.into(), flags: Vec::new() }).unwrap();
    let _guard = mainstay::telemetry::logs::start(&settings, "1.2.3").unwrap();
    log::info!("before");
    let panics = std::thread::Builder::new().name("clumsy".to_owned()).spawn(|| panic!("at\nthe disco")).unwrap();
    assert!(panics.join().is_err());
    std::process::abort();
}

#[test]
fn a_panic_is_a_line_that_gets_out_though_the_process_ends() {
    let program = std::env::current_exe().unwrap();
    let mut command = command(program);
    command.args(["--exact", "logs::program_that_panics", "--ignored", "--nocapture"]);
    let output = command.output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let lines =
        lines(&stdout.lines().filter(|line| line.starts_with('{')).map(|line| format!("{line}\n")).collect::<String>());
    assert_eq!(lines[0]["message"], "before", "{stdout}");
    assert_eq!((&lines[1]["level"], &lines[1]["target"]), (&"ERROR".into(), &"mainstay::panic".into()));
    assert_eq!(lines[1]["message"], "panicked: at\nthe disco");
    assert_eq!(lines[1]["fields"]["thread"], "clumsy");
    assert!(lines[1]["fields"]["location"].as_str().unwrap().contains("logs.rs:"), "{stdout}");
    assert!(!String::from_utf8(output.stderr).unwrap().contains("disco"));
}

/// The levels change for a while, by hand and by command, and each change is written down.
#[test]
fn no_level_silences_what_operators_did() {
    let folder = Folder::new(ONE);
    let origin = Origin::start(folder.path(), &[("LOG_FORMAT", "json"), ("ADMIN_TOKEN", TOKEN)]);
    let ask = |method: &str, path: &str, token: &str, body: &str| {
        let token = format!("Bearer {token}");
        request(method, &format!("{}{path}", origin.admin), &[("Authorization", token.as_str())], Some(body)).status
    };
    assert_eq!(ask("PUT", "/admin/log", TOKEN, "{\"level\":\"off,mainstay::audit=off\"}"), 200);
    assert_eq!(ask("POST", "/admin/cache/purge", TOKEN, "{\"tags\":[\"one\"]}"), 200);
    assert_eq!(ask("POST", "/admin/cache/flush", "wrong", ""), 401);
    assert_eq!(ask("DELETE", "/admin/log", TOKEN, ""), 200);
    let lines = lines(&end(origin));
    let message = |line: &Value| line["message"].as_str().unwrap().to_owned();
    let is_first = |line: &&Value| message(line) != "log - off,mainstay::audit=off: done";
    let meanwhile: Vec<&Value> = lines.iter().skip_while(is_first).take(4).collect();
    assert!(meanwhile.iter().all(|line| line["target"] == "mainstay::audit"), "{meanwhile:#?}");
    let said: Vec<String> = meanwhile.into_iter().map(message).collect();
    assert_eq!(said[1..3], ["purge soft tags one: done", "a wrong token"]);
    assert!(said[3].starts_with("log reset "), "{said:?}");
}

#[test]
fn levels_change_while_it_runs() {
    let folder = Folder::new(ONE);
    let env = [("LOG_FORMAT", "json"), ("ADMIN_TOKEN", TOKEN), ("MAINSTAY__LOG__LEVEL", "info")];
    let origin = Origin::start(folder.path(), &env);
    let address = origin.admin.strip_prefix("http://").unwrap().to_owned();
    let ask = |method: &str, token: &str, body: Option<&str>| {
        let token = format!("Bearer {token}");
        request(method, &format!("{}/admin/log", origin.admin), &[("Authorization", token.as_str())], body)
    };
    assert_eq!(ask("GET", "wrong", None).status, 401);
    assert_eq!(ask("PUT", "wrong", Some("{\"level\":\"off\"}")).status, 401);
    let now = ask("GET", TOKEN, None).json();
    assert_eq!((&now["level"], &now["configured"], &now["until"]), (&"info".into(), &"info".into(), &Value::Null));
    for (body, said) in [
        ("{\"level\":\"loud\"}", "\"loud\" is no level"),
        ("{\"level\":\"info\",\"for\":\"soon\"}", "for: \"soon\" is not a time"),
        ("{\"level\":\"info\",\"for\":\"8d\"}", "for: a time of up to 7d"),
        ("{\"level\":\"info\",\"and\":1}", "and: unknown field"),
        ("[]", "must be a JSON object"),
    ] {
        let refused = ask("PUT", TOKEN, Some(body));
        assert_eq!((refused.status, refused.code().as_str()), (400, "body_invalid"), "{body}");
        assert!(refused.json()["detail"].as_str().unwrap().contains(said), "{body}: {refused:?}");
    }
    let other = ask("POST", TOKEN, Some("{}"));
    assert_eq!((other.status, other.header("allow")), (405, "GET, PUT, DELETE"));

    let debug = |output: &str| {
        lines(output)
            .iter()
            .any(|line| line["level"] == "DEBUG" && line["target"].as_str().unwrap().starts_with("mainstay"))
    };
    assert!(!debug(&origin.program.stdout()));
    let run = |args: &[&str]| {
        let outcome = mainstay(
            &[&["log"], args, &["--config", folder.text()]].concat(),
            &[("ADMIN_ADDR", &address), ("ADMIN_TOKEN", TOKEN)],
        );
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        outcome.stdout
    };
    let changed = run(&["info,mainstay=debug", "--json"]);
    let changed: Value = serde_json::from_str(&changed).unwrap();
    assert!(changed["level"] == "info,mainstay=debug" && changed["until"].is_string(), "{changed}");
    assert!(wait_until(PATIENCE, || {
        let token = [("Authorization", &*format!("Bearer {TOKEN}"))];
        assert_eq!(request("GET", &format!("{}/admin/snapshot", origin.admin), &token, None).status, 200);
        debug(&origin.program.stdout())
    }));
    assert!(run(&["--reset"]).contains("level      info\n"));
    assert_eq!(ask("PUT", TOKEN, Some("{\"level\":\"warn\",\"for\":\"200ms\"}")).status, 200);
    let is_back = || ask("GET", TOKEN, None).json()["level"] == "info";
    assert!(wait_until(PATIENCE, is_back), "it falls back by itself");
    assert_eq!(ask("PUT", TOKEN, Some("{\"level\":\"info,mainstay::x=trace\"}")).status, 200);
    assert!(run(&[]).contains("until      -"), "it stays until somebody changes it");

    let audit: Vec<String> = lines(&end(origin))
        .iter()
        .filter(|line| line["target"] == "mainstay::audit")
        .map(|line| line["message"].as_str().unwrap().to_owned())
        .collect();
    for expected in [
        "log - -: body_invalid",
        "log for 10m info,mainstay=debug: done",
        "log reset info: done",
        "log for 200ms warn: done",
        "the configured levels are in force again",
        "log - info,mainstay::x=trace: done",
    ] {
        assert!(audit.iter().any(|line| line == expected), "{expected}: {audit:#?}");
    }
}
