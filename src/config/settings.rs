//! How the server runs: the layers compiled-in defaults < `DIR/mainstay.toml` < environment < flags, checked as a whole.
//!
//! `config/default.toml` is the reference: it holds every key with its unit and the reason it exists.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Config, Environment, File, FileFormat};
use serde::{Deserialize, Serialize, Serializer};

use super::ConfigError;
use super::auth::{AuthSettings, ConsistencySettings, OpenApiSettings};
use super::edge::EdgeSettings;
use super::failover::FailoverSettings;
use super::forward::ForwardSettings;
use super::idempotency::IdempotencySettings;
use super::logs::LogSettings;
use super::orders::OrderSettings;
use super::overload::{OverloadSettings, RateLimitSettings};
use super::statistics::StatisticsSettings;
use super::traces::TraceSettings;
use super::units::{Secret, Span, list};
use super::webhooks::WebhookSettings;
use crate::mode::{Capabilities, FailoverSource, Mode};

/// The greatest `cache.early_refresh_beta`.
pub const EARLY_REFRESH_BETA_MAX: u32 = 10;

const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Environment names that are read as they are, each also as `NAME_FILE`, and the key they set.
pub const NAMED: [(&str, &str); 26] = [
    ("REGION", "region"),
    ("MODE", "mode"),
    ("FAILOVER_SOURCE", "failover.source"),
    ("FAILOVER_PEER_TOKEN", "failover.peer_token"),
    ("BIND_ADDR", "server.bind_addr"),
    ("ADMIN_ADDR", "server.admin_addr"),
    ("ADMIN_TOKEN", "server.admin_token"),
    ("ORIGIN_SECRET", "server.origin_secret"),
    ("TOKEN_SECRET", "consistency.token_secret"),
    ("PRIMARY_ORIGIN", "forward.primary_origin"),
    ("DATABASE_URL", "database.url"),
    ("DATABASE_READ_REPLICA_URL", "database.read_replica_urls"),
    ("DATABASE_DIRECT_URL", "database.direct_url"),
    ("REDIS_URL", "redis.url"),
    ("CACHE_NAMESPACE", "cache.namespace"),
    ("LOG_FORMAT", "log.format"),
    ("LOG_AMQP_URL", "log.amqp.url"),
    ("AWS_ACCESS_KEY_ID", "edge.access_key_id"),
    ("AWS_SECRET_ACCESS_KEY", "edge.secret_access_key"),
    ("AWS_SESSION_TOKEN", "edge.session_token"),
    ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "edge.container_credentials_path"),
    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "edge.container_credentials_url"),
    ("SANDBOX_WEBHOOK_SECRET", "webhooks.sandbox_secret"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "traces.endpoint"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "traces.headers"),
    ("OTEL_SERVICE_NAME", "traces.service_name"),
];

/// All settings, validated.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How this instance runs.
    pub mode: Mode,
    /// Named in `X-Region` and in the health answer.
    pub region: String,
    /// Listeners, connections, shutdown.
    pub server: ServerSettings,
    /// What a request may cost.
    pub limits: LimitSettings,
    /// How many sources may run, and who waits.
    pub overload: OverloadSettings,
    /// How often a client may ask.
    pub rate_limit: RateLimitSettings,
    /// Nodes and pools.
    pub database: DatabaseSettings,
    /// Lag sampling and eligibility.
    pub replication: ReplicationSettings,
    /// Breakers and node choice.
    pub nodes: NodeSettings,
    /// What `/health/edge` asks for.
    pub health: HealthSettings,
    /// Who may ask for strong reads, and what sessions see.
    pub consistency: ConsistencySettings,
    /// How callers prove who they are.
    pub auth: AuthSettings,
    /// Where what needs the primary is sent.
    pub forward: ForwardSettings,
    /// The description of the API.
    pub openapi: OpenApiSettings,
    /// The shared cache and the bus.
    pub redis: RedisSettings,
    /// The change feed.
    pub changes: ChangeSettings,
    /// The response cache.
    pub cache: CacheSettings,
    /// The CDN that is told of purges.
    pub edge: EdgeSettings,
    /// The secondary origin.
    pub failover: FailoverSettings,
    /// What repeated requests are answered from.
    pub idempotency: IdempotencySettings,
    /// What customers order.
    pub orders: OrderSettings,
    /// What providers deliver.
    pub webhooks: WebhookSettings,
    /// What is counted by day.
    pub statistics: StatisticsSettings,
    /// The `cors` middleware.
    pub cors: CorsSettings,
    /// Log lines.
    pub log: LogSettings,
    /// Traces.
    pub traces: TraceSettings,
}

