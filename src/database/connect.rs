//! The one way to open a connection: the URL as of now, TLS by rustls, the session's settings, all under one time limit.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::connection::CacheSize;
use diesel_async::{AsyncConnection, AsyncPgConnection};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::stream::Stream;
use super::target::{Target, TlsMode};
use super::tls::{Tapped, client_config};
use super::wire::{Begin, SqlState, Tap, Watched};
use crate::config::ConfigError;
use crate::config::settings::{DatabaseSettings, DatabaseUrl, Pooler};
use crate::position::{SystemId, Timeline};

/// How long a connection that is no longer wanted may take to say goodbye.
const FAREWELL_TIME: Duration = Duration::from_secs(1);

/// How long a connection is idle before its path is tested, and how often from then on.
const KEEPALIVE_TIME: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// What a connection is for, and so how its session is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// Reads of requests: read-only, with a statement timeout.
    Read,
    /// The sampler's probes and descriptions of statements: as [`Session::Read`].
    Probe,
    /// Writes of requests, with a statement timeout. What a transaction's end needs is set with it.
    Write,
    /// The change feed: may write, and waits for no synchronous standby.
    Feed,
    /// Migrations and imports: may write, and take as long as they take.
    Maintenance,
}

/// Opens connections to one node.
pub struct Connector {
    url: DatabaseUrl,
    session: Session,
    pooler: Pooler,
    connect_timeout: Duration,
    statement_timeout: Duration,
    lock_timeout: Duration,
    roots_file: Option<PathBuf>,
    tls: Mutex<Option<(TlsMode, Option<PathBuf>, MakeRustlsConnect)>>,
    endpoint: String,
    label: Arc<str>,
}

impl Connector {
    /// A connector for a URL. Nothing is connected yet.
    ///
    /// # Errors
    /// When the URL cannot be used, with the name of its key.
    pub fn new(
        key: &str,
        url: &DatabaseUrl,
        session: Session,
        settings: &DatabaseSettings,
    ) -> Result<Self, ConfigError> {
        let wrong = |reason: String| ConfigError::new(format!("{key}: {reason}"));
        let target = Target::parse(url.current().expose()).map_err(wrong)?;
        let roots_file = (!settings.tls_ca_file.is_empty()).then(|| PathBuf::from(&settings.tls_ca_file));
        let connector = Self {
            url: url.clone(),
            session,
            pooler: if session == Session::Maintenance { Pooler::None } else { settings.pooler },
            connect_timeout: settings.connect_timeout.0,
            statement_timeout: settings.statement_timeout.0,
            lock_timeout: settings.lock_timeout.0,
            roots_file,
            tls: Mutex::new(None),
            endpoint: target.endpoint.clone(),
            label: target.label.clone(),
        };
        connector.tls_for(&target).map_err(wrong)?;
        Ok(connector)
    }

    /// `host:port`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// `host:port/database`, for messages.
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// What stands between this connector and the server.
    pub fn pooler(&self) -> Pooler {
        self.pooler
    }

    /// How long a statement may take.
    pub fn statement_timeout(&self) -> Duration {
        self.statement_timeout
    }

