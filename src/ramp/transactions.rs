//! What happened to a customer's accounts in the ledger: `ramp.transactions.list` and `ramp.transactions.get`.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text, Timestamptz};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::page::{self, Page, Place};
use super::tables::{ledger_accounts, ledger_entries, ledger_transactions};
use super::{accounts, required};
use crate::error::{Code, Error};
use crate::source::Answer;
use crate::source::description::{Description, Response};
use crate::source::handler::Call;

/// The newest transactions of an account below a place: as many of each of its accounts in the ledger as are wanted of all together,
/// out of the index, and of those the newest.
pub const NEWEST: &str = "
    SELECT t.id, t.kind, t.state, t.reverses, t.created_at, t.settled_at
    FROM (
        SELECT DISTINCT e.created_at, e.transaction_id
        FROM ramp.ledger_accounts a
        CROSS JOIN LATERAL (
            SELECT e.created_at, e.transaction_id FROM ramp.ledger_entries e
            WHERE e.ledger_account_id = a.id AND e.created_at >= coalesce($3, '-infinity')
              AND (e.created_at, e.transaction_id)
                  < (coalesce($4, 'infinity'), coalesce($5, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
            ORDER BY e.created_at DESC, e.transaction_id DESC
            LIMIT $6
        ) AS e
        WHERE a.account_id = $1 AND a.currency = coalesce($2, a.currency)
        ORDER BY e.created_at DESC, e.transaction_id DESC
        LIMIT $6
    ) AS newest
    JOIN ramp.ledger_transactions t ON t.id = newest.transaction_id
    ORDER BY newest.created_at DESC, newest.transaction_id DESC";

/// Transactions that are looked at for one page. No index finds those of a kind or a state; where most are left out, a page ends here,
/// before it is full.
const EXAMINED_MAX: i64 = 2_000;
/// How much more is looked at next, where what was looked at did not do.
const GROWTH: i64 = 4;

/// A transaction of the ledger.
#[derive(Queryable, QueryableByName, Selectable, Serialize)]
#[diesel(table_name = ledger_transactions, check_for_backend(diesel::pg::Pg))]
struct Transaction {
    id: Uuid,
    kind: String,
    state: String,
    reverses: Option<Uuid>,
    created_at: DateTime<Utc>,
    settled_at: Option<DateTime<Utc>>,
}

impl Transaction {
    fn place(&self) -> Place {
        Place { at: self.created_at, id: self.id }
    }
}

/// By how much it changes what the caller has of a currency.
#[derive(Serialize)]
struct Entry {
    currency: String,
    /// In minor units.
    amount: i64,
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    transaction: Transaction,
    entries: Vec<Entry>,
}

#[derive(Serialize)]
struct List {
    transactions: Vec<Shown>,
    next_cursor: Option<String>,
}

/// Which transactions are wanted.
struct Filters<'a> {
    currency: Option<&'a str>,
    kind: Option<&'a str>,
    state: Option<&'a str>,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
}

impl<'a> Filters<'a> {
    fn of(call: &'a Call) -> Result<Self, Error> {
        let text = |name| call.params.text(name);
        let (from, to) = page::span(call)?;
        Ok(Self { currency: text("currency"), kind: text("kind"), state: text("state"), from, to })
    }

    /// What the index does not say.
    fn want(&self, transaction: &Transaction) -> bool {
        self.kind.is_none_or(|kind| transaction.kind == kind)
            && self.state.is_none_or(|state| transaction.state == state)
    }
}

/// `ramp.transactions.list`: a page of the transactions that touched the caller's accounts, the newest first.
pub(super) async fn list(call: Call) -> Result<Answer, Error> {
    let caller = accounts::of(&call)?;
    let (page, filters) = (Page::of(&call, "transactions", caller)?, Filters::of(&call)?);
    let list = call.read(async |conn| {
        let (found, next_cursor) = find(conn, caller, &filters, &page).await?;
        Ok(List { transactions: with_entries(conn, caller, found).await?, next_cursor })
    });
    Answer::json(&list.await?)
}

/// `ramp.transactions.get`: one of them.
pub(super) async fn get(call: Call) -> Result<Answer, Error> {
    let caller = accounts::of(&call)?;
    let id = required(&call, "id")?;
    let absent = || Error::new(Code::NotFound, format!("there is no transaction {id}"));
    let id = Uuid::parse_str(id).map_err(|_| absent())?;
    let found = call.read(async |conn| {
        let row = ledger_transactions::table.find(id).select(Transaction::as_select()).first(conn).await.optional()?;
        with_entries(conn, caller, row.into_iter().collect()).await
    });
    // Another's has no entries of the caller's.
    let shown = found.await?.into_iter().find(|shown| !shown.entries.is_empty());
    Answer::json(&shown.ok_or_else(absent)?)
}

/// The transactions of a page, and the cursor of the next one.
async fn find(
    conn: &mut AsyncPgConnection,
    caller: Uuid,
    filters: &Filters<'_>,
    page: &Page,
) -> QueryResult<(Vec<Transaction>, Option<String>)> {
    let mut found: Vec<Transaction> = Vec::new();
    let mut below = page.below.or(filters.to.map(Place::start_of));
    let (mut step, mut left) = (page.rows_wanted(), EXAMINED_MAX);
    loop {
        let examined = newest(conn, caller, filters, below, step).await?;
        let is_all = i64::try_from(examined.len()).is_ok_and(|length| length < step);
        below = examined.last().map(Transaction::place).or(below);
        found.extend(examined.into_iter().filter(|transaction| filters.want(transaction)));
        left -= step;
        if is_all || left <= 0 || found.len() > page.limit {
            let (shown, next) = page.cut(found, Transaction::place);
            let rest = below.filter(|_| !is_all).map(|below| page.cursor(below));
            return Ok((shown, next.or(rest)));
        }
        step = left.min(step * GROWTH);
    }
}

async fn newest(
    conn: &mut AsyncPgConnection,
    caller: Uuid,
    filters: &Filters<'_>,
    below: Option<Place>,
    count: i64,
) -> QueryResult<Vec<Transaction>> {
    let query = diesel::sql_query(NEWEST)
        .bind::<diesel::sql_types::Uuid, _>(caller)
        .bind::<Nullable<Text>, _>(filters.currency)
        .bind::<Nullable<Timestamptz>, _>(filters.from)
        .bind::<Nullable<Timestamptz>, _>(below.map(|place| place.at))
        .bind::<Nullable<diesel::sql_types::Uuid>, _>(below.map(|place| place.id))
        .bind::<BigInt, _>(count);
    query.load(conn).await
}

/// Transactions with those of their entries that are the caller's.
async fn with_entries(
    conn: &mut AsyncPgConnection,
    caller: Uuid,
    transactions: Vec<Transaction>,
) -> QueryResult<Vec<Shown>> {
    let ids: Vec<Uuid> = transactions.iter().map(|transaction| transaction.id).collect();
    let entries: Vec<(Uuid, String, i64)> = ledger_entries::table
        .inner_join(ledger_accounts::table.on(ledger_accounts::id.eq(ledger_entries::ledger_account_id)))
        .filter(ledger_entries::transaction_id.eq_any(ids))
        .filter(ledger_accounts::account_id.eq(caller))
        .order(ledger_accounts::currency)
        .select((ledger_entries::transaction_id, ledger_accounts::currency, ledger_entries::amount))
        .load(conn)
        .await?;
    let shown = transactions.into_iter().map(|transaction| {
        let own = entries.iter().filter(|(id, ..)| *id == transaction.id);
        let entries = own.map(|(_, currency, amount)| Entry { currency: currency.clone(), amount: *amount }).collect();
        Shown { transaction, entries }
    });
    Ok(shown.collect())
}

/// What [`list`] takes and gives.
pub(super) fn describe_list() -> Description {
    Description {
        summary: "What happened to the caller's accounts",
        details: "The newest first. Where `kind` or `state` leaves most out, a page may have fewer rows than `limit`, or none, and yet \
                  be followed by others: go on until `next_cursor` is null. Who walks from page to page sees each transaction once, \
                  whatever happens meanwhile.",
        responses: vec![Response::ok("A page.", page::schema("transactions", &schema()))],
        codes: vec![Code::ClaimInvalid, Code::ParamInvalid],
        ..Description::default()
    }
}

/// What [`get`] takes and gives.
pub(super) fn describe_get() -> Description {
    Description {
        summary: "A transaction that touched the caller's accounts",
        responses: vec![Response::ok("The transaction.", schema())],
        codes: vec![Code::NotFound, Code::ClaimInvalid],
        ..Description::default()
    }
}

fn schema() -> Value {
    let entry = json!({
        "type": "object",
        "required": ["currency", "amount"],
        "properties": {
            "currency": { "type": "string" },
            "amount": {
                "type": "integer",
                "format": "int64",
                "description": "By how much the caller's balance goes up, or down where it is negative, in minor units.",
            },
        },
    });
    json!({
        "type": "object",
        "required": ["id", "kind", "state", "entries", "reverses", "created_at", "settled_at"],
        "properties": {
            "id": { "type": "string", "format": "uuid", "description": "Its id. That of a transfer is the transfer's, too." },
            "kind": { "type": "string", "description": "`transfer`, `reversal`, …" },
            "state": {
                "enum": ["pending", "posted", "voided"],
                "description": "A pending one holds what it will take, and changes balances when it is posted. A voided one never does.",
            },
            "entries": {
                "type": "array",
                "minItems": 1,
                "items": entry,
                "description": "One for each of the caller's currencies that it touches, by currency.",
            },
            "reverses": {
                "type": ["string", "null"],
                "format": "uuid",
                "description": "The transaction that this one takes back.",
            },
            "created_at": { "type": "string", "format": "date-time" },
            "settled_at": { "type": ["string", "null"], "format": "date-time", "description": "When it ceased to be pending." },
        },
    })
}
