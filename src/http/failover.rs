//! How a failover origin answers: with what it has, fresh or stale, issued anew; and with a 503 where it has nothing.
//!
//! It stands in while the regional origins do not answer, so nothing here asks whether an entry is still good to serve, only
//! whether it may be served at all. What it says of its answers it says to the CDN: keep this for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix_http::Response;
use actix_http::header::HeaderValue;
use actix_web::HttpRequest;
use bytes::Bytes;

use super::fill::{Fill, Produced, Stamp};
use super::headers::Asked;
use super::pipeline::{Pipeline, Shared};
use super::respond::{self, CacheStatus};
use super::surface::Endpoint;
use crate::cache::entry::{Entry, Origin};
use crate::cache::fence::{Ledger, Standing};
use crate::cache::fill::{Filled, Layer, Lead, Outcome};
use crate::cache::tag::Tag;
use crate::config::param::Params;
use crate::database::health::{Reason, Status, Verdict};
use crate::database::read::{Consistency, Reached};
use crate::error::{Code, Error};
use crate::telemetry::metrics::{LookupResult, StaleReason};

/// How often a request that waits looks again.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// What requests wait for that come while a failover origin starts: to be told what must not be served, and for a snapshot.
pub struct Starting {
    until: Instant,
    loads: AtomicUsize,
}

impl Starting {
    /// An instance that starts now, and takes so long to hear what it must.
    pub fn new(time: Duration) -> Self {
        Self { until: Instant::now() + time, loads: AtomicUsize::new(0) }
    }

    /// A snapshot is being read from now on.
    pub fn begin_load(&self) {
        self.loads.fetch_add(1, Ordering::AcqRel);
    }

    /// It has been read.
    pub fn end_load(&self) {
        self.loads.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether any snapshot is being read.
    pub fn is_loading(&self) -> bool {
        self.loads.load(Ordering::Acquire) > 0
    }
}

/// What a failover origin has to serve from, as of one look.
pub struct Stores {
    /// Whether Redis answers; none where none is configured.
    pub shared: Option<bool>,
    /// Whether any database answers; none where none is read.
    pub databases: Option<bool>,
    /// Whether anything is kept here.
    pub has_entries: bool,
    /// Whether a snapshot is still being read.
    pub is_loading: bool,
    /// Whether all purges for good are known.
    pub knows_hard: bool,
}

impl Stores {
    /// What `/health/edge` says of them. It is never healthy: who stands in is a sign that something is off.
    pub fn verdict(&self) -> Verdict {
        let has_store = self.has_entries || self.shared == Some(true) || self.databases == Some(true);
        let mut reasons = vec![Reason::FailoverMode];
        reasons.extend((self.shared == Some(false)).then_some(Reason::SharedCacheDown));
        reasons.extend((self.databases == Some(false)).then_some(Reason::DatabaseDown));
        reasons.extend((!self.knows_hard).then_some(Reason::HardPurgesUnknown));
        reasons.extend((!has_store && self.is_loading).then_some(Reason::SnapshotLoading));
        reasons.extend((!has_store).then_some(Reason::NothingToServe));
        let status = if has_store { Status::Degraded } else { Status::Unhealthy };
        // How stale databases are, nobody says who could know.
        let lag = self.databases.is_none().then_some(Duration::ZERO);
        Verdict { status, lag, reasons, http_ok: has_store }
    }
}

/// The seconds of freshness that an entry has left, as far as that is known; negative where it is stale, or may be. None: it is
/// not served. An absence is served while it is fresh: that there is nothing is too little to be repeated for a day.
pub(super) fn ttl_secs(standing: Standing, entry: &Entry, age: Duration) -> Option<i64> {
    let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    let past = age.checked_sub(entry.limits.fresh).filter(|past| !past.is_zero());
    let is_served = match (standing, past) {
        (Standing::Forbidden, _) => false,
        (Standing::Purged, _) | (_, Some(_)) => entry.absence.is_none(),
        _ => true,
    };
    is_served.then(|| match (past, standing) {
        (Some(past), _) => -seconds(past).max(1),
        (None, Standing::Current) => seconds(entry.limits.fresh.saturating_sub(age)),
        (None, _) => -1,
    })
}

/// Whether there may well be something newer. What was read here a moment ago is no older than what anybody else has, unless it
/// has expired, or a change was told since.
pub(super) fn wants_newer(standing: Standing, entry: &Entry, age: Duration) -> bool {
    match standing {
        _ if age >= entry.limits.fresh => true,
        Standing::Current => false,
        Standing::Unknown => entry.origin != Origin::Filled,
        Standing::Purged | Standing::Forbidden => true,
    }
}

/// Why a failover origin does not answer what only a source of its own could.
pub(super) fn refusal(is_read: bool, consistency: Consistency) -> Error {
    match consistency {
        _ if !is_read => Error::new(Code::WritesUnavailable, "this is a failover origin, which takes no writes"),
        Consistency::Eventual => Error::new(Code::NotCached, "this is a failover origin, and the route is not cached"),
        _ => Error::new(Code::StrongUnavailable, "this is a failover origin, which has no primary to read from"),
    }
}

impl Pipeline {
    /// Answers a request that L1 did not.
    pub(super) async fn respond_anew(
        self: &Arc<Self>,
        request: &HttpRequest,
        endpoint: &Arc<Endpoint>,
        params: Params,
        shared: Shared,
        request_id: &HeaderValue,
    ) -> Response<Bytes> {
        let mut status = CacheStatus::Forwarded { had_stale: false, stored: false, collapsed: false };
        let outcome = match self.join(Fill::new(endpoint, params, shared.key, &shared.canonical)) {
            Some((wait, collapsed)) => {
                status = CacheStatus::Forwarded { had_stale: false, stored: false, collapsed };
                let outcome = actix_rt::time::timeout(self.settings.limits.request_timeout.0, wait.outcome()).await;
                let late = |_| Err(Error::new(Code::SourceTimeout, "nothing was found in time"));
                outcome.unwrap_or_else(late).and_then(|filled| self.still_served(filled, collapsed))
            }
            None => Err(Error::new(Code::Overloaded, "as many look-ups as may are running")),
        };
        match outcome {
            Ok((entry, status)) => {
                if matches!(status, CacheStatus::Reissued { .. }) {
                    endpoint.counters.answered();
                }
                let (asked, age) = (Asked::read(request.headers()), entry.age(Instant::now()));
                respond::from_entry(&entry, endpoint, &asked, request_id, status, age)
            }
            Err(error) => respond::from_error(&error, endpoint, request_id, status),
        }
    }

