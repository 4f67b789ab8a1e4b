//! Every way through small worlds: two instances, and a menu of steps each of which happens at most so often, in any order.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::fmt::{self, Write};
use std::hash::{Hash, Hasher};

use super::mutant::Mutant;
use super::postgres::Kind;
use super::world::{NEWEST, Step, World};

/// A step, and how often it may happen.
type Menu = Vec<(Step, u8)>;

struct Search {
    steps: Vec<Step>,
    seen: HashSet<u64>,
    way: Vec<Step>,
}

/// Feeds what is printed to a hash: the real ledger prints all that it holds.
struct Hashed(DefaultHasher);

impl Write for Hashed {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

impl Search {
    fn of(world: &World, menu: &Menu) -> Result<usize, String> {
        let mut search =
            Self { steps: menu.iter().map(|(step, _)| *step).collect(), seen: HashSet::new(), way: Vec::new() };
        let mut left: Vec<u8> = menu.iter().map(|(_, count)| *count).collect();
        search.from(world, &mut left)?;
        Ok(search.seen.len())
    }

    fn from(&mut self, world: &World, left: &mut Vec<u8>) -> Result<(), String> {
        let mut hashed = Hashed(DefaultHasher::new());
        left.hash(&mut hashed.0);
        write!(hashed, "{world:?}").unwrap();
        if !self.seen.insert(hashed.0.finish()) {
            return Ok(());
        }
        let mut is_end = true;
        for index in 0..left.len() {
            if left[index] == 0 {
                continue;
            }
            let (mut next, step) = (world.clone(), self.steps[index]);
            self.way.push(step);
            let done = next.step(step).map_err(|seen| format!("{:?}: {seen}", self.way))?;
            if done {
                is_end = false;
                left[index] -= 1;
                self.from(&next, left)?;
                left[index] += 1;
            }
            self.way.pop();
        }
        if is_end {
            world.clone().heal().map_err(|seen| format!("{:?}: {seen}", self.way))?;
        }
        Ok(())
    }
}

const PRIMARY: usize = NEWEST;
const BEGIN: Step = Step::Begin { primary: PRIMARY, rows: 1, kind: Kind::Soft, is_sync: false };
const LOG: Step = Step::Log { primary: PRIMARY, which: 0 };
const SHOW: Step = Step::Show { primary: PRIMARY, which: 0 };
const REPLAY: Step = Step::Replay { replica: 0, bytes: 20 };
const REPLICA: usize = 0;

fn publish(publisher: usize) -> Step {
    Step::Publish { publisher, primary: PRIMARY }
}

fn request(instance: usize) -> Step {
    Step::Request { instance, key: 0, has_redis: true }
}

fn read(instance: usize, source: usize) -> Step {
    Step::Read { instance, fill: 0, source }
}

fn end(instance: usize) -> Step {
    Step::EndFill { instance, fill: 0 }
}

fn hear(instance: usize) -> Step {
    Step::Hear { instance }
}

fn share(instance: usize) -> Step {
    Step::Share { instance }
}

fn follow(instance: usize) -> Step {
    Step::Follow { instance, primary: PRIMARY, is_anew: false }
}

/// Two instances that have begun and heard that all is well, one replica, two publishers of which one is at work, and a
/// transaction that has written and not yet committed.
fn world(mutant: Option<Mutant>) -> World {
    let mut world = World::new(2, 1, 2, 100, mutant);
    let begin = |instance| Step::BeginInstance { instance };
    let round = [publish(0); 6];
    for step in [begin(0), begin(1)].into_iter().chain(round).chain([hear(0), hear(1), REPLAY, BEGIN]) {
        world.step(step).unwrap();
    }
    world
}

fn all_ways(world: &World, menu: &Menu, at_least: usize) {
    let states = Search::of(world, menu).unwrap_or_else(|seen| panic!("{seen}"));
    assert!(states >= at_least, "{states}");
}

/// A change is published while one instance fills from a replica, and the other looks into the shared cache.
fn purge_and_fill() -> Menu {
    vec![
        (LOG, 1),
        (SHOW, 1),
        (publish(0), 4),
        (REPLAY, 1),
        (hear(0), 1),
        (hear(1), 1),
        (request(0), 2),
        (read(0, REPLICA), 1),
        (end(0), 1),
        (share(0), 1),
        (request(1), 1),
    ]
}

/// The stream loses its end while a publisher that was overtaken goes on.
fn lost_end() -> Menu {
    vec![
        (LOG, 1),
        (SHOW, 1),
        (publish(0), 4),
        (publish(1), 4),
        (Step::LoseTail { count: 1 }, 1),
        (hear(0), 1),
        (request(0), 2),
        (read(0, REPLICA), 1),
        (end(0), 1),
    ]
}

/// Another publisher takes over, of whom the database remembers nothing, and goes on from what its instance has heard. That one
/// may have gone its own way meanwhile, or the stream may have lost its end.
fn takeover(meanwhile: &[(Step, u8)]) -> Menu {
    let forget = Step::ForgetCursor { primary: PRIMARY };
    let menu = [(LOG, 1), (SHOW, 1), (forget, 1), (publish(1), 4), (hear(1), 1), (hear(0), 1), (request(0), 1)];
    [&menu, meanwhile].concat()
}

fn own_way_meanwhile() -> Menu {
    takeover(&[(follow(1), 3)])
}

/// What is to be purged has been kept before.
fn kept(mutant: Option<Mutant>) -> World {
    let mut world = world(mutant);
    for step in [request(0), read(0, REPLICA), end(0)] {
        world.step(step).unwrap();
    }
    world
}

/// One instance follows the feed by itself while the stream goes on, and shares what it fills with the other.
fn own_way() -> Menu {
    vec![
        (LOG, 1),
        (SHOW, 1),
        (publish(0), 3),
        (follow(0), 3),
        (hear(0), 1),
        (hear(1), 1),
        (request(0), 1),
        (read(0, REPLICA), 1),
        (end(0), 1),
        (share(0), 1),
        (request(1), 1),
    ]
}

/// The replica has been promoted, and the old primary lives on and takes reads.
fn promotion() -> Menu {
    vec![
        (BEGIN, 1),
        (LOG, 1),
        (SHOW, 1),
        (publish(0), 6),
        (hear(0), 2),
        (Step::Sample { instance: 0 }, 1),
        (request(0), 2),
        (read(0, 1), 1),
        (read(0, 2), 1),
        (end(0), 1),
    ]
}

/// With the publisher gone, which another one follows on the new primary.
fn promoted(mutant: Option<Mutant>) -> World {
    let mut world = world(mutant);
    for step in [Step::Promote { replica: 0 }, Step::StopPublisher { publisher: 0 }] {
        world.step(step).unwrap();
    }
    world
}

/// An instance joins while a publisher is between its look and its fence, and asks for what another one has filled.
fn joining() -> Menu {
    let restart = Step::Restart { instance: 1, primary: PRIMARY, has_snapshot: false };
    vec![
        (LOG, 1),
        (SHOW, 1),
        (publish(0), 3),
        (restart, 1),
        (Step::BeginInstance { instance: 1 }, 1),
        (Step::Learn { instance: 1 }, 2),
        (hear(0), 1),
        (request(0), 1),
        (read(0, REPLICA), 1),
        (end(0), 1),
        (share(0), 1),
        (request(1), 1),
    ]
}

/// A purge for good whose fence was never written down, because its primary was gone before that.
fn unfinished_purge() -> Menu {
    let learn = Step::Learn { instance: 0 };
    vec![(publish(0), 12), (hear(0), 3), (learn, 2), (Step::RequestStale { instance: 0, key: 0 }, 1)]
}

/// What it is to purge has been kept before, and the purge is on the replica that was promoted.
fn purged_and_promoted(mutant: Option<Mutant>) -> World {
    let mut world = world(mutant);
    let purge = Step::Begin { primary: PRIMARY, rows: 1, kind: Kind::Hard, is_sync: false };
    let log = Step::Log { primary: PRIMARY, which: 1 };
    let kept = [request(0), read(0, REPLICA), end(0)];
    let purged = [purge, log, Step::Flush { primary: PRIMARY }, REPLAY];
    let promoted = [Step::Promote { replica: 0 }, Step::StopPublisher { publisher: 0 }];
    for step in kept.into_iter().chain(purged).chain(promoted) {
        world.step(step).unwrap();
    }
    world
}

#[test]
fn every_way_of_a_change_past_a_fill_ends_well() {
    all_ways(&world(None), &purge_and_fill(), 5000);
}

#[test]
fn every_way_of_a_stream_that_loses_its_end_ends_well() {
    all_ways(&world(None), &lost_end(), 5000);
}

#[test]
fn every_way_of_an_instance_that_follows_the_feed_itself_ends_well() {
    all_ways(&world(None), &own_way(), 5000);
}

#[test]
fn every_way_of_a_takeover_ends_well() {
    all_ways(&kept(None), &own_way_meanwhile(), 1000);
    all_ways(&kept(None), &takeover(&[(publish(0), 3), (Step::LoseTail { count: 1 }, 1)]), 1000);
}

#[test]
fn every_way_of_a_promotion_ends_well() {
    all_ways(&promoted(None), &promotion(), 5000);
}

#[test]
fn every_way_of_one_that_joins_ends_well() {
    all_ways(&world(None), &joining(), 1000);
}

#[test]
fn every_way_past_a_purge_that_was_cut_off_ends_well() {
    all_ways(&purged_and_promoted(None), &unfinished_purge(), 20);
}

#[test]
fn the_search_finds_broken_rules() {
    let world: fn(_) -> World = world;
    let broken = [
        (world, purge_and_fill(), Mutant::FenceBeforeRows),
        (world, purge_and_fill(), Mutant::ReadAnywhere),
        (world, purge_and_fill(), Mutant::StampAtTheEnd),
        (world, lost_end(), Mutant::ChainUnchecked),
        (kept, own_way_meanwhile(), Mutant::OwnFeedHandedOn),
        (world, own_way(), Mutant::StampVouchesForReads),
        (promoted, promotion(), Mutant::OldPrimaryRead),
        (world, joining(), Mutant::OwnByStampAlone),
        (purged_and_promoted, unfinished_purge(), Mutant::PurgeWithoutFenceForgotten),
    ];
    for (world, menu, mutant) in broken {
        let seen = Search::of(&world(Some(mutant)), &menu).expect_err(&format!("{mutant:?} went unnoticed"));
        println!("{mutant:?}: {seen}");
    }
}
