//! `mainstay serve`: runs the server until SIGTERM or SIGINT; SIGHUP reads the manifest again.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Failure, FolderArgs};
use crate::app::{Handover, Listeners, Parts, Server, Wish, problems};
use crate::config::ConfigError;
use crate::config::settings::{ServerSettings, Settings};
use crate::telemetry::logs;

/// Signals to stop within this time of the first are not a second wish.
const SAME_SIGNAL: Duration = Duration::from_millis(500);

pub(super) const HELP: &str = "\
Environment (each also as NAME_FILE, a path to a file that holds the value):
  DATABASE_URL                 the primary
  DATABASE_READ_REPLICA_URL    replicas, separated by commas
  DATABASE_DIRECT_URL          the primary past a pooler, for the change feed
  REDIS_URL                    the shared cache and the bus of a fleet: redis://, rediss://, redis-cluster://
  PRIMARY_ORIGIN               the origin in the primary's region, for writes and strong reads from far away
  OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME
                               where traces go
  LOG_AMQP_URL                 a RabbitMQ that log lines go to as well
  AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_CONTAINER_CREDENTIALS_RELATIVE_URI,
  AWS_CONTAINER_CREDENTIALS_FULL_URI
                               who tells CloudFront of purges
  REGION, BIND_ADDR, ADMIN_ADDR, ADMIN_TOKEN, ORIGIN_SECRET, TOKEN_SECRET, MODE, FAILOVER_SOURCE,
  FAILOVER_PEER_TOKEN, CACHE_NAMESPACE, SANDBOX_WEBHOOK_SECRET, LOG_FORMAT
  MAINSTAY__SECTION__KEY       any key of config/default.toml

Signals: SIGTERM drains and exits, SIGINT does so without waiting for balancers to notice, a second one exits at once, SIGHUP
reads routes.toml again. LISTEN_FDS: sockets that systemd holds are used (the public one, the admin one).

Example:
  DATABASE_URL=postgres://reader@db/app mainstay serve --config my-api";

#[derive(Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// How this instance runs: regional or failover.
    #[arg(long)]
    mode: Option<String>,
    /// The region's name, said in X-Region and /health/edge.
    #[arg(long)]
    region: Option<String>,
    /// Address of the public listener.
    #[arg(long, value_name = "ADDR")]
    bind: Option<SocketAddr>,
    /// Address of the admin listener.
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
}

pub(super) fn run(args: ServeArgs, parts: Parts) -> Result<(), Failure> {
    let flags = [
        ("mode", args.mode),
        ("region", args.region),
        ("server.bind_addr", args.bind.map(|addr| addr.to_string())),
        ("server.admin_addr", args.admin.map(|addr| addr.to_string())),
    ];
    let flags = flags.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    let settings = args.folder.settings_or_problems(flags, &parts)?;
    let version = parts.version.as_deref().unwrap_or(env!("CARGO_PKG_VERSION"));
    let _last_lines_get_out = logs::start(&settings, version)?;
    raise_open_files();
    let system = actix_rt::System::new();
    let ended = system.block_on(async {
        let signals = Signals::listen()?;
        let (server, handover) = start(settings, &args.folder, parts)?;
        if let Some(handover) = handover {
            server.take_over(handover);
        }
        run_until_asked(signals, server).await;
        Ok(())
    });
    // To drop it is to wait for every call that blocks: for a disk that hangs, or a name server. Nobody does at the end. A handle is
    // kept with it: whoever drops the last one wakes it, and a worker that does so while its thread ends would panic there.
    std::mem::forget((actix_rt::System::try_current(), system));
    ended
}

/// Lets the process open as many files as it may. Each connection takes two, and the soft limit, which is there for programs
/// that use `select`, is 1024 under most service managers.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        log::warn!("the limit of open files stays at {:?}: {error}", limit.current);
    }
}

