//! A failover origin: how soon after exec it answers out of what a region has left in Redis, and what it takes of memory then.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use mainstay::local::{Scratch, wait_until};

use crate::fetch::Answer;
use crate::reads::start_redis;
use crate::report::Fact;
use crate::servers::{HIT, Mainstay, Site};
use crate::{Arguments, Outcome, learn_hit, progress};

/// Longer than any start takes.
const PATIENCE: Duration = Duration::from_secs(10);
const MIB: f64 = 1024.0 * 1024.0;

pub fn measure(arguments: &Arguments, work: &Path, mainstay: &Mainstay) -> Outcome<Vec<Fact>> {
    let scratch = Scratch::new("bench-failover")?;
    let redis = start_redis(&scratch)?;
    let region = mainstay.with("REDIS_URL", redis.url()).start(work, "mainstay-region")?;
    learn_hit(&region)?;
    let is_stored = || {
        let keys = redis.command(&["EVAL", "return #redis.call('KEYS', '*:{*')", "0"]);
        keys.is_ok_and(|count| count.trim() != "0")
    };
    if !wait_until(PATIENCE, is_stored) {
        return Err("the region leaves nothing in Redis".into());
    }
    drop(region);
    progress("starting failover origins");
    let failover = mainstay.with("MODE", "failover").with("DATABASE_URL", "").with("REDIS_URL", redis.url());
    let starts: Vec<(f64, f64)> = (0..arguments.rounds * 4).map(|_| start(work, &failover)).collect::<Outcome<_>>()?;
    let mut times_ms: Vec<f64> = starts.iter().map(|(ms, _)| *ms).collect();
    times_ms.sort_by(f64::total_cmp);
    let median = times_ms.get(times_ms.len() / 2).copied().unwrap_or(f64::NAN);
    let worst = times_ms.last().copied().unwrap_or(f64::NAN);
    let memory = starts.iter().map(|(_, mib)| *mib).fold(0.0, f64::max);
    let built_in = failover.with_built_in();
    let weights: Vec<f64> = (0..arguments.rounds).map(|_| weigh(work, &built_in)).collect::<Outcome<_>>()?;
    Ok(vec![
        Fact::new("failover origin, exec to first 200, median: ms", median),
        Fact::new("failover origin, exec to first 200, worst: ms", worst).at_most(150.0),
        Fact::new("failover origin, memory before load: MiB", memory).at_most(40.0),
        Fact::new("… with the built-in API: MiB", weights.into_iter().fold(0.0, f64::max)).at_most(40.0),
    ])
}

/// Milliseconds from exec to the first 200, and MiB by then.
fn start(work: &Path, failover: &Mainstay) -> Outcome<(f64, f64)> {
    let site = Site::new(work, "mainstay-failover")?;
    let command = failover.command(&site, &[])?;
    let began = Instant::now();
    let server = site.spawn(command)?;
    loop {
        match Answer::get(&format!("{}{HIT}", server.url), &[]) {
            Ok(answer) if answer.status == 200 => break,
            Ok(answer) if began.elapsed() > PATIENCE => return Err(format!("it answers {}", answer.status).into()),
            Err(error) if began.elapsed() > PATIENCE => return Err(error),
            _ => thread::sleep(Duration::from_millis(1)),
        }
    }
    let took_ms = began.elapsed().as_secs_f64() * 1000.0;
    Ok((took_ms, server.resident_bytes()? / MIB))
}

/// MiB of an origin with the built-in API that nobody has asked for any of it. A second after it answers at all it has made the encodings
/// of its documents, which is the last that it makes by itself.
fn weigh(work: &Path, built_in: &Mainstay) -> Outcome<f64> {
    let site = Site::new(work, "mainstay-failover")?;
    let server = site.spawn(built_in.command(&site, &[])?)?;
    let is_up = || Answer::get(&format!("{}/health/live", server.url), &[]).is_ok_and(|answer| answer.status == 200);
    if !wait_until(PATIENCE, is_up) {
        return Err("a failover origin with the built-in API does not answer".into());
    }
    thread::sleep(Duration::from_secs(1));
    Ok(server.resident_bytes()? / MIB)
}
