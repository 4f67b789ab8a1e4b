//! What viewers saw, step by step, and added up by what had happened.

use std::collections::BTreeMap;
use std::time::Duration;

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Cached,
    New,
    Strong,
}

/// Requests of one class.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    took_us: Vec<u64>,
    pub failed: usize,
    by_failover: usize,
}

/// What was seen in some time.
#[derive(Clone, Debug, Default)]
pub struct Tally(BTreeMap<Class, Requests>);

/// What was seen of one kind of trouble.
#[derive(Default)]
struct Kind {
    steps: usize,
    tally: Tally,
    recovered: Vec<Duration>,
}

#[derive(Default)]
pub struct Report(BTreeMap<String, Kind>);

impl Requests {
    fn at(&self, permille: usize) -> f64 {
        let mut sorted = self.took_us.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len().saturating_sub(1) * permille / 1000).map_or(0.0, |us| *us as f64 / 1000.0)
    }
}

impl Tally {
    pub fn add(&mut self, class: Class, took: Duration, is_failed: bool, by_failover: bool) {
        let requests = self.0.entry(class).or_default();
        requests.took_us.push(u64::try_from(took.as_micros()).unwrap());
        requests.failed += usize::from(is_failed);
        requests.by_failover += usize::from(by_failover && !is_failed);
    }

    pub fn of(&self, class: Class) -> Requests {
        self.0.get(&class).cloned().unwrap_or_default()
    }

    fn absorb(&mut self, other: Self) {
        for (class, requests) in other.0 {
            let own = self.0.entry(class).or_default();
            own.took_us.extend(requests.took_us);
            own.failed += requests.failed;
            own.by_failover += requests.by_failover;
        }
    }

    fn line(&self) -> String {
        let [cached, new, strong] = [Class::Cached, Class::New, Class::Strong].map(|class| self.of(class));
        format!(
            "{:>7} {:>6} {:>8} {:>8.1} {:>8.1} {:>8.1} | {:>5} {:>6} {:>8.1} | {:>5} {:>6} {:>8.1}",
            cached.took_us.len(),
            cached.failed,
            cached.by_failover,
            cached.at(500),
            cached.at(990),
            cached.at(1000),
            new.took_us.len(),
            new.failed,
            new.at(990),
            strong.took_us.len(),
            strong.failed,
            strong.at(990),
        )
    }
}

impl Report {
    /// The names of the columns.
    pub fn head() -> String {
        format!(
            "{:<44} {:>7} {:>6} {:>8} {:>8} {:>8} {:>8} | {:>5} {:>6} {:>8} | {:>5} {:>6} {:>8} | back after",
            "",
            "cached",
            "failed",
            "failover",
            "p50 ms",
            "p99 ms",
            "max ms",
            "new",
            "failed",
            "p99 ms",
            "strong",
            "failed",
            "p99 ms"
        )
    }

    /// Notes a step, and returns its line.
    pub fn step(&mut self, name: &str, kind: &str, tally: Tally, recovered: Duration) -> String {
        let line = format!("{name:<44} {} | {:.2} s", tally.line(), recovered.as_secs_f64());
        let kind = self.0.entry(kind.to_owned()).or_default();
        kind.steps += 1;
        kind.tally.absorb(tally);
        kind.recovered.push(recovered);
        line
    }

    /// Cached reads that failed.
    pub fn failed(&self) -> usize {
        self.0.values().map(|kind| kind.tally.of(Class::Cached).failed).sum()
    }

    /// A line for each kind of trouble, and one for all.
    pub fn summary(&self) -> String {
        let mut all = Kind::default();
        let mut text = Self::head() + "\n";
        let line = |name: &str, kind: &Kind| {
            let worst = kind.recovered.iter().max().copied().unwrap_or_default();
            format!("{name:<44} {} | at most {:.2} s, {} times\n", kind.tally.line(), worst.as_secs_f64(), kind.steps)
        };
        for (name, kind) in &self.0 {
            text += &line(name, kind);
            all.steps += kind.steps;
            all.tally.absorb(kind.tally.clone());
            all.recovered.extend(&kind.recovered);
        }
        text + &line("all", &all)
    }
}
