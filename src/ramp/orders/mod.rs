//! Orders: money that a customer brings in (on-ramp), takes out (off-ramp), turns into tokens (mint) or back (redemption).
//!
//! What may become of an order, and what that does to the ledger, stands in one table of the database, `ramp.order_transitions`; no
//! order changes but by `ramp.advance`, which keeps its status, its history and the ledger in step.

mod events;

pub(in crate::ramp) use events::{Applied, apply};
