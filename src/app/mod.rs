//! The only wiring: builds everything out of settings and manifest, runs the servers, reloads, drains.

mod count;
mod edge;
mod expire;
mod gauges;
mod handover;
mod hard;
mod hear;
mod lead;
mod listeners;
mod outlook;
mod peers;
mod prune;
mod purge;
mod settle;
mod shutdown;
mod snapshots;
mod statistics;
mod stores;
mod traces;
mod upkeep;

use std::net::{SocketAddr, TcpListener};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use arc_swap::ArcSwap;
use chrono::Utc;
use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::admin;
use crate::admin::journal::{Event, Journal, Kind};
use crate::admin::purge::Purger;
use crate::auth::Auth;
use crate::auth::jwt::keyring::Keyring;
use crate::cache::Cache;
use crate::cache::bus::Bus;
use crate::cache::fence::Ledger;
use crate::cache::shared::Shared;
use crate::config::ConfigError;
use crate::config::auth::AccountReads;
use crate::config::manifest::{Known, Manifest, Problem, Source};
use crate::config::settings::{ServerSettings, Settings};
use crate::database::health::{Health, Verdict};
use crate::database::read::Database;
use crate::edge::Outlet;
use crate::http::admission::Admission;
use crate::http::alone::Alone;
use crate::http::audit::Audit;
use crate::http::failover::Starting;
use crate::http::front::Front;
use crate::http::health::HealthPages;
use crate::http::hot::Hot;
use crate::http::middleware::Middlewares;
use crate::http::nodes::NodePages;
use crate::http::openapi::Documents;
use crate::http::pipeline::Pipeline;
use crate::http::rate_limit::Rates;
use crate::http::server;
use crate::http::session::Sessions;
use crate::http::shadow::Shadows;
use crate::http::surface::Surface;
use crate::ramp::{self, providers::Providers};
use crate::source::handler::Registry;
use crate::source::upstream::group::Upstreams;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::stale::StaleServed;
use crate::telemetry::traces::Exporter;
pub use handover::Handover;
use hard::STARTING_TIME;
use hear::Ear;
pub use listeners::Listeners;
use outlook::Outlook;
use peers::Peers;
pub use shutdown::Wish;
use snapshots::Snapshots;
use statistics::Statistics;
use stores::StoreWatch;

/// How long a task that panicked rests.
const RESTART_TIME: Duration = Duration::from_secs(1);
/// How long a start waits for the first word of changes.
const HEARING_TIME_MAX: Duration = Duration::from_secs(1);
/// Health is not judged more often than this.
const TICK_MIN: Duration = Duration::from_millis(20);

/// What a manifest may name: the built-in parts and those that a user's crate adds.
#[derive(Clone, Default)]
pub struct Parts {
    /// Handlers by name.
    pub registry: Registry,
    /// Middlewares by name.
    pub middlewares: Middlewares,
    /// Payment providers beside the sandbox.
    pub providers: Providers,
    /// The version of the program; none: Mainstay's own.
    pub version: Option<String>,
}

impl Parts {
    /// Reads the manifest of a configuration folder.
    ///
    /// # Errors
    /// Every problem found, each with file and line.
    pub fn manifest(&self, dir: &std::path::Path, account_reads: AccountReads) -> Result<Manifest, Vec<Problem>> {
        let (handlers, middlewares) = (self.registry.names(), self.middlewares.names());
        let version = self.version();
        Manifest::load(dir, &Known { handlers: &handlers, middlewares: &middlewares, version, account_reads })
    }

    /// The manifest of an instance with these settings, which may lack what its routes need.
    ///
    /// # Errors
    /// Every problem found, each with file and line.
    pub fn served_manifest(&self, dir: &std::path::Path, settings: &Settings) -> Result<Manifest, Vec<Problem>> {
        let (handlers, middlewares) = (self.registry.names(), self.middlewares.names());
        let (version, account_reads) = (self.version(), settings.consistency.account_reads);
        let known = Known { handlers: &handlers, middlewares: &middlewares, version, account_reads };
        Manifest::load_served(dir, &known, &settings.auth)
    }

    fn version(&self) -> &str {
        self.version.as_deref().unwrap_or(env!("CARGO_PKG_VERSION"))
    }

