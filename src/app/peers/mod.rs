//! Where a failover origin has its entries from when it has no Redis: it pulls the snapshots of regional origins, all of them
//! first and then what is new.

mod client;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::sleep;

use self::client::{Address, Client, Failure};
use crate::admin::status::PeerStatus;
use crate::cache::entry::Origin;
use crate::cache::page::{Page, Tail};
use crate::cache::shared::codec::{Codec, Kept};
use crate::config::ConfigError;
use crate::config::settings::PastHardPurgeSilence;
use crate::http::pipeline::Pipeline;
use crate::http::surface::Surface;
use crate::telemetry::traces;

/// Bytes of a page. One that breaks off or takes too long is asked for again with half as many, down to the least.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
const PAGE_BYTES_MIN: usize = 64 * 1024;
/// What a page counts for at least in a round, so that one of empty pages ends, too.
const PAGE_COST_MIN: u64 = 4096;
/// A peer that failed is asked again after this time, or after `failover.pull_interval` where that is shorter; longer each time.
const BACKOFF_TIME: Duration = Duration::from_secs(1);
const BACKOFF_TIME_MAX: Duration = Duration::from_secs(30);
/// One that refuses the token counts wrong ones, and hears nobody of this address after ten within a minute.
const REFUSED_TIME: Duration = Duration::from_secs(60);

/// The peers.
pub struct Peers {
    pipeline: Arc<Pipeline>,
    surface: Arc<ArcSwap<Surface>>,
    codec: Codec,
    client: Client,
    peers: Vec<Peer>,
}

struct Peer {
    address: Address,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where the next page begins; none: at the beginning.
    cursor: Option<String>,
    /// Requests wait for the first page, or until it is known that there is none.
    starting: Option<Loading>,
    /// Whether the last page was one that had nothing after it.
    is_complete: bool,
    completed: Option<Instant>,
    failure: Option<String>,
    entries: u64,
    bytes: u64,
}

/// While it lives, requests wait for what is being loaded.
struct Loading(Arc<Pipeline>);

impl Loading {
    fn begin(pipeline: &Arc<Pipeline>) -> Self {
        pipeline.starting.begin_load();
        Self(Arc::clone(pipeline))
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        self.0.starting.end_load();
    }
}

/// A peer that fails: each kind of failure is said once until it is over.
#[derive(Default)]
struct Trouble {
    failures: u32,
    said: Vec<&'static str>,
}

impl Trouble {
    fn note(&mut self, peer: &str, failure: &Failure, pull_interval: Duration) -> Duration {
        if !self.said.contains(&failure.as_str()) {
            log::warn!("the snapshot of {peer} cannot be pulled: {failure}");
            self.said.push(failure.as_str());
        }
        let first = pull_interval.min(BACKOFF_TIME);
        let grown = first.saturating_mul(1 << self.failures.min(16)).min(BACKOFF_TIME_MAX);
        self.failures = self.failures.saturating_add(1);
        if matches!(failure, Failure::Refused(_)) { REFUSED_TIME } else { grown }
    }

    fn is_over(&mut self, peer: &str) {
        if !self.said.is_empty() {
            log::info!("the snapshot of {peer} is pulled again");
        }
        *self = Self::default();
    }
}

