//! Transfers from one customer to another: `ramp.transfers.create`, `ramp.transfers.get` and `ramp.transfers.list`.

use std::cmp::Reverse;

use chrono::{DateTime, Utc};
use diesel::dsl::exists;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::page::{self, Page, Place};
use super::tables::{ledger_transactions, transfers};
use super::{accounts, body, fees, idempotency, required};
use crate::database::write::Abort;
use crate::error::{Code, Error};
use crate::source::Answer;
use crate::source::description::{Description, Header, Response};
use crate::source::handler::Call;

/// What is asked for.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    to_account_id: Uuid,
    /// In minor units.
    amount: i64,
    currency: String,
}

diesel::define_sql_function! {
    /// Sends money, or says why not.
    #[sql_name = "ramp.send"]
    fn send_sql(
        id: diesel::sql_types::Uuid,
        sender: diesel::sql_types::Uuid,
        recipient: diesel::sql_types::Uuid,
        currency: diesel::sql_types::Text,
        amount: diesel::sql_types::BigInt,
        fee: diesel::sql_types::BigInt,
    ) -> diesel::sql_types::Nullable<diesel::sql_types::Text>;
}

#[derive(Queryable, Selectable, Serialize)]
#[diesel(table_name = transfers, check_for_backend(diesel::pg::Pg))]
struct Transfer {
    id: Uuid,
    from_account_id: Uuid,
    to_account_id: Uuid,
    currency: String,
    amount: i64,
    fee: i64,
    created_at: DateTime<Utc>,
}

#[derive(Serialize)]
struct Shown {
    /// `completed`, or `reversed` once it was taken back.
    status: &'static str,
    #[serde(flatten)]
    transfer: Transfer,
}

impl Shown {
    fn new((transfer, is_reversed): (Transfer, bool)) -> Self {
        Self { status: if is_reversed { "reversed" } else { "completed" }, transfer }
    }
}

#[derive(Serialize)]
struct List {
    transfers: Vec<Shown>,
    next_cursor: Option<String>,
}

/// `ramp.transfers.create`: sends money to another account, at once. The fee comes on top of the amount.
pub(super) async fn create(call: Call) -> Result<Answer, Error> {
    let wanted: Wanted = body(&call)?;
    if wanted.amount < 1 {
        return Err(Error::new(Code::BodyInvalid, "amount must be at least 1, in minor units"));
    }
    // Refusals are kept with their sentence, so what it quotes is short.
    if !(3..=4).contains(&wanted.currency.len()) || !wanted.currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Err(Error::new(Code::BodyInvalid, "currency must be a code of three or four capitals, like USD"));
    }
    idempotency::once(&call, "ramp.transfers.create", &wanted, async |conn, sender| send(conn, sender, &wanted).await)
        .await
}

async fn send(conn: &mut AsyncPgConnection, sender: Uuid, wanted: &Wanted) -> Result<Answer, Abort> {
    let Wanted { to_account_id, amount, ref currency } = *wanted;
    if to_account_id == sender {
        return Err(Error::new(Code::BodyInvalid, "to_account_id must be another account").into());
    }
    let schedule = fees::find(conn, "transfer", currency).await?;
    let fee = schedule.map_or(Some(0), |schedule| schedule.fee(amount));
    let (Some(fee), Some(total)) = (fee, fee.and_then(|fee| amount.checked_add(fee))) else {
        return Err(
            Error::new(Code::BodyInvalid, "amount is too large: with its fee it does not fit in 64 bits").into()
        );
    };
    let id = Uuid::new_v4();
    // The time of the transaction, which the row gets as well.
    let now = diesel::dsl::now.into_sql::<diesel::sql_types::Timestamptz>();
    let send = (send_sql(id, sender, to_account_id, currency, amount, fee), now);
    let (refusal, created_at): (Option<String>, _) = diesel::select(send).get_result(conn).await?;
    let refused = |code, sentence| Err(Abort::Refused(Error::new(code, sentence)));
    match refusal.as_deref() {
        None => {}
        Some("recipient") => {
            return refused(Code::NotFound, format!("to_account_id: there is no account {to_account_id}"));
        }
        Some("insufficient_funds") => return Err(accounts::insufficient(currency, total).into()),
        Some(limit) => return Err(accounts::exceeded(limit, currency, amount).into()),
    }
    let currency = currency.clone();
    let transfer = Transfer { id, from_account_id: sender, to_account_id, currency, amount, fee, created_at };
    let answer = Answer::json(&Shown { status: "completed", transfer })?;
    Ok(Answer { status: 201, ..answer })
}

/// `ramp.transfers.get`: a transfer that the caller has sent or received.
pub(super) async fn get(call: Call) -> Result<Answer, Error> {
    let caller = accounts::of(&call)?;
    let id = required(&call, "id")?;
    let absent = || Error::new(Code::NotFound, format!("there is no transfer {id}"));
    let id = Uuid::parse_str(id).map_err(|_| absent())?;
    let row = transfers::table
        .find(id)
        .filter(transfers::from_account_id.eq(caller).or(transfers::to_account_id.eq(caller)))
        .select((Transfer::as_select(), is_reversed()));
    let found = call.read(async |conn| row.first::<(Transfer, bool)>(conn).await.optional()).await?;
    Answer::json(&Shown::new(found.ok_or_else(absent)?))
}