    /// Gives the handlers what is known only now that the server starts.
    fn equip(&mut self, settings: &Settings, metrics: &Arc<Metrics>) -> Result<(), ConfigError> {
        let providers = self.providers.clone().with_sandbox(&settings.webhooks)?;
        self.registry.add_data(Arc::new(providers));
        self.registry.add_data(Arc::new(settings.orders.clone()));
        self.registry.add_data(Arc::clone(metrics));
        Ok(())
    }

    fn surface(&self, manifest: &Manifest, pipeline: &Pipeline) -> Surface {
        let Pipeline { upstreams, settings, metrics, .. } = pipeline;
        upstreams.keep(&manifest.upstreams);
        let surface = Surface::new(manifest, &self.registry, &self.middlewares, upstreams, settings, metrics);
        pipeline.nodes.set_upstreams(upstreams.nodes());
        surface
    }
}

/// A running instance.
pub struct Server {
    /// Where the public listener is.
    pub public_addr: SocketAddr,
    /// Where the admin listener is.
    pub admin_addr: SocketAddr,
    public: Listener,
    admin: Listener,
    core: Arc<Core>,
    /// The sockets, for a successor. Whoever else holds them holds them weakly, so that they close with this.
    sockets: Arc<[TcpListener; 2]>,
    is_held: bool,
    relieved: Arc<Notify>,
}

/// What listens and serves.
struct Listener {
    handle: ServerHandle,
    /// It runs there; without it requests in flight and open connections end.
    task: JoinHandle<std::io::Result<()>>,
}

impl Listener {
    fn start(server: actix_web::dev::Server) -> Self {
        Self { handle: server.handle(), task: actix_rt::spawn(server) }
    }
}

/// What outlives single requests.
struct Core {
    parts: Parts,
    dir: PathBuf,
    surface: Arc<ArcSwap<Surface>>,
    pipeline: Arc<Pipeline>,
    health: Arc<HealthPages>,
    ear: Arc<Ear>,
    snapshots: Option<Arc<Snapshots>>,
    peers: Option<Arc<Peers>>,
    statistics: Statistics,
    exporter: Option<Arc<Exporter>>,
    journal: Arc<Journal>,
}

impl Server {
    /// [`Server::start_on`] the addresses that are set.
    ///
    /// # Errors
    /// Those of [`Server::start_on`], and addresses that cannot be bound.
    pub fn start(settings: Settings, dir: PathBuf, parts: Parts) -> Result<Self, ConfigError> {
        Self::start_on(Listeners::bind, settings, dir, parts)
    }

