//! The export of traces: one post at a time, each with a deadline, and again with a pause where the collector cannot be had.
//!
//! Nothing waits for it. While the collector is away the queue fills, and then what is new is dropped and counted.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, StatusCode, Url};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::queue::Trace;
use super::{Traces, otlp};
use crate::config::ConfigError;
use crate::config::traces::TraceSettings;
use crate::telemetry::metrics::TraceDropped;

/// Spans of one export.
const BATCH_SPANS_MAX: usize = 2048;
/// The pause before the second try; it doubles from there.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// No pause is longer, whatever the collector asks for.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// More of a collector's answer is not read.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Who all of these traces are of.
pub struct Resource {
    /// The region of the instance.
    pub region: String,
    /// How it runs.
    pub mode: &'static str,
    /// The version of its program.
    pub version: String,
}

/// Sends the traces of an instance away.
pub struct Exporter {
    traces: Arc<Traces>,
    client: Client,
    url: Url,
    headers: HeaderMap,
    resource: Vec<(&'static str, String)>,
    interval: Duration,
    timeout: Duration,
    attempts_max: u32,
    ending: Notify,
    ended: Notify,
}

/// Why an export was not taken.
enum Failure {
    /// It may be tried again, not before the pause that the collector asks for.
    Away(String, Option<Duration>),
    /// It would not be taken next time either.
    Refused(String),
}

impl Exporter {
    /// The exporter of some traces, by a client of the caller's.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub fn new(
        settings: &TraceSettings,
        traces: &Arc<Traces>,
        client: Client,
        resource: Resource,
    ) -> Result<Arc<Self>, ConfigError> {
        let url = Url::parse(&settings.url())
            .map_err(|error| ConfigError::new(format!("traces.endpoint: not a URL: {error}")))?;
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"))]);
        for (name, value) in settings.header_pairs()? {
            let wrong = || ConfigError::new(format!("traces.headers: {name:?} and its value cannot stand in a header"));
            let mut value = HeaderValue::try_from(value).map_err(|_| wrong())?;
            value.set_sensitive(true);
            headers.insert(HeaderName::try_from(&*name).map_err(|_| wrong())?, value);
        }
        let resource = vec![
            ("service.name", settings.service_name.clone()),
            ("service.version", resource.version),
            ("service.instance.id", format!("{:016x}", fastrand::u64(..))),
            ("cloud.region", resource.region),
            ("mainstay.mode", resource.mode.to_owned()),
        ];
        Ok(Arc::new(Self {
            traces: Arc::clone(traces),
            client,
            url,
            headers,
            resource,
            interval: settings.export_interval.0,
            timeout: settings.timeout.0,
            attempts_max: settings.attempts_max,
            ending: Notify::new(),
            ended: Notify::new(),
        }))
    }

    /// What is recorded for export.
    pub fn traces(&self) -> &Arc<Traces> {
        &self.traces
    }

    /// Exports until [`Exporter::finish`].
    pub async fn run(&self) {
        let mut is_well = true;
        tokio::select! {
            biased;
            () = self.ending.notified() => {}
            () = async {
                loop {
                    self.traces.queue.filled().await;
                    sleep(self.interval).await;
                    let batch = self.traces.queue.take(BATCH_SPANS_MAX);
                    Held { traces: &self.traces, batch }.send(self, &mut is_well).await;
                }
            } => {}
        }
        // What is left goes out once; nobody waits for a collector that is away.
        loop {
            let batch = self.traces.queue.take(BATCH_SPANS_MAX);
            if batch.is_empty() || !(Held { traces: &self.traces, batch }).send_last(self).await {
                break;
            }
        }
        self.ended.notify_one();
    }

    /// Sends what is left, until a deadline, and lets [`Exporter::run`] end.
    pub async fn finish(&self, deadline: Instant) {
        self.ending.notify_one();
        // A collector that hangs gets no more time than it has at other times.
        let deadline = deadline.min(Instant::now() + self.timeout);
        let _sent_or_late = timeout_at(deadline, self.ended.notified()).await;
    }

    async fn post(&self, body: Vec<u8>) -> Result<(), Failure> {
        let deadline = Instant::now() + self.timeout;
        let request = self.client.post(self.url.clone()).headers(self.headers.clone()).body(body);
        let late = |_| Failure::Away("no answer in time".to_owned(), None);
        let sent = timeout_at(deadline, request.send()).await.map_err(late)?;
        let mut response = sent.map_err(|error| Failure::Away(reason(error), None))?;
        let status = response.status();
        if !status.is_success() {
            let told = format!("it answers {}", status.as_u16());
            return Err(match status {
                StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT => Failure::Away(told, retry_after(response.headers())),
                _ => Failure::Refused(told),
            });
        }
        let mut answer = Vec::new();
        let read = async {
            while let Ok(Some(piece)) = response.chunk().await {
                answer.extend_from_slice(&piece);
                if answer.len() > ANSWER_BYTES_MAX {
                    break;
                }
            }
        };
        let _whole_or_not = timeout_at(deadline, read).await;
        if let Some((spans, told)) = otlp::rejection(&answer) {
            log::warn!("traces.endpoint: the collector has taken an export but for {spans} spans: {told:?}");
        }
        Ok(())
    }
}

/// A batch under way. Whoever gives it up has dropped it, and that is counted.
struct Held<'a> {
    traces: &'a Traces,
    batch: Vec<Trace>,
}

impl Held<'_> {
    /// Sends it, again and again while the collector is away.
    async fn send(mut self, exporter: &Exporter, is_well: &mut bool) {
        let body = otlp::encode(&exporter.resource, &self.batch);
        let mut pause = PAUSE_MIN;
        for attempt in 1..=exporter.attempts_max {
            match exporter.post(body.clone()).await {
                Ok(()) => {
                    if !std::mem::replace(is_well, true) {
                        log::info!("traces.endpoint: traces are taken again");
                    }
                    return self.exported();
                }
                Err(Failure::Refused(told)) => {
                    say(is_well, &told);
                    return self.dropped(TraceDropped::Refused);
                }
                Err(Failure::Away(told, asked)) => {
                    say(is_well, &told);
                    if attempt < exporter.attempts_max {
                        let spread = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
                        sleep_until(Instant::now() + asked.unwrap_or(spread).min(PAUSE_MAX)).await;
                        pause = (pause * 2).min(PAUSE_MAX);
                    }
                }
            }
        }
        self.dropped(TraceDropped::Unreachable);
    }

    /// Sends it once, and says whether it was taken.
    async fn send_last(mut self, exporter: &Exporter) -> bool {
        let sent = exporter.post(otlp::encode(&exporter.resource, &self.batch)).await.is_ok();
        if sent {
            self.exported();
        }
        sent
    }

    fn exported(&mut self) {
        let count = std::mem::take(&mut self.batch).len();
        self.traces.metrics.traces_exported.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }

    fn dropped(&mut self, reason: TraceDropped) {
        self.traces.drop_traces(reason, std::mem::take(&mut self.batch).len());
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.dropped(TraceDropped::Unreachable);
    }
}

/// The first of several failures is said; what is dropped meanwhile is counted.
fn say(is_well: &mut bool, told: &str) {
    if std::mem::replace(is_well, false) {
        log::warn!("traces.endpoint: traces cannot be exported: {told}");
    }
}

/// A number of seconds, where the collector asks for them.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// What went wrong, without the URL, which may hold a secret.
fn reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
