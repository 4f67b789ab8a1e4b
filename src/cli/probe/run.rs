//! Asking: regions side by side, the requests of one after each other.

use std::sync::Arc;

use futures_util::future::join_all;

use super::connection::{Answer, Connection, Trouble, Way};
use super::tally::{PathTally, Tally};
use super::{Failure, ProbeArgs, Shown};
use crate::cli::progress::Progress;
use crate::config::ConfigError;
use crate::database::target::TlsMode;
use crate::database::tls;

/// Requests in a row without any answer, after which a region is left alone. The others are not to wait for one that is dead.
const UNANSWERED_MAX: u32 = 3;

/// Asks all regions for all paths.
///
/// # Errors
/// Where TLS cannot be set up.
pub(super) fn run(args: &ProbeArgs) -> Result<Vec<Tally>, Failure> {
    let (targets, paths) = (args.targets(), args.paths());
    let has_tls = targets.iter().any(|target| target.url.scheme() == "https");
    let tls = if has_tls { tls::client_config(TlsMode::VerifyFull, args.ca_file.as_deref()) } else { tls::no_roots() };
    let mut tls = tls.map_err(|error| ConfigError::new(format!("--ca-file: {error}")))?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tls = Arc::new(tls);
    let all = u64::try_from(targets.len() * paths.len()).unwrap_or(0).saturating_mul(u64::from(args.requests) + 1);
    let progress = Progress::of(Some(all), "requests", Shown::unless(args.json));
    let probes = targets.iter().map(|target| {
        let way = Way { target, tls: Arc::clone(&tls), timeout: args.timeout, headers: &args.headers };
        let probe =
            Probe { way, connection: None, tally: Tally::new(&target.name), unanswered: 0, progress: &progress };
        probe.run(&paths, args.requests)
    });
    let tallies = actix_rt::System::new().block_on(join_all(probes));
    Ok(tallies)
}

/// The probe of one region.
struct Probe<'a> {
    way: Way<'a>,
    connection: Option<Connection>,
    tally: Tally,
    unanswered: u32,
    progress: &'a Progress,
}

impl Probe<'_> {
    async fn run(mut self, paths: &[String], requests: u32) -> Tally {
        self.tally.address = self.way.target.address;
        for path in paths {
            let mut seen = PathTally::of(path);
            for number in 0..=requests {
                if self.tally.given_up.is_some() {
                    break;
                }
                self.request(&mut seen, path, number == 0).await;
                self.progress.inc(1);
            }
            self.tally.paths.push(seen);
        }
        self.tally
    }

    async fn request(&mut self, seen: &mut PathTally, path: &str, is_first: bool) {
        match self.ask(path).await {
            Ok(answer) => {
                self.unanswered = 0;
                self.tally.take(seen, &answer, is_first);
            }
            Err(trouble) => {
                self.unanswered += 1;
                if self.unanswered == UNANSWERED_MAX {
                    self.tally.given_up = Some(trouble.clone());
                }
                *seen.failures.entry(trouble).or_default() += 1;
            }
        }
    }

    /// Asks over the connection that there is, else over a new one. It is never idle, so that it breaks off is the region's doing.
    async fn ask(&mut self, path: &str) -> Result<Answer, Trouble> {
        let kept = match self.connection.take() {
            Some(connection) => connection.still_open().await,
            None => None,
        };
        let mut connection = match kept {
            Some(connection) => connection,
            None => {
                let (connection, connected) = self.way.connect().await?;
                self.tally.address = Some(connected.address);
                self.tally.connects.push(connected);
                connection
            }
        };
        let answer = self.way.ask(&mut connection, path).await?;
        self.connection = Some(connection);
        Ok(answer)
    }
}
