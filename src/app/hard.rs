//! Hard purges for those who come when nobody can be asked any more: who leads keeps all of them in Redis, beside the stream, and
//! a failover origin takes them from there.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::hear::Ear;
use crate::cache::fence::{HardPurges, Ledger};
use crate::config::settings::PastHardPurgeSilence;

/// How often they are kept anew where nothing has changed. The stream holds the messages of a longer time than that, so whoever
/// reads both misses nothing.
const KEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How often Redis is asked for them.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How often it is looked, without asking Redis, whether something was missed.
const NOTICE_INTERVAL: Duration = Duration::from_millis(20);
/// How often Redis is asked where nothing is refused for want of an answer.
const IDLE_LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// The same, while an instance starts.
const FIRST_LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// For how long an instance is starting: requests wait so long to be told what must not be served.
pub(super) const STARTING_TIME: Duration = Duration::from_millis(250);
/// How long what must not be served may take to be told in that time, so that those who wait get an answer.
const FIRST_PATIENCE: Duration = Duration::from_millis(100);

impl Ear {
    /// Keeps hard purges in Redis, whenever this instance leads.
    pub(super) async fn keep_hard_purges(self: Arc<Self>) {
        let Some(bus) = &self.bus else { return };
        let mut kept: Option<(Instant, u64, HardPurges)> = None;
        loop {
            if self.is_leading.load(Ordering::Relaxed) {
                let (purges, gaps) = self.pipeline.cache.fences.read(|ledger| (ledger.hard_purges(), ledger.gaps()));
                let is_kept = |(at, known, kept): &(Instant, u64, HardPurges), purges: &HardPurges| {
                    at.elapsed() < KEEP_INTERVAL && *known == gaps && kept.tags == purges.tags && kept.all == purges.all
                };
                if let Some(purges) = purges.filter(|purges| !kept.as_ref().is_some_and(|kept| is_kept(kept, purges)))
                    && bus.keep_hard_purges(&purges, self.settings.changes.hard_retention.0).await.is_ok()
                {
                    kept = Some((Instant::now(), gaps, purges));
                }
            } else {
                kept = None;
            }
            sleep(self.pace().beat).await;
        }
    }

    /// Learns from Redis which purges for good were not heard, whenever there may be any. Where that cannot be learnt, the setting
    /// decides: at once where Redis is of no help or holds no list at the start, else after a while, since a leader that has
    /// just begun keeps one soon. What was given up is still looked for.
    pub(super) async fn recall_hard_purges(self: Arc<Self>) {
        let fences = &self.pipeline.cache.fences;
        let serves = self.settings.cache.past_hard_purge_max_silence == PastHardPurgeSilence::Serve;
        let Some(bus) = &self.bus else {
            // Nobody will ever tell.
            if serves {
                fences.change(Ledger::give_up_hard);
            }
            return;
        };
        let started = Instant::now();
        let mut unknown_since: Option<Instant> = None;
        loop {
            let (knows_all, is_unknown) = fences.read(|ledger| (ledger.knows_hard(), ledger.hard_unknown()));
            let is_starting = is_unknown && started.elapsed() < STARTING_TIME;
            if !knows_all {
                let since = *unknown_since.get_or_insert_with(Instant::now);
                let patience = if is_starting { FIRST_PATIENCE } else { self.settings.cache.max_silence.0 };
                // A list that was asked for before all of the stream was heard may be older than what the stream has lost since.
                let is_behind = self.is_behind();
                let is_late = match bus.hard_purges().await {
                    Ok(Some(purges)) if !is_behind => {
                        fences.change(|ledger| ledger.recall_hard(&purges));
                        since.elapsed() > patience
                    }
                    Ok(None) if is_starting && !is_behind => true,
                    Ok(_) => since.elapsed() > patience,
                    Err(_) => true,
                };
                if is_late && serves && fences.read(Ledger::hard_unknown) {
                    log::warn!("which purges for good came before this instance is not known: what is kept is served");
                    fences.change(Ledger::give_up_hard);
                }
            } else {
                unknown_since = None;
            }
            let pause = match (knows_all, is_starting, is_unknown) {
                (true, ..) => NOTICE_INTERVAL,
                (_, true, _) => FIRST_LOOK_INTERVAL,
                (_, _, true) => LOOK_INTERVAL,
                _ => IDLE_LOOK_INTERVAL,
            };
            sleep(pause).await;
        }
    }
}
