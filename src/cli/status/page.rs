//! What `mainstay status` shows, in the order in which it is wanted: what is wrong, since when, what to do; then the figures.

use indicatif::{HumanBytes, HumanCount};
use serde_json::Value;

use super::{Level, level};
use crate::cli::admin::text;
use crate::cli::audit::by_route;
use crate::cli::table;

const HEAD_OF_NODES: [&str; 9] =
    ["node", "role", "state", "lag", "latency", "breaker", "connections", "reads", "failed"];

/// The page of a document of `/admin/status`. What an instance does not say is a dash.
pub(super) fn lines(status: &Value) -> Vec<String> {
    let get = |pointer| text(status, pointer);
    let mut lines = vec![format!(
        "{} in {} since {}, version {}, up {}",
        get("/mode"),
        get("/region"),
        get("/mode_since"),
        get("/version"),
        time(status, "/uptime_s"),
    )];
    lines.push(String::new());
    lines.extend(trouble(status));
    lines.push(String::new());
    lines.extend(figures(status));
    lines.push(String::new());
    lines.extend(nodes(status));
    lines
}

/// What is wrong, and what to do about it.
fn trouble(status: &Value) -> Vec<String> {
    let word = match level(status) {
        Level::Ok => "ok",
        Level::Warning => "DEGRADED",
        Level::Critical => "CRITICAL",
    };
    let health = match text(status, "/health/reasons").as_str() {
        "-" => text(status, "/health/status"),
        reasons => format!("{} ({reasons})", text(status, "/health/status")),
    };
    let summary = match text(status, "/summary/sentence").as_str() {
        "-" => String::new(),
        sentence => format!("  {sentence}"),
    };
    let mut lines = vec![format!("{word}{summary}"), format!("health     {health}")];
    for degraded in list(status, "/degraded") {
        let get = |pointer| text(degraded, pointer);
        lines.push(format!(
            "{:10} {}  for {}, since {}{}",
            if get("/level") == "critical" { "CRITICAL" } else { "degraded" },
            get("/reason"),
            time(degraded, "/for_s"),
            get("/since"),
            // Of what comes and goes.
            match time(degraded, "/flapping/well_s").as_str() {
                "-" => String::new(),
                well => format!(", well for {well}"),
            }
        ));
        let often = match get("/flapping/times").as_str() {
            "-" => String::new(),
            times => format!("Comes and goes, {times} times within 5 minutes: "),
        };
        lines.push(format!("           {often}{}", get("/detail")));
        lines.push(format!("       do: {}", get("/advice")));
    }
    lines
}

fn figures(status: &Value) -> Vec<String> {
    let get = |pointer| text(status, pointer);
    let entries = status.pointer("/cache/entries").and_then(Value::as_u64);
    let mut lines = vec![
        format!(
            "data       {}; {}{}",
            match millis(status, "/data_age_ms").as_str() {
                "-" => "of unknown age".to_owned(),
                age => format!("at worst {age} old"),
            },
            match get("/bus/through").as_str() {
                // What it says of the time is since its start, then.
                "-" => "told of no changes".to_owned(),
                through =>
                    format!("told of changes through {through}, heard {} ago", millis(status, "/bus/heard_ago_ms")),
            },
            if is(status, "/bus/silent") { ", SILENT" } else { "" },
        ),
        format!(
            "traffic    {}/s, {} errors/s, {} shed/s; p50 {}, p95 {}, p99 {}",
            number(status, "/traffic/requests_per_s", 1),
            number(status, "/traffic/errors_per_s", 2),
            number(status, "/traffic/shed_per_s", 2),
            milliseconds(status, "/traffic/latency_ms/p50"),
            milliseconds(status, "/traffic/latency_ms/p95"),
            milliseconds(status, "/traffic/latency_ms/p99"),
        ),
        format!(
            "cache      {} hits (L1 {}, L2 {}), {} stale/s, {} fills under way",
            share(status, "/traffic/hit_ratio/total"),
            share(status, "/traffic/hit_ratio/l1"),
            share(status, "/traffic/hit_ratio/l2"),
            number(status, "/traffic/stale_per_s", 2),
            get("/cache/fills_running"),
        ),
        format!(
            "           {} entries, {} of {}, {} of {} tags",
            entries.map_or_else(|| "-".to_owned(), |entries| HumanCount(entries).to_string()),
            bytes(status, "/cache/bytes"),
            bytes(status, "/cache/bytes_max"),
            get("/cache/tags"),
            get("/cache/tags_max"),
        ),
        format!(
            "           since the start {} hit, {} stale, {} expired, {} missed",
            get("/cache/lookups/L1/hit"),
            get("/cache/lookups/L1/stale"),
            get("/cache/lookups/L1/expired"),
            get("/cache/lookups/L1/miss"),
        ),
    ];
    if status.pointer("/audit").is_some() {
        let news = match by_route(status, "/audit/unacknowledged").as_str() {
            "nothing" => String::new(),
            wrong => format!("; not acknowledged: {wrong}"),
        };
        lines.push(format!(
            "audit      {} answers compared, {} wrong{news}",
            get("/audit/checked"),
            get("/audit/wrong")
        ));
    }
    lines
}