/// `[server]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct ServerSettings {
    pub bind_addr: SocketAddr,
    pub admin_addr: SocketAddr,
    pub admin_token: Secret,
    pub origin_secret: Secret,
    pub workers: usize,
    pub connections_max: usize,
    pub backlog: u32,
    pub keep_alive: Span,
    pub header_timeout: Span,
    pub shutdown_timeout: Span,
    pub drain_delay: Span,
    pub handover_socket: String,
    pub tls_cert_file: String,
    pub tls_key_file: String,
    pub list_routes_on_404: bool,
}

/// `[limits]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct LimitSettings {
    pub uri_bytes_max: usize,
    pub headers_max: usize,
    pub header_bytes_max: usize,
    pub body_bytes_max: usize,
    pub body_timeout: Span,
    pub request_timeout: Span,
    pub rows_max: u32,
    pub response_bytes_max: usize,
    pub fills_max: usize,
}

/// Where a database, or a broker of log lines, is reached. With a file, the file is read again for each new connection, so that
/// a rotated password is picked up by the login that follows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Secret")]
pub struct DatabaseUrl {
    value: Secret,
    file: Option<PathBuf>,
    /// Which member of the file's comma list this is.
    index: usize,
}

impl From<Secret> for DatabaseUrl {
    fn from(value: Secret) -> Self {
        Self { value, file: None, index: 0 }
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl DatabaseUrl {
    /// The URL as of now: the file's content where it came from a file that can still be read.
    pub fn current(&self) -> Secret {
        let fresh = self.file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
        fresh
            .and_then(|text| Secret::new(text.trim()).list().into_iter().nth(self.index))
            .unwrap_or_else(|| self.value.clone())
    }

    /// Whether nothing was configured.
    pub fn is_empty(&self) -> bool {
        self.value.is_empty()
    }

    /// The members of a comma list of URLs.
    pub fn list(&self) -> Vec<Self> {
        let member = |(index, value)| Self { value, file: self.file.clone(), index };
        self.value.list().into_iter().enumerate().map(member).collect()
    }
}

/// What stands between this process and Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooler {
    /// Nothing: connections are sessions.
    None,
    /// PgBouncer in transaction mode: nothing outlives a transaction, prepared statements included.
    Transaction,
}

/// `[database]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct DatabaseSettings {
    pub url: DatabaseUrl,
    pub read_replica_urls: DatabaseUrl,
    pub direct_url: DatabaseUrl,
    pub pooler: Pooler,
    pub pool_size: usize,
    pub write_pool_size: usize,
    pub connect_timeout: Span,
    pub wait_timeout: Span,
    pub statement_timeout: Span,
    pub lock_timeout: Span,
    pub tls_ca_file: String,
    pub strong_concurrency_max: usize,
    pub primary_fallback_max: usize,
}

impl DatabaseSettings {
    /// Whether there is any database to read.
    pub fn is_set(&self) -> bool {
        !self.url.is_empty() || !self.read_replica_urls.is_empty()
    }

    /// Where migrations and imports connect: past a pooler where one is configured.
    pub fn maintenance_url(&self) -> &DatabaseUrl {
        if self.direct_url.is_empty() { &self.url } else { &self.direct_url }
    }
}

/// `[replication]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct ReplicationSettings {
    pub sample_interval: Span,
    pub probe_timeout: Span,
    pub lag_max: Span,
}

impl ReplicationSettings {
    /// A probe of a node older than this is overdue.
    pub fn overdue(&self) -> Duration {
        self.sample_interval.0 * 2 + self.probe_timeout.0
    }
}

