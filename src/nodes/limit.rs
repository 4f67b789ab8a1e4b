//! How many sources may run at once: as many as do not slow each other down.
//!
//! What a kind of work takes while little else runs is learnt. Where it takes clearly longer, it waits for others somewhere
//! (for a connection, a lock, a core), and to let more of it begin would only make that queue longer: so the limit falls, the
//! more the longer it took. While work takes about what it should and the limit is what holds others back, it rises by its
//! square root. At the lowest limit all that runs counts as little, so that a source that has become slower for good is learnt
//! anew and the limit rises again.
//!
//! A state machine over times that are passed in.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The limit before anything is known.
const START: f64 = 16.0;
/// Measurements that are judged together, unless [`WINDOW_TIME_MAX`] passes first.
const WINDOW_SAMPLES_MIN: u32 = 10;
const WINDOW_TIME_MIN: Duration = Duration::from_millis(50);
const WINDOW_TIME_MAX: Duration = Duration::from_secs(1);
/// How many times the bearable time a single measurement may count for: one that hung must not outweigh all others.
const STRAIN_MAX: f64 = 4.0;
/// To this share the limit falls at most at once.
const FALL_MAX: f64 = 0.5;
/// Measurements that the learnt times average over.
const MEMORY: f64 = 32.0;

/// What bounds a limit.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// So many may always run.
    pub min: usize,
    /// More never run.
    pub max: usize,
    /// How many times as long as alone work may take.
    pub slowdown_max: f64,
    /// And how much longer beyond that: short work varies by more than its own time.
    pub slack: Duration,
}

/// The limit of one kind of place.
#[derive(Clone, Debug)]
pub struct Limit {
    bounds: Bounds,
    limit: f64,
    /// The whole places of the limit.
    places: usize,
    running: usize,
    /// When more than little began to run last.
    crowded_at: Option<Instant>,
    /// What each kind of work takes while little else runs.
    alone: HashMap<Box<str>, Mean>,
    /// What all work took of late.
    took: Mean,
    window: Window,
}

/// A mean over the last measurements, roughly.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    seconds: f64,
    count: f64,
}

/// The measurements that are judged together.
#[derive(Clone, Copy, Debug)]
struct Window {
    began: Instant,
    samples: u32,
    strain: f64,
    /// The most that ran at once.
    peak: usize,
}

/// Work that has begun. It must be given back by [`Limit::end`].
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    at: Instant,
    /// Whether little else ran then.
    alone: bool,
}

/// What became of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done: what it took tells how crowded it is.
    Done,
    /// It waited too long for a place behind, or for its end.
    Crowded,
    /// It failed for a reason that says nothing of crowds.
    Failed,
}

impl Mean {
    fn add(&mut self, took: Duration) {
        self.count = (self.count + 1.0).min(MEMORY);
        self.seconds += (took.as_secs_f64() - self.seconds) / self.count;
    }
}

impl Window {
    const fn new(began: Instant) -> Self {
        Self { began, samples: 0, strain: 0.0, peak: 0 }
    }
}

impl Begun {
    /// The same place, from now on.
    #[must_use]
    pub const fn again(self, now: Instant) -> Self {
        Self { at: now, ..self }
    }
}

impl Limit {
    /// A limit that nothing has been measured for.
    pub fn new(bounds: Bounds, now: Instant) -> Self {
        let mut limit = Self {
            bounds,
            limit: START,
            places: bounds.min,
            running: 0,
            crowded_at: None,
            alone: HashMap::new(),
            took: Mean::default(),
            window: Window::new(now),
        };
        limit.set(START);
        limit
    }

