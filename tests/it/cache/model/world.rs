//! Everything together, moved by one step at a time.

use super::instance::{Checked, Instance, KEYS};
use super::log::{Publisher, Redis};
use super::mutant::Mutant;
use super::postgres::{Kind, Postgres, Replica};

/// The true primary, whichever that is.
pub const NEWEST: usize = usize::MAX;

/// What happens next. Numbers pick among what there is, modulo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    // Postgres.
    Begin { primary: usize, rows: u8, kind: Kind, is_sync: bool },
    Log { primary: usize, which: usize },
    Show { primary: usize, which: usize },
    Flush { primary: usize },
    Replay { replica: usize, bytes: u64 },
    Promote { replica: usize },
    Prune { primary: usize },
    // The way of changes.
    Publish { publisher: usize, primary: usize },
    StopPublisher { publisher: usize },
    ForgetCursor { primary: usize },
    LoseTail { count: usize },
    Trim { count: usize },
    Dump,
    Restore,
    FlushAll,
    // Instances.
    BeginInstance { instance: usize },
    Restart { instance: usize, primary: usize, has_snapshot: bool },
    Sample { instance: usize },
    Hear { instance: usize },
    Follow { instance: usize, primary: usize, is_anew: bool },
    StopFollowing { instance: usize },
    Learn { instance: usize },
    PurgeHere { instance: usize, row: usize },
    // Requests.
    Request { instance: usize, key: usize, has_redis: bool },
    RequestStale { instance: usize, key: usize },
    Read { instance: usize, fill: usize, source: usize },
    EndFill { instance: usize, fill: usize },
    Share { instance: usize },
}

#[derive(Clone, Debug)]
pub struct World {
    pub mutant: Option<Mutant>,
    pub postgres: Postgres,
    pub redis: Redis,
    pub dump: Option<Redis>,
    pub publishers: Vec<Publisher>,
    pub instances: Vec<Instance>,
}

impl World {
    pub fn new(instances: usize, replicas: usize, publishers: usize, tags_max: usize, mutant: Option<Mutant>) -> Self {
        let postgres = Postgres::new(replicas);
        let instance = |number| Instance::new(number, tags_max, &postgres, 0, mutant);
        Self {
            mutant,
            redis: Redis::default(),
            dump: None,
            publishers: vec![Publisher::new(); publishers],
            instances: (0..instances).map(instance).collect(),
            postgres,
        }
    }

    /// Takes a step; says whether anything could happen, or what was seen that must not be.
    pub fn step(&mut self, step: Step) -> Result<bool, String> {
        let Self { mutant, postgres, redis, .. } = self;
        let (mutant, primaries) = (*mutant, postgres.primaries.len());
        let pick = |primary| if primary == NEWEST { primaries - 1 } else { primary % primaries };
        let done = match step {
            Step::Begin { primary, rows, kind, is_sync } => postgres.begin(pick(primary), rows, kind, is_sync),
            Step::Log { primary, which } => postgres.log_commit(pick(primary), which),
            Step::Show { primary, which } => postgres.show_commit(pick(primary), which),
            Step::Flush { primary } => {
                let primary = &mut postgres.primaries[pick(primary)];
                let before = std::mem::replace(&mut primary.flushed, primary.inserted);
                before < primary.inserted
            }
            Step::Replay { replica, bytes } => postgres.replay(replica, bytes),
            Step::Promote { replica } => postgres.promote(replica),
            Step::Prune { primary } => postgres.prune(pick(primary)),
            Step::Publish { publisher, primary } => {
                let end = self.instances[publisher].end;
                self.publishers[publisher].step(postgres, redis, pick(primary), end, mutant)
            }
            Step::StopPublisher { publisher } => self.publishers[publisher].stop(),
            Step::ForgetCursor { primary } => postgres.forget(pick(primary)),
            Step::LoseTail { count } => redis.lose_tail(count),
            Step::Trim { count } => redis.stream.drain(..count.min(redis.stream.len())).count() > 0,
            Step::Dump => {
                self.dump = Some(redis.clone());
                true
            }
            Step::Restore => self.dump.clone().map(|dump| *redis = dump).is_some(),
            Step::FlushAll => {
                *redis = Redis::default();
                true
            }
            Step::BeginInstance { instance } => self.instances[instance].begin(postgres, mutant),
            Step::Restart { instance, primary, has_snapshot } => {
                self.instances[instance].restart(postgres, pick(primary), has_snapshot, mutant);
                true
            }
            Step::Sample { instance } => self.instances[instance].sample(postgres, mutant),
            Step::Hear { instance } => self.instances[instance].hear(postgres, redis, mutant),
            Step::Follow { instance, primary, is_anew } => {
                self.instances[instance].follow(postgres, pick(primary), is_anew, mutant)
            }
            Step::StopFollowing { instance } => self.instances[instance].stop_following(),
            Step::Learn { instance } => self.instances[instance].learn(postgres, mutant),
            Step::PurgeHere { instance, row } => self.instances[instance].purge_here(row),
            Step::Request { instance, key, has_redis } => {
                let redis = Some(&*redis).filter(|_| has_redis);
                self.instances[instance].request(postgres, redis, key, mutant)?;
                true
            }
            Step::RequestStale { instance, key } => {
                self.instances[instance].request_stale(postgres, redis, key, mutant)?;
                false
            }
            Step::Read { instance, fill, source } => self.instances[instance].read(postgres, fill, source, mutant),
            Step::EndFill { instance, fill } => {
                self.instances[instance].end_fill(postgres, fill, mutant)?;
                true
            }
            Step::Share { instance } => self.instances[instance].share(redis),
        };
        Ok(done)
    }

