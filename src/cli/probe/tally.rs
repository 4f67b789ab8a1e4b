//! What is counted of answers, and how their headers are read.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::{AGE, HeaderName};

use super::connection::{Answer, Connected};

/// How Mainstay calls itself in `Cache-Status`.
const OWN_NAME: &str = "mainstay";
/// The layer of an answer that does not say who made it.
const UNKNOWN: &str = "unknown";
const CDN: &str = "CDN";

/// How often something was said.
pub(super) type Counts = BTreeMap<String, u64>;

/// All that was seen of one region.
pub(super) struct Tally {
    pub(super) name: String,
    pub(super) address: Option<SocketAddr>,
    pub(super) connects: Vec<Connected>,
    pub(super) paths: Vec<PathTally>,
    pub(super) layers: BTreeMap<String, Times>,
    /// Why it was given up before the end.
    pub(super) given_up: Option<String>,
}

/// What was seen of one path in one region.
#[derive(Default)]
pub(super) struct PathTally {
    pub(super) path: String,
    pub(super) first: Option<Duration>,
    pub(super) times: Times,
    pub(super) cdn: Counts,
    pub(super) origin: Counts,
    pub(super) regions: Counts,
    pub(super) age_max_s: Option<u64>,
    pub(super) failures: Counts,
}

impl PathTally {
    pub(super) fn of(path: &str) -> Self {
        Self { path: path.to_owned(), ..Self::default() }
    }

    pub(super) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

impl Tally {
    pub(super) fn new(name: &str) -> Self {
        let (name, layers) = (name.to_owned(), BTreeMap::new());
        Self { name, address: None, connects: Vec::new(), paths: Vec::new(), layers, given_up: None }
    }

    /// All times of all paths.
    pub(super) fn times(&self) -> Times {
        Times(self.paths.iter().flat_map(|path| path.times.0.iter().copied()).collect())
    }

    pub(super) fn failed(&self) -> u64 {
        self.paths.iter().map(PathTally::failed).sum()
    }

    /// Takes an answer to account. The first one of a path is shown, and counts among no others.
    pub(super) fn take(&mut self, path: &mut PathTally, answer: &Answer, is_first: bool) {
        if !(200..300).contains(&answer.status) {
            return *path.failures.entry(format!("status {}", answer.status)).or_default() += 1;
        }
        let seen = Seen::of(&answer.headers);
        if is_first {
            path.first = Some(answer.time);
            return;
        }
        path.times.0.push(answer.time);
        self.layers.entry(seen.layer().to_owned()).or_default().0.push(answer.time);
        for (counts, name) in
            [(&mut path.cdn, &seen.cdn), (&mut path.origin, &seen.origin), (&mut path.regions, &seen.region)]
        {
            if let Some(name) = name {
                *counts.entry(name.clone()).or_default() += 1;
            }
        }
        path.age_max_s = path.age_max_s.max(seen.age_s);
    }
}

/// Times of requests.
#[derive(Clone, Debug, Default)]
pub(super) struct Times(pub(super) Vec<Duration>);

/// What is said of times, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Summary {
    pub(super) count: usize,
    pub(super) average_ms: f64,
    pub(super) p50_ms: f64,
    pub(super) p95_ms: f64,
    pub(super) p99_ms: f64,
}

impl Times {
    /// Nothing where there are none.
    pub(super) fn summary(&self) -> Option<Summary> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let sum: Duration = sorted.iter().sum();
        // The nearest rank: a time that was measured, and never one between two.
        let percentile = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).copied().map(ms)
        };
        Some(Summary {
            count: sorted.len(),
            average_ms: ms(sum.checked_div(u32::try_from(sorted.len()).ok()?)?),
            p50_ms: percentile(50)?,
            p95_ms: percentile(95)?,
            p99_ms: percentile(99)?,
        })
    }
}

pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// What the headers of one answer say.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    cdn: Option<String>,
    origin: Option<String>,
    /// Who made the answer, as Mainstay says.
    detail: Option<String>,
    region: Option<String>,
    age_s: Option<u64>,
}

impl Seen {
    fn of(headers: &HeaderMap) -> Self {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let named = |name: &'static str| text(&HeaderName::from_static(name));
        let status: Vec<&str> =
            headers.get_all("cache-status").iter().filter_map(|value| value.to_str().ok()).flat_map(members).collect();
        let of_member =
            |member: &&str| member.split(';').next().unwrap_or_default().trim().trim_matches('"') == OWN_NAME;
        let own = status.iter().copied().find(of_member);
        let other = status.iter().copied().rfind(|member| !of_member(member));
        // Where there are several caches in a row, the last word is that of the nearest one.
        let word = |text: &str| {
            let last = text.rsplit(',').next().unwrap_or_default();
            last.split_whitespace().next().map(str::to_lowercase)
        };
        Self {
            cdn: named("x-cache").or_else(|| named("cf-cache-status")).and_then(word).or_else(|| other.map(outcome)),
            origin: own.map(outcome),
            detail: own.and_then(|member| parameter(member, "detail")).map(str::to_owned),
            region: named("x-region").map(str::to_owned),
            age_s: text(&AGE).and_then(|age| age.trim().parse().ok()),
        }
    }

