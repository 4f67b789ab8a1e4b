//! What is told of a simulation.

use chrono::DateTime;
use indicatif::{HumanBytes, HumanCount};
use serde_json::{Value, json};

use super::tally::{Tally, percent};
use super::top::Top;
use super::{SimulateArgs, Simulation};
use crate::cli::{put, table};

/// Of what is found most often, how much is told.
const TOP: usize = 10;
const HEAD: [&str; 11] =
    ["route", "requests", "hits", "stale", "waited", "L2", "source", "runs", "runs saved", "peak runs/s", "memory"];

pub(super) fn print(simulation: &Simulation, args: &SimulateArgs) {
    let Simulation { lines, requests, total, world, .. } = simulation;
    say!(
        "{}: {} lines, {} requests{}",
        args.log.display(),
        HumanCount(*lines),
        HumanCount(*requests),
        span(simulation)
    );
    say!(
        "as {} of {} for L1{}, a source that takes {}",
        match args.instances {
            1 => "one instance".to_owned(),
            several => format!("{several} instances, each"),
        },
        HumanBytes(simulation.settings.cache.memory_bytes_max),
        args.l2_bytes.map(|bytes| format!(", a Redis of {}", HumanBytes(bytes))).unwrap_or_default(),
        humantime::format_duration(args.source_time),
    );
    put("");
    let asked: Vec<&Tally> = simulation.routes.values().filter(|tally| tally.requests > 0).collect();
    let mut rows: Vec<Vec<String>> =
        asked.iter().map(|tally| row(tally, world.held(tally.position).bytes_max)).collect();
    rows.push(row(total, world.whole().bytes_max));
    table::lines(&HEAD, rows).iter().for_each(|line| put(line));
    let silent = simulation.routes.len() - asked.len();
    if silent > 0 {
        say!("{silent} routes of the manifest were not asked");
    }
    put("");
    print_sums(simulation);
    print_unread(simulation);
}

fn print_sums(simulation: &Simulation) {
    let Simulation { total, world, .. } = simulation;
    say!(
        "{} of the requests to routes are for cached answers, {} of those are hits; the source runs {} times in place of {}: {} saved",
        share(total.cacheable, total.requests),
        share(total.hits(), total.cacheable),
        HumanCount(total.runs.count),
        HumanCount(total.runs_uncached.count),
        share(total.saved(), total.runs_uncached.count),
    );
    let (held, (evicted, evicted_shared)) = (world.whole(), world.evicted());
    let room = match evicted {
        0 => "all of it fits".to_owned(),
        evicted => format!("{} entries had to make room: cache.memory_bytes_max is short", HumanCount(evicted)),
    };
    say!("L1 holds up to {} entries, {}; {room}", HumanCount(held.entries_max), HumanBytes(held.bytes_max));
    if let Some(held) = world.shared() {
        let (entries, bytes) = (HumanCount(held.entries_max), HumanBytes(held.bytes_max));
        say!("L2 holds up to {entries} entries, {bytes}; {} had to make room", HumanCount(evicted_shared));
    }
    if total.stale_if_error > 0 {
        let failed = HumanCount(total.stale_if_error);
        say!("{failed} requests that failed then would have got a stale answer");
    }
    let unknown = unknown_bodies(simulation);
    if unknown > 0 {
        let unknown = HumanCount(unknown);
        say!(
            "for {unknown} requests the log does not say how large the answer was; the average of the route is taken, or --body-bytes"
        );
    }
}

fn print_unread(simulation: &Simulation) {
    let lists = [
        (&simulation.unmatched, "requests have a path that no route has"),
        (&simulation.refused, "requests would be refused with a 400"),
    ];
    for (top, what) in lists.into_iter().filter(|(top, _)| top.total > 0) {
        let about = if top.is_approximate { "; counts are upper bounds, there are too many to count each" } else { "" };
        put("");
        say!("{} {what}{about}:", HumanCount(top.total));
        top.first(TOP).for_each(|(name, count)| say!("  {:>9}  {name}", HumanCount(count).to_string()));
    }
    if simulation.other_method > 0 {
        say!("{} requests have a method that their route does not have", HumanCount(simulation.other_method));
    }
    if simulation.built_in > 0 {
        say!("{} requests are for what the server answers by itself", HumanCount(simulation.built_in));
    }
    for (why, unreadable) in &simulation.unreadable {
        let numbers: Vec<String> = unreadable.first.iter().map(ToString::to_string).collect();
        let (count, sentence) = (HumanCount(unreadable.count), why.sentence());
        say!("{count} lines were skipped, {sentence}: line {}", numbers.join(", "));
    }
    if simulation.left_out > 0 {
        let left_out = HumanCount(simulation.left_out);
        say!("{left_out} requests are missing: the log has no more than log.access_per_second_max lines a second");
    }
    let clock = &simulation.clock;
    if clock.behind > 0 {
        say!(
            "{} lines have an earlier time than one before them; they are taken to be of its time",
            HumanCount(clock.behind)
        );
    }
    if clock.restarts > 0 {
        say!("{} times the log begins anew, more than an hour earlier: caches were empty from there", clock.restarts);
    }
}

