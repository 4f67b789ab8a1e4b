//! The throwaway Postgres behind Mainstay with its replica, and pgbench, which shows how fast it can be read.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use mainstay::local::{Postgres, PostgresOptions, ReplicaOptions, Scratch};

use crate::Outcome;
use crate::load::{Sample, run};
use crate::servers::tool;

/// Connections of the reads past the cache, of Mainstay's clients and of pgbench alike.
pub const CONNECTIONS: usize = 16;
const SCALE: u32 = 10;
/// pgbench makes so many for each unit of its scale.
pub const ACCOUNTS: u32 = SCALE * 100_000;

/// A running cluster with the tables of pgbench, and one of counters.
pub struct Database {
    pub url: String,
    pgbench: PathBuf,
    // Dropped in this order: the server first, then its folder.
    postgres: Postgres,
    scratch: Scratch,
}

impl Database {
    pub fn start() -> Outcome<Self> {
        let scratch = Scratch::new("bench")?;
        // The accounts stay in memory: what is compared is the way to the database, not its disk.
        let postgres = Postgres::primary(PostgresOptions::new(scratch.path()).setting("shared_buffers", "256MB"))?;
        let database =
            Self { url: postgres.url("postgres", "postgres"), pgbench: postgres.program("pgbench"), postgres, scratch };
        database.run_pgbench(&["-i", "-q", "-s", &SCALE.to_string()])?;
        let counters = "CREATE TABLE counters (id bigint PRIMARY KEY, value bigint NOT NULL);
            INSERT INTO counters VALUES (1, 0)";
        database.postgres.psql("postgres", counters)?;
        Ok(database)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.postgres.server.port()).into()
    }

    /// A streaming replica, for as long as it is kept, and its URL.
    pub fn replica(&self) -> Outcome<(Postgres, String)> {
        let replica = self.postgres.replica(ReplicaOptions::new(self.scratch.join("replica")))?;
        let url = replica.url("postgres", "postgres");
        Ok((replica, url))
    }

    /// Reads random accounts for some time, each by its primary key.
    pub fn pgbench(&self, seconds: u32) -> Outcome<Sample> {
        let (connections, seconds) = (CONNECTIONS.to_string(), seconds.to_string());
        let output =
            self.run_pgbench(&["-S", "-M", "prepared", "-n", "-j", "1", "-c", &connections, "-T", &seconds])?;
        let field = |name: &str| -> Outcome<f64> {
            let value = output.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
            Ok(value.ok_or_else(|| format!("pgbench printed no {name:?}"))?.parse()?)
        };
        Ok(Sample {
            requests: field("number of transactions actually processed:")?,
            requests_per_s: field("tps =")?,
            p99_us: None,
            cpu_us_per_request: None,
        })
    }

    fn run_pgbench(&self, arguments: &[&str]) -> Outcome<String> {
        let mut command = tool(&self.pgbench);
        command.args(arguments).arg(&self.url);
        run(command)
    }
}
