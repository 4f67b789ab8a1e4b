//! A TCP proxy that misbehaves on demand.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::net::sockopt::set_socket_linger;

use super::{LocalError, Result};

/// More than any test needs; further connections are closed at once. Each takes two threads.
const CONNECTIONS_MAX: usize = 512;

const CHUNK_BYTES: usize = 64 * 1024;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a thread that cannot write looks whether its connection was cut.
const WRITE_TIMEOUT: Duration = Duration::from_millis(100);

/// How often a throttled connection forwards a piece.
const THROTTLE_INTERVAL: Duration = Duration::from_millis(20);

/// What a [`Proxy`] does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyMode {
    /// Forwards.
    #[default]
    Pass,
    /// Closes new connections; forwards on those that exist.
    Refuse,
    /// Resets new connections; forwards on those that exist.
    Reset,
    /// Accepts, and forwards nothing on any connection, as when a network drops every packet. What was sent meanwhile
    /// arrives when the mode changes, as TCP would send it again.
    BlackHole,
}

/// A TCP proxy on a loopback port in front of an address, in threads of its own. Dropping it ends all its connections.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Signalled when the state changes.
    changed: Condvar,
}

struct State {
    target: SocketAddr,
    mode: ProxyMode,
    delay: Duration,
    /// Bytes that a connection forwards in each [`THROTTLE_INTERVAL`] and direction; none: as many as come.
    throttle: Option<NonZeroUsize>,
    is_closing: bool,
    /// How often all connections were ended. A connection belongs to the era it was accepted in, and ends with it.
    era: u64,
    /// Accepted and not yet ended.
    connections: usize,
    /// The sockets of the connections that have reached the target.
    pairs: Vec<Arc<Pair>>,
}

struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Proxy {
    /// Starts a proxy in front of `target`, on a free port.
    pub fn start(target: SocketAddr) -> Result<Self> {
        let listen = || -> std::io::Result<(TcpListener, SocketAddr)> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = listen().map_err(LocalError::io("listen on", Path::new("127.0.0.1")))?;
        let state = State {
            target,
            mode: ProxyMode::Pass,
            delay: Duration::ZERO,
            throttle: None,
            is_closing: false,
            era: 0,
            connections: 0,
            pairs: Vec::new(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.accept_all(&listener)
        });
        Ok(Self { address, shared, acceptor: Some(acceptor) })
    }

    /// Where the proxy listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port where the proxy listens.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.shared.state.lock().connections
    }

    /// Changes what the proxy does from now on.
    pub fn set_mode(&self, mode: ProxyMode) {
        self.shared.change(|state| state.mode = mode);
    }

    /// Delays each chunk of up to 64 KiB by this much, in each direction: a round trip takes twice as long.
    pub fn set_delay(&self, delay: Duration) {
        self.shared.change(|state| state.delay = delay);
    }

    /// Forwards no more than so many bytes a second, on each connection and in each direction, and at least 50; none: as many
    /// as come.
    pub fn set_throttle(&self, bytes_per_s: Option<usize>) {
        let in_interval = |bytes_per_s: usize| {
            let interval_ms = usize::try_from(THROTTLE_INTERVAL.as_millis()).unwrap_or(usize::MAX);
            NonZeroUsize::new(bytes_per_s.saturating_mul(interval_ms) / 1000).unwrap_or(NonZeroUsize::MIN)
        };
        self.shared.change(|state| state.throttle = bytes_per_s.map(in_interval));
    }

    /// Sends new connections elsewhere.
    pub fn set_target(&self, target: SocketAddr) {
        self.shared.change(|state| state.target = target);
    }

    /// Closes all connections, on both sides, in an orderly way.
    pub fn cut(&self) {
        self.shared.end_all(Pair::close);
    }

    /// Resets all connections, on both sides.
    pub fn reset(&self) {
        self.shared.end_all(Pair::reset);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.change(|state| state.is_closing = true);
        self.cut();
        // Wakes the acceptor, which waits for nothing else.
        let _ = TcpStream::connect_timeout(&self.address, CONNECT_TIMEOUT);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }

    fn end_all(&self, end: impl Fn(&Pair)) {
        self.change(|state| {
            state.era += 1;
            state.pairs.drain(..).for_each(|pair| end(&pair));
        });
    }

    fn accept_all(&self, listener: &TcpListener) {
        thread::scope(|scope| {
            for client in listener.incoming() {
                let mut state = self.state.lock();
                if state.is_closing {
                    break;
                }
                let Ok(client) = client else { continue };
                match state.mode {
                    ProxyMode::Pass | ProxyMode::BlackHole if state.connections < CONNECTIONS_MAX => {
                        state.connections += 1;
                        let era = state.era;
                        scope.spawn(move || {
                            self.serve(client, era);
                            self.change(|state| state.connections -= 1);
                        });
                    }
                    ProxyMode::Reset => abort_on_close(&client),
                    ProxyMode::Pass | ProxyMode::BlackHole | ProxyMode::Refuse => {}
                }
            }
        });
    }

    /// Carries one connection to its end.
    fn serve(&self, client: TcpStream, era: u64) {
        let Some(target) = self.wait_for_passage(era).map(|state| state.target) else { return };
        let Ok(server) = TcpStream::connect_timeout(&target, CONNECT_TIMEOUT) else { return };
        for stream in [&client, &server] {
            let _ = stream.set_nodelay(true);
            let _ = stream.set_write_timeout(Some(WRITE_TIMEOUT));
        }
        let pair = Arc::new(Pair { client, server });
        {
            let mut state = self.state.lock();
            if state.era != era {
                return;
            }
            state.pairs.push(Arc::clone(&pair));
        }
        thread::scope(|scope| {
            scope.spawn(|| self.pump(&pair.client, &pair.server, era));
            self.pump(&pair.server, &pair.client, era);
        });
        self.change(|state| state.pairs.retain(|other| !Arc::ptr_eq(other, &pair)));
    }

    /// Forwards one direction until it ends, and passes its end on.
    fn pump(&self, mut from: &TcpStream, to: &TcpStream, era: u64) {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let length = from.read(&mut buffer).unwrap_or(0);
            let chunk = buffer.get(..length).unwrap_or_default();
            let Some(state) = self.wait_for_passage(era) else { return };
            if chunk.is_empty() {
                // Under the lock, so that a reset comes before it or after it.
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            drop(state);
            if !self.forward(to, chunk, era) {
                let state = self.state.lock();
                if state.era == era {
                    // The receiver is gone, so the sender has nobody to talk to.
                    let _ = from.shutdown(Shutdown::Both);
                }
                return;
            }
        }
    }

    /// Writes a chunk as fast as it may go, and says whether all of it was written.
    fn forward(&self, to: &TcpStream, mut chunk: &[u8], era: u64) -> bool {
        while !chunk.is_empty() {
            let throttle = self.state.lock().throttle;
            let length = throttle.map_or(chunk.len(), |bytes| bytes.get().min(chunk.len()));
            let (piece, rest) = chunk.split_at_checked(length).unwrap_or((chunk, &[]));
            if !self.write(to, piece, era) {
                return false;
            }
            if throttle.is_some() {
                thread::sleep(THROTTLE_INTERVAL);
            }
            chunk = rest;
        }
        true
    }

    /// Writes bytes, and says whether all of them were written.
    fn write(&self, mut to: &TcpStream, mut chunk: &[u8], era: u64) -> bool {
        while !chunk.is_empty() {
            match to.write(chunk) {
                Ok(length) => chunk = chunk.get(length..).unwrap_or_default(),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    if self.state.lock().era != era {
                        return false;
                    }
                }
                Err(_) => return false,
            }
        }
        true
    }

    /// Waits as long as the delay and a black hole ask for. None once the era is over.
    fn wait_for_passage(&self, era: u64) -> Option<MutexGuard<'_, State>> {
        let arrival = Instant::now();
        let mut state = self.state.lock();
        while state.era == era {
            let departure = arrival + state.delay;
            if state.mode == ProxyMode::BlackHole {
                self.changed.wait(&mut state);
            } else if departure > Instant::now() {
                self.changed.wait_until(&mut state, departure);
            } else {
                return Some(state);
            }
        }
        None
    }
}

impl Pair {
    fn close(&self) {
        for stream in [&self.client, &self.server] {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Prepares a reset, which the kernel sends when the last thread that uses the sockets has let them go. To wake the
    /// threads only the reading side may be shut down: the writing side would send an orderly end first.
    fn reset(&self) {
        for stream in [&self.client, &self.server] {
            abort_on_close(stream);
            let _ = stream.shutdown(Shutdown::Read);
        }
    }
}

/// Makes the kernel reset the connection in place of closing it.
fn abort_on_close(stream: &TcpStream) {
    let _ = set_socket_linger(stream, Some(Duration::ZERO));
}
