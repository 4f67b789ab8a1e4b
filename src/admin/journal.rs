//! What happened lately: purges, whoever ordered them, and each change of how this instance is. Kept in memory, and bounded: the
//! log has all of it for good.

use std::collections::VecDeque;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use parking_lot::Mutex;
use serde::{Serialize, Serializer};

use crate::cache::fence::Message;
use crate::cache::tag::Tag;

/// Events that are kept of operators, and of when this instance began and read its manifest.
const EVENTS_MAX: usize = 128;
/// Events that are kept of how this instance was, apart: a node that comes and goes must not push out who has purged what.
const TURNS_MAX: usize = 128;
/// Events that are kept of the change feed, apart as well: no busy table may, either.
const CHANGES_MAX: usize = 64;
/// Changes so close together are one event.
const CHANGES_TOGETHER: TimeDelta = TimeDelta::seconds(10);
/// Tags that an event of the change feed names.
const TAGS_NAMED_MAX: usize = 4;
/// Characters of what was named.
const WHAT_CHARS_MAX: usize = 300;

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The instance began.
    Start,
    /// An operator purged.
    Purge,
    /// An operator purged everything.
    Flush,
    /// An operator warmed.
    Warm,
    /// An operator changed the levels of the log.
    Log,
    /// An operator acknowledged wrong answers.
    Acknowledge,
    /// A change of watched tables purged.
    Change,
    /// Something that is configured is not in use any more.
    Degraded,
    /// It is in use again.
    Recovered,
    /// `/health/edge` says something else.
    Health,
    /// The manifest was read again.
    Reload,
}

impl Kind {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Purge => "purge",
            Self::Flush => "flush",
            Self::Warm => "warm",
            Self::Log => "log",
            Self::Acknowledge => "acknowledge",
            Self::Change => "change",
            Self::Degraded => "degraded",
            Self::Recovered => "recovered",
            Self::Health => "health",
            Self::Reload => "reload",
        }
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When.
    #[serde(serialize_with = "rfc_3339")]
    pub at: DateTime<Utc>,
    /// What kind of thing.
    pub kind: Kind,
    /// Who: `token` and its fingerprint, `another instance`, `change feed`, `this instance`.
    pub by: String,
    /// What was named, or what is the matter.
    pub what: String,
    /// What came of it.
    pub result: String,
    /// By which a purge is found in the logs of all instances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// The recent past.
#[derive(Default)]
pub struct Journal(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// Events and messages that were written down since the start.
    written: u64,
    /// The newest last.
    events: VecDeque<Event>,
    turns: VecDeque<Event>,
    changes: VecDeque<Changes>,
}

/// Changes that are told as one event.
struct Changes {
    began: DateTime<Utc>,
    at: DateTime<Utc>,
    messages: u64,
    tags: Vec<String>,
    more: usize,
}

impl Journal {
    /// Writes an event down. One with the id of a purge that is there takes its place: who ordered it knows more of it than who heard.
    pub fn note(&self, event: Event) {
        let mut kept = self.0.lock();
        kept.written += 1;
        if event.id.is_some()
            && let Some(heard) = kept.events.iter().position(|known| known.id == event.id)
        {
            kept.events.remove(heard);
        }
        let event = Event { what: shortened(&event.what), ..event };
        match event.kind {
            Kind::Degraded | Kind::Recovered | Kind::Health => push(&mut kept.turns, TURNS_MAX, event),
            Kind::Start
            | Kind::Purge
            | Kind::Flush
            | Kind::Warm
            | Kind::Log
            | Kind::Acknowledge
            | Kind::Change
            | Kind::Reload => {
                push(&mut kept.events, EVENTS_MAX, event);
            }
        }
    }

    /// Writes down what a message made fall.
    pub fn heard(&self, message: &Message, at: DateTime<Utc>) {
        let names = || message.soft.iter().chain(&message.hard).map(Tag::name);
        if message.purges.is_empty() {
            return self.changed(names(), at);
        }
        let mut kept = self.0.lock();
        kept.written += 1;
        for purge in &message.purges {
            let id = Some(purge.to_string());
            if kept.events.iter().any(|known| known.id == id) {
                continue;
            }
            let what = shortened(&format!("tags {}", names().collect::<Vec<_>>().join(" ")));
            let result = if message.hard.is_empty() { "soft" } else { "hard" };
            let (by, result) = ("another instance".to_owned(), result.to_owned());
            push(&mut kept.events, EVENTS_MAX, Event { at, kind: Kind::Purge, by, what, result, id });
        }
    }

