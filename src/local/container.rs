//! Postgres out of a container image, for tests on a machine that has none of its own: `MAINSTAY_TEST_POSTGRES=container`.
//!
//! One container holds the image's files for as long as this process lives. The programs are not started by the engine, but by
//! `nsenter` in the container's view of the file system: so a server has its own process id, and can be signalled, suspended and
//! killed as one that is installed here, which is what the tests are about. The network and the folders for data are this machine's.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use super::{LocalError, Result, ServerUser};

/// The image; the one of `infra/compose.yaml`.
const IMAGE: &str = "docker.io/library/postgres:15.20-bookworm";

/// Where data may be: temporary folders, and where those go that a server's user cannot reach.
const FOLDERS: [&str; 2] = ["/tmp", "/var/tmp"];

/// What any process has anyway. Engines raise these by themselves, which they may not where they run in a container, and the servers
/// are started from outside.
const LIMITS: [&str; 2] = ["nofile=1024:1024", "nproc=1000:1000"];

/// Tells the process id and the account of the servers, and then lives until the end of its input.
const HOLD: &str = "echo $$ $(id -u postgres) $(id -g postgres) $(dirname $(command -v postgres)); exec cat";

/// A container whose programs can be run.
#[derive(Debug)]
pub(super) struct Container {
    /// Ends when its input is closed, at the latest when this process does.
    _holder: Child,
    pid: String,
    uid: u32,
    gid: u32,
    /// Where the programs are, inside.
    pub folder: PathBuf,
}

impl Container {
    /// The container of this process, where one is asked for.
    ///
    /// # Errors
    /// [`LocalError::ContainerUnusable`] where it is, and cannot be had.
    pub fn wanted() -> Result<Option<&'static Self>> {
        static SHARED: LazyLock<std::result::Result<Container, String>> = LazyLock::new(Container::start);
        let unusable = |reason: &str| LocalError::ContainerUnusable { reason: reason.to_owned() };
        match std::env::var("MAINSTAY_TEST_POSTGRES").as_deref() {
            Err(_) | Ok("" | "local") => Ok(None),
            Ok("container") => SHARED.as_ref().map(Some).map_err(|reason| unusable(reason)),
            Ok(_) => Err(unusable("it is `local` or `container`")),
        }
    }

    fn start() -> std::result::Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root may enter a container".to_owned());
        }
        let engine = std::env::var("CONTAINER_ENGINE").unwrap_or_else(|_| "podman".to_owned());
        let mut command = Command::new(&engine);
        command.args(["run", "--rm", "--interactive", "--network=host", "--pid=host", "--entrypoint=sh"]);
        command.args(LIMITS.map(|limit| format!("--ulimit={limit}")));
        command.args(FOLDERS.map(|folder| format!("--volume={folder}:{folder}"))).args([IMAGE, "-c", HOLD]);
        let mut holder = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{engine} cannot be run ({error}); CONTAINER_ENGINE names another"))?;
        let mut line = String::new();
        if let Some(stdout) = holder.stdout.take() {
            let _ended = BufReader::new(stdout).read_line(&mut line);
        }
        let said = || {
            format!("{engine} does not run {IMAGE}: is the image there? `infra/scripts/stand-ins postgres` builds one")
        };
        let mut words = line.split_whitespace();
        let mut word = || words.next().ok_or_else(said);
        let (pid, uid, gid, folder) = (word()?, word()?, word()?, word()?);
        let number = |word: &str| word.parse().map_err(|_| said());
        Ok(Self {
            pid: pid.to_owned(),
            uid: number(uid)?,
            gid: number(gid)?,
            folder: PathBuf::from(folder),
            _holder: holder,
        })
    }

    /// The user that servers run as, inside and outside.
    pub fn user(&self) -> ServerUser {
        ServerUser::with(self.uid, self.gid)
    }

    /// The program, and the arguments before its own, that run one of the image's programs.
    pub fn enter(&self, program: &Path) -> (PathBuf, Vec<String>) {
        let (uid, gid) = (self.uid, self.gid);
        let mut args = vec![format!("--target={}", self.pid), "--mount".to_owned()];
        args.extend([format!("--setgid={gid}"), format!("--setuid={uid}"), "--".to_owned()]);
        args.push(program.display().to_string());
        (PathBuf::from("nsenter"), args)
    }
}
