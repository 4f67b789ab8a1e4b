//! What expressions of Prometheus name: enough of the language to hold them to the table of metrics.

use std::collections::BTreeSet;

use super::metrics::{declaration, may_have};

/// Labels that a scrape gives every series; `region` by this project's advice.
const OF_THE_SCRAPE: [&str; 3] = ["job", "instance", "region"];
/// Names that are no metrics.
const WORDS: [&str; 5] = ["and", "or", "unless", "bool", "offset"];
/// What a list of labels follows.
const LISTS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

/// A metric that an expression reads, with the labels that it matches.
struct Selector {
    name: String,
    matchers: Vec<(String, String)>,
}

/// An expression, read from left to right.
struct Reader<'a> {
    rest: &'a str,
    selectors: Vec<Selector>,
    listed: Vec<String>,
}

impl<'a> Reader<'a> {
    fn name(&mut self) -> &'a str {
        let is_part = |letter: char| letter.is_ascii_alphanumeric() || "_:".contains(letter);
        let (name, rest) = self.rest.split_at(self.rest.find(|letter| !is_part(letter)).unwrap_or(self.rest.len()));
        self.rest = rest.trim_start();
        name
    }

    /// What stands in brackets that open here.
    fn within(&mut self, close: char) -> &'a str {
        let (inside, rest) = self.rest[1..].split_once(close).unwrap_or_else(|| panic!("{}", self.rest));
        self.rest = rest;
        inside
    }

    fn read(mut self) -> Self {
        while let Some(letter) = self.rest.chars().next() {
            match letter {
                '"' => drop(self.within('"')),
                '[' => drop(self.within(']')),
                'a'..='z' | 'A'..='Z' | '_' | ':' => self.word(),
                // A number, with what may follow it.
                '0'..='9' => drop(self.name()),
                _ => self.rest = &self.rest[1..],
            }
        }
        self
    }

    fn word(&mut self) {
        let name = self.name();
        if LISTS.contains(&name) {
            let labels = self.within(')').split(',').map(|label| label.trim().to_owned());
            self.listed.extend(labels.filter(|label| !label.is_empty()));
            return;
        }
        // Functions have a bracket behind them, and so have aggregations, after their labels where those come first.
        let is_called = ["(", "by ", "without "].iter().any(|after| self.rest.starts_with(after));
        if is_called || WORDS.contains(&name) {
            return;
        }
        let inside = if self.rest.starts_with('{') { self.within('}') } else { "" };
        let matchers = inside.split("\",").filter(|part| !part.trim().is_empty()).map(matcher).collect();
        self.selectors.push(Selector { name: name.to_owned(), matchers });
    }
}

fn matcher(part: &str) -> (String, String) {
    let (label, value) = part.trim().trim_end_matches('"').split_once('"').unwrap_or_else(|| panic!("{part}"));
    (label.trim_end_matches(['=', '!', '~']).to_owned(), value.to_owned())
}

/// Holds that all metrics of an expression are declared, or recorded, with the labels that it names.
pub fn check(expression: &str, recorded: &BTreeSet<String>) {
    let reader = Reader { rest: expression.trim(), selectors: Vec::new(), listed: Vec::new() }.read();
    let mut known: BTreeSet<&str> = OF_THE_SCRAPE.into();
    for Selector { name, matchers } in &reader.selectors {
        let is_everyones = ["up", "ALERTS"].contains(&name.as_str()) || name.starts_with("process_");
        if is_everyones || recorded.contains(name) {
            continue;
        }
        let metric = declaration(name).unwrap_or_else(|| panic!("{expression}: no metric {name}"));
        known.extend(metric.labels.iter().map(|label| label.name));
        known.extend(name.ends_with("_bucket").then_some("le"));
        for (label, values) in matchers.iter().filter(|(label, _)| !OF_THE_SCRAPE.contains(&label.as_str())) {
            assert!(may_have(metric, label, None), "{expression}: {name} has no label {label}");
            for value in values.split('|').filter(|value| !value.starts_with('$')) {
                assert!(may_have(metric, label, Some(value)), "{expression}: {name} has no {label} {value}");
            }
        }
    }
    for label in &reader.listed {
        assert!(known.contains(label.as_str()), "{expression}: nothing has a label {label}");
    }
    assert!(!reader.selectors.is_empty(), "{expression}");
}

#[test]
fn what_is_not_declared_is_found() {
    let recorded = BTreeSet::from(["job:mainstay_http_requests:rate5m".to_owned()]);
    for right in [
        "mainstay_bus_silent == 1",
        "sum by (job, route) (rate(mainstay_http_requests_total{route!=\"none\",status=~\"5..\"}[5m])) > 14.4 * 0.001",
        "histogram_quantile(0.99, sum by (le, outcome) (rate(mainstay_http_request_duration_seconds_bucket{job=~\"$job\"}[$__rate_interval])))",
        "job:mainstay_http_requests:rate5m > bool 1 and on (job) up{job=\"mainstay\"} == 0",
        "mainstay_degraded_reason{reason!~\"failover_mode|recovering\"} == 1",
    ] {
        check(right, &recorded);
    }
    for wrong in [
        "mainstay_bus_quiet == 1",
        "sum by (outcome) (rate(mainstay_http_requests_total[5m]))",
        "mainstay_http_requests_total{code=\"200\"}",
        "mainstay_cache_lookups_total{layer=\"L3\"}",
        "mainstay_degraded_reason{reason!~\"failover_mode|recovery\"} == 1",
        "job:mainstay_http_requests:rate1m > 1",
        "sum by (le) (rate(mainstay_http_requests_total[5m]))",
        "mainstay_bus_silent_bucket",
    ] {
        assert!(std::panic::catch_unwind(|| check(wrong, &recorded)).is_err(), "{wrong}");
    }
}
