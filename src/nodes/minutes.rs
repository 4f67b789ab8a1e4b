//! What happened on a node, minute by minute.
//!
//! A minute's latencies are kept as a histogram while it counts for the recent past, then only as its percentiles. So a node's
//! history takes some hundred kilobytes however much it is used, and to record is a matter of nanoseconds.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;

/// Minutes that are remembered.
const MINUTES_MAX: usize = 60;
/// Minutes that count as the recent past, the current one included.
const RECENT_MINUTES: u64 = 5;
/// Longer times count as this one. In microseconds.
const LATENCY_US_MAX: u64 = 60_000_000;
/// Decimal digits of a latency that are kept.
const DIGITS: u8 = 2;

/// Says which minute of the calendar a time lies in.
///
/// It counts on from the moment it was made: a clock that is set while the process runs neither repeats a minute nor skips one.
#[derive(Clone, Copy, Debug)]
pub struct Calendar {
    at: Instant,
    since_epoch: Duration,
}

impl Calendar {
    /// A calendar by which a time is so long after the epoch.
    pub const fn new(at: Instant, since_epoch: Duration) -> Self {
        Self { at, since_epoch }
    }

    /// The calendar by the clock of this machine.
    pub fn of_this_machine() -> Self {
        Self::new(Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// Whole minutes since the epoch.
    pub fn minute(&self, now: Instant) -> u64 {
        (self.since_epoch + now.saturating_duration_since(self.at)).as_secs() / 60
    }
}

/// Latencies at some percentiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percentiles {
    /// Half of all took no longer.
    pub p50: Duration,
    /// 95 of 100 took no longer.
    pub p95: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
}

/// What is told of a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinuteRow {
    /// Whole minutes since the epoch.
    pub minute: u64,
    /// Uses, whatever came of them; probes are none.
    pub ops: u64,
    /// Those that failed because of the node.
    pub errors: u64,
    /// Of the uses that went well; of the probes where there was none.
    pub latency: Option<Percentiles>,
}

/// The history of one node.
#[derive(Debug)]
pub struct Minutes {
    calendar: Calendar,
    /// The oldest first; the last one is the current minute.
    recent: VecDeque<Minute>,
    past: VecDeque<MinuteRow>,
}

#[derive(Debug)]
struct Minute {
    number: u64,
    ops: u64,
    errors: u64,
    uses: Latencies,
    probes: Latencies,
}

/// Nothing until something is recorded: most nodes are either used or only probed.
#[derive(Debug, Default)]
struct Latencies(Option<Histogram<u32>>);

impl Minutes {
    /// A history without an entry.
    pub const fn new(calendar: Calendar) -> Self {
        Self { calendar, recent: VecDeque::new(), past: VecDeque::new() }
    }

    /// A use went well.
    pub fn succeeded(&mut self, now: Instant, took: Duration) {
        if let Some(minute) = self.current(now) {
            minute.ops += 1;
            minute.uses.record(took);
        }
    }

    /// A use failed because of the node. How long that took says nothing of its latency.
    pub fn failed(&mut self, now: Instant) {
        if let Some(minute) = self.current(now) {
            minute.ops += 1;
            minute.errors += 1;
        }
    }

    /// A probe was answered.
    pub fn probed(&mut self, now: Instant, took: Duration) {
        if let Some(minute) = self.current(now) {
            minute.probes.record(took);
        }
    }

    /// The last hour, the oldest minute first. A minute in which nothing was measured is left out.
    pub fn rows(&self, now: Instant) -> Vec<MinuteRow> {
        let oldest = self.calendar.minute(now).saturating_sub(u64::try_from(MINUTES_MAX).unwrap_or(u64::MAX) - 1);
        let all = self.past.iter().copied().chain(self.recent.iter().map(Minute::row));
        all.filter(|row| row.minute >= oldest).collect()
    }

    /// The percentiles of the last minutes' probes, and of their uses where those count, too.
    pub fn recent(&self, now: Instant, with_uses: bool) -> Option<Percentiles> {
        let oldest = self.calendar.minute(now).saturating_sub(RECENT_MINUTES - 1);
        let mut sum = Latencies::default();
        for minute in self.recent.iter().filter(|minute| minute.number >= oldest) {
            sum.add(&minute.probes);
            if with_uses {
                sum.add(&minute.uses);
            }
        }
        sum.percentiles()
    }

    /// The minute that a time lies in. What comes late counts for the newest one.
    fn current(&mut self, now: Instant) -> Option<&mut Minute> {
        let number = self.calendar.minute(now);
        if self.recent.back().is_none_or(|newest| newest.number < number) {
            self.begin(number);
        }
        self.recent.back_mut()
    }

    fn begin(&mut self, number: u64) {
        let is_over = |minute: &mut Minute| minute.number + RECENT_MINUTES <= number;
        while let Some(over) = self.recent.pop_front_if(is_over) {
            self.past.push_back(over.row());
        }
        let surplus = (self.past.len() + self.recent.len() + 1).saturating_sub(MINUTES_MAX);
        self.past.drain(..surplus.min(self.past.len()));
        self.recent.push_back(Minute {
            number,
            ops: 0,
            errors: 0,
            uses: Latencies::default(),
            probes: Latencies::default(),
        });
    }
}