    /// What was found, unless it was purged for good since.
    fn still_served(&self, filled: Filled, collapsed: bool) -> Result<(Arc<Entry>, CacheStatus), Error> {
        let Filled { entry, stored, layer } = filled;
        let status = match (self.ttl_secs(&entry), layer) {
            (None, _) => return Err(not_cached()),
            (Some(ttl_secs), Layer::Shared) => {
                if ttl_secs < 0 {
                    self.stale_served.inc(StaleReason::Failover);
                }
                CacheStatus::Reissued { ttl_secs, collapsed }
            }
            // That there is nothing is kept here for a moment, and not by caches outside.
            (Some(_), Layer::Source) => {
                let stored = stored && entry.absence.is_none();
                CacheStatus::Forwarded { had_stale: false, stored, collapsed }
            }
        };
        Ok((entry, status))
    }

    fn wants_newer(&self, entry: &Entry) -> bool {
        let now = Instant::now();
        let age = entry.age(now);
        wants_newer(entry.standing(&self.cache.fences, age, now), entry, age)
    }

    fn ttl_secs(&self, entry: &Entry) -> Option<i64> {
        let now = Instant::now();
        let age = entry.age(now);
        ttl_secs(entry.standing(&self.cache.fences, age, now), entry, age)
    }

    /// Looks for the newest that there is, and keeps it here alone.
    pub(super) async fn fill_anew(self: Arc<Self>, lead: Lead, fill: Fill) {
        let outcome = self.find_newest(&fill).await;
        if let Ok(Filled { entry, stored: true, .. }) = &outcome {
            self.cache.memory.put(fill.key, Arc::clone(entry));
        }
        lead.finish(outcome);
    }

