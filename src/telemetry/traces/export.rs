//! The export of traces: one post at a time, each with a deadline, and again with a pause where the collector cannot be had.
//!
//! Nothing waits for it. While the collector is away the queue fills, and then what is new is dropped and counted.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, StatusCode, Url};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::queue::Trace;
use super::{Traces, otlp};
use crate::config::ConfigError;
use crate::config::traces::TraceSettings;
use crate::outgoing::reason;
use crate::telemetry::metrics::TraceDropped;

/// Spans of one export.
pub(super) const BATCH_SPANS_MAX: usize = 2048;
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
    is_ending: watch::Sender<bool>,
    ended: Notify,
}

/// Why an export was not taken.
enum Failure {
    /// It may be tried again, not before the pause that the collector asks for.
    Away(String, Option<Duration>),
    /// It would not be taken next time either.
    Refused(String),
}

impl Failure {
    fn told(&self) -> &str {
        match self {
            Self::Away(told, _) | Self::Refused(told) => told,
        }
    }
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
            is_ending: watch::Sender::new(false),
            ended: Notify::new(),
        }))
    }

    /// What is recorded for export.
    pub fn traces(&self) -> &Arc<Traces> {
        &self.traces
    }

    /// Exports until [`Exporter::finish`], and then what is left.
    pub async fn run(&self) {
        let (mut is_well, mut is_taken) = (true, true);
        loop {
            let more = async {
                self.traces.queue.filled().await;
                // Enough for an export waits for nothing more, so that batches go out one after another while there are more. A
                // collector that did not take the last one is left in peace for a while.
                tokio::select! {
                    () = sleep(self.interval) => {}
                    () = self.traces.queue.has_batch(), if is_taken => {}
                }
            };
            tokio::select! {
                () = self.ending() => break,
                () = more => {}
            }
            is_taken = self.send(self.traces.queue.take(BATCH_SPANS_MAX), &mut is_well).await;
        }
        // Nobody waits for a collector that is away.
        while !self.traces.queue.is_empty() && self.send(self.traces.queue.take(BATCH_SPANS_MAX), &mut is_well).await {}
        self.ended.notify_one();
    }

    /// Sends what is left, until a deadline, and lets [`Exporter::run`] end.
    pub async fn finish(&self, deadline: Instant) {
        self.is_ending.send_replace(true);
        // A collector that hangs gets no more time than it has at other times.
        let deadline = deadline.min(Instant::now() + self.timeout);
        let _sent_or_late = timeout_at(deadline, self.ended.notified()).await;
    }

    async fn ending(&self) {
        let mut is_ending = self.is_ending.subscribe();
        let _or_gone = is_ending.wait_for(|is_ending| *is_ending).await;
    }

    /// Sends a batch, again and again while the collector is away; at the end, once. Says whether it was taken, and counts what
    /// became of it.
    async fn send(&self, batch: Vec<Trace>, is_well: &mut bool) -> bool {
        let body = Bytes::from(otlp::encode(&self.resource, &batch));
        let mut pause = PAUSE_MIN;
        for attempt in 1..=self.attempts_max {
            let failure = match self.post(body.clone()).await {
                Ok(()) => {
                    if !std::mem::replace(is_well, true) {
                        log::info!("traces.endpoint: traces are taken again");
                    }
                    self.traces.metrics.traces_exported.inc_by(u64::try_from(batch.len()).unwrap_or(u64::MAX));
                    return true;
                }
                Err(failure) => failure,
            };
            // The first of several failures is said; what is dropped meanwhile is counted.
            if std::mem::replace(is_well, false) {
                log::warn!("traces.endpoint: traces cannot be exported: {}", failure.told());
            }
            let Failure::Away(_, asked) = failure else {
                self.traces.drop_traces(TraceDropped::Refused, batch.len());
                return false;
            };
            if attempt == self.attempts_max || *self.is_ending.borrow() {
                break;
            }
            let spread = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            tokio::select! {
                () = sleep(asked.unwrap_or(spread).min(PAUSE_MAX)) => {}
                () = self.ending() => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
        self.traces.drop_traces(TraceDropped::Unreachable, batch.len());
        false
    }

    async fn post(&self, body: Bytes) -> Result<(), Failure> {
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

/// A number of seconds, where the collector asks for them.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}
