//! A fill: the source is run once for all who wait on a key, and what it produced becomes an entry.

use std::borrow::Cow;
use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;

use super::admission::{Pass, Share};
use super::pipeline::Pipeline;
use super::surface::Endpoint;
use crate::cache::Cache;
use crate::cache::entry::{Entry, Origin, Parts};
use crate::cache::fence::{Ledger, Standing};
use crate::cache::fill::{Filled, Join, Layer, Lead, Outcome, Wait, Wanted};
use crate::cache::key::Key;
use crate::cache::memory::{Proof, Settled};
use crate::cache::policy::{Freshness, Limits};
use crate::cache::shared::codec::interned;
use crate::cache::shared::{Found, Lease, Look, Seen, Shared, Turn};
use crate::cache::tag::Tag;
use crate::cache::variants::Variants;
use crate::config::manifest::OnChange;
use crate::config::param::Params;
use crate::config::settings::LimitSettings;
use crate::database::read::{Consistency, Depth, Reached, Role};
use crate::database::write::in_doubt;
use crate::error::{Code, Error};
use crate::nodes::queue::Priority;
use crate::position::Position;
use crate::source::Answer;
use crate::source::handler::Call;
use crate::telemetry::metrics::LookupResult;
use crate::telemetry::traces;
use crate::telemetry::traces::{Span, SpanKind};

/// Bodies from this size on are compressed on a thread for blocking work, not on the worker that serves requests.
const BLOCKING_BYTES: usize = 16 * 1024;
/// How often a fill waits for another instance's before it runs by itself.
const TURNS_MAX: usize = 4;
/// How often a source is asked again in one fill, because its answer may lack changes that were told meanwhile.
const READS_MAX: usize = 4;

/// What is to be filled.
pub(super) struct Fill {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) params: Params,
    pub(super) key: Key,
    pub(super) canonical: Arc<[u8]>,
    pub(super) tags: Arc<[Tag]>,
    /// Whether what is there is still fresh, and to be renewed before it expires.
    renews: bool,
    pub(super) priority: Priority,
    /// Whether the source was asked: who found no room knows nothing of it.
    pub(super) asked: Cell<bool>,
    pub(super) began: Instant,
}

/// A request that waits for a fill, among all that may.
pub(super) struct Waiting {
    wait: Wait,
    /// The wait for another's fill, in the trace of who waits.
    span: Span,
    _place: Share,
}

impl Waiting {
    /// Waits for the outcome. Cancelling only stops the waiting; callers bring their own deadline.
    pub(super) async fn outcome(self) -> Outcome {
        let Self { wait, mut span, _place } = self;
        span.refer(wait.leader());
        wait.outcome().await
    }
}

/// What an entry is stamped with.
pub(super) struct Stamp {
    pub(super) tags: Vec<Tag>,
    pub(super) told: Option<Position>,
    pub(super) is_local: bool,
    pub(super) as_of: Option<Position>,
    pub(super) seen: Option<Position>,
    pub(super) made: Instant,
    pub(super) detail: &'static str,
}

/// What a source came to, who answered, and how long it took.
pub(super) struct Produced {
    pub(super) answer: Result<Answer, Error>,
    pub(super) detail: &'static str,
    pub(super) took: Duration,
    /// How far the databases had read that were asked; none where none was.
    pub(super) reached: Option<Reached>,
    /// A position that nothing in the answer is newer than, where one is known.
    pub(super) seen: Option<Position>,
    /// From where on a standby has all that was written; none where nothing was.
    pub(super) committed: Option<Position>,
}

/// What running a source came to, as metrics say it.
pub(super) fn outcome_of(answer: &Result<Answer, Error>) -> &'static str {
    answer.as_ref().map_or_else(|error| error.code.as_str(), |_| "ok")
}

