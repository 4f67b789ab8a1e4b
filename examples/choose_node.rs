//! A client that chooses among nodes for itself: it asks `/nodes`, ranks them, keeps its choice for a minute, and chooses anew at once
//! where the chosen one fails it.
//!
//!     NODES_TOKEN=… cargo run --example choose_node -- http://127.0.0.1:8080 [ROUNDS]
//!
//! The server needs `nodes.public = true` and `nodes.public_token`; `NODES_TOKEN` is one of those tokens. Here a use is a TCP connection to
//! the node's `endpoint`: whether one that was chosen can be reached from here is what a client finds out for itself.

use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Deserialize;

/// How long a choice is kept.
const CHOICE_TTL: Duration = Duration::from_secs(60);
/// How long a node that failed is passed over.
const PENALTY: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, Deserialize)]
struct Node {
    id: String,
    kind: String,
    endpoint: String,
    region: Option<String>,
    status: String,
    latency_ms: Latency,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Latency {
    p50: Option<f64>,
    p95: Option<f64>,
}

impl Node {
    /// The least is the best: the median counts, and half as much again how far the slow ones are from it. Unmeasured comes last.
    fn rank(&self) -> f64 {
        match (self.latency_ms.p50, self.latency_ms.p95) {
            (Some(p50), Some(p95)) => p50 + 0.5 * (p95 - p50),
            _ => f64::INFINITY,
        }
    }
}

/// Chooses, and remembers.
struct Chooser {
    base: String,
    token: String,
    agent: ureq::Agent,
    chosen: Option<(Node, Instant)>,
    failed: Vec<(String, Instant)>,
}

impl Chooser {
    fn new(base: String, token: String) -> Self {
        let agent = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).build().into();
        Self { base, token, agent, chosen: None, failed: Vec::new() }
    }

    /// The node to use now. The list is asked for once a minute, or when the chosen node has failed.
    fn choose(&mut self, now: Instant) -> Result<Node, String> {
        if let Some((node, since)) = &self.chosen
            && now.duration_since(*since) < CHOICE_TTL
        {
            return Ok(node.clone());
        }
        self.failed.retain(|(_, at)| now.duration_since(*at) < PENALTY);
        let best = self
            .list()?
            .into_iter()
            .filter(|node| node.status == "Online" && self.failed.iter().all(|(id, _)| *id != node.id))
            .min_by(|one, other| one.rank().total_cmp(&other.rank()));
        let node = best.ok_or("no node is online, or all have failed")?;
        self.chosen = Some((node.clone(), now));
        Ok(node)
    }

    /// The node failed: it is passed over for a while, and the next choice is made afresh.
    fn failed(&mut self, node: &Node, now: Instant) {
        self.failed.push((node.id.clone(), now));
        self.chosen = None;
    }

    fn list(&self) -> Result<Vec<Node>, String> {
        let request = self.agent.get(format!("{}/nodes", self.base));
        let answer = request.header("Authorization", format!("Bearer {}", self.token)).call();
        let text = answer.and_then(|mut answer| answer.body_mut().read_to_string());
        let text = text.map_err(|error| format!("{}/nodes: {error}", self.base))?;
        serde_json::from_str(&text).map_err(|error| format!("{}/nodes: {error}", self.base))
    }
}

/// What a client would do with the node.
fn connect(node: &Node) -> Result<Duration, String> {
    let began = Instant::now();
    let addresses = node.endpoint.to_socket_addrs().map_err(|error| error.to_string())?;
    let mut last = "the name has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(_) => return Ok(began.elapsed()),
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

/// One use, on another node where the chosen one fails.
#[expect(clippy::print_stdout, reason = "it is what the program is for")]
fn use_one(chooser: &mut Chooser) -> Result<(), String> {
    loop {
        let now = Instant::now();
        let node = chooser.choose(now)?;
        let (id, kind, region) = (&node.id, &node.kind, node.region.as_deref().unwrap_or("region unknown"));
        match connect(&node) {
            Ok(took) => {
                println!("{id} ({kind}, {region}) at {}: {:.1} ms", node.endpoint, took.as_secs_f64() * 1000.0);
                return Ok(());
            }
            Err(error) => {
                println!("{id} ({kind}, {region}) at {}: {error}; choosing anew", node.endpoint);
                chooser.failed(&node, now);
            }
        }
    }
}

#[expect(clippy::print_stderr, reason = "where a program says why it ends")]
fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(base), token) = (args.next(), std::env::var("NODES_TOKEN").unwrap_or_default()) else {
        eprintln!("usage: NODES_TOKEN=… choose_node http://HOST:PORT [ROUNDS]");
        return ExitCode::from(64);
    };
    let rounds: u32 = args.next().and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
    let mut chooser = Chooser::new(base, token);
    for _ in 0..rounds {
        if let Err(error) = use_one(&mut chooser) {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