    /// Starts everything on the current Actix system. A database that is down does not stop the start. It listens once all else is
    /// known to be right: whoever hands his sockets on is not asked for them in vain.
    ///
    /// # Errors
    /// A sentence that names the setting, or the lines of the manifest, that cannot be run with.
    pub fn start_on(
        listen: impl FnOnce(&ServerSettings) -> Result<Listeners, ConfigError>,
        settings: Settings,
        dir: PathBuf,
        mut parts: Parts,
    ) -> Result<Self, ConfigError> {
        let manifest = parts.served_manifest(&dir, &settings).map_err(problems)?;
        let settings = Arc::new(settings);
        let metrics = Metrics::new().map_err(|error| ConfigError::new(format!("metrics: {error}")))?;
        let capabilities = settings.capabilities();
        let has_database = capabilities.fills && settings.database.is_set();
        let database = if has_database { Some(Database::start(&settings)?) } else { None };
        let metrics = Arc::new(metrics);
        parts.equip(&settings, &metrics)?;
        let shared = if settings.redis.url.is_empty() {
            None
        } else {
            let body_bytes_max = settings.limits.response_bytes_max;
            let shared = if capabilities.tells { Shared::new } else { Shared::reading };
            Some(Arc::new(shared(&settings.redis, &settings.cache, body_bytes_max, &metrics)?))
        };
        let instance = format!("{}/{:016x}", settings.region, fastrand::u64(..));
        let bus = shared
            .clone()
            .map(|shared| Bus::new(shared, &settings.cache.namespace, &instance, settings.redis.stream_entries_max));
        let outlet = Outlet::new(&settings.edge)?.filter(|_| capabilities.tells);
        let upstreams = Upstreams::new(&settings, &metrics)?;
        let cache = Cache::new(&settings.cache, capabilities, settings.limits.fills_max, shared);
        let exporter = traces::exporter(&settings, parts.version(), &metrics)?;
        let pipeline = Arc::new(Pipeline {
            traces: exporter.as_ref().map(|exporter| Arc::clone(exporter.traces())),
            nodes: NodePages::new(database.clone(), &settings.nodes),
            auth: Arc::new(Auth::new(database.as_ref(), &cache.fences, &settings, &metrics)?),
            cache,
            database,
            admission: Admission::new(&settings.overload, &metrics),
            sessions: Sessions::new(&settings, &metrics),
            rates: Rates::new(&settings)?,
            capabilities,
            starting: Starting::new(STARTING_TIME),
            stale_served: StaleServed::new(&metrics),
            metrics,
            hot: Hot::default(),
            audit: Audit::new(settings.cache.audit_one_in, settings.cache.audit_per_second_max),
            settings: Arc::clone(&settings),
            upstreams,
            alone: Alone::default(),
            shadows: Shadows::default(),
        });
        let file = Snapshots::new(&pipeline).map(Arc::new);
        let snapshots = file.clone().filter(|_| capabilities.tells);
        let journal = Arc::new(Journal::default());
        let ear = Ear::new(Arc::clone(&pipeline), bus, snapshots.clone(), outlet, Arc::clone(&journal), instance);
        let ear = Arc::new(ear);
        // Who has anybody to hear from learns first where he begins: a Redis that has loaded an old dump tells of long ago. Who only
        // listens begins nowhere, and takes for current what the stream says is.
        if !capabilities.tells {
            if pipeline.cache.shared.is_some() {
                pipeline.cache.fences.expect_messages();
            }
        } else if pipeline.database.is_some() || pipeline.cache.shared.is_some() {
            pipeline.cache.fences.change(Ledger::await_start);
        } else {
            ear.begin_alone();
        }
        match file {
            // Redis may have what the first requests ask for: nobody waits for a long file who need not.
            Some(file) if capabilities.issues_anew => {
                pipeline.starting.begin_load();
                let pipeline = Arc::clone(&pipeline);
                actix_rt::spawn(async move {
                    let _loaded_or_said = actix_rt::task::spawn_blocking(move || file.load()).await;
                    pipeline.starting.end_load();
                });
            }
            Some(file) => file.load(),
            None => {}
        }
        let surface = parts.surface(&manifest, &pipeline);
        let surface = Arc::new(ArcSwap::from_pointee(surface));
        let core = Arc::new(Core {
            parts,
            dir,
            peers: Peers::new(&pipeline, &surface)?.map(Arc::new),
            surface,
            health: Arc::new(HealthPages::new(&settings.region)),
            ear,
            snapshots,
            statistics: Statistics::default(),
            exporter,
            journal,
            pipeline,
        });
        let front =
            Arc::new(Front::new(Arc::clone(&core.surface), Arc::clone(&core.pipeline), Arc::clone(&core.health)));
        core.set_constants();
        let listeners = listen(&settings.server)?;
        let sockets = listeners.share()?;
        let (public, public_addr) = server::listen(front, Arc::clone(&core.pipeline), listeners.public)?;
        let (for_scrapes, for_looks) = (Arc::clone(&core), Arc::clone(&core));
        let purger: Arc<dyn Purger> = core.ear.clone();
        let admin_parts = admin::Parts {
            pipeline: Arc::clone(&core.pipeline),
            surface: Arc::clone(&core.surface),
            health: Arc::clone(&core.health),
            purger,
            metrics: Arc::new(move || for_scrapes.render_metrics()),
            asks_database: |source| matches!(source, Source::Sql { .. }) || ramp::asks_database(source),
            peers: Arc::new(move || for_looks.peers.as_ref().map(|peers| peers.status()).unwrap_or_default()),
            journal: Arc::clone(&core.journal),
        };
        let (admin, admin_addr) = admin::listen(admin_parts, listeners.admin)?;
        actix_rt::spawn(Arc::clone(&core).watch_health());
        actix_rt::spawn({
            let core = Arc::clone(&core);
            async move {
                core.wait_sampled().await;
                core.health.settle();
            }
        });
        core.hear();
        core.pull();
        if let Some(exporter) = &core.exporter {
            keep_running(exporter, "the export of traces", |exporter| async move { exporter.run().await });
        }
        if let Some(tokens) = &core.pipeline.auth.tokens {
            let traces = core.pipeline.traces.clone();
            keep_running(tokens.keyring(), "the keeper of the key set", move |keyring: Arc<Keyring>| {
                keyring.keep(traces.clone())
            });
        }
        core.complete_documents();
        if core.pipeline.database.is_some() && capabilities.tells {
            keep_running(&core, "the pruning of idempotency keys and events", Core::prune);
            keep_running(&core, "the roll-up of statistics", Core::keep_statistics);
            keep_running(&core, "the sweep of events", Core::settle_events);
            keep_running(&core, "the expiry of orders", Core::expire_orders);
        }
        Ok(Self {
            public_addr,
            admin_addr,
            public: Listener::start(public),
            admin: Listener::start(admin),
            core,
            sockets,
            is_held: listeners.is_held,
            relieved: Arc::default(),
        })
    }

