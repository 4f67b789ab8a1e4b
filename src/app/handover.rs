//! The hand-over: a process gives its listening sockets to the one that follows it, and drains when that one is ready.
//!
//! They meet at a Unix socket, `server.handover_socket`. Who starts connects there and receives the sockets, or finds nobody and
//! binds them. Both then accept. When the newcomer is ready it says so, takes the place of the Unix socket, and its predecessor
//! drains. If it ends before that, nothing has happened.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::sync::Notify;

use super::listeners::{Listeners, listening};
use crate::config::ConfigError;
use crate::config::settings::ServerSettings;

/// How long the sockets may be on their way.
const PASSING_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a newcomer may take to be ready, a snapshot to read included.
const READY_TIME_MAX: Duration = Duration::from_secs(300);
/// How long it is left alone when nobody can be let in.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// What comes with the sockets, and what the newcomer says when it is ready. Another version may have another meaning.
const SOCKETS: u8 = 1;
const READY: u8 = b'R';

/// The place where processes meet, and what this one does there.
pub struct Handover {
    path: PathBuf,
    /// The Unix socket for successors, not yet in its place.
    successors: UnixListener,
    aside: PathBuf,
    /// The process that serves until this one is ready.
    predecessor: Option<UnixStream>,
}

impl Handover {
    /// Takes the sockets of a predecessor, or binds them where there is none. Blocks.
    ///
    /// # Errors
    /// Where the Unix socket cannot be made, the predecessor gives nothing, or an address cannot be bound; the sentence
    /// names the setting.
    pub fn begin(settings: &ServerSettings) -> Result<(Self, Listeners), ConfigError> {
        let path = PathBuf::from(&settings.handover_socket);
        let wrong = |what: &str, error: io::Error| {
            ConfigError::new(format!("server.handover_socket: {}: {what}: {error}", path.display()))
        };
        // What is no socket was put there for something else, and must not be replaced.
        let is_other = std::fs::symlink_metadata(&path).is_ok_and(|found| !found.file_type().is_socket());
        if is_other {
            return Err(wrong("is no socket", ErrorKind::AlreadyExists.into()));
        }
        let (predecessor, listeners) = match UnixStream::connect(&path) {
            Ok(stream) => match receive(&stream).map_err(|error| wrong("who runs there passes no sockets", error))? {
                Some(listeners) => (Some(stream), listeners),
                // It is about to end, and closes its sockets.
                None => (None, Listeners::bind(settings)?),
            },
            // Nobody was ever there, or whoever was has ended.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                (None, Listeners::bind(settings)?)
            }
            Err(error) => return Err(wrong("cannot connect", error)),
        };
        let aside = path.with_added_extension(std::process::id().to_string());
        let successors = listen(&aside).map_err(|error| wrong("cannot listen", error))?;
        Ok((Self { path, successors, aside, predecessor }, listeners))
    }

    /// Sends the predecessor away, and waits in its place for a successor, on a thread of its own. `relieved` is told when one
    /// is ready.
    pub fn take_over(self, listeners: Weak<[TcpListener; 2]>, relieved: Arc<Notify>) {
        let wait = move || match self.wait(&listeners) {
            Ok(()) => relieved.notify_one(),
            Err(error) => log::error!("server.handover_socket: {}: {error}", self.path.display()),
        };
        // It waits for as long as the process lives, and must not keep it from ending.
        if let Err(error) = std::thread::Builder::new().name("handover".to_owned()).spawn(wait) {
            log::error!("server.handover_socket: no thread for it: {error}");
        }
    }

    fn wait(&self, listeners: &Weak<[TcpListener; 2]>) -> io::Result<()> {
        // The place first: who comes now comes to us, and our predecessor waits for nobody else.
        std::fs::rename(&self.aside, &self.path)?;
        if let Some(mut predecessor) = self.predecessor.as_ref() {
            match predecessor.write_all(&[READY]) {
                Ok(()) => log::info!("took over from the process before"),
                Err(error) => log::warn!("the process before has gone by itself: {error}"),
            }
        }
        loop {
            let stream = match self.successors.accept() {
                Ok((stream, _)) => stream,
                // There may be no descriptors left, for now: the next deploy is to find somebody here all the same.
                Err(error) => {
                    log::warn!("server.handover_socket: {error}");
                    std::thread::sleep(ACCEPT_PAUSE);
                    continue;
                }
            };
            let Some(listeners) = listeners.upgrade() else {
                return Err(io::Error::other("a successor came while this process ends"));
            };
            match hand_over(&stream, &listeners) {
                Ok(()) => return Ok(()),
                Err(error) => log::warn!("a successor did not become ready, this process stays: {error}"),
            }
        }
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        let _is_in_its_place = std::fs::remove_file(&self.aside);
    }
}

/// Gives the sockets to a successor and waits until it is ready.
fn hand_over(mut stream: &UnixStream, listeners: &[TcpListener; 2]) -> io::Result<()> {
    stream.set_write_timeout(Some(PASSING_TIME_MAX))?;
    stream.set_read_timeout(Some(READY_TIME_MAX))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets = listeners.each_ref().map(AsFd::as_fd);
    if !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::Error::other("the sockets do not fit into a message"));
    }
    sendmsg(stream, &[IoSlice::new(&[SOCKETS])], &mut control, SendFlags::empty())?;
    let mut word = [0];
    stream.read_exact(&mut word)?;
    if word == [READY] { Ok(()) } else { Err(io::Error::new(ErrorKind::InvalidData, "it said something else")) }
}

fn receive(stream: &UnixStream) -> io::Result<Option<Listeners>> {
    // The predecessor may be busy with another newcomer that does not become ready; nobody waits for that.
    stream.set_read_timeout(Some(PASSING_TIME_MAX))?;
    let mut word = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(stream, &mut [IoSliceMut::new(&mut word)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if message.bytes == 0 {
        return Ok(None);
    }
    let received = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let received: Vec<OwnedFd> = received.flatten().collect();
    let sockets = received.into_iter().map(listening).collect::<io::Result<Vec<_>>>()?;
    match <[TcpListener; 2]>::try_from(sockets) {
        Ok([public, admin]) if word == [SOCKETS] => Ok(Some(Listeners { public, admin, is_held: false })),
        _ => Err(io::Error::new(ErrorKind::InvalidData, "it is another version, or another program")),
    }
}

/// A Unix socket that only this user may connect to.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let _left_by_a_crash = std::fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