impl Produced {
    /// Nothing but an error.
    pub(super) const fn failed(error: Error) -> Self {
        let took = Duration::ZERO;
        Self { answer: Err(error), detail: "handler", took, reached: None, seen: None, committed: None }
    }
}

impl Fill {
    pub(super) fn new(endpoint: &Arc<Endpoint>, params: Params, key: Key, canonical: &[u8]) -> Self {
        let path = canonical.split(|byte| *byte == b'?').next().unwrap_or_default();
        let tags = endpoint.tags.of(key, &String::from_utf8_lossy(path), &params);
        Self {
            endpoint: Arc::clone(endpoint),
            params,
            key,
            canonical: canonical.into(),
            tags,
            renews: false,
            priority: Priority::Foreground,
            asked: Cell::new(false),
            began: Instant::now(),
        }
    }

    fn join(&self, cache: &Cache) -> Join {
        let wanted = Wanted { key: self.key, canonical: Arc::clone(&self.canonical), fingerprint: *self.fingerprint() };
        cache.fills.join(wanted, &self.tags, &cache.fences)
    }

    pub(super) fn fingerprint(&self) -> &[u8; 16] {
        &self.endpoint.route.fingerprint
    }
}

impl Pipeline {
    /// Joins the fill of a key, leading it where none runs that will do. `None`: as many as may are
    /// running, or waiting.
    pub(super) fn join(self: &Arc<Self>, fill: Fill) -> Option<(Waiting, bool)> {
        let place = self.admission.waiters.take(1)?;
        let mut span = Span::default();
        let (wait, collapsed) = match fill.join(&self.cache) {
            Join::Lead(lead, wait) => {
                // Another fill may have ended between this request's lookup and here.
                let fresh = |entry: Option<&Arc<Entry>>| entry.filter(|entry| self.is_fresh(entry)).cloned();
                if let Some(entry) = self.cache.memory.with(fill.key, &fill.canonical, fill.fingerprint(), fresh) {
                    lead.finish(Ok(Filled { entry, stored: true, layer: Layer::Source }));
                    (wait, true)
                } else {
                    self.start_fill(lead, fill);
                    (wait, false)
                }
            }
            Join::Follow(wait) => {
                self.metrics.fill_waiters.with_label_values(&[fill.endpoint.route.path.as_str()]).inc();
                span = traces::span("fill wait", SpanKind::Internal);
                (wait, true)
            }
            Join::Refused => return None,
        };
        Some((Waiting { wait, span, _place: place }, collapsed))
    }

    /// Renews an entry behind a hit, unless a fill for it runs already. Never waits.
    pub fn refresh(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        params: Params,
        key: Key,
        canonical: &[u8],
        priority: Priority,
    ) {
        let is_fresh = |entry: Option<&Arc<Entry>>| entry.is_some_and(|entry| self.is_fresh(entry));
        let renews = self.cache.memory.with(key, canonical, &endpoint.route.fingerprint, is_fresh);
        let fill = Fill { renews, priority, ..Fill::new(endpoint, params, key, canonical) };
        if let Join::Lead(lead, _) = fill.join(&self.cache) {
            self.start_fill(lead, fill);
        }
    }

    /// Starts a fill in the trace of who leads it, or in one of its own behind a hit that is not traced.
    fn start_fill(self: &Arc<Self>, lead: Lead, fill: Fill) {
        let mut span = match (traces::current(), &self.traces) {
            (Some(here), _) => here.span_since("fill", SpanKind::Internal, fill.began),
            (None, Some(traces)) => traces.root("fill", SpanKind::Internal, None, traces.samples(None), fill.began),
            (None, None) => Span::default(),
        };
        span.set("http.route", fill.endpoint.route.path.clone());
        span.set("mainstay.priority", fill.priority.as_str());
        let here = span.here();
        if let Some(here) = &here {
            lead.set_leader(here.link());
        }
        actix_rt::spawn(traces::scope(here, Arc::clone(self).fill(lead, fill, span)));
    }

