//! The model test of the protocol that `docs/coherence.md` argues for: the real rules, in a world whose every part may be
//! late, gone or back from the past. Thousands of seeds walk it at random, and a search takes every way through a small one.
//!
//! `MODEL_SEEDS=100000` runs that many, `MODEL_SEED=17` that one and prints its steps.

mod instance;
mod log;
mod mutant;
mod postgres;
mod search;
mod world;

use std::env;

use fastrand::Rng;

use self::instance::KEYS;
use self::mutant::{MUTANTS, Mutant};
use self::postgres::Kind;
use self::world::{NEWEST, Step, World};

/// Seeds of one run.
const SEEDS: u64 = 4000;
/// Seeds within which every mutant has to be caught.
const MUTANT_SEEDS: u64 = 40_000;
const STEPS: usize = 160;

const INSTANCES: usize = 3;
const REPLICAS: usize = 2;
const PUBLISHERS: usize = 2;

/// Which kinds of step a seed takes at all, so that no fault drowns in others.
struct Diet {
    rng: Rng,
    faults: u16,
}

impl Diet {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let faults = rng.u16(..) & rng.u16(..) | if rng.bool() { rng.u16(..) } else { 0 };
        Self { rng, faults }
    }

    fn allows(&self, fault: u32) -> bool {
        self.faults & (1 << fault) != 0
    }

    fn primary(&mut self) -> usize {
        self.rng.usize(..3)
    }

    fn next(&mut self) -> Step {
        loop {
            let instance = self.rng.usize(..INSTANCES);
            let (key, row) = (self.rng.usize(..KEYS), self.rng.usize(..2));
            let publisher = self.rng.usize(..PUBLISHERS);
            let step = match self.rng.u8(..100) {
                0..5 => self.begin(),
                5..10 => Step::Log { primary: self.primary(), which: self.rng.usize(..8) },
                10..15 => Step::Show { primary: self.primary(), which: self.rng.usize(..8) },
                15..17 => Step::Flush { primary: self.primary() },
                17..24 => Step::Replay { replica: self.rng.usize(..REPLICAS), bytes: self.rng.u64(1..12) },
                24..40 if publisher == 0 || self.allows(0) => {
                    Step::Publish { publisher, primary: self.publishes_from() }
                }
                40..56 => Step::Hear { instance },
                56..70 => Step::Request { instance, key, has_redis: self.rng.u8(..8) > 0 },
                70..78 => Step::Read { instance, fill: self.rng.usize(..3), source: self.rng.usize(..REPLICAS + 3) },
                78..85 => Step::EndFill { instance, fill: self.rng.usize(..3) },
                85..88 => Step::Share { instance },
                88 => Step::RequestStale { instance, key },
                89..91 => Step::BeginInstance { instance },
                91..93 => Step::Learn { instance },
                93..96 if self.allows(1) => Step::Follow { instance, primary: self.primary() },
                96 => Step::Sample { instance },
                97..99 => match self.fault(instance, row, publisher) {
                    Some(step) => step,
                    None => continue,
                },
                _ => continue,
            };
            return step;
        }
    }

    fn publishes_from(&mut self) -> usize {
        if self.allows(2) { self.primary() } else { NEWEST }
    }

    fn begin(&mut self) -> Step {
        let kind = match self.rng.u8(..12) {
            0 | 1 if self.allows(3) => Kind::Hard,
            2 if self.allows(4) => Kind::Everything,
            _ => Kind::Soft,
        };
        let rows = if kind == Kind::Everything { 0b11 } else { self.rng.u8(1..4) };
        Step::Begin { primary: self.primary(), rows, kind, is_sync: self.rng.bool() }
    }

    fn fault(&mut self, instance: usize, row: usize, publisher: usize) -> Option<Step> {
        let fault = self.rng.u32(5..16);
        let step = match fault {
            5 => Step::Promote { replica: self.rng.usize(..REPLICAS) },
            6 => Step::Prune { primary: self.primary() },
            7 => Step::StopPublisher { publisher },
            8 => Step::LoseTail { count: self.rng.usize(1..4) },
            9 => Step::Trim { count: self.rng.usize(1..6) },
            10 if self.rng.bool() => Step::Dump,
            10 => Step::Restore,
            11 => Step::FlushAll,
            12 => {
                let (primary, has_snapshot) = (self.primary(), self.rng.bool());
                Step::Restart { instance, primary, has_snapshot }
            }
            13 => Step::PurgeHere { instance, row },
            14 => Step::StopFollowing { instance },
            _ => Step::Promote { replica: self.rng.usize(..REPLICAS) },
        };
        Some(step).filter(|_| self.allows(fault))
    }
}

/// One walk. The error has what was seen that must not be.
fn walk(seed: u64, mutant: Option<Mutant>, shows: bool) -> Result<(), String> {
    let mut diet = Diet::new(seed);
    let tags_max = if diet.rng.u8(..4) == 0 { 1 } else { 100 };
    let mut world = World::new(INSTANCES, REPLICAS, PUBLISHERS, tags_max, mutant);
    // Most walks begin with a fleet that is up.
    if diet.rng.u8(..8) > 0 {
        for instance in 0..INSTANCES {
            world.step(Step::BeginInstance { instance })?;
        }
    }
    for _ in 0..STEPS {
        let step = diet.next();
        let done = world.step(step)?;
        if shows && done {
            println!("{step:?}");
        }
    }
    world.heal()
}

fn seeds(otherwise: u64) -> u64 {
    env::var("MODEL_SEEDS").map_or(otherwise, |seeds| seeds.parse().unwrap())
}

#[test]
fn no_walk_finds_anything_fresh_that_lacks_what_was_told() {
    if let Ok(seed) = env::var("MODEL_SEED") {
        return walk(seed.parse().unwrap(), None, true).unwrap();
    }
    for seed in 0..seeds(SEEDS) {
        if let Err(seen) = walk(seed, None, false) {
            panic!("MODEL_SEED={seed}: {seen}");
        }
    }
}

#[test]
fn every_broken_rule_is_noticed() {
    let mut unnoticed = Vec::new();
    for mutant in MUTANTS {
        let caught = (0..MUTANT_SEEDS).find_map(|seed| walk(seed, Some(mutant), false).err().map(|seen| (seed, seen)));
        match caught {
            Some((seed, seen)) => {
                println!("{mutant:?}: seed {seed}: {}", seen.split(" serves").next().unwrap_or_default())
            }
            None => unnoticed.push(mutant),
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:?}");
}
