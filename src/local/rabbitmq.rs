//! A RabbitMQ server: one node with its own data, its own name server for Erlang nodes, and everything on loopback.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::process::Recipe;
use super::server::Server;
use super::{LocalError, Result, ServerUser, binaries, files, free_port, with_port};

/// The user and the password of those who may do everything.
const USER: &str = "mainstay";
const PASSWORD: &str = "mainstay";

/// How RabbitMQ is run.
#[derive(Clone, Debug, Default)]
pub struct RabbitMqOptions {
    /// The directory for its data and log.
    pub dir: PathBuf,
    /// Certificate chain and key, in PEM, where TLS is offered on a port of its own.
    pub tls: Option<(String, String)>,
}

/// A RabbitMQ server that runs on this machine until it is dropped.
pub struct RabbitMq {
    /// The process: start, stop, suspend, kill, log.
    pub server: Server,
    tls_port: u16,
    /// Erlang asks it where nodes are. Were there none, RabbitMQ would leave one behind.
    _names: Server,
}

impl RabbitMq {
    /// Starts RabbitMQ.
    ///
    /// # Errors
    /// [`LocalError::RabbitMqMissing`] where it is not installed, and what else keeps it from starting.
    pub fn start(options: &RabbitMqOptions) -> Result<Self> {
        let program = binaries::rabbitmq_server().ok_or(LocalError::RabbitMqMissing)?;
        let user = ServerUser::detect()?;
        let dir = user.directory(&options.dir)?;
        let names_port = free_port()?;
        let names = names(user, &dir, names_port)?;
        with_port(0, |port| {
            let tls_port = if options.tls.is_some() { free_port()? } else { 0 };
            let file = dir.join("rabbitmq.conf");
            fs::write(&file, configuration(&dir, port, tls_port)).map_err(LocalError::io("write", &file))?;
            user.give(&file)?;
            if let Some((certificate, key)) = &options.tls {
                files::write_private(user, &dir.join("server.crt"), certificate)?;
                files::write_private(user, &dir.join("server.key"), key)?;
            }
            let env = environment(&dir, &file, names_port, free_port()?);
            let recipe = Recipe { user, program: program.clone(), args: Vec::new(), env, stop_signals: "TERM" };
            let is_ready = Box::new(move |_| greets(port));
            let server = Server::launch("RabbitMQ", port, dir.join("server.log"), recipe, is_ready)?;
            Ok((server, tls_port))
        })
        .map(|(server, tls_port)| Self { server, tls_port, _names: names })
    }

    /// The connection URL.
    pub fn url(&self) -> String {
        format!("amqp://{USER}:{PASSWORD}@127.0.0.1:{}", self.server.port())
    }

    /// The connection URL for TLS, for a certificate of the name `localhost`.
    pub fn tls_url(&self) -> String {
        format!("amqps://{USER}:{PASSWORD}@localhost:{}", self.tls_port)
    }
}

/// The name server of Erlang's nodes, on a port of its own.
fn names(user: ServerUser, dir: &Path, port: u16) -> Result<Server> {
    let args = ["-port", &port.to_string(), "-address", "127.0.0.1"].map(str::to_owned).to_vec();
    let program = binaries::in_path("epmd").ok_or(LocalError::RabbitMqMissing)?;
    let recipe = Recipe { user, program, args, env: Vec::new(), stop_signals: "TERM" };
    let is_ready = Box::new(move |_| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
    Server::launch("epmd", port, dir.join("epmd.log"), recipe, is_ready)
}

fn configuration(dir: &Path, port: u16, tls_port: u16) -> String {
    let dir = dir.display();
    let tls = if tls_port == 0 {
        String::new()
    } else {
        format!(
            "listeners.ssl.1 = 127.0.0.1:{tls_port}\nssl_options.certfile = {dir}/server.crt\n\
             ssl_options.keyfile = {dir}/server.key\nssl_options.verify = verify_none\n"
        )
    };
    // Nothing is shown of a disk that is nearly full: the alarm would hold up all who publish.
    format!(
        "listeners.tcp.1 = 127.0.0.1:{port}\nnum_acceptors.tcp = 2\ndefault_user = {USER}\ndefault_pass = {PASSWORD}\n\
         log.console = true\nlog.file = false\ndisk_free_limit.absolute = 1MB\n{tls}"
    )
}

fn environment(dir: &Path, file: &Path, names_port: u16, node_port: u16) -> Vec<(String, String)> {
    let (dir, file) = (dir.display(), file.display());
    [
        // Its cookie is written there.
        ("HOME", format!("{dir}")),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
        ("ERL_EPMD_PORT", names_port.to_string()),
        ("RABBITMQ_NODENAME", "mainstay@localhost".to_owned()),
        ("RABBITMQ_DIST_PORT", node_port.to_string()),
        ("RABBITMQ_CONFIG_FILE", format!("{file}")),
        ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
        ("RABBITMQ_MNESIA_BASE", format!("{dir}/data")),
        ("RABBITMQ_LOG_BASE", format!("{dir}/log")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", format!("{dir}/plugins")),
        // One scheduler is enough, and other nodes there are none.
        ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 1:1 -kernel inet_dist_use_interface {127,0,0,1}".to_owned()),
        // The script becomes the server, instead of waiting for it.
        ("RUNNING_UNDER_SYSTEMD", "yes".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// Whether it answers what a client begins with.
fn greets(port: u16) -> bool {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let greet = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.write_all(b"AMQP\x00\x00\x09\x01")?;
        let mut frame = [0];
        stream.read_exact(&mut frame)?;
        Ok(frame == [1])
    };
    greet().unwrap_or(false)
}