    fn layer(&self) -> &str {
        match (&self.cdn, &self.detail) {
            (Some(cdn), _) if cdn.contains("hit") => CDN,
            (_, Some(detail)) => detail,
            _ => UNKNOWN,
        }
    }
}

/// The members of a list, whose strings may have commas in them.
fn members(list: &str) -> Vec<&str> {
    let mut is_string = false;
    let is_comma = |letter: char| {
        is_string ^= letter == '"';
        letter == ',' && !is_string
    };
    list.split(is_comma).map(str::trim).filter(|member| !member.is_empty()).collect()
}

fn parameter<'a>(member: &'a str, name: &str) -> Option<&'a str> {
    let value = |part: &'a str| part.trim().strip_prefix(name)?.strip_prefix('=');
    member.split(';').find_map(value).map(|value| value.trim_matches('"'))
}

/// `hit L1`, `stale L1`, `miss replica`: what a member of Cache-Status comes to.
fn outcome(member: &str) -> String {
    let is_hit = member.split(';').any(|part| part.trim() == "hit");
    let is_stale = parameter(member, "ttl").is_some_and(|ttl| ttl.starts_with('-'));
    let outcome = match (is_hit, parameter(member, "fwd")) {
        (true, _) if is_stale => "stale",
        (true, _) => "hit",
        (false, Some(forwarded)) => forwarded,
        (false, None) => UNKNOWN,
    };
    match parameter(member, "detail") {
        Some(detail) => format!("{outcome} {detail}"),
        None => outcome.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(headers: &[(&'static str, &'static str)]) -> Seen {
        let pair =
            |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), value.parse().unwrap());
        Seen::of(&headers.iter().map(pair).collect())
    }

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let times = |all: &[u64]| Times(all.iter().map(|ms| Duration::from_millis(*ms)).collect()).summary();
        assert_eq!(times(&[]), None);
        let one = Summary { count: 1, average_ms: 7.0, p50_ms: 7.0, p95_ms: 7.0, p99_ms: 7.0 };
        assert_eq!(times(&[7]), Some(one));
        let mut hundred: Vec<u64> = (1..=100).collect();
        hundred.reverse();
        let summary = Summary { count: 100, average_ms: 50.5, p50_ms: 50.0, p95_ms: 95.0, p99_ms: 99.0 };
        assert_eq!(times(&hundred), Some(summary));
        assert_eq!(
            times(&[1, 2, 3, 100]).unwrap().p99_ms,
            100.0,
            "few times have a worst one, and no percentile hides it"
        );
    }

    #[test]
    fn who_answered_is_read_from_what_each_cache_says() {
        let own = ("cache-status", "mainstay; hit; ttl=287; detail=L1");
        for (headers, cdn, origin, layer) in [
            (vec![own], None, Some("hit L1"), "L1"),
            (vec![own, ("x-cache", "Hit from cloudfront")], Some("hit"), Some("hit L1"), CDN),
            (vec![own, ("x-cache", "RefreshHit from cloudfront")], Some("refreshhit"), Some("hit L1"), CDN),
            (vec![own, ("x-cache", "Miss from cloudfront")], Some("miss"), Some("hit L1"), "L1"),
            (vec![own, ("x-cache", "HIT, MISS")], Some("miss"), Some("hit L1"), "L1"),
            (vec![own, ("cf-cache-status", "DYNAMIC")], Some("dynamic"), Some("hit L1"), "L1"),
            (
                vec![("cache-status", "mainstay; fwd=miss; stored; detail=replica")],
                None,
                Some("miss replica"),
                "replica",
            ),
            (vec![("cache-status", "mainstay; hit; ttl=-4; detail=L2")], None, Some("stale L2"), "L2"),
            (
                vec![("cache-status", "mainstay; fwd=miss; detail=primary, \"a, b\"; hit; ttl=4")],
                Some("hit"),
                Some("miss primary"),
                CDN,
            ),
            (vec![("cache-status", "mainstay; fwd=bypass")], None, Some("bypass"), UNKNOWN),
            (vec![("age", "12")], None, None, UNKNOWN),
        ] {
            let seen = seen(&headers);
            assert_eq!(
                (seen.cdn.as_deref(), seen.origin.as_deref(), seen.layer()),
                (cdn, origin, layer),
                "{headers:?}"
            );
        }
        assert_eq!(seen(&[("age", "12"), ("x-region", "eu-west-1")]).age_s, Some(12));
        assert_eq!(seen(&[("age", "young")]).age_s, None);
    }
}
