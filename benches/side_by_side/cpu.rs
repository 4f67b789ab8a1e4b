//! The kernel's accounting: the CPU time a server's processes have used, and the facts of this machine.

use std::collections::HashMap;
use std::{fs, io, mem};

use crate::Outcome;

/// The CPU time used so far by each process of one server, in nanoseconds.
pub struct CpuTime(HashMap<i32, u64>);

impl CpuTime {
    /// Reads the accounting of `root` and of all its descendants.
    pub fn of_tree(root: i32) -> Outcome<Self> {
        let parents = parents()?;
        let descends = |mut pid: i32| {
            while pid != root {
                match parents.get(&pid) {
                    Some(parent) => pid = *parent,
                    None => return false,
                }
            }
            true
        };
        let mut used = HashMap::new();
        for pid in parents.keys().copied().filter(|pid| descends(*pid)) {
            // A helper process may end between the listing and the reading; it then counts for nothing.
            if let Ok(nanoseconds) = process_ns(pid) {
                used.insert(pid, nanoseconds);
            }
        }
        if used.contains_key(&root) { Ok(Self(used)) } else { Err(format!("process {root} is gone").into()) }
    }

    /// What the processes that live now have used since `earlier`.
    pub fn ns_since(&self, earlier: &Self) -> u64 {
        self.0.iter().map(|(pid, now)| now.saturating_sub(earlier.0.get(pid).copied().unwrap_or(0))).sum()
    }
}

/// The process's CPU clock: user and system time of all its threads, those that have ended too, as the scheduler
/// counts it (the sum of what `/proc/PID/task/*/schedstat` says, without losing short-lived threads).
fn process_ns(pid: i32) -> io::Result<u64> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: the pointer is to a live local of the right type.
    let code = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if code != 0 {
        return Err(io::Error::from_raw_os_error(code));
    }
    // SAFETY: all-zero is a valid timespec, and the pointer is to a live local of the right type.
    let time = unsafe {
        let mut time: libc::timespec = mem::zeroed();
        if libc::clock_gettime(clock, &raw mut time) != 0 {
            return Err(io::Error::last_os_error());
        }
        time
    };
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    Ok(seconds.unwrap_or(0) * 1_000_000_000 + nanoseconds.unwrap_or(0))
}

/// Every process with its parent.
fn parents() -> Outcome<HashMap<i32, i32>> {
    let mut parents = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // The name stands in parentheses and may hold anything; state and parent follow the last one.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        parents.extend(parent.map(|parent| (pid, parent)));
    }
    Ok(parents)
}

/// One line: kernel, CPU model, cores, and how busy the machine has been, since others' work disturbs what is measured.
pub fn machine() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("unknown CPU", |(_, name)| name.trim());
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!("Linux {} · {model} · {} cores · load before the run {load}", kernel.trim(), cores())
}

/// How many cores there are: every server gets as many workers.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