    pub(super) fn is_fresh(&self, entry: &Entry) -> bool {
        let now = Instant::now();
        let age = entry.age(now);
        let is_current = entry.standing(&self.cache.fences, age, now) == Standing::Current;
        is_current && matches!(entry.freshness(age), Freshness::Fresh(_))
    }

    /// Runs a fill that belongs to no connection: it goes on when the client who caused it has gone.
    async fn fill(self: Arc<Self>, lead: Lead, fill: Fill, mut span: Span) {
        if self.capabilities.issues_anew {
            return self.fill_anew(lead, fill).await;
        }
        let (outcome, lease) = match &self.cache.shared {
            Some(shared) => self.fill_shared(shared, &fill).await,
            None => (self.run(&fill).await, None),
        };
        match &outcome {
            Ok(Filled { stored: true, .. }) => {
                if fill.endpoint.route.cache.as_ref().is_some_and(|policy| policy.on_change == OnChange::Refresh) {
                    self.keep_in_mind(&fill.endpoint, &fill.params, fill.key, &fill.canonical);
                }
            }
            Ok(_) => {}
            Err(error) if error.code == Code::NotShareable => self.alone.note(fill.key, Instant::now()),
            Err(_) if !fill.asked.get() => {}
            Err(error) => {
                // What the request itself did wrong says that the source is there.
                let status = if error.code.is_source_failure() { error.code.info().status } else { 0 };
                let note = |entry: &Arc<Entry>| entry.note_failure(entry.age(Instant::now()), status);
                self.cache.memory.with(fill.key, &fill.canonical, fill.fingerprint(), |entry| entry.map(note));
            }
        }
        tell(&mut span, &outcome);
        let is_shared =
            |filled: &&Filled| filled.stored && filled.layer == Layer::Source && filled.entry.is_shareable();
        let to_share = outcome.as_ref().ok().filter(is_shared).map(|filled| Arc::clone(&filled.entry));
        lead.finish(outcome);
        // Nobody waits for this any more.
        match (&self.cache.shared, to_share, lease) {
            (Some(shared), Some(entry), lease) => shared.put(fill.key, &entry, lease).await,
            (Some(shared), None, Some(lease)) => shared.release(lease).await,
            _ => {}
        }
    }

    /// Looks whether the fleet has an answer, else fills for all of it, or waits for the one who does.
    async fn fill_shared(&self, shared: &Shared, fill: &Fill) -> (Outcome, Option<Lease>) {
        let mut seen = Seen::default();
        // What is still fresh in the shared cache is just what is to be renewed.
        if !fill.renews
            && let Look::Found(found) = shared.look(fill.key, &fill.canonical, fill.fingerprint()).await
        {
            match self.accept(found, fill) {
                Ok(filled) => return (Ok(filled), None),
                Err(useless) => seen = useless,
            }
        }
        for _ in 0..TURNS_MAX {
            match shared.lead(fill.key, &fill.canonical, fill.fingerprint(), &seen).await {
                Turn::Lead(lease) => return (self.run(fill).await, Some(lease)),
                Turn::Found(found) => match self.accept(found, fill) {
                    Ok(filled) => return (Ok(filled), None),
                    Err(useless) => seen = useless,
                },
                Turn::Wait(waiting) => {
                    let mut span = traces::span("fleet wait", SpanKind::Internal);
                    span.refer(waiting.leader());
                    waiting.done(fill.began + self.settings.limits.request_timeout.0).await;
                    drop(span);
                }
            }
        }
        (self.run(fill).await, None)
    }