    /// The faults stop: within so many rounds every instance has been told of every commit and serves what is newest.
    pub fn heal(&mut self) -> Checked {
        self.settle();
        for _ in 0..6 {
            self.round()?;
        }
        let newest = self.postgres.highest();
        let timeline = &self.postgres.primaries[newest];
        let all = timeline.visible;
        for (number, instance) in self.instances.iter_mut().enumerate() {
            let untold = all & !instance.told & self.postgres.log(timeline.timeline, timeline.inserted);
            let through = instance.ledger.through().map_or(0, |through| through.lsn.0);
            let last = self.postgres.commits.iter().filter_map(|commit| commit.at);
            let last = last.filter(|at| at.timeline.0 == timeline.timeline).map(|at| at.lsn.0).max().unwrap_or(0);
            if untold != 0 || through < last {
                return Err(format!("instance {number} was never told of {untold:b}: through {through}, last {last}"));
            }
            for key in 0..KEYS {
                if !instance.is_fresh(key) {
                    return Err(format!("instance {number} cannot keep key {key}: {:?}", instance.ledger));
                }
            }
        }
        Ok(())
    }

    /// Old primaries are gone, all that was begun is over, and replicas are there.
    fn settle(&mut self) {
        let newest = self.postgres.highest();
        while self.postgres.log_commit(newest, 0) {}
        while self.postgres.show_commit(newest, 0) {}
        let primary = &mut self.postgres.primaries[newest];
        primary.emit();
        let replica = Replica { timeline: primary.timeline, replayed: primary.flushed };
        self.postgres.replicas.iter_mut().for_each(|each| *each = replica);
        self.publishers.iter_mut().for_each(|publisher| {
            publisher.stop();
        });
    }

    /// What a healthy fleet does all the time.
    fn round(&mut self) -> Checked {
        let newest = self.postgres.highest();
        for _ in 0..6 {
            self.step(Step::Publish { publisher: 0, primary: newest })?;
        }
        for instance in 0..self.instances.len() {
            self.step(Step::BeginInstance { instance })?;
            self.step(Step::BeginInstance { instance })?;
            self.step(Step::StopFollowing { instance })?;
            self.step(Step::Sample { instance })?;
            while self.step(Step::Hear { instance })? {}
            self.step(Step::Learn { instance })?;
            self.step(Step::Learn { instance })?;
            for key in 0..KEYS {
                self.step(Step::Request { instance, key, has_redis: true })?;
                while self.instances[instance].fills() > 0 {
                    let source = self.postgres.replicas.len() + newest;
                    self.step(Step::Read { instance, fill: 0, source })?;
                    self.step(Step::EndFill { instance, fill: 0 })?;
                }
                self.step(Step::Share { instance })?;
            }
        }
        Ok(())
    }
}
