//! `mainstay simulate`: what a cache would have made of an access log, before there is one.
//!
//! Requests are routed and keyed by the server's own code, and judged by its rules of time in the time of the log. What stands in for
//! something is the caches' choice of what makes room (see [`store`]), and time, which a source is given by a flag.

mod clock;
mod input;
mod line;
mod made;
mod report;
mod store;
mod tally;
mod top;
mod world;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use smallvec::SmallVec;

use super::admin::print_json;
use super::progress::{Progress, Shown};
use super::{Failure, FolderArgs, span};
use crate::app::{Parts, problems};
use crate::cache::tag::table_any;
use crate::config::settings::Settings;
use crate::error::{Code, Error};
use crate::http::surface::{Endpoint, Surface};
use crate::http::target::{self, Arguments};
use crate::source::upstream::group::Upstreams;
use crate::telemetry::metrics::Metrics;
use clock::{Clock, Tick};
use input::{Line, Lines};
use line::{Logged, Unread};
use made::{Request, source};
use tally::Tally;
use top::Top;
use world::{Asked, Terms, World};

pub(super) const HELP: &str = "\
Replays an access log against routes.toml, without a database and without a server: which route each request matches, what its answer
is kept under, and for how long, all by the server's own code, in the time of the log. It says by route how many requests would have been
hits, how often the source would have run, how much memory that takes, and which requests no route would have answered.

The log is in the common or the combined format of Apache and nginx, or has a JSON object a line: Mainstay's own (log.access = \"all\"), or
one with a time (timestamp, @timestamp, time, ts, time_iso8601, time_local, msec, datetime; date and time), a request (request, as
\"GET /path HTTP/1.1\"; or method, request_method, cs-method and uri, request_uri, url, path, cs-uri-stem, with query, args, cs-uri-query), and
where it can with status (status_code, sc-status) and bytes (body_bytes, body_bytes_sent, bytes_sent, size, sc-bytes, response_size), also within
a member request, response or http. Lines that cannot be read are counted, and said.

How exact it is: routes, keys, freshness, stale-while-revalidate and coalescing are the server's. Where not all fits into
cache.memory_bytes_max, entries that were used the longest time ago make room; the server's choice commonly hits a little more. A log
does not say when data changes: --changes does. A body of cache.compress_bytes_min or more is kept in three encodings, and counted one
and a half times.

Examples:
  mainstay simulate access.log
  cat access.log.*.gz | mainstay simulate - --instances 3 --l2-bytes 1000000000
  mainstay simulate access.log.gz --source-time 80ms --changes exchange_rates=1 --changes rates:USD=20 --json

Exit codes:
  0   simulated, whatever could not be read of single lines
  1   the log cannot be read, or has no request at all
  2   the arguments are wrong
  64  the configuration cannot be run with; the message names the key, or the line of routes.toml";

/// Changes that may be named.
const CHANGES_MAX: usize = 32;
/// Lines between two looks at how far it is.
const LINES_A_LOOK: u64 = 4096;
/// Line numbers that are said of each kind of line that cannot be read.
const NUMBERS_MAX: usize = 5;

#[derive(Args)]
pub(super) struct SimulateArgs {
    /// The log, packed by gzip or not; - is standard input.
    log: PathBuf,
    /// Instances that share the load, each in its turn.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    instances: u16,
    /// A Redis of so many bytes that they share; default: none.
    #[arg(long, value_name = "BYTES")]
    l2_bytes: Option<u64>,
    /// How long the source takes: who asks for the same meanwhile waits with the first one.
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = span)]
    source_time: Duration,
    /// Size of a body where the log does not tell any of its route.
    #[arg(long, value_name = "BYTES", default_value_t = 1024)]
    body_bytes: u32,
    /// How often an hour something changes: a tag, or a table that routes watch as a whole. May be given again.
    #[arg(long = "changes", value_name = "TAG=N", value_parser = change)]
    changes: Vec<Change>,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
    /// Do not show how far it is.
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    folder: FolderArgs,
}

/// Something that changes.
#[derive(Clone, Debug)]
struct Change {
    name: String,
    /// What its change purges, where it is a table.
    any: String,
    per_hour: u32,
}

