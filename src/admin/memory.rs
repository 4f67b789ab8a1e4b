//! Since when things are as they are, and what the journal is told of it: what began, what became worse or better, and what is over.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::degraded::{Degraded, Finding, Level, Reason};
use super::journal::{Event, Journal, Kind};

/// What was found at the last look.
#[derive(Default)]
pub(super) struct Memory(Vec<Known>);

struct Known {
    finding: Finding,
    since: DateTime<Utc>,
    began: Instant,
}

impl Memory {
    /// Takes a look in: writes down what has changed, and says since when the rest is so.
    pub(super) fn look(
        &mut self,
        found: Vec<Finding>,
        (now, at): (Instant, DateTime<Utc>),
        journal: &Journal,
    ) -> Vec<Degraded> {
        let note = |kind, finding: &Finding, result: String| {
            // Every instance starts, which is its first event.
            if finding.reason != Reason::Starting {
                let (by, what) = ("this instance".to_owned(), finding.detail.clone());
                journal.note(Event { at, kind, by, what, result, id: None });
            }
        };
        let mut over = Vec::new();
        for known in std::mem::take(&mut self.0) {
            let lasts = found.iter().any(|finding| finding.is_same(&known.finding));
            if lasts { &mut self.0 } else { &mut over }.push(known);
        }
        let mut shown = Vec::with_capacity(found.len());
        for finding in found {
            let code = finding.reason.as_str();
            let (since, began) = if let Some(known) = self.0.iter_mut().find(|known| known.finding.is_same(&finding)) {
                let (before, after) = (known.finding.reason.level(), finding.reason.level());
                if before != after {
                    let result = format!("{code} from {} to {}", before.as_str(), after.as_str());
                    note(moved(before, after), &finding, result);
                }
                known.finding.clone_from(&finding);
                (known.since, known.began)
            } else {
                // What is said in place of something else is no end of that: a breaker opens, and then the node is known to be down.
                if let Some(index) = over.iter().position(|known| finding.replaces(&known.finding)) {
                    let before = over.swap_remove(index);
                    let (reason, lasted) = (before.finding.reason, before.lasted(now));
                    let result = format!("from {} to {code} after {lasted}", reason.as_str());
                    note(moved(reason.level(), finding.reason.level()), &finding, result);
                } else {
                    note(Kind::Degraded, &finding, code.to_owned());
                }
                self.0.push(Known { finding: finding.clone(), since: at, began: now });
                (at, now)
            };
            shown.push(finding.degraded(since, now.saturating_duration_since(began).as_secs()));
        }
        for known in over {
            note(Kind::Recovered, &known.finding, format!("over after {}", known.lasted(now)));
        }
        shown
    }
}

impl Known {
    fn lasted(&self, now: Instant) -> humantime::FormattedDuration {
        humantime::format_duration(Duration::from_secs(now.saturating_duration_since(self.began).as_secs()))
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
