//! A Redis server without persistence, unless its settings ask for some, and a cluster of three.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::redis::{Cmd, RedisResult};

use super::process::Recipe;
use super::server::Server;
use super::{LocalError, Result, ServerUser, binaries, files, free_port, wait_until, with_port};

/// How long a command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the nodes of a cluster may take to find each other: gossip takes its time on a busy machine.
const FORMATION_TIMEOUT: Duration = Duration::from_secs(60);

/// How a Redis server is run.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    /// The directory for its log.
    pub dir: PathBuf,
    /// The loopback port, or 0 for a free one.
    pub port: u16,
    /// Settings, as names and plain values; these win over ours.
    pub settings: Vec<(String, String)>,
    /// Where given, TLS is offered on a port of its own.
    pub tls: Option<RedisTls>,
}

/// A server's certificate and key.
#[derive(Clone, Debug)]
pub struct RedisTls {
    /// The certificate chain, in PEM.
    pub certificate_pem: String,
    /// The private key, in PEM.
    pub key_pem: String,
    /// The authority of the certificates of a cluster's nodes, in PEM, by which they know each other.
    pub ca_pem: String,
}

impl RedisOptions {
    /// A server with its log in `dir` on a free port, with nothing else said.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), ..Self::default() }
    }

    /// Adds a setting.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A Redis server that runs on this machine until it is dropped.
pub struct Redis {
    /// The process: start, stop, suspend, kill, log.
    pub server: Server,
    tls_port: u16,
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
        let (certificate, key, ca) = (dir.join("server.crt"), dir.join("server.key"), dir.join("ca.crt"));
        if let Some(tls) = &options.tls {
            files::write_private(user, &certificate, &tls.certificate_pem)?;
            files::write_private(user, &key, &tls.key_pem)?;
            files::write_private(user, &ca, &tls.ca_pem)?;
        }
        with_port(options.port, |port| {
            let port_text = port.to_string();
            let tls_port = if options.tls.is_some() { free_port()? } else { 0 };
            let tls = [
                ("tls-port", tls_port.to_string()),
                ("tls-auth-clients", "no".to_owned()),
                ("tls-cert-file", certificate.display().to_string()),
                ("tls-key-file", key.display().to_string()),
                ("tls-ca-cert-file", ca.display().to_string()),
            ];
            let tls = tls.iter().filter(|_| tls_port != 0).map(|(name, value)| (*name, value.as_str()));
            let ours = [
                ("port", port_text.as_str()),
                ("bind", "127.0.0.1"),
                ("dir", dir_text),
                ("save", ""),
                ("appendonly", "no"),
                ("daemonize", "no"),
            ];
            let theirs = options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let args = ours
                .into_iter()
                .chain(tls)
                .chain(theirs)
                .flat_map(|(name, value)| [format!("--{name}"), value.to_owned()]);
            let recipe =
                Recipe { user, program: program.clone(), args: args.collect(), env: Vec::new(), stop_signals: "TERM" };
            let is_ready = Box::new(move |_| answers_ping(port));
            let server = Server::launch("Redis", port, dir.join("server.log"), recipe, is_ready)?;
            Ok(Some(Self { server, tls_port }))
        })
    }

    /// The connection URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.server.port())
    }

    /// Runs a command whose answer is a text.
    pub fn command(&self, words: &[&str]) -> Result<String> {
        let ask = || -> RedisResult<String> {
            let client = ::redis::Client::open(self.url())?;
            let mut connection = client.get_connection_with_timeout(COMMAND_TIMEOUT)?;
            connection.set_read_timeout(Some(COMMAND_TIMEOUT))?;
            let mut command = Cmd::new();
            words.iter().for_each(|word| {
                command.arg(*word);
            });
            command.query(&mut connection)
        };
        let failed =
            |error| LocalError::io("send a command to the server of", self.server.log())(io::Error::other(error));
        ask().map_err(failed)
    }

    /// The port for TLS; 0 where none is offered.
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }
}

/// Three Redis servers that share the keys among them, until they are dropped.
pub struct RedisCluster {
    /// The servers, each with a third of the slots.
    pub nodes: [Redis; 3],
}

impl RedisCluster {
    /// Starts a cluster in `dir`, among whose nodes all goes over TLS where that is given; None where `redis-server` is not
    /// installed.
    pub fn start(dir: &Path, tls: Option<&RedisTls>) -> Result<Option<Self>> {
        const SLOTS: [(u32, u32); 3] = [(0, 5460), (5461, 10922), (10923, 16383)];
        let node = |name: &str| -> Result<_> {
            let bus_port = free_port()?.to_string();
            let options = RedisOptions { tls: tls.cloned(), ..RedisOptions::new(dir.join(name)) }
                .setting("tls-cluster", if tls.is_some() { "yes" } else { "no" })
                .setting("cluster-enabled", "yes")
                .setting("cluster-port", &bus_port)
                .setting("cluster-node-timeout", "1000")
                // A node that is lost takes its own keys along, and no others.
                .setting("cluster-require-full-coverage", "no");
            Ok(Redis::start(&options)?.map(|redis| (redis, bus_port)))
        };
        let (Some(first), Some(second), Some(third)) = (node("node-1")?, node("node-2")?, node("node-3")?) else {
            return Ok(None);
        };
        let nodes = [first, second, third];
        for ((node, _), (from, to)) in nodes.iter().zip(SLOTS) {
            node.command(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()])?;
            for (other, bus_port) in &nodes {
                let port = if tls.is_some() { other.tls_port } else { other.server.port() };
                node.command(&["CLUSTER", "MEET", "127.0.0.1", &port.to_string(), bus_port])?;
            }
        }
        let cluster = Self { nodes: nodes.map(|(node, _)| node) };
        let knows_all = |node: &Redis| {
            let info = node.command(&["CLUSTER", "INFO"]).unwrap_or_default();
            info.contains("cluster_state:ok")
                && info.contains("cluster_slots_ok:16384")
                && info.contains("known_nodes:3")
        };
        if !wait_until(FORMATION_TIMEOUT, || cluster.nodes.iter().all(knows_all)) {
            let [Redis { server, .. }, ..] = &cluster.nodes;
            return Err(LocalError::NotReady { name: "Redis", log: server.log().to_owned(), tail: server.log_tail() });
        }
        Ok(Some(cluster))
    }

    /// The connection URL, with all nodes.
    pub fn url(&self) -> String {
        let url = |node: &Redis| match node.tls_port {
            0 => format!("redis-cluster://127.0.0.1:{}", node.server.port()),
            port => format!("rediss-cluster://127.0.0.1:{port}"),
        };
        self.nodes.each_ref().map(url).join(",")
    }
}

/// Whether the server has finished loading. A demand for a password shows the same.
fn answers_ping(port: u16) -> bool {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let ping = || -> io::Result<bool> {
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