    /// Waits until every database has been asked once, so that the first request already finds its way to a replica.
    pub async fn wait_sampled(&self) {
        self.core.wait_sampled().await;
    }

    /// Takes over from the process before once this one is ready, and waits for the process after.
    pub fn take_over(&self, handover: Handover) {
        let (core, relieved) = (Arc::clone(&self.core), Arc::clone(&self.relieved));
        let sockets = Arc::downgrade(&self.sockets);
        actix_rt::spawn(async move {
            core.wait_sampled().await;
            core.health.settle();
            handover.take_over(sockets, relieved);
        });
    }

    /// Reads the manifest again and swaps it in whole; with a problem the old one stays. The key set of tokens is read again soon.
    ///
    /// # Errors
    /// Every problem found, each with file and line.
    pub fn reload(&self) -> Result<usize, Vec<Problem>> {
        let outcome = self.try_reload();
        let label = if outcome.is_ok() { "ok" } else { "refused" };
        self.core.pipeline.metrics.manifest_reloads.with_label_values(&[label]).inc();
        let what = match &outcome {
            Ok(routes) => format!("{routes} routes"),
            Err(problems) => problems.first().map(ToString::to_string).unwrap_or_default(),
        };
        let (by, result) = ("this instance".to_owned(), label.to_owned());
        self.core.journal.note(Event { at: Utc::now(), kind: Kind::Reload, by, what, result, id: None });
        outcome
    }

    fn try_reload(&self) -> Result<usize, Vec<Problem>> {
        let Core { parts, dir, pipeline, surface, .. } = &*self.core;
        let manifest = parts.served_manifest(dir, &pipeline.settings)?;
        if let Some(tokens) = &pipeline.auth.tokens {
            tokens.keyring().renew();
        }
        let fresh = parts.surface(&manifest, pipeline);
        let former = surface.swap(Arc::new(fresh));
        // The series of its routes are there to be forgotten, and what the others have counted is in theirs.
        former.endpoints().for_each(|endpoint| endpoint.counters.export());
        self.core.forget_series(&former);
        self.core.complete_documents();
        Ok(manifest.routes.len())
    }
}