/// `[nodes]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct NodeSettings {
    pub failures_to_open: u32,
    pub open_time: Span,
    pub open_time_max: Span,
    pub pick_ttl: Span,
    pub pick_margin: f64,
    #[serde(deserialize_with = "list")]
    pub regions: Vec<String>,
    pub public: bool,
    pub public_token: Secret,
}

impl NodeSettings {
    /// The region of a node, where it was said.
    pub fn region(&self, id: &str) -> Option<&str> {
        let pairs = self.regions.iter().filter_map(|pair| pair.split_once('='));
        pairs.map(|(node, region)| (node.trim(), region.trim())).find(|(node, _)| *node == id).map(|(_, region)| region)
    }

    fn check(&self, admin_token: &Secret) -> Result<(), ConfigError> {
        let fail = |sentence: &str| Err(ConfigError::new(sentence));
        if self.regions.iter().any(|pair| !pair.contains('=')) {
            return fail("nodes.regions: each member is like \"replica-1=eu-west-1\"");
        }
        let tokens = self.public_token.list();
        if self.public && tokens.is_empty() {
            return fail("nodes.public: nodes are not shown to everyone; set nodes.public_token as well");
        }
        let admin_tokens = admin_token.list();
        if tokens.iter().any(|token| admin_tokens.contains(token)) {
            return fail("nodes.public_token: must not be one of ADMIN_TOKEN, which opens more than /nodes");
        }
        Ok(())
    }
}

/// A dependency that `/health/edge` may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dependency {
    /// The primary answers and is writable.
    Primary,
    /// At least one replica is eligible.
    Replica,
}

/// `[health]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct HealthSettings {
    pub lag_max: Span,
    #[serde(deserialize_with = "list")]
    pub required: Vec<Dependency>,
    pub failures_to_unhealthy: u32,
    pub successes_to_healthy: u32,
}

/// `[redis]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct RedisSettings {
    pub url: Secret,
    pub tls_ca_file: String,
    pub connect_timeout: Span,
    pub timeout: Span,
    pub failures_to_open: u32,
    pub open_time: Span,
    pub open_time_max: Span,
    pub lease_timeout: Span,
    pub stream_entries_max: u64,
}

/// `[changes]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct ChangeSettings {
    pub poll_interval: Span,
    pub heartbeat_interval: Span,
    pub tags_per_poll_max: u32,
    pub cursor_retention: Span,
    pub hard_retention: Span,
    pub watch_interval: Span,
}

/// What happens to entries that may have been purged for good without anyone telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PastHardPurgeSilence {
    /// They are served, marked stale, and revalidated.
    Serve,
    /// They are not served.
    Refuse,
}

/// `[cache]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct CacheSettings {
    pub namespace: String,
    pub retention: Span,
    pub max_silence: Span,
    pub hard_purge_max_silence: Span,
    pub past_hard_purge_max_silence: PastHardPurgeSilence,
    pub tags_max: usize,
    pub snapshot_file: String,
    pub snapshot_interval: Span,
    pub snapshot_bytes_max: u64,
    pub audit_one_in: u32,
    pub audit_per_second_max: u32,
    pub memory_bytes_max: u64,
    pub not_found_ttl: Span,
    pub compress_bytes_min: usize,
    pub early_refresh_beta: f64,
}

/// `[cors]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct CorsSettings {
    #[serde(deserialize_with = "list")]
    pub origins: Vec<String>,
    pub max_age: Span,
}

/// Where settings come from. The environment is passed in, so that tests need not change their process.
pub struct Layers<'a> {
    /// The configuration folder; `mainstay.toml` in it is optional.
    pub dir: &'a Path,
    /// The environment.
    pub env: HashMap<String, String>,
    /// Flags, as key and value; they win.
    pub flags: Vec<(&'static str, String)>,
}

impl<'a> Layers<'a> {
    /// The layers of this process.
    pub fn of_process(dir: &'a Path, flags: Vec<(&'static str, String)>) -> Self {
        let env =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self { dir, env: env.collect(), flags }
    }
}

