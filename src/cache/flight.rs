//! One run of a source for all who wait for what it brings.
//!
//! The first to ask leads: it runs the source and tells the rest. The run belongs to nobody's connection, so a leader
//! whose client has gone leaves no one without an answer; and a leader that dies says so when it is dropped.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::fence::{Fences, Standing, Ticket};
use super::tag::Tag;
use crate::error::{Code, Error};
use crate::position::Position;
use crate::telemetry::traces::Link;

/// What is under way in this process, by what is asked for.
pub struct Flights<K, T> {
    running: Arc<Running<K, T>>,
    running_max: usize,
    next_number: AtomicU64,
}

type Running<K, T> = Mutex<HashMap<K, Flight<T>>>;

/// What it came to, for all who waited.
type Outcome<T> = Result<T, Error>;

struct Flight<T> {
    number: u64,
    told: Option<Position>,
    tags: Arc<[Tag]>,
    leader: Leader,
    outcome: watch::Receiver<Option<Outcome<T>>>,
}

/// The span of who runs the source, once it runs.
type Leader = Arc<OnceLock<Link>>;

/// The part of a request in a flight.
pub enum Join<K: Eq + Hash, T> {
    /// It runs the source, and must finish the lead; it waits like all others.
    Lead(Lead<K, T>, Wait<T>),
    /// Another request runs the source already.
    Follow(Wait<T>),
    /// As many sources as may are running.
    Refused,
}

/// The duty to finish a flight. Dropping it unfinished tells the followers that it broke off.
pub struct Lead<K: Eq + Hash, T> {
    wanted: K,
    number: u64,
    ticket: Ticket,
    running: Arc<Running<K, T>>,
    leader: Leader,
    outcome: watch::Sender<Option<Outcome<T>>>,
}

/// A wait for the outcome.
pub struct Wait<T> {
    outcome: watch::Receiver<Option<Outcome<T>>>,
    leader: Leader,
}

impl<K: Clone + Eq + Hash, T> Flights<K, T> {
    /// None yet, and at most so many at once.
    pub fn new(running_max: usize) -> Self {
        Self { running: Arc::default(), running_max, next_number: AtomicU64::new(0) }
    }

    /// Joins the flight for what is wanted, or becomes its leader. One that began before a purge of its tags was applied is not
    /// joined: those who come after the purge must not get what was read before it. It goes on for those who wait already.
    pub fn join(&self, wanted: K, tags: &Arc<[Tag]>, fences: &Fences) -> Join<K, T> {
        let mut running = self.running.lock();
        let is_full = running.len() >= self.running_max;
        let (ticket, is_overtaken) = fences.read(|ledger| {
            let lacks = |flight: &Flight<T>| {
                matches!(ledger.standing(flight.told, None, &flight.tags), Standing::Purged | Standing::Forbidden)
            };
            (ledger.ticket(tags), running.get(&wanted).is_some_and(lacks))
        });
        let place = running.entry(wanted.clone());
        match &place {
            Place::Occupied(place) if !is_overtaken => {
                let Flight { outcome, leader, .. } = place.get();
                return Join::Follow(Wait { outcome: outcome.clone(), leader: Arc::clone(leader) });
            }
            Place::Vacant(_) if is_full => return Join::Refused,
            Place::Occupied(_) | Place::Vacant(_) => {}
        }
        let (sender, receiver) = watch::channel(None);
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let (leader, tags, outcome) = (Leader::default(), Arc::clone(tags), receiver.clone());
        place.insert_entry(Flight { number, told: ticket.told, tags, leader: Arc::clone(&leader), outcome });
        let running = Arc::clone(&self.running);
        let wait = Wait { outcome: receiver, leader: Arc::clone(&leader) };
        Join::Lead(Lead { wanted, number, ticket, running, leader, outcome: sender }, wait)
    }

    /// Sources that run now.
    pub fn running(&self) -> usize {
        self.running.lock().len()
    }
}

impl<K: Eq + Hash, T> Lead<K, T> {
    /// What it is for.
    pub fn wanted(&self) -> &K {
        &self.wanted
    }

    /// What was noted when the lead was taken.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Tells those who follow which span runs the source.
    pub fn set_leader(&self, link: Link) {
        let _only_once = self.leader.set(link);
    }

