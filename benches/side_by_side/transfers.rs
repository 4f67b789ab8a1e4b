//! Transfers over HTTP, each an effect that is kept under a key, beside the transactions of pgbench on the same server: as durable,
//! from as many clients.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use mainstay::auth::keys::{self, NewKey};
use mainstay::config::settings::{Layers, Settings};
use mainstay::database::maintenance::MaintenancePool;
use mainstay::local::{Postgres, PostgresOptions, Scratch};
use serde::Serialize;

use crate::client::{self, Client};
use crate::load::run;
use crate::report::Spread;
use crate::servers::{Mainstay, tool};
use crate::{Arguments, Outcome, progress};

const ROUTES: &str = r#"
[[route]]
path = "/public/blob"
sql = "SELECT 1 AS one"

[[route]]
path = "/api/v1/transfers"
methods = ["POST"]
handler = "ramp.transfers.create"
auth = "key"
"#;
const CLIENTS: [usize; 3] = [1, 8, 64];
/// Of pgbench: a million accounts, ten branches.
const SCALE: &str = "10";
/// Who receives money. Senders are one for each client, or one for all of them.
const RECIPIENTS: usize = 1000;
/// A fee comes on top of it, so that there are three entries.
const AMOUNT: i64 = 100_000;
const FUNDS: i64 = 900_000_000_000_000;
/// How long a client rests that was refused.
const REST: Duration = Duration::from_millis(10);

/// What one kind of transaction came to from so many clients.
#[derive(Serialize)]
pub struct Row {
    what: &'static str,
    clients: usize,
    turns: Vec<Turn>,
}

/// Of one turn.
#[derive(Serialize)]
struct Turn {
    per_s: f64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    refused: usize,
}

/// Who transfers: where from, and to whom.
struct Site {
    url: String,
    recipients: Vec<String>,
    senders: Vec<String>,
    number: Cell<u64>,
}

pub fn measure(arguments: &Arguments, work: &Path, mainstay: &Path) -> Outcome<Vec<Row>> {
    progress("starting a Postgres that waits for its disk (fsync = on)");
    let scratch = Scratch::new("bench-transfers")?;
    let options = PostgresOptions::new(scratch.path()).setting("fsync", "on").setting("shared_buffers", "256MB");
    let postgres = Postgres::primary(options)?;
    postgres.psql("postgres", "CREATE DATABASE ramp")?;
    let url = postgres.url("postgres", "ramp");
    let mainstay = Mainstay::new(mainstay, &url).with_routes(ROUTES);
    mainstay.migrate(work)?;
    let site = Site::new(work, &postgres, &url)?;
    let server = mainstay.start(work, "mainstay-transfers")?;
    let site = Site { url: server.url.clone(), ..site };
    pgbench(&postgres, &["-i", "-q", "-s", SCALE])?;

    let contestants = ["pgbench, TPC-B-like", "transfers of many", "transfers of one"];
    let kinds = CLIENTS.into_iter().flat_map(|clients| contestants.map(|what| (what, clients)));
    let mut rows: Vec<Row> = kinds.map(|(what, clients)| Row { what, clients, turns: Vec::new() }).collect();
    for round in 0..=arguments.rounds {
        let first = usize::from(round) % rows.len();
        for offset in 0..rows.len() {
            let at = (first + offset) % rows.len();
            let Some(row) = rows.get_mut(at) else { continue };
            let turn = match row.what {
                "transfers of many" => site.transfer(row.clients, false, arguments.turn()),
                "transfers of one" => site.transfer(row.clients, true, arguments.turn()),
                _ => tpc_b(&postgres, row.clients, arguments.turn_s()),
            }?;
            progress(&format!("round {round}: {}, {} clients: {:.0}/s", row.what, row.clients, turn.per_s));
            // The first round warms up.
            if round > 0 {
                row.turns.push(turn);
            }
        }
    }
    let discrepancies = postgres.psql("ramp", "SELECT * FROM ramp.ledger_discrepancies")?;
    if discrepancies.trim().is_empty() { Ok(rows) } else { Err(format!("money is missing: {discrepancies}").into()) }
}

impl Site {
    /// Customers with money, and with keys.
    fn new(work: &Path, postgres: &Postgres, url: &str) -> Outcome<Self> {
        postgres.psql("ramp", "UPDATE ramp.kyc_limits SET per_day = 9e18::bigint")?;
        let accounts = |count: usize| -> Outcome<Vec<String>> {
            let insert = format!(
                "INSERT INTO ramp.accounts (name, kyc_tier) SELECT 'bench', 2 FROM generate_series(1, {count}) RETURNING id"
            );
            Ok(postgres.psql("ramp", &insert)?.lines().map(str::to_owned).collect())
        };
        let recipients = accounts(RECIPIENTS)?;
        let env = HashMap::from([("DATABASE_URL".to_owned(), url.to_owned())]);
        let settings = Settings::load(Layers { dir: work, env, flags: Vec::new() })?;
        let mut conn = MaintenancePool::open(&settings.database)?.get()?;
        let mut senders = Vec::new();
        for account in accounts(CLIENTS.into_iter().max().unwrap_or(1))? {
            let fund = format!(
                "SELECT ramp.post(gen_random_uuid(), 'test', false, ARRAY['clearing:bench', '{account}'], ARRAY['USD', 'USD'], \
                 ARRAY[-{FUNDS}, {FUNDS}])"
            );
            postgres.psql("ramp", &fund)?;
            let key = NewKey { name: "bench".to_owned(), owner: Some(account), ..NewKey::default() };
            senders.push(keys::create(&mut conn, &key)?.api_key.expose().to_owned());
        }
        Ok(Self { url: String::new(), recipients, senders, number: Cell::new(0) })
    }

