//! An HTTP server of the tests' own, which does to each request what its test says, however wrong that is.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use crate::support::PATIENCE;

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    /// All values of a header, joined.
    pub fn header(&self, name: &str) -> Option<String> {
        let values: Vec<&str> =
            self.headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }
}

/// What is done to a request, whose body has been read unless the service leaves bodies alone.
type Script = Arc<dyn Fn(&Seen, &mut TcpStream) + Send + Sync>;

/// The server. Dropping it closes its listener; connections end with their clients.
pub struct Service {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    script: Mutex<Script>,
    seen: Mutex<Vec<Seen>>,
    open: AtomicUsize,
    is_closing: AtomicBool,
    reads_bodies: AtomicBool,
}

impl Service {
    /// A server that does this to each request.
    pub fn new(script: impl Fn(&Seen, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            script: Mutex::new(Arc::new(script)),
            seen: Mutex::default(),
            open: AtomicUsize::new(0),
            is_closing: AtomicBool::new(false),
            reads_bodies: AtomicBool::new(true),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.is_closing.load(Ordering::SeqCst) {
                    break;
                }
                let (stream, shared) = (stream.unwrap(), Arc::clone(&shared));
                thread::spawn(move || {
                    shared.open.fetch_add(1, Ordering::SeqCst);
                    shared.serve(stream);
                    shared.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, state }
    }

    /// A server that answers every request with 200, these headers, and the number of the request as its body.
    pub fn with(headers: &'static [(&'static str, &'static str)]) -> Self {
        let number = AtomicUsize::new(0);
        Self::new(move |_, stream| {
            let number = number.fetch_add(1, Ordering::SeqCst) + 1;
            answer(stream, "200 OK", headers, format!("{{\"call\":{number}}}").as_bytes());
        })
    }

    /// A server that answers every request with a status.
    pub fn status(status: &'static str) -> Self {
        Self::new(move |_, stream| answer(stream, status, &[], b"{\"own\":true}"))
    }

    /// Does something else from now on.
    pub fn script(&self, script: impl Fn(&Seen, &mut TcpStream) + Send + Sync + 'static) {
        *self.state.script.lock() = Arc::new(script);
    }

    /// Leaves the bodies of requests to the script.
    pub fn leave_bodies(self) -> Self {
        self.state.reads_bodies.store(false, Ordering::SeqCst);
        self
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests that have come.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().clone()
    }

    /// How many requests have come.
    pub fn calls(&self) -> usize {
        self.state.seen.lock().len()
    }

    /// The last request.
    pub fn last(&self) -> Seen {
        self.state.seen.lock().last().cloned().unwrap()
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Waits until so many requests have come.
    pub fn wait_calls(&self, calls: usize) {
        assert!(mainstay::local::wait_until(PATIENCE, || self.calls() >= calls), "{} of {calls} calls", self.calls());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.state.is_closing.store(true, Ordering::SeqCst);
        let _wakes_the_acceptor = TcpStream::connect(self.address);
    }
}

impl State {
    fn serve(&self, mut stream: TcpStream) {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut read = Vec::new();
        while let Some(seen) = request(&mut stream, &mut read, self.reads_bodies.load(Ordering::SeqCst)) {
            self.seen.lock().push(seen.clone());
            let script = self.script.lock().clone();
            script(&seen, &mut stream);
        }
    }
}

/// Reads a request, and nothing of what comes after it. `None`: there is none any more.
fn request(stream: &mut TcpStream, read: &mut Vec<u8>, with_body: bool) -> Option<Seen> {
    let head_end = loop {
        match read.windows(4).position(|window| window == b"\r\n\r\n") {
            Some(at) => break at,
            None => more(stream, read)?,
        }
    };
    let head = String::from_utf8(read.drain(..head_end + 4).collect()).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let pair = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    let mut seen = Seen { method, target, headers: lines.filter_map(pair).collect(), body: Vec::new() };
    if !with_body {
        return Some(seen);
    }
    if seen.header("transfer-encoding").is_some() {
        while !read.ends_with(b"0\r\n\r\n") {
            more(stream, read)?;
        }
        seen.body = unchunked(&std::mem::take(read));
    } else {
        let length = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
        while read.len() < length {
            more(stream, read)?;
        }
        seen.body = read.drain(..length).collect();
    }
    Some(seen)
}

fn more(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<()> {
    let mut buffer = [0; 16 * 1024];
    match stream.read(&mut buffer) {
        Ok(0) | Err(_) => None,
        Ok(length) => {
            read.extend_from_slice(&buffer[..length]);
            Some(())
        }
    }
}

/// The content of chunks.
pub fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    while let Some(at) = bytes.windows(2).position(|window| window == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&bytes[..at]).unwrap(), 16).unwrap();
        content.extend_from_slice(&bytes[at + 2..at + 2 + length]);
        bytes = &bytes[at + 2 + length + 2..];
        if length == 0 {
            break;
        }
    }
    content
}

/// Answers a request. The client may have gone, which is its own business.
pub fn answer(stream: &mut TcpStream, status: &str, headers: &[(&str, &str)], body: &[u8]) {
    let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let _gone_or_not = stream.write_all(&[head.as_bytes(), b"\r\n", body].concat());
}

/// Closes a connection without a word.
pub fn hang_up(stream: &TcpStream) {
    let _gone_or_not = stream.shutdown(Shutdown::Both);
}

/// Closes a connection that nothing is asked on, and waits until the client has seen it. Then the connection is none of the open ones.
pub fn hang_up_and_wait(stream: &mut TcpStream) {
    let _gone_or_not = stream.shutdown(Shutdown::Write);
    say_nothing(stream);
}

/// Says nothing until the client has gone, or for long.
pub fn say_nothing(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let _gone = stream.read(&mut [0; 1]);
}
