//! Positions on the primary's write-ahead log: system, timeline and LSN, which only mean something together. They are the
//! fleet's clock: what a database has written, what a replica has replayed and what a cache has been told are all said in them.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// A byte position on the write-ahead log, in Postgres' form `16/B374D848`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// A place that no standby ever comes to: only the primary has what is there.
    pub const NEVER: Self = Self(u64::MAX);

    /// Whether it is [`Lsn::NEVER`].
    pub const fn is_never(self) -> bool {
        self.0 == Self::NEVER.0
    }
}

/// A branch of a cluster's history. A promotion begins a new one, on which LSNs of the old one prove nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeline(pub u32);

/// What `initdb` gave a cluster, and what its physical replicas share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SystemId(pub u64);

/// A point on the primary's WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The cluster.
    pub system: SystemId,
    /// Its branch of history.
    pub timeline: Timeline,
    /// The byte position on that branch.
    pub lsn: Lsn,
}

impl Position {
    /// Where a branch begins, as far as anyone need know: below all of its positions.
    pub const fn start_of(system: SystemId, timeline: Timeline) -> Self {
        Self { system, timeline, lsn: Lsn(0) }
    }

    /// Whether this position is at or past another one: never across timelines or clusters, where the comparison of LSNs
    /// would prove a write present that was lost.
    pub fn reaches(&self, other: &Self) -> bool {
        self.system == other.system && self.timeline == other.timeline && self.lsn >= other.lsn
    }

    /// The least position past this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self { lsn: Lsn(self.lsn.0.saturating_add(1)), ..self }
    }

    /// The greater of two positions; of two clusters' the second.
    #[must_use]
    pub fn later(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
}

/// The order in which things were told, not what was written: a later timeline comes after all of an earlier one. Positions
/// of different clusters have no order, and every comparison of them is false.
impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self.system == other.system).then(|| (self.timeline, self.lsn).cmp(&(other.timeline, other.lsn)))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.system.0, self.timeline, self.lsn)
    }
}

impl FromStr for Position {
    type Err = NotAnLsn;

    fn from_str(text: &str) -> Result<Self, NotAnLsn> {
        let mut parts = text.splitn(3, ':');
        let mut part = || parts.next().ok_or(NotAnLsn);
        let system = SystemId(part()?.parse().map_err(|_| NotAnLsn)?);
        let timeline = Timeline(part()?.parse().map_err(|_| NotAnLsn)?);
        Ok(Self { system, timeline, lsn: part()?.parse()? })
    }
}

/// Text that is no LSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an LSN like 16/B374D848")]
pub struct NotAnLsn;

impl FromStr for Lsn {
    type Err = NotAnLsn;

    fn from_str(text: &str) -> Result<Self, NotAnLsn> {
        let half = |text: &str| match text.len() {
            1..=8 if text.bytes().all(|byte| byte.is_ascii_hexdigit()) => u64::from_str_radix(text, 16).ok(),
            _ => None,
        };
        let (high, low) = text.split_once('/').ok_or(NotAnLsn)?;
        match (half(high), half(low)) {
            (Some(high), Some(low)) => Ok(Self(high << 32 | low)),
            _ => Err(NotAnLsn),
        }
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_reads_what_it_prints() {
        for text in ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF", "0/1"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        for text in ["", "/", "1", "1/", "/1", "1/G", "1/2/3", "+1/2", "100000000/0"] {
            assert_eq!(text.parse::<Lsn>(), Err(NotAnLsn), "{text:?}");
        }
    }

    #[test]
    fn positions_of_other_timelines_and_clusters_are_never_reached() {
        let position =
            |system, timeline, lsn| Position { system: SystemId(system), timeline: Timeline(timeline), lsn: Lsn(lsn) };
        let asked = position(7, 1, 100);
        assert!(position(7, 1, 100).reaches(&asked));
        assert!(position(7, 1, 101).reaches(&asked));
        assert!(!position(7, 1, 99).reaches(&asked));
        assert!(!position(7, 2, 500).reaches(&asked));
        assert!(!position(8, 1, 500).reaches(&asked));
        assert!(position(7, 2, 1) > asked, "what is told on a later timeline is told later");
        assert!(asked < asked.next() && asked.later(position(7, 2, 1)) == position(7, 2, 1));
        let other = position(8, 1, 500);
        assert_eq!(other.partial_cmp(&asked), None, "clusters have no order");
        assert_eq!(asked.to_string().parse(), Ok(asked));
    }
}