    /// Takes what another instance has filled, where it is good here and now. What is not is kept for when the source fails.
    fn accept(&self, found: Found, fill: &Fill) -> Result<Filled, Seen> {
        let entry = found.entry;
        let is_fresh = self.is_fresh(&entry);
        let result = if is_fresh { LookupResult::Hit } else { LookupResult::Expired };
        self.metrics.lookups.with_label_values(&["L2", result.as_str()]).inc();
        let keeps = is_fresh || self.cache.memory.peek(fill.key, &fill.canonical, fill.fingerprint()).is_none();
        let through = self.cache.fences.read(Ledger::through);
        let filled = Filled { entry, stored: keeps, layer: Layer::Shared };
        let covers = |entry: &Entry, seen| entry.covers(seen);
        self.settle(fill.key, filled, through, covers).filter(|_| is_fresh).ok_or(found.seen)
    }

    /// Keeps what may be shown, and shows what is kept where that is newer. `None`: it may be older than what was shown before.
    fn settle(
        &self,
        key: Key,
        filled: Filled,
        through: Option<Position>,
        covers: impl Fn(&Entry, Position) -> bool,
    ) -> Option<Filled> {
        let entry = &filled.entry;
        let proof =
            Proof { covers: &|seen| covers(entry, seen), through, is_fresh: &|entry: &Entry| self.is_fresh(entry) };
        match self.cache.memory.settle(key, entry, filled.stored, &proof) {
            Settled::Shown => Some(filled),
            // For those who waited alone: they began before it.
            Settled::Overtaken(entry) => Some(Filled { entry, stored: false, ..filled }),
            Settled::Behind => None,
        }
    }

    /// Waits for leave to run the source of a fill.
    async fn admit(&self, fill: &Fill) -> Result<Pass, Error> {
        let stands_in =
            |entry: Option<&Arc<Entry>>| entry.is_some_and(|entry| self.stands_in(entry, Instant::now()).is_some());
        // What is renewed behind a hit has answered already: nobody waits for it, so it may wait.
        let has_stale = fill.priority == Priority::Foreground
            && self.cache.memory.with(fill.key, &fill.canonical, fill.fingerprint(), stands_in);
        let gate = self.admission.fills(&fill.endpoint.route.source, &self.metrics);
        let span = traces::span("admission", SpanKind::Internal);
        span.around(gate.enter(fill.priority, self.admission.patience(has_stale))).await
    }

    /// Asks the source, and again where its answer may lack a change that was told meanwhile.
    async fn run(&self, fill: &Fill) -> Outcome {
        let mut pass = self.admit(fill).await?;
        fill.asked.set(true);
        let mut tags = fill.tags.to_vec();
        for _ in 0..READS_MAX {
            let ticket = self.cache.fences.read(|ledger| ledger.ticket(&tags));
            let shown = self.cache.memory.shown(fill.key);
            let (made, params) = (Instant::now(), fill.params.clone());
            let depth = Depth { at_least: ticket.reads, rather: shown };
            let call = self.call(params, "GET", Bytes::new(), Consistency::Eventual, depth);
            let produced = self.produce(&fill.endpoint, call).await;
            self.count_fill(fill, &produced);
            let Produced { answer, detail, reached, seen, .. } = produced;
            pass.measured(&fill.endpoint.route.path, &answer);
            tags.truncate(fill.tags.len());
            if let Ok(answer) = &answer {
                tags.extend(answer.tags.iter().map(|tag| Tag::new(tag.as_str())));
            }
            // Tags that only the answer shows have fences of their own, and those who joined this fill after a purge of one of
            // them must not get what was read before.
            let as_of = reached.and_then(Reached::position);
            let late = tags.get(fill.tags.len()..).unwrap_or_default();
            let is_short = self.cache.fences.read(|ledger| {
                let required = ledger.required(&tags);
                let is_purged =
                    matches!(ledger.standing(ticket.told, as_of, late), Standing::Purged | Standing::Forbidden);
                required.zip(reached).is_some_and(|(required, reached)| !reached.covers(required))
                    || (!late.is_empty() && is_purged)
            });
            if is_short && answer.is_ok() {
                continue;
            }
            let stamp =
                Stamp { tags: tags.clone(), told: ticket.told, is_local: ticket.is_local, as_of, seen, made, detail };
            let entry = match answer {
                Ok(answer) => self.entry(answer, fill, stamp).await?,
                Err(error) if error.code == Code::NotFound => self.absence(error, fill, stamp),
                Err(error) => return Err(error),
            };
            // What was shown before the source was asked, it was asked for. What another fill has shown since then, it may lack.
            let covers = |entry: &Entry, seen| {
                shown.is_some_and(|shown| shown >= seen) || reached.is_none() || entry.covers(seen)
            };
            if let Some(filled) = self.settle(fill.key, self.filled(entry), None, covers) {
                return Ok(filled);
            }
        }
        Err(Error::new(Code::Overloaded, "the data changed faster than it could be read"))
    }

