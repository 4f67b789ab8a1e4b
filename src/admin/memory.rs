//! Since when things are as they are, and what the journal is told of it: what began, what became worse or better, and what is over.
//!
//! What comes and goes is one matter, not many: from its third coming within five minutes on it is flapping. It stays said until it has
//! been well for a minute, with its first coming as since when, and the journal has its begin and its end alone. Whatever else is over is
//! over at once: who has mended something wants to see that.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::degraded::{Degraded, Finding, Flapping, Level, Reason};
use super::journal::{Event, Journal, Kind};

/// What begins so often within the window is flapping.
const FLAPS_MIN: usize = 3;
const FLAPS_WINDOW: Duration = Duration::from_secs(5 * 60);
/// What flaps is over when it has been well for so long.
const WELL_TIME_MIN: Duration = Duration::from_secs(60);
/// Beginnings that are remembered; more than one a second there are hardly, and nobody minds at which number they stop.
const BEGINNINGS_MAX: usize = 100;

/// A moment on both clocks: one to count with, one to show.
type Moment = (Instant, DateTime<Utc>);

/// What was found at the last looks.
#[derive(Default)]
pub(super) struct Memory(Vec<Known>);

struct Known {
    finding: Finding,
    since: Moment,
    /// When it began, of late; the last is the newest.
    beginnings: VecDeque<Moment>,
    /// Since when it has not been found, where it was not.
    well_since: Option<Instant>,
    /// Whether it was said at the last look.
    is_said: bool,
}

impl Memory {
    /// Takes a look in: writes down what has changed, and says since when the rest is so. The worst comes first.
    pub(super) fn look(&mut self, found: Vec<Finding>, moment: Moment, journal: &Journal) -> Vec<Degraded> {
        let (now, at) = moment;
        let note = |kind, finding: &Finding, result: String| {
            // Every instance starts, which is its first event.
            if finding.reason != Reason::Starting {
                let (by, what) = ("this instance".to_owned(), finding.detail.clone());
                journal.note(Event { at, kind, by, what, result, id: None });
            }
        };
        let mut over = self.over(&found, now);
        let mut said = Vec::with_capacity(found.len());
        for finding in found {
            let mut known = self.take(&finding).unwrap_or_else(|| Known::new(&finding, moment));
            let before = std::mem::replace(&mut known.finding, finding.clone());
            if known.well_since.take().is_some() {
                known.begin(moment);
            }
            let code = finding.reason.as_str();
            let flapping = known.flaps().map_or_else(String::new, |times| format!(", flapping: {times} times in 5m"));
            if std::mem::replace(&mut known.is_said, true) {
                let (before, after) = (before.reason.level(), finding.reason.level());
                if before != after {
                    let result = format!("{code} from {} to {}", before.as_str(), after.as_str());
                    note(moved(before, after), &finding, result);
                }
            } else if let Some(index) = over.iter().position(|(before, _)| finding.replaces(before)) {
                // What is said in place of something else is no end of that: a breaker opens, and then the node is known to be down.
                let (Finding { reason, .. }, lasted) = over.swap_remove(index);
                let result = format!("from {} to {code} after {lasted}{flapping}", reason.as_str());
                note(moved(reason.level(), finding.reason.level()), &finding, result);
            } else {
                note(Kind::Degraded, &finding, format!("{code}{flapping}"));
            }
            said.push((finding, known.degraded(now)));
            self.0.push(known);
        }
        for (finding, lasted) in over {
            note(Kind::Recovered, &finding, format!("over after {lasted}"));
        }
        let mut well: Vec<&Known> = self.0.iter().filter(|known| known.is_said && known.well_since.is_some()).collect();
        well.sort_by_key(|known| known.finding.rank());
        for known in well {
            // One line for a node, whatever it says of it just now.
            if !said.iter().any(|(finding, _)| finding.replaces(&known.finding)) {
                said.push((known.finding.clone(), known.degraded(now)));
            }
        }
        self.0.retain(|known| known.is_said || !known.beginnings.is_empty());
        said.sort_by_key(|(finding, _)| finding.rank());
        said.into_iter().map(|(_, degraded)| degraded).collect()
    }