    /// Opens a connection of Diesel. Its future is large, so it stands on the heap: nearly every read finds a connection that is open, and
    /// would else carry the room for this through all who wait for it.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses, or takes too long.
    pub fn open(&self) -> BoxFuture<'_, Result<Link, ConnectError>> {
        async move {
            let opened = timeout(self.connect_timeout, async {
                let raw = self.raw().await?;
                self.diesel(raw).await
            });
            opened.await.unwrap_or_else(|_| Err(self.failed("it took longer than database.connect_timeout")))
        }
        .boxed()
    }

    /// Opens a bare connection, for probes.
    ///
    /// # Errors
    /// As [`Connector::open`].
    pub async fn open_raw(&self) -> Result<RawLink, ConnectError> {
        let opened = timeout(self.connect_timeout, self.raw());
        opened.await.unwrap_or_else(|_| Err(self.failed("it took longer than database.connect_timeout")))
    }

    async fn raw(&self) -> Result<RawLink, ConnectError> {
        let mut target = Target::parse(self.url.current().expose()).map_err(|reason| self.failed(reason))?;
        let mut tls = self.tls_for(&target).map_err(|reason| self.failed(reason))?;
        self.set_up(&mut target);
        let mut last = None;
        for (host, port) in target.hosts() {
            match self.raw_to(host, port, &target, &mut tls).await {
                Ok(link) => return Ok(link),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| self.failed("its URL names no host")))
    }

    async fn raw_to(
        &self,
        host: &Host,
        port: u16,
        target: &Target,
        tls: &mut MakeRustlsConnect,
    ) -> Result<RawLink, ConnectError> {
        let (stream, name, mut config) = (self.stream(host, port).await, host_name(host), target.config.clone());
        let stream = stream.map_err(|error| self.failed(error))?;
        if matches!(host, Host::Unix(_)) {
            config.ssl_mode(SslMode::Disable);
        }
        let tap = Arc::new(Tap::default());
        let begin = if config.get_ssl_mode() == SslMode::Disable { Begin::AtOnce } else { Begin::AfterNegotiation };
        let connect = MakeTlsConnect::<Watched<Stream>>::make_tls_connect(tls, name);
        let connect = connect.map_err(|_| self.failed("its host is no name that a certificate can carry"))?;
        let stream = Watched::new(stream, tap.clone(), begin);
        let (client, connection) = config
            .connect_raw(stream, Tapped { inner: connect, tap: tap.clone() })
            .await
            .map_err(|error| self.refused(&error, &tap))?;
        let (farewell, farewell_said) = oneshot::channel::<()>();
        let limited = self.session != Session::Maintenance;
        tokio::spawn(async move {
            // The connection ends by itself once its client is dropped and all answers are in. A server that is out of
            // reach never answers, so after the farewell there is a limit.
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                _ = &mut connection => {}
                _ = farewell_said, if limited => { let _ended = timeout(FAREWELL_TIME, connection).await; }
            }
        });
        Ok(RawLink { client, tap, farewell })
    }

    async fn stream(&self, host: &Host, port: u16) -> io::Result<Stream> {
        match host {
            Host::Tcp(name) => {
                let stream = TcpStream::connect((name.as_str(), port)).await?;
                stream.set_nodelay(true)?;
                self.watch_path(&stream)?;
                Ok(Stream::Tcp(stream))
            }
            Host::Unix(folder) => {
                let stream = UnixStream::connect(folder.join(format!(".s.PGSQL.{port}"))).await?;
                Ok(Stream::Unix(stream))
            }
        }
    }

    /// Notices a path that swallows packets. Routers forget idle connections, and a query sent on one would wait for the
    /// whole deadline although its node is well: keepalives hold the path open, and what is not acknowledged in time ends
    /// the connection. A query that merely takes long is acknowledged at once, so this never cuts one off.
    fn watch_path(&self, stream: &TcpStream) -> io::Result<()> {
        let socket = SockRef::from(stream);
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_INTERVAL))?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(self.connect_timeout))?;
        Ok(())
    }

    /// What the session starts with. A pooler that hands out sessions of others refuses startup options, so behind one
    /// each transaction sets what it needs.
    fn set_up(&self, target: &mut Target) {
        target.config.application_name("mainstay");
        if self.pooler == Pooler::Transaction {
            return;
        }
        let timeout_ms = self.statement_timeout.as_millis();
        let ours = match self.session {
            Session::Read | Session::Probe => format!(
                "-c default_transaction_read_only=on -c statement_timeout={timeout_ms} \
                 -c idle_in_transaction_session_timeout={timeout_ms}"
            ),
            Session::Write => format!(
                "-c default_transaction_read_only=off -c statement_timeout={timeout_ms} -c lock_timeout={} \
                 -c idle_in_transaction_session_timeout={timeout_ms}",
                self.lock_timeout.as_millis()
            ),
            Session::Feed => format!(
                "-c default_transaction_read_only=off -c synchronous_commit=local -c statement_timeout={timeout_ms} \
                 -c idle_in_transaction_session_timeout={timeout_ms}"
            ),
            Session::Maintenance => "-c default_transaction_read_only=off -c statement_timeout=0".to_owned(),
        };
        let theirs = target.config.get_options().unwrap_or_default();
        let both = format!("{theirs} {ours}");
        target.config.options(both.trim());
    }

    async fn diesel(&self, raw: RawLink) -> Result<Link, ConnectError> {
        let RawLink { client, tap, farewell } = raw;
        let failed = |error: &dyn fmt::Display| self.failed(error);
        if self.pooler == Pooler::None {
            let connection = AsyncPgConnection::try_from(client).await.map_err(|error| failed(&error))?;
            return Ok(Link { connection, opened_at: Instant::now(), branch: None, tap, _farewell: farewell });
        }
        // The setup of diesel-async prepares two SETs by name. Outside a transaction the pooler may send a statement's
        // parts to different servers; and what they set must not stay behind on a server that others use.
        client.batch_execute("BEGIN").await.map_err(|error| self.refused(&error, &tap))?;
        let mut connection = AsyncPgConnection::try_from(client).await.map_err(|error| failed(&error))?;
        connection.set_prepared_statement_cache_size(CacheSize::Disabled);
        diesel_async::SimpleAsyncConnection::batch_execute(&mut connection, "ROLLBACK")
            .await
            .map_err(|error| failed(&error))?;
        Ok(Link { connection, opened_at: Instant::now(), branch: None, tap, _farewell: farewell })
    }

    /// The TLS configuration is made once: reading the system's roots takes milliseconds.
    fn tls_for(&self, target: &Target) -> Result<MakeRustlsConnect, String> {
        let roots_file = self.roots_file.as_ref().or(target.roots_file.as_ref());
        let mut made = self.tls.lock();
        match &*made {
            Some((mode, file, tls)) if *mode == target.tls && file.as_ref() == roots_file => Ok(tls.clone()),
            _ => {
                let tls = MakeRustlsConnect::new(client_config(target.tls, roots_file.map(PathBuf::as_path))?);
                *made = Some((target.tls, roots_file.cloned(), tls.clone()));
                Ok(tls)
            }
        }
    }

    fn failed(&self, reason: impl fmt::Display) -> ConnectError {
        ConnectError { target: self.label.clone(), reason: reason.to_string(), state: None }
    }

    fn refused(&self, error: &tokio_postgres::Error, tap: &Tap) -> ConnectError {
        let _seen = tap.take();
        let state = error.code().and_then(|code| SqlState::new(code.code()));
        let reason = match (error.as_db_error(), std::error::Error::source(error)) {
            (Some(error), _) => error.message().to_owned(),
            (None, Some(cause)) => format!("{error}: {cause}"),
            (None, None) => error.to_string(),
        };
        ConnectError { target: self.label.clone(), reason, state }
    }
}

