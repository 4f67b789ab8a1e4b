//! One server process under its watcher.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::{LocalError, Result, ServerUser};

/// What the watcher runs, and how it ends it.
pub(super) struct Recipe {
    pub user: ServerUser,
    pub program: PathBuf,
    pub args: Vec<String>,
    /// Its environment, beside a path and a neutral locale.
    pub env: Vec<(String, String)>,
    /// The signals that end the server, the kindest first, as the shell names them. SIGKILL follows by itself.
    pub stop_signals: &'static str,
}

/// A running server. Dropping it stops the server and waits for its end.
pub(super) struct Process {
    watcher: Child,
    pid: Pid,
}

impl Process {
    /// Starts a server. Its output is appended to `log`.
    pub fn spawn(recipe: &Recipe, log: &Path) -> Result<Self> {
        let log_file = File::options().create(true).append(true).open(log).map_err(LocalError::io("open", log))?;
        let shell = Path::new("/bin/sh");
        let mut command: Command = recipe.user.command(shell);
        command
            .args(["-c", include_str!("watcher.sh"), "mainstay-watcher", recipe.stop_signals])
            .arg(&recipe.program)
            .args(&recipe.args)
            .envs(recipe.env.iter().map(|(name, value)| (name, value)))
            // The writing end is closed on exec, so no other child of ours can keep the watcher waiting.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log_file)
            // A terminal's Ctrl-C reaches its foreground group only: the servers outlive it for an orderly stop.
            .process_group(0);
        let mut watcher = command.spawn().map_err(LocalError::io("run", shell))?;
        let mut line = String::new();
        if let Some(stdout) = watcher.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).map_err(LocalError::io("run", &recipe.program))?;
        }
        let Some(pid) = line.trim().parse().ok().and_then(Pid::from_raw) else {
            let reason = std::io::Error::other("its watcher ended at once");
            return Err(LocalError::io("run", &recipe.program)(reason));
        };
        Ok(Self { watcher, pid })
    }

    /// The server's own process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether the server runs. Its watcher ends when it does.
    pub fn is_running(&mut self) -> bool {
        matches!(self.watcher.try_wait(), Ok(None))
    }

    /// Sends a signal to the server process alone.
    pub fn signal(&self, signal: Signal) {
        // It fails only when the process has just ended, which is no news to anyone who signals a server.
        let _ = kill_process(self.pid, signal);
    }

    /// Sends a signal to the server and to its children, none of which can be born meanwhile.
    pub fn signal_all(&self, signal: Signal) {
        self.signal(Signal::STOP);
        for child in children(self.pid) {
            let _ = kill_process(child, signal);
        }
        self.signal(signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Waiting on a child closes its input first, which is the order to stop.
        let _ = self.watcher.wait();
    }
}

/// The direct children of a process. Where the kernel does not tell, none: Postgres' children end with their parent.
fn children(pid: Pid) -> Vec<Pid> {
    let pid = pid.as_raw_pid();
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|word| word.parse().ok().and_then(Pid::from_raw)).collect()
}