/// All problems of a manifest as one sentence a line.
pub fn problems(problems: Vec<Problem>) -> ConfigError {
    ConfigError::new(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

impl Core {
    async fn wait_sampled(&self) {
        let is_sampled = || match &self.pipeline.database {
            Some(database) => database.status().nodes.iter().all(|node| node.sampled),
            None => true,
        };
        // Who is told by others, or by the database, can say more of what it fills from then on; but nobody waits for that
        // where it does not come.
        let patience = Instant::now() + HEARING_TIME_MAX;
        let Pipeline { cache, capabilities, .. } = &*self.pipeline;
        let has_clock = || !capabilities.tells || cache.fences.read(|ledger| ledger.told().is_some());
        // Nor does anybody wait for a connection to Redis whose first attempt has failed.
        let is_connecting = || cache.shared.as_ref().is_some_and(|shared| shared.commands().is_connecting());
        while !is_sampled() || is_connecting() || (!has_clock() && Instant::now() < patience) {
            actix_rt::time::sleep(TICK_MIN).await;
        }
    }

    /// Starts to listen for changes, and to tell of them.
    fn hear(&self) {
        let ear = &self.ear;
        keep_running(ear, "the reader of the stream", |ear| ear.hear_stream());
        if !self.pipeline.capabilities.tells {
            keep_running(ear, "the look-up of hard purges", |ear| ear.recall_hard_purges());
            return;
        }
        keep_running(ear, "the watch over timelines", |ear| ear.watch_timeline());
        keep_running(ear, "the keeper of hard purges", |ear| ear.keep_hard_purges());
        keep_running(ear, "the reader of the feed", |ear| ear.hear_feed());
        keep_running(ear, "the publisher", |ear| ear.lead());
        keep_running(ear, "the counter", |ear| ear.count());
        keep_running(ear, "the look-up of hard purges", |ear| ear.learn_hard_purges());
        let surface = Arc::clone(&self.surface);
        keep_running(ear, "the guard of watched tables", move |ear| {
            let surface = Arc::clone(&surface);
            ear.guard(move || surface.load().watches())
        });
        let surface = Arc::clone(&self.surface);
        keep_running(ear, "the teller of the edge", move |ear| {
            let surface = Arc::clone(&surface);
            ear.tell_edge(move || surface.load().endpoints().map(|endpoint| Arc::clone(&endpoint.route)).collect())
        });
        keep_running(&self.pipeline.auth, "the writer of API keys' last uses", |auth| async move {
            auth.keep_uses().await;
        });
        if let Some(snapshots) = &self.snapshots {
            actix_rt::spawn(Arc::clone(snapshots).keep());
        }
    }

    /// Completes the documents of the manifest in force, once there is somebody to ask what its queries yield.
    fn complete_documents(self: &Arc<Self>) {
        let surface = self.surface.load();
        let Some(documents) = surface.documents.as_ref().map(Arc::downgrade) else { return };
        let core = Arc::clone(self);
        actix_rt::spawn(async move {
            core.wait_sampled().await;
            let database = core.pipeline.database.clone();
            drop(core);
            Documents::complete(documents, database).await;
        });
    }

    /// Starts to pull the snapshots of peers.
    fn pull(&self) {
        let Some(peers) = &self.peers else { return };
        for place in 0..peers.count() {
            keep_running(peers, "the puller of a snapshot", move |peers| peers.follow(place));
        }
    }

    /// Judges the sampled state once a sample and publishes the verdict. Runs until the system ends.
    async fn watch_health(self: Arc<Self>) {
        let settings = &self.pipeline.settings;
        let (mut health, mut outlook, mut stores) = (Health::default(), Outlook::default(), StoreWatch::default());
        let mut last = None;
        let mut ticks = actix_rt::time::interval(settings.replication.sample_interval.0.max(TICK_MIN));
        loop {
            let verdict = match &self.pipeline.database {
                _ if self.pipeline.capabilities.issues_anew => stores.look(&self.pipeline).await,
                Some(database) => health.tick(&database.status(), &settings.health),
                None => Verdict::without_database(),
            };
            // Until every node has been asked once there is little to go by, and the next look is soon.
            let is_first_look = verdict.is_first_look();
            if last.as_ref() != Some(&(verdict.status, verdict.reasons.clone())) {
                let mut reasons: Vec<&str> = verdict.reasons.iter().map(|reason| reason.as_str()).collect();
                if reasons.is_empty() && self.pipeline.database.is_none() {
                    reasons.push("no database is configured");
                }
                log::info!(
                    "this instance is {}{}{}",
                    verdict.status.as_str(),
                    if reasons.is_empty() { "" } else { ": " },
                    reasons.join(", ")
                );
                last = Some((verdict.status, verdict.reasons.clone()));
            }
            self.health.publish(&verdict, outlook.look(&self.pipeline));
            if is_first_look {
                actix_rt::time::sleep(TICK_MIN).await;
            } else {
                ticks.tick().await;
            }
        }
    }
}

/// Runs one of the tasks by which an instance hears of changes, or of what others have. Without it the instance would be deaf,
/// and not know it: so a task that panics is said and begins anew.
fn keep_running<T, F, Fut>(part: &Arc<T>, name: &'static str, task: F)
where
    T: 'static,
    F: Fn(Arc<T>) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let part = Arc::clone(part);
    actix_rt::spawn(async move {
        while AssertUnwindSafe(task(Arc::clone(&part))).catch_unwind().await.is_err() {
            log::error!("{name} panicked, and begins anew");
            actix_rt::time::sleep(RESTART_TIME).await;
        }
    });
}