    pub(super) fn count_fill(&self, fill: &Fill, produced: &Produced) {
        let path = fill.endpoint.route.path.as_str();
        self.metrics.fills.with_label_values(&[path, outcome_of(&produced.answer)]).inc();
        self.metrics.fill_seconds.with_label_values(&[path]).observe(produced.took);
    }

    /// Whether an entry is kept. What a handler answers with another status is for those who asked now: errors are not kept.
    /// Nor is what was purged while it was made.
    fn filled(&self, entry: Entry) -> Filled {
        let now = Instant::now();
        let standing = entry.standing(&self.cache.fences, entry.age(now), now);
        let stored = (entry.status == 200 || entry.absence.is_some())
            && !entry.limits.fresh.is_zero()
            && !matches!(standing, Standing::Purged | Standing::Forbidden);
        Filled { entry: Arc::new(entry), stored, layer: Layer::Source }
    }

    pub(super) async fn entry(&self, answer: Answer, fill: &Fill, stamp: Stamp) -> Result<Entry, Error> {
        let endpoint = &fill.endpoint;
        if !answer.headers.is_empty()
            && let Some(kept_back) = endpoint.said.may_say(Instant::now(), Code::NotShareable)
        {
            log::error!(kept_back; "{}: its answers are shared, so their headers are dropped", endpoint.route.path);
        }
        let content_type = match answer.content_type {
            Cow::Borrowed(text) => text,
            // Nobody knows how many there are of an upstream that makes them up.
            Cow::Owned(text) => interned(&text)
                .map_err(|_| Error::new(Code::NotShareable, "its media type is one of too many that are kept"))?,
        };
        let compress_bytes_min = self.settings.cache.compress_bytes_min;
        let body = answer.body.clone();
        let cost = stamp.made.elapsed();
        let variants = beside(body.len(), move || Variants::of(body, compress_bytes_min)).await;
        let body = variants.unwrap_or_else(|| Variants::of(answer.body, usize::MAX));
        let policy = fill.endpoint.route.cache.as_ref();
        let limits = Limits {
            fresh: policy.map_or(Duration::ZERO, |policy| policy.ttl),
            stale_while_revalidate: policy.map_or(Duration::ZERO, |policy| policy.stale_while_revalidate),
            stale_if_error: policy.map_or(Duration::ZERO, |policy| policy.stale_if_error),
        };
        let parts = Parts {
            status: answer.status,
            content_type,
            body,
            tags: stamp.tags,
            told: stamp.told,
            is_local: stamp.is_local,
            as_of: stamp.as_of,
            seen: stamp.seen,
            outlives_change: policy.is_some_and(|policy| policy.on_change == OnChange::Stale),
            origin: Origin::Filled,
            made: stamp.made,
            cost,
            limits,
            detail: stamp.detail,
            absence: None,
        };
        Ok(Entry::new(&fill.canonical, fill.endpoint.route.fingerprint, parts))
    }

