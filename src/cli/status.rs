//! `mainstay status`: how an instance is.

use clap::Args;
use serde_json::Value;

use super::Failure;
use super::admin::{AdminArgs, print_json, text};

pub(super) const HELP: &str = "\
Examples:
  mainstay status
  mainstay status --admin http://10.0.3.7:9090 --json

The token is ADMIN_TOKEN, or the content of ADMIN_TOKEN_FILE. Exit code 1: not reached, or not healthy.";

#[derive(Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) fn run(args: &StatusArgs) -> Result<(), Failure> {
    let status = args.admin.client()?.get("/admin/status")?;
    if args.admin.json {
        print_json(&status)?
    } else {
        print(&status)
    }
    match text(&status, "/health/status").as_str() {
        "unhealthy" => Err(Failure::new(format!("unhealthy: {}", text(&status, "/health/reasons")))),
        _ => Ok(()),
    }
}

fn print(status: &Value) {
    let get = |pointer| text(status, pointer);
    say!("{} {} in region {}, up {} s", get("/mode"), get("/version"), get("/region"), get("/uptime_s"));
    say!("health  {} ({})", get("/health/status"), get("/health/reasons"));
    for node in status.pointer("/nodes").and_then(Value::as_array).into_iter().flatten() {
        let get = |pointer| text(node, pointer);
        let ineligible = match get("/ineligible").as_str() {
            "-" => String::new(),
            reason => format!(", not read: {reason}"),
        };
        say!(
            "node    {:10} {}, lag {} ms, latency {} ms, at {}:{}, breaker {}, {} reads, {} failed{ineligible}",
            get("/name"),
            if node.pointer("/up").and_then(Value::as_bool) == Some(true) { "up" } else { "down" },
            get("/lag_ms"),
            rounded(node, "/latency_ms"),
            get("/timeline"),
            get("/lsn"),
            get("/breaker"),
            get("/reads_served"),
            get("/reads_failed"),
        );
    }
    if status.pointer("/primary_origin").is_some() {
        say!(
            "primary origin at {}: breaker {}, latency {} ms, {} answered, {} failed",
            get("/primary_origin/endpoint"),
            get("/primary_origin/breaker"),
            rounded(status, "/primary_origin/latency_ms"),
            get("/primary_origin/answered"),
            get("/primary_origin/failed"),
        );
    }
    say!(
        "cache   {} entries, {} of {} bytes, {} fills under way, {} of {} tags",
        get("/cache/entries"),
        get("/cache/bytes"),
        get("/cache/bytes_max"),
        get("/cache/fills_running"),
        get("/cache/tags"),
        get("/cache/tags_max"),
    );
    say!(
        "lookups {} hit, {} stale, {} expired, {} miss",
        get("/cache/lookups/L1/hit"),
        get("/cache/lookups/L1/stale"),
        get("/cache/lookups/L1/expired"),
        get("/cache/lookups/L1/miss"),
    );
    say!("told    {}, through {}, heard {} ms ago", get("/bus/told"), get("/bus/through"), get("/bus/heard_ago_ms"));
}

fn rounded(document: &Value, pointer: &str) -> String {
    let number = document.pointer(pointer).and_then(Value::as_f64);
    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.2}"))
}
