//! `mainstay shadow`: whether a query says what the upstream says whose place it is to take.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::Failure;
use super::admin::{AdminArgs, Client, print_json, text};
use super::progress::{Progress, Shown};
use super::warm::paths_of;

pub(super) const HELP: &str = "\
A route with `shadow` in routes.toml is answered by its upstream; a sample of its requests is put to the query as well, and the
answers are compared, beside the requests and never before them. This prints what that came to. --requests compares paths of a file
at once, say those of an access log.

Examples:
  mainstay shadow                          all routes with a shadow
  mainstay shadow '/users/{id}'
  mainstay shadow --requests paths.txt     one path a line; - reads standard input

The token is ADMIN_TOKEN, or the content of ADMIN_TOKEN_FILE. Exit code 1: answers differ, or a path could not be compared.";

/// Paths of one order.
const BATCH: usize = 20;
/// Differences that are printed.
const SHOWN_MAX: usize = 20;

#[derive(Args)]
pub(super) struct ShadowArgs {
    /// The route, as routes.toml has its path; default: all.
    route: Option<String>,
    /// Compare the paths of this file now.
    #[arg(long, value_name = "FILE", conflicts_with = "route")]
    requests: Option<PathBuf>,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) fn run(args: &ShadowArgs) -> Result<(), Failure> {
    let client = args.admin.client()?;
    match &args.requests {
        Some(file) => {
            let results = compare(&client, &paths_of(file)?, Shown::unless(args.admin.json))?;
            if args.admin.json {
                print_json(&json!({ "results": results }))?
            } else {
                print_results(&results)
            }
            differing(count(&results, "different"), count(&results, "failed"))
        }
        None => {
            let summary = of_route(client.get("/admin/shadow")?, args.route.as_deref())?;
            if args.admin.json {
                print_json(&summary)?
            } else {
                print_summary(&summary)
            }
            let different = |route: &Value| route.pointer("/different").and_then(Value::as_u64).unwrap_or(0);
            differing(list(&summary, "/routes").map(different).sum(), 0)
        }
    }
}

fn list<'a>(document: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    document.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// What an instance says of one route, or of all.
fn of_route(mut summary: Value, route: Option<&str>) -> Result<Value, Failure> {
    let Some(route) = route else { return Ok(summary) };
    for pointer in ["/routes", "/cases"] {
        if let Some(items) = summary.pointer_mut(pointer).and_then(Value::as_array_mut) {
            items.retain(|item| text(item, "/route") == route);
        }
    }
    if list(&summary, "/routes").next().is_none() {
        return Err(Failure::new(format!("no route {route} with a shadow is there")));
    }
    Ok(summary)
}

fn print_summary(summary: &Value) {
    if list(summary, "/routes").next().is_none() {
        say!("no route has a shadow");
    }
    for route in list(summary, "/routes") {
        let get = |pointer| text(route, pointer);
        say!(
            "{}: {} compared (sample {}), {} equal, {} different, {} failed",
            get("/route"),
            get("/compared"),
            get("/sample"),
            get("/equal"),
            get("/different"),
            get("/failed"),
        );
        let cases = list(summary, "/cases").filter(|case| text(case, "/route") == get("/route"));
        cases.take(SHOWN_MAX).for_each(print_case);
    }
}

fn print_results(results: &[Value]) {
    let (equal, different, failed) = (count(results, "equal"), count(results, "different"), count(results, "failed"));
    say!("{} requests: {equal} equal, {different} different, {failed} failed", results.len());
    let shown = |outcome: &'static str| results.iter().filter(move |result| text(result, "/outcome") == outcome);
    shown("different").take(SHOWN_MAX).filter_map(|result| result.get("case")).for_each(print_case);
    for result in shown("failed").take(SHOWN_MAX) {
        say!("  {}: {}", text(result, "/request"), text(result, "/detail"));
    }
}

fn print_case(case: &Value) {
    say!("  {}  {}", text(case, "/at"), text(case, "/request"));
    if case.get("status").is_some() {
        say!("    status: upstream {}, shadow {}", text(case, "/status/upstream"), text(case, "/status/twin"));
    }
    for difference in list(case, "/differences") {
        let place = text(difference, "/pointer");
        let place = if place.is_empty() { "(all of it)" } else { &place };
        say!("    {place}: upstream {}, shadow {}", text(difference, "/upstream"), text(difference, "/twin"));
    }
}

fn count(results: &[Value], outcome: &str) -> u64 {
    let count = results.iter().filter(|result| text(result, "/outcome") == outcome).count();
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn differing(different: u64, failed: u64) -> Result<(), Failure> {
    match (different, failed) {
        (0, 0) => Ok(()),
        (0, failed) => Err(Failure::new(format!("{failed} requests could not be compared"))),
        (different, _) => Err(Failure::new(format!("{different} answers differ"))),
    }
}

/// Compares in batches and shows how far it is.
fn compare(client: &Client, paths: &[String], shown: Shown) -> Result<Vec<Value>, Failure> {
    let progress = Progress::of(u64::try_from(paths.len()).ok(), "requests", shown);
    let mut results = Vec::with_capacity(paths.len());
    for batch in paths.chunks(BATCH) {
        let answer = client.post("/admin/shadow/compare", &json!({ "requests": batch }))?;
        results.extend(list(&answer, "/results").cloned());
        progress.inc(u64::try_from(batch.len()).unwrap_or(0));
    }
    Ok(results)
}
