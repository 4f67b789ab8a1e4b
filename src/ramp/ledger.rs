//! The ledger, as handlers use it. What must hold of money (entries that sum to zero, balances above their limit, nothing that
//! changes afterwards) is held by the database, in `migrations/ramp`; `docs/ledger.md` tells how.

use diesel::QueryResult;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

/// What fees are paid to.
pub const FEES: &str = "fees";
/// What one entry may be, up or down, in minor units.
pub(super) const AMOUNT_MAX: i64 = 1_000_000_000_000_000;

diesel::define_sql_function! {
    /// Enters a transaction; false where an account would fall below its limit.
    #[sql_name = "ramp.post"]
    fn post_sql(
        id: diesel::sql_types::Uuid,
        kind: diesel::sql_types::Text,
        is_pending: diesel::sql_types::Bool,
        holders: diesel::sql_types::Array<diesel::sql_types::Text>,
        currencies: diesel::sql_types::Array<diesel::sql_types::Text>,
        amounts: diesel::sql_types::Array<diesel::sql_types::BigInt>,
    ) -> diesel::sql_types::Bool;
}

/// By how much a transaction changes one account of the ledger.
pub struct Posting<'a> {
    /// Whose it is: a customer's id, or what it is for.
    pub holder: String,
    /// Its currency.
    pub currency: &'a str,
    /// In minor units: positive where it goes up.
    pub amount: i64,
}

/// Enters a transaction that is final at once. False, with nothing entered, where an account would fall below its limit. Locks the
/// accounts in their order, so it comes last in a transaction of the database, and once.
///
/// # Errors
/// That of the database, which refuses what does not sum to zero.
pub async fn post(conn: &mut AsyncPgConnection, id: Uuid, kind: &str, postings: &[Posting<'_>]) -> QueryResult<bool> {
    let holders: Vec<&str> = postings.iter().map(|posting| posting.holder.as_str()).collect();
    let currencies: Vec<&str> = postings.iter().map(|posting| posting.currency).collect();
    let amounts: Vec<i64> = postings.iter().map(|posting| posting.amount).collect();
    diesel::select(post_sql(id, kind, false, holders, currencies, amounts)).get_result(conn).await
}
