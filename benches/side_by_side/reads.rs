//! Answers out of a database or out of Redis, beside what that gives to its own load generator.

use std::path::Path;
use std::time::Duration;

use mainstay::local::{Redis, RedisOptions, Scratch, wait_until};

use crate::database::{self, Database};
use crate::fetch::Answer;
use crate::load::{self, Numbered, Sample};
use crate::report::Series;
use crate::servers::{Mainstay, Server, tool};
use crate::{Arguments, Outcome, client, progress};

const ACCOUNTS: Numbered = Numbered { path: "/accounts/", max: database::ACCOUNTS };
const BLOBS: Numbered = Numbered { path: "/blobs/", max: 20_000 };

/// Reads past the cache, beside the same reads by pgbench.
pub fn of_database(arguments: &Arguments, mainstay: &Server, database: &Database) -> Outcome<Vec<Series>> {
    let seconds = arguments.turn_s();
    is_uncached(mainstay)?;
    alternate(arguments, ("pgbench", || database.pgbench(seconds)), || {
        load::fixed_time(mainstay, ACCOUNTS, seconds, database::CONNECTIONS)
    })
}

fn is_uncached(mainstay: &Server) -> Outcome<()> {
    let account = Answer::get(&format!("{}{}7", mainstay.url, ACCOUNTS.path), &[])?;
    let stored = account.header("cache-status").is_some_and(|status| status.contains("stored"));
    if account.status != 200 || stored || !account.body.contains("\"abalance\"") {
        return Err(format!("account 7 is answered {} {}, stored: {stored}", account.status, account.body).into());
    }
    Ok(())
}

/// Hits in L2 of an instance that keeps nothing itself, beside GETs of values as long.
pub fn of_redis(arguments: &Arguments, work: &Path, mainstay: &Mainstay) -> Outcome<Vec<Series>> {
    let scratch = Scratch::new("bench-redis")?;
    let redis = start_redis(&scratch)?;
    let mainstay = mainstay.with("REDIS_URL", redis.url()).with("MAINSTAY__CACHE__MEMORY_BYTES_MAX", 1);
    let server = mainstay.start(work, "mainstay-l2")?;
    progress(&format!("filling L2 with {} answers", BLOBS.max));
    client::run(client::ask_all(&server.url, BLOBS))?;
    if !wait_until(Duration::from_secs(10), || is_shared_hit(&server).unwrap_or(false)) {
        return Err("what was filled is not served from L2".into());
    }
    let yardstick = Yardstick { bytes: value_bytes(&redis)?, connections: arguments.connections, redis };
    let seconds = arguments.turn_s();
    yardstick.run("set", 1000)?;
    let count = yardstick.run("get", 50_000)?.requests_per_s * f64::from(seconds);
    let series = alternate(arguments, ("redis-benchmark", || yardstick.run("get", count as u64)), || {
        load::fixed_time(&server, BLOBS, seconds, arguments.connections)
    })?;
    let (own, shared) = (hits(&server, "L1")?, hits(&server, "L2")?);
    if own * 100.0 > shared { Err(format!("{own} hits were in L1, {shared} in L2").into()) } else { Ok(series) }
}

/// Hits in a layer since the start.
fn hits(server: &Server, layer: &str) -> Outcome<f64> {
    let stats = server.operate("/admin/cache/stats", None)?;
    let hits = stats.pointer(&format!("/lookups/{layer}/hit")).and_then(serde_json::Value::as_f64);
    Ok(hits.ok_or_else(|| format!("no hits of {layer} in {stats}"))?)
}

pub fn start_redis(scratch: &Scratch) -> Outcome<Redis> {
    let redis = Redis::start(&RedisOptions::new(scratch.join("redis")))?;
    redis.ok_or_else(|| "redis-server is missing; run scripts/install-deps bench".into())
}

fn is_shared_hit(server: &Server) -> Outcome<bool> {
    let answer = Answer::get(&format!("{}{}1", server.url, BLOBS.path), &[])?;
    Ok(answer.header("cache-status").is_some_and(|status| status.contains("; hit") && status.ends_with("detail=L2")))
}

/// How long the value of an entry is, as Redis has it.
fn value_bytes(redis: &Redis) -> Outcome<u64> {
    let mut script = String::from("local longest = 0 for _, key in ipairs(redis.call('KEYS', '*:{*')) do ");
    script += "if redis.call('TYPE', key).ok == 'string' then longest = math.max(longest, redis.call('STRLEN', key)) end end ";
    script += "return tostring(longest)";
    Ok(redis.command(&["EVAL", &script, "0"])?.parse()?)
}

/// redis-benchmark on the same Redis, over as many connections, without pipelining.
struct Yardstick {
    redis: Redis,
    bytes: u64,
    connections: usize,
}

impl Yardstick {
    fn run(&self, test: &str, count: u64) -> Outcome<Sample> {
        let mut command = tool("redis-benchmark");
        command.args(["--csv", "-t", test, "-p", &self.redis.server.port().to_string()]);
        command.args(["-c", &self.connections.to_string(), "-n", &count.to_string(), "-d", &self.bytes.to_string()]);
        let output = load::run(command)?;
        // "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms",…
        let line = output.lines().last().unwrap_or_default();
        let fields: Vec<f64> = line.split(',').filter_map(|field| field.trim_matches('"').parse().ok()).collect();
        let [rate, _, _, _, _, p99_ms, ..] = fields[..] else {
            return Err(format!("redis-benchmark printed {line}").into());
        };
        Ok(Sample {
            requests: count as f64,
            requests_per_s: rate,
            p99_us: Some(p99_ms * 1000.0),
            cpu_us_per_request: None,
        })
    }
}

/// A first turn of each that does not count, and then the rounds.
fn alternate(
    arguments: &Arguments,
    (name, yardstick): (&'static str, impl Fn() -> Outcome<Sample>),
    mainstay: impl Fn() -> Outcome<Sample>,
) -> Outcome<Vec<Series>> {
    let mut series = [name, "mainstay"].map(|name| Series { name, samples: Vec::new() });
    for round in 0..=arguments.rounds {
        let samples = [yardstick()?, mainstay()?];
        let [straight, through] = samples.map(|sample| sample.requests_per_s);
        progress(&format!("round {round}: {name} {straight:.0}/s, mainstay {through:.0}/s"));
        if round > 0 {
            series.iter_mut().zip(samples).for_each(|(one, sample)| one.samples.push(sample));
        }
    }
    Ok(series.into())
}
