//! What was measured, as tables and as JSON.

use std::fmt::Arguments;

use serde::Serialize;

use crate::load::Sample;
use crate::overload::Overload;
use crate::transfers;

/// One contestant of a comparison, with a sample a round.
#[derive(Serialize)]
pub struct Series {
    pub name: &'static str,
    pub samples: Vec<Sample>,
}

impl Series {
    fn spread(&self, value: impl Fn(&Sample) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.samples.iter().filter_map(value).collect())
    }

    fn cpu(&self) -> Option<Spread> {
        self.spread(|sample| sample.cpu_us_per_request)
    }

    fn rate(&self) -> Option<Spread> {
        self.spread(|sample| Some(sample.requests_per_s))
    }

    fn p99(&self) -> Option<Spread> {
        self.spread(|sample| sample.p99_us)
    }
}

pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (upper, lower) = (values.get(values.len() / 2)?, values.get((values.len() - 1) / 2)?);
        Some(Self { min: *values.first()?, median: f64::midpoint(*lower, *upper), max: *values.last()? })
    }
}

/// A number that stands for itself.
#[derive(Clone, Serialize)]
pub struct Fact {
    /// What it is, with its unit at the end.
    what: &'static str,
    value: f64,
    /// What the design asks for.
    at_most: Option<f64>,
}

impl Fact {
    pub fn new(what: &'static str, value: f64) -> Self {
        Self { what, value, at_most: None }
    }

    pub fn at_most(self, limit: f64) -> Self {
        Self { at_most: Some(limit), ..self }
    }
}

/// Everything one run has found out.
#[derive(Default, Serialize)]
pub struct Report {
    pub machine: String,
    pub versions: Vec<String>,
    pub hits: Vec<Series>,
    pub instructions_per_request: Vec<(&'static str, f64)>,
    pub misses: Vec<Series>,
    pub shared_hits: Vec<Series>,
    pub facts: Vec<Fact>,
    pub overload: Vec<Overload>,
    pub transfers: Vec<transfers::Row>,
    /// What could not be measured, and why.
    pub failures: Vec<String>,
    pub goals: Vec<Goal>,
}

/// A number that the design asks for.
#[derive(Serialize)]
pub struct Goal {
    what: &'static str,
    at_most: bool,
    limit: f64,
    measured: Option<f64>,
}

impl Goal {
    fn is_reached(&self) -> Option<bool> {
        let reached = |measured: f64| if self.at_most { measured <= self.limit } else { measured >= self.limit };
        self.measured.map(reached)
    }
}

impl Report {
    /// Compares what was measured with the design's table.
    pub fn judge(&mut self) {
        let cpu = |name| find(&self.hits, name)?.cpu().map(|spread| spread.median);
        let share = |series: &[Series], name| {
            let rate = |name| find(series, name)?.rate().map(|spread| spread.median);
            ratio(rate("mainstay"), rate(name))
        };
        let goal = |what, at_most, limit, measured| Goal { what, at_most, limit, measured };
        self.goals = vec![
            goal("L1 hit: CPU ÷ bare Actix handler", true, 1.0, ratio(cpu("mainstay"), cpu("bare-actix"))),
            goal("L1 hit: CPU ÷ nginx proxy_cache", true, 0.6, ratio(cpu("mainstay"), cpu("nginx"))),
            goal("L1 hit: CPU ÷ Varnish", true, 0.35, ratio(cpu("mainstay"), cpu("varnish"))),
            goal("L1 hit: CPU ÷ HAProxy cache", true, 0.9, ratio(cpu("mainstay"), cpu("haproxy"))),
            goal("304: CPU ÷ the 200 hit", true, 1.0, ratio(cpu("mainstay-304"), cpu("mainstay"))),
            goal("audit: CPU of a hit ÷ without it", true, 1.05, ratio(cpu("mainstay"), cpu("mainstay-unaudited"))),
            goal("miss: rate ÷ pgbench -S -M prepared", false, 0.6, share(&self.misses, "pgbench")),
            goal("L2 hit: rate ÷ redis-benchmark -t get", false, 0.5, share(&self.shared_hits, "redis-benchmark")),
        ];
        let of_facts =
            self.facts.iter().filter_map(|fact| Some(goal(fact.what, true, fact.at_most?, Some(fact.value))));
        self.goals.extend(of_facts);
    }

    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n{}\n", self.machine, self.versions.join(" · "));
        if !self.hits.is_empty() {
            text += "\nGET of 1 KiB JSON, keep-alive: server CPU per request, and Mainstay's hit as a share of it\n";
            text += &table(
                &self.hits,
                ("µs/request", Series::cpu, 2),
                &[("req/s", Series::rate, 0), ("p99 µs", Series::p99, 0)],
            );
        }
        if !self.instructions_per_request.is_empty() {
            text += "\nUser-space instructions per request in what serves its connection (callgrind), and Mainstay's hit as a share of them\n";
            let of = |name| self.instructions_per_request.iter().find(|(own, _)| *own == name).map(|(_, count)| *count);
            for (name, count) in &self.instructions_per_request {
                let share = cell(ratio(of("mainstay"), Some(*count)), 2);
                line(&mut text, format_args!("{name:<20}{count:>10.0}{share:>10}"));
            }
        }
        if !self.misses.is_empty() {
            text += "\nPrimary-key reads past the cache: requests/s, and Mainstay's as a share of it\n";
            text += &table(
                &self.misses,
                ("requests/s", Series::rate, 0),
                &[("p99 µs", Series::p99, 0), ("CPU µs", Series::cpu, 2)],
            );
        }
        if !self.shared_hits.is_empty() {
            text += "\nHits in L2, and GETs of values as long: requests/s, and Mainstay's as a share of it\n";
            text += &table(
                &self.shared_hits,
                ("requests/s", Series::rate, 0),
                &[("p99 µs", Series::p99, 0), ("CPU µs", Series::cpu, 2)],
            );
        }
        if !self.facts.is_empty() {
            text += "\nBeside these\n";
            self.facts.iter().for_each(|fact| line(&mut text, format_args!("{:<64}{:>10.3}", fact.what, fact.value)));
        }
        text.extend(self.overload.iter().map(Overload::to_text));
        text += &transfers::to_text(&self.transfers);
        text += "\nGoals\n";
        for goal in &self.goals {
            let verdict = match goal.is_reached() {
                Some(true) => "reached",
                Some(false) => "NOT REACHED",
                None => "not measured",
            };
            let sign = if goal.at_most { '≤' } else { '≥' };
            let (what, limit, measured) = (goal.what, goal.limit, cell(goal.measured, 2));
            line(&mut text, format_args!("{what:<64}{sign} {limit:>6.2}{measured:>9}   {verdict}"));
        }
        for failure in &self.failures {
            line(&mut text, format_args!("could not be measured: {failure}"));
        }
        text
    }
}

