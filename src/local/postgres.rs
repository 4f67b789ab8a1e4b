//! A Postgres primary and its streaming replicas.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, test_kill_process};

use super::binaries::PostgresPrograms;
use super::process::Recipe;
use super::server::{ReadyCheck, Server};
use super::{LocalError, Result, ServerUser, files, wait_until, with_port};

/// Settings of every cluster; those of [`PostgresOptions::settings`] follow and win.
///
/// The data is throwaway, so nothing waits for a disk. What concerns replication is as in production, except that a replica
/// looks for its primary ten times a second in place of every five seconds.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("unix_socket_directories", ""),
    ("max_connections", "300"),
    ("shared_buffers", "32MB"),
    ("dynamic_shared_memory_type", "mmap"),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("synchronous_commit", "on"),
    ("wal_level", "replica"),
    ("wal_keep_size", "256MB"),
    ("max_wal_senders", "20"),
    ("max_replication_slots", "20"),
    ("hot_standby", "on"),
    ("wal_retrieve_retry_interval", "100ms"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
];

/// Who may log in from where; lines of [`PostgresOptions::hba`] come before and win.
const HBA: &[&str] = &["host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"];

/// How long a new replica may take to stream.
const STREAMING_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a replica made by an earlier run may take to stream before it is made anew.
const RESUME_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the server of an earlier run, whose launcher was killed, may take to end.
const PREDECESSOR_TIMEOUT: Duration = Duration::from_secs(10);

/// How a cluster is made and run.
#[derive(Clone, Debug, Default)]
pub struct PostgresOptions {
    /// The directory for data and log. What an earlier run left there is used again.
    pub dir: PathBuf,
    /// The loopback port, or 0 for a free one.
    pub port: u16,
    /// Lines of `postgresql.conf`, as names and plain values.
    pub settings: Vec<(String, String)>,
    /// Lines of `pg_hba.conf`, before those that trust everybody on 127.0.0.1.
    pub hba: Vec<String>,
    /// Where given, TLS is offered.
    pub tls: Option<PostgresTls>,
}

impl PostgresOptions {
    /// A cluster in `dir` on a free port, with nothing else said.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), ..Self::default() }
    }

    /// Adds a line to `postgresql.conf`.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A server's certificate and key.
#[derive(Clone, Debug)]
pub struct PostgresTls {
    /// The certificate chain, in PEM.
    pub certificate_pem: String,
    /// The private key, in PEM.
    pub key_pem: String,
    /// Where given, the authority of client certificates, in PEM.
    pub client_ca_pem: Option<String>,
}

/// How a replica is made and run.
#[derive(Clone, Debug, Default)]
pub struct ReplicaOptions {
    /// As for a primary. Settings and lines of `pg_hba.conf` follow those of the primary; its TLS is used where none is given.
    pub postgres: PostgresOptions,
    /// The name in `pg_stat_replication` and for `synchronous_standby_names`; `replica` where none is given.
    pub application_name: Option<String>,
    /// A physical replication slot, made on the primary where it is missing.
    pub slot: Option<String>,
    /// Where to stream from in place of the primary itself: the address of a proxy in front of it.
    pub upstream: Option<SocketAddr>,
}

impl ReplicaOptions {
    /// A replica in `dir` on a free port, with nothing else said.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { postgres: PostgresOptions::new(dir), ..Self::default() }
    }
}

/// A Postgres cluster that runs on this machine until it is dropped.
pub struct Postgres {
    /// The process: start, stop, suspend, kill, log.
    pub server: Server,
    programs: PostgresPrograms,
    user: ServerUser,
    /// The options in effect, with the directory really used.
    options: PostgresOptions,
}

impl Postgres {
    /// Starts a primary, making its cluster first where the directory has none.
    pub fn primary(options: PostgresOptions) -> Result<Self> {
        let site = Site::open(options)?;
        let data = site.data();
        if data.join("PG_VERSION").exists() {
            site.check_version()?;
        } else {
            site.make(|fresh| site.initdb(fresh))?;
        }
        site.launch("")
    }

