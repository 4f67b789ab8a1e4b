//! A server that can be started, stopped, suspended and killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal};

use super::process::{Process, Recipe};
use super::{LocalError, POLL_INTERVAL, Result, files};

/// Long, for a machine that is busy with many tests; a healthy start takes a fraction of a second.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Whether the server with this process id accepts connections.
pub(super) type ReadyCheck = Box<dyn Fn(Pid) -> bool + Send + Sync>;

/// A server process: always in one of the states running, suspended or stopped, and stopped when dropped.
pub struct Server {
    name: &'static str,
    port: u16,
    log: PathBuf,
    recipe: Recipe,
    is_ready: ReadyCheck,
    process: Mutex<Option<Process>>,
}

impl Server {
    /// Starts a server and waits until it is ready.
    pub(super) fn launch(
        name: &'static str,
        port: u16,
        log: PathBuf,
        recipe: Recipe,
        is_ready: ReadyCheck,
    ) -> Result<Self> {
        let server = Self { name, port, log, recipe, is_ready, process: Mutex::new(None) };
        server.start()?;
        Ok(server)
    }

    /// The loopback port, the same across restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The file with all that the server has printed.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of the log.
    pub fn log_tail(&self) -> String {
        files::tail(&self.log, 0)
    }

    /// The server's process id, while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.with_running(|process| process.pid().as_raw_pid())
    }

    /// Whether the process exists, suspended or not.
    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Sends a signal to the server process alone, not to its children.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.signal_with(|process| process.signal(signal))
    }

    /// Freezes the server and its children: connections stay open and nothing answers, as on a machine that hangs.
    pub fn suspend(&self) -> Result<()> {
        self.signal_with(|process| process.signal_all(Signal::STOP))
    }

    /// Ends [`Server::suspend`].
    pub fn resume(&self) -> Result<()> {
        self.signal_with(|process| process.signal_all(Signal::CONT))
    }

    /// Kills the server and its children as a crash would, and waits for their end. [`Server::start`] brings it back.
    pub fn kill9(&self) {
        if let Some(mut process) = self.process.lock().take()
            && process.is_running()
        {
            process.signal_all(Signal::KILL);
        }
    }

    /// Stops the server in an orderly way and waits for its end. A server that does not listen is killed.
    pub fn stop(&self) {
        self.process.lock().take();
    }

    /// Starts the server on its port and waits until it is ready; does nothing when it runs.
    pub fn start(&self) -> Result<()> {
        let mut running = self.process.lock();
        if running.as_mut().is_some_and(Process::is_running) {
            return Ok(());
        }
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let log_bytes = fs::metadata(&self.log).map_or(0, |metadata| metadata.len());
            let mut process = Process::spawn(&self.recipe, &self.log)?;
            while process.is_running() && Instant::now() < deadline {
                if (self.is_ready)(process.pid()) {
                    // For whoever wants to signal it from a shell.
                    let pid_file = self.log.with_file_name("server.pid");
                    let pid = format!("{}\n", process.pid().as_raw_pid());
                    fs::write(&pid_file, pid).map_err(LocalError::io("write", &pid_file))?;
                    *running = Some(process);
                    return Ok(());
                }
                std::thread::sleep(POLL_INTERVAL);
            }
            drop(process);
            let tail = files::tail(&self.log, log_bytes);
            // Children of a server that was killed a moment ago may still be on their way out.
            if tail.contains("pre-existing shared memory block") && Instant::now() < deadline {
                std::thread::sleep(POLL_INTERVAL);
                continue;
            }
            if tail.contains("Address already in use") {
                return Err(LocalError::PortInUse { port: self.port });
            }
            return Err(LocalError::NotReady { name: self.name, log: self.log.clone(), tail });
        }
    }

    /// [`Server::stop`] and [`Server::start`].
    pub fn restart(&self) -> Result<()> {
        self.stop();
        self.start()
    }

    fn signal_with(&self, send: impl FnOnce(&Process)) -> Result<()> {
        self.with_running(send).ok_or(LocalError::NotRunning { name: self.name })
    }

    fn with_running<T>(&self, act: impl FnOnce(&Process) -> T) -> Option<T> {
        let mut process = self.process.lock();
        let process = process.as_mut()?;
        process.is_running().then(|| act(process))
    }
}