/// The name that a certificate must carry; a socket in the file system has none, and no TLS.
fn host_name(host: &Host) -> &str {
    match host {
        Host::Tcp(name) => name,
        Host::Unix(_) => "localhost",
    }
}

/// A bare connection. Its driver ends soon after this is dropped.
pub struct RawLink {
    /// The client.
    pub client: Client,
    tap: Arc<Tap>,
    farewell: oneshot::Sender<()>,
}

impl RawLink {
    /// The SQLSTATE of the last error, once.
    pub fn take_sqlstate(&self) -> Option<SqlState> {
        self.tap.take()
    }

    /// Says that nothing more is wanted of the connection, which also happens when this is dropped.
    pub fn close(self) {
        let _gone = self.farewell.send(());
    }
}

/// A connection of Diesel. Its driver ends soon after this is dropped.
pub struct Link {
    /// The connection.
    pub connection: AsyncPgConnection,
    /// When it was opened: the server has not restarted since.
    pub opened_at: Instant,
    /// The branch that its server writes, once a writer has asked: a server that becomes a standby cuts its connections off.
    pub branch: Option<(SystemId, Timeline)>,
    tap: Arc<Tap>,
    /// Dropped after the connection.
    _farewell: oneshot::Sender<()>,
}

impl Link {
    /// The SQLSTATE of the last error, once.
    pub fn take_sqlstate(&self) -> Option<SqlState> {
        self.tap.take()
    }
}

/// A connection that was not opened. It carries no credential: what it says of the URL is host, port and database.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot connect to {target}: {reason}")]
pub struct ConnectError {
    /// `host:port/database`.
    pub target: Arc<str>,
    /// Why.
    pub reason: String,
    /// The server's word, where it answered.
    pub state: Option<SqlState>,
}
