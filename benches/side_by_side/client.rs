//! Many keep-alive connections on one thread, for what the load generators cannot do: each request only after what the one
//! before it showed, or all at one moment.

use std::cell::Cell;
use std::str;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::Outcome;
use crate::load::Numbered;

/// How long an answer may take: whoever waits longer has found a fault, not a slow server.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection.
pub struct Client {
    stream: BufReader<TcpStream>,
    line: String,
}

/// An answer.
pub struct Reply {
    /// What it says of where it came from.
    pub cache_status: String,
    pub body: String,
}

impl Reply {
    pub fn is_fresh_hit(&self) -> bool {
        self.cache_status.contains("; hit; ttl=") && !self.cache_status.contains("; ttl=-")
    }
}

impl Client {
    pub async fn connect(url: &str) -> Outcome<Self> {
        let stream = TcpStream::connect(url.strip_prefix("http://").unwrap_or(url)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), line: String::new() })
    }

    /// So many connections to each of the servers, server by server.
    pub async fn connect_all<'a>(urls: impl IntoIterator<Item = &'a str>, each: usize) -> Outcome<Vec<Self>> {
        let mut clients = Vec::new();
        for url in urls {
            for _ in 0..each {
                clients.push(Self::connect(url).await?);
            }
        }
        Ok(clients)
    }

    pub async fn get(&mut self, path: &str) -> Outcome<Reply> {
        match self.ask(path).await? {
            (200, reply) => Ok(reply),
            (status, Reply { body, .. }) => Err(format!("GET {path}: {status} {body}").into()),
        }
    }

    /// A request without a body that writes.
    pub async fn post(&mut self, path: &str) -> Outcome<Reply> {
        match self.send("POST", path, "", "").await? {
            (200, reply) => Ok(reply),
            (status, Reply { body, .. }) => Err(format!("POST {path}: {status} {body}").into()),
        }
    }

    /// An answer with whatever status.
    pub async fn ask(&mut self, path: &str) -> Outcome<(u16, Reply)> {
        self.send("GET", path, "", "").await
    }

    /// An answer to a request with header lines and a body.
    pub async fn send(&mut self, method: &str, path: &str, headers: &str, body: &str) -> Outcome<(u16, Reply)> {
        let exchange = timeout(PATIENCE, self.exchange(method, path, headers, body)).await;
        exchange.map_err(|_| format!("{method} {path} is not answered"))?
    }

    async fn exchange(&mut self, method: &str, path: &str, headers: &str, body: &str) -> Outcome<(u16, Reply)> {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let request = format!("{method} {path} HTTP/1.1\r\nHost: bench\r\n{headers}{length}\r\n{body}");
        self.stream.write_all(request.as_bytes()).await?;
        let status = self.line().await?.split(' ').nth(1).unwrap_or_default().parse()?;
        let (mut cache_status, mut body_bytes) = (String::new(), 0);
        while let Some((name, value)) = self.line().await?.split_once(": ") {
            if name.eq_ignore_ascii_case("content-length") {
                body_bytes = value.parse()?;
            } else if name.eq_ignore_ascii_case("cache-status") {
                value.clone_into(&mut cache_status);
            }
        }
        let mut body = vec![0; body_bytes];
        self.stream.read_exact(&mut body).await?;
        let body = str::from_utf8(&body)?.to_owned();
        Ok((status, Reply { cache_status, body }))
    }

    async fn line(&mut self) -> Outcome<&str> {
        self.line.clear();
        self.stream.read_line(&mut self.line).await?;
        Ok(self.line.trim_end())
    }
}

/// Asks for every number there is, once.
pub async fn ask_all(url: &str, numbered: Numbered) -> Outcome<()> {
    const CONNECTIONS: usize = 32;
    let next = Cell::new(0);
    let work = Client::connect_all([url], CONNECTIONS).await?.into_iter().map(async |mut client| {
        while next.get() < numbered.max {
            next.set(next.get() + 1);
            client.get(&format!("{}{}", numbered.path, next.get())).await?;
        }
        Outcome::Ok(())
    });
    try_join_all(work).await.map(drop)
}

/// Runs work of this kind to its end, on this thread.
pub fn run<T>(work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