fn nodes(status: &Value) -> Vec<String> {
    let of_database = list(status, "/nodes").map(|node| {
        let get = |pointer| text(node, pointer);
        let state = match (is(node, "/up"), get("/ineligible").as_str(), get("/role").as_str()) {
            (false, _, _) => "DOWN".to_owned(),
            (true, "-", "primary") if !is(node, "/writable") => "READ-ONLY".to_owned(),
            (true, "-", _) => "up".to_owned(),
            (true, reason, _) => format!("NOT READ: {reason}"),
        };
        let connections = format!("{} ({} idle)", get("/connections"), get("/connections_idle"));
        let (lag, latency) = (millis(node, "/lag_ms"), milliseconds(node, "/latency_ms"));
        let counts = [get("/reads_served"), get("/reads_failed")];
        [vec![get("/name"), get("/role"), state, lag, latency, get("/breaker"), connections], counts.to_vec()].concat()
    });
    let of_http = |name: String, role: &str, node: &Value| {
        let get = |pointer| text(node, pointer);
        let (state, latency) = (get("/endpoint"), milliseconds(node, "/latency_ms"));
        let dash = || "-".to_owned();
        vec![name, role.to_owned(), state, dash(), latency, get("/breaker"), dash(), get("/answered"), get("/failed")]
    };
    let upstreams = list(status, "/upstreams").map(|node| of_http(text(node, "/id"), "upstream", node));
    let forwarded = status.pointer("/primary_origin").map(|node| of_http("primary-origin".to_owned(), "origin", node));
    let rows: Vec<Vec<String>> = of_database.chain(upstreams).chain(forwarded).collect();
    if rows.is_empty() { vec!["no databases and no upstreams".to_owned()] } else { table::lines(&HEAD_OF_NODES, rows) }
}

fn list<'a>(document: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    document.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn is(document: &Value, pointer: &str) -> bool {
    document.pointer(pointer).and_then(Value::as_bool) == Some(true)
}

fn shown<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

fn float(document: &Value, pointer: &str) -> Option<f64> {
    document.pointer(pointer).and_then(Value::as_f64)
}

fn number(document: &Value, pointer: &str, digits: usize) -> String {
    shown(float(document, pointer), |number| format!("{number:.digits$}"))
}

fn share(document: &Value, pointer: &str) -> String {
    shown(float(document, pointer), |share| format!("{:.1} %", share * 100.0))
}

fn milliseconds(document: &Value, pointer: &str) -> String {
    shown(float(document, pointer), |ms| format!("{ms:.1} ms"))
}

fn bytes(document: &Value, pointer: &str) -> String {
    shown(document.pointer(pointer).and_then(Value::as_u64), |bytes| HumanBytes(bytes).to_string())
}

/// Milliseconds, as seconds where they are many.
fn millis(document: &Value, pointer: &str) -> String {
    shown(float(document, pointer), |ms| match ms {
        ms if ms < 1e3 => format!("{ms:.0} ms"),
        ms if ms < 120e3 => format!("{:.1} s", ms / 1e3),
        ms => format!("{:.0} min", ms / 60e3),
    })
}

