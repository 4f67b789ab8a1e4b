//! The whole application in this process, on free ports, with a configuration folder of its own.

pub mod asking;
pub mod browser;
pub mod client;
pub mod probe;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use mainstay::app::{Parts, Server};
use mainstay::config::settings::{Layers, Settings};
use mainstay::{Answer, Call, Error};
use tempfile::TempDir;
use tokio::sync::{mpsc as commands, oneshot};

use crate::support::{Cluster, PATIENCE, say_at_once};
use crate::telemetry::metrics;
use client::{Connection, Reply};
use probe::Probe;

/// What an instance is started with.
pub struct Plan {
    routes: String,
    env: HashMap<String, String>,
    parts: Parts,
}

impl Plan {
    /// A plan with these routes, two workers, and no database.
    pub fn new(routes: &str) -> Self {
        let env = [
            ("BIND_ADDR", "127.0.0.1:0"),
            ("ADMIN_ADDR", "127.0.0.1:0"),
            ("REGION", "test-1"),
            ("MAINSTAY__SERVER__WORKERS", "2"),
            ("MAINSTAY__SERVER__SHUTDOWN_TIMEOUT", "0s"),
            ("MAINSTAY__LOG__ACCESS", "off"),
            // What is renewed early by chance comes before what a test has waited for, where the machine is slow enough.
            ("MAINSTAY__CACHE__EARLY_REFRESH_BETA", "0"),
            ("MAINSTAY__REPLICATION__SAMPLE_INTERVAL", "50ms"),
            ("MAINSTAY__REPLICATION__PROBE_TIMEOUT", "1s"),
            ("MAINSTAY__DATABASE__POOL_SIZE", "4"),
        ];
        let env = env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { routes: routes.to_owned(), env, parts: Parts::default() }
    }

    /// A plan whose only handler is a probe called `probe`.
    pub fn probed(routes: &str, probe: &Probe) -> Self {
        let probe = probe.clone();
        Self::new(routes).handler("probe", move |call| probe.clone().run(call))
    }

    /// Sets `section.key`, or one of the names that are read as they are.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        let name = match key.split_once('.') {
            Some((section, key)) => format!("MAINSTAY__{}__{}", section.to_uppercase(), key.to_uppercase()),
            None => key.to_owned(),
        };
        self.env.insert(name, value.to_owned());
        self
    }

    /// Takes back what [`Plan::set`] has set.
    pub fn unset(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// Adds a handler.
    pub fn handler<F, Fut>(mut self, name: &str, handler: F) -> Self
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Answer, Error>> + 'static,
    {
        self.parts.registry.add(name, handler);
        self
    }

    /// Changes the parts that a user's crate may add.
    pub fn parts(mut self, change: impl FnOnce(&mut Parts)) -> Self {
        change(&mut self.parts);
        self
    }

    /// Reads from a database of a cluster, as a role.
    pub fn database_as(self, cluster: &Cluster, role: &str, database: &str) -> Self {
        let (primary, replica) = (cluster.primary.url(role, database), cluster.replica.url(role, database));
        self.set("DATABASE_URL", &primary).set("DATABASE_READ_REPLICA_URL", &replica)
    }

    /// Reads from a database of a cluster.
    pub fn database(self, cluster: &Cluster, database: &str) -> Self {
        self.database_as(cluster, "postgres", database)
    }

    /// The settings, or the sentence that refuses them.
    pub fn settings(&self, dir: &Path) -> Result<Settings, String> {
        Settings::load(Layers { dir, env: self.env.clone(), flags: Vec::new() }).map_err(|error| error.to_string())
    }

    /// Starts an instance that must start.
    pub fn start(self) -> Instance {
        self.try_start().unwrap()
    }

    /// Starts an instance, or says why it does not.
    pub fn try_start(self) -> Result<Instance, String> {
        say_at_once();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("routes.toml"), &self.routes).unwrap();
        let settings = self.settings(dir.path())?;
        let (started, addresses) = mpsc::channel();
        let (sender, commands) = commands::unbounded_channel();
        let (path, parts) = (dir.path().to_owned(), self.parts);
        thread::spawn(move || {
            actix_rt::System::new().block_on(async move {
                match Server::start(settings, path, parts) {
                    Ok(server) => {
                        started.send(Ok((server.public_addr, server.admin_addr))).unwrap();
                        obey(server, commands).await;
                    }
                    Err(error) => started.send(Err(error.to_string())).unwrap(),
                }
            });
        });
        let (public, admin) = addresses.recv().unwrap()?;
        Ok(Instance { public, admin, dir, commands: sender })
    }
}

enum Command {
    Reload(oneshot::Sender<Result<usize, String>>),
}

/// Does what the instance's owner says until the owner is gone.
async fn obey(server: Server, mut commands: commands::UnboundedReceiver<Command>) {
    while let Some(command) = commands.recv().await {
        match command {
            Command::Reload(answer) => {
                let lines = |problems: Vec<mainstay::config::manifest::Problem>| {
                    problems.iter().fold(String::new(), |mut text, problem| {
                        writeln!(text, "{problem}").unwrap();
                        text
                    })
                };
                answer.send(server.reload().map_err(lines)).unwrap();
            }
        }
    }
    server.stop().await;
}

/// A running instance; dropping it stops it.
pub struct Instance {
    pub public: SocketAddr,
    pub admin: SocketAddr,
    dir: TempDir,
    commands: commands::UnboundedSender<Command>,
}

impl Instance {
    /// An instance whose only handler is a probe.
    pub fn probed(routes: &str, probe: &Probe) -> Self {
        Plan::probed(routes, probe).start()
    }

    /// Replaces `routes.toml` and reloads, as a SIGHUP does.
    pub fn reload(&self, routes: &str) -> Result<usize, String> {
        std::fs::write(self.dir.path().join("routes.toml"), routes).unwrap();
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Reload(answer)).unwrap();
        answered.blocking_recv().unwrap()
    }

    /// A new connection to the public listener.
    pub fn connect(&self) -> Connection<std::net::TcpStream> {
        Connection::open(self.public)
    }

    /// One GET on a connection of its own.
    pub fn get(&self, target: &str) -> Reply {
        self.request("GET", target, &[])
    }

    /// One GET with header lines.
    pub fn get_with(&self, target: &str, headers: &[(&str, &str)]) -> Reply {
        self.request("GET", target, headers)
    }

    /// One request without a body.
    pub fn request(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Reply {
        self.connect().request(method, target, headers)
    }

    /// What `/metrics` says, all of which the table of metrics declares.
    pub fn metrics(&self) -> String {
        let text = Connection::open(self.admin).request("GET", "/metrics", &[]).text();
        metrics::check(&text);
        text
    }

    /// The value of a sample of `/metrics`, by its name with labels; 0 where it is not there yet.
    pub fn metric(&self, sample: &str) -> f64 {
        let text = self.metrics();
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Waits until a GET is answered as wanted, and returns that answer.
    pub fn wait_for(&self, what: &str, target: &str, mut holds: impl FnMut(&Reply) -> bool) -> Reply {
        let mut last = None;
        let came = mainstay::local::wait_until(PATIENCE, || {
            let reply = self.get(target);
            let holds = holds(&reply);
            last = Some(reply);
            holds
        });
        let last = last.unwrap();
        assert!(came, "waited in vain for {what}: {last:?}");
        last
    }

    /// Waits until all configured nodes answer and replication is known to be fine.
    pub fn wait_healthy(&self) {
        self.wait_for("a healthy instance", "/health/edge", |reply| {
            reply.status == 200 && reply.json()["status"] == "healthy"
        });
    }
}
