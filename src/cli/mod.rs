//! The command line, one file a command.
//!
//! Exit codes: 0 done · 1 it failed, or what was checked is not right · 2 the arguments are wrong · 3 and 4 `status`: degraded, and such
//! that callers notice · 64 the configuration cannot be run with, and the message names the key.
#![expect(clippy::print_stderr, reason = "commands talk to the person who runs them")]

/// Prints a line as `println!` does, and does not mind that whoever read it has gone (`| head`), where that panics.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::put(&format!($($text)*)) };
}

mod accounts;
mod admin;
mod audit;
mod audited;
mod check;
mod completions;
mod dev;
mod health;
mod import;
mod init;
mod keys;
mod log;
mod migrate;
mod probe;
mod progress;
mod purge;
mod routes;
mod serve;
mod shadow;
mod simulate;
mod status;
mod table;
mod upstreams;
mod warm;
mod watches;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::app::{Parts, problems};
use crate::config::ConfigError;
use crate::config::auth::AccountReads;
use crate::config::settings::{DatabaseSettings, Layers, Settings};
use crate::database::maintenance::{MaintenancePool, Pooled};
use progress::{Progress, Shown};

/// A regional API origin that stays up: a declared JSON API over Postgres, served from a cache.
#[derive(Parser)]
#[command(name = "mainstay", version, about, after_help = EXIT_CODES, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   it failed, or what was checked is not right
  2   the arguments are wrong
  3   status: something is degraded, and callers get what they are promised
  4   status: something is wrong that callers notice
  64  the configuration cannot be run with; the message names the key

Start here:
  mainstay dev                    everything on this machine, with real data
  mainstay init                   a first routes.toml from your own tables (DATABASE_URL)
  mainstay check                  prove it against the database
  mainstay serve                  run it";

#[derive(Subcommand)]
enum Command {
    /// Run the server.
    #[command(after_help = serve::HELP)]
    Serve(serve::ServeArgs),
    /// Run everything on this machine: a throwaway primary with real data, replicas, regional origins, a failover origin.
    #[command(after_help = dev::HELP)]
    Dev(dev::DevArgs),
    /// Bring the database's schema up to what the manifest needs.
    #[command(after_help = migrate::HELP)]
    Migrate(migrate::MigrateArgs),
    /// Prove the manifest against the database.
    #[command(after_help = check::HELP)]
    Check(check::CheckArgs),
    /// Print the routes of the manifest.
    Routes(routes::RoutesArgs),
    /// Write a first routes.toml from the tables of DATABASE_URL.
    Init(init::InitArgs),
    /// Make cached answers fall: by tag, path or key, or all.
    #[command(after_help = purge::HELP)]
    Purge(purge::PurgeArgs),
    /// Print how a running instance is.
    #[command(after_help = status::HELP)]
    Status(status::StatusArgs),
    /// Ask this machine's own instance for its health, as the health check of a container.
    #[command(after_help = health::HELP)]
    Health(health::HealthArgs),
    /// Fill a running instance's cache before clients ask.
    #[command(after_help = warm::HELP)]
    Warm(warm::WarmArgs),
    /// Measure how long an edge and its regions take to answer, and who answers.
    #[command(after_help = probe::HELP)]
    Probe(probe::ProbeArgs),
    /// Print whether the shadows of upstream routes answer as their upstreams do.
    #[command(after_help = shadow::HELP)]
    Shadow(shadow::ShadowArgs),
    /// Print what audits of cached answers have found, or say that somebody has looked into it.
    #[command(after_help = audit::HELP)]
    Audit(audit::AuditArgs),
    /// Print or change the levels of a running instance's log.
    #[command(after_help = log::HELP)]
    Log(log::LogArgs),
    /// Say what a cache would have made of an access log: hits, memory, queries saved.
    #[command(after_help = simulate::HELP)]
    Simulate(simulate::SimulateArgs),
    /// Print what makes a shell complete this program's commands and flags.
    #[command(after_help = completions::HELP)]
    Completions(completions::CompletionsArgs),
    /// API keys for routes with auth = "key".
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Make and list accounts of the reference application.
    #[command(subcommand)]
    Accounts(accounts::AccountsCommand),
    /// Import data of the reference application.
    #[command(subcommand)]
    Import(import::ImportCommand),
}

/// Where the configuration is.
#[derive(Args, Clone)]
struct FolderArgs {
    /// Folder with routes.toml and, optionally, mainstay.toml [default: config]
    #[arg(long = "config", value_name = "DIR")]
    named: Option<PathBuf>,
}

impl FolderArgs {
    fn dir(&self) -> &Path {
        self.named.as_deref().unwrap_or(Path::new("config"))
    }

