//! What is printed of what was seen, and whether it is well.

use serde_json::{Value, json};

use super::connection::Connected;
use super::tally::{Counts, PathTally, Summary, Tally, ms};
use crate::cli::{put, table};

const HEAD_OF_PATHS: [&str; 12] =
    ["region", "path", "n", "failed", "p50", "p95", "p99", "average", "first", "cdn", "origin", "answered by"];
const HEAD_OF_LAYERS: [&str; 7] = ["region", "layer", "n", "p50", "p95", "p99", "average"];

/// What came of a run.
pub(super) struct Report<'a> {
    target_ms: f64,
    requests: u32,
    tallies: &'a [Tally],
}

impl<'a> Report<'a> {
    pub(super) fn new(target_ms: f64, requests: u32, tallies: &'a [Tally]) -> Self {
        Self { target_ms, requests, tallies }
    }

    /// Why this ends with exit code 1; nothing where all is well.
    pub(super) fn verdict(&self) -> Option<String> {
        let reasons: Vec<String> = self.tallies.iter().filter_map(|tally| self.verdict_of(tally)).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    fn verdict_of(&self, tally: &Tally) -> Option<String> {
        let name = &tally.name;
        if let Some(trouble) = &tally.given_up {
            return Some(format!("{name} does not answer ({trouble})"));
        }
        let average_ms = tally.times().summary().map(|summary| summary.average_ms);
        let slow = average_ms.filter(|average_ms| *average_ms > self.target_ms);
        match (tally.failed(), slow) {
            (0, None) => None,
            (0, Some(average_ms)) => {
                Some(format!("{name} takes {average_ms:.1} ms on average, above {} ms", self.target_ms))
            }
            (failed, _) => Some(format!("{name} failed {failed} requests")),
        }
    }

    pub(super) fn print(&self) {
        self.print_connections();
        put("");
        let rows = self.tallies.iter().flat_map(|tally| tally.paths.iter().map(|path| row_of_path(tally, path)));
        print_table(&HEAD_OF_PATHS, rows.collect());
        put("");
        let rows = self.tallies.iter().flat_map(|tally| {
            tally.layers.iter().map(|(layer, times)| {
                let times = times.summary();
                let count = times.map_or_else(String::new, |times| times.count.to_string());
                [vec![tally.name.clone(), layer.clone(), count], times_of(times)].concat()
            })
        });
        print_table(&HEAD_OF_LAYERS, rows.collect());
        put("");
        for tally in self.tallies {
            for path in &tally.paths {
                for (trouble, count) in &path.failures {
                    say!("{} {}: {count} × {trouble}", tally.name, path.path);
                }
            }
            let average =
                tally.times().summary().map_or_else(|| "-".to_owned(), |all| format!("{:.1}", all.average_ms));
            let verdict = if self.verdict_of(tally).is_none() { "well" } else { "NOT WELL" };
            say!("{}: {average} ms on average, at most {} ms: {verdict}", tally.name, self.target_ms);
        }
    }

    fn print_connections(&self) {
        say!("times in milliseconds; {} requests a path, over a connection that is kept", self.requests);
        for tally in self.tallies {
            let address = tally.address.map_or_else(|| "nowhere".to_owned(), |address| address.to_string());
            let connects = match tally.connects.as_slice() {
                [] => "no connection".to_owned(),
                [first] => format!("1 connection: {}", parts(first)),
                [first, others @ ..] => format!("{} connections, the first: {}", others.len() + 1, parts(first)),
            };
            say!("{} at {address}, {connects}", tally.name);
        }
    }

    pub(super) fn json(&self) -> Value {
        let regions: Vec<Value> = self.tallies.iter().map(|tally| self.json_of(tally)).collect();
        json!({
            "target_ms": self.target_ms,
            "requests_per_path": self.requests,
            "passed": self.verdict().is_none(),
            "regions": regions,
        })
    }

    fn json_of(&self, tally: &Tally) -> Value {
        let connect = tally.connects.first();
        let layers: Vec<Value> =
            tally.layers.iter().map(|(layer, times)| with_times(json!({ "layer": layer }), times.summary())).collect();
        let verdict = self.verdict_of(tally);
        let region = json!({
            "region": tally.name,
            "address": tally.address.map(|address| address.to_string()),
            "connections": tally.connects.len(),
            "connect_ms": connect.map(|connect| ms(connect.tcp)),
            "tls_ms": connect.and_then(|connect| connect.tls).map(ms),
            "passed": verdict.is_none(),
            "reason": verdict,
            "failed": tally.failed(),
            "paths": tally.paths.iter().map(json_of_path).collect::<Vec<_>>(),
            "layers": layers,
        });
        with_times(region, tally.times().summary())
    }
}

/// `TCP 0.4, TLS 3.1`
fn parts(connected: &Connected) -> String {
    let tcp = format!("TCP {:.1}", ms(connected.tcp));
    connected.tls.map_or(tcp.clone(), |tls| format!("{tcp}, TLS {:.1}", ms(tls)))
}

fn times_of(summary: Option<Summary>) -> Vec<String> {
    match summary {
        Some(Summary { p50_ms, p95_ms, p99_ms, average_ms, .. }) => {
            [p50_ms, p95_ms, p99_ms, average_ms].map(|ms| format!("{ms:.1}")).to_vec()
        }
        None => vec!["-".to_owned(); 4],
    }
}

fn row_of_path(tally: &Tally, path: &PathTally) -> Vec<String> {
    let times = path.times.summary();
    let age = path.age_max_s.map_or_else(String::new, |age_s| format!(", Age ≤ {age_s}"));
    let cdn = match counts(&path.cdn) {
        none if none == "-" => none,
        cdn => format!("{cdn}{age}"),
    };
    let first = path.first.map_or_else(|| "-".to_owned(), |first| format!("{:.1}", ms(first)));
    let begin = vec![
        tally.name.clone(),
        path.path.clone(),
        times.map_or(0, |times| times.count).to_string(),
        path.failed().to_string(),
    ];
    [begin, times_of(times), vec![first, cdn, counts(&path.origin), counts(&path.regions)]].concat()
}

/// `hit L1 49, miss replica 1`: what was said most comes first.
fn counts(counts: &Counts) -> String {
    let mut counts: Vec<(&String, &u64)> = counts.iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let counts: Vec<String> = counts.into_iter().map(|(name, count)| format!("{name} {count}")).collect();
    if counts.is_empty() { "-".to_owned() } else { counts.join(", ") }
}

fn json_of_path(path: &PathTally) -> Value {
    let region = json!({
        "path": path.path,
        "failed": path.failed(),
        "failures": path.failures,
        "first_ms": path.first.map(ms),
        "cdn": path.cdn,
        "origin": path.origin,
        "age_max_s": path.age_max_s,
        "answered_by": path.regions,
    });
    with_times(region, path.times.summary())
}

fn with_times(mut document: Value, summary: Option<Summary>) -> Value {
    if let Some(members) = document.as_object_mut() {
        let names = ["requests", "average_ms", "p50_ms", "p95_ms", "p99_ms"];
        let values = match summary {
            Some(Summary { count, average_ms, p50_ms, p95_ms, p99_ms }) => {
                [json!(count), json!(average_ms), json!(p50_ms), json!(p95_ms), json!(p99_ms)]
            }
            None => [json!(0), Value::Null, Value::Null, Value::Null, Value::Null],
        };
        members.extend(names.map(str::to_owned).into_iter().zip(values));
    }
    document
}

fn print_table(head: &[&str], rows: Vec<Vec<String>>) {
    table::lines(head, rows).iter().for_each(|line| put(line));
}
