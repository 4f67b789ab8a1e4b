//! Admission before work: a source runs only where there is room for it, and who would wait for long is told so at once.
//!
//! Fills, direct requests that read and those that may write pass a [`Gate`] each, and fills of each upstream one of their own. How many may be inside adapts to how long sources take
//! ([`crate::nodes::limit`]); a few more wait outside, by how urgent they are ([`crate::nodes::queue`]), and not for long. What
//! is held in memory meanwhile is counted: requests that wait, and bytes of bodies.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus::IntCounter;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::config::manifest::Source;
use crate::config::overload::OverloadSettings;
use crate::error::{Code, Error};
use crate::nodes::limit::{Begun, Bounds, Limit, Outcome};
use crate::nodes::queue::{Priority, Pushed, Queue};
use crate::source::Answer;
use crate::telemetry::metrics::Metrics;

/// What keeps an instance from taking more on than it can do.
pub struct Admission {
    /// Before the sources of requests that are answered for themselves alone and only read.
    pub direct: Gate,
    /// Before those that may write: they may wait for each other's rows, which is nothing to those that read.
    pub writes: Gate,
    fills: Gate,
    /// Before fills out of upstreams, by their names: one that hangs must not keep what the database can do from being done.
    upstreams: Mutex<HashMap<String, Gate>>,
    settings: OverloadSettings,
    /// Requests that wait for fills.
    pub waiters: Budget,
    /// Bytes of request bodies.
    pub bodies: Budget,
}

/// A door that lets so many in as do not slow each other down.
#[derive(Clone)]
pub struct Gate(Arc<Door>);

struct Door {
    state: Mutex<State>,
    kind: String,
    refused: [IntCounter; 4],
}

struct State {
    limit: Limit,
    queue: Queue<oneshot::Sender<Pass>>,
    /// The last one who waited did so in vain, and no place has been free since: nobody else needs to try.
    in_vain: bool,
}

/// The leave to run a source. Dropping it makes room.
pub struct Pass {
    gate: Gate,
    begun: Begun,
}

/// A wait outside. Dropping it ends the wait.
struct Turn {
    gate: Gate,
    priority: Priority,
    number: u64,
    granted: oneshot::Receiver<Pass>,
}

/// Places that are handed out where a gate has room.
type Grants = SmallVec<[(oneshot::Sender<Pass>, Pass); 2]>;

/// Something of which there is only so much.
#[derive(Clone)]
pub struct Budget {
    used: Arc<AtomicUsize>,
    max: usize,
}

/// What stands before an upstream's name in the `kind` label of its gate.
pub const KIND_OF_UPSTREAM: &str = "upstream ";

/// A share of a budget. Dropping it gives it back.
pub struct Share {
    budget: Budget,
    held: usize,
}

impl Admission {
    /// Nothing runs yet.
    pub fn new(settings: &OverloadSettings, metrics: &Metrics) -> Self {
        Self {
            direct: Gate::new("direct", settings, metrics),
            writes: Gate::new("write", settings, metrics),
            fills: Gate::new("fill", settings, metrics),
            upstreams: Mutex::default(),
            settings: settings.clone(),
            waiters: Budget::new(settings.waiters_max),
            bodies: Budget::new(settings.bodies_bytes_max),
        }
    }

    /// Before the source of a fill: the database, and handlers with it, or an upstream.
    pub fn fills(&self, source: &Source, metrics: &Metrics) -> Gate {
        let Source::Upstream { upstream, .. } = source else { return self.fills.clone() };
        let mut upstreams = self.upstreams.lock();
        if let Some(gate) = upstreams.get(&upstream.name) {
            return gate.clone();
        }
        let gate = Gate::new(&format!("{KIND_OF_UPSTREAM}{}", upstream.name), &self.settings, metrics);
        upstreams.insert(upstream.name.clone(), gate.clone());
        gate
    }

    /// Forgets the gates of upstreams that nobody names any more. What runs behind one goes on.
    pub fn retain(&self, is_named: impl Fn(&str) -> bool) {
        self.upstreams.lock().retain(|name, _| is_named(name));
    }

    /// How long a source waits for its place; less where something stale could be served instead.
    pub fn patience(&self, has_stale: bool) -> Duration {
        let OverloadSettings { queue_timeout, stale_timeout, .. } = self.settings;
        if has_stale { stale_timeout.min(queue_timeout).0 } else { queue_timeout.0 }
    }

    /// Moves what is known of the gates into the exported metrics.
    pub fn export(&self, metrics: &Metrics) {
        self.fills.export(metrics);
        self.direct.export(metrics);
        self.writes.export(metrics);
        self.upstreams.lock().values().for_each(|gate| gate.export(metrics));
    }
}