impl Minute {
    fn row(&self) -> MinuteRow {
        let latency = self.uses.percentiles().or_else(|| self.probes.percentiles());
        MinuteRow { minute: self.number, ops: self.ops, errors: self.errors, latency }
    }
}

impl Latencies {
    fn record(&mut self, took: Duration) {
        if let Some(histogram) = self.histogram() {
            histogram.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
    }

    fn add(&mut self, other: &Self) {
        if let (Some(other), Some(histogram)) = (&other.0, other.0.as_ref().and_then(|_| self.histogram())) {
            // Both have the same bounds.
            let _added = histogram.add(other);
        }
    }

    fn percentiles(&self) -> Option<Percentiles> {
        let histogram = self.0.as_ref()?;
        let at = |quantile| Duration::from_micros(histogram.value_at_quantile(quantile));
        Some(Percentiles { p50: at(0.5), p95: at(0.95), p99: at(0.99) })
    }

    /// The histogram, made when it is first needed. Its bounds are sound, as a test shows.
    fn histogram(&mut self) -> Option<&mut Histogram<u32>> {
        if self.0.is_none() {
            self.0 = Histogram::new_with_bounds(1, LATENCY_US_MAX, DIGITS).ok();
        }
        self.0.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const MILLI: Duration = Duration::from_millis(1);

    /// A history that begins ten seconds before minute 100 is over.
    fn minutes() -> (Minutes, Instant) {
        let now = Instant::now();
        (Minutes::new(Calendar::new(now, Duration::from_secs(100 * 60 + 50))), now)
    }

    fn is_about(found: Duration, expected: Duration) {
        let ratio = found.as_secs_f64() / expected.as_secs_f64();
        assert!((0.98..1.02).contains(&ratio), "{found:?} is not about {expected:?}");
    }

    #[test]
    fn each_minute_of_the_calendar_has_its_row() {
        let (mut minutes, now) = minutes();
        minutes.succeeded(now, MILLI);
        minutes.failed(now + MILLI * 9_999);
        minutes.succeeded(now + MILLI * 10_000, MILLI * 7);
        let rows = minutes.rows(now + MILLI * 10_000);
        let told: Vec<_> = rows.iter().map(|row| (row.minute, row.ops, row.errors)).collect();
        assert_eq!(told, [(100, 2, 1), (101, 1, 0)]);
        is_about(rows[1].latency.unwrap().p99, MILLI * 7);
    }

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let (mut minutes, now) = minutes();
        (1..=1000).for_each(|ms| minutes.succeeded(now, MILLI * ms));
        let Percentiles { p50, p95, p99 } = minutes.rows(now)[0].latency.unwrap();
        is_about(p50, MILLI * 500);
        is_about(p95, MILLI * 950);
        is_about(p99, MILLI * 990);
        minutes.succeeded(now, Duration::from_secs(3600));
        assert_eq!(minutes.rows(now)[0].ops, 1001, "what is too long is counted all the same");
    }

    #[test]
    fn probes_are_no_ops_and_tell_the_latency_of_a_minute_without() {
        let (mut minutes, now) = minutes();
        minutes.probed(now, MILLI * 3);
        let row = minutes.rows(now)[0];
        assert_eq!((row.ops, row.errors), (0, 0));
        is_about(row.latency.unwrap().p50, MILLI * 3);
        minutes.succeeded(now, MILLI * 40);
        is_about(minutes.rows(now)[0].latency.unwrap().p50, MILLI * 40);
        is_about(minutes.recent(now, false).unwrap().p95, MILLI * 3);
        is_about(minutes.recent(now, true).unwrap().p95, MILLI * 40);
    }

    #[test]
    fn a_minute_of_failures_alone_has_no_latency() {
        let (mut minutes, now) = minutes();
        minutes.failed(now);
        assert_eq!(minutes.rows(now), [MinuteRow { minute: 100, ops: 1, errors: 1, latency: None }]);
        assert_eq!(minutes.recent(now, true), None);
    }

    #[test]
    fn the_recent_past_is_five_minutes_long_and_the_history_an_hour() {
        let (mut minutes, now) = minutes();
        minutes.probed(now, MILLI * 900);
        assert!(minutes.recent(now + MINUTE * 4, false).is_some());
        assert_eq!(minutes.recent(now + MINUTE * 5, false), None, "although nothing came after it");
        for minute in 1..150 {
            minutes.succeeded(now + MINUTE * minute, MILLI * minute);
            assert!(minutes.rows(now + MINUTE * minute).len() <= MINUTES_MAX);
        }
        let now = now + MINUTE * 149;
        let rows = minutes.rows(now);
        assert_eq!((rows.len(), rows[0].minute, rows[59].minute), (MINUTES_MAX, 190, 249));
        is_about(rows[0].latency.unwrap().p50, MILLI * 90);
        assert_eq!(minutes.recent.len(), 5);
        is_about(minutes.recent(now, true).unwrap().p50, MILLI * 147);
        assert_eq!(minutes.rows(now + MINUTE * 60), [], "nothing was measured for an hour");
    }

    #[test]
    fn what_comes_late_counts_for_the_newest_minute() {
        let (mut minutes, now) = minutes();
        minutes.succeeded(now + MINUTE, MILLI);
        minutes.succeeded(now, MILLI);
        assert_eq!(minutes.rows(now + MINUTE).len(), 1);
        assert_eq!(minutes.rows(now + MINUTE)[0].ops, 2);
    }
}
