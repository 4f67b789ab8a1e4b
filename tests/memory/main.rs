//! What an entry takes of memory beyond its own bytes, counted by an allocator of the test's own: a million small ones are
//! little else.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mainstay::cache::entry::{Entry, Origin, Parts};
use mainstay::cache::key::Key;
use mainstay::cache::memory::Memory;
use mainstay::cache::policy::Limits;
use mainstay::cache::tag::{Tag, path_name, route_name};
use mainstay::cache::variants::Variants;
use mainstay::position::{Lsn, Position, SystemId, Timeline};

static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// Counts what is asked for, as allocators with classes of sixteen bytes give it.
struct Counting;

const fn rounded(layout: Layout) -> usize {
    layout.size().next_multiple_of(16)
}

// SAFETY: the system's allocator does the work.
#[expect(unsafe_code, reason = "an allocator cannot be written without it")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        TAKEN.fetch_add(rounded(layout), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        TAKEN.fetch_sub(rounded(layout), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ENTRIES: usize = 1 << 17;
const BODY: &[u8] = br#"{"id":123456,"value":"0123456789"}"#;

fn entry(number: usize, fixed: &[Tag]) -> (Key, Arc<Entry>, usize) {
    let key = Key(fastrand::Rng::with_seed(u64::try_from(number).unwrap()).u128(..));
    let path = format!("/entries/{number}");
    let mut tags = fixed.to_vec();
    tags.extend([Tag::of_key(key), Tag::new(path_name(&path))]);
    let position = |lsn| Some(Position { system: SystemId(7), timeline: Timeline(1), lsn: Lsn(lsn) });
    let hour = Duration::from_secs(3600);
    let parts = Parts {
        status: 200,
        content_type: "application/json",
        body: Variants::of(Bytes::from_static(BODY), 1024),
        tags,
        told: position(100),
        is_local: false,
        as_of: position(110),
        seen: position(120),
        outlives_change: false,
        origin: Origin::Filled,
        made: Instant::now(),
        cost: Duration::from_millis(1),
        limits: Limits { fresh: hour, stale_while_revalidate: hour, stale_if_error: hour },
        detail: "replica",
        absence: None,
    };
    (key, Arc::new(Entry::new(path.as_bytes(), [1; 16], parts)), path.len() + BODY.len())
}

#[test]
fn what_an_entry_takes_beyond_its_bytes_is_bounded() {
    const BOUND: usize = 768;
    let fixed = [Tag::new(route_name("/entries/{id}")), Tag::new("entries")];
    let before = TAKEN.load(Ordering::Relaxed);
    let (entries, own) = (0..ENTRIES).fold((Vec::with_capacity(ENTRIES), 0), |(mut all, sum), number| {
        let (key, entry, own) = entry(number, &fixed);
        all.push((key, entry));
        (all, sum + own)
    });
    let listed = ENTRIES * size_of::<(Key, Arc<Entry>)>();
    let alone = (TAKEN.load(Ordering::Relaxed) - before - listed - own) / ENTRIES;
    let memory = Memory::new(u64::MAX >> 1);
    entries.into_iter().for_each(|(key, entry)| memory.put(key, entry));
    assert_eq!(usize::try_from(memory.usage().entries).unwrap(), ENTRIES);
    let kept = (TAKEN.load(Ordering::Relaxed) - before - own) / ENTRIES;
    println!("an entry: {alone} B, of which {} B are the entry itself; kept: {kept} B", size_of::<Entry>());
    assert!(kept <= BOUND, "{kept} B beyond the bytes of an entry");
    let counted = usize::try_from(memory.usage().bytes).unwrap() / ENTRIES - own / ENTRIES;
    assert!(counted.abs_diff(kept) < 100, "the byte bound counts {counted} B, and {kept} B are taken");
}
