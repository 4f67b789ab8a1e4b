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

use crate::position::{Lsn, Position, SystemId, Timeline};

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
    /// A standby's branch as of its last restart point, which every role may see. It may lag behind, so it proves that a
    /// standby is on a branch, and never that it is not.
    pub checkpoint_timeline: Option<Timeline>,
    /// Its cluster.
    pub system: Option<SystemId>,
    /// A standby: a WAL receiver is connected.
    pub streaming: bool,
    /// A standby: replay is paused.
    pub paused: bool,
}

impl Reading {
    /// How far the node had got at least, where its cluster and branch are proven.
    pub fn position(&self) -> Option<Position> {
        let timeline = self.timeline.or(self.checkpoint_timeline.filter(|_| self.in_recovery))?;
        Some(Position { system: self.system?, timeline, lsn: self.lsn? })
    }
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
        let foreign =
            reading.system.is_some_and(|its| its != system) || reading.timeline.is_some_and(|its| its != timeline);
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

    /// How stale the replica is: as its last probe found it, or as of now where the next one is overdue. Of one that is down nobody
    /// knows: it may have replayed all that there is.
    pub fn lag(&self, now: Instant, overdue: Duration) -> Option<Duration> {
        let current_at = self.current_at.filter(|_| self.up)?;
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

/// Whether a node may serve reads of an instance that knows of no primary: it answers, and what it is and how stale it may be is
/// nobody's to say.
pub fn answers(node: Option<&Sampled>) -> Result<(), Ineligible> {
    match node {
        None => Err(Ineligible::Unsampled),
        Some(node) if node.up => Ok(()),
        Some(_) => Err(Ineligible::Down),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const BOUNDS: Bounds = Bounds { lag_max: Duration::from_secs(5), overdue: Duration::from_secs(2) };

    fn position(timeline: u32, lsn: u64) -> Position {
        Position { system: SystemId(7), timeline: Timeline(timeline), lsn: Lsn(lsn) }
    }

    fn standby(lsn: u64) -> Reading {
        Reading {
            in_recovery: true,
            lsn: Some(Lsn(lsn)),
            timeline: Some(Timeline(1)),
            checkpoint_timeline: None,
            system: Some(SystemId(7)),
            streaming: true,
            paused: false,
        }
    }

    fn writable(lsn: u64) -> Reading {
        Reading { in_recovery: false, streaming: false, ..standby(lsn) }
    }

    /// A primary that wrote a byte a second until `seconds`.
    fn history(start: Instant, seconds: u32) -> History {
        let mut history = History::default();
        (0..=seconds).for_each(|second| history.record(start + SECOND * second, position(1, second.into())));
        history
    }

    #[test]
    fn a_replica_is_as_old_as_the_newest_position_it_has_replayed() {
        let start = Instant::now();
        let history = history(start, 10);
        assert_eq!(history.reached(&standby(4)), Some(start + SECOND * 4));
        assert_eq!(history.reached(&standby(99)), Some(start + SECOND * 10));
        let mut late = History::default();
        late.record(start, position(1, 100));
        assert_eq!(late.reached(&standby(99)), None, "older than all that is known");
    }

    #[test]
    fn an_idle_primary_moves_its_last_mark() {
        let start = Instant::now();
        let mut history = history(start, 3);
        (4..100).for_each(|second| history.record(start + SECOND * second, position(1, 3)));
        assert_eq!(history.reached(&standby(3)), Some(start + SECOND * 99));
        assert_eq!(history.reached(&standby(2)), Some(start + SECOND * 2));
    }

    #[test]
    fn another_timeline_or_cluster_reaches_nothing() {
        let start = Instant::now();
        let mut history = history(start, 10);
        assert_eq!(history.reached(&Reading { timeline: Some(Timeline(2)), ..standby(99) }), None);
        assert_eq!(history.reached(&Reading { system: Some(SystemId(8)), ..standby(99) }), None);
        assert!(history.reached(&Reading { timeline: None, ..standby(9) }).is_some(), "not shown to this role");
        history.record(start + SECOND * 11, position(2, 5));
        assert_eq!(history.reached(&standby(99)), None, "the past of the old timeline is gone");
    }

    #[test]
    fn marks_are_bounded_and_thinning_makes_nobody_younger() {
        let start = Instant::now();
        let history = history(start, 20_000);
        assert!(history.marks.len() <= MARKS_MAX);
        for lsn in [0, 1, 777, 5_000, 19_000, 19_999, 20_000] {
            let reached = history.reached(&standby(lsn)).unwrap();
            assert!(reached <= start + SECOND * u32::try_from(lsn).unwrap());
        }
        assert_eq!(history.reached(&standby(19_990)), Some(start + SECOND * 19_990), "recent ones are exact");
    }

    #[test]
    fn a_replica_counts_from_when_wal_was_last_seen_to_flow() {
        let start = Instant::now();
        let mut history = history(start, 10);
        let at = |second| start + SECOND * second;
        let well = Sampled::answered(None, at(10), standby(10), &history);
        assert_eq!(well.lag(at(11), SECOND * 2), Some(Duration::ZERO));
        history.record(at(20), position(1, 10));
        for stuck in [Reading { streaming: false, ..standby(10) }, Reading { paused: true, ..standby(10) }] {
            let cut = Sampled::answered(Some(&well), at(20), stuck, &history);
            assert_eq!(cut.lag(at(20), SECOND * 2), Some(SECOND * 10));
            assert_eq!(Sampled::answered(None, at(20), stuck, &history).lag(at(20), SECOND), None);
        }
        assert_eq!(well.lag(at(17), SECOND * 2), Some(SECOND * 7), "the probe is overdue");
        let missed = Sampled::failed(Some(&well), at(17));
        assert_eq!(missed.lag(at(17), SECOND * 2), Some(SECOND * 7), "once is not down");
        assert_eq!(Sampled::failed(Some(&missed), at(18)).lag(at(18), SECOND * 2), None, "nobody can say");
    }

    #[test]
    fn a_node_is_down_after_two_failures_and_up_after_one_answer() {
        let start = Instant::now();
        let history = history(start, 1);
        assert!(!Sampled::failed(None, start).up, "it never answered");
        let up = Sampled::answered(None, start, standby(1), &history);
        let once = Sampled::failed(Some(&up), start);
        assert!(once.up && !Sampled::failed(Some(&once), start).up);
        assert!(Sampled::answered(Some(&once), start, standby(1), &history).up);
    }

    #[test]
    fn eligibility_names_its_reason() {
        let start = Instant::now();
        let at = |second| start + SECOND * second;
        let history = history(start, 10);
        let primary = Sampled::answered(None, at(10), writable(10), &history);
        let flowing = Sampled::answered(None, at(10), standby(10), &history);
        let is = |reading| {
            let replica = Sampled::answered(Some(&flowing), at(10), reading, &history);
            eligible(at(10), Some(&replica), Some(&primary), history.newest(), BOUNDS)
        };
        assert_eq!(is(standby(10)), Ok(()));
        assert_eq!(is(standby(5)), Ok(()));
        assert_eq!(is(standby(4)), Err(Ineligible::Lagging));
        assert_eq!(is(writable(10)), Err(Ineligible::Promoted));
        assert_eq!(is(Reading { timeline: Some(Timeline(2)), ..standby(10) }), Err(Ineligible::OtherBranch));
        assert_eq!(is(Reading { lsn: None, ..standby(10) }), Err(Ineligible::LagUnknown));
        let ask = |replica, primary| eligible(at(10), replica, primary, history.newest(), BOUNDS);
        assert_eq!(ask(None, Some(&primary)), Err(Ineligible::Unsampled));
        assert_eq!(ask(Some(&flowing), None), Err(Ineligible::Unsampled));
        let down = Sampled::failed(Some(&Sampled::failed(Some(&flowing), at(10))), at(10));
        assert_eq!(ask(Some(&down), Some(&primary)), Err(Ineligible::Down));
    }

    #[test]
    fn without_the_primary_a_replica_counts_as_of_when_it_was_last_heard() {
        let start = Instant::now();
        let at = |second| start + SECOND * second;
        let history = history(start, 10);
        let up = Sampled::answered(None, at(10), writable(10), &history);
        let gone = Sampled::failed(Some(&Sampled::failed(Some(&up), at(11))), at(12));
        let flowing = Sampled::answered(None, at(10), standby(10), &history);
        let later = |lsn| {
            let replica =
                Sampled::answered(Some(&flowing), at(600), Reading { streaming: false, ..standby(lsn) }, &history);
            assert!(replica.lag(at(600), SECOND * 2) >= Some(SECOND * 590), "what is reported grows");
            eligible(at(600), Some(&replica), Some(&gone), history.newest(), BOUNDS)
        };
        assert_eq!(later(10), Ok(()));
        assert_eq!(later(3), Err(Ineligible::Lagging), "it was behind already");
        let never_heard = Sampled::failed(None, at(10));
        assert_eq!(eligible(at(10), Some(&flowing), Some(&never_heard), None, BOUNDS), Ok(()));
    }
}
