//! `mainstay status`: how an instance is, for whoever was woken for it.

mod page;
mod watch;

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::admin::{AdminArgs, Client, LOOK_TIMEOUT, print_json, text};
use super::{Failure, put, span};

pub(super) const HELP: &str = "\
It says which mode the instance is in, what is degraded, since when and what to do about it, how old its data is, what the cache does, and
how each node is. --watch draws it anew every two seconds until Ctrl-C; where the output is no terminal each one follows the other, and
with --json each is a line. What does not answer is said, and asked again.

Examples:
  mainstay status
  mainstay status --watch
  mainstay status --admin http://10.0.3.7:9090 --json

The token is ADMIN_TOKEN, or the content of ADMIN_TOKEN_FILE.

Exit codes:
  0   all is well; or --watch was ended
  1   it was not reached, or did not let us in
  2   the arguments are wrong
  3   something is degraded: callers get what they are promised
  4   something is wrong that callers notice
  64  the configuration cannot be used; the message names the key";

/// As short as makes sense, and as long as anyone would call watching.
const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

#[derive(Args)]
pub(super) struct StatusArgs {
    /// Show it again and again.
    #[arg(long)]
    watch: bool,
    /// Time between two looks.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = interval, requires = "watch")]
    interval: Duration,
    #[command(flatten)]
    admin: AdminArgs,
}

fn interval(text: &str) -> Result<Duration, String> {
    let time = span(text)?;
    if INTERVALS.contains(&time) { Ok(time) } else { Err("it is to be from 100ms to 1h".to_owned()) }
}

pub(super) fn run(args: &StatusArgs) -> Result<(), Failure> {
    let client = args.admin.client()?.within(LOOK_TIMEOUT);
    if args.watch {
        return watch::run(client, args.interval, args.admin.json);
    }
    let status = look(&client)?;
    if args.admin.json {
        print_json(&status)?;
    } else {
        page::lines(&status).iter().for_each(|line| put(line));
    }
    match level(&status) {
        Level::Ok => Ok(()),
        Level::Warning => Err(Failure::Degraded(sentence(&status))),
        Level::Critical => Err(Failure::Critical(sentence(&status))),
    }
}

fn look(client: &Client) -> Result<Value, Failure> {
    client.get("/admin/status")
}

/// How an instance is, all in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Ok,
    Warning,
    Critical,
}

/// What an instance says of itself; one of an older version says as much by its health.
fn level(status: &Value) -> Level {
    match (text(status, "/summary/level").as_str(), text(status, "/health/status").as_str()) {
        ("ok", _) | ("-", "healthy") => Level::Ok,
        ("critical", _) | ("-", "unhealthy") => Level::Critical,
        _ => Level::Warning,
    }
}

fn sentence(status: &Value) -> String {
    match text(status, "/summary/sentence").as_str() {
        "-" => format!("{}: {}", text(status, "/health/status"), text(status, "/health/reasons")),
        sentence => sentence.to_owned(),
    }
}