    /// The newest of what is kept here and in the shared cache; where that is nothing, or stale and nobody waits, what the source
    /// says, if there is one to ask.
    async fn find_newest(&self, fill: &Fill) -> Outcome {
        let is_served = |entry: &Arc<Entry>| self.ttl_secs(entry).is_some();
        let peek = || self.cache.memory.peek(fill.key, &fill.canonical, fill.fingerprint()).filter(is_served);
        let deadline = fill.began + self.settings.limits.request_timeout.0;
        let is_deaf = || self.cache.fences.read(Ledger::hard_unknown);
        // What the first look-ups may take is meant for a connection that is there.
        let is_connecting = || self.cache.shared.as_ref().is_some_and(|shared| shared.commands().is_connecting());
        self.wait_while(self.starting.until.min(deadline), || is_deaf() || is_connecting()).await;
        let kept = peek();
        let found = self.look_anew(fill).await;
        let kept = match (&found, kept) {
            (None, None) => {
                self.wait_while(deadline, || self.starting.is_loading()).await;
                peek()
            }
            (_, kept) => kept,
        };
        let found = found.filter(is_served).filter(|found| kept.as_ref().is_none_or(|kept| found.is_newer_than(kept)));
        let is_renewed = kept.is_some();
        let newest = match (found, kept) {
            (Some(entry), _) => Some(Filled { entry, stored: true, layer: Layer::Shared }),
            (None, Some(entry)) => Some(Filled { entry, stored: false, layer: Layer::Shared }),
            (None, None) => None,
        };
        let is_asked = match &newest {
            None => true,
            Some(Filled { entry, .. }) => is_renewed && self.wants_newer(entry),
        };
        let read = if is_asked && self.capabilities.fills { self.read_anew(fill, newest.as_ref()).await } else { None };
        read.or(newest).ok_or_else(not_cached)
    }

    async fn look_anew(&self, fill: &Fill) -> Option<Arc<Entry>> {
        let entry =
            self.cache.shared.as_ref()?.look(fill.key, &fill.canonical, fill.fingerprint()).await.found()?.entry;
        let result = if self.is_fresh(&entry) { LookupResult::Hit } else { LookupResult::Expired };
        self.metrics.lookups.with_label_values(&["L2", result.as_str()]).inc();
        // Whoever finds it stale has just looked for a newer one, so the next look is after a pause.
        entry.claim_refresh(entry.age(Instant::now()));
        Some(entry)
    }

    /// What the source says, from whatever database answers, unless that is known to be older than what is kept. Nothing where
    /// it fails.
    async fn read_anew(&self, fill: &Fill, newest: Option<&Filled>) -> Option<Filled> {
        let databases_unsampled =
            || self.database.as_ref().is_some_and(|database| database.status().nodes.iter().any(|node| !node.sampled));
        self.wait_while(self.starting.until, databases_unsampled).await;
        let gate = self.admission.fills(&fill.endpoint.route.source, &self.metrics);
        let mut pass = gate.enter(fill.priority, self.admission.patience(newest.is_some())).await.ok()?;
        let ticket = self.cache.fences.read(|ledger| ledger.ticket(&fill.tags));
        let (made, params) = (Instant::now(), fill.params.clone());
        let call = self.call(params, "GET", Bytes::new(), Consistency::Eventual, None);
        let produced = self.produce(&fill.endpoint, call).await;
        self.count_fill(fill, &produced);
        let Produced { answer, reached, seen, .. } = produced;
        pass.measured(&fill.endpoint.route.path, &answer);
        let mut tags = fill.tags.to_vec();
        if let Ok(answer) = &answer {
            tags.extend(answer.tags.iter().map(|tag| Tag::new(tag.as_str())));
        }
        let as_of = reached.and_then(Reached::position);
        let newest_told = newest.and_then(|newest| newest.entry.told());
        // Positions of another cluster, which is what a database that is kept in step is, are compared with nothing.
        if as_of.zip(newest_told).is_some_and(|(as_of, told)| as_of < told) {
            return None;
        }
        // It is no older than what it replaces, and ranks so.
        let told = match (newest_told, ticket.told) {
            (Some(newest), Some(told)) => Some(newest.later(told)),
            (newest, told) => newest.or(told),
        };
        let stamp = Stamp { tags, told, is_local: true, as_of, seen, made, detail: "failover" };
        let entry = match answer {
            Ok(answer) => self.entry(answer, fill, stamp).await.ok()?,
            Err(error) if error.code == Code::NotFound => self.absence(error, fill, stamp),
            Err(_) => return None,
        };
        // Else every request would have it read again at once, while nothing says that it is current.
        entry.claim_refresh(entry.age(Instant::now()));
        let is_served = self.ttl_secs(&entry).is_some();
        let stored = entry.status == 200 || entry.absence.is_some();
        is_served.then(|| Filled { entry: Arc::new(entry), stored, layer: Layer::Source })
    }

    async fn wait_while(&self, deadline: Instant, holds: impl Fn() -> bool) {
        while Instant::now() < deadline && holds() {
            actix_rt::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

fn not_cached() -> Error {
    Error::new(Code::NotCached, "this is a failover origin, and nothing that answers the request is cached")
}
