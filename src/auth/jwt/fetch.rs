//! Where a key set comes from: a file, or a URL.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use reqwest::{Client, StatusCode, Url, header};
use tokio::time::{sleep, timeout};

use crate::config::ConfigError;
use crate::config::auth::AuthSettings;
use crate::database::target::TlsMode;
use crate::database::tls;
use crate::outgoing::{self, reason};

/// How long a key set may be, in bytes.
const BYTES_MAX: usize = 1024 * 1024;
/// How often it is looked whether a file has changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Why a key set was not had.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The file cannot be read, or there is no connection, or one that broke off.
    #[error("{0}")]
    Unreachable(String),
    /// Nothing, or too little, came in time.
    #[error("nothing came within auth.jwks_timeout")]
    Late,
    /// Another answer than 200. Redirections are not followed: where to is not what is configured.
    #[error("the answer is HTTP {0}")]
    Status(StatusCode),
    /// Not a key set.
    #[error("{0}")]
    Invalid(String),
}

impl Failure {
    /// The stable name, for metrics.
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Late => "timeout",
            Self::Status(_) => "status",
            Self::Invalid(_) => "invalid",
        }
    }

    fn too_long() -> Self {
        Self::Invalid(format!("it is longer than {BYTES_MAX} bytes"))
    }
}

/// Where a key set comes from.
pub(super) enum Source {
    /// A file.
    File(Watched),
    /// A URL.
    Url(Remote),
}

impl Source {
    /// What is configured, if anything is.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub(super) fn new(settings: &AuthSettings) -> Result<Option<Self>, ConfigError> {
        let AuthSettings { jwks_file, jwks_url, .. } = settings;
        match (jwks_file.is_empty(), jwks_url.is_empty()) {
            (true, true) => Ok(None),
            (false, _) => Ok(Some(Self::File(Watched::new(jwks_file.into())))),
            (true, false) => Remote::new(settings).map(|remote| Some(Self::Url(remote))),
        }
    }

    /// For messages. A URL's query is nobody's business there.
    pub(super) fn name(&self) -> String {
        match self {
            Self::File(file) => file.path.display().to_string(),
            Self::Url(remote) => {
                let mut url = remote.url.clone();
                url.set_query(None);
                url.to_string()
            }
        }
    }

    /// The bytes as of now. Who drops it stops it, but for a look at a file, which ends by itself.
    pub(super) async fn read(&self) -> Result<Vec<u8>, Failure> {
        match self {
            Self::File(file) => file.read_elsewhere().await,
            Self::Url(remote) => remote.read().await,
        }
    }

    /// Waits until there may be something new, other than by time.
    pub(super) async fn changed(&self) {
        match self {
            Self::File(file) => file.changed().await,
            Self::Url(_) => std::future::pending().await,
        }
    }
}

/// A file, and what it looked like when it was last read.
pub(super) struct Watched {
    path: PathBuf,
    last: Mutex<Option<Look>>,
}

/// When a file was changed, and its length.
type Look = (SystemTime, u64);

impl Watched {
    const fn new(path: PathBuf) -> Self {
        Self { path, last: Mutex::new(None) }
    }

    /// The file's content. Blocks.
    pub(super) fn read(&self) -> Result<Vec<u8>, Failure> {
        // Looked at first: what is written while it is read will be seen to have changed.
        *self.last.lock() = look(&self.path);
        read_file(&self.path)
    }

    async fn read_elsewhere(&self) -> Result<Vec<u8>, Failure> {
        let path = self.path.clone();
        let read = actix_rt::task::spawn_blocking(move || (look(&path), read_file(&path))).await;
        let (look, outcome) = read.map_err(|_| Failure::Unreachable("reading it failed".to_owned()))?;
        *self.last.lock() = look;
        outcome
    }

    async fn changed(&self) {
        loop {
            sleep(LOOK_INTERVAL).await;
            let path = self.path.clone();
            let now = actix_rt::task::spawn_blocking(move || look(&path)).await;
            if now.is_ok_and(|now| now != *self.last.lock()) {
                return;
            }
        }
    }
}

fn look(path: &Path) -> Option<Look> {
    let metadata = path.metadata().ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let unreadable = |error: std::io::Error| Failure::Unreachable(error.to_string());
    // A pipe would be waited for.
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err(Failure::Unreachable("it is not a file".to_owned()));
    }
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > BYTES_MAX { Err(Failure::too_long()) } else { Ok(bytes) }
}

/// A URL, and the client that asks there.
pub(super) struct Remote {
    url: Url,
    client: Client,
    timeout: Duration,
}

impl Remote {
    fn new(settings: &AuthSettings) -> Result<Self, ConfigError> {
        let url = settings.key_set_url()?;
        let roots = Some(Path::new(&settings.jwks_ca_file)).filter(|file| !file.as_os_str().is_empty());
        let has_tls = url.scheme() == "https";
        let tls = if has_tls { tls::client_config(TlsMode::VerifyFull, roots) } else { tls::no_roots() };
        let tls = tls.map_err(|why| ConfigError::new(format!("auth.jwks_ca_file: {why}")))?;
        // A connection that stays open for minutes until it is needed again is more trouble than a new one.
        let client = outgoing::client(tls)
            .pool_max_idle_per_host(0)
            .user_agent(concat!("mainstay/", env!("CARGO_PKG_VERSION")))
            .build();
        let client = client.map_err(|error| ConfigError::new(format!("auth.jwks_url: {}", reason(error))))?;
        Ok(Self { url, client, timeout: settings.jwks_timeout.0 })
    }

    async fn read(&self) -> Result<Vec<u8>, Failure> {
        timeout(self.timeout, self.read_all()).await.unwrap_or(Err(Failure::Late))
    }

    async fn read_all(&self) -> Result<Vec<u8>, Failure> {
        let broken = |error| Failure::Unreachable(reason(error));
        let request =
            self.client.get(self.url.clone()).header(header::ACCEPT, "application/jwk-set+json, application/json");
        let mut response = request.send().await.map_err(broken)?;
        if response.status() != StatusCode::OK {
            return Err(Failure::Status(response.status()));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            if bytes.len() + chunk.len() > BYTES_MAX {
                return Err(Failure::too_long());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}
