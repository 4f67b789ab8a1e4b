//! Entries for the tests of this room.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::entry::{Origin, Parts};
use super::policy::Limits;
use super::variants::Variants;

/// So long is everything of use, so that only what a test is about decides.
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// The parts of an answer that the primary made now, with a hundred bytes of this letter and nothing told.
pub(super) fn parts(letter: u8) -> Parts {
    Parts {
        status: 200,
        content_type: "application/json",
        body: Variants::of(Bytes::from(vec![letter; 100]), usize::MAX),
        tags: Vec::new(),
        told: None,
        as_of: None,
        seen: None,
        is_local: false,
        outlives_change: false,
        origin: Origin::Filled,
        made: Instant::now(),
        cost: Duration::ZERO,
        limits: Limits { fresh: HOUR, stale_while_revalidate: HOUR, stale_if_error: HOUR },
        detail: "primary",
        absence: None,
    }
}