    /// Starts a replica that streams from this cluster, copying it first where the directory has no replica of it.
    pub fn replica(&self, options: ReplicaOptions) -> Result<Self> {
        let ReplicaOptions { mut postgres, application_name, slot, upstream } = options;
        postgres.settings = [self.options.settings.clone(), postgres.settings].concat();
        postgres.hba = [postgres.hba, self.options.hba.clone()].concat();
        postgres.tls = postgres.tls.or_else(|| self.options.tls.clone());
        let site = Site::open(postgres)?;

        let upstream = upstream.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, self.server.port())));
        let name = application_name.as_deref().unwrap_or("replica");
        let conninfo = format!("host={} port={} user=postgres application_name={name}", upstream.ip(), upstream.port());
        let mut settings = String::new();
        push_setting(&mut settings, "primary_conninfo", &conninfo);
        if let Some(slot) = &slot {
            push_setting(&mut settings, "primary_slot_name", slot);
            self.psql(
                "postgres",
                &format!(
                    "SELECT pg_create_physical_replication_slot('{slot}', true) WHERE NOT EXISTS \
                     (SELECT FROM pg_replication_slots WHERE slot_name = '{slot}')"
                ),
            )?;
        }

        if site.data().join("standby.signal").exists() && site.system_id().ok() == Some(self.system_id()?) {
            // What an earlier run left may lack WAL that the primary has dropped since, or be ahead of it after a crash.
            // It is a copy: any doubt is settled by a new one.
            if let Ok(replica) = site.launch(&settings)
                && replica.is_streaming(RESUME_TIMEOUT)
            {
                return Ok(replica);
            }
        }
        site.make(|fresh| self.copy_to(fresh, slot.as_deref()))?;
        let replica = site.launch(&settings)?;
        if replica.is_streaming(STREAMING_TIMEOUT) {
            Ok(replica)
        } else {
            let log = replica.server.log().to_owned();
            Err(LocalError::NotStreaming { tail: files::tail(&log, 0), log })
        }
    }

    /// A connection URL, without a password: everybody on this machine is trusted.
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.server.port())
    }

    /// The directory really used, which is not the wanted one where the server's user cannot reach that.
    pub fn dir(&self) -> &Path {
        &self.options.dir
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        data_dir(&self.options.dir)
    }

    /// Makes a replica a primary, on a new timeline, and waits until it accepts writes.
    pub fn promote(&self) -> Result<()> {
        let data = path_text(&self.data_dir())?;
        self.programs.run(self.user, "pg_ctl", ["promote", "--wait", "--silent", "--pgdata", &data]).map(drop)
    }

    /// Runs SQL as the superuser and returns its unaligned output: a line a row, columns separated by `|`.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String> {
        let url = self.url("postgres", database);
        let args = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"];
        self.programs.run(self.user, "psql", args.into_iter().chain(["--dbname", &url, "--command", sql]))
    }

    /// The path of a program of this installation, such as `pgbench`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.path(name)
    }

    /// A command that runs a program of this installation, in a container, too.
    pub fn command(&self, name: &str) -> Command {
        let (user, program, args) = self.programs.launch(ServerUser::own(), name);
        let mut command = user.command(program);
        command.args(args);
        command
    }

    /// The identity of the cluster, shared by a primary and its replicas.
    pub fn system_id(&self) -> Result<u64> {
        system_id(&self.programs, self.user, &self.data_dir())
    }

    fn is_streaming(&self, timeout: Duration) -> bool {
        let sql = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        wait_until(timeout, || self.psql("postgres", sql).is_ok_and(|count| count.trim() == "1"))
    }

    fn copy_to(&self, fresh: &str, slot: Option<&str>) -> Result<()> {
        let source = format!("host=127.0.0.1 port={} user=postgres", self.server.port());
        let mut args = vec!["--pgdata", fresh, "--dbname", &source, "--checkpoint=fast", "--no-sync", "--no-manifest"];
        args.extend(slot.into_iter().flat_map(|slot| ["--slot", slot]));
        self.programs.run(self.user, "pg_basebackup", args)?;
        files::write_private(self.user, &Path::new(fresh).join("standby.signal"), "")
    }
}

/// A directory for a cluster, before its server runs.
struct Site {
    programs: PostgresPrograms,
    user: ServerUser,
    options: PostgresOptions,
}

impl Site {
    fn open(mut options: PostgresOptions) -> Result<Self> {
        let programs = PostgresPrograms::find()?;
        let user = ServerUser::detect()?;
        options.dir = user.directory(&options.dir)?;
        let site = Self { programs, user, options };
        site.await_predecessor()?;
        Ok(site)
    }

    fn data(&self) -> PathBuf {
        data_dir(&self.options.dir)
    }

    fn system_id(&self) -> Result<u64> {
        system_id(&self.programs, self.user, &self.data())
    }

