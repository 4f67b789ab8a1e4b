//! What it means to ask someone twice, or in vain, by who he is.

use reqwest::header::HeaderMap;

use super::group::Ask;

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A service that a manifest names.
    Service,
    /// The origin in the primary's region.
    PrimaryOrigin {
        /// Whether what it would answer can be run here as well.
        has_other_way: bool,
    },
}

impl Role {
    /// Whether what was asked for may be asked for again, whatever became of it.
    ///
    /// A service means by PUT and DELETE what RFC 9110 says. What handlers of the origin do is not known, so there only reads
    /// count. Nor does an idempotency key: not every handler knows the second request by it, and one that does may find the first
    /// still under way, which its client, who has sent one, must not be told.
    pub(super) fn is_repeatable(self, ask: &Ask) -> bool {
        let methods: &[&str] = match self {
            Self::Service => &["GET", "HEAD", "OPTIONS", "PUT", "DELETE"],
            Self::PrimaryOrigin { .. } => &["GET", "HEAD"],
        };
        methods.contains(&ask.method.as_str())
    }

    /// Whether who cannot be reached is let alone, instead of being tried all the same.
    pub(super) const fn has_other_way(self) -> bool {
        matches!(self, Self::PrimaryOrigin { has_other_way: true })
    }

    /// Whether a 502, 503 or 504 is the word of who was asked, and not of something on the way to him: an origin names itself in
    /// all that it says.
    pub(super) fn speaks_for_itself(self, head: &HeaderMap) -> bool {
        matches!(self, Self::PrimaryOrigin { .. }) && head.contains_key("x-region")
    }
}
