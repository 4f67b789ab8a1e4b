//! Those who watch: one picture a second is made for all of them. Who does not keep up misses pictures; who takes none for long is
//! cut off.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::net::{Shutdown, shutdown};
use tokio::sync::watch;

use crate::admin::stats::Hot;
use crate::error::{Code, Error};

/// Viewers at once.
const VIEWERS_MAX: usize = 32;
/// Who takes no picture for so long does not read any more.
const SLOWNESS_MAX: Duration = Duration::from_secs(30);

/// Those who watch.
pub(in crate::admin) struct Viewers {
    open: Mutex<Vec<Weak<Viewer>>>,
    newest: watch::Sender<Bytes>,
    began: Instant,
    /// The hottest entries, and when they were looked up: that takes a look at all of them.
    pub(super) hot: Mutex<(Option<Instant>, Arc<Vec<Hot>>)>,
}

/// One of them.
pub(super) struct Viewer {
    /// A second handle on the socket, to cut it off with: nobody else can end an answer that is not read.
    socket: Option<Arc<OwnedFd>>,
    /// When a picture was last taken, in milliseconds after `began`.
    took_ms: AtomicU64,
    began: Instant,
}

impl Viewer {
    pub(super) fn took(&self, now: Instant) {
        self.took_ms.store(millis(now, self.began), Ordering::Relaxed);
    }
}

impl Viewers {
    pub(in crate::admin) fn new() -> Self {
        Self {
            open: Mutex::default(),
            newest: watch::Sender::new(Bytes::new()),
            began: Instant::now(),
            hot: Mutex::default(),
        }
    }

    /// One more.
    ///
    /// # Errors
    /// `overloaded` where there are as many as may be.
    pub(super) fn enter(
        &self,
        socket: Option<Arc<OwnedFd>>,
        now: Instant,
    ) -> Result<(Arc<Viewer>, watch::Receiver<Bytes>), Error> {
        let mut open = self.open.lock();
        open.retain(|viewer| viewer.strong_count() > 0);
        if open.len() >= VIEWERS_MAX {
            return Err(Error::new(
                Code::Overloaded,
                format!("{VIEWERS_MAX} pages are open, which is as many as may be"),
            ));
        }
        let viewer = Arc::new(Viewer { socket, took_ms: AtomicU64::default(), began: self.began });
        viewer.took(now);
        open.push(Arc::downgrade(&viewer));
        Ok((viewer, self.newest.subscribe()))
    }

    /// Whether anybody watches. Who does not read any more is cut off.
    pub(in crate::admin) fn look(&self, now: Instant) -> bool {
        let slow_from =
            millis(now, self.began).checked_sub(u64::try_from(SLOWNESS_MAX.as_millis()).unwrap_or(u64::MAX));
        let mut open = self.open.lock();
        open.retain(|viewer| {
            let Some(viewer) = viewer.upgrade() else { return false };
            if slow_from.is_some_and(|from| viewer.took_ms.load(Ordering::Relaxed) < from)
                && let Some(socket) = &viewer.socket
            {
                // It may have gone by itself, and then there is nothing to cut.
                let _gone_already = shutdown(&**socket, Shutdown::Both);
                log::info!("a page that took nothing for {} s is cut off", SLOWNESS_MAX.as_secs());
            }
            true
        });
        !open.is_empty()
    }

    /// Shows a picture to all.
    pub(in crate::admin) fn show(&self, picture: Bytes) {
        self.newest.send_replace(picture);
    }
}

fn millis(now: Instant, began: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(began).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn there_are_no_more_viewers_than_allowed() {
        let (viewers, now) = (Viewers::new(), Instant::now());
        let mut open: Vec<_> = (0..VIEWERS_MAX).map(|_| viewers.enter(None, now).unwrap()).collect();
        assert_eq!(viewers.enter(None, now).err().map(|error| error.code), Some(Code::Overloaded));
        open.pop();
        assert!(viewers.enter(None, now).is_ok());
        drop(open);
        assert!(!viewers.look(now), "nobody is left");
    }

    #[test]
    fn who_takes_nothing_for_long_is_cut_off() {
        let (viewers, now) = (Viewers::new(), Instant::now());
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = Arc::new(OwnedFd::from(listener.accept().unwrap().0));
        let (viewer, _newest) = viewers.enter(Some(socket), now).unwrap();
        assert!(viewers.look(now + SLOWNESS_MAX));
        viewer.took(now + SLOWNESS_MAX);
        assert!(viewers.look(now + SLOWNESS_MAX * 2));
        client.set_nonblocking(true).unwrap();
        assert!(client.read(&mut [0]).is_err(), "nothing has come, and nothing was cut");
        client.set_nonblocking(false).unwrap();
        assert!(viewers.look(now + SLOWNESS_MAX * 3));
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
}
