//! A connection to one region, and what its parts take.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT_ENCODING, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::Target;

/// Bytes of one answer.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why there is no time, in a few words.
pub(super) type Trouble = String;

/// What connecting took.
#[derive(Clone, Debug)]
pub(super) struct Connected {
    pub(super) address: SocketAddr,
    pub(super) tcp: Duration,
    /// None where TLS is not spoken.
    pub(super) tls: Option<Duration>,
}

/// An answer of which all was read.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    /// From the request to the last byte.
    pub(super) time: Duration,
}

/// How a region is asked.
pub(super) struct Way<'a> {
    pub(super) target: &'a Target,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) timeout: Duration,
    pub(super) headers: &'a [(HeaderName, HeaderValue)],
}

/// An open connection.
pub(super) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
}

impl Way<'_> {
    /// Opens a connection.
    ///
    /// # Errors
    /// Where the region cannot be reached in time, or its certificate is not trusted.
    pub(super) async fn connect(&self) -> Result<(Connection, Connected), Trouble> {
        let late = |_| Err(format!("connect: nothing within {}", humantime::format_duration(self.timeout)));
        timeout(self.timeout, self.connect_late()).await.unwrap_or_else(late)
    }

    async fn connect_late(&self) -> Result<(Connection, Connected), Trouble> {
        let Target { url, address, .. } = self.target;
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let addresses: Vec<SocketAddr> = match address {
            Some(address) => vec![*address],
            None => {
                let port = url.port_or_known_default().unwrap_or(443);
                lookup_host((host, port)).await.map_err(|error| format!("look-up: {error}"))?.collect()
            }
        };
        let mut last = format!("look-up: {host} has no address");
        for address in addresses {
            let start = Instant::now();
            match TcpStream::connect(address).await {
                Ok(stream) => return self.greet(stream, host, address, start.elapsed()).await,
                Err(error) => last = format!("connect: {error}"),
            }
        }
        Err(last)
    }

    async fn greet(
        &self,
        stream: TcpStream,
        host: &str,
        address: SocketAddr,
        tcp: Duration,
    ) -> Result<(Connection, Connected), Trouble> {
        stream.set_nodelay(true).map_err(|error| format!("connect: {error}"))?;
        if self.target.url.scheme() == "http" {
            return Ok((Connection::over(stream).await?, Connected { address, tcp, tls: None }));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|error| format!("TLS: {error}"))?;
        let start = Instant::now();
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await;
        let stream = stream.map_err(|error| format!("TLS: {error}"))?;
        let tls = Some(start.elapsed());
        Ok((Connection::over(stream).await?, Connected { address, tcp, tls }))
    }

    fn request(&self, path: &str) -> Result<Request<Empty<Bytes>>, Trouble> {
        let url = &self.target.url;
        let host = match url.port() {
            Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
            None => url.host_str().unwrap_or_default().to_owned(),
        };
        let mut request = Request::get(path)
            .header(HOST, host)
            .header(USER_AGENT, concat!("mainstay-probe/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT_ENCODING, "br, gzip");
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        request.body(Empty::new()).map_err(|error| format!("request: {error}"))
    }

    /// Asks for a path and reads the answer to its end.
    ///
    /// # Errors
    /// Where it does not come in time, or breaks off. The connection is of no more use then.
    pub(super) async fn ask(&self, connection: &mut Connection, path: &str) -> Result<Answer, Trouble> {
        let request = self.request(path)?;
        let late = |_| Err(format!("no answer within {}", humantime::format_duration(self.timeout)));
        timeout(self.timeout, connection.ask(request)).await.unwrap_or_else(late)
    }
}

impl Connection {
    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + 'static) -> Result<Self, Trouble> {
        let (sender, work) = handshake(TokioIo::new(stream)).await.map_err(|error| format!("connect: {error}"))?;
        // It ends with the connection; what goes wrong there, the request says.
        actix_rt::spawn(async move {
            let _ended = work.await;
        });
        Ok(Self { sender })
    }

    /// The connection, where another request can be sent over it.
    pub(super) async fn still_open(mut self) -> Option<Self> {
        self.sender.ready().await.is_ok().then_some(self)
    }

    async fn ask(&mut self, request: Request<Empty<Bytes>>) -> Result<Answer, Trouble> {
        let start = Instant::now();
        let answer = self.sender.send_request(request).await.map_err(|error| format!("broken off: {error}"))?;
        let (head, body) = answer.into_parts();
        drain(body).await?;
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, time: start.elapsed() })
    }
}

async fn drain(mut body: Incoming) -> Result<(), Trouble> {
    let mut left = BODY_BYTES_MAX;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("broken off: {error}"))?;
        let length = frame.data_ref().map_or(0, Bytes::len);
        left = left.checked_sub(length).ok_or_else(|| "an answer without end".to_owned())?;
    }
    Ok(())
}