    /// Transfers for so long, each client as fast as it is answered.
    fn transfer(&self, clients: usize, is_one_sender: bool, time: Duration) -> Outcome<Turn> {
        client::run(async {
            let connections = Client::connect_all([&*self.url], clients).await?;
            let began = Instant::now();
            let work = connections.into_iter().enumerate().map(async |(number, mut client)| {
                let sender = self.senders.get(if is_one_sender { 0 } else { number }).ok_or("no sender")?;
                let (mut times, mut refused) = (Vec::new(), 0);
                while began.elapsed() < time {
                    let asked = Instant::now();
                    match self.send(&mut client, sender).await? {
                        201 => times.push(asked.elapsed().as_secs_f64() * 1000.0),
                        503 => {
                            refused += 1;
                            tokio::time::sleep(REST).await;
                        }
                        status => return Err(format!("a transfer is answered {status}").into()),
                    }
                }
                Outcome::Ok((times, refused))
            });
            let all = try_join_all(work).await?;
            let elapsed = began.elapsed().as_secs_f64();
            let refused = all.iter().map(|(_, refused)| refused).sum();
            let mut times: Vec<f64> = all.into_iter().flat_map(|(times, _)| times).collect();
            times.sort_by(f64::total_cmp);
            let at = |share: usize| times.get(times.len() * share / 100).copied();
            Ok(Turn { per_s: times.len() as f64 / elapsed, p50_ms: at(50), p99_ms: at(99), refused })
        })
    }

    async fn send(&self, client: &mut Client, sender: &str) -> Outcome<u16> {
        let number = self.number.get();
        self.number.set(number + 1);
        let recipient = usize::try_from(number)? % self.recipients.len().max(1);
        let to = self.recipients.get(recipient).ok_or("no recipient")?;
        let body = format!(r#"{{"to_account_id":"{to}","amount":{AMOUNT},"currency":"USD"}}"#);
        let headers = format!(
            "Authorization: Bearer {sender}\r\nIdempotency-Key: {number}\r\nContent-Type: application/json\r\n"
        );
        Ok(client.send("POST", "/api/v1/transfers", &headers, &body).await?.0)
    }
}

/// pgbench's own transaction, prepared: three updates, a read and an insert.
fn tpc_b(postgres: &Postgres, clients: usize, seconds: u32) -> Outcome<Turn> {
    let (clients, seconds) = (clients.to_string(), seconds.to_string());
    let output = pgbench(postgres, &["-M", "prepared", "-n", "-j", "1", "-c", &clients, "-T", &seconds])?;
    let field = |name: &str| -> Outcome<f64> {
        let value = output.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
        Ok(value.ok_or_else(|| format!("pgbench printed no {name:?}"))?.parse()?)
    };
    Ok(Turn { per_s: field("tps =")?, p50_ms: None, p99_ms: None, refused: 0 })
}

fn pgbench(postgres: &Postgres, arguments: &[&str]) -> Outcome<String> {
    let mut command = tool(postgres.program("pgbench"));
    command.args(arguments).arg(postgres.url("postgres", "postgres"));
    run(command)
}

/// As a table.
pub fn to_text(rows: &[Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut text =
        "\nTransfers over HTTP and transactions of pgbench, fsync = on, synchronous_commit = on: per second\n"
            .to_owned();
    text += &format!("{:<24}{:>8}{:>8}{:>8}{:>8}", "", "clients", "min", "median", "max");
    text += &format!("{:>9}{:>9}{:>9}{:>9}\n", "share", "p50 ms", "p99 ms", "503");
    let rate = |row: &Row| Spread::of(row.turns.iter().map(|turn| turn.per_s).collect());
    for row in rows {
        let Some(Spread { min, median, max }) = rate(row) else { continue };
        let yardstick = rows.iter().find(|other| other.clients == row.clients && other.what.starts_with("pgbench"));
        let share = yardstick.and_then(rate).map(|other| median / other.median);
        let of = |value: fn(&Turn) -> Option<f64>| Spread::of(row.turns.iter().filter_map(value).collect());
        let [p50, p99] = [of(|turn| turn.p50_ms), of(|turn| turn.p99_ms)];
        let cell = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
        let refused: usize = row.turns.iter().map(|turn| turn.refused).sum();
        text += &format!("{:<24}{:>8}{min:>8.0}{median:>8.0}{max:>8.0}", row.what, row.clients);
        let medians = [share, p50.map(|spread| spread.median), p99.map(|spread| spread.median)].map(cell);
        text += &format!("{:>9}{:>9}{:>9}{refused:>9}\n", medians[0], medians[1], medians[2]);
    }
    text
}