    /// Tells everyone who waits. Whoever comes after this looks first for what is kept, so the caller has put it there.
    pub fn finish(self, outcome: Outcome<T>) {
        self.tell(outcome);
    }

    fn tell(&self, outcome: Outcome<T>) {
        let mut running = self.running.lock();
        if running.get(&self.wanted).is_some_and(|flight| flight.number == self.number) {
            running.remove(&self.wanted);
        }
        drop(running);
        self.outcome.send_replace(Some(outcome));
    }
}

impl<K: Eq + Hash, T> Drop for Lead<K, T> {
    fn drop(&mut self) {
        if self.outcome.borrow().is_none() {
            self.tell(Err(broke_off()));
        }
    }
}

impl<T: Clone> Wait<T> {
    /// The span of who runs the source, where that is traced.
    pub fn leader(&self) -> Option<&Link> {
        self.leader.get()
    }

    /// Waits for the outcome. Cancelling only stops the waiting, never the flight; callers bring their own deadline.
    pub async fn outcome(mut self) -> Outcome<T> {
        match self.outcome.wait_for(Option::is_some).await.map(|outcome| outcome.clone()) {
            Ok(Some(outcome)) => outcome,
            Ok(None) | Err(_) => Err(broke_off()),
        }
    }
}

/// A flight ends with an outcome, panics included, unless its worker stops under it.
fn broke_off() -> Error {
    Error::new(Code::Draining, "the server is shutting down")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::super::fence::SilenceLimits;
    use super::*;
    use crate::position::{SystemId, Timeline};

    fn fences() -> Fences {
        let limits = SilenceLimits { max: Duration::from_secs(2), hard_max: None };
        let fences = Fences::new(100, limits);
        fences.change(|ledger| ledger.begin(Position::start_of(SystemId(1), Timeline(0)), None));
        fences
    }

    fn join(flights: &Flights<u8, ()>, fences: &Fences, wanted: u8) -> Join<u8, ()> {
        flights.join(wanted, &Arc::from([Tag::new("a")]), fences)
    }

    #[test]
    fn one_leads_and_the_rest_follow() {
        let (flights, fences) = (Flights::new(2), fences());
        let Join::Lead(lead, own) = join(&flights, &fences, 1) else { panic!("the first leads") };
        let Join::Follow(wait) = join(&flights, &fences, 1) else { panic!("the second follows") };
        assert_eq!(flights.running(), 1);
        let outcome = Err(Error::new(Code::DatabaseUnavailable, "gone"));
        lead.finish(outcome.clone());
        for wait in [own, wait] {
            assert_eq!(wait.outcome().now_or_never().unwrap(), outcome);
        }
        assert_eq!(flights.running(), 0);
    }

    #[test]
    fn a_leader_that_dies_leaves_nobody_waiting() {
        let (flights, fences) = (Flights::new(1), fences());
        let Join::Lead(lead, wait) = join(&flights, &fences, 1) else { panic!("the first leads") };
        assert!(matches!(join(&flights, &fences, 2), Join::Refused), "the bound holds");
        drop(lead);
        assert_eq!(wait.outcome().now_or_never().unwrap().unwrap_err().code, Code::Draining);
        assert!(matches!(join(&flights, &fences, 1), Join::Lead(..)), "the next one leads again");
    }

    #[test]
    fn who_comes_after_a_purge_does_not_join_a_flight_from_before() {
        let (flights, fences) = (Flights::new(1), fences());
        let Join::Lead(old, old_wait) = join(&flights, &fences, 1) else { panic!("the first leads") };
        fences.change(|ledger| ledger.purge_here(&[Tag::new("b")], None, false));
        assert!(matches!(join(&flights, &fences, 1), Join::Follow(_)), "another tag is no matter");
        fences.change(|ledger| ledger.purge_here(&[Tag::new("a")], None, false));
        let Join::Lead(new, new_wait) = join(&flights, &fences, 1) else { panic!("it leads its own") };
        old.finish(Ok(()));
        assert!(old_wait.outcome().now_or_never().unwrap().is_ok(), "for those who came before the purge");
        assert!(new_wait.outcome().now_or_never().is_none(), "and for nobody else");
        assert!(
            matches!(join(&flights, &fences, 1), Join::Follow(_)),
            "the end of the old one is not that of the new one"
        );
        drop(new);
        assert_eq!(flights.running(), 0);
    }
}
