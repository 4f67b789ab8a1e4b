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

use super::fill::Fill;
use super::headers::Asked;
use super::pipeline::{Pipeline, Shared};
use super::respond::{self, CacheStatus};
use super::surface::Endpoint;
use crate::cache::entry::Entry;
use crate::cache::fence::{Ledger, Standing};
use crate::cache::fill::{Filled, Layer, Lead, Outcome};
use crate::config::param::Params;
use crate::database::read::Consistency;
use crate::error::{Code, Error};
use crate::telemetry::metrics::LookupResult;

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

    fn is_loading(&self) -> bool {
        self.loads.load(Ordering::Acquire) > 0
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
            (Some(ttl_secs), Layer::Shared) => CacheStatus::Reissued { ttl_secs, collapsed },
            (Some(_), Layer::Source) => CacheStatus::Forwarded { had_stale: false, stored, collapsed },
        };
        Ok((entry, status))
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

    async fn find_newest(&self, fill: &Fill) -> Outcome {
        let is_served = |entry: &Arc<Entry>| self.ttl_secs(entry).is_some();
        let peek = || self.cache.memory.peek(fill.key, &fill.canonical, fill.fingerprint()).filter(is_served);
        let deadline = fill.began + self.settings.limits.request_timeout.0;
        let is_deaf = || self.cache.fences.read(Ledger::hard_unknown);
        self.wait_while(self.starting.until.min(deadline), is_deaf).await;
        let kept = peek();
        let found = match &self.cache.shared {
            Some(shared) => shared.look(fill.key, &fill.canonical, fill.fingerprint()).await.found(),
            None => None,
        };
        let found = found.map(|found| found.entry);
        if let Some(entry) = &found {
            let result = if self.is_fresh(entry) { LookupResult::Hit } else { LookupResult::Expired };
            self.metrics.lookups.with_label_values(&["L2", result.as_str()]).inc();
            // Whoever finds it stale has just looked for a newer one, so the next look is after a pause.
            entry.claim_refresh(entry.age(Instant::now()));
        }
        let kept = match (&found, kept) {
            (None, None) => {
                self.wait_while(deadline, || self.starting.is_loading()).await;
                peek()
            }
            (_, kept) => kept,
        };
        let found = found.filter(is_served).filter(|found| kept.as_ref().is_none_or(|kept| found.is_newer_than(kept)));
        match (found, kept) {
            (Some(entry), _) => Ok(Filled { entry, stored: true, layer: Layer::Shared }),
            (None, Some(entry)) => Ok(Filled { entry, stored: false, layer: Layer::Shared }),
            (None, None) => Err(not_cached()),
        }
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