/// `, from 2026-11-21 00:00:00 to 2026-11-22 00:00:00 UTC (1day)`
fn span(simulation: &Simulation) -> String {
    let Some((first_ms, last_ms)) = simulation.clock.span_ms else { return String::new() };
    let time = |time_ms| DateTime::from_timestamp_millis(time_ms).map(|time| time.format("%F %T").to_string());
    let long = std::time::Duration::from_secs(u64::try_from((last_ms - first_ms) / 1000).unwrap_or(0));
    let (first, last) = (time(first_ms).unwrap_or_default(), time(last_ms).unwrap_or_default());
    format!(", from {first} to {last} UTC ({})", humantime::format_duration(long))
}

fn row(tally: &Tally, bytes_max: u64) -> Vec<String> {
    let count = |count: u64| HumanCount(count).to_string();
    let cached = |text: String| if tally.is_cached { text } else { "-".to_owned() };
    vec![
        tally.name.clone(),
        count(tally.requests),
        cached(share(tally.hits(), tally.cacheable)),
        cached(share(tally.stale, tally.cacheable)),
        cached(count(tally.waited)),
        cached(count(tally.shared)),
        count(tally.source),
        count(tally.runs.count),
        cached(share(tally.saved(), tally.runs_uncached.count)),
        format!("{} → {}", tally.runs_uncached.per_s_max, tally.runs.per_s_max),
        cached(HumanBytes(bytes_max).to_string()),
    ]
}

fn share(part: u64, whole: u64) -> String {
    percent(part, whole).map_or_else(|| "-".to_owned(), |percent| format!("{percent:.1} %"))
}

fn unknown_bodies(simulation: &Simulation) -> u64 {
    simulation.routes.values().map(|tally| tally.bodies.unknown).sum()
}

/// The same for programs.
pub(super) fn json(simulation: &Simulation, args: &SimulateArgs) -> Value {
    let Simulation { total, world, clock, settings, .. } = simulation;
    let time = |time_ms| DateTime::from_timestamp_millis(time_ms).map(|time| time.to_rfc3339());
    let routes: Vec<Value> = simulation
        .routes
        .values()
        .map(|tally| {
            let held = world.held(tally.position);
            let mut route = json_of(tally);
            if let Some(members) = route.as_object_mut() {
                members.insert("route".to_owned(), json!(tally.name));
                members.insert("is_cached".to_owned(), json!(tally.is_cached));
                members.insert("entries_max".to_owned(), json!(held.entries_max));
                members.insert("bytes_max".to_owned(), json!(held.bytes_max));
            }
            route
        })
        .collect();
    let skipped: Vec<Value> = simulation
        .unreadable
        .iter()
        .map(
            |(why, unreadable)| json!({ "reason": why.as_str(), "lines": unreadable.count, "first": unreadable.first }),
        )
        .collect();
    let (evicted, evicted_shared) = world.evicted();
    json!({
        "log": args.log.display().to_string(),
        "lines": simulation.lines,
        "requests": simulation.requests,
        "left_out": simulation.left_out,
        "from": clock.span_ms.and_then(|(first_ms, _)| time(first_ms)),
        "to": clock.span_ms.and_then(|(_, last_ms)| time(last_ms)),
        "assumed": {
            "instances": args.instances,
            "source_time_ms": u64::try_from(args.source_time.as_millis()).ok(),
            "changes_per_hour": args.changes.iter().map(|change| json!({ "name": change.name, "per_hour": change.per_hour })).collect::<Vec<_>>(),
            "bodies_unknown": unknown_bodies(simulation),
        },
        "total": json_of(total),
        "routes": routes,
        "l1": { "bytes_limit": settings.cache.memory_bytes_max, "bytes_max": world.whole().bytes_max, "entries_max": world.whole().entries_max, "evicted": evicted },
        "l2": world.shared().map(|held| json!({ "bytes_limit": args.l2_bytes, "bytes_max": held.bytes_max, "entries_max": held.entries_max, "evicted": evicted_shared })),
        "unmatched": json_of_top(&simulation.unmatched, "path"),
        "refused": json_of_top(&simulation.refused, "reason"),
        "other_method": simulation.other_method,
        "built_in": simulation.built_in,
        "skipped": skipped,
        "lines_behind": clock.behind,
        "restarts": clock.restarts,
    })
}

fn json_of(tally: &Tally) -> Value {
    json!({
        "requests": tally.requests,
        "cacheable": tally.cacheable,
        "refused": tally.refused,
        "hits_percent": percent(tally.hits(), tally.cacheable),
        "fresh": tally.fresh,
        "stale_while_revalidate": tally.stale,
        "coalesced": tally.waited,
        "l2": tally.shared,
        "source": tally.source,
        "stale_if_error": tally.stale_if_error,
        "runs": tally.runs.count,
        "runs_without": tally.runs_uncached.count,
        "runs_saved_percent": percent(tally.saved(), tally.runs_uncached.count),
        "runs_per_s_max": tally.runs.per_s_max,
        "runs_per_s_max_without": tally.runs_uncached.per_s_max,
    })
}

fn json_of_top(top: &Top, name: &str) -> Value {
    let first: Vec<Value> = top.first(TOP).map(|(text, count)| json!({ name: text, "requests": count })).collect();
    json!({ "requests": top.total, "is_approximate": top.is_approximate, "first": first })
}
