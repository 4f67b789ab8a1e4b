//! How stale a replica is: measured against the primary's own past, by the clock of this machine alone.
//!
//! While the primary answers, its WAL position is noted with the time *before* it was asked. A replica that has replayed
//! up to a noted position has everything the primary had at that time, so its staleness is at most the time since then. No
//! clock of another machine takes part, and an idle primary makes no lag: its position is noted again and again.
//!
//! A replayed position alone proves nothing once nothing can arrive. So a replica counts as of the last moment at which
//! WAL was also seen to flow: a receiver connected, and replay not paused.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::lsn::{Lsn, Position, SystemId, Timeline};

/// How many of the primary's positions are kept. Older ones are thinned out, not forgotten: a replica hours behind is
/// still measured, more coarsely.
const MARKS_MAX: usize = 1024;

/// What a probe of a node found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// A standby: replayed up to here. Else: flushed up to here.
    pub lsn: Option<Lsn>,
    /// Its branch of history; of a standby only where the role may see it (`pg_monitor`).
    pub timeline: Option<Timeline>,
    /// Its cluster.
    pub system: Option<SystemId>,
    /// A standby: a WAL receiver is connected.
    pub streaming: bool,
    /// A standby: replay is paused.
    pub paused: bool,
}

/// The primary's positions, each with a time at which it had been reached.
#[derive(Debug, Default)]
pub struct History {
    branch: Option<(SystemId, Timeline)>,
    marks: VecDeque<(Instant, Lsn)>,
}

impl History {
    /// Notes a position of the primary. On another timeline or cluster the past is worth nothing.
    pub fn record(&mut self, at: Instant, position: Position) {
        let branch = Some((position.system, position.timeline));
        if self.branch != branch || self.marks.back().is_some_and(|(_, lsn)| position.lsn < *lsn) {
            self.branch = branch;
            self.marks.clear();
        }
        match self.marks.back_mut() {
            Some((last_at, lsn)) if *lsn == position.lsn => *last_at = at,
            _ => self.marks.push_back((at, position.lsn)),
        }
        if self.marks.len() > MARKS_MAX {
            self.thin();
        }
    }

    /// Of the older half, every second mark goes. A missing mark makes a replica look older, never younger.
    fn thin(&mut self) {
        let mut index = 0;
        self.marks.retain(|_| {
            index += 1;
            index > MARKS_MAX / 2 || index % 2 == 1
        });
    }

    /// The newest time whose position a replica that shows this reading has replayed.
    pub fn reached(&self, reading: &Reading) -> Option<Instant> {
        let (system, timeline) = self.branch?;
        let foreign = reading.system.is_some_and(|its| its != system) || reading.timeline.is_some_and(|its| its != timeline);
        if foreign {
            return None;
        }
        let replayed = reading.lsn?;
        let after = self.marks.partition_point(|(_, lsn)| *lsn <= replayed);
        self.marks.get(after.checked_sub(1)?).map(|(at, _)| *at)
    }

    /// When the primary was last heard of, and on which branch.
    pub fn newest(&self) -> Option<(Instant, SystemId, Timeline)> {
        let (system, timeline) = self.branch?;
        self.marks.back().map(|(at, _)| (*at, system, timeline))
    }
}

/// What is known of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// When it was last asked.
    pub asked_at: Instant,
    /// Whether it answers.
    pub up: bool,
    /// Its last answer.
    pub reading: Option<Reading>,
    /// A replica: it has everything that the primary had at this time.
    pub current_at: Option<Instant>,
    /// A replica: when WAL was last seen to flow.
    pub flowing_at: Option<Instant>,
    /// Probes that failed since the last answer.
    pub failures: u32,
}

/// How many probes in a row must fail until a node that answered counts as down.
const FAILURES_TO_DOWN: u32 = 2;

