//! Where the servers' programs are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};

use super::container::Container;
use super::{LocalError, Result, ServerUser};

/// The programs of one PostgreSQL installation.
#[derive(Clone, Debug)]
pub(super) struct PostgresPrograms {
    folder: PathBuf,
    /// Where they are in an image, and not on this machine.
    container: Option<&'static Container>,
}

impl PostgresPrograms {
    /// Finds an installation that has the server: the one `pg_config` names, Debian's newest, then `PATH`.
    pub fn find() -> Result<Self> {
        if let Some(container) = Container::wanted()? {
            return Ok(Self { folder: container.folder.clone(), container: Some(container) });
        }
        configured_folder()
            .into_iter()
            .chain(debian_folders())
            .chain(path_folders())
            .find(|folder| folder.join("postgres").is_file() && folder.join("initdb").is_file())
            .map(|folder| Self { folder, container: None })
            .ok_or(LocalError::PostgresMissing)
    }

    /// The path of one program, in its image where it comes out of one.
    pub fn path(&self, program: &str) -> PathBuf {
        self.folder.join(program)
    }

    /// How one program is run as that user: by whom, what, and with which arguments before its own.
    pub fn launch(&self, user: ServerUser, program: &str) -> (ServerUser, PathBuf, Vec<String>) {
        let path = self.path(program);
        let Some(container) = self.container else { return (user, path, Vec::new()) };
        let (program, args) = container.enter(&path);
        // It becomes the server's user once it is inside.
        (ServerUser::own(), program, args)
    }

    /// Runs a program to its end and returns what it printed.
    pub fn run<S: AsRef<str>>(
        &self,
        user: ServerUser,
        program: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String> {
        let (user, path, before) = self.launch(user, program);
        let mut command = user.command(&path);
        command.args(before);
        for argument in args {
            command.arg(argument.as_ref());
        }
        let Output { status, stdout, stderr } = command.output().map_err(LocalError::io("run", &path))?;
        let stdout = String::from_utf8_lossy(&stdout).into_owned();
        if ExitStatus::success(&status) {
            return Ok(stdout);
        }
        let output = format!("{stdout}{}", String::from_utf8_lossy(&stderr));
        Err(LocalError::CommandFailed { program: program.to_owned(), status, output })
    }

    /// The major version, as in the file `PG_VERSION` of a data directory.
    pub fn major_version(&self, user: ServerUser) -> Result<String> {
        // "postgres (PostgreSQL) 15.20 (Debian …)"; before a release "18beta1".
        let text = self.run(user, "postgres", ["--version"])?;
        let version = text.split_whitespace().nth(2).unwrap_or_default();
        Ok(version.chars().take_while(char::is_ascii_digit).collect())
    }
}

/// The path of `redis-server`, where it is installed.
pub(super) fn redis_server() -> Option<PathBuf> {
    in_path("redis-server")
}

/// The path of `nginx`, where it is installed.
pub(super) fn nginx() -> Option<PathBuf> {
    in_path("nginx")
}

/// The path of `rabbitmq-server` itself. What Debian has of this name in the path is a wrapper, which wants to be root.
pub(super) fn rabbitmq_server() -> Option<PathBuf> {
    let debian = PathBuf::from("/usr/lib/rabbitmq/bin/rabbitmq-server");
    if debian.is_file() { Some(debian) } else { in_path("rabbitmq-server") }
}

/// The path of a program, where it is installed.
pub(super) fn in_path(program: &str) -> Option<PathBuf> {
    path_folders().map(|folder| folder.join(program)).find(|path| path.is_file())
}

fn configured_folder() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok().filter(|output| output.status.success())?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

fn debian_folders() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/usr/lib/postgresql") else { return Vec::new() };
    let mut versions: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    versions.into_iter().rev().map(|(_, folder)| folder).collect()
}

/// The folders of `PATH`, with those of administrators, which an ordinary user's `PATH` on Debian lacks.
fn path_folders() -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.into_iter().chain(["/usr/bin", "/usr/sbin", "/usr/local/bin"].map(|folder| Path::new(folder).to_owned()))
}