/// Seconds, in the two largest units.
fn time(document: &Value, pointer: &str) -> String {
    shown(document.pointer(pointer).and_then(Value::as_u64), |seconds| match seconds {
        seconds if seconds < 60 => format!("{seconds} s"),
        seconds if seconds < 3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds if seconds < 86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        seconds => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_comes_first_with_since_when_and_what_to_do() {
        let status = json!({
            "mode": "regional", "mode_since": "2026-11-21T02:00:00Z", "region": "eu-west-1", "version": "0.1.0", "uptime_s": 93_784,
            "summary": { "level": "critical", "sentence": "Writes fail for 4 min." },
            "degraded": [
                { "reason": "primary_down", "level": "critical", "detail": "primary does not answer.", "since": "2026-11-21T03:00:00Z",
                  "for_s": 245, "advice": "Bring the primary back." },
                { "reason": "bus_silent", "level": "warning", "detail": "Nothing is heard.", "since": "2026-11-21T03:00:02Z",
                  "for_s": 243, "flapping": { "times": 4, "well_s": 5 }, "advice": "Look at the primary." },
            ],
            "data_age_ms": 245_100, "bus": { "through": "7301:1:0/3000148", "heard_ago_ms": 243_000, "silent": true },
            "traffic": { "requests_per_s": 1203.04, "errors_per_s": 0.1, "shed_per_s": 0.0, "stale_per_s": 3.0,
                "latency_ms": { "p50": 0.21, "p95": 1.0, "p99": null }, "hit_ratio": { "total": 0.9712, "l1": 0.96, "l2": null } },
            "health": { "status": "unhealthy", "reasons": ["primary_down"] },
            "audit": { "checked": 100, "wrong": 3, "unacknowledged": { "/a": 2 } },
            "nodes": [{ "name": "primary", "role": "primary", "up": false, "breaker": "open" },
                      { "name": "replica-1", "role": "replica", "up": true, "ineligible": "lagging", "lag_ms": 9000 }],
        });
        let lines = lines(&status);
        let at = |text: &str| {
            lines.iter().position(|line| line.contains(text)).unwrap_or_else(|| panic!("{text}: {lines:#?}"))
        };
        assert_eq!(lines[0], "regional in eu-west-1 since 2026-11-21T02:00:00Z, version 0.1.0, up 1 d 2 h");
        assert_eq!(at("CRITICAL  Writes fail for 4 min."), 2);
        assert_eq!(at("primary_down  for 4 min 5 s, since 2026-11-21T03:00:00Z"), 4);
        assert_eq!(
            at("2026-11-21T03:00:02Z, well for 5 s") + 1,
            at("Comes and goes, 4 times within 5 minutes: Nothing is heard.")
        );
        assert!(at("do: Bring the primary back.") < at("degraded   bus_silent"));
        at("at worst 4 min old; told of changes through 7301:1:0/3000148, heard 4 min ago, SILENT");
        at("1203.0/s, 0.10 errors/s, 0.00 shed/s; p50 0.2 ms, p95 1.0 ms, p99 -");
        at("97.1 % hits (L1 96.0 %, L2 -)");
        at("audit      100 answers compared, 3 wrong; not acknowledged: 2 at /a");
        assert!(at("DOWN") < at("NOT READ: lagging"));
    }

    #[test]
    fn where_nothing_was_ever_told_no_age_is_made_up() {
        let status = json!({ "data_age_ms": null, "bus": { "through": null, "heard_ago_ms": 58_000, "silent": true } });
        let lines = lines(&status);
        assert!(lines.contains(&"data       of unknown age; told of no changes, SILENT".to_owned()), "{lines:#?}");
    }

    #[test]
    fn what_an_instance_does_not_say_is_a_dash() {
        for status in [json!({}), json!(null), json!([1]), json!({ "degraded": 7, "nodes": [null, 3], "uptime_s": -1 })]
        {
            assert!(lines(&status).len() > 8, "{status}");
        }
        assert_eq!(level(&json!({ "health": { "status": "healthy" } })), Level::Ok);
        assert_eq!(level(&json!({ "health": { "status": "unhealthy" } })), Level::Critical);
        assert_eq!(level(&json!({ "summary": { "level": "ok" }, "health": { "status": "degraded" } })), Level::Ok);
        assert_eq!(level(&json!({})), Level::Warning);
    }
}
