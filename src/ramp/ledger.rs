//! What of the ledger handlers know. What must hold of money (entries that sum to zero, balances above their limit, nothing that
//! changes afterwards) is held by the database, in `migrations/ramp`; `docs/ledger.md` tells how.

/// What one entry may be, up or down, in minor units.
pub(super) const AMOUNT_MAX: i64 = 1_000_000_000_000_000;