    /// The settings of the folder. One that was named has to be there: a slip of the pen would run on the defaults. Without a name there
    /// may be none, where the environment says it all.
    fn settings(&self, flags: Vec<(&'static str, String)>) -> Result<Settings, Failure> {
        match &self.named {
            Some(named) if !named.is_dir() => {
                let what = if named.exists() { "it is no folder" } else { "there is no such folder" };
                Err(ConfigError::new(format!("--config {}: {what}", named.display())).into())
            }
            _ => self.settings_if_any(flags),
        }
    }

    /// As [`FolderArgs::settings`], for who reads the manifest next: where the settings are wrong, what is wrong with the manifest
    /// whatever they are is told with it, so that nobody has to start twice to hear of both.
    fn settings_or_problems(&self, flags: Vec<(&'static str, String)>, parts: &Parts) -> Result<Settings, Failure> {
        let failure = match self.settings(flags) {
            Err(Failure::Config(ConfigError(sentence))) if self.dir().is_dir() => sentence,
            outcome => return outcome,
        };
        // Which reads of accounts are strong by default makes no manifest right or wrong.
        let read = parts.manifest(self.dir(), AccountReads::Strong);
        let found = read.err().map(|found| format!("\n{}", problems(found))).unwrap_or_default();
        Err(ConfigError::new(failure + &found).into())
    }

    /// The settings of a folder that is yet to be made.
    fn settings_if_any(&self, flags: Vec<(&'static str, String)>) -> Result<Settings, Failure> {
        Ok(Settings::load(Layers::of_process(self.dir(), flags))?)
    }
}

/// Why a command ends with another code than 0.
enum Failure {
    /// Exit code 64.
    Config(ConfigError),
    /// Exit code 1, with a sentence.
    Failed(String),
    /// Exit code 1, with a sentence: an instance does not know the token. To ask again shuts the address out.
    Unauthorized(String),
    /// Exit code 2, with a sentence: arguments that are wrong in a way that only their command knows.
    Arguments(String),
    /// Exit code 3, with a sentence: an instance is degraded.
    Degraded(String),
    /// Exit code 4, with a sentence: and its callers notice.
    Critical(String),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl Failure {
    fn new(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    const fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Unauthorized(_) => 1,
            Self::Arguments(_) => 2,
            Self::Degraded(_) => 3,
            Self::Critical(_) => 4,
            Self::Config(_) => 64,
        }
    }

    fn sentence(&self) -> &str {
        match self {
            Self::Config(ConfigError(sentence))
            | Self::Failed(sentence)
            | Self::Unauthorized(sentence)
            | Self::Arguments(sentence)
            | Self::Degraded(sentence)
            | Self::Critical(sentence) => sentence,
        }
    }
}

/// Runs the command line of this process.
pub fn main(parts: Parts) -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(args) => serve::run(args, parts),
        Command::Dev(args) => dev::run(args, &parts),
        Command::Migrate(args) => migrate::run(&args, &parts),
        Command::Check(args) => check::run(&args, &parts),
        Command::Routes(args) => routes::run(&args, &parts),
        Command::Init(args) => init::run(&args),
        Command::Purge(args) => purge::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Health(args) => health::run(&args),
        Command::Warm(args) => warm::run(&args),
        Command::Probe(args) => probe::run(&args),
        Command::Shadow(args) => shadow::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Log(args) => log::run(&args),
        Command::Simulate(args) => simulate::run(&args, &parts),
        Command::Completions(args) => completions::run(&args),
        Command::Keys(command) => keys::run(&command, &parts),
        Command::Accounts(command) => accounts::run(&command, &parts),
        Command::Import(command) => import::run(&command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("mainstay: {}", failure.sentence());
            ExitCode::from(failure.exit_code())
        }
    }
}

/// A time span of the command line.
fn span(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "it is to be a time like 500ms, 5s, 12h or 90d".to_owned())
}

/// Where this machine reaches a listener of its own: one that listens on all addresses, on loopback.
fn reached_at(address: SocketAddr) -> SocketAddr {
    let loopback: IpAddr = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    if address.ip().is_unspecified() { SocketAddr::new(loopback, address.port()) } else { address }
}

/// Prints a line for `say!`.
fn put(line: &str) {
    use std::io::Write;
    let _read_or_not = writeln!(std::io::stdout(), "{line}");
}

/// A connection for work that is no request, past a pooler where one is configured.
fn maintenance_connection(settings: &Settings) -> Result<Pooled, Failure> {
    connection(&settings.database)
}

fn connection(settings: &DatabaseSettings) -> Result<Pooled, Failure> {
    use crate::database::maintenance::MaintenanceError;
    let progress = Progress::of_steps(Shown::Shown);
    progress.step("connecting to the database");
    let open = MaintenancePool::open(settings).and_then(|pool| pool.get());
    open.map_err(|error| match error {
        MaintenanceError::Config(error) => Failure::Config(error),
        other => Failure::new(other),
    })
}
