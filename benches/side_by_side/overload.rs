//! More load than the source can serve: what is answered, what is refused and how quickly, what hits notice of it, how much
//! memory it takes, and how long it takes to get over it.
//!
//! The source is a query that sleeps, over so many connections: its capacity is known. Requests come at their times, whether
//! those before them were answered or not, as those of many clients do, and each is timed from when it should have been sent.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;
use tokio::time::sleep_until;

use crate::client::{self, Client};
use crate::load::Numbered;
use crate::servers::{HIT, Mainstay, Server};
use crate::{Arguments, Outcome, progress};

/// Connections to the database, and how long each query of the route sleeps.
const CONNECTIONS: usize = 16;
const QUERY_TIME: Duration = Duration::from_millis(50);
/// Keys that were filled before, and have expired: there is something stale to serve.
const STALE: Numbered = Numbered { path: "/work/", max: 200 };
/// One of so many requests is for one of them.
const STALE_ONE_IN: u32 = 5;
/// What is offered, as a share of what the source can serve.
const OFFERED: [f64; 6] = [0.0, 0.5, 1.0, 2.0, 5.0, 10.0];
/// What is offered after the load, to see when all of it is served again.
const AFTER: f64 = 0.5;
const CLIENTS_MAX: usize = 4000;

/// What an offered load came to.
#[derive(Serialize)]
pub struct Level {
    /// As a share of the capacity.
    offered: f64,
    offered_per_s: f64,
    fresh_per_s: f64,
    stale_per_s: f64,
    refused_per_s: f64,
    fresh_p99_ms: Option<f64>,
    stale_p99_ms: Option<f64>,
    refused_p99_ms: Option<f64>,
    hit_p50_us: Option<f64>,
    hit_p99_us: Option<f64>,
    resident_mib: f64,
}

/// All of it.
#[derive(Default, Serialize)]
pub struct Overload {
    levels: Vec<Level>,
    resident_before_mib: f64,
    resident_after_mib: f64,
    /// From the end of the greatest load to the last request that was not answered freshly.
    full_service_after_s: f64,
}

/// A request that was answered.
struct Answered {
    /// When it should have been sent, after the load began.
    at: Duration,
    took: Duration,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Fresh,
    Stale,
    Refused,
}

pub fn measure(arguments: &Arguments, work: &Path, mainstay: &Mainstay) -> Outcome<Vec<Overload>> {
    let server = mainstay.with("MAINSTAY__DATABASE__POOL_SIZE", CONNECTIONS).start(work, "mainstay-overload")?;
    let capacity_per_s = CONNECTIONS as f64 / QUERY_TIME.as_secs_f64();
    progress(&format!("a source of {capacity_per_s:.0} answers a second, and up to ten times the load"));
    client::run(client::ask_all(&server.url, STALE))?;
    let mut load = Load { url: &server.url, next: Cell::new(STALE.max), idle: RefCell::default(), open: Cell::new(0) };
    // Connections are opened, and the limit finds its place: that does not count.
    load.run(capacity_per_s * AFTER, Duration::from_secs(2))?;
    let time = if arguments.quick { Duration::from_secs(3) } else { Duration::from_secs(10) };
    let mut overload = Overload { resident_before_mib: resident_mib(&server)?, ..Overload::default() };
    for offered in OFFERED {
        let level = measure_level(&mut load, &server, offered, capacity_per_s, time)?;
        progress(&format!("offered {offered} times: {:.0} fresh answers/s", level.fresh_per_s));
        overload.levels.push(level);
    }
    let after = load.run(capacity_per_s * AFTER, time)?;
    let short_of = after.iter().filter(|one| one.kind != Kind::Fresh).map(|one| one.at + one.took).max();
    overload.full_service_after_s = short_of.unwrap_or_default().as_secs_f64();
    overload.resident_after_mib = resident_mib(&server)?;
    Ok(vec![overload])
}

fn measure_level(
    load: &mut Load<'_>,
    server: &Server,
    offered: f64,
    capacity_per_s: f64,
    time: Duration,
) -> Outcome<Level> {
    let ends = AtomicBool::new(false);
    let (answered, hits) = thread::scope(|scope| {
        let hits = scope.spawn(|| time_hits(&server.url, &ends).map_err(|error| error.to_string()));
        let answered = load.run(capacity_per_s * offered, time);
        ends.store(true, Ordering::Relaxed);
        let hits = hits.join().map_err(|_| "the client of the hits panicked".to_owned());
        (answered, hits.and_then(|hits| hits))
    });
    let (answered, hits) = (answered?, hits?);
    let per_s = |kind| answered.iter().filter(|one| one.kind == kind).count() as f64 / time.as_secs_f64();
    let p99_ms = |kind| {
        let took = answered.iter().filter(|one| one.kind == kind).map(|one| one.took).collect();
        quantile(took, 0.99).map(|took| took.as_secs_f64() * 1000.0)
    };
    let hit_us = |share| quantile(hits.clone(), share).map(|took| took.as_secs_f64() * 1e6);
    Ok(Level {
        offered,
        offered_per_s: capacity_per_s * offered,
        fresh_per_s: per_s(Kind::Fresh),
        stale_per_s: per_s(Kind::Stale),
        refused_per_s: per_s(Kind::Refused),
        fresh_p99_ms: p99_ms(Kind::Fresh),
        stale_p99_ms: p99_ms(Kind::Stale),
        refused_p99_ms: p99_ms(Kind::Refused),
        hit_p50_us: hit_us(0.5),
        hit_p99_us: hit_us(0.99),
        resident_mib: resident_mib(server)?,
    })
}

