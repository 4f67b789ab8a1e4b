//! User-space instructions per request, which the noise of a machine does not move.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::Outcome;
use crate::load::{self, Request};
use crate::servers::Site;

const FEW: usize = 2_000;
const MANY: usize = 6_000;
const CONNECTIONS: usize = 4;
/// What serves a connection, and all that it calls. What goes on beside that goes by the clock, which is another one under valgrind.
const COLLECTED: &str = "--toggle-collect=*actix_http::h1::dispatcher::Dispatcher*poll";

/// Counts a server's instructions over few and over many requests: the difference is free of starting and stopping.
/// `command` makes the server's command, given its site and what to run it under.
pub fn instructions_per_request(
    work: &Path,
    request: &Request,
    command: impl Fn(&Site, &[String]) -> Outcome<Command>,
) -> Outcome<f64> {
    let few = instructions(work, request, FEW, &command)?;
    let many = instructions(work, request, MANY, &command)?;
    Ok((many as f64 - few as f64) / (MANY - FEW) as f64)
}

fn instructions(
    work: &Path,
    request: &Request,
    count: usize,
    command: impl Fn(&Site, &[String]) -> Outcome<Command>,
) -> Outcome<u64> {
    let site = Site::new(work, "callgrind")?;
    let counts = site.folder.join("callgrind.out");
    let valgrind = ["valgrind", "--tool=callgrind", "--vgdb=no", COLLECTED].map(str::to_owned);
    let mut runner = valgrind.to_vec();
    runner.push(format!("--callgrind-out-file={}", counts.display()));
    let server = site.start(command(&site, &runner)?, Duration::from_secs(120))?;
    load::fixed_count(work, &server, request, count, CONNECTIONS)?;
    // The counts are written when the server ends.
    drop(server);
    let counts = fs::read_to_string(&counts).map_err(|error| format!("valgrind left no counts: {error}"))?;
    let total = counts.lines().find_map(|line| line.strip_prefix("totals: "));
    Ok(total.ok_or("valgrind left no total")?.trim().parse()?)
}
