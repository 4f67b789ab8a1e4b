//! Lines to RabbitMQ, each as a message that it has to confirm. What it has not confirmed is sent again, with the same message id,
//! by which a pipeline knows a line that it has already.

use std::convert::Infallible;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::tcp::OwnedTLSConfig;
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, DefaultConnectionBuilder};
use tokio::time::timeout;

use super::queue::Queue;
use crate::config::ConfigError;
use crate::config::logs::AmqpSettings;
use crate::telemetry::metrics::LogDropped;
use crate::telemetry::sparing::Sparing;

/// Lines that are on their way at once are no more bytes than this.
const BATCH_BYTES_MAX: usize = 256 * 1024;
/// How long a line is waited for before the connection is looked at.
const WAIT: Duration = Duration::from_secs(1);
/// How long RabbitMQ is left alone after a failure, at first and at most.
const REST: Duration = Duration::from_millis(250);
const REST_MAX: Duration = Duration::from_secs(10);
/// A message that outlives a restart of RabbitMQ.
const PERSISTENT: u8 = 2;
/// What those say that carry lines there would have to be carried there in turn.
const CARRIERS: [&str; 2] = ["mio", "rustls"];

/// Lines on their way to RabbitMQ.
pub(super) struct Sink {
    queue: Queue,
    settings: AmqpSettings,
    connection_name: String,
    /// Tells this process's messages from those of all others.
    process: u64,
    is_up: AtomicBool,
    said: Sparing<()>,
}

/// Connects from a thread of its own, and keeps at it until the process ends.
///
/// # Errors
/// Where the URL or the roots cannot be used, or there can be no more threads.
pub(super) fn start(settings: &AmqpSettings, instance: &str) -> Result<Arc<Sink>, ConfigError> {
    let sink = Arc::new(Sink {
        queue: Queue::new(settings.buffer_bytes),
        settings: settings.clone(),
        connection_name: format!("mainstay {instance}"),
        process: fastrand::u64(..),
        is_up: AtomicBool::new(false),
        said: Sparing::default(),
    });
    sink.uri().map_err(|error| ConfigError::new(format!("log.amqp.url: {error}")))?;
    sink.tls().map_err(|error| ConfigError::new(format!("log.amqp.tls_ca_file: {error}")))?;
    let no_thread = |error: std::io::Error| ConfigError::new(format!("log.amqp: {error}"));
    let sender = Arc::clone(&sink);
    let send = move || match sender.keep_sending() {};
    std::thread::Builder::new().name("log-amqp".to_owned()).spawn(send).map_err(no_thread)?;
    Ok(sink)
}

impl Sink {
    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Whether RabbitMQ takes lines.
    pub(super) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    pub(super) fn push(&self, target: &str, line: Bytes) {
        let module = target.split("::").next().unwrap_or_default();
        if !CARRIERS.contains(&module) {
            self.queue.push(line);
        }
    }

