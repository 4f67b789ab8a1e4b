//! What happens to orders: what providers tell, what customers want, and what the clock says.

use diesel::dsl::exists;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::super::ledger::AMOUNT_MAX;
use super::super::providers::Event;
use super::super::schema::currencies;
use super::super::tables::orders;
use crate::database::maintenance::MaintenanceConnection;
use crate::database::write::Abort;

/// How much of an event's id stands in the history.
const CAUSE_CHARS_MAX: usize = 255;

mod sql {
    use diesel::sql_types::{BigInt, Nullable, Text, Uuid};

    diesel::define_sql_function! {
        #[sql_name = "ramp.advance"]
        fn advance(
            id: Uuid, event: Text, cause: Text, moved_amount: Nullable<BigInt>, moved_currency: Nullable<Text>,
        ) -> Nullable<Text>;
    }
    diesel::define_sql_function! {
        #[sql_name = "ramp.expire_order"]
        fn expire() -> Bool;
    }
}

/// What came of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::ramp) enum Applied {
    /// The order has this status now.
    Moved(String),
    /// Nothing, and why.
    Ignored(&'static str),
}

/// Applies what a provider tells of an order. The caller sees to it that each event is applied once. Of what is told too late, too
/// early or twice nothing comes: deliveries keep no order, and a provider that is told of an error would only repeat it. Locks the
/// order and then accounts of the ledger, so it comes last in a transaction.
///
/// # Errors
/// Those of the database.
pub(in crate::ramp) async fn apply(
    conn: &mut AsyncPgConnection,
    provider: &str,
    event: &Event,
) -> Result<Applied, Abort> {
    // Of orders of other providers it knows nothing.
    let own = orders::table.find(event.order_id).filter(orders::provider.eq(provider));
    if !diesel::select(exists(own)).get_result::<bool>(conn).await? {
        return Ok(Applied::Ignored("unknown_order"));
    }
    // What else may happen to an order is not for providers to tell.
    if !event.kind.contains('.') {
        return Ok(Applied::Ignored("unknown_kind"));
    }
    if event.amount.is_some_and(|amount| !(1..=AMOUNT_MAX).contains(&amount)) {
        return Ok(Applied::Ignored("amount_invalid"));
    }
    if let Some(currency) = &event.currency
        && !diesel::select(exists(currencies::table.find(currency))).get_result::<bool>(conn).await?
    {
        return Ok(Applied::Ignored("currency_invalid"));
    }
    let id: String = event.id.chars().take(CAUSE_CHARS_MAX).collect();
    let cause = format!("{provider}:{id}");
    let status = advance(conn, event.order_id, &event.kind, &cause, event.amount, event.currency.as_deref()).await?;
    Ok(status.map_or(Applied::Ignored("not_allowed"), Applied::Moved))
}

/// What an event makes of an order: its new status; none where it makes nothing of it. An order whose time is over expires first.
pub(super) async fn advance(
    conn: &mut AsyncPgConnection,
    id: Uuid,
    event: &str,
    cause: &str,
    amount: Option<i64>,
    currency: Option<&str>,
) -> QueryResult<Option<String>> {
    diesel::select(sql::advance(id, event, cause, amount, currency)).get_result(conn).await
}

/// Expires orders whose time is over, each in a transaction of its own, so many at most. Returns how many they were; those that
/// others work on are left to them.
///
/// # Errors
/// That of the database; what has expired before stays so.
pub fn expire(conn: &mut MaintenanceConnection, orders_max: usize) -> QueryResult<usize> {
    for expired in 0..orders_max {
        if !diesel::RunQueryDsl::get_result::<bool>(diesel::select(sql::expire()), conn)? {
            return Ok(expired);
        }
    }
    Ok(orders_max)
}
