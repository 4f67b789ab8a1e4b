//! Connections that hold on to the server without using it.
//!
//! Actix times the header of a connection's first request. It does not time a header that trickles in after a first whole request,
//! nor a client that never reads its answer; an idle connection it would time, by a timer that each request sets and takes back, for
//! some 700 instructions. So each connection notes when it last brought a whole request, and those that have been
//! silent for too long, and wait for nothing of ours, are cut off.

use std::any::Any;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::rt::net::TcpStream;
use parking_lot::Mutex;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use tokio::time::MissedTickBehavior;

/// How often it is looked whether a client is still there while an upstream is waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Looks at all connections in the time for which one may be silent.
const LOOKS: u32 = 8;
/// Time between two looks, at least.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(50);

/// The open connections of a listener.
pub struct Connections {
    open: Mutex<Vec<Weak<Connection>>>,
    /// The looks at all of them so far: the clock by which they are silent, since to read it costs a request nothing.
    looks: Arc<AtomicU32>,
    silence_max: Duration,
}

/// One open connection.
pub struct Connection {
    /// A second handle on the socket, to cut it off with.
    socket: OwnedFd,
    looks: Arc<AtomicU32>,
    /// After which look the last request came or the last answer was made.
    heard: AtomicU32,
    /// Requests that are being worked on.
    working: AtomicUsize,
}

/// A request that is being worked on; its connection is not silent meanwhile.
pub struct Working(Arc<Connection>);

impl Connections {
    /// No connections yet. A connection may be silent for so long: between requests, and while it does not read.
    pub fn new(silence_max: Duration) -> Self {
        Self { open: Mutex::default(), looks: Arc::default(), silence_max }
    }

    /// Notes a connection that was accepted. One whose socket has no second handle to give could not be cut off later, and is at once.
    pub fn opened(&self, io: &dyn Any) -> Option<Arc<Connection>> {
        let plain = io.downcast_ref::<TcpStream>();
        let tcp = plain.or_else(|| io.downcast_ref::<TlsStream<TcpStream>>().map(|tls| tls.get_ref().0))?;
        let Ok(socket) = tcp.as_fd().try_clone_to_owned() else {
            let _gone = shutdown(tcp, Shutdown::Both);
            return None;
        };
        let connection = Connection {
            socket,
            looks: Arc::clone(&self.looks),
            heard: AtomicU32::default(),
            working: AtomicUsize::default(),
        };
        connection.heard();
        let connection = Arc::new(connection);
        self.open.lock().push(Arc::downgrade(&connection));
        Some(connection)
    }

    /// Cuts off silent connections, for ever.
    pub async fn watch(self: Arc<Self>) {
        let mut ticks = actix_rt::time::interval((self.silence_max / LOOKS).max(LOOK_PAUSE_MIN));
        // Where this program stood still, its clients were not silent.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.cut_silent();
        }
    }

    fn cut_silent(&self) {
        let look = self.looks.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let mut cut = 0_usize;
        self.open.lock().retain(|connection| {
            let Some(connection) = connection.upgrade() else { return false };
            // It was heard some time between two looks, and the whole of its time has to be over. A request may have come that nobody has
            // read yet: to cut it off would leave its client to guess whether it was done.
            let looks = connection.silent_looks(look);
            if looks <= LOOKS || (looks == LOOKS + 1 && connection.peek().is_ok_and(|bytes| bytes > 0)) {
                return true;
            }
            // The peer may have gone by itself, and then there is nothing to cut.
            let _gone = shutdown(&connection.socket, Shutdown::Both);
            cut += 1;
            false
        });
        if cut > 0 {
            log::debug!("cut off {cut} connections that neither asked nor read for {:?}", self.silence_max);
        }
    }
}

impl Connection {
    /// Notes that a whole request came, or that an answer is ready.
    pub fn heard(&self) {
        self.heard.store(self.looks.load(Ordering::Relaxed), Ordering::Relaxed);
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
            match self.peek() {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error == rustix::io::Errno::WOULDBLOCK || error == rustix::io::Errno::INTR => {}
                Err(_) => return,
            }
        }
    }

    /// How many bytes have come that nobody has read yet: one at most, for what is there belongs to the next request.
    fn peek(&self) -> rustix::io::Result<usize> {
        recv(&self.socket, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT).map(|(_, bytes)| bytes)
    }

    fn silent_looks(&self, look: u32) -> u32 {
        if self.working.load(Ordering::Relaxed) > 0 { 0 } else { look.wrapping_sub(self.heard.load(Ordering::Relaxed)) }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.heard();
        self.0.working.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    async fn pair(connections: &Connections) -> (std::net::TcpStream, TcpStream, Arc<Connection>) {
        let listener = actix_web::rt::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (io, _) = listener.accept().await.unwrap();
        let connection = connections.opened(&io).unwrap();
        (client, io, connection)
    }

    fn is_open(mut client: &std::net::TcpStream) -> bool {
        client.set_nonblocking(true).unwrap();
        matches!(client.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Waits for the end.
    fn ends(mut client: &std::net::TcpStream) {
        client.set_nonblocking(false).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }

    #[actix_rt::test]
    async fn a_connection_is_cut_once_the_whole_of_its_time_is_over() {
        let connections = Connections::new(Duration::from_secs(80));
        (0..3).for_each(|_| connections.cut_silent());
        let (client, _io, connection) = pair(&connections).await;
        // That it was heard right before the first of these looks is as likely as that it was right after the one before.
        (0..LOOKS).for_each(|_| connections.cut_silent());
        assert!(is_open(&client));
        connection.heard();
        (0..LOOKS).for_each(|_| connections.cut_silent());
        assert!(is_open(&client), "what was heard begins anew");
        connections.cut_silent();
        ends(&client);
    }

    #[actix_rt::test]
    async fn a_connection_is_not_silent_while_its_request_is_worked_on() {
        let connections = Connections::new(Duration::from_secs(80));
        let (client, _io, connection) = pair(&connections).await;
        let (working, other) = (connection.work(), connection.work());
        (0..3 * LOOKS).for_each(|_| connections.cut_silent());
        drop(other);
        (0..3 * LOOKS).for_each(|_| connections.cut_silent());
        drop(working);
        (0..LOOKS).for_each(|_| connections.cut_silent());
        assert!(is_open(&client));
        connections.cut_silent();
        ends(&client);
    }

    #[actix_rt::test]
    async fn a_request_that_nobody_has_read_yet_is_left_one_look_more() {
        let connections = Connections::new(Duration::from_secs(80));
        let (mut client, _io, connection) = pair(&connections).await;
        client.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        while connection.peek() != Ok(1) {
            actix_rt::time::sleep(Duration::from_millis(1)).await;
        }
        (0..=LOOKS).for_each(|_| connections.cut_silent());
        assert!(is_open(&client));
        connections.cut_silent();
        ends(&client);
    }
}
