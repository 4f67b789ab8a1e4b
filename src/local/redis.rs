//! A Redis server without persistence.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use super::process::Recipe;
use super::server::Server;
use super::{LocalError, Result, ServerUser, binaries, with_port};

/// How a Redis server is run.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    /// The directory for its log.
    pub dir: PathBuf,
    /// The loopback port, or 0 for a free one.
    pub port: u16,
    /// Settings, as names and plain values; these win over ours.
    pub settings: Vec<(String, String)>,
}

impl RedisOptions {
    /// A server with its log in `dir` on a free port, with nothing else said.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), ..Self::default() }
    }
}

/// A Redis server that runs on this machine until it is dropped.
pub struct Redis {
    /// The process: start, stop, suspend, kill, log.
    pub server: Server,
}

impl Redis {
    /// Starts Redis; None where `redis-server` is not installed, since everything works without it.
    pub fn start(options: &RedisOptions) -> Result<Option<Self>> {
        let Some(program) = binaries::redis_server() else { return Ok(None) };
        let user = ServerUser::detect()?;
        let dir = user.directory(&options.dir)?;
        let Some(dir_text) = dir.to_str() else {
            return Err(LocalError::DirectoryUnusable { path: dir, reason: "its name is not UTF-8" });
        };
        let server = with_port(options.port, |port| {
            let port_text = port.to_string();
            let ours = [
                ("port", port_text.as_str()),
                ("bind", "127.0.0.1"),
                ("dir", dir_text),
                ("save", ""),
                ("appendonly", "no"),
                ("daemonize", "no"),
            ];
            let theirs = options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let args = ours.into_iter().chain(theirs).flat_map(|(name, value)| [format!("--{name}"), value.to_owned()]);
            let recipe = Recipe { user, program: program.clone(), args: args.collect(), stop_signals: "TERM" };
            Server::launch("Redis", port, dir.join("server.log"), recipe, Box::new(move |_| answers_ping(port)))
        })?;
        Ok(Some(Self { server }))
    }

    /// The connection URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.server.port())
    }
}

/// Whether the server has finished loading. A demand for a password shows the same.
fn answers_ping(port: u16) -> bool {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let ping = || -> std::io::Result<bool> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer)?;
        Ok(matches!(&answer, b"+PONG" | b"-NOAU"))
    };
    ping().unwrap_or(false)
}
