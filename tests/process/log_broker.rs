//! Log lines in RabbitMQ: all of them come, and whatever RabbitMQ does slows no request.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use lapin::options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions, QueuePurgeOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use mainstay::local::{RabbitMq, RabbitMqOptions, Scratch, Signal, wait_until};
use serde_json::Value;

use crate::support::{Folder, ONE, Origin, PATIENCE, request};

const QUEUE: &str = "mainstay.logs";

/// A RabbitMQ of a test's own, and whoever reads there.
struct Broker {
    rabbit: RabbitMq,
    scratch: Scratch,
    runtime: tokio::runtime::Runtime,
    reader: Option<(Connection, Channel)>,
}

/// A message, as far as the tests look at it.
#[derive(Debug)]
struct Message {
    line: Value,
    id: String,
}

impl Broker {
    fn start(name: &str, tls: Option<(String, String)>) -> Self {
        let scratch = Scratch::new(name).unwrap();
        let rabbit = RabbitMq::start(&RabbitMqOptions { dir: scratch.join("rabbit"), tls }).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut broker = Self { rabbit, scratch, runtime, reader: None };
        broker.connect();
        broker
    }

    fn connect(&mut self) {
        self.reader = None;
        let url = self.rabbit.url();
        let connect = async {
            let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
            let channel = connection.create_channel().await.unwrap();
            (connection, channel)
        };
        self.reader = Some(self.runtime.block_on(connect));
    }

    fn channel(&self) -> &Channel {
        &self.reader.as_ref().unwrap().1
    }

    /// Makes the durable queue, with a bound where one is given, past which it refuses.
    fn declare(&self, name: &str, messages_max: Option<i32>) {
        let mut arguments = FieldTable::default();
        if let Some(max) = messages_max {
            arguments.insert("x-max-length".into(), AMQPValue::LongInt(max));
            arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        }
        let declare = self.channel().queue_declare(name.into(), QueueDeclareOptions::durable(), arguments);
        self.runtime.block_on(declare).unwrap();
    }

    fn count(&self) -> u32 {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
        let declare = self.channel().queue_declare(QUEUE.into(), passive, FieldTable::default());
        self.runtime.block_on(declare).unwrap().message_count()
    }

    /// All that is in the queue now, taken out.
    fn take(&self) -> Vec<Message> {
        self.runtime.block_on(async {
            let mut messages = Vec::new();
            while let Some(message) = self.channel().basic_get(QUEUE.into(), BasicGetOptions::default()).await.unwrap()
            {
                message.delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
                let properties = &message.delivery.properties;
                assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/json");
                messages.push(Message {
                    line: serde_json::from_slice(&message.delivery.data).unwrap(),
                    id: properties.message_id().as_ref().unwrap().to_string(),
                });
            }
            messages
        })
    }

    fn purge(&self) {
        self.runtime.block_on(self.channel().queue_purge(QUEUE.into(), QueuePurgeOptions::default())).unwrap();
    }

    /// An origin that sends its lines here, a line for each request.
    fn origin(&self, url: &str, env: &[(&str, &str)]) -> Origin {
        let ours = [
            ("LOG_AMQP_URL", url),
            ("LOG_FORMAT", "json"),
            ("MAINSTAY__LOG__ACCESS", "all"),
            ("MAINSTAY__LOG__ACCESS_PER_SECOND_MAX", "1000000"),
            ("MAINSTAY__LOG__AMQP__CONFIRM_TIMEOUT", "2s"),
        ];
        Origin::start(Folder::new(ONE).path(), &[&ours, env].concat())
    }
}

/// Asks so often, each with an id of its own, and says how long the slowest took.
fn ask(origin: &Origin, name: &str, times: u32) -> Duration {
    let ask = |number| {
        let (began, id) = (Instant::now(), format!("{name}-{number}"));
        assert_eq!(request("GET", &format!("{}/one", origin.base), &[("X-Request-Id", &id)], None).status, 503);
        began.elapsed()
    };
    (0..times).map(ask).max().unwrap()
}

fn metric(origin: &Origin, name: &str) -> u64 {
    let metrics = request("GET", &format!("{}/metrics", origin.admin), &[], None).body;
    metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
}

fn is_up(origin: &Origin) -> bool {
    metric(origin, "mainstay_log_amqp_up ") == 1
}

fn dropped(origin: &Origin, reason: &str) -> u64 {
    metric(origin, &format!("mainstay_log_lines_dropped_total{{reason=\"{reason}\",sink=\"amqp\"}} "))
}

fn waiting(origin: &Origin) -> u64 {
    metric(origin, "mainstay_log_buffer_bytes{sink=\"amqp\"} ")
}

/// The requests of a name that messages tell of, each once however often it came.
fn told(messages: &[Message], name: &str) -> BTreeSet<String> {
    let ids = messages.iter().filter_map(|message| message.line["request_id"].as_str());
    ids.filter(|id| id.starts_with(name)).map(str::to_owned).collect()
}

/// All that one server can do to us, one thing after another: it takes two seconds to start.
/// Whoever accepts and says nothing is left alone in time, and nothing of the attempt stays.
#[test]
fn attempts_that_come_to_nothing_are_closed() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqp://logs:word@{}", silent.local_addr().unwrap());
    let env = [("LOG_AMQP_URL", url.as_str()), ("MAINSTAY__LOG__AMQP__CONNECT_TIMEOUT", "200ms")];
    let _origin = Origin::start(Folder::new(ONE).path(), &env);
    for attempt in 1..=3 {
        let (mut accepted, _) = silent.accept().unwrap();
        accepted.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut said = Vec::new();
        // It reads on until the other side closes.
        accepted.read_to_end(&mut said).unwrap_or_else(|error| panic!("attempt {attempt} stays open: {error}"));
        assert!(said.starts_with(b"AMQP"), "{said:?}");
    }
}