    /// Waits for the server of an earlier run to end: its launcher may have been killed a moment ago.
    fn await_predecessor(&self) -> Result<()> {
        let data = self.data();
        let Some(pid) = postmaster_file(&data).and_then(|file| file.pid) else { return Ok(()) };
        // Process ids are used again, so the name has to be right, too.
        let is_postgres =
            || fs::read_to_string(format!("/proc/{pid}/comm")).map_or(true, |name| name.trim() == "postgres");
        let is_gone = || {
            Pid::from_raw(pid).is_none_or(|pid| test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
                || !is_postgres()
        };
        if wait_until(PREDECESSOR_TIMEOUT, is_gone) { Ok(()) } else { Err(LocalError::AlreadyServed { data, pid }) }
    }

    fn check_version(&self) -> Result<()> {
        let data = self.data();
        let path = data.join("PG_VERSION");
        let found = fs::read_to_string(&path).map_err(LocalError::io("read", &path))?.trim().to_owned();
        let installed = self.programs.major_version(self.user)?;
        if found == installed { Ok(()) } else { Err(LocalError::VersionMismatch { data, found, installed }) }
    }

    /// Makes the data directory under another name first, so that one which exists is whole.
    fn make(&self, fill: impl Fn(&str) -> Result<()>) -> Result<()> {
        let fresh = self.options.dir.join("data.new");
        let data = self.data();
        files::remove_directory(&fresh)?;
        files::remove_directory(&data)?;
        fill(&path_text(&fresh)?)?;
        fs::rename(&fresh, &data).map_err(LocalError::io("rename", &fresh))
    }

    fn initdb(&self, fresh: &str) -> Result<()> {
        let initdb = |locale: &str| {
            let locale = format!("--locale={locale}");
            let args =
                ["--pgdata", fresh, "--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync", &locale];
            self.programs.run(self.user, "initdb", args)
        };
        // Not every system has C.UTF-8; initdb removes what it began when it fails.
        initdb("C.UTF-8").or_else(|_| initdb("C")).map(drop)
    }

    /// Writes the configuration and starts the server. Nothing of an earlier configuration remains, save `ALTER SYSTEM`.
    fn launch(&self, replica_settings: &str) -> Result<Postgres> {
        let data = self.data();
        let mut settings = String::new();
        for (name, value) in SETTINGS {
            push_setting(&mut settings, name, value);
        }
        if let Some(tls) = &self.options.tls {
            files::write_private(self.user, &data.join("server.crt"), &tls.certificate_pem)?;
            files::write_private(self.user, &data.join("server.key"), &tls.key_pem)?;
            push_setting(&mut settings, "ssl", "on");
            if let Some(client_ca_pem) = &tls.client_ca_pem {
                files::write_private(self.user, &data.join("root.crt"), client_ca_pem)?;
                push_setting(&mut settings, "ssl_ca_file", "root.crt");
            }
        }
        settings.push_str(replica_settings);
        for (name, value) in &self.options.settings {
            push_setting(&mut settings, name, value);
        }
        files::write_private(self.user, &data.join("postgresql.conf"), &settings)?;

        let own = self.options.hba.iter().map(String::as_str);
        let hba = own.chain(HBA.iter().copied()).fold(String::new(), |text, line| text + line + "\n");
        files::write_private(self.user, &data.join("pg_hba.conf"), &hba)?;

        let server = with_port(self.options.port, |port| self.start(port))?;
        Ok(Postgres { server, programs: self.programs.clone(), user: self.user, options: self.options.clone() })
    }

    fn start(&self, port: u16) -> Result<Server> {
        let data = self.data();
        let (user, program, mut args) = self.programs.launch(self.user, "postgres");
        args.extend(["-D".to_owned(), path_text(&data)?, "-p".to_owned(), port.to_string()]);
        let recipe = Recipe {
            user,
            program,
            args,
            env: Vec::new(),
            // Fast, then immediate shutdown: a fast one waits for replicas, which may be suspended.
            stop_signals: "INT QUIT",
        };
        let log = self.options.dir.join("server.log");
        let is_ready: ReadyCheck = Box::new(move |pid| {
            postmaster_file(&data).is_some_and(|file| file.pid == Some(pid.as_raw_pid()) && file.is_ready)
        });
        Server::launch("PostgreSQL", port, log, recipe, is_ready)
    }
}

/// What a running server says of itself in `postmaster.pid`.
struct PostmasterFile {
    pid: Option<i32>,
    is_ready: bool,
}

fn postmaster_file(data: &Path) -> Option<PostmasterFile> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let mut lines = text.lines();
    let pid = lines.next().and_then(|line| line.trim().parse().ok());
    // The eighth line is the state, padded with blanks; `pg_ctl start` waits for the same word.
    let is_ready = lines.nth(6).is_some_and(|line| line.trim() == "ready");
    Some(PostmasterFile { pid, is_ready })
}

fn system_id(programs: &PostgresPrograms, user: ServerUser, data: &Path) -> Result<u64> {
    let text = programs.run(user, "pg_controldata", ["-D", &path_text(data)?])?;
    text.lines()
        .find_map(|line| line.strip_prefix("Database system identifier:")?.trim().parse().ok())
        .ok_or(LocalError::DirectoryUnusable { path: data.to_owned(), reason: "its control file is not readable" })
}

fn data_dir(dir: &Path) -> PathBuf {
    dir.join("data")
}

fn push_setting(settings: &mut String, name: &str, value: &str) {
    let quoted = value.replace('\\', "\\\\").replace('\'', "''");
    // Writing to a string cannot fail.
    let _ = writeln!(settings, "{name} = '{quoted}'");
}

/// A path as an argument of a program and in messages. Other than UTF-8 is refused early, as it would be hard to explain later.
fn path_text(path: &Path) -> Result<String> {
    let reason = "its name is not UTF-8";
    path.to_str().map(str::to_owned).ok_or(LocalError::DirectoryUnusable { path: path.to_owned(), reason })
}
