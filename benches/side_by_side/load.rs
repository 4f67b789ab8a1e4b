//! Driving load: a fixed number of the same request by h2load, or different ones for a fixed time by wrk.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

use crate::Outcome;
use crate::servers::{Server, tool};

/// One measured run.
#[derive(Clone, Copy, Serialize)]
pub struct Sample {
    pub requests: f64,
    pub requests_per_s: f64,
    /// Unknown for pgbench, which only tells a mean unless it logs every transaction.
    pub p99_us: Option<f64>,
    /// The server's, by the kernel's accounting; unknown where it has none of its own.
    pub cpu_us_per_request: Option<f64>,
}

/// What h2load asks for.
#[derive(Clone)]
pub struct Request {
    pub path: &'static str,
    pub header: Option<String>,
    /// Every single answer must have this status.
    pub status: u16,
}

/// Sends `count` keep-alive requests over `connections`, and measures the server meanwhile.
pub fn fixed_count(
    work: &Path,
    server: &Server,
    request: &Request,
    count: usize,
    connections: usize,
) -> Outcome<Sample> {
    let log = work.join("h2load.log");
    // h2load appends.
    if log.exists() {
        fs::remove_file(&log)?;
    }
    let mut command = tool("h2load");
    command.args(["--h1", "-t", "1", "-c", &connections.to_string(), "-n", &count.to_string()]);
    command.arg("--log-file").arg(&log);
    if let Some(header) = &request.header {
        command.arg("-H").arg(header);
    }
    command.arg(format!("{}{}", server.url, request.path));
    let before = server.cpu_time()?;
    run(command)?;
    let cpu_ns = server.cpu_time()?.ns_since(&before);
    let sample = read_log(&fs::read_to_string(&log)?, request.status)?;
    if sample.requests != count as f64 {
        return Err(format!("{} of {count} requests were answered", sample.requests).into());
    }
    Ok(Sample { cpu_us_per_request: Some(cpu_ns as f64 / 1000.0 / sample.requests), ..sample })
}

/// A line of the log: start in µs since the epoch, status, µs until the end of the response.
fn read_log(log: &str, status: u16) -> Outcome<Sample> {
    let mut durations = Vec::new();
    let (mut first, mut last) = (u64::MAX, 0);
    for line in log.lines() {
        let fields: Vec<i64> = line.split('\t').map(str::parse).collect::<Result<_, _>>()?;
        let [start, answered, duration, ..] = fields[..] else { return Err(format!("h2load logged {line}").into()) };
        if answered != i64::from(status) {
            return Err(format!("a request was answered with status {answered} instead of {status}").into());
        }
        let (start, duration) = (u64::try_from(start)?, u64::try_from(duration)?);
        first = first.min(start);
        last = last.max(start + duration);
        durations.push(duration);
    }
    durations.sort_unstable();
    let slow = durations.get(durations.len() * 99 / 100).copied().ok_or("h2load logged nothing")?;
    let requests = durations.len() as f64;
    let seconds = last.saturating_sub(first) as f64 / 1e6;
    Ok(Sample { requests, requests_per_s: requests / seconds, p99_us: Some(slow as f64), cpu_us_per_request: None })
}

/// Requests that differ by the number at their end, at random.
#[derive(Clone, Copy)]
pub struct Numbered {
    /// What the number follows.
    pub path: &'static str,
    /// The greatest number.
    pub max: u32,
}

/// Sends such requests for some time, and measures the server meanwhile.
pub fn fixed_time(server: &Server, numbered: Numbered, seconds: u32, connections: usize) -> Outcome<Sample> {
    let mut command = tool("wrk");
    command.args(["-t", "1", "-c", &connections.to_string(), "-d", &format!("{seconds}s"), "-s"]);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/side_by_side/numbered.lua"));
    command.arg(format!("{}{}", server.url, numbered.path)).arg("--").arg(numbered.max.to_string());
    let before = server.cpu_time()?;
    let output = run(command)?;
    let cpu_ns = server.cpu_time()?.ns_since(&before);
    let line = output.lines().find_map(|line| line.strip_prefix("result ")).ok_or("wrk printed no result")?;
    let fields: Vec<f64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let [requests, duration_us, errors, p99_us] = fields[..] else { return Err(format!("wrk printed {line}").into()) };
    if errors > 0.0 || requests == 0.0 {
        return Err(format!("{errors} of {requests} reads failed").into());
    }
    Ok(Sample {
        requests,
        requests_per_s: requests / (duration_us / 1e6),
        p99_us: Some(p99_us),
        cpu_us_per_request: Some(cpu_ns as f64 / 1000.0 / requests),
    })
}

/// Runs to the end and returns what was printed; an error says what was complained of.
pub fn run(mut command: Command) -> Outcome<String> {
    let program = command.get_program().display().to_string();
    let output = command.output().map_err(|error| format!("{program}: {error}; run scripts/install-deps bench"))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{program} ended with {}: {}", output.status, complaint.trim()).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