/// A number of a series, with its title and the digits it is printed with.
type Column = (&'static str, fn(&Series) -> Option<Spread>, usize);

/// Compares the series by the rounds of one quantity; the medians of others stand beside it.
fn table(series: &[Series], (title, quantity, digits): Column, beside: &[Column]) -> String {
    let mut text = format!("{title:<20}{:>10}{:>10}{:>10}{:>10}", "min", "median", "max", "share");
    for (title, ..) in beside {
        text.push_str(&format!("{title:>10}"));
    }
    text.push('\n');
    let mainstay = find(series, "mainstay").and_then(quantity).map(|spread| spread.median);
    for one in series {
        let own = quantity(one);
        let share = ratio(mainstay, own.as_ref().map(|own| own.median));
        let [min, median, max] = own.map_or([None; 3], |own| [Some(own.min), Some(own.median), Some(own.max)]);
        let rounds = [(min, digits), (median, digits), (max, digits), (share, 2)];
        let medians = beside.iter().map(|(_, value, digits)| (value(one).map(|spread| spread.median), *digits));
        let cells = rounds.into_iter().chain(medians).map(|(value, digits)| format!("{:>10}", cell(value, digits)));
        line(&mut text, format_args!("{:<20}{}", one.name, cells.collect::<String>()));
    }
    text
}

fn line(text: &mut String, arguments: Arguments) {
    text.push_str(&format!("{arguments}\n"));
}

fn find<'a>(series: &'a [Series], name: &str) -> Option<&'a Series> {
    series.iter().find(|one| one.name == name)
}

fn ratio(upper: Option<f64>, lower: Option<f64>) -> Option<f64> {
    Some(upper? / lower?)
}

fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
}