impl Gate {
    fn new(kind: &str, settings: &OverloadSettings, metrics: &Metrics) -> Self {
        let OverloadSettings { concurrency_min, concurrency_max, slowdown_max, slack, queue_max, .. } = *settings;
        let bounds = Bounds { min: concurrency_min, max: concurrency_max, slowdown_max, slack: slack.0 };
        let state = State { limit: Limit::new(bounds, Instant::now()), queue: Queue::new(queue_max), in_vain: false };
        let refused =
            Priority::ALL.map(|priority| metrics.overload_refused.with_label_values(&[kind, priority.as_str()]));
        Self(Arc::new(Door { state: Mutex::new(state), kind: kind.to_owned(), refused }))
    }

    /// Goes in, or waits for a place, but no longer than `patience`: who would have to is refused at once. Cancelling ends
    /// the wait.
    ///
    /// # Errors
    /// `overloaded`.
    pub async fn enter(&self, priority: Priority, patience: Duration) -> Result<Pass, Error> {
        let mut turn = match self.ask(priority, patience) {
            Ok(Ok(pass)) => return Ok(pass),
            Ok(Err(turn)) => turn,
            Err(error) => return Err(error),
        };
        match actix_rt::time::timeout(patience, &mut turn.granted).await {
            Ok(Ok(pass)) => Ok(pass),
            // Someone more urgent took the place in the queue.
            Ok(Err(_)) => Err(self.refuse(priority)),
            Err(_) => {
                if priority == Priority::Foreground {
                    self.0.state.lock().in_vain = true;
                }
                Err(self.refuse(priority))
            }
        }
    }

    /// A pass, or a place in the queue.
    fn ask(&self, priority: Priority, patience: Duration) -> Result<Result<Pass, Turn>, Error> {
        let mut state = self.0.state.lock();
        let State { limit, queue, in_vain } = &mut *state;
        if limit.has_room() && queue.is_empty() {
            let begun = limit.begin(Instant::now());
            return Ok(Ok(Pass { gate: self.clone(), begun }));
        }
        // What is foreseen is a mean: half of the time is kept for chance, so that few wait and are refused all the same.
        if *in_vain || patience.is_zero() || limit.wait_behind(queue.ahead(priority)) > patience / 2 {
            drop(state);
            return Err(self.refuse(priority));
        }
        let (sender, granted) = oneshot::channel();
        let pushed = queue.push(priority, sender);
        // Who had to make room learns of it when his sender is dropped, outside the lock.
        drop(state);
        match pushed {
            Pushed::Waits(number, _makes_room) => Ok(Err(Turn { gate: self.clone(), priority, number, granted })),
            Pushed::Full => Err(self.refuse(priority)),
        }
    }

    fn refuse(&self, priority: Priority) -> Error {
        let counters = Priority::ALL.iter().zip(&self.0.refused);
        counters.filter(|(counted, _)| **counted == priority).for_each(|(_, counter)| counter.inc());
        Error::new(Code::Overloaded, "as many sources as may are running, and too many wait")
    }

