//! Throwaway servers on this machine: a Postgres primary with streaming replicas, Redis, and a TCP proxy that misbehaves.
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
mod error;
mod files;
mod postgres;
mod process;
mod proxy;
mod redis;
mod server;
mod user;

pub use error::LocalError;
pub use files::Scratch;
pub use postgres::{Postgres, PostgresOptions, PostgresTls, ReplicaOptions};
pub use proxy::{Proxy, ProxyMode};
pub use redis::{Redis, RedisCluster, RedisOptions, RedisTls};
pub use rustix::process::Signal;
pub use server::Server;
pub use user::ServerUser;

use std::net::{Ipv4Addr, TcpListener};
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