    /// How many may run now.
    pub fn get(&self) -> usize {
        self.places
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Whether one more may begin.
    pub fn has_room(&self) -> bool {
        self.running < self.get()
    }

    /// About how long it takes until a place is free for one before whom so many wait.
    pub fn wait_behind(&self, waiting: usize) -> Duration {
        Duration::try_from_secs_f64(self.took.seconds * count(waiting + 1) / self.limit.max(1.0))
            .unwrap_or(Duration::MAX)
    }

    /// Notes that work begins. The caller has seen that there is room, or knows why it does not matter.
    pub fn begin(&mut self, now: Instant) -> Begun {
        self.running += 1;
        self.window.peak = self.window.peak.max(self.running);
        let alone = self.running <= self.bounds.min;
        if !alone {
            self.crowded_at = Some(now);
        }
        Begun { at: now, alone }
    }

    /// Notes that a place is free again.
    pub fn end(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// Takes a measurement in: work of this kind, begun then, has ended now.
    pub fn measured(&mut self, now: Instant, begun: Begun, kind: &str, outcome: Outcome) {
        if outcome == Outcome::Failed {
            return;
        }
        let took = now.saturating_duration_since(begun.at);
        self.took.add(took);
        let strain = match outcome {
            Outcome::Crowded => STRAIN_MAX,
            Outcome::Done | Outcome::Failed => {
                // Alone from its beginning to its end.
                let alone = begun.alone && self.crowded_at.is_none_or(|at| at < begun.at);
                self.strain(kind, took, alone)
            }
        };
        // What began before the limit was changed says nothing of the limit as it is.
        if begun.at >= self.window.began {
            self.window.samples += 1;
            self.window.strain += strain;
        }
        let age = now.saturating_duration_since(self.window.began);
        let is_full = self.window.samples >= WINDOW_SAMPLES_MIN && age >= WINDOW_TIME_MIN;
        if is_full || (self.window.samples > 0 && age >= WINDOW_TIME_MAX) {
            self.judge(now);
        }
    }

    /// What it took, as a share of what is bearable for its kind.
    fn strain(&mut self, kind: &str, took: Duration, alone: bool) -> f64 {
        if !self.alone.contains_key(kind) {
            self.alone.insert(kind.into(), Mean::default());
        }
        let Some(known) = self.alone.get_mut(kind) else { return 0.0 };
        if alone || known.count == 0.0 {
            known.add(took);
        }
        let bearable = known.seconds * self.bounds.slowdown_max + self.bounds.slack.as_secs_f64();
        (took.as_secs_f64() / bearable.max(f64::MIN_POSITIVE)).min(STRAIN_MAX)
    }

    fn judge(&mut self, now: Instant) {
        let strain = self.window.strain / f64::from(self.window.samples.max(1));
        if strain > 1.0 {
            self.set(self.limit * (1.0 / strain).max(FALL_MAX));
        } else if self.window.peak >= self.get() {
            self.set(self.limit + self.limit.sqrt());
        }
        self.window = Window { peak: self.running, ..Window::new(now) };
    }

    fn set(&mut self, limit: f64) {
        let Bounds { min, max, .. } = self.bounds;
        self.limit = limit.clamp(count(min), count(max.max(min)));
        // A part of a place is none.
        self.places = (min..=max).rev().find(|places| count(*places) <= self.limit).unwrap_or(min);
    }
}

/// A number of places as a float. Limits are far below where that would lose anything.
fn count(places: usize) -> f64 {
    f64::from(u32::try_from(places).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::{BinaryHeap, VecDeque};

    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { min: 4, max: 200, slowdown_max: 2.0, slack: Duration::from_millis(10) };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Runs so much work at once, again and again, each of which takes so long.
    fn work(limit: &mut Limit, now: &mut Instant, at_once: usize, took: Duration, rounds: usize) {
        for _ in 0..rounds {
            let begun: Vec<Begun> = (0..at_once).map(|_| limit.begin(*now)).collect();
            *now += took;
            for one in begun {
                limit.measured(*now, one, "a", Outcome::Done);
                limit.end();
            }
        }
    }

    #[test]
    fn it_rises_only_while_it_is_what_holds_work_back() {
        let (mut limit, mut now) = (Limit::new(BOUNDS, Instant::now()), Instant::now());
        work(&mut limit, &mut now, 3, ms(50), 100);
        assert_eq!(limit.get(), 16, "three at once say nothing of more");
        for _ in 0..100 {
            let at_once = limit.get();
            work(&mut limit, &mut now, at_once, ms(50), 1);
        }
        assert_eq!(limit.get(), 200, "as many as may, where they do not slow each other down");
    }

    #[test]
    fn it_falls_when_work_takes_clearly_longer_than_alone_and_not_before() {
        let (mut limit, mut now) = (Limit::new(BOUNDS, Instant::now()), Instant::now());
        work(&mut limit, &mut now, 2, ms(50), 40);
        work(&mut limit, &mut now, 15, ms(105), 20);
        assert_eq!(limit.get(), 16, "twice as long, and a little, is bearable");
        work(&mut limit, &mut now, 15, ms(300), 1);
        assert!((8..16).contains(&limit.get()), "{}", limit.get());
        work(&mut limit, &mut now, 15, ms(300), 20);
        assert_eq!(limit.get(), BOUNDS.min);
    }

    #[test]
    fn a_crowd_behind_lowers_it_and_other_failures_do_not() {
        let (mut limit, mut now) = (Limit::new(BOUNDS, Instant::now()), Instant::now());
        for (outcome, expected) in [(Outcome::Failed, 16), (Outcome::Crowded, 4)] {
            for _ in 0..200 {
                let begun = limit.begin(now);
                now += ms(10);
                limit.measured(now, begun, "a", outcome);
                limit.end();
            }
            assert_eq!(limit.get(), expected, "{outcome:?}");
        }
    }

    /// The floor is where it learns: a source that has become slower for good is not taken for a crowded one for ever.
    #[test]
    fn a_source_that_has_become_slower_is_learnt_anew() {
        let (mut limit, mut now) = (Limit::new(BOUNDS, Instant::now()), Instant::now());
        work(&mut limit, &mut now, 4, ms(10), 40);
        let mut lowest = limit.get();
        for _ in 0..200 {
            let at_once = limit.get();
            work(&mut limit, &mut now, at_once, ms(100), 1);
            lowest = lowest.min(limit.get());
        }
        assert_eq!(lowest, BOUNDS.min);
        assert_eq!(limit.get(), BOUNDS.max);
    }

    #[test]
    fn kinds_of_work_are_held_against_themselves() {
        let (mut limit, mut now) = (Limit::new(BOUNDS, Instant::now()), Instant::now());
        for round in 0..400 {
            let (kind, took) = if round % 2 == 0 { ("quick", ms(1)) } else { ("slow", ms(400)) };
            let begun: Vec<Begun> = (0..if round < 40 { 1 } else { limit.get() }).map(|_| limit.begin(now)).collect();
            now += took;
            for one in begun {
                limit.measured(now, one, kind, Outcome::Done);
                limit.end();
            }
        }
        assert_eq!(limit.get(), BOUNDS.max, "slow work is not crowded because quick work is quicker");
    }

    #[test]
    fn the_wait_is_foreseen_from_what_work_took() {
        let (mut limit, mut now) = (Limit::new(BOUNDS, Instant::now()), Instant::now());
        assert_eq!(limit.wait_behind(100), Duration::ZERO, "nothing is known yet");
        work(&mut limit, &mut now, 2, ms(320), 40);
        assert_eq!(limit.wait_behind(0), ms(20));
        assert_eq!(limit.wait_behind(15), ms(320));
    }

    proptest! {
        /// Whatever is measured, the limit stays inside its bounds, and places are neither lost nor made.
        #[test]
        fn it_stays_inside_its_bounds(
            steps in prop::collection::vec((0_u8..4, 0_u64..2_000, any::<bool>()), 0..400),
            min in 1_usize..20,
            more in 0_usize..100,
        ) {
            let bounds = Bounds { min, max: min + more, ..BOUNDS };
            let (mut limit, mut now) = (Limit::new(bounds, Instant::now()), Instant::now());
            let mut running = VecDeque::new();
            for (step, time, crowded) in steps {
                now += ms(time);
                match running.pop_front().filter(|_| step > 1) {
                    Some(begun) => {
                        limit.measured(now, begun, "a", if crowded { Outcome::Crowded } else { Outcome::Done });
                        limit.end();
                    }
                    None if limit.has_room() => running.push_back(limit.begin(now)),
                    None => {}
                }
                prop_assert!((bounds.min..=bounds.max).contains(&limit.get()));
            }
            prop_assert!(limit.running() <= bounds.max);
        }
    }

    /// A source that runs `servers` at once and queues the rest; work comes by chance, so much of it a second.
    struct Simulation {
        random: fastrand::Rng,
        limit: Limit,
        now: Instant,
        servers: usize,
        service: Duration,
        /// Work that runs: when it ends, and when it began.
        ends: BinaryHeap<Reverse<(Instant, usize)>>,
        begun: HashMap<usize, Begun>,
        /// Work that was let in and waits in the source.
        queue: VecDeque<usize>,
        number: usize,
    }

    /// What a time of the simulation came to.
    #[derive(Debug)]
    struct Seen {
        done_per_s: f64,
        slowest: Duration,
        limit: usize,
    }

    impl Simulation {
        fn new(seed: u64, servers: usize, service: Duration) -> Self {
            let now = Instant::now();
            Self {
                random: fastrand::Rng::with_seed(seed),
                limit: Limit::new(BOUNDS, now),
                now,
                servers,
                service,
                ends: BinaryHeap::new(),
                begun: HashMap::new(),
                queue: VecDeque::new(),
                number: 0,
            }
        }

        fn exponential(&mut self, mean: Duration) -> Duration {
            mean.mul_f64(-(1.0 - self.random.f64()).ln())
        }

        fn start(&mut self, number: usize) {
            // Between half and one and a half of the mean: queries of one kind vary, but not without bound.
            let service = self.service.mul_f64(0.5 + self.random.f64());
            self.ends.push(Reverse((self.now + service, number)));
        }

        /// Lets work come for so long; what finds no room is refused.
        fn run(&mut self, per_s: f64, time: Duration) -> Seen {
            let (from, until) = (self.now, self.now + time);
            let (mut done, mut slowest) = (0_u32, Duration::ZERO);
            let between = Duration::from_secs_f64(1.0 / per_s);
            let mut next = self.now + self.exponential(between);
            while self.now < until {
                let ends = self.ends.peek().map(|Reverse((at, _))| *at);
                if ends.is_some_and(|at| at <= next) {
                    let Reverse((at, number)) = self.ends.pop().unwrap();
                    self.now = at;
                    let begun = self.begun.remove(&number).unwrap();
                    slowest = slowest.max(at.duration_since(begun.at));
                    self.limit.measured(at, begun, "a", Outcome::Done);
                    self.limit.end();
                    done += 1;
                    if let Some(waiting) = self.queue.pop_front() {
                        self.start(waiting);
                    }
                    continue;
                }
                self.now = next;
                next = self.now + self.exponential(between);
                if self.limit.has_room() {
                    self.number += 1;
                    self.begun.insert(self.number, self.limit.begin(self.now));
                    if self.ends.len() < self.servers {
                        self.start(self.number)
                    } else {
                        self.queue.push_back(self.number)
                    }
                }
            }
            let seconds = self.now.duration_since(from).as_secs_f64();
            Seen { done_per_s: f64::from(done) / seconds, slowest, limit: self.limit.get() }
        }
    }

    /// At ten times what the source can do it does all it can, and nobody waits long in it; whatever came before, and however
    /// slow it is.
    #[test]
    fn a_crowded_source_does_all_it_can_and_nobody_waits_long_in_it() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        for (servers, service) in [(4, ms(100)), (16, ms(20)), (2, ms(500)), (40, ms(50))] {
            let capacity = count(servers) / service.as_secs_f64();
            let mut source = Simulation::new(seed, servers, service);
            source.run(capacity * 0.3, Duration::from_secs(20));
            source.run(capacity * 10.0, Duration::from_secs(20));
            let seen = source.run(capacity * 10.0, Duration::from_secs(30));
            let what = format!("seed {seed}, {servers} of {service:?}: {seen:?}");
            assert!(seen.done_per_s > capacity * 0.85, "{what}");
            assert!(seen.limit >= servers.min(BOUNDS.max) / 2 && seen.limit <= servers * 4 + 8, "{what}");
            assert!(seen.slowest < service * 8 + BOUNDS.slack * 4, "{what}");
        }
    }

    /// A source that is four times as slow for a while takes the limit down, and gives it back within seconds.
    #[test]
    fn it_recovers_within_seconds() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let (servers, service) = (30, ms(40));
        let capacity = count(servers) / service.as_secs_f64();
        let mut source = Simulation::new(seed, servers, service);
        let before = source.run(capacity * 0.9, Duration::from_secs(20));
        source.service = service * 4;
        source.run(capacity * 3.0, Duration::from_secs(20));
        source.service = service;
        source.run(capacity * 0.9, Duration::from_secs(3));
        let after = source.run(capacity * 0.9, Duration::from_secs(10));
        assert!(after.done_per_s > before.done_per_s * 0.93, "seed {seed}: {before:?}, then {after:?}");
    }
}
