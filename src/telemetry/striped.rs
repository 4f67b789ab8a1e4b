//! A counter that several workers add to without touching each other's cache lines.
//!
//! An ordinary atomic counter costs a cache hit on every request: its line travels between the cores. Here each thread has a
//! cell of its own, and whoever reads the metrics collects the cells.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use prometheus::IntCounter;

/// Cells of a counter; threads beyond as many share them, which costs time and no count.
const CELLS: usize = 16;

/// A cell alone in its cache lines (two of 64 bytes, since processors fetch them in pairs).
#[repr(align(128))]
#[derive(Default)]
struct Cell<T>(T);

/// What each thread has of its own.
#[derive(Default)]
pub(super) struct Stripes<T>([Cell<T>; CELLS]);

impl<T> Stripes<T> {
    /// That of this thread.
    pub(super) fn own(&self) -> Option<&T> {
        self.0.get(OWN_CELL.with(|own| *own)).map(|cell| &cell.0)
    }

    /// That of all threads.
    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|cell| &cell.0)
    }
}

/// A counter for the hit path, in front of the one that is exported.
pub struct Striped {
    stripes: Stripes<AtomicU64>,
    exported: IntCounter,
}

thread_local! {
    static OWN_CELL: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % CELLS
    };
}

impl Striped {
    /// A counter that is exported as this one.
    pub fn new(exported: IntCounter) -> Self {
        Self { stripes: Stripes::default(), exported }
    }

    /// Counts one.
    pub fn inc(&self) {
        if let Some(own) = self.stripes.own() {
            own.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Moves what was counted into the exported counter, and says how much that was.
    pub fn export(&self) -> u64 {
        let counted: u64 = self.stripes.all().map(|own| own.swap(0, Ordering::Relaxed)).sum();
        self.exported.inc_by(counted);
        counted
    }
}

impl Drop for Striped {
    /// What was counted since the last look is not lost when a reload drops its route.
    fn drop(&mut self) {
        self.export();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_count_together_and_nothing_is_lost() {
        let exported = IntCounter::new("counter", "help").unwrap();
        let striped = Striped::new(exported.clone());
        std::thread::scope(|scope| {
            for _ in 0..2 * CELLS {
                scope.spawn(|| (0..1000).for_each(|_| striped.inc()));
            }
        });
        striped.export();
        striped.export();
        assert_eq!(exported.get(), 2 * 16 * 1000);
        striped.inc();
        drop(striped);
        assert_eq!(exported.get(), 2 * 16 * 1000 + 1);
    }
}