fn change(text: &str) -> Result<Change, String> {
    let wrong = || "a tag or a table and how often it changes an hour, like rates=4".to_owned();
    let (name, per_hour) = text.rsplit_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(wrong)?;
    let per_hour = per_hour.parse().ok().filter(|per_hour| (1..=3_600_000).contains(per_hour)).ok_or_else(wrong)?;
    Ok(Change { name: name.to_owned(), any: table_any(name), per_hour })
}

pub(super) fn run(args: &SimulateArgs, parts: &Parts) -> Result<(), Failure> {
    if args.changes.len() > CHANGES_MAX {
        return Err(Failure::Arguments(format!("--changes: at most {CHANGES_MAX} of them")));
    }
    let settings = args.folder.settings(Vec::new())?;
    let surface = surface(args, parts, &settings)?;
    let mut simulation = Simulation::new(args, surface, settings);
    let wrong = |error: io::Error| Failure::new(format!("{}: {error}", args.log.display()));
    simulation.read(&args.log, Shown::unless(args.quiet || args.json)).map_err(wrong)?;
    if args.json {
        print_json(&report::json(&simulation, args))?;
    } else {
        report::print(&simulation, args);
    }
    if simulation.requests == 0 {
        return Err(Failure::Failed(format!("{}: there is no request in it that can be read", args.log.display())));
    }
    Ok(())
}

/// The routes, as a server would have them; none of their sources is asked.
fn surface(args: &SimulateArgs, parts: &Parts, settings: &Settings) -> Result<Surface, Failure> {
    let manifest = parts.manifest(args.folder.dir(), settings.consistency.account_reads).map_err(problems)?;
    let metrics = Arc::new(Metrics::new().map_err(Failure::new)?);
    let upstreams = Upstreams::new(settings, &metrics)?;
    Ok(Surface::new(&manifest, &parts.registry, &parts.middlewares, &upstreams, settings, &metrics))
}

/// Lines of one kind that could not be read.
#[derive(Default)]
struct Unreadable {
    count: u64,
    /// Their numbers, the first few.
    first: Vec<u64>,
}

/// A log on its way through the caches.
struct Simulation {
    surface: Rc<Surface>,
    settings: Settings,
    changes: Vec<Change>,
    world: World,
    clock: Clock,
    /// Routes by the lines of the manifest that they stand in.
    routes: BTreeMap<usize, Tally>,
    total: Tally,
    lines: u64,
    requests: u64,
    /// Requests that Mainstay's own log has left out, there were too many.
    left_out: u64,
    unreadable: BTreeMap<Unread, Unreadable>,
    /// Requests for what the server answers without any route: its health, and the description of the API.
    built_in: u64,
    /// Requests with a method that their path does not have.
    other_method: u64,
    unmatched: Top,
    refused: Top,
    body_bytes: usize,
}

impl Simulation {
    fn new(args: &SimulateArgs, surface: Surface, settings: Settings) -> Self {
        let mut routes: BTreeMap<usize, Tally> =
            surface.endpoints().map(|endpoint| (endpoint.route.line, Tally::of(&endpoint.route))).collect();
        routes.values_mut().enumerate().for_each(|(position, tally)| tally.position = position);
        let terms = Terms {
            instances: usize::from(args.instances),
            l1_bytes_max: settings.cache.memory_bytes_max,
            l2_bytes_max: args.l2_bytes,
            l2_retention: settings.cache.retention.0,
            source_time: args.source_time,
            early_refresh_beta: settings.cache.early_refresh_beta,
            changes_ms: args.changes.iter().map(|change| 3_600_000 / i64::from(change.per_hour)).collect(),
        };
        Self {
            world: World::new(terms, routes.len()),
            surface: Rc::new(surface),
            settings,
            changes: args.changes.clone(),
            clock: Clock::default(),
            routes,
            total: Tally { name: "all".to_owned(), is_cached: true, ..Tally::default() },
            lines: 0,
            requests: 0,
            left_out: 0,
            unreadable: BTreeMap::new(),
            built_in: 0,
            other_method: 0,
            unmatched: Top::default(),
            refused: Top::default(),
            body_bytes: usize::try_from(args.body_bytes).unwrap_or(usize::MAX),
        }
    }

