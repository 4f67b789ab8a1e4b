//! Payment providers: who moves money outside, and tells by webhook what became of it.

use uuid::Uuid;

/// What a provider tells of an order. Deliveries of one event have one id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its id, which the provider gave it.
    pub id: String,
    /// What happened: `payment.succeeded`, …
    pub kind: String,
    /// The order that it happened to.
    pub order_id: Uuid,
    /// How much was moved, in minor units, where the provider says so.
    pub amount: Option<i64>,
    /// The currency of that amount.
    pub currency: Option<String>,
}
