//! Traces: where the time of single requests went, sent to a collector by OTLP.
//!
//! A request is recorded into memory of its own, and whether it is kept is decided once all of it has ended: what was sampled
//! at its start, what failed, and what took long is; all else is freed. So a fill that outlives its client belongs to the trace like what the client waited
//! for, and nothing is exported of what is not kept. An L1 hit records nothing unless it was sampled.
//!
//! Which span runs now is known to the task ([`current`]): what is deep inside need not be told, and log lines and problem
//! documents find their trace's id by themselves.

mod context;
mod export;
mod otlp;
mod queue;
mod span;

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use self::queue::{Queue, Trace};
use self::span::Record;
use crate::config::traces::{B3, TraceSettings};
use crate::telemetry::metrics::{Metrics, TraceDropped};

pub use context::Said;
pub use export::{Exporter, Resource};
pub use span::{Here, Link, Span, SpanKind, Value, current, current_id, scope, span, within};

/// What an instance traces. None of it is there where `traces.endpoint` is not set.
pub struct Traces {
    sample_ratio: f64,
    slow: Duration,
    b3: B3,
    /// What may be kept because chance has sampled it.
    sampled: DefaultDirectRateLimiter,
    /// What may be kept because its caller has said so: anyone can, and must not take the others' share.
    asked: DefaultDirectRateLimiter,
    /// What may be kept because it failed or took long: no kind crowds another one out.
    notable: DefaultDirectRateLimiter,
    queue: Queue,
    metrics: Arc<Metrics>,
}

impl Traces {
    /// What is traced by these settings, which has an endpoint.
    pub fn new(settings: &TraceSettings, metrics: &Arc<Metrics>) -> Arc<Self> {
        let quota = Quota::per_second(NonZeroU32::new(settings.traces_per_second_max).unwrap_or(NonZeroU32::MIN));
        Arc::new(Self {
            sample_ratio: settings.sample_ratio,
            slow: settings.slow.0,
            b3: settings.b3,
            sampled: RateLimiter::direct(quota),
            asked: RateLimiter::direct(quota),
            notable: RateLimiter::direct(quota),
            queue: Queue::new(settings.queue_spans_max, export::BATCH_SPANS_MAX),
            metrics: Arc::clone(metrics),
        })
    }

    /// Whether a request is sampled at its start: as its caller has decided, or by chance. Callers who decide share a bound of their
    /// own.
    pub fn samples(&self, said: Option<&Said>) -> bool {
        match said.and_then(|said| said.sampled) {
            Some(decided) => decided && self.is_within(&self.asked),
            None => fastrand::f64() < self.sample_ratio && self.is_within(&self.sampled),
        }
    }

    /// The first span of what this instance has to do with a trace, which goes on from its caller's where there is one.
    pub fn root(
        self: &Arc<Self>,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        said: Option<&Said>,
        is_sampled: bool,
        began: Instant,
    ) -> Span {
        let (trace, parent) = said.and_then(|said| said.ids).unwrap_or_else(|| (fastrand::u128(1..), 0));
        Span::root(Arc::new(Record::new(self, trace, is_sampled)), parent, name.into(), kind, began)
    }

    fn is_within(&self, limiter: &DefaultDirectRateLimiter) -> bool {
        let is_within = limiter.check().is_ok();
        if !is_within {
            self.drop_traces(TraceDropped::Rate, 1);
        }
        is_within
    }

    /// Takes a trace that is to be kept, if there is room. Never waits.
    fn keep(&self, trace: Trace, is_sampled: bool) {
        if (is_sampled || self.is_within(&self.notable)) && !self.queue.push(trace) {
            self.drop_traces(TraceDropped::QueueFull, 1);
        }
    }

    fn drop_traces(&self, reason: TraceDropped, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        if count == 0 {
            return;
        }
        self.metrics.traces_dropped.with_label_values(&[reason.as_str()]).inc_by(count);
    }
}

/// The span of a call that no request waits for, which is a trace of its own; none where nothing is traced. Like others it is kept
/// where chance has sampled it, where it took long, and where [`Span::keep`] says so.
pub fn call(traces: Option<&Arc<Traces>>, name: &'static str) -> Span {
    let root = |traces: &Arc<Traces>| traces.root(name, SpanKind::Client, None, traces.samples(None), Instant::now());
    traces.map(root).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_that_ask_for_traces_do_not_take_the_share_of_chance() {
        let one = || RateLimiter::direct(Quota::per_hour(NonZeroU32::MIN));
        let traces = Traces {
            sample_ratio: 1.0,
            slow: Duration::MAX,
            b3: B3::Off,
            sampled: one(),
            asked: one(),
            notable: one(),
            queue: Queue::new(1, 1),
            metrics: Arc::new(Metrics::new().unwrap()),
        };
        let asks = Said { ids: None, sampled: Some(true) };
        assert!(traces.samples(Some(&asks)));
        assert!(!traces.samples(Some(&asks)), "they have a bound");
        assert!(traces.samples(None), "which is not that of the others");
    }
}
