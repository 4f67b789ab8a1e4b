//! One fill for all who wait on a key.
//!
//! The first to ask leads: it runs the source and tells the rest. The fill belongs to nobody's connection, so a leader
//! whose client has gone leaves no one without an answer; and a leader that dies says so when it is dropped.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::entry::Entry;
use super::fence::{Fences, Standing, Ticket};
use super::key::Key;
use super::tag::Tag;
use crate::error::{Code, Error};
use crate::position::Position;

/// An answer that a fill made.
#[derive(Clone, Debug)]
pub struct Filled {
    /// The answer, for all who waited.
    pub entry: Arc<Entry>,
    /// Whether it is kept for those who come later.
    pub stored: bool,
    /// Where it came from.
    pub layer: Layer,
}

/// Where a fill found its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The route's source was asked.
    Source,
    /// Another instance had asked it.
    Shared,
}

/// What a fill came to: an answer, or the failure that all who waited get.
pub type Outcome = Result<Filled, Error>;

/// The fills that are under way in this process.
pub struct Fills {
    running: Arc<Mutex<HashMap<Key, Running>>>,
    running_max: usize,
    next_number: AtomicU64,
}

/// What a request wants to be filled.
pub struct Wanted<'a> {
    /// Its key.
    pub key: Key,
    /// The canonical request.
    pub canonical: &'a [u8],
    /// The meaning of its route.
    pub fingerprint: &'a [u8; 16],
    /// The tags that are known before the source is asked.
    pub tags: &'a Arc<[Tag]>,
}

struct Running {
    number: u64,
    told: Option<Position>,
    tags: Arc<[Tag]>,
    canonical: Box<[u8]>,
    fingerprint: [u8; 16],
    outcome: watch::Receiver<Option<Outcome>>,
}

/// The part of a request in a fill.
pub enum Join {
    /// It runs the source, and must finish the lead; it waits like all others.
    Lead(Lead, Wait),
    /// Another request runs the source already.
    Follow(Wait),
    /// As many sources as may are running, or (once in 2^64 requests) another request has the same key.
    Refused,
}

/// The duty to finish a fill. Dropping it unfinished tells the followers that it broke off.
pub struct Lead {
    key: Key,
    number: u64,
    ticket: Ticket,
    running: Arc<Mutex<HashMap<Key, Running>>>,
    outcome: watch::Sender<Option<Outcome>>,
}

/// A wait for a fill's outcome.
pub struct Wait(watch::Receiver<Option<Outcome>>);

impl Running {
    fn answers(&self, canonical: &[u8], fingerprint: &[u8; 16]) -> bool {
        *self.canonical == *canonical && self.fingerprint == *fingerprint
    }
}

impl Fills {
    /// No fills yet, and at most so many at once.
    pub fn new(running_max: usize) -> Self {
        Self { running: Arc::default(), running_max, next_number: AtomicU64::new(0) }
    }

    /// Joins the fill of a key, or becomes its leader. A fill that began before a purge of its tags was applied is not
    /// joined: those who come after the purge must not get what was read before it. It goes on for those who wait already.
    pub fn join(&self, wanted: &Wanted<'_>, fences: &Fences) -> Join {
        let Wanted { key, canonical, fingerprint, tags } = *wanted;
        let mut running = self.running.lock();
        let is_full = running.len() >= self.running_max;
        let (ticket, is_overtaken) = fences.read(|ledger| {
            let lacks = |fill: &Running| {
                matches!(ledger.standing(fill.told, None, &fill.tags), Standing::Purged | Standing::Forbidden)
            };
            (ledger.ticket(tags), running.get(&key).is_some_and(lacks))
        });
        let place = running.entry(key);
        match &place {
            Place::Occupied(place) if !place.get().answers(canonical, fingerprint) => return Join::Refused,
            Place::Occupied(place) if !is_overtaken => return Join::Follow(Wait(place.get().outcome.clone())),
            Place::Vacant(_) if is_full => return Join::Refused,
            Place::Occupied(_) | Place::Vacant(_) => {}
        }
        let (sender, receiver) = watch::channel(None);
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        place.insert_entry(Running {
            number,
            told: ticket.told,
            tags: Arc::clone(tags),
            canonical: canonical.into(),
            fingerprint: *fingerprint,
            outcome: receiver.clone(),
        });
        let running = Arc::clone(&self.running);
        Join::Lead(Lead { key, number, ticket, running, outcome: sender }, Wait(receiver))
    }

    /// Sources that run now.
    pub fn running(&self) -> usize {
        self.running.lock().len()
    }
}

