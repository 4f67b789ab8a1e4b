//! One fill for all who wait on a key.
//!
//! The first to ask leads: it runs the source and tells the rest. The fill belongs to nobody's connection, so a leader
//! whose client has gone leaves no one without an answer; and a leader that dies says so when it is dropped.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::entry::Entry;
use super::key::Key;
use crate::error::{Code, Error};

/// An answer that a fill made.
#[derive(Clone, Debug)]
pub struct Filled {
    /// The answer, for all who waited.
    pub entry: Arc<Entry>,
    /// Whether it is kept for those who come later.
    pub stored: bool,
}

/// What a fill came to: an answer, or the failure that all who waited get.
pub type Outcome = Result<Filled, Error>;

/// The fills that are under way in this process.
pub struct Fills {
    running: Arc<Mutex<HashMap<Key, Running>>>,
    running_max: usize,
}

struct Running {
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
        Self { running: Arc::default(), running_max }
    }

    /// Joins the fill of a key, or becomes its leader.
    pub fn join(&self, key: Key, canonical: &[u8], fingerprint: &[u8; 16]) -> Join {
        let mut running = self.running.lock();
        let is_full = running.len() >= self.running_max;
        match running.entry(key) {
            Place::Occupied(place) if place.get().answers(canonical, fingerprint) => {
                Join::Follow(Wait(place.get().outcome.clone()))
            }
            Place::Occupied(_) => Join::Refused,
            Place::Vacant(_) if is_full => Join::Refused,
            Place::Vacant(place) => {
                let (sender, receiver) = watch::channel(None);
                let outcome = receiver.clone();
                place.insert(Running { canonical: canonical.into(), fingerprint: *fingerprint, outcome });
                Join::Lead(Lead { key, running: Arc::clone(&self.running), outcome: sender }, Wait(receiver))
            }
        }
    }

    /// Sources that run now.
    pub fn running(&self) -> usize {
        self.running.lock().len()
    }
}

impl Lead {
    /// Tells everyone who waits. Whoever comes after this looks into the store first, so the caller has put the entry there.
    pub fn finish(self, outcome: Outcome) {
        self.tell(outcome);
    }

    fn tell(&self, outcome: Outcome) {
        self.running.lock().remove(&self.key);
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

    use super::*;

    const KEY: Key = Key(1);

    #[test]
    fn one_leads_and_the_rest_follow() {
        let fills = Fills::new(2);
        let Join::Lead(lead, own) = fills.join(KEY, b"a", &[0; 16]) else { panic!("the first leads") };
        let Join::Follow(wait) = fills.join(KEY, b"a", &[0; 16]) else { panic!("the second follows") };
        assert!(
            matches!(fills.join(KEY, b"a", &[1; 16]), Join::Refused),
            "another meaning of the same text goes its own way"
        );
        assert!(
            matches!(fills.join(KEY, b"b", &[0; 16]), Join::Refused),
            "another request with the same key goes its own way"
        );
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
        let fills = Fills::new(1);
        let Join::Lead(lead, wait) = fills.join(KEY, b"a", &[0; 16]) else { panic!("the first leads") };
        assert!(matches!(fills.join(Key(2), b"x", &[0; 16]), Join::Refused), "the bound holds");
        drop(lead);
        assert_eq!(wait.outcome().now_or_never().unwrap().unwrap_err().code, Code::Draining);
        assert!(matches!(fills.join(KEY, b"a", &[0; 16]), Join::Lead(..)), "the next one leads again");
    }
}
