//! Customers: who of them calls, and how much they may move. What a query can say of them (`/account/…`) stands in the manifest.

use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::Serialize;
use uuid::Uuid;

use super::tables::accounts;
use crate::database::maintenance::MaintenanceConnection;
use crate::database::write::Abort;
use crate::error::{Code, Error};
use crate::source::handler::Call;

diesel::define_sql_function! {
    /// Counts against limits; names the one that forbids.
    #[sql_name = "ramp.spend"]
    fn spend_sql(
        account_id: diesel::sql_types::Uuid,
        currency: diesel::sql_types::Text,
        amount: diesel::sql_types::BigInt,
    ) -> diesel::sql_types::Nullable<diesel::sql_types::Text>;
}

diesel::define_sql_function! {
    /// The same, of a balance: it must have the total.
    #[sql_name = "ramp.spend_from_balance"]
    fn spend_from_balance_sql(
        account_id: diesel::sql_types::Uuid,
        currency: diesel::sql_types::Text,
        amount: diesel::sql_types::BigInt,
        total: diesel::sql_types::BigInt,
    ) -> diesel::sql_types::Nullable<diesel::sql_types::Text>;
}

/// A customer.
#[derive(Clone, Debug, Queryable, Selectable, Serialize)]
#[diesel(table_name = accounts, check_for_backend(diesel::pg::Pg))]
pub struct Account {
    /// Its id, which its keys have as `sub`.
    pub id: Uuid,
    /// What it is called.
    pub name: String,
    /// How well its owner is known: 0, 1 or 2.
    pub kyc_tier: i16,
    /// When it was opened.
    pub created_at: chrono::DateTime<chrono::Utc>,
}

/// Whether a database has the tables of accounts.
///
/// # Errors
/// When the server cannot be asked.
pub fn are_there(conn: &mut MaintenanceConnection) -> QueryResult<bool> {
    let there = diesel::dsl::sql::<diesel::sql_types::Bool>("SELECT to_regclass('ramp.transfers') IS NOT NULL");
    diesel::RunQueryDsl::get_result(there, conn)
}

/// Opens an account.
///
/// # Errors
/// That of the database, which refuses an empty or long name and tiers that there are not.
pub fn create(conn: &mut MaintenanceConnection, name: &str, kyc_tier: i16) -> QueryResult<Account> {
    let values = (accounts::name.eq(name), accounts::kyc_tier.eq(kyc_tier));
    let insert = diesel::insert_into(accounts::table).values(values).returning(Account::as_returning());
    diesel::RunQueryDsl::get_result(insert, conn)
}

/// All accounts, the oldest first.
///
/// # Errors
/// That of the database.
pub fn list(conn: &mut MaintenanceConnection) -> QueryResult<Vec<Account>> {
    let all = accounts::table.order((accounts::created_at, accounts::id)).select(Account::as_select());
    diesel::RunQueryDsl::load(all, conn)
}

/// Whose account a call is for: what the `sub` of its key says.
pub(super) fn of(call: &Call) -> Result<Uuid, Error> {
    let identity = call.caller.as_ref().and_then(|caller| caller.identity.as_ref());
    let identity = identity.ok_or_else(|| Error::new(Code::Unauthorized, "an API key is needed"))?;
    let sub = identity.claims.get("sub").and_then(serde_json::Value::as_str);
    sub.and_then(|sub| Uuid::parse_str(sub).ok()).ok_or_else(nobody)
}

/// Why a key will not do that is nobody's among the customers.
pub(super) fn nobody() -> Error {
    Error::new(Code::ClaimInvalid, "the API key belongs to no account: its sub is the id of none")
}

/// Where what a customer sends comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purse {
    /// From outside.
    Outside,
    /// From what the customer has. Who has less is told that, and not which limit it would exceed besides.
    Balance,
}

/// Counts what a customer sends against the limits of its tier.
pub(super) async fn spend(
    conn: &mut AsyncPgConnection,
    id: Uuid,
    purse: Purse,
    currency: &str,
    amount: i64,
) -> Result<(), Abort> {
    let limit: Option<String> = match purse {
        Purse::Outside => diesel::select(spend_sql(id, currency, amount)).get_result(conn).await?,
        Purse::Balance => diesel::select(spend_from_balance_sql(id, currency, amount, amount)).get_result(conn).await?,
    };
    limit.map_or(Ok(()), |limit| Err(exceeded(&limit, currency, amount).into()))
}

/// Why a customer cannot send so much, the fee included.
pub(super) fn insufficient(currency: &str, total: i64) -> Error {
    Error::new(Code::InsufficientFunds, format!("{total} minor units of {currency} are more than is available"))
}

/// Why a customer may not send so much, by the limit that `ramp.spend` has named.
pub(super) fn exceeded(limit: &str, currency: &str, amount: i64) -> Error {
    let limit = match limit {
        "insufficient_funds" => return insufficient(currency, amount),
        "unknown_currency" => {
            let sentence = format!("currency: there is no {currency}; GET /public/currencies lists what there is");
            return Error::new(Code::BodyInvalid, sentence);
        }
        "per_transaction" => "more than the account may send at once",
        "per_day" => "more than the account may still send today (UTC)",
        _ => {
            let sentence = format!("the account may not send {currency}; GET /account/kyc lists what it may");
            return Error::new(Code::LimitExceeded, sentence);
        }
    };
    let sentence = format!("{amount} minor units of {currency} are {limit}; GET /account/kyc tells how much that is");
    Error::new(Code::LimitExceeded, sentence)
}
