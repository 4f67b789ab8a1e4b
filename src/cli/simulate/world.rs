//! The caches of a fleet, as they answer a log: by the server's own keys and rules of time, in the log's time.

use std::time::Duration;

use super::store::{Held, Store};
use crate::cache::policy::{Freshness, Limits, refreshes_early};

/// The pause between two attempts to renew one entry, as the server has it.
const REFRESH_PAUSE_MS: i64 = 1_000;
/// Draws are the same each time.
const SEED: u64 = 8;

/// How the fleet is.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub instances: usize,
    pub l1_bytes_max: u64,
    /// No Redis where there is none.
    pub l2_bytes_max: Option<u64>,
    /// For how long Redis keeps an entry.
    pub l2_retention: Duration,
    /// How long a source takes.
    pub source_time: Duration,
    pub early_refresh_beta: f64,
    /// How often what changes, in milliseconds between two changes.
    pub changes_ms: Vec<i64>,
}

/// A request for a cached answer.
pub(super) struct Asked<'a> {
    pub key: u128,
    /// Position of its route.
    pub route: usize,
    pub source: Source,
    /// What is kept of what the source makes, if it is.
    pub made: &'a dyn Fn() -> Made,
}

/// What the source would say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// An answer, which is kept.
    Answers,
    /// An error that something stale may stand in for.
    Fails,
    /// Something else, which is not kept.
    Refuses,
}

/// What an entry is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Made {
    pub limits: Limits,
    pub bytes: u64,
    /// Whether a change leaves it good for stale-while-revalidate.
    pub outlives_change: bool,
    /// Which of [`Terms::changes_ms`] make it fall, a bit each.
    pub changes: u32,
}

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// Fresh, from L1.
    Fresh,
    /// Stale, from L1, and renewed behind.
    Stale,
    /// By waiting for a fill that ran.
    Waited,
    /// Fresh, from L2.
    Shared,
    /// By the source.
    Source,
    /// Stale, because the source failed.
    StaleIfError,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub answered: Answered,
    /// Whether the source was run, by it or behind it.
    pub ran: bool,
}

/// An entry.
#[derive(Clone, Copy)]
struct Kept {
    made: Made,
    /// When its source was asked.
    asked_ms: i64,
    /// The newer one that is on its way, by when it was asked for.
    renewed_ms: Option<i64>,
    /// When somebody set out to renew it last.
    claimed_ms: Option<i64>,
}

pub(super) struct World {
    terms: Terms,
    l1: Vec<Store<Kept>>,
    l2: Option<Store<Kept>>,
    next: usize,
    random: fastrand::Rng,
}

impl World {
    pub(super) fn new(terms: Terms, routes: usize) -> Self {
        let l1 = (0..terms.instances).map(|_| Store::new(terms.l1_bytes_max, routes)).collect();
        let l2 = terms.l2_bytes_max.map(|bytes_max| Store::new(bytes_max, routes));
        Self { terms, l1, l2, next: 0, random: fastrand::Rng::with_seed(SEED) }
    }

    /// Answers a request at the next instance, as a balancer that deals them out in turn.
    pub(super) fn answer(&mut self, now_ms: i64, asked: &Asked<'_>) -> Outcome {
        let turn = self.next.checked_rem(self.l1.len()).unwrap_or(0);
        self.next = self.next.wrapping_add(1);
        let Self { terms, l1, l2, random, .. } = self;
        let Some(l1) = l1.get_mut(turn) else { return Outcome { answered: Answered::Source, ran: true } };
        let mut fleet = Fleet { now_ms, terms, l1, l2: l2.as_mut(), random };
        fleet.l1.expire(now_ms);
        if let Some(l2) = &mut fleet.l2 {
            l2.expire(now_ms);
        }
        fleet.answer(asked)
    }

    /// Forgets what is kept: time begins anew.
    pub(super) fn clear(&mut self) {
        self.l1.iter_mut().chain(&mut self.l2).for_each(Store::clear);
    }

