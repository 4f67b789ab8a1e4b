//! What can be ordered.

use super::super::accounts::Purse;

/// A kind of order. In which they differ is said here, and in `ramp.order_transitions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ramp) enum Product {
    /// Money that a provider is paid from outside becomes tokens, or a balance.
    Onramp,
    /// Tokens, or a balance, become money that a provider pays out.
    Offramp,
    /// A balance becomes tokens.
    Mint,
    /// Tokens become a balance.
    Redemption,
}

/// How the handlers of a product are called in the manifest.
pub(in crate::ramp) struct Handlers {
    pub create: &'static str,
    pub list: &'static str,
    pub get: &'static str,
    pub cancel: &'static str,
}

impl Product {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Onramp, Self::Offramp, Self::Mint, Self::Redemption];

    /// As it is called in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Onramp => "onramp",
            Self::Offramp => "offramp",
            Self::Mint => "mint",
            Self::Redemption => "redemption",
        }
    }

    /// Whether the customer gives money and receives the asset; else it is the other way round.
    pub const fn buys(self) -> bool {
        matches!(self, Self::Onramp | Self::Mint)
    }

    /// Whether the money is outside, with a provider; else it is the customer's balance.
    pub const fn is_outside(self) -> bool {
        matches!(self, Self::Onramp | Self::Offramp)
    }

    /// Where what the customer gives comes from.
    pub const fn purse(self) -> Purse {
        match self {
            Self::Onramp => Purse::Outside,
            Self::Offramp | Self::Mint | Self::Redemption => Purse::Balance,
        }
    }

    /// What may be said of where an order stands, as `ramp.order_transitions` has it.
    pub const fn statuses(self) -> &'static [&'static str] {
        match self {
            Self::Onramp => {
                &["awaiting_payment", "completed", "failed", "cancelled", "expired", "in_review", "refunded"]
            }
            Self::Offramp => {
                &["pending", "processing", "completed", "failed", "cancelled", "expired", "in_review", "refunded"]
            }
            Self::Mint | Self::Redemption => &["pending", "completed", "failed", "cancelled", "expired"],
        }
    }

    /// Its handlers.
    pub const fn handlers(self) -> Handlers {
        let (create, list, get, cancel) = match self {
            Self::Onramp => ("ramp.onramp.create", "ramp.onramp.list", "ramp.onramp.get", "ramp.onramp.cancel"),
            Self::Offramp => ("ramp.offramp.create", "ramp.offramp.list", "ramp.offramp.get", "ramp.offramp.cancel"),
            Self::Mint => ("ramp.mint.create", "ramp.mint.list", "ramp.mint.get", "ramp.mint.cancel"),
            Self::Redemption => {
                ("ramp.redemption.create", "ramp.redemption.list", "ramp.redemption.get", "ramp.redemption.cancel")
            }
        };
        Handlers { create, list, get, cancel }
    }
}
