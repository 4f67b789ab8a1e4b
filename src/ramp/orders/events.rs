//! What happens to orders: what providers tell, what customers want, and what the clock says.

use chrono::{DateTime, Utc};
use diesel::dsl::exists;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::super::ledger::AMOUNT_MAX;
use super::super::providers::Event;
use super::super::schema::currencies;
use super::super::tables::orders;
use crate::database::maintenance::MaintenanceConnection;
use crate::database::write::Abort;

/// Orders that cannot be expired, at which a sweep gives up.
const PASSED_OVER_MAX: i32 = 20;
/// How much of an event's id stands in the history.
const CAUSE_CHARS_MAX: usize = 255;

mod sql {
    use diesel::sql_types::{BigInt, Integer, Nullable, Text, Timestamptz, Uuid};

    diesel::define_sql_function! {
        #[sql_name = "ramp.advance"]
        fn advance(
            id: Uuid, event: Text, cause: Text, moved_amount: Nullable<BigInt>, moved_currency: Nullable<Text>,
            told_at: Nullable<Timestamptz>,
        ) -> Nullable<Text>;
    }
    diesel::define_sql_function! {
        #[sql_name = "ramp.expire_order"]
        fn expire(passed_over: Integer) -> Bool;
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
/// early or twice nothing comes: deliveries keep no order, and a provider that is told of an error would only repeat it. In time is what
/// was told in time, however much later it is applied. Locks the order and then accounts of the ledger, so it comes last in a
/// transaction.
///
/// # Errors
/// Those of the database.
pub(in crate::ramp) async fn apply(
    conn: &mut AsyncPgConnection,
    provider: &str,
    event: &Event,
    told_at: DateTime<Utc>,
) -> Result<Applied, Abort> {
    // Of orders of other providers it knows nothing.
    let own = orders::table.find(event.order_id).filter(orders::provider.eq(provider));
    if !diesel::select(exists(own)).get_result::<bool>(conn).await? {
        return Ok(Applied::Ignored("unknown_order"));
    }
    // What else may happen to an order is not for providers to tell.
    if !event.kind.contains('.') || !is_known(conn, &event.kind).await? {
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
    let (id, kind, currency) = (event.order_id, &event.kind, event.currency.as_deref());
    let advance = sql::advance(id, kind, &cause, event.amount, currency, Some(told_at));
    let status: Option<String> = diesel::select(advance).get_result(conn).await?;
    Ok(status.map_or(Applied::Ignored("not_allowed"), Applied::Moved))
}

/// Whether anything could come of such an event.
async fn is_known(conn: &mut AsyncPgConnection, kind: &str) -> QueryResult<bool> {
    let is_known = diesel::dsl::sql::<Bool>("EXISTS (SELECT FROM ramp.order_transitions WHERE event = ");
    diesel::select(is_known.bind::<Text, _>(kind).sql(")")).get_result(conn).await
}

/// Ends an order for its customer: its new status; none where it is too late for that. One whose time is over expires first.
pub(super) async fn cancel(conn: &mut AsyncPgConnection, id: Uuid) -> QueryResult<Option<String>> {
    let cancel = sql::advance(id, "cancelled", "customer", None::<i64>, None::<&str>, None::<DateTime<Utc>>);
    diesel::select(cancel).get_result(conn).await
}

/// Expires orders whose time is over, each in a transaction of its own, so many at most. Returns how many they were; those that
/// others work on, and those of which a provider has told something that is not seen to yet, are left.
///
/// # Errors
/// The last one of the database. What has expired stays so, and one that cannot be expired keeps no other from it.
pub fn expire(conn: &mut MaintenanceConnection, orders_max: usize) -> QueryResult<usize> {
    let (mut expired, mut passed_over, mut outcome) = (0, 0, Ok(()));
    while expired < orders_max && passed_over < PASSED_OVER_MAX {
        match diesel::RunQueryDsl::get_result::<bool>(diesel::select(sql::expire(passed_over)), conn) {
            Ok(true) => expired += 1,
            Ok(false) => break,
            Err(error) => {
                passed_over += 1;
                outcome = Err(error);
            }
        }
    }
    outcome.map(|()| expired)
}
