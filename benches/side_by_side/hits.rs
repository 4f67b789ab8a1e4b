//! Cached answers: CPU per request, and instructions per request, of Mainstay and of its peers.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use crate::fetch::Answer;
use crate::load::{self, Request, Sample};
use crate::report::{Report, Series};
use crate::servers::{self, HIT, Mainstay, Server, Site, bare_command};
use crate::{Arguments, Outcome, Part, callers, callgrind, progress};

/// Whoever takes part beside Mainstay.
const CONTESTANTS: [Part; 7] = [
    Part::BareActix,
    Part::Mainstay304,
    Part::MainstayUnaudited,
    Part::Auth,
    Part::Nginx,
    Part::Varnish,
    Part::Haproxy,
];

struct Contestant {
    name: &'static str,
    server: Rc<Server>,
    request: Request,
    /// Requests in a turn; learnt in the warm-up.
    count: usize,
    samples: Vec<Sample>,
}

/// The rounds. A contestant that fails is reported and left out from there on.
pub fn measure(
    arguments: &Arguments,
    work: &Path,
    mainstay: &Mainstay,
    (server, database_url): (&Rc<Server>, &str),
    hit: &Answer,
    report: &mut Report,
) {
    const WARM_UP: usize = 20_000;
    if !CONTESTANTS.iter().any(|part| arguments.wants(*part)) {
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
    enter("mainstay", Ok(server.clone()), &ok);
    if arguments.wants(Part::MainstayUnaudited) {
        let unaudited = mainstay.with("MAINSTAY__CACHE__AUDIT_ONE_IN", 0);
        enter("mainstay-unaudited", unaudited.start(work, "mainstay-unaudited").map(Rc::new), &ok);
    }
    if arguments.wants(Part::Mainstay304) {
        match not_modified(server, hit) {
            Ok(request) => enter("mainstay-304", Ok(server.clone()), &request),
            Err(error) => enter("mainstay-304", Err(error), &ok),
        }
    }
    if arguments.wants(Part::Auth) {
        match callers::start(work, mainstay, database_url) {
            Ok(callers) => {
                callers.into_iter().for_each(|caller| enter(caller.name, Ok(caller.server), &caller.request));
            }
            Err(error) => enter("mainstay-auth", Err(error), &ok),
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
pub fn instructions(arguments: &Arguments, work: &Path, mainstay: &Mainstay, hit: &Answer, report: &mut Report) {
    if !arguments.wants(Part::Callgrind) {
        return;
    }
    let ok = Request { path: HIT, header: None, status: 200 };
    let etag = hit.header("etag").unwrap_or_default();
    let conditional = Request { path: HIT, header: Some(format!("if-none-match: {etag}")), status: 304 };
    let bare = |site: &Site, runner: &[String]| bare_command(site, &hit.to_copy(), runner);
    // What a server does by the clock would count as its requests' under valgrind, where they take long.
    let still = mainstay.with("MAINSTAY__CHANGES__POLL_INTERVAL", "1h").with("MAINSTAY__CACHE__MAX_SILENCE", "1h");
    let own = |site: &Site, runner: &[String]| still.command(site, runner);
    let mut count = |name, instructions: Outcome<f64>| match instructions {
        Ok(instructions) => report.instructions_per_request.push((name, instructions)),
        Err(error) => report.failures.push(format!("{name} under callgrind: {error}")),
    };
    progress("counting instructions of bare-actix, mainstay, mainstay-304");
    count("bare-actix", callgrind::instructions_per_request(work, &ok, bare));
    count("mainstay", callgrind::instructions_per_request(work, &ok, own));
    count("mainstay-304", callgrind::instructions_per_request(work, &conditional, own));
}