impl Lead {
    /// What was noted when the lead was taken.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Tells everyone who waits. Whoever comes after this looks into the store first, so the caller has put the entry there.
    pub fn finish(self, outcome: Outcome) {
        self.tell(outcome);
    }

    fn tell(&self, outcome: Outcome) {
        let mut running = self.running.lock();
        if running.get(&self.key).is_some_and(|fill| fill.number == self.number) {
            running.remove(&self.key);
        }
        drop(running);
        self.outcome.send_replace(Some(outcome));
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if self.outcome.borrow().is_none() {
            self.tell(Err(broke_off()));
        }
    }
}

impl Wait {
    /// Waits for the outcome. Cancelling only stops the waiting, never the fill; callers bring their own deadline.
    pub async fn outcome(mut self) -> Outcome {
        match self.0.wait_for(Option::is_some).await.map(|outcome| outcome.clone()) {
            Ok(Some(outcome)) => outcome,
            Ok(None) | Err(_) => Err(broke_off()),
        }
    }
}

/// A fill ends with an outcome, panics included, unless its worker stops under it.
fn broke_off() -> Error {
    Error::new(Code::Draining, "the server is shutting down")
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use std::time::Duration;

    use super::super::fence::SilenceLimits;
    use super::*;
    use crate::position::{SystemId, Timeline};

    const KEY: Key = Key(1);

    fn fences() -> Fences {
        let limits = SilenceLimits { max: Duration::from_secs(2), hard_max: None };
        let fences = Fences::new(100, limits);
        fences.change(|ledger| ledger.begin(Position::start_of(SystemId(1), Timeline(0)), None));
        fences
    }

    fn join(fills: &Fills, fences: &Fences, key: Key, canonical: &[u8], fingerprint: [u8; 16]) -> Join {
        let tags = Arc::from([Tag::new("a")]);
        fills.join(&Wanted { key, canonical, fingerprint: &fingerprint, tags: &tags }, fences)
    }

    #[test]
    fn one_leads_and_the_rest_follow() {
        let (fills, fences) = (Fills::new(2), fences());
        let join = |canonical, fingerprint| join(&fills, &fences, KEY, canonical, fingerprint);
        let Join::Lead(lead, own) = join(b"a", [0; 16]) else { panic!("the first leads") };
        let Join::Follow(wait) = join(b"a", [0; 16]) else { panic!("the second follows") };
        assert!(matches!(join(b"a", [1; 16]), Join::Refused), "another meaning of the same text goes its own way");
        assert!(matches!(join(b"b", [0; 16]), Join::Refused), "another request with the same key goes its own way");
        assert_eq!(fills.running(), 1);
        let outcome = Err(Error::new(Code::DatabaseUnavailable, "gone"));
        lead.finish(outcome.clone());
        for wait in [own, wait] {
            assert_eq!(wait.outcome().now_or_never().unwrap().unwrap_err(), *outcome.as_ref().unwrap_err());
        }
        assert_eq!(fills.running(), 0);
    }

    #[test]
    fn a_leader_that_dies_leaves_nobody_waiting() {
        let (fills, fences) = (Fills::new(1), fences());
        let join = |key, canonical| join(&fills, &fences, key, canonical, [0; 16]);
        let Join::Lead(lead, wait) = join(KEY, b"a") else { panic!("the first leads") };
        assert!(matches!(join(Key(2), b"x"), Join::Refused), "the bound holds");
        drop(lead);
        assert_eq!(wait.outcome().now_or_never().unwrap().unwrap_err().code, Code::Draining);
        assert!(matches!(join(KEY, b"a"), Join::Lead(..)), "the next one leads again");
    }

    #[test]
    fn who_comes_after_a_purge_does_not_join_a_fill_from_before() {
        let (fills, fences) = (Fills::new(1), fences());
        let Join::Lead(old, _) = join(&fills, &fences, KEY, b"a", [0; 16]) else { panic!("the first leads") };
        fences.change(|ledger| ledger.purge_here(&[Tag::new("b")], None, false));
        assert!(matches!(join(&fills, &fences, KEY, b"a", [0; 16]), Join::Follow(_)), "another tag is no matter");
        fences.change(|ledger| ledger.purge_here(&[Tag::new("a")], None, false));
        let Join::Lead(new, _) = join(&fills, &fences, KEY, b"a", [0; 16]) else { panic!("it leads its own") };
        drop(old);
        assert_eq!(fills.running(), 1, "the end of the overtaken fill is not the end of the new one");
        assert!(matches!(join(&fills, &fences, KEY, b"a", [0; 16]), Join::Follow(_)));
        drop(new);
        assert_eq!(fills.running(), 0);
    }
}