    /// The entry of a 404: kept for a short time, with the tags of its route, so that an insert makes it fall.
    pub(super) fn absence(&self, error: Error, fill: &Fill, stamp: Stamp) -> Entry {
        let fresh = self.settings.cache.not_found_ttl.0;
        let parts = Parts {
            status: 404,
            content_type: "application/problem+json",
            body: Variants::of(Bytes::new(), usize::MAX),
            tags: stamp.tags,
            told: stamp.told,
            is_local: stamp.is_local,
            as_of: stamp.as_of,
            seen: stamp.seen,
            outlives_change: false,
            origin: Origin::Filled,
            made: stamp.made,
            cost: stamp.made.elapsed(),
            limits: Limits { fresh, stale_while_revalidate: Duration::ZERO, stale_if_error: Duration::ZERO },
            detail: stamp.detail,
            absence: Some(error.detail),
        };
        Entry::new(&fill.canonical, fill.endpoint.route.fingerprint, parts)
    }

    /// A call of a source, whose time begins now.
    pub(super) fn call(
        &self,
        params: Params,
        method: &str,
        body: Bytes,
        consistency: Consistency,
        depth: impl Into<Depth>,
    ) -> Call {
        let deadline = Instant::now() + self.settings.limits.request_timeout.0;
        Call::new(method.into(), params, body, self.database.clone(), consistency, depth, deadline)
    }

    /// Runs the source inside its deadline. A panic in it is an error like others.
    pub(super) async fn produce(&self, endpoint: &Endpoint, call: Call) -> Produced {
        let began = Instant::now();
        let LimitSettings { request_timeout, response_bytes_max, .. } = self.settings.limits;
        let work = AssertUnwindSafe(endpoint.producer.run(&call)).catch_unwind();
        let answer = match actix_rt::time::timeout(request_timeout.0, work).await {
            Ok(Ok(Ok(answer))) if answer.body.len() > response_bytes_max => {
                let detail = format!("the answer of this route would be longer than {response_bytes_max} bytes");
                Err(Error::new(Code::ResponseTooLarge, detail))
            }
            Ok(Ok(answer)) => answer,
            Ok(Err(panic)) => Err(panicked(endpoint, panic.as_ref())),
            Err(_) if call.committed().is_some() => Err(in_doubt()),
            Err(_) => Err(Error::new(Code::SourceTimeout, "the source did not answer in time")),
        };
        let (served, committed) = (call.served(), call.committed());
        let detail = match served.as_ref().map(|served| served.role) {
            _ if committed.is_some() => "primary",
            Some(Role::Replica) => "replica",
            Some(Role::Primary) => "primary",
            None => endpoint.producer.detail(),
        };
        let seen = served.as_ref().and_then(|served| served.seen);
        let reached = served.map(|served| served.reached);
        Produced { answer, detail, took: began.elapsed(), reached, seen, committed }
    }
}

/// Does work on a body of so many bytes: at once where it is short, else on a thread for blocking work, so that no other
/// request waits for it. `None` where that thread failed.
pub(super) async fn beside<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if bytes < BLOCKING_BYTES { Some(work()) } else { actix_rt::task::spawn_blocking(work).await.ok() }
}

/// Tells a span what its fill has come to. What the request itself did wrong is no failure.
fn tell(span: &mut Span, outcome: &Outcome) {
    match outcome {
        Ok(Filled { stored, layer, .. }) => {
            span.set("mainstay.layer", if *layer == Layer::Shared { "L2" } else { "source" });
            span.set("mainstay.stored", *stored);
        }
        Err(error) => {
            span.set("error.type", error.code.as_str());
            if error.code.is_source_failure() {
                span.fail(error.code.as_str());
                span.keep();
            }
        }
    }
}

fn panicked(endpoint: &Endpoint, panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    if let Some(kept_back) = endpoint.said.may_say(Instant::now(), Code::Internal) {
        log::error!(kept_back; "the source of {} panicked: {text}", endpoint.route.path);
    }
    Error::new(Code::Internal, "the source of this route failed; the log says why")
}