    /// Changes the state, and hands out what room there is then.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut grants = Grants::new();
        {
            let mut state = self.0.state.lock();
            change(&mut state);
            let State { limit, queue, .. } = &mut *state;
            while limit.has_room()
                && let Some(sender) = queue.pop()
            {
                let begun = limit.begin(Instant::now());
                grants.push((sender, Pass { gate: self.clone(), begun }));
            }
        }
        // Outside the lock: who has gone meanwhile leaves his pass to be dropped here, which takes the lock again.
        for (sender, pass) in grants {
            let _gone = sender.send(pass);
        }
    }

    fn export(&self, metrics: &Metrics) {
        let (limit, running, waiting) = {
            let state = self.0.state.lock();
            (state.limit.get(), state.limit.running(), state.queue.len())
        };
        let gauges = [
            (&metrics.overload_limit, limit),
            (&metrics.overload_running, running),
            (&metrics.overload_waiting, waiting),
        ];
        for (gauge, value) in gauges {
            gauge.with_label_values(&[self.0.kind.as_str()]).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
}

impl Pass {
    /// Takes in how long a source of this kind took, since it was let in or measured last, and what became of it.
    pub fn measured(&mut self, kind: &str, answer: &Result<Answer, Error>) {
        let (now, outcome) = (Instant::now(), outcome_of(answer));
        self.gate.change(|state| state.limit.measured(now, self.begun, kind, outcome));
        self.begun = self.begun.again(now);
    }
}

/// What an answer says of crowds. That a row is not there is an answer like any other.
fn outcome_of(answer: &Result<Answer, Error>) -> Outcome {
    match answer.as_ref().map_err(|error| error.code) {
        Ok(_) | Err(Code::NotFound) => Outcome::Done,
        Err(Code::SourceTimeout | Code::Overloaded) => Outcome::Crowded,
        Err(_) => Outcome::Failed,
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.change(|state| {
            state.limit.end();
            state.in_vain = false;
        });
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let _not_any_more = self.gate.0.state.lock().queue.remove(self.priority, self.number);
    }
}

impl Budget {
    /// All of it is there.
    pub fn new(max: usize) -> Self {
        Self { used: Arc::default(), max }
    }

    /// A share that holds nothing yet.
    pub fn share(&self) -> Share {
        Share { budget: self.clone(), held: 0 }
    }

    /// A share of so much, where it is left.
    pub fn take(&self, amount: usize) -> Option<Share> {
        let mut share = self.share();
        share.grow(amount).then_some(share)
    }
}

impl Share {
    /// Takes so much more, where it is left.
    pub fn grow(&mut self, amount: usize) -> bool {
        let Budget { used, max } = &self.budget;
        let more = |used: usize| used.checked_add(amount).filter(|sum| sum <= max);
        let is_left = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        if is_left {
            self.held += amount;
        }
        is_left
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.held, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::config::units::Span;

    const LONG: Duration = Duration::from_secs(60);

    fn gate(places: usize, queue_max: usize) -> (Gate, Metrics) {
        let metrics = Metrics::new().unwrap();
        let settings = OverloadSettings {
            concurrency_min: places,
            concurrency_max: places,
            slowdown_max: 2.0,
            slack: Span(Duration::ZERO),
            queue_max,
            queue_timeout: Span(LONG),
            stale_timeout: Span(Duration::ZERO),
            waiters_max: 1,
            bodies_bytes_max: 1,
        };
        (Gate::new("fill", &settings, &metrics), metrics)
    }

    fn running(gate: &Gate) -> usize {
        gate.0.state.lock().limit.running()
    }

    #[actix_rt::test]
    async fn places_go_to_the_urgent_first_and_who_has_gone_takes_none() {
        let (gate, _metrics) = gate(1, 10);
        let first = gate.enter(Priority::Foreground, LONG).await.unwrap();
        let mut audit = Box::pin(gate.enter(Priority::Background, LONG));
        let mut gone = Box::pin(gate.enter(Priority::Foreground, LONG));
        let mut miss = Box::pin(gate.enter(Priority::Foreground, LONG));
        for wait in [&mut audit, &mut gone, &mut miss] {
            assert!(wait.as_mut().now_or_never().is_none());
        }
        drop(gone);
        drop(first);
        assert!(audit.as_mut().now_or_never().is_none(), "it is not its turn");
        let second = miss.now_or_never().unwrap().unwrap();
        assert_eq!(running(&gate), 1);
        drop(second);
        drop(audit.now_or_never().unwrap().unwrap());
        assert_eq!(running(&gate), 0);
    }

    #[actix_rt::test]
    async fn a_full_queue_refuses_at_once_and_the_less_urgent_make_room() {
        let (gate, metrics) = gate(1, 1);
        let _inside = gate.enter(Priority::Foreground, LONG).await.unwrap();
        let mut early = Box::pin(gate.enter(Priority::Early, LONG));
        assert!(early.as_mut().now_or_never().is_none());
        let mut miss = Box::pin(gate.enter(Priority::Foreground, LONG));
        assert!(miss.as_mut().now_or_never().is_none());
        assert_eq!(early.now_or_never().unwrap().map(drop).unwrap_err().code, Code::Overloaded);
        let refused = gate.enter(Priority::Foreground, LONG).now_or_never().unwrap();
        assert_eq!(refused.map(drop).unwrap_err().code, Code::Overloaded);
        let counted = |priority| metrics.overload_refused.with_label_values(&["fill", priority]).get();
        assert_eq!((counted("early"), counted("foreground"), counted("background")), (1, 1, 0));
    }

    /// A source that hangs costs the first ones their patience, and those who come after them nothing.
    #[actix_rt::test]
    async fn who_waits_in_vain_warns_the_next() {
        let (gate, _metrics) = gate(1, 10);
        let inside = gate.enter(Priority::Foreground, LONG).await.unwrap();
        assert!(gate.enter(Priority::Foreground, Duration::from_millis(1)).await.is_err());
        assert!(gate.enter(Priority::Foreground, LONG).now_or_never().unwrap().is_err(), "it does not wait");
        drop(inside);
        let inside = gate.enter(Priority::Foreground, LONG).now_or_never().unwrap().unwrap();
        assert!(gate.enter(Priority::Foreground, LONG).now_or_never().is_none(), "it waits again");
        drop(inside);
    }

    #[actix_rt::test]
    async fn a_pass_that_nobody_takes_any_more_is_not_lost() {
        let (gate, _metrics) = gate(1, 10);
        let inside = gate.enter(Priority::Foreground, LONG).await.unwrap();
        let mut wait = Box::pin(gate.enter(Priority::Foreground, LONG));
        assert!(wait.as_mut().now_or_never().is_none());
        drop(inside);
        // It is granted, and dropped before it is looked at.
        drop(wait);
        assert_eq!(running(&gate), 0);
        assert!(gate.enter(Priority::Foreground, Duration::ZERO).now_or_never().unwrap().is_ok());
    }

    #[test]
    fn a_budget_is_never_overdrawn_and_comes_back() {
        let budget = Budget::new(10);
        let mut share = budget.take(6).unwrap();
        assert!(budget.take(5).is_none());
        assert!(share.grow(4) && !share.grow(1) && !share.grow(usize::MAX));
        drop(share);
        assert!(budget.take(10).is_some());
    }
}
