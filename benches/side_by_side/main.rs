//! `make bench`: Mainstay beside a bare Actix handler, nginx, Varnish and HAProxy for cached answers, beside pgbench for reads
//! that are not cached and for transfers, redis-benchmark for those from the shared cache, and what purges and three instances at once come to;
//! one command, one run, this machine.
//!
//! Contestants take turns in every round and start each round in another order, so that a machine that slows down
//! slows all of them down. Speed is no test: the run fails only if something could not be measured.

#![allow(
    unsafe_code,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for the terminal; the kernel's accounting has no safe interface, and counts become floats only \
              to be divided and printed"
)]

mod bare;
mod callers;
mod callgrind;
mod client;
mod cpu;
mod database;
mod failover;
mod fetch;
mod fleet;
mod forward;
mod hits;
mod load;
mod overload;
mod purge;
mod reads;
mod report;
mod servers;
mod transfers;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand, ValueEnum};

use database::Database;
use fetch::Answer;
use report::Report;
use servers::{HIT, Mainstay, Server};

/// The bare server is to have the allocator that Mainstay has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Mainstay beside its peers on this machine
#[derive(Parser)]
struct Arguments {
    /// Rounds; every contestant is measured once a round
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Measure this alone, beside Mainstay (may be given several times)
    #[arg(long, value_name = "NAME")]
    only: Vec<Part>,
    /// Connections that carry the cached answers
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Shorter rounds: a look, not a measurement
    #[arg(long)]
    quick: bool,
    /// A `mainstay` binary to measure instead of the one just built
    #[arg(long, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_mainstay"))]
    mainstay: PathBuf,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// Be the bare server
    #[command(hide = true)]
    BareActix { port: u16, answer: PathBuf },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    BareActix,
    #[value(name = "mainstay-304")]
    Mainstay304,
    MainstayUnaudited,
    Auth,
    Nginx,
    Varnish,
    Haproxy,
    Callgrind,
    Misses,
    L2,
    Fleet,
    Purge,
    Overload,
    Failover,
    Forward,
    Transfers,
}

impl Arguments {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// How long one contestant's turn should last.
    fn turn(&self) -> Duration {
        if self.quick { Duration::from_millis(500) } else { Duration::from_millis(2500) }
    }

    /// The same for load generators that know whole seconds.
    fn turn_s(&self) -> u32 {
        self.turn().as_secs().max(1) as u32
    }
}

fn main() -> ExitCode {
    if std::env::var_os(forward::ROLE).is_some() {
        return forward::serve();
    }
    let arguments = Arguments::parse();
    let outcome = match &arguments.role {
        Some(Role::BareActix { port, answer }) => bare::serve(*port, answer).map(|()| ExitCode::SUCCESS),
        None => measure(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}

fn measure(arguments: &Arguments) -> Outcome<ExitCode> {
    let work = Path::new(env!("CARGO_TARGET_TMPDIR")).join("side_by_side");
    fs::create_dir_all(&work)?;
    let mut report = Report { machine: cpu::machine(), versions: versions(), ..Report::default() };

    progress("starting Postgres with the tables of pgbench");
    let database = Database::start()?;

    progress("starting Mainstay");
    let mainstay = Mainstay::new(&arguments.mainstay, &database.url);
    mainstay.migrate(&work)?;
    let server = Rc::new(mainstay.start(&work, "mainstay")?);
    let hit = learn_hit(&server)?;

    hits::measure(arguments, &work, &mainstay, (&server, &database.url), &hit, &mut report);
    hits::instructions(arguments, &work, &mainstay, &hit, &mut report);
    report.misses =
        measure_part(arguments, Part::Misses, &mut report, || reads::of_database(arguments, &server, &database));
    drop(server);
    report.shared_hits =
        measure_part(arguments, Part::L2, &mut report, || reads::of_redis(arguments, &work, &mainstay));
    let fleet =
        measure_part(arguments, Part::Fleet, &mut report, || fleet::measure(arguments, &work, &mainstay, &database));
    let purge = measure_part(arguments, Part::Purge, &mut report, || purge::measure(arguments, &work, &mainstay));
    let failover =
        measure_part(arguments, Part::Failover, &mut report, || failover::measure(arguments, &work, &mainstay));
    let forward = measure_part(arguments, Part::Forward, &mut report, || forward::measure(arguments, &work, &database));
    report.facts = [fleet, purge, failover, forward].concat();
    report.overload =
        measure_part(arguments, Part::Overload, &mut report, || overload::measure(arguments, &work, &mainstay));

    report.transfers = measure_part(arguments, Part::Transfers, &mut report, || {
        transfers::measure(arguments, &work, &arguments.mainstay)
    });

    report.judge();
    let json = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench").join("side_by_side.json");
    fs::create_dir_all(json.parent().ok_or("no folder for the results")?)?;
    fs::write(&json, serde_json::to_string_pretty(&report)?)?;
    println!("{}", report.to_text());
    Ok(if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Measures a part that is wanted; one that fails is reported, and the others go on.
fn measure_part<T>(
    arguments: &Arguments,
    part: Part,
    report: &mut Report,
    measure: impl FnOnce() -> Outcome<Vec<T>>,
) -> Vec<T> {
    if !arguments.wants(part) {
        return Vec::new();
    }
    measure().unwrap_or_else(|error| {
        let name = part.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        report.failures.push(format!("{name}: {error}"));
        Vec::new()
    })
}

/// Mainstay's answer out of L1, which all others then repeat. What it filled before it knew the database's clock is not one.
fn learn_hit(server: &Server) -> Outcome<Answer> {
    let begun = Instant::now();
    loop {
        let answer = Answer::get(&format!("{}{HIT}", server.url), &[])?;
        let status = answer.header("cache-status").unwrap_or_default();
        if status.contains("; hit; ttl=") {
            return Ok(answer);
        }
        if begun.elapsed() > Duration::from_secs(10) {
            return Err(format!("Mainstay does not serve {HIT} from its cache: Cache-Status {status:?}").into());
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The first line of what each program says of its version.
fn versions() -> Vec<String> {
    let programs = [
        ("nginx", "-v"),
        ("varnishd", "-V"),
        ("haproxy", "-v"),
        ("pgbench", "--version"),
        ("h2load", "--version"),
        ("redis-server", "--version"),
        ("wrk", "-v"),
        ("valgrind", "--version"),
    ];
    let version = |(program, flag)| {
        let Ok(output) = servers::tool(program).arg(flag).output() else { return format!("{program} missing") };
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).lines().next().unwrap_or(program).to_owned()
    };
    programs.map(version).into()
}

fn progress(what: &str) {
    eprintln!("{what}");
}