/// A load that comes whether it is served or not.
struct Load<'a> {
    url: &'a str,
    /// The last number that was asked for: numbers beyond those of [`STALE`] are asked for once.
    next: Cell<u32>,
    idle: RefCell<Vec<Client>>,
    open: Cell<usize>,
}

impl Load<'_> {
    /// So many requests a second, for some time; each is waited for.
    fn run(&mut self, per_s: f64, time: Duration) -> Outcome<Vec<Answered>> {
        if per_s == 0.0 {
            thread::sleep(time);
            return Ok(Vec::new());
        }
        // Connections belong to the runtime that opened them.
        self.idle.borrow_mut().clear();
        self.open.set(0);
        client::run(async {
            let began = Instant::now();
            let count = (per_s * time.as_secs_f64()) as u32;
            let sends = (0..count).map(|number| {
                let at = time.mul_f64(f64::from(number) / f64::from(count));
                let this = &*self;
                async move {
                    sleep_until((began + at).into()).await;
                    this.ask(began, at).await
                }
            });
            let sends: FuturesUnordered<_> = sends.collect();
            sends.try_collect().await
        })
    }

    async fn ask(&self, began: Instant, at: Duration) -> Outcome<Answered> {
        let idle = self.idle.borrow_mut().pop();
        let mut client = match idle {
            Some(client) => client,
            None if self.open.get() >= CLIENTS_MAX => {
                return Err(format!("more than {CLIENTS_MAX} requests wait at once").into());
            }
            None => {
                self.open.set(self.open.get() + 1);
                Client::connect(self.url).await?
            }
        };
        let number = if fastrand::u32(..STALE_ONE_IN) == 0 {
            fastrand::u32(1..=STALE.max)
        } else {
            self.next.set(self.next.get() + 1);
            self.next.get()
        };
        let (status, reply) = client.ask(&format!("{}{number}", STALE.path)).await?;
        let kind = match status {
            200 if reply.cache_status.contains("fwd-status=503") => Kind::Stale,
            200 => Kind::Fresh,
            503 => Kind::Refused,
            other => return Err(format!("{other}: {}", reply.body).into()),
        };
        self.idle.borrow_mut().push(client);
        Ok(Answered { at, took: began.elapsed().saturating_sub(at), kind })
    }
}

/// One hit after the other with a pause between them, until it ends: how long each took.
fn time_hits(url: &str, ends: &AtomicBool) -> Outcome<Vec<Duration>> {
    client::run(async {
        let mut client = Client::connect(url).await?;
        let mut took = Vec::new();
        while !ends.load(Ordering::Relaxed) {
            let began = Instant::now();
            client.get(HIT).await?;
            took.push(began.elapsed());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(took)
    })
}

fn quantile(mut values: Vec<Duration>, share: f64) -> Option<Duration> {
    values.sort_unstable();
    values.get(((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1))).copied()
}

fn resident_mib(server: &Server) -> Outcome<f64> {
    Ok(server.resident_bytes()? / f64::from(1 << 20))
}

impl Overload {
    pub fn to_text(&self) -> String {
        let cell = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.1}"));
        let mut text = format!(
            "\nOverload: load offered to a source of {:.0}/s, one in {STALE_ONE_IN} for something stale\n",
            CONNECTIONS as f64 / QUERY_TIME.as_secs_f64()
        );
        text += &format!(
            "{:>8}{:>10}{:>10}{:>10}{:>10}{:>12}{:>12}{:>12}{:>11}{:>11}{:>9}\n",
            "offered",
            "/s",
            "fresh/s",
            "stale/s",
            "503/s",
            "fresh p99ms",
            "stale p99ms",
            "503 p99ms",
            "hit p50µs",
            "hit p99µs",
            "RSS MiB"
        );
        for level in &self.levels {
            text += &format!(
                "{:>7}×{:>10.0}{:>10.0}{:>10.0}{:>10.0}{:>12}{:>12}{:>12}{:>11}{:>11}{:>9.1}\n",
                level.offered,
                level.offered_per_s,
                level.fresh_per_s,
                level.stale_per_s,
                level.refused_per_s,
                cell(level.fresh_p99_ms),
                cell(level.stale_p99_ms),
                cell(level.refused_p99_ms),
                cell(level.hit_p50_us),
                cell(level.hit_p99_us),
                level.resident_mib,
            );
        }
        text += &format!(
            "full service {:.2} s after the load; RSS {:.1} MiB before, {:.1} MiB after\n",
            self.full_service_after_s, self.resident_before_mib, self.resident_after_mib
        );
        text
    }
}