    /// What was said until now and is so no more, and how long it lasted.
    fn over(&mut self, found: &[Finding], now: Instant) -> Vec<(Finding, humantime::FormattedDuration)> {
        let mut over = Vec::new();
        for known in &mut self.0 {
            known.beginnings.retain(|(began, _)| now.saturating_duration_since(*began) < FLAPS_WINDOW);
            if found.iter().any(|finding| finding.is_same(&known.finding)) {
                continue;
            }
            let well_for = now.saturating_duration_since(*known.well_since.get_or_insert(now));
            let stays = known.flaps().is_some() && well_for < WELL_TIME_MIN;
            if known.is_said && !stays {
                known.is_said = false;
                // What had to be well for a while first was a series, and the next coming is none of it any more.
                if !well_for.is_zero() {
                    known.beginnings.clear();
                }
                over.push((known.finding.clone(), humantime::format_duration(known.lasted(now))));
            }
        }
        over
    }

    /// What is known of a matter.
    fn take(&mut self, finding: &Finding) -> Option<Known> {
        let at = self.0.iter().position(|known| known.finding.is_same(finding))?;
        Some(self.0.swap_remove(at))
    }
}

impl Known {
    /// A matter of which nothing has begun yet.
    fn new(finding: &Finding, since: Moment) -> Self {
        let well_since = Some(since.0);
        Self { finding: finding.clone(), since, beginnings: VecDeque::new(), well_since, is_said: false }
    }

    fn begin(&mut self, moment: Moment) {
        let was_flapping = self.flaps().is_some();
        if self.beginnings.len() >= BEGINNINGS_MAX {
            self.beginnings.pop_front();
        }
        self.beginnings.push_back(moment);
        if !was_flapping {
            let first = self.beginnings.front().copied().filter(|_| self.flaps().is_some());
            self.since = first.unwrap_or(moment);
        }
    }

    /// How often it has begun of late, where that is often.
    fn flaps(&self) -> Option<usize> {
        let times = self.beginnings.len();
        (times >= FLAPS_MIN && self.finding.reason.can_flap()).then_some(times)
    }

    /// In whole seconds.
    fn lasted(&self, now: Instant) -> Duration {
        Duration::from_secs(now.saturating_duration_since(self.since.0).as_secs())
    }

    fn degraded(&self, now: Instant) -> Degraded {
        let mut degraded = self.finding.clone().degraded(self.since.1, self.lasted(now).as_secs());
        let well_s = self.well_since.map(|well| now.saturating_duration_since(well).as_secs());
        degraded.flapping = self.flaps().map(|times| Flapping { times, well_s });
        degraded
    }
}

