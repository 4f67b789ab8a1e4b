//! Connections that hold on to the server without using it.
//!
//! Actix times the header of a connection's first request, and idle connections after that. It does not time a header that
//! trickles in after a first whole request, nor a client that never reads its answer. So each connection notes when it last
//! brought a whole request, and those that have been silent for too long, and wait for nothing of ours, are cut off.

use std::any::Any;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::rt::net::TcpStream;
use parking_lot::Mutex;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};

/// How often it is looked whether a client is still there while an upstream is waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The open connections of a listener.
pub struct Connections {
    open: Mutex<Vec<Weak<Connection>>>,
    began: Instant,
    silence_max: Duration,
}

/// One open connection.
pub struct Connection {
    /// A second handle on the socket, to cut it off with.
    socket: OwnedFd,
    began: Instant,
    /// When the last request came or the last answer was made, in milliseconds after `began`.
    heard_ms: AtomicU64,
    /// Requests that are being worked on.
    working: AtomicUsize,
}

/// A request that is being worked on; its connection is not silent meanwhile.
pub struct Working(Arc<Connection>);

impl Connections {
    /// No connections yet. A connection may be silent for so long: between requests, and while it does not read.
    pub fn new(silence_max: Duration) -> Self {
        Self { open: Mutex::default(), began: Instant::now(), silence_max }
    }

    /// Notes a connection that was accepted. `None` where its socket has no second handle to give: it is not watched then.
    pub fn opened(&self, io: &dyn Any) -> Option<Arc<Connection>> {
        let plain = io.downcast_ref::<TcpStream>();
        let tcp = plain.or_else(|| io.downcast_ref::<TlsStream<TcpStream>>().map(|tls| tls.get_ref().0))?;
        let socket = tcp.as_fd().try_clone_to_owned().ok()?;
        let connection = Arc::new(Connection {
            socket,
            began: self.began,
            heard_ms: AtomicU64::default(),
            working: AtomicUsize::default(),
        });
        connection.heard(Instant::now());
        self.open.lock().push(Arc::downgrade(&connection));
        Some(connection)
    }

    /// Cuts off silent connections, for ever.
    pub async fn watch(self: Arc<Self>) {
        let mut ticks = actix_rt::time::interval((self.silence_max / 8).max(Duration::from_millis(50)));
        loop {
            ticks.tick().await;
            self.cut_silent(Instant::now());
        }
    }

    fn cut_silent(&self, now: Instant) {
        let mut cut = 0_usize;
        self.open.lock().retain(|connection| {
            let Some(connection) = connection.upgrade() else { return false };
            if connection.silence(now) <= self.silence_max {
                return true;
            }
            // The peer may have gone by itself, and then there is nothing to cut.
            let _gone = shutdown(&connection.socket, Shutdown::Both);
            cut += 1;
            false
        });
        if cut > 0 {
            log::info!("cut off {cut} connections that neither asked nor read for {:?}", self.silence_max);
        }
    }
}

impl Connection {
    /// Notes that a whole request came, or that an answer is ready.
    pub fn heard(&self, now: Instant) {
        let ms = now.saturating_duration_since(self.began).as_millis();
        self.heard_ms.store(u64::try_from(ms).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Notes that a request is being worked on until the result is dropped.
    pub fn work(self: &Arc<Self>) -> Working {
        self.working.fetch_add(1, Ordering::Relaxed);
        Working(Arc::clone(self))
    }

    /// Waits until the client has closed its side of the connection, or all of it.
    pub async fn gone(&self) {
        loop {
            actix_rt::time::sleep(LOOK_INTERVAL).await;
            // Only looked at: what is there belongs to the next request.
            match recv(&self.socket, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return,
                Ok(_) => {}
                Err(error) if error == rustix::io::Errno::WOULDBLOCK || error == rustix::io::Errno::INTR => {}
                Err(_) => return,
            }
        }
    }

    fn silence(&self, now: Instant) -> Duration {
        if self.working.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        let heard = self.began + Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        now.saturating_duration_since(heard)
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.heard(Instant::now());
        self.0.working.fetch_sub(1, Ordering::Relaxed);
    }
}
