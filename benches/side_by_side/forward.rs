//! A write by an origin that is 80 ms away from the primary: statement by statement over the long way, and forwarded whole to the
//! origin in the primary's region.
//!
//! The origins are this very program, with a handler that writes: the built-in ones only read.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use mainstay::local::Proxy;
use mainstay::{Abort, Answer, Call, Error};

use crate::client::{self, Client};
use crate::database::Database;
use crate::report::Fact;
use crate::servers::{Mainstay, Server};
use crate::{Arguments, Outcome, progress};

/// In the environment of an origin.
pub const ROLE: &str = "BENCH_ORIGIN";

const ROUTES: &str = concat!(
    include_str!("routes.toml"),
    r#"
[[route]]
path = "/transfers"
methods = ["POST"]
handler = "transfer"
"#
);
/// From one region to the other, one way.
const DISTANCE: Duration = Duration::from_millis(40);
/// Connections are opened and statements prepared by the first ones, which are not measured.
const WARM_UP: usize = 10;

/// Serves as an origin.
pub fn serve() -> ExitCode {
    mainstay::Builder::new().handler("transfer", transfer).main()
}

/// What pgbench does by default, but for its read: four statements in one transaction. Each is one crossing: they are not
/// prepared, which would take the long way twice as often.
async fn transfer(call: Call) -> Result<Answer, Error> {
    const STATEMENTS: [&str; 4] = [
        "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 1",
        "UPDATE pgbench_tellers SET tbalance = tbalance + 1 WHERE tid = 1",
        "UPDATE pgbench_branches SET bbalance = bbalance + 1 WHERE bid = 1",
        "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 1, 1, 1, now())",
    ];
    let work = async |conn: &mut AsyncPgConnection| -> Result<(), Abort> {
        for statement in STATEMENTS {
            conn.batch_execute(statement).await?;
        }
        Ok(())
    };
    call.write(work).await?;
    Answer::json(&"done")
}

pub fn measure(arguments: &Arguments, work: &Path, database: &Database) -> Outcome<Vec<Fact>> {
    progress("starting origins that are 80 ms apart");
    let this = std::env::current_exe()?;
    let origin = |url: &str| Mainstay::new(&this, url).with(ROLE, 1).with_routes(ROUTES);
    let near = origin(&database.url).start(work, "forward-near")?;
    let to_database = far(database.address())?;
    let url = format!("postgres://postgres@{}/postgres", to_database.address());
    let direct = origin(&url).start(work, "forward-direct")?;
    let to_origin = far(near.url.trim_start_matches("http://").parse()?)?;
    let primary_origin = format!("http://{}", to_origin.address());
    let forwarding = origin(&url).with("PRIMARY_ORIGIN", primary_origin).start(work, "forward-forwarding")?;
    let servers = [&near, &direct, &forwarding];
    let names = [
        ["write of 4 statements in the primary's region, p50: ms", "… p99: ms"],
        ["… from 80 ms away, statement by statement, p50: ms", "… p99: ms"],
        ["… from 80 ms away, forwarded, p50: ms", "… p99: ms"],
    ];
    let count = if arguments.quick { 20 } else { 200 };
    let facts = servers.into_iter().zip(names).map(|(server, names)| time(server, count, names));
    Ok(facts.collect::<Outcome<Vec<_>>>()?.concat())
}

/// The way to an address in the other region.
fn far(address: SocketAddr) -> Outcome<Proxy> {
    let way = Proxy::start(address)?;
    way.set_delay(DISTANCE);
    Ok(way)
}

/// Writes one after another.
fn time(server: &Server, count: usize, [median, slow]: [&'static str; 2]) -> Outcome<Vec<Fact>> {
    let mut times = client::run(async {
        let mut client = Client::connect(&server.url).await?;
        let mut times = Vec::new();
        for number in 0..WARM_UP + count {
            let began = Instant::now();
            client.post("/transfers").await?;
            if number >= WARM_UP {
                times.push(began.elapsed().as_secs_f64() * 1000.0);
            }
        }
        Ok(times)
    })?;
    times.sort_by(f64::total_cmp);
    let at = |share: usize| times.get(times.len() * share / 100).copied().ok_or("no writes");
    progress(&format!("{median} {:.1}", at(50)?));
    Ok(vec![Fact::new(median, at(50)?), Fact::new(slow, at(99)?)])
}