impl Sampled {
    /// After a probe that got an answer.
    pub fn answered(before: Option<&Self>, asked_at: Instant, reading: Reading, history: &History) -> Self {
        let flowing = reading.in_recovery && reading.streaming && !reading.paused;
        let flowing_at = if flowing { Some(asked_at) } else { before.and_then(|before| before.flowing_at) };
        let reached = if reading.in_recovery { history.reached(&reading) } else { None };
        let current_at = reached.zip(flowing_at).map(|(reached, flowing)| reached.min(flowing));
        Self { asked_at, up: true, reading: Some(reading), current_at, flowing_at, failures: 0 }
    }

    /// After a probe that failed. One failed probe does not make a node that answered count as down.
    pub fn failed(before: Option<&Self>, asked_at: Instant) -> Self {
        let unknown = Self { asked_at, up: false, reading: None, current_at: None, flowing_at: None, failures: 0 };
        let before = before.copied().unwrap_or(unknown);
        let failures = before.failures.saturating_add(1);
        Self { up: before.up && failures < FAILURES_TO_DOWN, failures, ..before }
    }

    /// Whether it answers and is writable.
    pub fn leads(&self) -> bool {
        self.up && self.reading.is_some_and(|reading| !reading.in_recovery)
    }

    /// How stale the replica is: as its last probe found it, or as of now where the next one is overdue.
    pub fn lag(&self, now: Instant, overdue: Duration) -> Option<Duration> {
        let current_at = self.current_at?;
        let is_overdue = self.failures > 0 || now.saturating_duration_since(self.asked_at) > overdue;
        let until = if is_overdue { now } else { self.asked_at };
        Some(until.saturating_duration_since(current_at))
    }
}

/// Why a replica is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ineligible {
    /// It has not been asked yet, or the primary has not.
    Unsampled,
    /// It does not answer.
    Down,
    /// It is no standby: it was promoted, and is never taken for the primary.
    Promoted,
    /// It follows another timeline or cluster than the primary.
    OtherBranch,
    /// Nothing proves how stale it is.
    LagUnknown,
    /// It is staler than `replication.lag_max`.
    Lagging,
}

impl Ineligible {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unsampled => "unsampled",
            Self::Down => "down",
            Self::Promoted => "promoted",
            Self::OtherBranch => "other_branch",
            Self::LagUnknown => "lag_unknown",
            Self::Lagging => "lagging",
        }
    }
}

/// The bounds of eligibility.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// A replica staler than this is not used.
    pub lag_max: Duration,
    /// A probe older than this is overdue.
    pub overdue: Duration,
}

/// Whether a replica may serve eventual reads.
///
/// With the primary out of reach nobody can say how stale a replica is, and the bound would soon take the replicas away as
/// well. Reads carry on instead: a replica counts as of the moment the primary was last heard of, and one that was within
/// the bound then stays. An instance that has never heard of the primary uses every standby that answers.
pub fn eligible(
    now: Instant,
    replica: Option<&Sampled>,
    primary: Option<&Sampled>,
    last_heard: Option<(Instant, SystemId, Timeline)>,
    bounds: Bounds,
) -> Result<(), Ineligible> {
    let (Some(replica), Some(primary)) = (replica, primary) else { return Err(Ineligible::Unsampled) };
    let reading = replica.reading.filter(|_| replica.up).ok_or(Ineligible::Down)?;
    if !reading.in_recovery {
        return Err(Ineligible::Promoted);
    }
    let Some((heard_at, system, timeline)) = last_heard else {
        return if primary.leads() { Err(Ineligible::LagUnknown) } else { Ok(()) };
    };
    if reading.system.is_some_and(|its| its != system) || reading.timeline.is_some_and(|its| its != timeline) {
        return Err(Ineligible::OtherBranch);
    }
    let lag = if primary.leads() {
        replica.lag(now, bounds.overdue)
    } else {
        replica.current_at.map(|current_at| heard_at.saturating_duration_since(current_at))
    };
    match lag {
        None => Err(Ineligible::LagUnknown),
        Some(lag) if lag > bounds.lag_max => Err(Ineligible::Lagging),
        Some(_) => Ok(()),
    }
}