fn start(settings: Settings, folder: &FolderArgs, parts: Parts) -> Result<(Server, Option<Handover>), ConfigError> {
    if settings.consistency.has_weak_secret() {
        log::warn!(
            "TOKEN_SECRET: a secret of fewer than 16 characters can be guessed by whoever has one token; `openssl rand -hex 32` makes a good one"
        );
    }
    if settings.webhooks.has_weak_secret() {
        log::warn!(
            "SANDBOX_WEBHOOK_SECRET: a secret of fewer than 16 characters can be guessed by whoever has seen one delivery; `openssl rand -hex 32` makes a good one"
        );
    }
    if let Some(warning) = settings.forward.warning() {
        log::warn!("{warning}");
    }
    let (who, lack) = introduction(&settings);
    let mut handover = None;
    let listen = |settings: &ServerSettings| {
        let (begun, listeners) = listeners(settings)?;
        handover = begun;
        Ok(listeners)
    };
    let server = Server::start_on(listen, settings, folder.dir().to_owned(), parts)?;
    if let Some(lack) = lack {
        log::warn!("{lack}");
    }
    log::info!("{who}, serves on {}, metrics on http://{}/metrics", server.public_addr, server.admin_addr);
    Ok((server, handover))
}

fn listeners(settings: &ServerSettings) -> Result<(Option<Handover>, Listeners), ConfigError> {
    match (Listeners::passed(settings)?, settings.handover_socket.is_empty()) {
        (None, true) => Ok((None, Listeners::bind(settings)?)),
        (None, false) => Handover::begin(settings).map(|(handover, listeners)| (Some(handover), listeners)),
        (Some(passed), true) => Ok((None, passed)),
        (Some(_), false) => Err(ConfigError::new(
            "server.handover_socket: the service manager holds the sockets already (LISTEN_FDS); use one of the two",
        )),
    }
}

/// What the log says at the start: how this instance runs and from what, and what it lacks.
fn introduction(settings: &Settings) -> (String, Option<&'static str>) {
    let region = &settings.region;
    if !settings.capabilities().issues_anew {
        let lack = "DATABASE_URL is not set: routes that read a database answer 503";
        return (format!("region {region}"), settings.database.url.is_empty().then_some(lack));
    }
    let stores = [
        (!settings.redis.url.is_empty(), "Redis, read only"),
        (!settings.cache.snapshot_file.is_empty(), "the snapshot file"),
        (!settings.failover.peers.is_empty(), "snapshots of peers"),
        (settings.capabilities().fills, "databases, read only"),
    ];
    let stores: Vec<&str> = stores.into_iter().filter_map(|(is_there, name)| is_there.then_some(name)).collect();
    let lack = "there is nothing to serve from: set REDIS_URL, cache.snapshot_file or failover.peers";
    let from = if stores.is_empty() { "nothing".to_owned() } else { stores.join(" and ") };
    let who = format!("failover origin ({}) in region {region}, from {from}", settings.failover.source.as_str());
    (who, stores.is_empty().then_some(lack))
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// To end.
    End(Wish),
    /// To read the manifest again.
    Reload,
}

/// The signals that a server lives by.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Listens from now on, so that no signal is missed while the server starts.
    pub(super) fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::new(format!("cannot listen for signals: {error}")));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// What somebody asks of this process next.
    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End(Wish::Terminate),
            _ = self.interrupt.recv() => Asked::End(Wish::Interrupt),
            _ = self.hang_up.recv() => Asked::Reload,
        }
    }

    /// A second signal to stop. One that follows on the heels of the first is the same one, told to a process and to its
    /// group, or by a supervisor and by the terminal.
    async fn again(&mut self) {
        let first = Instant::now();
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
            if first.elapsed() > SAME_SIGNAL {
                return;
            }
        }
    }
}

/// Serves until a signal to stop or a successor comes, reloading on the way. A second signal while draining ends it at once.
async fn run_until_asked(mut signals: Signals, server: Server) {
    let wish = loop {
        let asked = tokio::select! {
            asked = signals.next() => asked,
            () = server.wait_relieved() => Asked::End(Wish::Relieved),
        };
        match asked {
            Asked::End(wish) => break wish,
            Asked::Reload => match server.reload() {
                Ok(routes) => log::info!("the manifest was read again: {routes} routes"),
                Err(found) => log::error!("the manifest was not taken, the old one stays: {}", problems(found)),
            },
        }
    };
    log::info!("draining");
    tokio::select! {
        () = server.shut_down(wish) => log::info!("stopped"),
        () = signals.again() => log::warn!("stopped at once: a second signal came while draining"),
    }
}

#[cfg(test)]
mod tests {
    use super::HELP;
    use crate::config::settings::NAMED;

    #[test]
    fn help_names_every_name_that_is_read_as_it_is() {
        let missing: Vec<&str> = NAMED.iter().map(|(name, _)| *name).filter(|name| !HELP.contains(name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
