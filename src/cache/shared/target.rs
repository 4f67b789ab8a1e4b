//! Where Redis is, as the URL says, and the ways to connect to it.

use std::io;
use std::time::{Duration, Instant};

use futures_util::Stream;
use redis::aio::{ConnectionLike, MultiplexedConnection, PubSubSink};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, Msg, Pipeline, RedisFuture, RedisResult, TlsCertificates, Value};
use tokio::time::timeout;

use crate::config::ConfigError;
use crate::config::settings::RedisSettings;
use crate::telemetry::sparing::Sparing;

/// Attempts of the cluster client at one command: it has moved, the map of slots is read again, it has moved once more.
const CLUSTER_ATTEMPTS: u32 = 3;
/// Its pauses between them, in milliseconds.
const CLUSTER_PAUSE_MS: (u64, u64) = (5, 20);
/// Connecting to a cluster takes several connections.
const CLUSTER_CONNECT_FACTOR: u32 = 3;
/// The way in which URLs are written, for whoever wrote another one.
const FORMS: &str = "redis.url: write redis://HOST:PORT, rediss:// for TLS, redis-cluster:// or rediss-cluster:// for a \
                     cluster (several nodes separated by commas)";

/// One server, or a cluster of them.
pub struct Target {
    kind: Kind,
    connect_timeout: Duration,
    said: Sparing<&'static str>,
}

enum Kind {
    Single(Box<Client>),
    /// The nodes are for what the cluster's client does not do: subscriptions go to any one of them.
    Cluster {
        client: Box<ClusterClient>,
        nodes: Vec<Client>,
    },
}

/// A connection that many share at once.
#[derive(Clone)]
pub enum Connection {
    /// To one server.
    Single(MultiplexedConnection),
    /// To the nodes of a cluster, each command to the node that has its key.
    Cluster(ClusterConnection),
}

impl Target {
    /// The target of the settings.
    ///
    /// # Errors
    /// A sentence that names the key. It never repeats the URL, which may hold a password.
    pub fn new(settings: &RedisSettings) -> Result<Self, ConfigError> {
        let url = settings.url.expose();
        let roots = roots_pem(settings)?;
        let client = |url: &str| match &roots {
            Some(roots) if url.starts_with("rediss://") => {
                let certificates = TlsCertificates { client_tls: None, root_cert: Some(roots.clone()) };
                Client::build_with_tls(url, certificates)
            }
            _ => Client::open(url),
        };
        let wrong = |_| ConfigError::new(FORMS);
        let kind = match url.split_once("://") {
            Some(("redis" | "rediss", _)) => Kind::Single(Box::new(client(url).map_err(wrong)?)),
            Some(("redis-cluster" | "rediss-cluster", _)) => {
                let plain = |url: &str| url.trim().replacen("-cluster://", "://", 1);
                let urls: Vec<String> = url.split(',').map(plain).collect();
                let nodes: RedisResult<_> = urls.iter().map(|url| client(url)).collect();
                let mut builder = ClusterClientBuilder::new(urls)
                    .retries(CLUSTER_ATTEMPTS)
                    .min_retry_wait(CLUSTER_PAUSE_MS.0)
                    .max_retry_wait(CLUSTER_PAUSE_MS.1)
                    .connection_timeout(settings.connect_timeout.0);
                if let Some(roots) = roots.clone() {
                    builder = builder.certs(TlsCertificates { client_tls: None, root_cert: Some(roots) });
                }
                Kind::Cluster { client: Box::new(builder.build().map_err(wrong)?), nodes: nodes.map_err(wrong)? }
            }
            _ => return Err(ConfigError::new(FORMS)),
        };
        Ok(Self { kind, connect_timeout: settings.connect_timeout.0, said: Sparing::default() })
    }

    /// Says what is the matter, now and then: the same may happen to every request and at every attempt.
    pub(super) fn say(&self, what: &'static str, reason: &dyn std::fmt::Display) {
        if let Some(kept_back) = self.said.may_say(Instant::now(), what) {
            log::warn!(kept_back; "{what}: {reason}");
        }
    }

    /// Whether it is a cluster, whose connection mends itself when one of its nodes is lost.
    pub fn is_cluster(&self) -> bool {
        matches!(self.kind, Kind::Cluster { .. })
    }

    /// A new connection. It answers when the server does: deadlines are the caller's business.
    ///
    /// # Errors
    /// What stood against it, too much time included.
    pub async fn connect(&self) -> RedisResult<Connection> {
        match &self.kind {
            Kind::Single(client) => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(self.connect_timeout))
                    .set_response_timeout(None);
                let connecting = client.get_multiplexed_async_connection_with_config(&config);
                within(self.connect_timeout, connecting).await.map(Connection::Single)
            }
            Kind::Cluster { client, .. } => {
                let limit = self.connect_timeout.saturating_mul(CLUSTER_CONNECT_FACTOR);
                within(limit, client.get_async_connection()).await.map(Connection::Cluster)
            }
        }
    }

    /// The messages of a channel, and a way to ask whether they still come. A cluster passes them on to all of its nodes.
    ///
    /// # Errors
    /// What stood against it, too much time included.
    pub async fn subscribe(&self, channel: &str) -> RedisResult<(PubSubSink, impl Stream<Item = Msg> + use<>)> {
        let nodes = match &self.kind {
            Kind::Single(client) => std::slice::from_ref(&**client),
            Kind::Cluster { nodes, .. } => nodes,
        };
        let client = nodes.get(fastrand::usize(..nodes.len().max(1)));
        let subscribing = async {
            let client = client.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            let (mut sink, messages) = client.get_async_pubsub().await?.split();
            sink.subscribe(channel).await?;
            Ok((sink, messages))
        };
        within(self.connect_timeout, subscribing).await
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    timeout(limit, work).await.map_err(io::Error::from)?
}

fn roots_pem(settings: &RedisSettings) -> Result<Option<Vec<u8>>, ConfigError> {
    let file = &settings.tls_ca_file;
    if file.is_empty() {
        return Ok(None);
    }
    let wrong = |error| ConfigError::new(format!("redis.tls_ca_file: cannot read {file}: {error}"));
    std::fs::read(file).map(Some).map_err(wrong)
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}
