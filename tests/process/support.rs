//! What the tests of the binary share: running it, talking to it, and a cluster to point it at.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use mainstay::local::{Postgres, PostgresOptions, ReplicaOptions, Scratch, Signal, wait_until};
use rustix::process::{Pid, kill_process, kill_process_group};

/// How long a condition may take to come true on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The binary under test.
pub const MAINSTAY: &str = env!("CARGO_BIN_EXE_mainstay");

/// A file of this repository.
pub fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// A program with no environment but the path, so that nothing of whoever runs the tests leaks in.
pub fn command(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir("/");
    // Where a Postgres that it launches comes from is for whoever runs the tests to say.
    let names = ["MAINSTAY_TEST_POSTGRES", "CONTAINER_ENGINE", "CONTAINERS_CONF"];
    command.envs(names.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command
}

/// What a program that ended has said.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `mainstay` to its end.
pub fn mainstay(args: &[&str], env: &[(&str, &str)]) -> Outcome {
    let mut command = command(MAINSTAY);
    command.args(args).envs(env.iter().copied());
    let mut program = Program::start(command);
    let status = program.wait();
    Outcome { code: status.code(), stdout: program.stdout(), stderr: program.stderr() }
}

/// A running program whose output is collected. Killed when dropped.
pub struct Program {
    child: Child,
    readers: Vec<std::thread::JoinHandle<()>>,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
}

impl Program {
    /// Starts it in a process group of its own, as a terminal would.
    pub fn start(mut command: Command) -> Self {
        use std::os::unix::process::CommandExt;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (stdout, out) = collect(child.stdout.take().unwrap());
        let (stderr, err) = collect(child.stderr.take().unwrap());
        Self { child, readers: vec![out, err], stdout, stderr }
    }

    pub fn stdout(&self) -> String {
        self.stdout.lock().unwrap().clone()
    }

    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Everything said so far.
    pub fn output(&self) -> String {
        self.stdout() + &self.stderr()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap()).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// What a terminal's Ctrl-C does: the signal goes to the whole group.
    pub fn signal_group(&self, signal: Signal) {
        kill_process_group(self.pid(), signal).unwrap();
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end; one that does not end is killed.
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until(PATIENCE, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let status = status.unwrap_or_else(|| {
            self.child.kill().unwrap();
            let output = self.output();
            panic!("it did not end: {output}")
        });
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        status
    }

    /// Waits until the output answers the question.
    pub fn expect<T>(&mut self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let mut found = None;
        wait_until(PATIENCE, || {
            found = find(&self.output());
            found.is_some() || self.child.try_wait().unwrap().is_some()
        });
        // The last words may come after the end.
        found.or_else(|| find(&self.output())).unwrap_or_else(|| panic!("no {what} in: {}", self.output()))
    }

    /// Waits until a text is said.
    pub fn expect_text(&mut self, text: &str) {
        self.expect(text, |output| output.contains(text).then_some(()));
    }
}

impl Drop for Program {
    /// With all that it has started itself, like the workers of nginx, who outlive a master that is killed.
    fn drop(&mut self) {
        if self.is_running() {
            let _ = kill_process_group(self.pid(), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

fn collect(stream: impl Read + Send + 'static) -> (Arc<Mutex<String>>, std::thread::JoinHandle<()>) {
    let text = Arc::new(Mutex::new(String::new()));
    let into = Arc::clone(&text);
    let reader = std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
            into.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
    (text, reader)
}

/// `mainstay serve` on free ports.
pub struct Origin {
    pub program: Program,
    /// `http://127.0.0.1:PORT` of the public listener.
    pub base: String,
    /// The same of the admin listener.
    pub admin: String,
}

impl Origin {
    pub fn start(dir: &Path, env: &[(&str, &str)]) -> Self {
        Self::start_with(dir, &[], env)
    }

    pub fn start_with(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut serve = command(MAINSTAY);
        serve.args(["serve", "--config", dir.to_str().unwrap()]).args(args);
        Self::start_command(serve, env)
    }

    /// A command that serves; the free ports are added.
    pub fn start_command(mut command: Command, env: &[(&str, &str)]) -> Self {
        command.args(["--bind", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        // Nothing stands before most of them that has to notice.
        command.env("MAINSTAY__SERVER__DRAIN_DELAY", "0s");
        // What is renewed early by chance comes before what a test has waited for, where the machine is slow enough.
        command.env("MAINSTAY__CACHE__EARLY_REFRESH_BETA", "0").envs(env.iter().copied());
        let mut program = Program::start(command);
        let find = |output: &str| {
            let (_, rest) = output.split_once(" serves on ")?;
            let (public, rest) = rest.split_once(", metrics on http://")?;
            Some((format!("http://{public}"), format!("http://{}", rest.split_once('/')?.0)))
        };
        let (base, admin) = program.expect("addresses", find);
        Self { program, base, admin }
    }

    pub fn get(&self, path: &str) -> Reply {
        get(&format!("{}{path}", self.base))
    }

    /// Asks until the answer is as wanted.
    pub fn get_until(&self, path: &str, wanted: impl Fn(&Reply) -> bool) -> Reply {
        let mut last = None;
        let came = wait_until(PATIENCE, || wanted(last.insert(self.get(path))));
        assert!(came, "{path}: {last:?}\n{}", self.program.output());
        last.unwrap()
    }
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    pub fn cache(&self) -> &str {
        self.header("cache-status")
    }
}

pub fn get(url: &str) -> Reply {
    request("GET", url, &[], None)
}

/// Sends a request; no answer at all has status 0.
pub fn request(method: &str, url: &str, headers: &[(&str, &str)], body: Option<&str>) -> Reply {
    request_within(PATIENCE, method, url, headers, body)
}

/// As [`request`], with a limit to the time that it takes.
pub fn request_within(limit: Duration, method: &str, url: &str, headers: &[(&str, &str)], body: Option<&str>) -> Reply {
    static AGENT: LazyLock<ureq::Agent> = LazyLock::new(|| {
        ureq::Agent::config_builder().http_status_as_error(false).max_idle_connections(0).build().into()
    });
    let mut builder = ureq::http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    let answer = match body {
        Some(body) => {
            let request = AGENT.configure_request(builder.body(body.to_owned()).unwrap());
            AGENT.run(request.timeout_global(Some(limit)).build())
        }
        None => {
            let request = AGENT.configure_request(builder.body(()).unwrap());
            AGENT.run(request.timeout_global(Some(limit)).build())
        }
    };
    match answer {
        Ok(mut answer) => Reply {
            status: answer.status().as_u16(),
            headers: answer
                .headers()
                .iter()
                .map(|(name, value)| (name.as_str().to_owned(), value.to_str().unwrap().to_owned()))
                .collect(),
            body: answer.body_mut().read_to_string().unwrap_or_default(),
        },
        Err(error) => Reply { status: 0, headers: BTreeMap::new(), body: error.to_string() },
    }
}

/// A configuration folder.
pub struct Folder(tempfile::TempDir);

impl Folder {
    /// With this `routes.toml`.
    pub fn new(routes: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("routes.toml", routes);
        folder
    }

    pub fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.join(name), text).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn text(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// A primary with a replica, which all tests share.
pub struct Cluster {
    pub primary: Postgres,
    pub replica: Postgres,
    _scratch: Scratch,
}

/// The role whose password is asked for and changes.
pub const ROTATING: &str = "rotating";

impl Cluster {
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Cluster> = LazyLock::new(|| {
            let scratch = Scratch::new("process").unwrap();
            let mut options = PostgresOptions::new(scratch.join("primary"))
                .setting("fsync", "off")
                .setting("max_connections", "300")
                .setting("shared_buffers", "16MB");
            options.hba.push(format!("host all {ROTATING} 127.0.0.1/32 scram-sha-256"));
            let primary = Postgres::primary(options).unwrap();
            let replica = primary.replica(ReplicaOptions::new(scratch.join("replica"))).unwrap();
            Cluster { primary, replica, _scratch: scratch }
        });
        &SHARED
    }

    /// Makes a database and runs SQL in it.
    pub fn database(&self, sql: &str) -> String {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("process_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.primary.psql("postgres", &format!("CREATE DATABASE {name}")).unwrap();
        if !sql.is_empty() {
            self.primary.psql(&name, sql).unwrap();
        }
        name
    }

    /// Makes a database with the tables of `pgbench -i`, a role that may read them, and one that may read but one.
    pub fn pgbench_database(&self) -> (String, String, String) {
        let name = self.database("");
        let url = self.primary.url("postgres", &name);
        let made = self.primary.command("pgbench").args(["-i", "-q", "-s", "1", &url]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let (reader, blind) = (format!("{name}_reader"), format!("{name}_blind"));
        let roles = format!(
            "CREATE ROLE {reader} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}; \
             CREATE ROLE {blind} LOGIN; GRANT SELECT ON pgbench_branches TO {blind}"
        );
        self.primary.psql(&name, &roles).unwrap();
        (name, reader, blind)
    }

    /// Waits until the replica has replayed all that the primary has.
    pub fn catch_up(&self) {
        let lsn = self.primary.psql("postgres", "SELECT pg_current_wal_flush_lsn()").unwrap();
        let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", lsn.trim());
        let caught_up = || self.replica.psql("postgres", &sql).unwrap().trim() == "t";
        assert!(wait_until(PATIENCE, caught_up), "the replica does not catch up");
    }
}

/// One route that needs no table.
pub const ONE: &str = "[[route]]\npath = \"/one\"\nsql = \"SELECT 1 AS one\"\nresult = \"row\"\n";