    /// Reads a log to its end.
    fn read(&mut self, log: &Path, shown: Shown) -> io::Result<()> {
        let mut lines = Lines::open(log)?;
        let progress = Progress::of_bytes(lines.length, shown);
        loop {
            let line = lines.next();
            let at_line =
                |error: io::Error| io::Error::new(error.kind(), format!("after line {}: {error}", self.lines));
            let parsed = match line.map_err(at_line)? {
                None => return Ok(()),
                Some(Line::Whole(line)) => line::parse(line),
                Some(Line::TooLong) => Err(Unread::TooLong),
            };
            self.lines += 1;
            self.take(parsed);
            if self.lines.is_multiple_of(LINES_A_LOOK) {
                progress.set(lines.done());
            }
        }
    }

    fn take(&mut self, parsed: Result<Option<Logged>, Unread>) {
        match parsed {
            Ok(None) => {}
            Ok(Some(logged)) => {
                self.requests += 1;
                self.left_out += logged.own.unwrap_or(0);
                let now_ms = match self.clock.tick(logged.time_ms) {
                    Tick::At(now_ms) => now_ms,
                    Tick::Back(now_ms) => {
                        self.world.clear();
                        now_ms
                    }
                };
                self.ask(now_ms, &logged);
            }
            Err(why) => {
                let unreadable = self.unreadable.entry(why).or_default();
                unreadable.count += 1;
                if unreadable.first.len() < NUMBERS_MAX {
                    unreadable.first.push(self.lines);
                }
            }
        }
    }

    /// Takes a request the way that the front takes it.
    fn ask(&mut self, now_ms: i64, logged: &Logged) {
        let (path, query) = match logged.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (logged.target.as_str(), None),
        };
        if logged.target.len() > self.settings.limits.uri_bytes_max {
            return self.refused.count("a request target of too many bytes");
        }
        let path = match target::canonical_path(path) {
            Ok(path) => path,
            Err(error) => return self.refused.count(&error.detail),
        };
        let surface = Rc::clone(&self.surface);
        let is_document = || surface.documents.is_some() && matches!(&*path, "/openapi.json" | "/docs");
        if path.starts_with("/health/") {
            self.built_in += 1;
            return;
        }
        match surface.find(&path, &logged.method) {
            None if is_document() => self.built_in += 1,
            None => self.unmatched.count(&path),
            Some(found) => match found.pattern.endpoint(&logged.method) {
                None => self.other_method += 1,
                Some(endpoint) => {
                    let read = Arguments::read(&endpoint.route, |name| found.capture(name), query, None);
                    self.ask_route(now_ms, logged, endpoint, read);
                }
            },
        }
    }

    fn ask_route(&mut self, now_ms: i64, logged: &Logged, endpoint: &Endpoint, read: Result<Arguments<'_>, Error>) {
        let route = &endpoint.route;
        let Some(tally) = self.routes.get_mut(&route.line) else { return };
        tally.requests += 1;
        self.total.requests += 1;
        // Mainstay's own log does not show parameters that nobody has declared. That they were refused, it does.
        let was_refused = logged.own.is_some() && logged.status == Some(400);
        let refusal = match &read {
            // A log does not say who the caller was. Where that counts, nothing is shared.
            Err(error) if error.code != Code::ClaimInvalid => Some(error.detail.as_ref()),
            _ => was_refused.then_some("the log does not show for what"),
        };
        if let Some(refusal) = refusal {
            tally.refused += 1;
            self.total.refused += 1;
            return self.refused.count(&format!("{}: {refusal}", route.path));
        }
        let (arguments, policy) = match (read, &route.cache) {
            (Ok(arguments), Some(policy)) => (arguments, policy),
            _ => {
                tally.pass(now_ms);
                return self.total.pass(now_ms);
            }
        };
        let mut canonical: SmallVec<[u8; 256]> = SmallVec::new();
        arguments.write(route, &mut canonical);
        let key = endpoint.keys.key(&canonical);
        let body_bytes = tally.bodies.of(logged, self.body_bytes);
        let arguments = &arguments;
        let request = Request { endpoint, policy, arguments, canonical: &canonical, key, logged, body_bytes };
        let made = || request.made(&self.settings.cache, &self.changes);
        let asked = Asked { key: key.0, route: tally.position, source: source(logged.status), made: &made };
        let outcome = self.world.answer(now_ms, &asked);
        tally.take(now_ms, outcome);
        self.total.take(now_ms, outcome);
    }
}
