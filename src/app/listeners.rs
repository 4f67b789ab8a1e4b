//! The sockets that a server listens on: its own, those that a service manager holds for it, or its predecessor's.
//!
//! A listening socket that is closed resets the connections that wait in it, and with `SO_REUSEPORT` each process has a socket
//! of its own: some connections are lost in every deploy. So a socket is never closed while another process is to go on with
//! it: both processes hold the same one, and whoever accepts has the connection.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use rustix::fd::OwnedFd;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::ConfigError;
use crate::config::settings::ServerSettings;

/// The first descriptor that a service manager passes (`SD_LISTEN_FDS_START`).
const FIRST_PASSED: i32 = 3;
/// Connections that wait at the admin listener.
const ADMIN_BACKLOG: u32 = 128;

/// The listening sockets of an instance.
pub struct Listeners {
    pub(super) public: TcpListener,
    pub(super) admin: TcpListener,
    /// Whether somebody else holds the public one, too: what waits in it is lost to nobody when this process ends.
    pub(super) is_held: bool,
}

impl Listeners {
    /// Binds the addresses that are set.
    ///
    /// # Errors
    /// Where one cannot be bound; the sentence names the setting.
    pub fn bind(settings: &ServerSettings) -> Result<Self, ConfigError> {
        let public = bind("server.bind_addr", settings.bind_addr, settings.backlog)?;
        let admin = bind("server.admin_addr", settings.admin_addr, ADMIN_BACKLOG)?;
        Ok(Self { public, admin, is_held: false })
    }

    /// Takes what the service manager holds for this process, by the protocol of systemd (`LISTEN_PID`, `LISTEN_FDS`): the
    /// first socket is the public one, a second one the admin one. `None` where it holds nothing.
    ///
    /// # Errors
    /// Where what it passed are no such sockets; the sentence says so.
    pub fn passed(settings: &ServerSettings) -> Result<Option<Self>, ConfigError> {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
        let is_ours = number("LISTEN_PID") == Some(getpid().as_raw_nonzero().get());
        let Some(count) = number("LISTEN_FDS").filter(|count| is_ours && *count > 0) else { return Ok(None) };
        let public = adopt(FIRST_PASSED)?;
        let admin = match count {
            1 => bind("server.admin_addr", settings.admin_addr, ADMIN_BACKLOG)?,
            _ => adopt(FIRST_PASSED + 1)?,
        };
        Ok(Some(Self { public, admin, is_held: true }))
    }

    /// The same sockets once more, for a successor.
    pub(super) fn share(&self) -> Result<Arc<[TcpListener; 2]>, ConfigError> {
        let clone = |listener: &TcpListener| listener.try_clone();
        let shared = clone(&self.public).and_then(|public| Ok(Arc::new([public, clone(&self.admin)?])));
        shared.map_err(|error| ConfigError::new(format!("server.bind_addr: no second handle on its socket: {error}")))
    }
}

/// A listening socket on an address. One of a connection that has ended a moment ago does not stand in its way.
fn bind(key: &str, address: SocketAddr, backlog: u32) -> Result<TcpListener, ConfigError> {
    let bind = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        Ok(socket.into())
    };
    bind().map_err(|error| ConfigError::new(format!("{key}: cannot listen on {address}: {error}")))
}

/// A socket that was open when this program started. The kernel is asked for a descriptor of our own, since nobody can prove
/// to the compiler that a mere number is one.
fn adopt(number: i32) -> Result<TcpListener, ConfigError> {
    let adopt = || -> io::Result<TcpListener> {
        let own = pidfd_open(getpid(), PidfdFlags::empty())?;
        listening(pidfd_getfd(own, number, PidfdGetfdFlags::empty())?)
    };
    adopt().map_err(|error| ConfigError::new(format!("LISTEN_FDS: descriptor {number} cannot be used: {error}")))
}

/// A descriptor as the TCP socket that it must be.
pub(super) fn listening(descriptor: OwnedFd) -> io::Result<TcpListener> {
    let socket = Socket::from(descriptor);
    let is_tcp = socket.r#type()? == Type::STREAM && socket.local_addr()?.as_socket().is_some();
    if is_tcp && socket.is_listener()? {
        return Ok(socket.into());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no TCP socket that listens"))
}
