//! How far a read must reach, who answered it, and how far that one had read.

use std::sync::Arc;

use crate::position::{Position, SystemId, Timeline};

/// The part that a node plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The writable Postgres.
    Primary,
    /// A streaming read-only Postgres.
    Replica,
}

/// Who answered a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// `primary`, `replica-1`, …
    pub node: Arc<str>,
    /// Its part.
    pub role: Role,
    /// How far it had read.
    pub reached: Reached,
    /// The branch of history that the sampler found it on.
    pub branch: Option<(SystemId, Timeline)>,
    /// A position that nothing of what was read is newer than, where the query asked for it: see [`super::proof::seen`].
    pub seen: Option<Position>,
}

/// How far a node must have read to be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Nothing less will do.
    pub at_least: Option<Position>,
    /// As far as this where any node has, and the primary has room; else `at_least` will do.
    pub rather: Option<Position>,
}

impl Depth {
    /// The further of the two, where they can be compared.
    pub(super) fn furthest(self) -> Option<Position> {
        match (self.at_least, self.rather) {
            (Some(at_least), Some(rather)) => Some(if rather > at_least { rather } else { at_least }),
            (at_least, rather) => at_least.or(rather),
        }
    }
}

impl From<Option<Position>> for Depth {
    fn from(at_least: Option<Position>) -> Self {
        Self { at_least, rather: None }
    }
}

/// What a read is known to have seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// All that was visible on the primary when it began.
    Now,
    /// All up to a position.
    Position(Position),
    /// Nothing is known.
    Unknown,
}

impl Reached {
    /// Whether a read that reached this saw all up to a position.
    pub fn covers(self, asked: Position) -> bool {
        match self {
            Self::Now => true,
            Self::Position(position) => position.reaches(&asked),
            Self::Unknown => false,
        }
    }

    /// A position that it has seen all of, where one is known.
    pub fn position(self) -> Option<Position> {
        match self {
            Self::Position(position) => Some(position),
            Self::Now | Self::Unknown => None,
        }
    }

    /// What two reads together are known to have seen.
    #[must_use]
    pub fn least(self, other: Self) -> Self {
        match (self, other) {
            (Self::Now, other) | (other, Self::Now) => other,
            (Self::Position(one), Self::Position(other)) if one.reaches(&other) => Self::Position(other),
            (Self::Position(one), Self::Position(other)) if other.reaches(&one) => Self::Position(one),
            _ => Self::Unknown,
        }
    }
}
