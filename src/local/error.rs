//! What can go wrong while a server is launched, each with what to do next.

use std::io;
use std::path::{Path, PathBuf};

/// A launcher's failure. The message says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// No PostgreSQL server on this machine.
    #[error(
        "PostgreSQL server binaries not found: run `scripts/install-deps base` or `apt-get install postgresql`, then try again"
    )]
    PostgresMissing,
    /// Postgres was to come out of a container.
    #[error("MAINSTAY_TEST_POSTGRES: {reason}")]
    ContainerUnusable {
        /// Why it cannot.
        reason: String,
    },
    /// No nginx on this machine.
    #[error("nginx not found: run `scripts/install-deps edge` or `apt-get install nginx`, then try again")]
    NginxMissing,
    /// No RabbitMQ on this machine.
    #[error("RabbitMQ not found: run `scripts/install-deps test` or `apt-get install rabbitmq-server`, then try again")]
    RabbitMqMissing,
    /// Root may not run Postgres, and there is nobody else to run it as.
    #[error("PostgreSQL refuses to run as root and there is no user `postgres` or `nobody`: run this as another user")]
    NoServerUser,
    /// The directory cannot be given to the server's user.
    #[error("{} cannot be used for server data: {reason}; remove it or name another directory", path.display())]
    DirectoryUnusable {
        /// The directory.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// The data was made by another major version of PostgreSQL.
    #[error(
        "{} was made by PostgreSQL {found}, installed is {installed}: remove it (`mainstay dev --fresh`) or install that version",
        data.display()
    )]
    VersionMismatch {
        /// The data directory.
        data: PathBuf,
        /// The major version that made the data.
        found: String,
        /// The major version installed.
        installed: String,
    },
    /// Another server, not ours, runs on this data.
    #[error("process {pid} already serves {}: stop it first, or start in another directory", data.display())]
    AlreadyServed {
        /// The data directory.
        data: PathBuf,
        /// The server's process id.
        pid: i32,
    },
    /// The port is taken.
    #[error("port {port} of 127.0.0.1 is taken: stop what listens there, or ask for port 0 to get a free one")]
    PortInUse {
        /// The port.
        port: u16,
    },
    /// Every port that was tried is taken.
    #[error("no free port found on 127.0.0.1: stop some servers and try again")]
    NoFreePort,
    /// A helper program failed.
    #[error("{program} failed ({status}); it said:\n{output}")]
    CommandFailed {
        /// The program.
        program: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// What it printed.
        output: String,
    },
    /// The server ended, or did not become ready in time.
    #[error("{name} did not become ready; the end of its log, {}:\n{tail}", log.display())]
    NotReady {
        /// The server's name.
        name: &'static str,
        /// Its log file.
        log: PathBuf,
        /// The last lines of this start.
        tail: String,
    },
    /// The replica runs but does not stream from its primary.
    #[error("the replica does not stream from its primary; the end of its log, {}:\n{tail}", log.display())]
    NotStreaming {
        /// The replica's log file.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// The server is not running, so that it cannot be signalled.
    #[error("{name} is not running: start it first")]
    NotRunning {
        /// The server's name.
        name: &'static str,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file or program.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl LocalError {
    /// For `map_err`: names what was tried, on what.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}