    fn uri(&self) -> Result<AMQPUri, &'static str> {
        // What is wrong with it is not said: its words may be those of the password.
        self.settings.url.current().expose().parse().map_err(|_| "is no URL like amqps://user:password@host/vhost")
    }

    /// The roots that a server's certificate may lead to, beside the system's.
    fn tls(&self) -> Result<OwnedTLSConfig, String> {
        let file = &self.settings.tls_ca_file;
        let read = |file| fs::read_to_string(file).map_err(|error| format!("cannot read {file}: {error}"));
        Ok(OwnedTLSConfig { identity: None, cert_chain: (!file.is_empty()).then(|| read(file)).transpose()? })
    }

    /// One connection after another, with rests that grow while none of them gets a line through.
    fn keep_sending(self: Arc<Self>) -> Infallible {
        let mut rest = REST;
        loop {
            let reason = self.send_until_it_fails(&mut rest);
            self.is_up.store(false, Ordering::Relaxed);
            if let Some(kept_back) = self.said.may_say(Instant::now(), ()) {
                log::warn!(kept_back; "log lines do not get to RabbitMQ: {reason}");
            }
            sleep(rest.mul_f64(0.75 + 0.5 * fastrand::f64()));
            rest = (rest * 2).min(REST_MAX);
        }
    }

    /// Says why a connection came to its end. Each has a runtime of its own, since `lapin` reads and writes in a thread of its own,
    /// which outlives whoever gave up waiting: where the other side says nothing, only the end of the runtime ends it, and closes
    /// its socket.
    fn send_until_it_fails(self: &Arc<Self>, rest: &mut Duration) -> String {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return error.to_string(),
        };
        let Err(reason) = runtime.block_on(self.send_on_connection(rest));
        runtime.shutdown_background();
        reason
    }

    /// Sends what is queued, until the connection is of no use any more.
    async fn send_on_connection(self: &Arc<Self>, rest: &mut Duration) -> Result<Infallible, String> {
        let connect = timeout(self.settings.connect_timeout.0, self.connect());
        let (connection, channel) = connect.await.map_err(|_| "it does not answer in time".to_owned())??;
        loop {
            let this = Arc::clone(self);
            let first = tokio::task::spawn_blocking(move || this.queue.first(BATCH_BYTES_MAX, WAIT));
            let (number, lines) = first.await.map_err(|error| error.to_string())?;
            if !connection.status().connected() || !channel.status().connected() {
                return Err("the connection was closed".to_owned());
            }
            if lines.is_empty() {
                self.is_up.store(true, Ordering::Relaxed);
                continue;
            }
            let sent = timeout(self.settings.confirm_timeout.0, self.send(&channel, number, &lines));
            let confirmed = sent.await.map_err(|_| "it does not confirm in time".to_owned())??;
            if confirmed > 0 {
                *rest = REST;
            }
            if confirmed < lines.len() {
                return Err("it refuses them, as a queue that is full does".to_owned());
            }
            self.is_up.store(true, Ordering::Relaxed);
        }
    }

    async fn connect(&self) -> Result<(Connection, Channel), String> {
        let uri = self.uri()?;
        let tls = self.tls()?;
        let properties = ConnectionProperties::default().with_connection_name(self.connection_name.clone().into());
        let builder = DefaultConnectionBuilder::new().map_err(|error| error.to_string())?;
        let builder = builder.with_uri(uri).with_properties(properties).with_tls_config(tls);
        let connection = builder.connect().await.map_err(|error| error.to_string())?;
        let channel = connection.create_channel().await.map_err(|error| error.to_string())?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(|error| error.to_string())?;
        Ok((connection, channel))
    }

    /// Sends lines, and takes out of the queue those that are confirmed, from the first to the first that is not. Says how many.
    async fn send(&self, channel: &Channel, number: u64, lines: &[Bytes]) -> Result<usize, String> {
        let mut sent = Vec::with_capacity(lines.len());
        for (number, line) in (number..).zip(lines) {
            let (exchange, key) = (self.settings.exchange.as_str(), self.settings.routing_key.as_str());
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let properties = self.properties(number);
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let confirm = channel.basic_publish(exchange.into(), key.into(), options, line, properties).await;
            sent.push(confirm.map_err(|error| error.to_string())?);
        }
        let mut confirmed = 0;
        for confirm in sent {
            let reason = match confirm.await {
                Ok(Confirmation::Ack(None)) => None,
                // It was confirmed, and came back: there is no queue that it belongs to.
                Ok(Confirmation::Ack(Some(_))) => Some(LogDropped::Unroutable),
                Ok(Confirmation::Nack(_) | Confirmation::NotRequested) => return Ok(confirmed),
                Err(error) => return Err(error.to_string()),
            };
            match reason {
                None => self.queue.count_written(1),
                Some(reason) => self.queue.count_dropped(reason, 1),
            }
            self.queue.take(1);
            confirmed += 1;
        }
        Ok(confirmed)
    }

    fn properties(&self, number: u64) -> BasicProperties {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        BasicProperties::default()
            .with_content_type("application/json".into())
            .with_app_id("mainstay".into())
            .with_delivery_mode(PERSISTENT)
            .with_timestamp(now.as_secs())
            .with_message_id(format!("{:016x}-{number}", self.process).into())
    }
}
