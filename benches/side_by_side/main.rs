//! `make bench`: Mainstay beside a bare Actix handler, nginx, Varnish and HAProxy for cached answers, and beside
//! pgbench for reads that are not cached; one command, one run, this machine.
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
mod callgrind;
mod cpu;
mod database;
mod fetch;
mod load;
mod report;
mod servers;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use database::Database;
use fetch::Answer;
use load::{Request, Sample};
use report::{Report, Series};
use servers::{HIT, Mainstay, Server, Site, bare_command};

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
    Nginx,
    Varnish,
    Haproxy,
    Callgrind,
    Misses,
}

impl Arguments {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// How long one contestant's turn should last.
    fn turn(&self) -> Duration {
        if self.quick { Duration::from_millis(500) } else { Duration::from_millis(2500) }
    }
}

fn main() -> ExitCode {
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
    let mainstay = Mainstay { binary: arguments.mainstay.clone(), database_url: database.url.clone() };
    let site = Site::new(&work, "mainstay")?;
    let server = Rc::new(site.start(mainstay.command(&site, &[])?, Duration::from_secs(30))?);
    let hit = learn_hit(&server)?;

    hits(arguments, &work, &server, &hit, &mut report);
    instructions(arguments, &work, &mainstay, &hit, &mut report);
    misses(arguments, &server, &database, &mut report);

    report.judge();
    let json = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench").join("side_by_side.json");
    fs::create_dir_all(json.parent().ok_or("no folder for the results")?)?;
    fs::write(&json, serde_json::to_string_pretty(&report)?)?;
    println!("{}", report.to_text());
    Ok(if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Mainstay's answer out of L1, which all others then repeat.
fn learn_hit(server: &Server) -> Outcome<Answer> {
    let hit = Answer::get(&format!("{}{HIT}", server.url), &[])?;
    match hit.header("cache-status") {
        Some(status) if status.contains("; hit") => Ok(hit),
        other => Err(format!("Mainstay does not serve {HIT} from its cache: Cache-Status {other:?}").into()),
    }
}

struct Contestant {
    name: &'static str,
    server: Rc<Server>,
    request: Request,
    /// Requests in a turn; learnt in the warm-up.
    count: usize,
    samples: Vec<Sample>,
}

/// The rounds of cached answers. A contestant that fails is reported and left out from there on.
fn hits(arguments: &Arguments, work: &Path, mainstay: &Rc<Server>, hit: &Answer, report: &mut Report) {
    const WARM_UP: usize = 20_000;
    if !arguments.only.is_empty() && arguments.only.iter().all(|part| matches!(part, Part::Callgrind | Part::Misses)) {
        return;
    }
    let mut contestants: Vec<Contestant> = Vec::new();
    let mut enter = |name, server: Outcome<Rc<Server>>, request: &Request| match server {
        Ok(server) => {
            contestants.push(Contestant { name, server, request: request.clone(), count: WARM_UP, samples: Vec::new() })
        }
        Err(error) => report.failures.push(format!("{name}: {error}")),
    };
    let ok = Request { path: HIT, header: None, status: 200 };
    if arguments.wants(Part::BareActix) {
        enter("bare-actix", start_bare(work, hit), &ok);
    }
    enter("mainstay", Ok(mainstay.clone()), &ok);
    if arguments.wants(Part::Mainstay304) {
        match not_modified(mainstay, hit) {
            Ok(request) => enter("mainstay-304", Ok(mainstay.clone()), &request),
            Err(error) => enter("mainstay-304", Err(error), &ok),
        }
    }
    let peers = [(Part::Nginx, servers::NGINX), (Part::Varnish, servers::VARNISH), (Part::Haproxy, servers::HAPROXY)];
    for (_, peer) in peers.iter().filter(|(part, _)| arguments.wants(*part)) {
        progress(&format!("starting {}", peer.name));
        enter(peer.name, servers::start_cache(work, peer, &hit.to_copy()), &ok);
    }
    rounds(arguments, work, contestants, report);
}

fn rounds(arguments: &Arguments, work: &Path, mut contestants: Vec<Contestant>, report: &mut Report) {
    let mut turn = |contestant: &mut Contestant| {
        let Contestant { name, server, request, count, .. } = contestant;
        load::fixed_count(work, server, request, *count, arguments.connections)
            .map_err(|error| report.failures.push(format!("{name}: {error}")))
            .ok()
    };
    contestants.retain_mut(|contestant| {
        progress(&format!("warming up {}", contestant.name));
        let sample = turn(contestant);
        if let Some(sample) = sample {
            contestant.count = (sample.requests_per_s * arguments.turn().as_secs_f64()) as usize;
        }
        sample.is_some()
    });
    for round in 1..=arguments.rounds {
        let first = usize::from(round) % contestants.len().max(1);
        let (later, sooner) = contestants.split_at_mut(first);
        for contestant in sooner.iter_mut().chain(later) {
            let Some(sample) = turn(contestant) else { continue };
            let cpu = sample.cpu_us_per_request.unwrap_or_default();
            progress(&format!("round {round}: {:<13} {cpu:6.2} µs/request", contestant.name));
            contestant.samples.push(sample);
        }
    }
    let series = |Contestant { name, samples, .. }| Series { name, samples };
    report.hits = contestants.into_iter().map(series).collect();
}

fn start_bare(work: &Path, hit: &Answer) -> Outcome<Rc<Server>> {
    let site = Site::new(work, "bare-actix")?;
    let server = site.start(bare_command(&site, &hit.to_copy(), &[])?, Duration::from_secs(10))?;
    Answer::get(&format!("{}{HIT}", server.url), &[])?.must_repeat(&hit.to_copy())?;
    Ok(Rc::new(server))
}

/// The conditional request that is answered 304.
fn not_modified(server: &Server, hit: &Answer) -> Outcome<Request> {
    let etag = hit.header("etag").ok_or("Mainstay sends no ETag")?;
    let answer = Answer::get(&format!("{}{HIT}", server.url), &[("if-none-match", etag)])?;
    match answer.status {
        304 => Ok(Request { path: HIT, header: Some(format!("if-none-match: {etag}")), status: 304 }),
        other => Err(format!("Mainstay answers If-None-Match with {other}").into()),
    }
}

/// Instructions per request of the bare server and of Mainstay.
fn instructions(arguments: &Arguments, work: &Path, mainstay: &Mainstay, hit: &Answer, report: &mut Report) {
    if !arguments.wants(Part::Callgrind) {
        return;
    }
    let ok = Request { path: HIT, header: None, status: 200 };
    let etag = hit.header("etag").unwrap_or_default();
    let conditional = Request { path: HIT, header: Some(format!("if-none-match: {etag}")), status: 304 };
    let bare = |site: &Site, runner: &[String]| bare_command(site, &hit.to_copy(), runner);
    let own = |site: &Site, runner: &[String]| mainstay.command(site, runner);
    let mut count = |name, instructions: Outcome<f64>| match instructions {
        Ok(instructions) => report.instructions_per_request.push((name, instructions)),
        Err(error) => report.failures.push(format!("{name} under callgrind: {error}")),
    };
    progress("counting instructions of bare-actix, mainstay, mainstay-304");
    count("bare-actix", callgrind::instructions_per_request(work, &ok, bare));
    count("mainstay", callgrind::instructions_per_request(work, &ok, own));
    count("mainstay-304", callgrind::instructions_per_request(work, &conditional, own));
}

/// Reads past the cache, beside the same reads by pgbench.
fn misses(arguments: &Arguments, mainstay: &Server, database: &Database, report: &mut Report) {
    if !arguments.wants(Part::Misses) {
        return;
    }
    let seconds = arguments.turn().as_secs().max(1) as u32;
    let mut series = ["pgbench", "mainstay"].map(|name| Series { name, samples: Vec::new() });
    let [straight, through] = &mut series;
    let mut round = |is_counted: bool| -> Outcome<()> {
        let (pgbench, mainstay) = (database.pgbench(seconds)?, load::misses(mainstay, seconds)?);
        progress(&format!(
            "misses: pgbench {:.0}/s, mainstay {:.0}/s",
            pgbench.requests_per_s, mainstay.requests_per_s
        ));
        if is_counted {
            straight.samples.push(pgbench);
            through.samples.push(mainstay);
        }
        Ok(())
    };
    let outcome = is_uncached(mainstay)
        .and_then(|()| round(false))
        .and_then(|()| (0..arguments.rounds).try_for_each(|_| round(true)));
    match outcome {
        Ok(()) => report.misses = series.into(),
        Err(error) => report.failures.push(format!("misses: {error}")),
    }
}

fn is_uncached(mainstay: &Server) -> Outcome<()> {
    let account = Answer::get(&format!("{}{}7", mainstay.url, servers::MISS), &[])?;
    let stored = account.header("cache-status").is_some_and(|status| status.contains("stored"));
    if account.status != 200 || stored || !account.body.contains("\"abalance\"") {
        return Err(format!("account 7 is answered {} {}, stored: {stored}", account.status, account.body).into());
    }
    Ok(())
}

/// The first line of what each program says of its version.
fn versions() -> Vec<String> {
    let programs = [
        ("nginx", "-v"),
        ("varnishd", "-V"),
        ("haproxy", "-v"),
        ("pgbench", "--version"),
        ("h2load", "--version"),
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
