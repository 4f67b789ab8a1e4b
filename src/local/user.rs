//! The user that servers run as.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::container::Container;
use super::{LocalError, Result};

/// The user that servers run as: this process's own, or, for root, one that Postgres accepts.
#[derive(Clone, Copy, Debug)]
pub struct ServerUser {
    /// Whom to become. None: servers run as this process does.
    account: Option<Account>,
}

#[derive(Clone, Copy, Debug)]
struct Account {
    uid: u32,
    gid: u32,
}

impl ServerUser {
    /// This process's user; as root `postgres`, which the Debian package makes, else `nobody`. Where Postgres comes out of a
    /// container it is the one of the image, for all servers: what they share may belong to one alone.
    pub fn detect() -> Result<Self> {
        if let Some(container) = Container::wanted()? {
            return Ok(container.user());
        }
        if !rustix::process::geteuid().is_root() {
            return Ok(Self { account: None });
        }
        let passwd = Path::new("/etc/passwd");
        let table = fs::read_to_string(passwd).map_err(LocalError::io("read", passwd))?;
        let account = ["postgres", "nobody"].iter().find_map(|name| Account::find(&table, name));
        account.map(|account| Self { account: Some(account) }).ok_or(LocalError::NoServerUser)
    }

    /// A user that only a container's `/etc/passwd` may know.
    pub(super) fn with(uid: u32, gid: u32) -> Self {
        Self { account: Some(Account { uid, gid }) }
    }

    /// This process's user, whoever that is: for programs of our own.
    pub(super) fn own() -> Self {
        Self { account: None }
    }

    /// A command that will run as this user, with a neutral environment: `PG*` variables or a locale of whoever started us
    /// would change what the servers do, and the current directory may be closed to this user.
    pub(super) fn command(self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.env_clear().env("LC_ALL", "C").env("HOME", "/").current_dir("/");
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        if let Some(Account { uid, gid }) = self.account {
            // Clears the supplementary groups, too.
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Gives a file or directory to this user.
    pub(super) fn give(self, path: &Path) -> Result<()> {
        match self.account {
            Some(Account { uid, gid }) => {
                chown(path, Some(uid), Some(gid)).map_err(LocalError::io("change the owner of", path))
            }
            None => Ok(()),
        }
    }

    /// Makes a private directory for this user at `wanted`, and says where it is.
    ///
    /// Below a directory that is closed to this user, such as root's home, that is another place, always the same one for
    /// the same `wanted`. Several servers share one such place when this is called once for the directory that holds them.
    pub fn directory(self, wanted: &Path) -> Result<PathBuf> {
        let wanted = std::path::absolute(wanted).map_err(LocalError::io("locate", wanted))?;
        fs::create_dir_all(&wanted).map_err(LocalError::io("create", &wanted))?;
        self.claim(&wanted)?;
        if self.can_enter(&wanted)? {
            return Ok(wanted);
        }
        let mut hasher = DefaultHasher::new();
        wanted.hash(&mut hasher);
        let fallback = PathBuf::from(format!("/var/tmp/mainstay-{:016x}", hasher.finish()));
        if let Err(error) = fs::create_dir(&fallback)
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(LocalError::io("create", &fallback)(error));
        }
        self.claim(&fallback)?;
        Ok(fallback)
    }

    /// Makes a directory private to this user, unless it is somebody else's: anyone may create names in `/var/tmp`.
    fn claim(self, directory: &Path) -> Result<()> {
        let unusable = |reason| LocalError::DirectoryUnusable { path: directory.to_owned(), reason };
        let metadata = fs::symlink_metadata(directory).map_err(LocalError::io("inspect", directory))?;
        let ours = rustix::process::geteuid().as_raw();
        let servers = self.account.map_or(ours, |account| account.uid);
        if !metadata.is_dir() {
            return Err(unusable("it is not a directory"));
        }
        if metadata.uid() != ours && metadata.uid() != servers {
            return Err(unusable("it belongs to another user"));
        }
        self.give(directory)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
            .map_err(LocalError::io("change the mode of", directory))
    }

    /// Whether this user can reach the directory. Asking the kernel is simpler than to judge every ancestor's mode.
    fn can_enter(self, directory: &Path) -> Result<bool> {
        let shell = Path::new("/bin/sh");
        let status = self
            .command(shell)
            .args(["-c", "cd \"$1\" 2>/dev/null", "sh"])
            .arg(directory)
            .status()
            .map_err(LocalError::io("run", shell))?;
        Ok(status.success())
    }
}

impl Account {
    /// Looks a user up in the text of `/etc/passwd`: `name:password:uid:gid:…`.
    fn find(table: &str, name: &str) -> Option<Self> {
        table.lines().find_map(|line| {
            let mut fields = line.split(':');
            if fields.next() != Some(name) {
                return None;
            }
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(Self { uid, gid })
        })
    }
}
