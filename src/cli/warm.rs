//! `mainstay warm`: asks for paths before clients do.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::Failure;
use super::admin::{AdminArgs, Client, print_json, text};
use super::progress::{Progress, Shown};

/// Paths of one order to the server.
const BATCH: usize = 50;
/// Failures that are printed; the rest is counted.
const SHOWN_MAX: usize = 10;

pub(super) const HELP: &str = "\
FILE has one path a line, with its query; lines that begin with # and empty ones are left out; - is standard input. What is fresh
already is left alone.

Examples:
  mainstay warm paths.txt
  mainstay warm --hot 200                                   what was asked for most here, such as after a purge
  mainstay warm --hot 200 --from http://10.0.3.7:9090       what is asked for most at another instance

The token is ADMIN_TOKEN, or the content of ADMIN_TOKEN_FILE. Exit code 1: a path could not be warmed.";

#[derive(Args)]
pub(super) struct WarmArgs {
    /// Paths, one a line.
    #[arg(required_unless_present = "hot", conflicts_with = "hot")]
    file: Option<PathBuf>,
    /// The N paths with the most hits, at most 1000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    hot: Option<u32>,
    /// The admin listener whose hot paths are taken; default: the one that is warmed.
    #[arg(long, value_name = "URL", requires = "hot")]
    from: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// What became of the paths.
#[derive(Default)]
struct Tally {
    warmed: usize,
    warm_already: usize,
    failed: Vec<Value>,
}

pub(super) fn run(args: &WarmArgs) -> Result<(), Failure> {
    let client = args.admin.client()?;
    let paths = match (&args.file, args.hot) {
        (Some(file), _) => paths_of(file)?,
        (None, hot) => hot_paths(&client, args.from.as_deref(), hot.unwrap_or(1))?,
    };
    let tally = warm(&client, &paths, Shown::unless(args.admin.json))?;
    report(&tally, paths.len(), args.admin.json)
}

pub(super) fn paths_of(file: &Path) -> Result<Vec<String>, Failure> {
    let read = if file == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    let text = read.map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
    let mut paths = Vec::new();
    for (index, line) in text.lines().map(str::trim).enumerate() {
        match line {
            "" => {}
            line if line.starts_with('#') => {}
            line if line.starts_with('/') => paths.push(line.to_owned()),
            _ => {
                let number = index + 1;
                return Err(Failure::new(format!("{}:{number}: a path begins with /: {line}", file.display())));
            }
        }
    }
    Ok(paths)
}

fn hot_paths(client: &Client, from: Option<&str>, hot: u32) -> Result<Vec<String>, Failure> {
    let query = format!("/admin/cache/stats?hot={hot}");
    let stats = match from {
        Some(url) => client.at(url)?.get(&query)?,
        None => client.get(&query)?,
    };
    let hot = stats.get("hot").and_then(Value::as_array).into_iter().flatten();
    Ok(hot.filter_map(|entry| entry.get("path")?.as_str().map(str::to_owned)).collect())
}

/// Warms in batches and shows how far it is.
fn warm(client: &Client, paths: &[String], shown: Shown) -> Result<Tally, Failure> {
    let progress = Progress::of(u64::try_from(paths.len()).ok(), "paths", shown);
    let mut tally = Tally::default();
    for batch in paths.chunks(BATCH) {
        let answer = client.post("/admin/cache/warm", &json!({ "paths": batch }))?;
        for result in answer.get("results").and_then(Value::as_array).into_iter().flatten() {
            tally.count(result);
        }
        progress.inc(u64::try_from(batch.len()).unwrap_or(0));
    }
    Ok(tally)
}

impl Tally {
    fn count(&mut self, result: &Value) {
        let is_well = result.get("status").and_then(Value::as_u64).is_some_and(|status| status < 400);
        match text(result, "/cache").as_str() {
            "hit" if is_well => self.warm_already += 1,
            "stored" if is_well => self.warmed += 1,
            _ => self.failed.push(result.clone()),
        }
    }
}

fn report(tally: &Tally, paths: usize, as_json: bool) -> Result<(), Failure> {
    let Tally { warmed, warm_already, failed } = tally;
    if as_json {
        print_json(&json!({ "paths": paths, "warmed": warmed, "warm_already": warm_already, "failed": failed }))?;
    } else {
        say!("{paths} paths: {warmed} warmed, {warm_already} warm already, {} failed", failed.len());
        for result in failed.iter().take(SHOWN_MAX) {
            say!("  {}  {}  {}", text(result, "/status"), text(result, "/path"), text(result, "/detail"));
        }
    }
    match failed.len() {
        0 => Ok(()),
        failed => Err(Failure::new(format!("{failed} of {paths} paths could not be warmed"))),
    }
}
