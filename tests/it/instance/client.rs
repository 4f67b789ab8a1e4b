//! A client that sends exactly the bytes it is told to, and reads replies with all that can be wrong about them.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::support::PATIENCE;

/// One connection.
pub struct Connection<S> {
    pub stream: S,
    read: Vec<u8>,
}

/// One reply.
#[derive(Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?} {}", self.status, self.headers, self.text())
    }
}

impl Connection<TcpStream> {
    /// A connection whose reads and writes fail, in place of hanging, when nothing happens for long.
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    /// Says that nothing more will be sent.
    pub fn end(&self) {
        let _may_be_closed_already = self.stream.shutdown(std::net::Shutdown::Write);
    }
}

impl<S: Read + Write> Connection<S> {
    /// A connection over any stream.
    pub fn over(stream: S) -> Self {
        Self { stream, read: Vec::new() }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Sends a request without a body and reads its reply.
    pub fn request(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) -> Reply {
        self.send(head(method, target, headers));
        self.reply(method)
    }

    /// Sends a request with a body and reads its reply.
    pub fn request_with_body(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let length = body.len().to_string();
        let headers: Vec<_> = headers.iter().copied().chain([("Content-Length", &*length)]).collect();
        self.send([head(method, target, &headers).as_bytes(), body].concat());
        self.reply(method)
    }

    /// The reply to a method, which must come.
    pub fn reply(&mut self, method: &str) -> Reply {
        self.try_reply(method).expect("the server closed the connection in place of a reply")
    }

    /// The reply to a method, or nothing where the server closes before it is whole.
    pub fn try_reply(&mut self, method: &str) -> Option<Reply> {
        let head_end = loop {
            match self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(at) => break at,
                None => self.read_more()?,
            }
        };
        let head = String::from_utf8(self.read[..head_end].to_vec()).unwrap();
        self.read.drain(..head_end + 4);
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let pair =
            |line: &str| line.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
        let mut reply = Reply { status, headers: lines.map(|line| pair(line).unwrap()).collect(), body: Vec::new() };
        if status == 100 {
            return self.try_reply(method);
        }
        let has_body = method != "HEAD" && !matches!(status, 204 | 304);
        let length: usize =
            if has_body { reply.header("content-length").map_or(0, |it| it.parse().unwrap()) } else { 0 };
        while self.read.len() < length {
            self.read_more()?;
        }
        reply.body = self.read.drain(..length).collect();
        Some(reply)
    }

    /// Reads until the server closes and returns what it sent.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.read_more().is_some() {}
        std::mem::take(&mut self.read)
    }

    /// Reads some bytes; nothing where the server has closed. A silent server is a failure of the test.
    fn read_more(&mut self) -> Option<()> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(read) => {
                    self.read.extend_from_slice(&buffer[..read]);
                    return Some(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("the server neither answers nor closes")
                }
                Err(_) => return None,
            }
        }
    }
}

impl Reply {
    /// The value of a header that is there at most once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.all(name);
        let value = values.next();
        assert!(values.next().is_none(), "{name} is there twice: {self:?}");
        value
    }

    /// All values of a header.
    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(other, _)| *other == name).map(|(_, value)| value.as_str())
    }

    /// The value of a header, empty where it is missing.
    pub fn said(&self, name: &str) -> &str {
        self.header(name).unwrap_or_default()
    }

    /// `Cache-Status`, without the name of the cache.
    pub fn cache(&self) -> &str {
        self.said("cache-status").strip_prefix("mainstay; ").unwrap_or_default()
    }

    /// The seconds of `ttl` in `Cache-Status`.
    pub fn ttl(&self) -> i64 {
        let ttl = self.cache().split("; ").find_map(|part| part.strip_prefix("ttl="));
        ttl.unwrap_or_else(|| panic!("no ttl: {self:?}")).parse().unwrap()
    }

    /// Whether it was answered from a cached entry.
    pub fn is_hit(&self) -> bool {
        self.cache().starts_with("hit")
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of a problem document, after checking all that each of them must have.
    #[track_caller]
    pub fn problem(&self) -> String {
        assert_eq!(self.said("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        let code = problem["code"].as_str().unwrap().to_owned();
        assert_eq!(problem["status"], self.status, "{self:?}");
        assert_eq!(problem["type"], format!("urn:mainstay:problem:{code}"));
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()));
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
        assert_eq!(problem["request_id"], self.said("x-request-id"));
        let may_retry = matches!(self.status, 429 | 503);
        assert_eq!(self.header("retry-after").is_some(), may_retry, "{self:?}");
        assert_eq!(self.header("x-region"), Some("test-1"));
        code
    }
}

/// The head of a request.
pub fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> String {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{method} {target} HTTP/1.1\r\nHost: origin.test\r\n{lines}\r\n")
}