/// What is less bad than before has recovered by that much; what is as bad, and something else, has not.
fn moved(before: Level, after: Level) -> Kind {
    if after < before { Kind::Recovered } else { Kind::Degraded }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn finding(reason: Reason, subject: &str) -> Finding {
        Finding { reason, subject: subject.to_owned(), detail: format!("{subject} is out.") }
    }

    #[test]
    fn what_lasts_keeps_its_beginning_and_what_is_over_is_written_down() {
        let (mut memory, journal) = (Memory::default(), Journal::default());
        let (now, at) = (Instant::now(), Utc::now());
        let later =
            |seconds| (now + Duration::from_secs(seconds), at + TimeDelta::seconds(i64::try_from(seconds).unwrap()));
        let [one, two] = ["replica-1", "replica-2"].map(|name| finding(Reason::ReplicaDown, name));
        memory.look(vec![one.clone()], later(0), &journal);
        let degraded = memory.look(vec![one, two.clone()], later(90), &journal);
        assert_eq!(degraded.iter().map(|one| (one.since, one.for_s)).collect::<Vec<_>>(), [(at, 90), (later(90).1, 0)]);
        let degraded = memory.look(vec![two], later(100), &journal);
        assert_eq!((degraded.len(), degraded[0].for_s), (1, 10));
        assert!(memory.look(Vec::new(), later(100), &journal).is_empty());
        let results: Vec<String> = journal.events().into_iter().rev().map(|event| event.result).collect();
        let over = |time| format!("over after {time}");
        assert_eq!(results, ["replica_down".to_owned(), "replica_down".to_owned(), over("1m 40s"), over("10s")]);
    }

    #[test]
    fn a_look_within_the_same_moment_is_no_second_beginning() {
        let (mut memory, journal, when) = (Memory::default(), Journal::default(), (Instant::now(), Utc::now()));
        for _ in 0..3 {
            memory.look(vec![finding(Reason::BusSilent, "")], when, &journal);
        }
        assert_eq!(journal.events().len(), 1);
    }

    /// Kinds and results, the oldest first.
    fn told(journal: &Journal) -> Vec<(Kind, String)> {
        journal.events().into_iter().rev().map(|event| (event.kind, event.result)).collect()
    }

    #[test]
    fn what_gives_way_to_something_worse_has_not_recovered() {
        let (mut memory, journal) = (Memory::default(), Journal::default());
        let (now, at) = (Instant::now(), Utc::now());
        let looks = [
            [finding(Reason::ReadsOnPrimary, ""), finding(Reason::BreakerOpen, "primary")],
            [finding(Reason::ReadsFromCache, ""), finding(Reason::PrimaryDown, "primary")],
            [finding(Reason::ReadsOnPrimary, ""), finding(Reason::ReplicaDown, "replica-1")],
        ];
        for (look, seconds) in looks.into_iter().zip(0..) {
            memory.look(look.into(), (now + Duration::from_secs(seconds), at), &journal);
        }
        let text = |kind, text: &str| (kind, text.to_owned());
        let expected = [
            text(Kind::Degraded, "reads_on_primary"),
            text(Kind::Degraded, "breaker_open"),
            text(Kind::Degraded, "from reads_on_primary to reads_from_cache after 1s"),
            text(Kind::Degraded, "from breaker_open to primary_down after 1s"),
            text(Kind::Recovered, "from reads_from_cache to reads_on_primary after 1s"),
            text(Kind::Degraded, "replica_down"),
            text(Kind::Recovered, "over after 1s"),
        ];
        assert_eq!(told(&journal), expected);
    }

    /// Looks once a second; the matter is found in those seconds for which it says so.
    fn watched(seconds: std::ops::Range<u64>, is_found: impl Fn(u64) -> bool) -> (Vec<Vec<Degraded>>, Journal) {
        let (mut memory, journal, now, at) = (Memory::default(), Journal::default(), Instant::now(), Utc::now());
        let look = |second| {
            let found = is_found(second).then(|| finding(Reason::ReplicaDown, "replica-1"));
            let later = at + TimeDelta::seconds(i64::try_from(second).unwrap());
            memory.look(found.into_iter().collect(), (now + Duration::from_secs(second), later), &journal)
        };
        (seconds.map(look).collect(), journal)
    }

    #[test]
    fn what_comes_and_goes_is_one_matter_from_its_first_coming_on() {
        // Out for the first ten of every twenty seconds, and well from 200 on.
        let (looks, journal) = watched(0..400, |second| second < 200 && second % 20 < 10);
        for (second, look) in looks.iter().enumerate() {
            let is_said = if second < 40 { second % 20 < 10 } else { second < 190 + 60 };
            assert_eq!(!look.is_empty(), is_said, "{second}");
            let Some(one) = look.first() else { continue };
            assert_eq!(one.flapping.is_some(), second >= 40, "{second}");
            let since_the_first = !(10..40).contains(&second);
            assert_eq!(one.for_s == u64::try_from(second).unwrap(), since_the_first, "{second}: {one:?}");
        }
        let one = &looks[75][0];
        assert_eq!(one.flapping, Some(Flapping { times: 4, well_s: Some(5) }));
        assert_eq!(
            (&*one.detail, &*one.sentence()),
            ("replica-1 is out.", "Comes and goes, 4 times within 5 minutes: replica-1 is out.")
        );
        assert_eq!(looks[65][0].sentence(), one.sentence(), "it is said alike whether it is out or well");
        let results: Vec<String> = told(&journal).into_iter().map(|(_, result)| result).collect();
        let expected = [
            "replica_down",
            "over after 10s",
            "replica_down",
            "over after 10s",
            "replica_down, flapping: 3 times in 5m",
            "over after 4m 10s",
        ];
        assert_eq!(results, expected);
    }

    #[test]
    fn a_series_longer_than_its_window_keeps_its_first_coming_and_counts_no_further_than_it_may() {
        let (looks, journal) = watched(0..700, |second| second % 2 == 0);
        let last = &looks[699][0];
        assert_eq!(last.flapping, Some(Flapping { times: BEGINNINGS_MAX, well_s: Some(0) }));
        assert_eq!(last.for_s, 699);
        assert_eq!(told(&journal).len(), 5, "two that were over, and the begin of the series");
    }

    #[test]
    fn what_is_well_just_now_stands_where_it_stood_and_is_forgotten_in_the_end() {
        let (mut memory, journal) = (Memory::default(), Journal::default());
        let (now, at) = (Instant::now(), Utc::now());
        for second in 0..6 {
            let mut found = vec![finding(Reason::BusSilent, "")];
            if second % 2 == 0 {
                found.insert(0, finding(Reason::PrimaryDown, "primary"));
            }
            memory.look(found, (now + Duration::from_secs(second), at), &journal);
        }
        let found = vec![finding(Reason::BusSilent, "")];
        let said = memory.look(found, (now + Duration::from_secs(6), at), &journal);
        let said: Vec<(&str, bool)> = said.iter().map(|one| (one.reason, one.flapping.is_some())).collect();
        assert_eq!(said, [("primary_down", true), ("bus_silent", false)], "the worst comes first, though it is well");
        assert!(memory.look(Vec::new(), (now + Duration::from_secs(7) + FLAPS_WINDOW, at), &journal).is_empty());
        assert!(memory.0.is_empty());
    }

    #[test]
    fn what_comes_now_and_then_is_no_series_and_what_has_stayed_is_over_at_once() {
        let (looks, _) = watched(0..1000, |second| second % 160 < 10);
        assert!(looks.iter().flatten().all(|one| one.flapping.is_none() && one.for_s < 10));
        // Three times, and then it stays for longer than the window.
        let (looks, _) = watched(0..600, |second| (second < 40 && second % 20 < 10) || (40..500).contains(&second));
        assert_eq!((looks[45][0].flapping.map(|one| one.times), looks[45][0].for_s), (Some(3), 45));
        assert_eq!((looks[499][0].flapping, looks[499][0].for_s), (None, 499), "since when does not move");
        assert!(looks[500].is_empty());
    }

    #[test]
    fn a_series_that_was_said_to_be_over_is() {
        // Three times, well from 50 on and so over at 110, and then again, for good.
        let (looks, journal) =
            watched(0..300, |second| (second < 60 && second % 20 < 10) || (200..290).contains(&second));
        assert!(looks[109][0].flapping.is_some() && looks[110..200].iter().all(Vec::is_empty));
        for (second, for_s) in (200..290).zip(0..) {
            assert_eq!((looks[second][0].flapping, looks[second][0].for_s), (None, for_s), "{second}");
        }
        assert!(looks[290].is_empty(), "it does not come and go any more");
        let results: Vec<String> = told(&journal).into_iter().map(|(_, result)| result).collect();
        assert_eq!(results[5..], ["over after 1m 50s", "replica_down", "over after 1m 30s"], "{results:?}");
    }

    #[test]
    fn a_node_has_one_line_whatever_is_said_of_it_just_now() {
        let (mut memory, journal) = (Memory::default(), Journal::default());
        let (now, at) = (Instant::now(), Utc::now());
        let ways = [None, Some(Reason::BreakerOpen), Some(Reason::ReplicaDown)];
        for (reason, second) in ways.into_iter().cycle().zip(0..120) {
            let found = reason.map(|reason| finding(reason, "replica-1"));
            let said = memory.look(found.into_iter().collect(), (now + Duration::from_secs(second), at), &journal);
            assert!(said.len() <= 1, "{said:?}");
            let expected = reason.unwrap_or(Reason::ReplicaDown).as_str();
            assert!(second < 12 || said.iter().any(|one| one.reason == expected), "{second}: {said:?}");
        }
        assert!(journal.events().len() < 20, "{:#?}", journal.events());
    }

    #[test]
    fn what_somebody_acknowledges_is_over_by_that() {
        let (mut memory, journal) = (Memory::default(), Journal::default());
        let (now, at) = (Instant::now(), Utc::now());
        for second in 0..60 {
            let found = (second % 2 == 0).then(|| finding(Reason::AuditWrong, ""));
            let said = memory.look(found.into_iter().collect(), (now + Duration::from_secs(second), at), &journal);
            assert_eq!(said.len(), usize::from(second % 2 == 0), "{second}");
        }
    }

    #[test]
    fn what_becomes_worse_keeps_its_beginning() {
        let (mut memory, journal) = (Memory::default(), Journal::default());
        let (now, at) = (Instant::now(), Utc::now());
        for (reason, seconds) in [Reason::Errors, Reason::ManyErrors, Reason::Errors].into_iter().zip([0, 20, 40]) {
            let shown = memory.look(vec![finding(reason, "")], (now + Duration::from_secs(seconds), at), &journal);
            assert_eq!((shown[0].reason, shown[0].for_s), ("errors", seconds));
        }
        let results: Vec<String> = told(&journal).into_iter().map(|(_, result)| result).collect();
        assert_eq!(results, ["errors", "errors from warning to critical", "errors from critical to warning"]);
    }
}
