//! Pages of a peer's snapshot over HTTP, all under one time limit.

use std::path::Path;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{StatusCode, Url};
use tokio::time::timeout;

use crate::cache::page::PAGE_BYTES_MAX;
use crate::config::ConfigError;
use crate::config::failover::FailoverSettings;
use crate::database::target::TlsMode;
use crate::database::tls;
use crate::outgoing::{self, reason};
use crate::telemetry::traces;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a page was not had.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// No connection, or one that broke off.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// Nothing, or too little, came in time.
    #[error("it does not answer within failover.peer_timeout")]
    Late,
    /// The token does not open it.
    #[error("it refuses failover.peer_token (HTTP {0}): is it one of its ADMIN_TOKEN?")]
    Refused(StatusCode),
    /// Another answer than a page.
    #[error("it answers with HTTP {0}")]
    Status(StatusCode),
    /// A page that is not to be believed.
    #[error("its page is damaged, of another version, or of an origin with another cache.namespace")]
    NotOurs,
}

impl Failure {
    /// The stable name.
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Late => "timeout",
            Self::Refused(_) => "refused",
            Self::Status(_) => "status",
            Self::NotOurs => "page",
        }
    }
}

/// Where a peer is.
pub(super) struct Address {
    /// Host and port, for people and metrics.
    pub(super) name: String,
    url: Url,
}

impl Address {
    /// # Errors
    /// A sentence that names the setting.
    pub(super) fn new(text: &str) -> Result<Self, ConfigError> {
        let fail = |why: &str| ConfigError::new(format!("failover.peers: {why}, like \"http://10.0.0.1:9090\""));
        let url: Url = text.parse().map_err(|_| fail("each is the address of a peer's admin listener"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(fail("each begins with http:// or https://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(fail("the token has a setting of its own, failover.peer_token; each is an address alone"));
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(fail("each is an address without a path"));
        }
        let host = url.host_str().ok_or_else(|| fail("each has a host"))?;
        let name = format!("{host}:{}", url.port_or_known_default().unwrap_or_default());
        Ok(Self { name, url })
    }
}

/// Asks peers.
pub(super) struct Client {
    http: reqwest::Client,
    authorization: HeaderValue,
    timeout: Duration,
}

impl Client {
    /// # Errors
    /// A sentence that names the setting.
    pub(super) fn new(settings: &FailoverSettings, peers: &[&Address]) -> Result<Self, ConfigError> {
        let token = settings.peer_token.list().into_iter().next().unwrap_or_default();
        let mut authorization = HeaderValue::try_from(format!("Bearer {}", token.expose()))
            .map_err(|_| ConfigError::new("failover.peer_token: it has characters that no header may have"))?;
        authorization.set_sensitive(true);
        let has_tls = peers.iter().any(|peer| peer.url.scheme() == "https");
        let roots = Some(Path::new(&settings.peer_ca_file)).filter(|file| !file.as_os_str().is_empty());
        // To read the system's roots takes its time, and a failover origin has none to spare when it starts.
        let tls = if has_tls { tls::client_config(TlsMode::VerifyFull, roots) } else { tls::no_roots() };
        let tls = tls.map_err(|why| ConfigError::new(format!("failover.peer_ca_file: {why}")))?;
        let http = outgoing::client(tls).connect_timeout(CONNECT_TIMEOUT).build();
        let http = http.map_err(|error| ConfigError::new(format!("failover.peers: {}", reason(error))))?;
        Ok(Self { http, authorization, timeout: settings.peer_timeout.0 })
    }

    /// The page after a cursor, of about so many bytes. The peer learns to which span it belongs, where one is recorded.
    pub(super) async fn page(
        &self,
        peer: &Address,
        after: Option<&str>,
        bytes_max: usize,
        keep_bytes_max: u64,
    ) -> Result<Vec<u8>, Failure> {
        let mut url = peer.url.clone();
        url.set_path("/admin/snapshot");
        url.query_pairs_mut()
            .append_pair("bytes_max", &bytes_max.to_string())
            .append_pair("keep_bytes_max", &keep_bytes_max.to_string())
            .extend_pairs(after.map(|cursor| ("after", cursor)));
        timeout(self.timeout, self.read(url)).await.unwrap_or(Err(Failure::Late))
    }

    async fn read(&self, url: Url) -> Result<Vec<u8>, Failure> {
        let broken = |error| Failure::Unreachable(reason(error));
        let mut headers = HeaderMap::from_iter([(AUTHORIZATION, self.authorization.clone())]);
        if let Some(here) = traces::current() {
            here.write(&mut headers);
        }
        let mut response = self.http.get(url).headers(headers).send().await.map_err(broken)?;
        match response.status() {
            StatusCode::OK => {}
            // Without ADMIN_TOKEN it has no such path.
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND) => {
                return Err(Failure::Refused(status));
            }
            // Somebody has tried too many wrong ones from here: the next attempt is no better for coming soon.
            status @ StatusCode::TOO_MANY_REQUESTS => return Err(Failure::Refused(status)),
            status => return Err(Failure::Status(status)),
        }
        let mut page = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            if page.len() + chunk.len() > PAGE_BYTES_MAX {
                return Err(Failure::NotOurs);
            }
            page.extend_from_slice(&chunk);
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_scheme_a_host_and_a_port() {
        for (text, name) in [
            ("http://10.0.0.1:9090", "10.0.0.1:9090"),
            ("http://[::1]:9090/", "[::1]:9090"),
            ("https://origin.example", "origin.example:443"),
        ] {
            assert_eq!(Address::new(text).map(|address| address.name).unwrap(), name);
        }
        for text in
            ["", "10.0.0.1:9090", "ftp://host", "http://", "http://host/admin", "http://host?a", "http://me:it@host"]
        {
            let refused = Address::new(text).map(|_| ()).unwrap_err().to_string();
            assert!(refused.starts_with("failover.peers: ") && !refused.contains("me:it"), "{refused}");
        }
    }
}