/// `ramp.transfers.list`: a page of the transfers that the caller has sent or received, the newest first.
pub(super) async fn list(call: Call) -> Result<Answer, Error> {
    let caller = accounts::of(&call)?;
    let page = Page::of(&call, "transfers", caller)?;
    let (from, to) = page::span(&call)?;
    let below = page.below.or(to.map(Place::start_of));
    let wanted = call.params.text("direction");
    let found = call.read(async |conn| {
        let mut found = Vec::new();
        for direction in
            ["sent", "received"].into_iter().filter(|direction| wanted.is_none_or(|name| name == *direction))
        {
            found.extend(newest(conn, caller, direction, from, below, page.rows_wanted()).await?);
        }
        Ok(found)
    });
    let place = |transfer: &Transfer| Place { at: transfer.created_at, id: transfer.id };
    let mut found = found.await?;
    found.sort_unstable_by_key(|(transfer, _)| Reverse(place(transfer)));
    let (shown, next_cursor) = page.cut(found, |(transfer, _)| place(transfer));
    Answer::json(&List { transfers: shown.into_iter().map(Shown::new).collect(), next_cursor })
}

/// The newest transfers of an account in one direction, each with whether it was taken back.
async fn newest(
    conn: &mut AsyncPgConnection,
    account: Uuid,
    direction: &str,
    from: Option<DateTime<Utc>>,
    below: Option<Place>,
    count: i64,
) -> QueryResult<Vec<(Transfer, bool)>> {
    let mut query = transfers::table
        .select((Transfer::as_select(), is_reversed()))
        .order((transfers::created_at.desc(), transfers::id.desc()))
        .limit(count)
        .into_boxed();
    query = match direction {
        "sent" => query.filter(transfers::from_account_id.eq(account)),
        _ => query.filter(transfers::to_account_id.eq(account)),
    };
    if let Some(from) = from {
        query = query.filter(transfers::created_at.ge(from));
    }
    if let Some(Place { at, id }) = below {
        // The first of the two is for the index.
        let is_below = transfers::created_at.lt(at).or(transfers::id.lt(id));
        query = query.filter(transfers::created_at.le(at)).filter(is_below);
    }
    query.load(conn).await
}

/// Whether a transaction takes a transfer back.
#[diesel::dsl::auto_type]
fn is_reversed() -> _ {
    let reversals = ledger_transactions::table.filter(ledger_transactions::reverses.eq(transfers::id.nullable()));
    exists(reversals)
}

/// What [`create`] takes and gives.
pub(super) fn describe_create() -> Description {
    let request = json!({
        "type": "object",
        "required": ["to_account_id", "amount", "currency"],
        "additionalProperties": false,
        "properties": {
            "to_account_id": { "type": "string", "format": "uuid", "description": "Who receives it." },
            "amount": { "type": "integer", "format": "int64", "minimum": 1, "description": "What arrives, in minor units." },
            "currency": { "type": "string", "pattern": "^[A-Z]{3,4}$", "description": "As /account/balances names it." },
        },
    });
    let created = Response {
        status: 201,
        headers: vec![idempotency::replayed()],
        ..Response::ok("The transfer, which is complete.", schema())
    };
    let own = [Code::InsufficientFunds, Code::LimitExceeded, Code::NotFound, Code::BodyInvalid, Code::ClaimInvalid];
    Description {
        summary: "Send money to another account",
        details: "At once. The fee of the schedule `transfer` comes on top of the amount. A key that was refused stays refused: \
                  who wants to try again later takes a new one.",
        request: Some(request),
        request_headers: vec![Header::idempotency_key(true)],
        responses: vec![created],
        codes: own.into_iter().chain(idempotency::CODES).collect(),
    }
}

/// What [`get`] takes and gives.
pub(super) fn describe_get() -> Description {
    Description {
        summary: "A transfer that the caller has sent or received",
        responses: vec![Response::ok("The transfer.", schema())],
        codes: vec![Code::NotFound, Code::ClaimInvalid],
        ..Description::default()
    }
}

/// What [`list`] takes and gives.
pub(super) fn describe_list() -> Description {
    Description {
        summary: "The transfers that the caller has sent or received",
        details: "The newest first. Who walks from page to page sees each one once, whatever is sent meanwhile.",
        responses: vec![Response::ok("A page.", page::schema("transfers", &schema()))],
        codes: vec![Code::ClaimInvalid, Code::ParamInvalid],
        ..Description::default()
    }
}

fn schema() -> Value {
    let id = |description: &str| json!({ "type": "string", "format": "uuid", "description": description });
    let units = |description: &str| json!({ "type": "integer", "format": "int64", "description": description });
    json!({
        "type": "object",
        "required": ["status", "id", "from_account_id", "to_account_id", "currency", "amount", "fee", "created_at"],
        "properties": {
            "status": { "enum": ["completed", "reversed"] },
            "id": id("Its id."),
            "from_account_id": id("Who has sent it."),
            "to_account_id": id("Who has received it."),
            "currency": { "type": "string" },
            "amount": units("What has arrived, in minor units."),
            "fee": units("What the sender has paid on top of it."),
            "created_at": { "type": "string", "format": "date-time" },
        },
    })
}
