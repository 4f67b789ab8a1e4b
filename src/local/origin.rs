//! `mainstay serve` as one of the servers.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::process::Recipe;
use super::server::Server;
use super::{LocalError, Result, ServerUser, free_port, reached_at, status_of, with_port};

/// How an origin is run.
#[derive(Clone, Debug)]
pub struct OriginOptions {
    /// The program: `mainstay`, or one of a user's own crate.
    pub program: PathBuf,
    /// The configuration folder.
    pub config: PathBuf,
    /// The directory for its log.
    pub dir: PathBuf,
    /// Where the public listener is; port 0 is a free one.
    pub bind: SocketAddr,
    /// Where the admin listener is; port 0 is a free one.
    pub admin: SocketAddr,
    /// Its environment.
    pub env: Vec<(String, String)>,
}

impl OriginOptions {
    /// An origin on free loopback ports, with its log in `dir`, and nothing else said.
    pub fn new(program: impl Into<PathBuf>, config: impl Into<PathBuf>, dir: impl Into<PathBuf>) -> Self {
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (program, config, dir) = (program.into(), config.into(), dir.into());
        Self { program, config, dir, bind: free, admin: free, env: Vec::new() }
    }

    /// Sets a name of the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// An origin that runs on this machine until it is dropped, as this process's own user.
pub struct Origin {
    /// The process: start, stop, suspend, kill, log.
    pub server: Server,
    /// Where the public listener is.
    pub public: SocketAddr,
    /// Where the admin listener is.
    pub admin: SocketAddr,
}

impl Origin {
    /// Starts an origin and waits until it says that it is ready.
    pub fn start(options: &OriginOptions) -> Result<Self> {
        std::fs::create_dir_all(&options.dir).map_err(LocalError::io("create", &options.dir))?;
        with_port(options.bind.port(), |port| {
            let bind = SocketAddr::new(options.bind.ip(), port);
            let admin_port = if options.admin.port() == 0 { free_port()? } else { options.admin.port() };
            let admin = SocketAddr::new(options.admin.ip(), admin_port);
            let (config, bind_text, admin_text) =
                (options.config.display().to_string(), bind.to_string(), admin.to_string());
            let args = ["serve", "--config", &config, "--bind", &bind_text, "--admin", &admin_text];
            let recipe = Recipe {
                user: ServerUser::own(),
                program: options.program.clone(),
                args: args.map(str::to_owned).to_vec(),
                env: options.env.clone(),
                stop_signals: "TERM",
            };
            let (public, admin) = (reached_at(bind), reached_at(admin));
            let is_ready = Box::new(move |_| status_of(public, "/health/ready") == Some(200));
            let server = Server::launch("mainstay serve", port, options.dir.join("server.log"), recipe, is_ready)?;
            Ok(Self { server, public, admin })
        })
    }

    /// The URL of the public listener.
    pub fn url(&self) -> String {
        format!("http://{}", self.public)
    }

    /// The URL of the admin listener.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }
}