#[test]
fn lines_get_to_rabbitmq_whatever_it_does_and_no_request_waits() {
    let mut broker = Broker::start("amqp", None);
    let url = broker.rabbit.url();
    let origin = broker.origin(&url, &[]);

    // There is no queue yet: what comes back is counted, and lost.
    assert!(wait_until(PATIENCE, || dropped(&origin, "unroutable") > 0));
    broker.declare(QUEUE, None);

    ask(&origin, "plain", 20);
    let mut messages = Vec::new();
    let came = wait_until(PATIENCE, || {
        messages.extend(broker.take());
        told(&messages, "plain").len() == 20
    });
    assert!(came, "{messages:?}");
    let (lines, ids) = (messages.len(), messages.iter().map(|message| &message.id).collect::<BTreeSet<_>>().len());
    assert_eq!(lines, ids, "each line has an id of its own");
    let stdout = origin.program.stdout();
    let same = messages
        .iter()
        .all(|message| stdout.lines().any(|line| serde_json::from_str::<Value>(line).unwrap() == message.line));
    assert!(same, "they are the lines of standard output");
    assert!(is_up(&origin));

    // It is killed in the middle of it: what was not confirmed comes again, with the same id.
    ask(&origin, "killed", 50);
    broker.rabbit.server.kill9();
    ask(&origin, "killed-later", 50);
    assert!(wait_until(PATIENCE, || !is_up(&origin)));
    broker.rabbit.server.start().unwrap();
    broker.connect();
    let mut messages = Vec::new();
    let came = wait_until(PATIENCE, || {
        messages.extend(broker.take());
        told(&messages, "killed").len() == 100
    });
    assert!(came, "{} of 100", told(&messages, "killed").len());
    assert!(wait_until(PATIENCE, || is_up(&origin)));

    // It hangs: requests go on, and what they say waits.
    broker.rabbit.server.suspend().unwrap();
    let slowest = ask(&origin, "hung", 50);
    assert!(slowest < Duration::from_secs(2), "a request waited for RabbitMQ: {slowest:?}");
    assert!(wait_until(PATIENCE, || !is_up(&origin)));
    broker.rabbit.server.resume().unwrap();
    broker.connect();
    let mut messages = Vec::new();
    let came = wait_until(PATIENCE, || {
        messages.extend(broker.take());
        told(&messages, "hung").len() == 50
    });
    assert!(came, "{} of 50", told(&messages, "hung").len());

    // The end lets the last ones out.
    let mut origin = origin;
    origin.program.signal(Signal::TERM);
    assert_eq!(origin.program.wait().code(), Some(0));
    let last = broker.take();
    assert!(last.iter().any(|message| message.line["message"] == "stopped"), "{last:?}");
    assert!(!origin.program.output().contains("mainstay:mainstay@"), "the password is in the log");
}

/// A queue that is full refuses. What is refused is kept, up to the buffer, and comes once there is room.
#[test]
fn a_full_queue_is_waited_for_and_the_buffer_has_a_bound() {
    let broker = Broker::start("amqp-full", None);
    broker.declare(QUEUE, Some(10));
    let origin = broker.origin(&broker.rabbit.url(), &[("MAINSTAY__LOG__AMQP__BUFFER_BYTES", "65536")]);
    let is_full = wait_until(PATIENCE, || {
        ask(&origin, "before", 20);
        dropped(&origin, "buffer_full") > 0
    });
    assert!(is_full && !is_up(&origin));
    assert!(broker.count() >= 10 && waiting(&origin) <= 65_536);
    let reads = wait_until(PATIENCE, || {
        broker.purge();
        waiting(&origin) == 0
    });
    assert!(reads, "it does not come back");
    broker.purge();
    assert!(wait_until(PATIENCE, || is_up(&origin)));
    ask(&origin, "after", 5);
    let mut messages = Vec::new();
    assert!(wait_until(PATIENCE, || {
        messages.extend(broker.take());
        told(&messages, "after").len() == 5
    }));
}

#[test]
fn tls_is_checked_and_wrong_settings_are_said() {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = (issued.cert.pem(), issued.signing_key.serialize_pem());
    let broker = Broker::start("amqp-tls", Some(tls.clone()));
    broker.declare(QUEUE, None);
    let roots = broker.scratch.join("roots.pem");
    std::fs::write(&roots, tls.0).unwrap();
    let (url, roots) = (broker.rabbit.tls_url(), roots.to_str().unwrap());
    let trusted = broker.origin(&url, &[("MAINSTAY__LOG__AMQP__TLS_CA_FILE", roots)]);
    assert!(wait_until(PATIENCE, || is_up(&trusted)), "{}", trusted.program.output());
    for (url, roots) in [(url.as_str(), ""), (&url.replace("mainstay@", "hunter2@"), roots)] {
        let mut refused = broker.origin(url, &[("MAINSTAY__LOG__AMQP__TLS_CA_FILE", roots)]);
        refused.program.expect_text("log lines do not get to RabbitMQ");
        assert!(!is_up(&refused));
        assert!(!refused.program.output().contains("hunter2"), "{}", refused.program.output());
    }
}