    fn changed<'a>(&self, tags: impl Iterator<Item = &'a str>, at: DateTime<Utc>) {
        let mut kept = self.0.lock();
        kept.written += 1;
        if kept.changes.back().is_none_or(|last| at - last.began > CHANGES_TOGETHER) {
            push(&mut kept.changes, CHANGES_MAX, Changes { began: at, at, messages: 0, tags: Vec::new(), more: 0 });
        }
        let Some(last) = kept.changes.back_mut() else { return };
        (last.at, last.messages) = (at, last.messages + 1);
        for tag in tags {
            if last.tags.iter().any(|known| known == tag) {
                continue;
            }
            if last.tags.len() < TAGS_NAMED_MAX {
                last.tags.push(shortened(tag));
            } else {
                last.more = last.more.saturating_add(1);
            }
        }
    }

    /// Moves whenever something is written down.
    pub(super) fn written(&self) -> u64 {
        self.0.lock().written
    }

    /// All that is kept, the newest first.
    pub fn events(&self) -> Vec<Event> {
        let kept = self.0.lock();
        let changes = kept.changes.iter().map(Changes::event);
        let mut events: Vec<Event> = kept.events.iter().chain(&kept.turns).cloned().chain(changes).collect();
        drop(kept);
        events.reverse();
        // Stable, so that what happened within the clock's step keeps its order.
        events.sort_by_key(|event| std::cmp::Reverse(event.at));
        events
    }
}

impl Changes {
    fn event(&self) -> Event {
        let more = if self.more == 0 { String::new() } else { format!(" and {} more", self.more) };
        Event {
            at: self.at,
            kind: Kind::Change,
            by: "change feed".to_owned(),
            what: format!("tags {}{more}", self.tags.join(" ")),
            result: format!(
                "{} purged",
                if self.messages == 1 { "once".to_owned() } else { format!("{} times", self.messages) }
            ),
            id: None,
        }
    }
}

fn push<T>(kept: &mut VecDeque<T>, max: usize, one: T) {
    if kept.len() >= max {
        kept.pop_front();
    }
    kept.push_back(one);
}

/// A text of somebody else's, cut.
fn shortened(text: &str) -> String {
    text.chars().take(WHAT_CHARS_MAX).collect()
}

/// A time as it is shown.
pub(super) fn shown(at: &DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

pub(super) fn rfc_3339<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&shown(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Position, SystemId, Timeline};

    fn event(what: &str, id: Option<&str>, at: DateTime<Utc>) -> Event {
        let text = |text: &str| text.to_owned();
        Event { at, kind: Kind::Purge, by: text("token 1"), what: text(what), result: text("done"), id: id.map(text) }
    }

    fn message(tags: &[&str], purges: &[i64]) -> Message {
        let at = Position::start_of(SystemId(1), Timeline(1));
        Message {
            at,
            reads: None,
            prev: None,
            through: at,
            cursor: String::new(),
            soft: tags.iter().map(|tag| Tag::new(*tag)).collect(),
            hard: Vec::new(),
            purges: purges.to_vec(),
        }
    }

    #[test]
    fn a_purge_is_there_once_whoever_tells_of_it_first() {
        let (journal, now) = (Journal::default(), Utc::now());
        journal.heard(&message(&["a"], &[7]), now);
        assert_eq!(journal.events()[0].by, "another instance");
        journal.note(event("tags a", Some("7"), now));
        journal.heard(&message(&["a"], &[7]), now);
        let events = journal.events();
        assert_eq!((events.len(), events[0].by.as_str()), (1, "token 1"));
    }

    #[test]
    fn a_busy_table_pushes_nobody_out() {
        let (journal, now) = (Journal::default(), Utc::now());
        journal.note(event("tags a", Some("7"), now));
        for second in 0..10_000 {
            journal.heard(&message(&["rates", &format!("rates:{second}")], &[]), now + TimeDelta::seconds(second));
        }
        let events = journal.events();
        assert_eq!(events.len(), CHANGES_MAX + 1);
        assert_eq!(events.last().map(|event| event.kind), Some(Kind::Purge));
        let last = &events[1];
        assert_eq!(last.result, "11 times purged");
        assert!(last.what.starts_with("tags rates rates:") && last.what.ends_with(" and 8 more"), "{}", last.what);
    }

    #[test]
    fn a_node_that_comes_and_goes_pushes_nobody_out() {
        let (journal, now) = (Journal::default(), Utc::now());
        journal.note(event("tags a", Some("7"), now));
        for second in 0..10_000 {
            let kind = if second % 2 == 0 { Kind::Degraded } else { Kind::Recovered };
            journal.note(Event { kind, ..event("replica-1", None, now + TimeDelta::seconds(second)) });
        }
        let events = journal.events();
        assert_eq!((events.len(), events[0].kind), (TURNS_MAX + 1, Kind::Recovered));
        assert_eq!(events.last().map(|event| event.kind), Some(Kind::Purge));
    }

    #[test]
    fn the_newest_comes_first_and_no_more_is_kept_than_allowed() {
        let (journal, now) = (Journal::default(), Utc::now());
        for number in 0..10_000 {
            journal.note(event(&"x".repeat(10_000), None, now + TimeDelta::seconds(number)));
        }
        let events = journal.events();
        assert_eq!((events.len(), events[0].at), (EVENTS_MAX, now + TimeDelta::seconds(9_999)));
        assert_eq!(events[0].what.len(), WHAT_CHARS_MAX);
    }
}