impl Settings {
    /// Reads and checks all layers.
    ///
    /// # Errors
    /// A sentence that names the key that is unknown, malformed or impossible in combination.
    pub fn load(layers: Layers<'_>) -> Result<Self, ConfigError> {
        let file = layers.dir.join("mainstay.toml");
        let sections = layers.env.iter().filter(|(name, _)| name.starts_with("MAINSTAY__"));
        let sections = sections.map(|(name, value)| (name.clone(), value.clone())).collect();
        let environment =
            Environment::with_prefix("MAINSTAY").prefix_separator("__").separator("__").source(Some(sections));
        let mut builder = Config::builder()
            .add_source(File::from_str(DEFAULTS, FileFormat::Toml))
            .add_source(File::from(file).format(FileFormat::Toml).required(false))
            .add_source(environment);
        let mut files = HashMap::new();
        for (name, key) in NAMED {
            if let Some((value, file)) = named_value(&layers.env, name)? {
                builder = builder.set_override(key, value).map_err(|error| wrong(name, &error))?;
                files.extend(file.map(|file| (key, file)));
            }
        }
        for (key, value) in layers.flags {
            builder = builder.set_override(key, value).map_err(|error| wrong(key, &error))?;
            files.remove(key);
        }
        let merged = builder.build().map_err(|error| ConfigError::new(format!("configuration: {error}")))?;
        let mut settings: Self = serde_path_to_error::deserialize(merged).map_err(|error| {
            let path = error.path().to_string();
            wrong(if path == "." { "configuration" } else { &path }, error.inner())
        })?;
        settings.database.url.file = files.remove("database.url");
        settings.database.read_replica_urls.file = files.remove("database.read_replica_urls");
        settings.database.direct_url.file = files.remove("database.direct_url");
        settings.log.amqp.url.file = files.remove("log.amqp.url");
        settings.check()?;
        Ok(settings)
    }

