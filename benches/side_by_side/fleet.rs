//! Three instances on a primary with a replica: how many ask the database for one cold key, and how soon all of them serve what
//! was committed.

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use mainstay::local::{Postgres, Redis, Scratch};
use tokio::time::sleep;
use tokio_postgres::NoTls;

use crate::client::{self, Client, Reply};
use crate::database::Database;
use crate::fetch::Answer;
use crate::reads::start_redis;
use crate::report::{Fact, Spread};
use crate::servers::{Mainstay, Server};
use crate::{Arguments, Outcome, progress};

const INSTANCES: usize = 3;
/// Requests of a herd.
const HERD: usize = 1000;
/// How often each instance is asked for a value that is to change.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// The longest pause before a commit, several times the interval at which the change feed is asked: commits must not fall into
/// step with it.
const PAUSE_MAX: Duration = Duration::from_millis(130);

/// Instances of one region.
struct Fleet {
    instances: Vec<Server>,
    // Dropped in this order: who uses a server before it, and its folder last.
    _redis: Option<(Redis, Scratch)>,
}

impl Fleet {
    fn start(work: &Path, mainstay: &Mainstay, redis: Option<(Redis, Scratch)>) -> Outcome<Self> {
        let (name, mainstay) = match &redis {
            Some((redis, _)) => ("fleet-redis", mainstay.with("REDIS_URL", redis.url())),
            None => ("fleet", mainstay.clone()),
        };
        let start = |number| mainstay.start(work, &format!("{name}-{number}"));
        Ok(Self { instances: (1..=INSTANCES).map(start).collect::<Outcome<_>>()?, _redis: redis })
    }

    fn urls(&self) -> impl Iterator<Item = &str> {
        self.instances.iter().map(|instance| instance.url.as_str())
    }

    /// How often the source of a route was run, by what the instances say.
    fn fills(&self, route: &str) -> Outcome<f64> {
        let mut fills = 0.0;
        for instance in &self.instances {
            let metrics = Answer::get(&format!("{}/metrics", instance.admin_url), &[])?.body;
            let of_route =
                metrics.lines().filter(|line| line.starts_with("mainstay_fills_total") && line.contains(route));
            fills += of_route.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
        }
        Ok(fills)
    }
}

/// With Redis the herd and the time until a commit is seen, and that time without Redis.
pub fn measure(arguments: &Arguments, work: &Path, mainstay: &Mainstay, database: &Database) -> Outcome<Vec<Fact>> {
    progress("starting a replica, Redis and three instances");
    let (_replica, replica_url): (Postgres, _) = database.replica()?;
    let mainstay = mainstay.with("DATABASE_READ_REPLICA_URL", replica_url);
    let scratch = Scratch::new("bench-fleet")?;
    let fleet = Fleet::start(work, &mainstay, Some((start_redis(&scratch)?, scratch)))?;
    let mut facts = herd(&fleet, arguments.rounds)?;
    let names = ["commit to last of three, Redis, p50: ms", "commit to last of three, Redis, p99: ms"];
    facts.extend(freshness(&fleet, arguments, database, names)?);
    drop(fleet);
    let fleet = Fleet::start(work, &mainstay, None)?;
    let names = ["commit to last of three, no Redis, p50: ms", "commit to last of three, no Redis, p99: ms"];
    facts.extend(freshness(&fleet, arguments, database, names)?);
    Ok(facts)
}

/// Requests for one cold key, over all instances at one moment.
fn herd(fleet: &Fleet, rounds: u16) -> Outcome<Vec<Fact>> {
    let (mut queries, mut times) = (Vec::new(), Vec::new());
    // The first round opens connections, to the database too.
    for round in 0..=rounds {
        let before = fleet.fills("/slow/")?;
        let took = client::run(async {
            let mut clients = Client::connect_all(fleet.urls(), HERD / INSTANCES + 1).await?;
            clients.truncate(HERD);
            let (path, began) = (format!("/slow/{round}"), Instant::now());
            let replies = try_join_all(clients.iter_mut().map(|client| client.get(&path))).await?;
            let took = began.elapsed();
            match replies.iter().find(|reply| !reply.body.starts_with(&format!("{{\"id\":{round},"))) {
                Some(reply) => Err(format!("a request of the herd is answered {}", reply.body).into()),
                None => Ok(took),
            }
        })?;
        let asked = fleet.fills("/slow/")? - before;
        progress(&format!("round {round}: a herd made {asked} queries and was answered after {took:.1?}"));
        if round > 0 {
            queries.push(asked);
            times.push(took.as_secs_f64() * 1000.0);
        }
    }
    let (queries, times) = (Spread::of(queries).ok_or("no rounds")?, Spread::of(times).ok_or("no rounds")?);
    Ok(vec![
        Fact::new("1,000 cold requests at three instances: queries", queries.max).at_most(1.0),
        Fact::new("… with a query of 100 ms, until all are answered: ms", times.median),
    ])
}

/// Commits, each followed by looks at all instances until the last one serves it.
fn freshness(
    fleet: &Fleet,
    arguments: &Arguments,
    database: &Database,
    names: [&'static str; 2],
) -> Outcome<Vec<Fact>> {
    const WARM_UP: usize = 10;
    let commits = WARM_UP + if arguments.quick { 50 } else { 400 };
    progress(&format!("{commits} commits, and how soon three instances serve them"));
    let times = client::run(async {
        let (writer, connection) = tokio_postgres::connect(&database.url, NoTls).await?;
        tokio::spawn(connection);
        let update = writer.prepare("UPDATE counters SET value = value + 1 WHERE id = 1 RETURNING value").await?;
        let mut clients = Client::connect_all(fleet.urls(), 1).await?;
        let mut times = Vec::new();
        for _ in 0..commits {
            sleep(PAUSE_MAX.mul_f64(fastrand::f64())).await;
            try_join_all(clients.iter_mut().map(|client| wait_for(client, Reply::is_fresh_hit))).await?;
            let value: i64 = writer.query_one(&update, &[]).await?.get(0);
            let committed = Instant::now();
            let new = format!("{{\"id\":1,\"value\":{value}}}");
            try_join_all(clients.iter_mut().map(|client| wait_for(client, |reply| reply.body == new))).await?;
            times.push(committed.elapsed().as_secs_f64() * 1000.0);
        }
        Ok(times)
    })?;
    let mut times = times.get(WARM_UP..).unwrap_or_default().to_vec();
    times.sort_by(f64::total_cmp);
    let at = |share: usize| times.get(times.len() * share / 100).copied().ok_or("no commits");
    let [median, slow] = names;
    Ok(vec![Fact::new(median, at(50)?), Fact::new(slow, at(99)?).at_most(100.0)])
}

/// Looks at a counter until it is answered as wanted.
async fn wait_for(client: &mut Client, is_wanted: impl Fn(&Reply) -> bool) -> Outcome<()> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let began = Instant::now();
    loop {
        let reply = client.get("/counters/1").await?;
        if is_wanted(&reply) {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("a counter is still answered {}, {}", reply.body, reply.cache_status).into());
        }
        sleep(LOOK_INTERVAL).await;
    }
}