    /// The most that any one instance held of a route.
    pub(super) fn held(&self, route: usize) -> Held {
        let held = self.l1.iter().map(|store| store.held(route));
        held.max_by_key(|held| held.bytes_max).unwrap_or_default()
    }

    /// The most that any one instance held.
    pub(super) fn whole(&self) -> Held {
        self.l1.iter().map(Store::whole).max_by_key(|held| held.bytes_max).unwrap_or_default()
    }

    /// What Redis held, where there is one.
    pub(super) fn shared(&self) -> Option<Held> {
        self.l2.as_ref().map(Store::whole)
    }

    /// Entries that made room for others in L1, and in L2.
    pub(super) fn evicted(&self) -> (u64, u64) {
        (self.l1.iter().map(|store| store.evicted).sum(), self.l2.as_ref().map_or(0, |store| store.evicted))
    }
}

/// What one request meets.
struct Fleet<'a> {
    now_ms: i64,
    terms: &'a Terms,
    l1: &'a mut Store<Kept>,
    l2: Option<&'a mut Store<Kept>>,
    random: &'a mut fastrand::Rng,
}

impl Fleet<'_> {
    fn answer(&mut self, asked: &Asked<'_>) -> Outcome {
        let done = |answered| Outcome { answered, ran: false };
        let source_ms = millis(self.terms.source_time);
        let Some(kept) = self.l1.get(asked.key) else { return self.fill(asked) };
        kept.settle(self.now_ms, source_ms);
        if self.now_ms < kept.asked_ms + source_ms {
            return done(Answered::Waited);
        }
        let kept = *kept;
        match kept.usability(self.now_ms, self.terms) {
            Freshness::Fresh(left) => {
                let beta = self.terms.early_refresh_beta;
                let is_early = refreshes_early(left, self.terms.source_time, beta, || 1.0 - self.random.f64());
                let ran = is_early && self.renew(kept, asked, Renewal::OfFresh);
                Outcome { answered: Answered::Fresh, ran }
            }
            Freshness::Revalidate(_) => {
                Outcome { answered: Answered::Stale, ran: self.renew(kept, asked, Renewal::OfStale) }
            }
            Freshness::IfError(_) if asked.source == Source::Fails => {
                Outcome { answered: Answered::StaleIfError, ran: true }
            }
            Freshness::IfError(_) | Freshness::Gone => self.fill(asked),
        }
    }

    /// Asks L2, then the source. What fails leaves what is kept as it is.
    fn fill(&mut self, asked: &Asked<'_>) -> Outcome {
        if let Some(shared) = self.shared(asked) {
            let is_running = self.now_ms < shared.asked_ms + millis(self.terms.source_time);
            self.keep(asked, shared);
            return Outcome { answered: if is_running { Answered::Waited } else { Answered::Shared }, ran: false };
        }
        self.run(asked);
        Outcome { answered: Answered::Source, ran: true }
    }

    /// Renews an entry behind a hit, unless somebody set out to do so a moment ago. Says whether the source ran.
    fn renew(&mut self, kept: Kept, asked: &Asked, renewal: Renewal) -> bool {
        let is_claimed = kept.claimed_ms.is_some_and(|claimed_ms| self.now_ms - claimed_ms < REFRESH_PAUSE_MS);
        if is_claimed || kept.renewed_ms.is_some() {
            return false;
        }
        // What is still fresh in L2 is just what is to be renewed.
        let shared = if renewal == Renewal::OfStale { self.shared(asked) } else { None };
        if let Some(shared) = shared {
            self.keep(asked, shared);
            return false;
        }
        let made = self.run_behind(asked);
        let kept = Kept { claimed_ms: Some(self.now_ms), renewed_ms: made.map(|_| self.now_ms), ..kept };
        self.keep(asked, kept);
        true
    }

    /// What L2 has that is fresh, or that somebody is filling.
    fn shared(&mut self, asked: &Asked<'_>) -> Option<Kept> {
        let (now_ms, terms) = (self.now_ms, self.terms);
        let kept = *self.l2.as_mut()?.get(asked.key)?;
        matches!(kept.usability(now_ms, terms), Freshness::Fresh(_)).then_some(kept)
    }

    /// Runs the source, and keeps what it makes here and for all.
    fn run(&mut self, asked: &Asked<'_>) {
        if let Some(kept) = self.run_behind(asked) {
            self.keep(asked, kept);
        }
    }

    /// Runs the source, and keeps what it makes for all. Nothing where it makes nothing to keep.
    fn run_behind(&mut self, asked: &Asked<'_>) -> Option<Kept> {
        let made =
            (asked.source == Source::Answers).then(|| (asked.made)()).filter(|made| !made.limits.fresh.is_zero())?;
        let kept = Kept { made, asked_ms: self.now_ms, renewed_ms: None, claimed_ms: None };
        if let Some(l2) = &mut self.l2 {
            let ends_ms = self.now_ms.saturating_add(millis(self.terms.l2_retention));
            l2.put(asked.key, asked.route, kept, made.bytes, ends_ms);
        }
        Some(kept)
    }

    /// Keeps an entry in L1 for as long as it is of use.
    fn keep(&mut self, asked: &Asked, kept: Kept) {
        let from_ms = kept.renewed_ms.unwrap_or(kept.asked_ms);
        let ends_ms = from_ms.saturating_add(millis(kept.made.limits.retention())).saturating_add(1);
        self.l1.put(asked.key, asked.route, kept, kept.made.bytes, ends_ms);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Renewal {
    OfFresh,
    OfStale,
}

impl Kept {
    /// Takes the place of the old one, where the newer one is there.
    fn settle(&mut self, now_ms: i64, source_ms: i64) {
        if let Some(renewed_ms) = self.renewed_ms.filter(|renewed_ms| renewed_ms + source_ms <= now_ms) {
            *self = Self { asked_ms: renewed_ms, renewed_ms: None, claimed_ms: None, ..*self };
        }
    }

    /// What it may be used for, by its age and by what has changed since.
    fn usability(&self, now_ms: i64, terms: &Terms) -> Freshness {
        let age = Duration::from_millis(u64::try_from(now_ms - self.asked_ms).unwrap_or(0));
        let freshness = self.made.limits.at(age);
        let has_changed = |(bit, every_ms): (usize, &i64)| {
            let concerns = u32::try_from(bit).is_ok_and(|bit| self.made.changes & 1_u32.wrapping_shl(bit) != 0);
            concerns && now_ms.div_euclid(*every_ms) != self.asked_ms.div_euclid(*every_ms)
        };
        if !terms.changes_ms.iter().enumerate().any(has_changed) {
            return freshness;
        }
        match freshness {
            Freshness::Fresh(_) if self.made.outlives_change => Freshness::Revalidate(Duration::ZERO),
            Freshness::Revalidate(_) if self.made.outlives_change => freshness,
            _ if self.made.limits.stale_if_error.is_zero() => Freshness::Gone,
            Freshness::Fresh(_) => Freshness::IfError(Duration::ZERO),
            Freshness::Revalidate(past) | Freshness::IfError(past) => Freshness::IfError(past),
            Freshness::Gone => Freshness::Gone,
        }
    }
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1000;

    fn terms() -> Terms {
        Terms {
            instances: 1,
            l1_bytes_max: 10_000,
            l2_bytes_max: None,
            l2_retention: Duration::from_secs(3600),
            source_time: Duration::from_millis(100),
            early_refresh_beta: 0.0,
            changes_ms: Vec::new(),
        }
    }

    fn made() -> Made {
        let secs = Duration::from_secs;
        let limits = Limits { fresh: secs(10), stale_while_revalidate: secs(5), stale_if_error: secs(60) };
        Made { limits, bytes: 1000, outlives_change: false, changes: 0 }
    }

    /// Asks for one key.
    fn ask(world: &mut World, now_ms: i64, source: Source, made: &Made) -> (Answered, bool) {
        let Outcome { answered, ran } = world.answer(now_ms, &Asked { key: 1, route: 0, source, made: &|| *made });
        (answered, ran)
    }

    #[test]
    fn an_answer_is_fresh_then_stale_then_gone() {
        let mut world = World::new(terms(), 1);
        let steps = [
            (0, Source::Answers, Answered::Source, true),
            (50, Source::Answers, Answered::Waited, false),
            (100, Source::Answers, Answered::Fresh, false),
            (10 * S, Source::Answers, Answered::Fresh, false),
            (11 * S, Source::Answers, Answered::Stale, true),
            (11 * S + 99, Source::Answers, Answered::Stale, false),
            // The newer one is of the time at which its source was asked.
            (21 * S, Source::Answers, Answered::Fresh, false),
            (22 * S, Source::Fails, Answered::Stale, true),
            (22 * S + 500, Source::Fails, Answered::Stale, false),
            (23 * S, Source::Fails, Answered::Stale, true),
            (30 * S, Source::Fails, Answered::StaleIfError, true),
            (31 * S, Source::Refuses, Answered::Source, true),
            (32 * S, Source::Answers, Answered::Source, true),
            (33 * S, Source::Answers, Answered::Fresh, false),
            (200 * S, Source::Fails, Answered::Source, true),
            (201 * S, Source::Answers, Answered::Source, true),
        ];
        for (now_ms, source, answered, ran) in steps {
            assert_eq!(ask(&mut world, now_ms, source, &made()), (answered, ran), "at {now_ms} ms");
        }
    }

    #[test]
    fn what_changes_falls_and_what_outlives_a_change_is_renewed_behind() {
        let mut world = World::new(Terms { changes_ms: vec![4 * S, 7 * S], ..terms() }, 1);
        let concerned = Made { changes: 0b10, ..made() };
        let at = |world: &mut World, now_ms, made: &Made| ask(world, now_ms, Source::Answers, made);
        assert_eq!(at(&mut world, 0, &concerned), (Answered::Source, true));
        assert_eq!(at(&mut world, 5 * S, &concerned), (Answered::Fresh, false), "the other one has changed");
        assert_eq!(ask(&mut world, 7 * S, Source::Fails, &concerned), (Answered::StaleIfError, true));
        let outliving = Made { outlives_change: true, ..concerned };
        assert_eq!(at(&mut world, 8 * S, &outliving), (Answered::Source, true));
        assert_eq!(at(&mut world, 14 * S, &outliving), (Answered::Stale, true));
        assert_eq!(at(&mut world, 15 * S, &outliving), (Answered::Fresh, false));
    }

    #[test]
    fn instances_have_caches_of_their_own_and_redis_spares_them_the_source() {
        let spared = |l2_bytes_max| {
            let mut world = World::new(Terms { instances: 3, l2_bytes_max, ..terms() }, 1);
            [0, S, 2 * S, 3 * S].map(|now_ms| ask(&mut world, now_ms, Source::Answers, &made()).0)
        };
        assert_eq!(spared(None), [Answered::Source, Answered::Source, Answered::Source, Answered::Fresh]);
        assert_eq!(spared(Some(5000)), [Answered::Source, Answered::Shared, Answered::Shared, Answered::Fresh]);
        let mut world = World::new(Terms { instances: 2, l2_bytes_max: Some(5000), ..terms() }, 1);
        ask(&mut world, 0, Source::Answers, &made());
        assert_eq!(ask(&mut world, 50, Source::Answers, &made()), (Answered::Waited, false), "one fill for all");
    }

    #[test]
    fn what_does_not_fit_is_not_kept() {
        let mut world = World::new(terms(), 1);
        for key in 0..20 {
            world.answer(0, &Asked { key, route: 0, source: Source::Answers, made: &made });
        }
        assert_eq!((world.whole().entries_max, world.evicted()), (10, (10, 0)));
        let large = Made { bytes: 10_001, ..made() };
        assert_eq!(ask(&mut world, S, Source::Answers, &large), (Answered::Source, true));
        assert_eq!(ask(&mut world, S, Source::Answers, &large), (Answered::Source, true));
    }
}
