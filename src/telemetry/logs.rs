//! Log lines: through the `log` facade to standard output, JSON for machines or text for people, and to RabbitMQ where one is named.
//!
//! Whoever has something to say formats it and puts it into a queue; a thread for each sink takes it out. Nobody waits for a sink:
//! what there is no room for is dropped, and counted.

mod amqp;
pub mod levels;
pub mod line;
mod queue;
mod stdout;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use log::{Log, Metadata, Record};

use crate::config::ConfigError;
use crate::config::logs::LogFormat;
use crate::config::settings::Settings;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces;
use levels::{Filter, Levels};
use line::Speaker;
use queue::Queue;

/// How long the end of the process waits for the last lines to get out.
const LAST_LINES_TIME_MAX: Duration = Duration::from_secs(1);
/// How long a panic does: what comes after it may be the end.
const PANIC_LINE_TIME_MAX: Duration = Duration::from_millis(100);

static LEVELS: LazyLock<Levels> = LazyLock::new(Levels::off);
/// The sinks of this process, once it has any.
static SINKS: OnceLock<Arc<Sinks>> = OnceLock::new();

/// The levels in force in this process.
pub fn levels() -> &'static Levels {
    &LEVELS
}

/// Where lines go.
struct Sinks {
    stdout: Arc<Queue>,
    amqp: Option<Arc<amqp::Sink>>,
}

impl Sinks {
    fn queues(&self) -> impl Iterator<Item = (&'static str, &Queue)> {
        let amqp = self.amqp.iter().map(|sink| ("amqp", sink.queue()));
        std::iter::once(("stdout", &*self.stdout)).chain(amqp)
    }
}

/// Lets the last lines out when it is dropped.
#[must_use = "the last lines get out when it is dropped"]
pub struct Guard(Arc<Sinks>);

impl Drop for Guard {
    fn drop(&mut self) {
        let deadline = Instant::now() + LAST_LINES_TIME_MAX;
        for (_, queue) in self.0.queues() {
            queue.wait_empty(deadline);
            queue.close();
        }
    }
}

/// Sends all log lines where the settings say, from here on, panics among them. `version` is the program's.
///
/// # Errors
/// Where `log.level` is no filter, `log.amqp` cannot be used, or a logger is set already.
pub fn start(settings: &Settings, version: &str) -> Result<Guard, ConfigError> {
    let guard = start_to(std::io::stdout(), &settings.log.level, settings, version)?;
    std::panic::set_hook(Box::new(say_panic));
    Ok(guard)
}

/// As [`start`], for a command whose standard output is its answer: the audit log alone, to standard error, and to RabbitMQ where one
/// is named.
///
/// # Errors
/// Where `log.amqp` cannot be used, or a logger is set already.
pub fn start_audit(settings: &Settings, version: &str) -> Result<Guard, ConfigError> {
    start_to(std::io::stderr(), "off", settings, version)
}

fn start_to(
    output: impl AsFd + IsTerminal + Send + 'static,
    level: &str,
    settings: &Settings,
    version: &str,
) -> Result<Guard, ConfigError> {
    let log = &settings.log;
    let filter: Filter = level.parse().map_err(|error| ConfigError::new(format!("log.level: {level:?} {error}")))?;
    let is_terminal = output.is_terminal();
    let is_text = match log.format {
        LogFormat::Json => false,
        LogFormat::Pretty => true,
        LogFormat::Auto => is_terminal,
    };
    let unusable = |error: &dyn std::fmt::Display| ConfigError::new(format!("logs: {error}"));
    let speaker = Speaker { version: version.to_owned(), region: settings.region.clone(), instance: instance() };
    let stdout = Arc::new(Queue::new(log.buffer_bytes));
    let amqp = if log.amqp.url.is_empty() { None } else { Some(amqp::start(&log.amqp, &speaker.instance)?) };
    stdout::start(Arc::clone(&stdout), output).map_err(|error| unusable(&error))?;
    let sinks = Arc::new(Sinks { stdout, amqp });
    let text = is_text.then_some(Text { has_colours: is_terminal });
    let writer = Writer { text, speaker, sinks: Arc::clone(&sinks) };
    log::set_boxed_logger(Box::new(writer)).map_err(|error| unusable(&error))?;
    // The logger was not set before, so neither were these.
    let _first = SINKS.set(Arc::clone(&sinks));
    LEVELS.configure(filter);
    Ok(Guard(sinks))
}

/// Says how many lines were written and dropped since the process began.
pub fn export(metrics: &Metrics) {
    let Some(sinks) = SINKS.get() else { return };
    for (sink, queue) in sinks.queues() {
        raise_to(&metrics.log_lines.with_label_values(&[sink]), queue.written());
        for (reason, count) in queue.dropped() {
            raise_to(&metrics.log_lines_dropped.with_label_values(&[sink, reason]), count);
        }
        let bytes = i64::try_from(queue.bytes()).unwrap_or(i64::MAX);
        metrics.log_buffer_bytes.with_label_values(&[sink]).set(bytes);
    }
    if let Some(amqp) = &sinks.amqp {
        metrics.log_amqp_up.set(i64::from(amqp.is_up()));
    }
}

/// The count is kept here, and only goes up.
fn raise_to(counter: &prometheus::IntCounter, count: u64) {
    counter.inc_by(count.saturating_sub(counter.get()));
}

/// The machine's name, which in a container is the container's, and the process there.
fn instance() -> String {
    let name = rustix::system::uname();
    format!("{}/{}", name.nodename().to_string_lossy(), std::process::id())
}

struct Text {
    has_colours: bool,
}

/// What the `log` facade hands lines to.
struct Writer {
    /// Standard output is for people.
    text: Option<Text>,
    speaker: Speaker,
    sinks: Arc<Sinks>,
}

impl Log for Writer {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        LEVELS.allow(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = SystemTime::now();
        let trace_id = traces::current_id();
        let json = || Bytes::from(line::json(record, now, &self.speaker, trace_id.as_deref()));
        let Sinks { stdout, amqp } = &*self.sinks;
        match (&self.text, amqp) {
            (None, None) => stdout.push(json()),
            (None, Some(amqp)) => {
                let line = json();
                stdout.push(line.clone());
                amqp.push(record.target(), line);
            }
            (Some(text), amqp) => {
                stdout.push(line::text(record, now, text.has_colours).into());
                if let Some(amqp) = amqp {
                    amqp.push(record.target(), json());
                }
            }
        }
    }

    fn flush(&self) {
        self.sinks.stdout.wait_empty(Instant::now() + PANIC_LINE_TIME_MAX);
    }
}

/// A panic is a line like others, with the stack where `RUST_BACKTRACE` asks for it. Nobody may come after it to let it out.
fn say_panic(panic: &PanicHookInfo<'_>) {
    let backtrace = Backtrace::capture();
    let stack = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    let location = panic.location().map(ToString::to_string);
    let message = panic.payload_as_str().unwrap_or("no text");
    let thread = std::thread::current();
    log::error!(
        target: "mainstay::panic",
        thread = thread.name(), location = location.as_deref(), stack = stack.as_deref();
        "panicked: {message}"
    );
    log::logger().flush();
}
