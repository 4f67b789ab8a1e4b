//! Files and directories of servers.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{LocalError, Result, ServerUser};

/// A directory for a test, removed when this value is dropped and also when the process ends in any other way.
///
/// Drop it after the servers that live in it: declare it after them in a struct, before them in a function.
pub struct Scratch {
    path: PathBuf,
    /// A shell that waits for the end of its input, as the servers' watchers do, and then removes the directory. Tests
    /// keep clusters in statics, which are never dropped.
    remover: Child,
}

impl Scratch {
    /// Makes an empty directory below the system's directory for temporary files, with `name` in its name.
    pub fn new(name: &str) -> Result<Self> {
        /// Servers may still be writing while they are being stopped, hence the attempts.
        const REMOVER: &str = r#"
            read -r _
            attempts=200
            until rm -rf -- "$1" 2>/dev/null; do
                attempts=$((attempts - 1))
                [ "$attempts" -gt 0 ] || exit 1
                sleep 0.1
            done"#;
        let name = format!("mainstay-{name}-{:016x}", fastrand::u64(..));
        let path = ServerUser::detect()?.directory(&std::env::temp_dir().join(name))?;
        let shell = Path::new("/bin/sh");
        let remover = Command::new(shell)
            .args(["-c", REMOVER, "mainstay-scratch"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()
            .map_err(LocalError::io("run", shell))?;
        Ok(Self { path, remover })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A name inside the directory.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Waiting closes the remover's input first. Whatever it could not remove, nobody can help with here.
        let _ = self.remover.wait();
    }
}

/// Writes a file that only the server's user may read.
pub(super) fn write_private(user: ServerUser, path: &Path, contents: &str) -> Result<()> {
    fs::write(path, contents).map_err(LocalError::io("write", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(LocalError::io("change the mode of", path))?;
    user.give(path)
}

/// Removes a directory and all in it; one that does not exist is fine.
pub(super) fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(LocalError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The last lines of a log from a byte offset on; empty where it cannot be read, since it only ever explains an error.
pub(super) fn tail(log: &Path, from_bytes: u64) -> String {
    const LINES_MAX: usize = 25;
    let read = || -> std::io::Result<String> {
        let mut file = fs::File::open(log)?;
        file.seek(SeekFrom::Start(from_bytes))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let skipped = lines.len().saturating_sub(LINES_MAX);
    lines.get(skipped..).unwrap_or_default().join("\n")
}
