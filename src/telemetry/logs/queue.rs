//! The lines that wait for a sink: whoever writes one never waits, and what there is no room for is dropped and counted.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::telemetry::metrics::LogDropped;

/// What a line takes beyond its bytes.
const OVERHEAD_BYTES: usize = 64;

/// Lines that wait for one sink, in their order. There is one who takes them out.
pub(super) struct Queue {
    bytes_max: usize,
    state: Mutex<State>,
    /// There is something to take, or nothing any more.
    changed: Condvar,
    written: AtomicU64,
    dropped: [AtomicU64; LogDropped::NAMES.len()],
}

#[derive(Default)]
struct State {
    lines: VecDeque<Bytes>,
    bytes: usize,
    /// How many lines were taken out so far: the number of the first one that waits.
    taken: u64,
    is_closed: bool,
}

impl Queue {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            state: Mutex::default(),
            changed: Condvar::new(),
            written: AtomicU64::new(0),
            dropped: Default::default(),
        }
    }

    /// Adds a line, or drops it.
    pub(super) fn push(&self, line: Bytes) {
        let mut state = self.state.lock();
        let bytes = line.len() + OVERHEAD_BYTES;
        if state.is_closed {
            return self.count_dropped(LogDropped::Shutdown, 1);
        }
        if state.bytes + bytes > self.bytes_max {
            return self.count_dropped(LogDropped::BufferFull, 1);
        }
        state.bytes += bytes;
        state.lines.push_back(line);
        drop(state);
        self.changed.notify_all();
    }

    /// The first lines, up to so many bytes, and the number of the first. They stay until [`Queue::take`]. Waits for one; what comes
    /// back is empty where none came in time.
    pub(super) fn first(&self, bytes_max: usize, wait: Duration) -> (u64, Vec<Bytes>) {
        let mut state = self.state.lock();
        if state.lines.is_empty() {
            let _came_or_not = self.changed.wait_while_for(&mut state, |state| state.lines.is_empty(), wait);
        }
        let mut bytes = 0;
        let fits = |line: &&Bytes| {
            bytes += line.len();
            // One is taken, however long it is.
            bytes <= bytes_max || bytes == line.len()
        };
        (state.taken, state.lines.iter().take_while(fits).cloned().collect())
    }

    /// Takes the first lines out: they were written, or will never be.
    pub(super) fn take(&self, count: usize) {
        let mut state = self.state.lock();
        let count = count.min(state.lines.len());
        let bytes: usize = state.lines.drain(..count).map(|line| line.len() + OVERHEAD_BYTES).sum();
        state.bytes -= bytes;
        state.taken += number(count);
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until all is out, no longer than until then; says whether it is.
    pub(super) fn wait_empty(&self, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        !self.changed.wait_while_until(&mut state, |state| !state.lines.is_empty(), deadline).timed_out()
    }

    /// Takes no more lines, and counts those as lost that are still here.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        self.count_dropped(LogDropped::Shutdown, state.lines.len());
    }

    pub(super) fn count_written(&self, lines: usize) {
        self.written.fetch_add(number(lines), Ordering::Relaxed);
    }

    pub(super) fn count_dropped(&self, reason: LogDropped, lines: usize) {
        for (count, name) in self.dropped.iter().zip(LogDropped::NAMES) {
            if *name == reason.as_str() {
                count.fetch_add(number(lines), Ordering::Relaxed);
            }
        }
    }

    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// How many were dropped, by the name of the reason.
    pub(super) fn dropped(&self) -> impl Iterator<Item = (&'static str, u64)> {
        LogDropped::NAMES.iter().copied().zip(self.dropped.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.state.lock().bytes
    }
}

fn number(lines: usize) -> u64 {
    u64::try_from(lines).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const SOON: Duration = Duration::from_millis(10);
    const LONG: Duration = Duration::from_secs(60);

    fn dropped(queue: &Queue) -> Vec<(&'static str, u64)> {
        queue.dropped().filter(|(_, count)| *count > 0).collect()
    }

    #[test]
    fn it_holds_so_many_bytes_and_drops_what_comes_after() {
        let line = || Bytes::from_static(&[b'x'; 100]);
        let queue = Queue::new(10 * (100 + OVERHEAD_BYTES));
        (0..25).for_each(|_| queue.push(line()));
        assert_eq!(dropped(&queue), [("buffer_full", 15)]);
        assert_eq!(queue.first(250, SOON), (0, vec![line(), line()]));
        queue.take(2);
        (0..3).for_each(|_| queue.push(line()));
        assert_eq!(dropped(&queue), [("buffer_full", 16)], "there was room for two again");
        assert_eq!(queue.first(1, SOON), (2, vec![line()]), "one is taken, however long");
        queue.take(10);
        assert_eq!((queue.bytes(), queue.first(1000, SOON).1.len()), (0, 0));
    }

    #[test]
    fn whoever_waits_is_woken() {
        let queue = Arc::new(Queue::new(1024));
        let taker = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || {
                let (_, lines) = queue.first(1024, LONG);
                queue.take(lines.len());
                lines
            }
        });
        queue.push(Bytes::from_static(b"one"));
        assert!(queue.wait_empty(Instant::now() + LONG));
        assert_eq!(taker.join().unwrap(), ["one"]);
        queue.push(Bytes::from_static(b"two"));
        assert!(!queue.wait_empty(Instant::now() + SOON), "nobody takes it");
        queue.close();
        queue.push(Bytes::from_static(b"three"));
        assert_eq!(dropped(&queue), [("shutdown", 2)]);
    }
}
