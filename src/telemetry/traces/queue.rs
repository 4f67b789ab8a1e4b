//! Traces that wait to be exported: as many spans as may, and no more.

use std::collections::VecDeque;
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::span::Ended;

/// A trace that is kept, or this instance's part of it.
pub(super) struct Trace {
    pub(super) id: u128,
    pub(super) spans: Vec<Ended>,
    /// Spans beyond the limit of one trace.
    pub(super) left_out: u32,
    /// Both clocks at one moment: spans are measured by the one and told by the other.
    pub(super) read_at: (Instant, SystemTime),
}

/// Who records puts in without waiting; one exporter takes out.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    spans_max: usize,
    /// So many spans are worth an export of their own.
    batch_spans: usize,
    filled: Notify,
    has_batch: Notify,
}

#[derive(Default)]
struct Waiting {
    traces: VecDeque<Trace>,
    spans: usize,
}

impl Queue {
    /// A queue of at most so many spans, of which at most so many go into one export.
    pub(super) fn new(spans_max: usize, batch_spans_max: usize) -> Self {
        // Where few may wait there is a batch before there is no room.
        let batch_spans = batch_spans_max.min(spans_max.div_ceil(2));
        Self { waiting: Mutex::default(), spans_max, batch_spans, filled: Notify::new(), has_batch: Notify::new() }
    }

    /// Adds a trace. `false`: there was no room.
    pub(super) fn push(&self, trace: Trace) -> bool {
        let mut waiting = self.waiting.lock();
        let spans = waiting.spans + trace.spans.len();
        if spans > self.spans_max {
            return false;
        }
        let is_batch_now = waiting.spans < self.batch_spans && spans >= self.batch_spans;
        waiting.spans = spans;
        waiting.traces.push_back(trace);
        drop(waiting);
        self.filled.notify_one();
        if is_batch_now {
            self.has_batch.notify_one();
        }
        true
    }

    /// The oldest traces, of so many spans together or one trace of more.
    pub(super) fn take(&self, spans_max: usize) -> Vec<Trace> {
        let mut waiting = self.waiting.lock();
        let (mut taken, mut spans) = (Vec::new(), 0);
        while let Some(next) = waiting.traces.front() {
            let count = next.spans.len();
            if !taken.is_empty() && spans + count > spans_max {
                break;
            }
            spans += count;
            taken.extend(waiting.traces.pop_front());
        }
        waiting.spans = waiting.spans.saturating_sub(spans);
        taken
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.lock().traces.is_empty()
    }

    /// Waits until something was added. Cancelling loses nothing.
    pub(super) async fn filled(&self) {
        while self.is_empty() {
            self.filled.notified().await;
        }
    }

    /// Waits until there is enough for an export. Cancelling loses nothing.
    pub(super) async fn has_batch(&self) {
        while self.waiting.lock().spans < self.batch_spans {
            self.has_batch.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::span::SpanKind;
    use super::*;

    fn trace(id: u128, spans: usize) -> Trace {
        let span = |_| Ended {
            id: 1,
            parent: 0,
            name: "span".into(),
            kind: SpanKind::Internal,
            began: Instant::now(),
            took: Duration::ZERO,
            attributes: Vec::new(),
            link: None,
            error: None,
        };
        let read_at = (Instant::now(), SystemTime::now());
        Trace { id, spans: (0..spans).map(span).collect(), left_out: 0, read_at }
    }

    #[test]
    fn it_holds_as_many_spans_as_it_may_and_gives_the_oldest_first() {
        let queue = Queue::new(10, 100);
        assert!(queue.push(trace(1, 4)) && queue.push(trace(2, 4)));
        assert!(!queue.push(trace(3, 4)), "the bound is on spans");
        assert!(queue.push(trace(4, 2)));
        let ids = |traces: Vec<Trace>| traces.iter().map(|trace| trace.id).collect::<Vec<_>>();
        assert_eq!(ids(queue.take(8)), [1, 2]);
        assert!(queue.push(trace(5, 8)), "what was taken makes room");
        assert_eq!(ids(queue.take(3)), [4]);
        assert_eq!(ids(queue.take(3)), [5], "a long one goes alone");
        assert!(queue.is_empty() && queue.take(3).is_empty());
    }
}