    /// The compiled-in values.
    ///
    /// # Errors
    /// Where `config/default.toml` is wrong, which every start would have shown.
    pub fn defaults() -> Result<Self, ConfigError> {
        let defaults = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml)).build();
        defaults.and_then(Config::try_deserialize).map_err(|error| wrong("config/default.toml", &error))
    }

    /// What this instance does.
    pub fn capabilities(&self) -> Capabilities {
        self.mode.capabilities(self.failover.source)
    }

    /// Combinations that single keys cannot rule out.
    fn check(&self) -> Result<(), ConfigError> {
        let fail = |sentence: &str| Err(ConfigError::new(sentence));
        let is_failover = self.mode == Mode::Failover;
        if is_failover {
            self.failover.check()?;
        }
        if is_failover && self.failover.source == FailoverSource::ReadOnly && !self.database.is_set() {
            return fail("failover.source: read-only needs a database to read; set DATABASE_READ_REPLICA_URL");
        }
        if !is_failover && self.database.url.is_empty() && !self.database.read_replica_urls.is_empty() {
            return fail("database.read_replica_urls: replicas need a primary; set DATABASE_URL as well");
        }
        if self.server.tls_cert_file.is_empty() != self.server.tls_key_file.is_empty() {
            return fail("server.tls_cert_file and server.tls_key_file: set both, or none");
        }
        if self.region.is_empty() || !self.region.bytes().all(|byte| byte.is_ascii_graphic()) {
            return fail("region: a name of printable characters without spaces, like \"eu-west-1\"");
        }
        if !(0.0..=f64::from(EARLY_REFRESH_BETA_MAX)).contains(&self.cache.early_refresh_beta) {
            return fail("cache.early_refresh_beta: a number from 0 to 10");
        }
        if self.cache.namespace.is_empty() {
            return fail("cache.namespace: must not be empty");
        }
        let positive = [
            ("database.pool_size", self.database.pool_size),
            ("database.write_pool_size", self.database.write_pool_size),
            ("database.strong_concurrency_max", self.database.strong_concurrency_max),
            ("database.primary_fallback_max", self.database.primary_fallback_max),
            ("limits.fills_max", self.limits.fills_max),
            ("cache.tags_max", self.cache.tags_max),
            ("limits.headers_max", self.limits.headers_max),
            ("limits.uri_bytes_max", self.limits.uri_bytes_max),
            ("server.connections_max", self.server.connections_max),
        ];
        match positive.into_iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(ConfigError::new(format!("{key}: must be at least 1"))),
            None => self.check_spans(),
        }
    }

    fn check_spans(&self) -> Result<(), ConfigError> {
        let spans = [
            ("limits.request_timeout", self.limits.request_timeout),
            ("limits.body_timeout", self.limits.body_timeout),
            ("server.header_timeout", self.server.header_timeout),
            ("database.connect_timeout", self.database.connect_timeout),
            ("database.wait_timeout", self.database.wait_timeout),
            ("database.statement_timeout", self.database.statement_timeout),
            ("database.lock_timeout", self.database.lock_timeout),
            ("redis.timeout", self.redis.timeout),
            ("redis.connect_timeout", self.redis.connect_timeout),
            ("redis.lease_timeout", self.redis.lease_timeout),
            ("changes.poll_interval", self.changes.poll_interval),
            ("changes.heartbeat_interval", self.changes.heartbeat_interval),
            ("changes.watch_interval", self.changes.watch_interval),
            ("cache.snapshot_interval", self.cache.snapshot_interval),
            ("cache.max_silence", self.cache.max_silence),
            ("cache.retention", self.cache.retention),
            ("replication.sample_interval", self.replication.sample_interval),
            ("replication.probe_timeout", self.replication.probe_timeout),
        ];
        match spans.into_iter().find(|(_, span)| span.0.is_zero()) {
            Some((key, _)) => Err(ConfigError::new(format!("{key}: must be longer than zero"))),
            None => self.nodes.check(&self.server.admin_token).and_then(|()| self.check_pace()),
        }?;
        self.overload.check()?;
        self.forward.check(&self.limits)?;
        self.rate_limit.check()?;
        self.auth.check_tokens()?;
        self.edge.check()?;
        self.traces.check()?;
        let replication = &self.replication;
        let freshness = replication.lag_max.0 + replication.overdue();
        self.consistency.check(freshness, self.limits.request_timeout.0)?;
        self.idempotency.check()?;
        self.orders.check()?;
        self.webhooks.check()?;
        self.log.check()?;
        self.statistics.check()
    }

    /// Times that only mean something beside each other.
    fn check_pace(&self) -> Result<(), ConfigError> {
        let (cache, changes) = (&self.cache, &self.changes);
        if changes.heartbeat_interval.0 * 2 > cache.max_silence.0 {
            return Err(ConfigError::new(
                "cache.max_silence: must be at least twice changes.heartbeat_interval, or nothing would ever be fresh",
            ));
        }
        if changes.hard_retention.0 < cache.retention.0 {
            return Err(ConfigError::new(
                "changes.hard_retention: must not be shorter than cache.retention, or what was purged for good could come back",
            ));
        }
        Ok(())
    }
}

/// The value of `NAME`, or the trimmed content of the file that `NAME_FILE` names. An empty value counts as not set, as
/// compose files and task definitions like to write it.
fn named_value(env: &HashMap<String, String>, name: &str) -> Result<Option<(String, Option<PathBuf>)>, ConfigError> {
    let get = |name: &str| env.get(name).filter(|value| !value.is_empty());
    let file_name = format!("{name}_FILE");
    match (get(name), get(&file_name)) {
        (Some(_), Some(_)) => Err(ConfigError::new(format!("{name} and {file_name} are both set; keep one"))),
        (Some(value), None) => Ok(Some((value.clone(), None))),
        (None, Some(path)) => {
            let path = PathBuf::from(path);
            let text = std::fs::read_to_string(&path)
                .map_err(|error| ConfigError::new(format!("{file_name}: cannot read {}: {error}", path.display())))?;
            Ok(Some((text.trim().to_owned(), Some(path))))
        }
        (None, None) => Ok(None),
    }
}

fn wrong(key: &str, error: &config::ConfigError) -> ConfigError {
    ConfigError::new(format!("{key}: {error}"))
}
