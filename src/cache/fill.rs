//! Fills: what one is for, and what it brings to all who wait for it.

use std::sync::Arc;

use super::entry::Entry;
use super::flight::{self, Flights};
use super::key::Key;
use crate::error::Error;

/// An answer that a fill made.
#[derive(Clone, Debug)]
pub struct Filled {
    /// The answer, for all who waited.
    pub entry: Arc<Entry>,
    /// Whether it is kept for those who come later.
    pub stored: bool,
    /// Where it came from.
    pub layer: Layer,
}

/// Where a fill found its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The route's source was asked.
    Source,
    /// Another instance had asked it.
    Shared,
}

/// What a request wants to be filled. Requests whose keys are equal by chance, or whose route has another meaning by now, are
/// told apart.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// Its key.
    pub key: Key,
    /// The canonical request.
    pub canonical: Arc<[u8]>,
    /// The meaning of its route.
    pub fingerprint: [u8; 16],
}

/// What a fill came to: an answer, or the failure that all who waited get.
pub type Outcome = Result<Filled, Error>;

/// The fills that are under way in this process.
pub type Fills = Flights<Wanted, Filled>;

/// The part of a request in a fill.
pub type Join = flight::Join<Wanted, Filled>;

/// The duty to finish a fill.
pub type Lead = flight::Lead<Wanted, Filled>;

/// A wait for a fill.
pub type Wait = flight::Wait<Filled>;