impl Peers {
    /// The peers that are set, for an instance that serves what others have made. Requests wait for the first page of each.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub fn new(pipeline: &Arc<Pipeline>, surface: &Arc<ArcSwap<Surface>>) -> Result<Option<Self>, ConfigError> {
        let settings = &pipeline.settings;
        if !pipeline.capabilities.issues_anew || settings.failover.peers.is_empty() {
            return Ok(None);
        }
        let addresses = settings.failover.peers.iter().map(|peer| Address::new(peer));
        let addresses: Vec<Address> = addresses.collect::<Result<_, _>>()?;
        let client = Client::new(&settings.failover, &addresses.iter().collect::<Vec<_>>())?;
        let peer = |address| Peer {
            address,
            state: Mutex::new(State { starting: Some(Loading::begin(pipeline)), ..State::default() }),
        };
        Ok(Some(Self {
            peers: addresses.into_iter().map(peer).collect(),
            client,
            codec: Codec::new(&settings.cache.namespace, settings.limits.response_bytes_max),
            surface: Arc::clone(surface),
            pipeline: Arc::clone(pipeline),
        }))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.peers.len()
    }

    /// Pulls what a peer has, by its place in the setting, for as long as the instance lives.
    pub async fn follow(self: Arc<Self>, place: usize) {
        let Some(peer) = self.peers.get(place) else { return };
        let interval = self.pipeline.settings.failover.pull_interval.0;
        let (mut trouble, mut page_bytes) = (Trouble::default(), PAGE_BYTES);
        loop {
            let rest = match self.pull(peer, &mut page_bytes).await {
                Ok(()) => {
                    trouble.is_over(&peer.address.name);
                    interval
                }
                Err(failure) => {
                    let labels = [peer.address.name.as_str(), failure.as_str()];
                    self.pipeline.metrics.peer_failures.with_label_values(&labels).inc();
                    let mut state = peer.state.lock();
                    (state.failure, state.starting) = (Some(failure.to_string()), None);
                    trouble.note(&peer.address.name, &failure, interval)
                }
            };
            // Not all at once, nor always together with others.
            sleep(rest.mul_f64(0.75 + 0.5 * fastrand::f64())).await;
        }
    }

    /// One round: page after page until none is left, or as much as a round may bring.
    async fn pull(self: &Arc<Self>, peer: &Peer, page_bytes: &mut usize) -> Result<(), Failure> {
        let settings = &self.pipeline.settings;
        let mut left = settings.failover.pull_bytes_max;
        while left > 0 {
            let (asked, cursor) = (Instant::now(), peer.state.lock().cursor.clone());
            let keep_bytes_max = settings.cache.memory_bytes_max;
            let mut span = traces::call(self.pipeline.traces.as_ref(), "peer page");
            span.set("mainstay.peer", peer.address.name.clone());
            let page = self.client.page(&peer.address, cursor.as_deref(), *page_bytes, keep_bytes_max);
            let page = span.around(page).await;
            match &page {
                Ok(page) => span.set("mainstay.bytes", page.len()),
                Err(failure) => {
                    span.fail(failure.as_str());
                    span.keep();
                }
            }
            drop(span);
            if matches!(page, Err(Failure::Unreachable(_) | Failure::Late)) {
                *page_bytes = (*page_bytes / 2).max(PAGE_BYTES_MIN);
            }
            let page = page?;
            *page_bytes = (*page_bytes * 2).min(PAGE_BYTES);
            let bytes = u64::try_from(page.len()).unwrap_or(u64::MAX);
            let own = Arc::clone(self);
            // To unpack a page takes longer than others may wait.
            let taken = actix_rt::task::spawn_blocking(move || own.take(&page, asked)).await;
            let (tail, entries) = taken.map_err(|_| Failure::NotOurs)??;
            if !tail.is_last && cursor.as_deref() == Some(&tail.cursor) {
                return Err(Failure::NotOurs);
            }
            let is_last = self.note(peer, tail, entries, bytes);
            if is_last {
                return Ok(());
            }
            left = left.saturating_sub(bytes.max(PAGE_COST_MIN));
        }
        Ok(())
    }

    /// Keeps what a page holds; nothing of one that is not to be believed. Says how many entries that were. Blocks.
    fn take(&self, page: &[u8], asked: Instant) -> Result<(Tail, u64), Failure> {
        let page = Page::read(page, &self.codec).map_err(|_| Failure::NotOurs)?;
        let (fences, memory) = (&self.pipeline.cache.fences, &self.pipeline.cache.memory);
        // First, so that nothing is served for a moment that was purged for good.
        if let Some(purges) = &page.tail.purges {
            fences.change(|ledger| ledger.learn_hard_of_peer(purges, page.tail.are_all_purges));
        }
        let known: HashSet<[u8; 16]> =
            self.surface.load().endpoints().map(|endpoint| endpoint.route.fingerprint).collect();
        // The age goes on from when the page was asked for: so an entry may seem older than it is, and never younger.
        let now = Instant::now();
        let kept = Kept::For(now.saturating_duration_since(asked));
        let mut entries = 0;
        for (key, value) in page.values {
            // One that cannot be read, or that no route here would find, is of no use, and takes nobody's place.
            let Ok(entry) = self.codec.decode(key, value, kept, now, Origin::Snapshot) else { continue };
            if known.contains(&entry.fingerprint) && entry.age(now) < memory.retention(&entry) {
                memory.put(key, Arc::new(entry));
                entries += 1;
            }
        }
        Ok((page.tail, entries))
    }

    fn note(&self, peer: &Peer, tail: Tail, entries: u64, bytes: u64) -> bool {
        let (name, metrics) = (peer.address.name.as_str(), &self.pipeline.metrics);
        metrics.peer_entries.with_label_values(&[name]).inc_by(entries);
        metrics.peer_bytes.with_label_values(&[name]).inc_by(bytes);
        let mut state = peer.state.lock();
        if tail.began_anew {
            log::info!(
                "{name} has lost what was pulled so far, as after a restart: its snapshot is pulled from the beginning"
            );
        }
        if tail.is_last && state.completed.is_none() {
            log::info!("the snapshot of {name} is here: {} entries", state.entries + entries);
        }
        (state.starting, state.failure) = (None, None);
        (state.entries, state.bytes) = (state.entries + entries, state.bytes + bytes);
        (state.cursor, state.is_complete) = (Some(tail.cursor), tail.is_last);
        if tail.is_last {
            state.completed = Some(Instant::now());
            drop(state);
            self.hear();
        }
        tail.is_last
    }

    /// Where nobody else tells of hard purges, those of the peers are all that is heard: who refuses to serve without them does
    /// so from the last time on.
    fn hear(&self) {
        let Pipeline { cache, settings, .. } = &*self.pipeline;
        let refuses = settings.cache.past_hard_purge_max_silence == PastHardPurgeSilence::Refuse;
        if refuses && cache.shared.is_none() {
            cache.fences.expect_messages();
        }
    }

    /// The peers as they are now.
    pub fn status(&self) -> Vec<PeerStatus> {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let shown = |peer: &Peer| {
            let state = peer.state.lock();
            PeerStatus {
                peer: peer.address.name.clone(),
                state: match &*state {
                    State { failure: Some(_), .. } => "failing",
                    State { is_complete: true, .. } => "complete",
                    State { cursor: Some(_), .. } => "pulling",
                    _ => "waiting",
                },
                failure: state.failure.clone(),
                complete_ago_ms: state.completed.map(|at| millis(at.elapsed())),
                cursor: state.cursor.clone(),
                entries: state.entries,
                bytes: state.bytes,
            }
        };
        self.peers.iter().map(shown).collect()
    }

    /// Sets the gauges as of now.
    pub fn export(&self) {
        for peer in &self.peers {
            if let Some(at) = peer.state.lock().completed {
                let age = self.pipeline.metrics.peer_pull_age_seconds.with_label_values(&[peer.address.name.as_str()]);
                age.set(at.elapsed().as_secs_f64());
            }
        }
    }
}
