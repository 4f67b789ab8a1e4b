//! An instance with a million entries: what they cost, and what it costs to purge them all.

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use mainstay::cache::fence::{Fences, Message, SilenceLimits};
use mainstay::cache::tag::Tag;
use mainstay::position::{Lsn, Position, SystemId, Timeline};

use crate::client::{self, Client};
use crate::fetch::Answer;
use crate::load::{self, Numbered};
use crate::report::{Fact, Spread};
use crate::servers::{HIT, Mainstay, Server};
use crate::{Arguments, Outcome, learn_hit, progress};

/// Connections on which hits go on.
const CONNECTIONS: usize = 4;
/// For how long hits are watched, with a purge in the middle or without.
const WINDOW: Duration = Duration::from_secs(1);
const PURGE: &str = r#"{"tags":["entries"]}"#;

pub fn measure(arguments: &Arguments, work: &Path, mainstay: &Mainstay) -> Outcome<Vec<Fact>> {
    let entries = Numbered { path: "/entries/", max: if arguments.quick { 100_000 } else { 1_000_000 } };
    let server = mainstay.with("MAINSTAY__CACHE__MEMORY_BYTES_MAX", 8_u64 << 30).start(work, "mainstay-purge")?;
    let mut facts = fill(&server, entries)?;
    facts.extend(purge(&server, arguments.rounds)?);
    facts.push(Fact::new("purge of a tag, applied, worst of 1,000: ms", applying_ms()?).at_most(1.0));
    Ok(facts)
}

/// Fills the entries, and says what each takes of memory.
fn fill(server: &Server, entries: Numbered) -> Outcome<Vec<Fact>> {
    // Connections, buffers and what the allocator keeps at hand are not the entries'.
    load::fixed_time(server, Numbered { path: "/accounts/", max: 1000 }, 2, 32)?;
    let (before, bytes_before) = (server.resident_bytes()?, weighed(server)?.1);
    progress(&format!("filling {} entries", entries.max));
    client::run(client::ask_all(&server.url, entries))?;
    let (resident, (kept, bytes)) = (server.resident_bytes()? - before, weighed(server)?);
    if kept < f64::from(entries.max) {
        return Err(format!("of {} entries {kept} are kept", entries.max).into());
    }
    let path = format!("{}{}", entries.path, entries.max);
    let own = path.len() + Answer::get(&format!("{}{path}", server.url), &[])?.body.len();
    let each = |all: f64| all / f64::from(entries.max);
    Ok(vec![
        Fact::new("memory of an entry beyond path and body: B", each(resident) - own as f64).at_most(512.0),
        Fact::new("… as the byte bound counts it: B", each(bytes - bytes_before) - own as f64),
    ])
}

/// Entries and bytes in L1, as its bound counts them.
fn weighed(server: &Server) -> Outcome<(f64, f64)> {
    let stats = server.operate("/admin/cache/stats", None)?;
    let number = |name: &str| stats.get(name).and_then(serde_json::Value::as_f64).ok_or("no statistics");
    Ok((number("entries")?, number("bytes")?))
}

/// The longest gaps of hits on a connection, in seconds that have a purge in them and in seconds that have none.
fn purge(server: &Server, rounds: u16) -> Outcome<Vec<Fact>> {
    learn_hit(server)?;
    let (mut quiet, mut purged, mut answers) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        let without = gap_ms(server)?;
        let (with, answered_ms) = std::thread::scope(|scope| {
            let ordering = scope.spawn(|| -> Result<f64, String> {
                std::thread::sleep(WINDOW / 2);
                let began = Instant::now();
                server.operate("/admin/cache/purge", Some(PURGE)).map_err(|error| error.to_string())?;
                Ok(began.elapsed().as_secs_f64() * 1000.0)
            });
            let with = gap_ms(server)?;
            Outcome::Ok((with, ordering.join().map_err(|_| "the purge panicked")??))
        })?;
        let answer = Answer::get(&format!("{}/entries/{round}", server.url), &[])?;
        if !answer.header("cache-status").is_some_and(|status| status.contains("fwd=miss")) {
            return Err(format!("after a purge an entry is answered {:?}", answer.header("cache-status")).into());
        }
        progress(&format!(
            "round {round}: longest gap of hits {without:.2} ms, with a purge {with:.2} ms; the purge was answered after \
             {answered_ms:.0} ms"
        ));
        quiet.push(without);
        purged.push(with);
        answers.push(answered_ms);
    }
    let fact = |name, values| Spread::of(values).map(|spread| Fact::new(name, spread.median)).ok_or("no rounds");
    Ok(vec![
        fact("longest gap of hits in 1 s: ms", quiet)?,
        fact("… with a purge of all entries in it: ms", purged)?,
        fact("… until its operator knows that it is done: ms", answers)?,
    ])
}

/// Hits one after another, and the longest time that a connection went without one.
fn gap_ms(server: &Server) -> Outcome<f64> {
    client::run(async {
        let clients = Client::connect_all([server.url.as_str()], CONNECTIONS).await?;
        let end = Instant::now() + WINDOW;
        let work = clients.into_iter().map(async |mut client| {
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            while last < end {
                let reply = client.get(HIT).await?;
                if !reply.is_fresh_hit() {
                    return Err(format!("{HIT} is answered {}", reply.cache_status).into());
                }
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            Outcome::Ok(longest)
        });
        let longest = try_join_all(work).await?.into_iter().max().unwrap_or_default();
        Ok(longest.as_secs_f64() * 1000.0)
    })
}

/// How long a message takes to be taken to account, of a thousand the worst, where as many tags have fences as may: that is all
/// that a purge does, however many entries have its tag.
fn applying_ms() -> Outcome<f64> {
    const TAGS: usize = 100_000;
    const LIMITS: SilenceLimits = SilenceLimits { max: Duration::from_secs(2), hard_max: None };
    let fences = Fences::new(TAGS, LIMITS);
    let at = |lsn| Position { system: SystemId(1), timeline: Timeline(1), lsn: Lsn(lsn) };
    let message = |lsn, soft| Message {
        at: at(lsn),
        reads: Some(at(lsn)),
        prev: Some(at(lsn - 1)),
        through: at(lsn),
        cursor: String::new(),
        soft,
        hard: Vec::new(),
        purges: Vec::new(),
    };
    fences.change(|ledger| ledger.begin(at(1), None));
    let tag = |number| Tag::new(format!("entries:{number}"));
    fences.apply(&message(2, (0..TAGS).map(tag).collect()), Instant::now());
    let mut worst = Duration::ZERO;
    for lsn in 3..1003 {
        let message = message(lsn, vec![tag(0)]);
        let began = Instant::now();
        let applied = fences.apply(&message, began);
        worst = worst.max(began.elapsed());
        if applied.gap || !applied.purged {
            return Err("a purge was not applied".into());
        }
    }
    Ok(worst.as_secs_f64() * 1000.0)
}
