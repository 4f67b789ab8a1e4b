//! Throwaway servers on this machine: a Postgres primary with streaming replicas, Redis, RabbitMQ, `mainstay serve` itself, nginx
//! in the place of a CDN, and a TCP proxy that misbehaves.
//!
//! `mainstay dev` and the tests share this launcher. Three things are hard about it, and each has one home:
//!
//! - **Nothing is left behind.** Every server runs under a watcher, a short shell script that reads a pipe only this
//!   process can write to. The kernel closes the pipe when this process ends, by Ctrl-C, `kill` or `kill -9` alike, and
//!   the watcher then stops its server. See [`Server`].
//! - **Postgres refuses to run as root.** As root, servers run as `postgres` or `nobody`, in directories that this user
//!   can reach. See [`ServerUser`].
//! - **A server is ready when it says so.** Nothing sleeps for a guessed time; see [`wait_until`].
//!
//! The API is blocking, on purpose: the launcher does its work before a runtime exists, and tests call it from anywhere.
//! It imports nothing else of this crate.

mod binaries;
mod container;
mod error;
mod files;
mod nginx;
mod origin;
mod postgres;
mod process;
mod proxy;
mod rabbitmq;
mod redis;
mod server;
mod user;

pub use error::LocalError;
pub use files::Scratch;
pub use nginx::{Nginx, NginxOptions};
pub use origin::{Origin, OriginOptions};
pub use postgres::{Postgres, PostgresOptions, PostgresTls, ReplicaOptions};
pub use proxy::{Proxy, ProxyMode};
pub use rabbitmq::{RabbitMq, RabbitMqOptions};
pub use redis::{Redis, RedisCluster, RedisOptions, RedisTls};
pub use rustix::process::Signal;
pub use server::Server;
pub use user::ServerUser;

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, LocalError>;

/// How often a condition is looked at. Short, since looking is cheap and somebody waits.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Polls a condition until it holds or the time is over, and says whether it holds.
pub fn wait_until(timeout: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// A loopback port that nothing listens on.
///
/// It lies below the range from which the kernel takes the local ports of outgoing connections, so that a server which is
/// stopped for a while finds its port still free.
pub fn free_port() -> Result<u16> {
    const ATTEMPTS_MAX: usize = 200;
    (0..ATTEMPTS_MAX)
        .map(|_| fastrand::u16(15_000..32_000))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or(LocalError::NoFreePort)
}

/// Where a listener is reached: one that listens everywhere, on loopback.
fn reached_at(address: SocketAddr) -> SocketAddr {
    let ip = if address.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { address.ip() };
    SocketAddr::new(ip, address.port())
}

/// The status that a server answers a GET with; `None` where it does not answer.
fn status_of(address: SocketAddr, path: &str) -> Option<u16> {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    };
    ask().ok()?.split(' ').nth(1)?.parse().ok()
}

/// Calls `launch` with the wanted port, or with one free port after another when `wanted` is 0.
///
/// A port that was free a moment ago may be taken by the time a server binds it, so the server has the last word.
fn with_port<T>(wanted: u16, launch: impl Fn(u16) -> Result<T>) -> Result<T> {
    const ATTEMPTS_MAX: usize = 10;
    if wanted != 0 {
        return launch(wanted);
    }
    for _ in 1..ATTEMPTS_MAX {
        match launch(free_port()?) {
            Err(LocalError::PortInUse { .. }) => {}
            outcome => return outcome,
        }
    }
    launch(free_port()?)
}
