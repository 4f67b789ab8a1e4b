//! What was written and what was read, and whether the one explains the other.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Counters.
pub const KEYS: usize = 8;
/// What is served as fresh may lack a commit for so long: `cache.max_silence`, and what a busy machine adds.
const STALE_MAX: Duration = Duration::from_secs(3);
/// Lines of the past that a violation shows.
const LINES_MAX: usize = 400;

/// An answer.
pub struct Seen {
    pub instance: usize,
    /// Which life of the instance: each restart begins another.
    pub life: usize,
    pub key: usize,
    pub value: i64,
    /// When the request was about to be sent.
    pub asked: Instant,
    /// Whether it claims to be fresh.
    pub is_claimed: bool,
    pub cache: String,
}

pub struct History(Mutex<State>);

struct State {
    began: Instant,
    /// When each value of a key was known to be committed; the value is the index.
    commits: [Vec<Instant>; KEYS],
    /// The greatest value that was claimed, and when that answer was there, for each life of an instance and each key.
    claimed: HashMap<(usize, usize, usize), (i64, Instant)>,
    stale_ms: Vec<f64>,
    reads: usize,
    marked: usize,
    failures: BTreeMap<String, usize>,
    events: usize,
    lines: VecDeque<String>,
}

impl State {
    fn line(&mut self, line: &str) {
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(format!("{:9.3} {line}", self.began.elapsed().as_secs_f64()));
    }

    fn violation(&self, what: &str) -> ! {
        let past: String = self.lines.iter().fold(String::new(), |text, line| text + line + "\n");
        panic!("{past}{what}");
    }
}

impl History {
    pub fn new() -> Self {
        let began = Instant::now();
        Self(Mutex::new(State {
            began,
            commits: std::array::from_fn(|_| vec![began]),
            claimed: HashMap::new(),
            stale_ms: Vec::new(),
            reads: 0,
            marked: 0,
            failures: BTreeMap::new(),
            events: 0,
            lines: VecDeque::new(),
        }))
    }

    /// A value was committed by now.
    pub fn committed(&self, key: usize, value: i64) {
        let mut state = self.0.lock().unwrap();
        assert_eq!(i64::try_from(state.commits[key].len()), Ok(value), "each key has one writer");
        state.commits[key].push(Instant::now());
        state.line(&format!("commit   {key} = {value}"));
    }

    /// The value that was committed last.
    pub fn last(&self, key: usize) -> i64 {
        i64::try_from(self.0.lock().unwrap().commits[key].len()).unwrap() - 1
    }

    /// Something happened to the fleet.
    pub fn note(&self, event: &str) {
        let mut state = self.0.lock().unwrap();
        state.events += 1;
        state.line(event);
    }

    /// A request had no answer that says anything.
    pub fn failed(&self, instance: usize, status: u16, why: &str) {
        let mut state = self.0.lock().unwrap();
        *state.failures.entry(format!("{status} {why}")).or_default() += 1;
        state.line(&format!("instance {instance} failed: {status} {why}"));
    }

    /// An answer is there: it is held against what was committed before it was asked for.
    pub fn seen(&self, seen: Seen) {
        let now = Instant::now();
        let mut state = self.0.lock().unwrap();
        let Seen { instance, life, key, value, asked, is_claimed, cache } = seen;
        state.line(&format!("instance {instance}.{life} says {key} = {value}: {cache}"));
        state.reads += 1;
        if !is_claimed {
            state.marked += 1;
            return;
        }
        let index = usize::try_from(value).unwrap();
        let overtaken = state.commits[key].get(index + 1).copied();
        let stale = overtaken.map_or(Duration::ZERO, |at| asked.saturating_duration_since(at));
        state.stale_ms.push(stale.as_secs_f64() * 1000.0);
        if stale > STALE_MAX {
            state.violation(&format!("{key} = {value} is claimed to be fresh, {stale:?} after it was overtaken"));
        }
        let claimed = state.claimed.entry((instance, life, key)).or_insert((value, now));
        let (before, at) = *claimed;
        if value > before {
            *claimed = (value, now);
        } else if value < before && at < asked {
            state.violation(&format!("instance {instance}.{life} went back from {before} to {value} of {key}"));
        }
    }

    /// All figures.
    pub fn report(&self) -> String {
        let mut state = self.0.lock().unwrap();
        state.stale_ms.sort_by(f64::total_cmp);
        let at = |permille: usize| state.stale_ms.get((state.stale_ms.len().saturating_sub(1)) * permille / 1000);
        let at = |permille: usize| at(permille).copied().unwrap_or_default();
        let writes: usize = state.commits.iter().map(|commits| commits.len() - 1).sum();
        let mut text = String::new();
        writeln!(text, "{} reads, {writes} writes, {} events", state.reads, state.events / 2).unwrap();
        writeln!(text, "marked stale: {}; no answer or an error: {:?}", state.marked, state.failures).unwrap();
        write!(
            text,
            "staleness of what was claimed fresh: p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms, max {:.1} ms",
            at(500),
            at(990),
            at(999),
            at(1000)
        )
        .unwrap();
        text
    }
}
