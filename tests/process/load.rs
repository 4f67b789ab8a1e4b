//! Clients under load: connections that are kept, as browsers, CDNs and balancers keep them, and nothing is asked twice.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest wait for an answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// Rest between two requests of a client.
const PAUSE: Duration = Duration::from_millis(2);

/// A connection that is kept until the server says that it closes.
pub struct Kept {
    stream: BufReader<TcpStream>,
    pub is_closed: bool,
}

impl Kept {
    pub fn open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, ANSWER_TIME_MAX)?;
        stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), is_closed: false })
    }

    /// One GET: the status, and who says that he answered.
    pub fn get(&mut self, target: &str) -> std::io::Result<(u16, String)> {
        let request = format!("GET {target} HTTP/1.1\r\nHost: viewer\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        let gone = || std::io::Error::other("closed before the answer");
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(gone)?;
        let (mut length, mut region) = (0, String::new());
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(gone());
            }
            let line = line.trim_end().to_ascii_lowercase();
            match line.split_once(": ") {
                Some(("content-length", value)) => length = value.parse().unwrap(),
                Some(("x-region", name)) => name.clone_into(&mut region),
                Some(("connection", "close")) => self.is_closed = true,
                None if line.is_empty() => break,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((status, region))
    }
}

/// What clients saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub answers: usize,
    /// Who answered, and how often.
    pub by: BTreeMap<String, usize>,
    /// The longest wait for an answer.
    pub longest: Duration,
    /// How often each thing went wrong.
    pub failures: BTreeMap<String, usize>,
}

/// What clients do with a connection after an answer.
#[derive(Clone, Copy)]
pub enum Then {
    /// They keep it, as long as the server does.
    Keep,
    /// They open another one.
    Leave,
}

/// Clients that ask, each on a connection of its own, until this is ended.
pub struct Load {
    is_over: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// `place` says where the next connection goes; it is asked again after a connection that is refused, which is no failure
    /// as long as another place accepts.
    pub fn start(
        clients: usize,
        then: Then,
        targets: &[String],
        place: impl Fn() -> SocketAddr + Clone + Send + 'static,
    ) -> Self {
        let (is_over, seen) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Seen>>::default());
        let client = |mut turn: usize| {
            let (is_over, seen, targets, place) = (is_over.clone(), seen.clone(), targets.to_vec(), place.clone());
            std::thread::spawn(move || {
                let mut kept = None;
                while !is_over.load(Ordering::Relaxed) {
                    turn += 1;
                    let target = &targets[turn % targets.len()];
                    let began = Instant::now();
                    let asked = ask(&mut kept, target, &place);
                    if matches!(then, Then::Leave) {
                        kept = None;
                    }
                    let mut seen = seen.lock().unwrap();
                    seen.longest = seen.longest.max(began.elapsed());
                    match asked {
                        Ok((200, region)) => {
                            seen.answers += 1;
                            *seen.by.entry(region).or_default() += 1;
                        }
                        Ok((status, _)) => *seen.failures.entry(format!("status {status}")).or_default() += 1,
                        Err(error) => *seen.failures.entry(error.to_string()).or_default() += 1,
                    }
                    drop(seen);
                    std::thread::sleep(PAUSE);
                }
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { is_over, seen, clients }
    }

    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// What was seen since this was asked last.
    pub fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }

    pub fn end(self) -> Seen {
        self.is_over.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(|client| client.join().unwrap());
        let seen = self.seen.lock().unwrap();
        seen.clone()
    }
}

fn ask(kept: &mut Option<Kept>, target: &str, place: &impl Fn() -> SocketAddr) -> std::io::Result<(u16, String)> {
    const PLACES_MAX: usize = 10;
    let mut connection = match kept.take() {
        Some(kept) => kept,
        None => {
            let mut opened = Kept::open(place());
            for _ in 1..PLACES_MAX {
                if opened.is_ok() {
                    break;
                }
                opened = Kept::open(place());
            }
            opened?
        }
    };
    let answer = connection.get(target)?;
    if !connection.is_closed {
        *kept = Some(connection);
    }
    Ok(answer)
}
