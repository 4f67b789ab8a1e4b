//! Starting and stopping the servers that are compared, each with the configuration it is best measured with.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::rc::Rc;
use std::time::{Duration, Instant};
use std::{env, io, thread};

use mainstay::local::free_port;

use crate::Outcome;
use crate::cpu::{CpuTime, cores};
use crate::fetch::Answer;
use crate::load::run;

/// The route that is answered from caches, by Mainstay and by all others.
pub const HIT: &str = "/public/blob";

/// The manifest of every Mainstay.
const ROUTES: &str = include_str!("routes.toml");
/// The configuration of the built-in API.
const BUILT_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config");
/// The token of operators.
const ADMIN_TOKEN: &str = "bench";

/// A running server; stopped when dropped, and by the kernel if this process dies.
pub struct Server {
    child: Child,
    pub url: String,
    /// The admin side, where it has one.
    pub admin_url: String,
    log: PathBuf,
}

/// Where a server lives before it is started: a folder of its own and free ports.
pub struct Site {
    pub folder: PathBuf,
    pub port: u16,
    admin_port: u16,
}

impl Site {
    /// Claims the folder `name` of the bench's work folder, emptied.
    pub fn new(work: &Path, name: &str) -> Outcome<Self> {
        let folder = work.join(name);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => fs::create_dir_all(&folder)?,
        }
        Ok(Self { folder, port: free_port()?, admin_port: free_port()? })
    }

    fn write(&self, name: &str, content: &str) -> Outcome<PathBuf> {
        let path = self.folder.join(name);
        fs::write(&path, content)?;
        Ok(path)
    }

    /// Starts the command.
    pub fn spawn(&self, mut command: Command) -> Outcome<Server> {
        let log = self.folder.join("log");
        let output = File::create(&log)?;
        command.stdout(output.try_clone()?).stderr(output);
        let program = command.get_program().display().to_string();
        let child = command.spawn().map_err(|error| format!("{program}: {error}; run scripts/install-deps bench"))?;
        let [url, admin_url] = [self.port, self.admin_port].map(|port| format!("http://127.0.0.1:{port}"));
        Ok(Server { child, url, admin_url, log })
    }

    /// Starts the command and waits until it answers the route of the hits.
    pub fn start(&self, command: Command, patience: Duration) -> Outcome<Server> {
        let program = command.get_program().display().to_string();
        let mut server = self.spawn(command)?;
        let begun = Instant::now();
        loop {
            if let Some(status) = server.child.try_wait()? {
                return Err(format!("{program} ended with {status}: {}", server.last_words()).into());
            }
            match Answer::get(&format!("{}{HIT}", server.url), &[]) {
                Ok(answer) if answer.status == 200 => return Ok(server),
                Ok(answer) if begun.elapsed() > patience => {
                    let words = server.last_words();
                    return Err(format!("{program} answers {} {}: {words}", answer.status, answer.body).into());
                }
                Err(error) if begun.elapsed() > patience => return Err(error),
                _ => thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

impl Server {
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// What an operator asks of it, or orders: `POST` where there is a body.
    pub fn operate(&self, path: &str, body: Option<&str>) -> Outcome<serde_json::Value> {
        let url = format!("{}{path}", self.admin_url);
        let headers = [("authorization", &*format!("Bearer {ADMIN_TOKEN}"))];
        let answer = match body {
            Some(body) => Answer::post(&url, &headers, body)?,
            None => Answer::get(&url, &headers)?,
        };
        match answer.status {
            200 => Ok(serde_json::from_str(&answer.body)?),
            other => Err(format!("{path} is answered {other}: {}", answer.body).into()),
        }
    }

    /// The memory that it takes up, in bytes.
    pub fn resident_bytes(&self) -> Outcome<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024.0)
    }

    pub fn cpu_time(&self) -> Outcome<CpuTime> {
        CpuTime::of_tree(self.pid())
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.iter().rev().take(5).rev().copied().collect::<Vec<_>>().join(" | ")
    }

    /// Asks the server to end, insists after a while, and returns once it has.
    fn end(&mut self) -> io::Result<()> {
        if self.child.try_wait()?.is_none() {
            // SAFETY: the child has not been waited for to its end, so its id is still its own.
            unsafe { libc::kill(self.pid(), libc::SIGTERM) };
        }
        let begun = Instant::now();
        while self.child.try_wait()?.is_none() {
            if begun.elapsed() > Duration::from_secs(40) {
                self.child.kill()?;
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("process {} could not be stopped: {error}", self.child.id());
        }
    }
}

/// The kernel sends SIGTERM to the child when we die, however that comes about.
fn die_with_us(command: &mut Command) {
    // SAFETY: prctl is async-signal-safe, and nothing else runs between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

/// A command that ends when we do, and also finds what Debian puts in `/usr/sbin`, which is not on a user's path.
pub fn tool(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    command.env("PATH", path);
    die_with_us(&mut command);
    command
}

/// How `mainstay` is run: the binary, its manifest, and what stands in its environment.
#[derive(Clone)]
pub struct Mainstay {
    binary: PathBuf,
    routes: &'static str,
    /// A folder with a manifest of its own, in place of `routes`.
    config: Option<&'static Path>,
    environment: Vec<(&'static str, String)>,
}

impl Mainstay {
    /// On a database, with settings that nobody has touched.
    pub fn new(binary: &Path, database_url: &str) -> Self {
        let environment = [("DATABASE_URL", database_url), ("REGION", "bench"), ("ADMIN_TOKEN", ADMIN_TOKEN)];
        let environment = environment.map(|(name, value)| (name, value.to_owned())).into();
        Self { binary: binary.to_owned(), routes: ROUTES, config: None, environment }
    }

    /// With another manifest.
    pub fn with_routes(self, routes: &'static str) -> Self {
        Self { routes, ..self }
    }

    /// With the configuration of the built-in API.
    pub fn with_built_in(self) -> Self {
        Self { config: Some(Path::new(BUILT_IN)), ..self }
    }

    /// With one more setting.
    pub fn with(&self, name: &'static str, value: impl ToString) -> Self {
        let mut other = self.clone();
        other.environment.push((name, value.to_string()));
        other
    }

    /// The command that serves, preceded by `runner` (for instance valgrind and its options).
    pub fn command(&self, site: &Site, runner: &[String]) -> Outcome<Command> {
        let mut command = self.subcommand("serve", site, runner)?;
        command.env("BIND_ADDR", format!("127.0.0.1:{}", site.port));
        command.env("ADMIN_ADDR", format!("127.0.0.1:{}", site.admin_port));
        Ok(command)
    }

    /// Starts one, and waits until it answers.
    pub fn start(&self, work: &Path, name: &str) -> Outcome<Server> {
        let site = Site::new(work, name)?;
        site.start(self.command(&site, &[])?, Duration::from_secs(30))
    }

    /// Brings the database up to what the routes need.
    pub fn migrate(&self, work: &Path) -> Outcome<()> {
        run(self.subcommand("migrate", &Site::new(work, "migrate")?, &[])?).map(drop)
    }

    fn subcommand(&self, name: &str, site: &Site, runner: &[String]) -> Outcome<Command> {
        site.write("routes.toml", self.routes)?;
        let mut command = under(runner, &self.binary);
        // Settings in the caller's shell must not change what is measured.
        for (name, _) in env::vars_os() {
            let ours = name.to_string_lossy();
            if ours.starts_with("MAINSTAY") || ours.ends_with("_URL") || ours.ends_with("_FILE") {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.arg(name).arg("--config").arg(self.config.unwrap_or(&site.folder));
        Ok(command)
    }
}

/// The command of the bare server: this very program in another role.
pub fn bare_command(site: &Site, answer: &Answer, runner: &[String]) -> Outcome<Command> {
    let file = site.write("answer.json", &serde_json::to_string(answer)?)?;
    let mut command = under(runner, &env::current_exe()?);
    command.arg("bare-actix").arg(site.port.to_string()).arg(file);
    Ok(command)
}

fn under(runner: &[String], binary: &Path) -> Command {
    match runner.split_first() {
        Some((program, arguments)) => {
            let mut command = tool(program);
            command.args(arguments).arg(binary);
            command
        }
        None => tool(binary),
    }
}

/// A cache from Debian's packages.
pub struct Peer {
    pub name: &'static str,
    /// The command that starts it before an origin.
    command: fn(&Site, u16) -> Outcome<Command>,
    /// Whether it writes `Age` itself; nginx passes on its origin's, and HAProxy stores nothing that has one.
    writes_age: bool,
}

pub const NGINX: Peer = Peer { name: "nginx", command: nginx, writes_age: false };
pub const VARNISH: Peer = Peer { name: "varnish", command: varnish, writes_age: true };
pub const HAPROXY: Peer = Peer { name: "haproxy", command: haproxy, writes_age: true };

/// Starts a peer, fills its cache, then stops its origin: from then on every 200 can only come out of the cache.
pub fn start_cache(work: &Path, peer: &Peer, original: &Answer) -> Outcome<Rc<Server>> {
    let patience = Duration::from_secs(15);
    let answer = if peer.writes_age { original.to_new() } else { original.clone() };
    let origin_site = Site::new(work, &format!("{}-origin", peer.name))?;
    let origin = origin_site.start(bare_command(&origin_site, &answer, &[])?, patience)?;
    let site = Site::new(work, peer.name)?;
    let server = site.start((peer.command)(&site, origin_site.port)?, patience)?;
    drop(origin);
    Answer::get(&format!("{}{HIT}", server.url), &[])?
        .must_repeat(original)
        .map_err(|error| format!("{error} once its origin is gone"))?;
    Ok(Rc::new(server))
}

/// For small bodies nginx is fastest without sendfile, and with a queue of its own for each worker.
fn nginx(site: &Site, origin_port: u16) -> Outcome<Command> {
    let (port, workers) = (site.port, cores());
    let configuration = site.write(
        "nginx.conf",
        &format!(
            "daemon off; user root; worker_processes {workers}; pid nginx.pid; error_log stderr;
            events {{ worker_connections 1024; }}
            http {{
                access_log off; sendfile off; keepalive_requests 1000000000; keepalive_timeout 1h;
                client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
                uwsgi_temp_path uwsgi; scgi_temp_path scgi;
                proxy_cache_path cache keys_zone=bench:1m inactive=1h;
                server {{
                    listen 127.0.0.1:{port} reuseport;
                    location / {{ proxy_pass http://127.0.0.1:{origin_port}; proxy_cache bench; }}
                }}
            }}"
        ),
    )?;
    let mut command = tool("nginx");
    command.arg("-p").arg(&site.folder).arg("-e").arg("stderr").arg("-c").arg(configuration);
    Ok(command)
}

fn varnish(site: &Site, origin_port: u16) -> Outcome<Command> {
    let mut command = tool("varnishd");
    command.args(["-F", "-j", "none", "-s", "malloc,64m"]);
    command.arg("-n").arg(site.folder.join("varnish"));
    command.arg("-a").arg(format!("127.0.0.1:{}", site.port)).arg("-b").arg(format!("127.0.0.1:{origin_port}"));
    Ok(command)
}

fn haproxy(site: &Site, origin_port: u16) -> Outcome<Command> {
    let (port, threads) = (site.port, cores());
    let configuration = site.write(
        "haproxy.cfg",
        &format!(
            "global
    nbthread {threads}
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 5s
cache bench
    total-max-size 16
    max-age 3600
    process-vary on
frontend entry
    bind 127.0.0.1:{port}
    http-request cache-use bench
    http-response cache-store bench
    default_backend origin
backend origin
    server origin 127.0.0.1:{origin_port}
"
        ),
    )?;
    let mut command = tool("haproxy");
    command.arg("-db").arg("-f").arg(configuration);
    Ok(command)
}
