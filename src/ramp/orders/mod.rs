//! Orders: money that a customer brings in (on-ramp), takes out (off-ramp), turns into tokens (mint) or back (redemption).
//!
//! What may become of an order, and what that does to the ledger, stands in one table of the database, `ramp.order_transitions`; no
//! order changes but by `ramp.advance`, which keeps its status, its history and the ledger in step. `docs/orders.md` tells more.

mod describe;
mod events;
mod product;
mod quote;
mod shown;

use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use events::expire;
pub(in crate::ramp) use events::{Applied, apply};
pub(in crate::ramp) use product::Product;
use shown::{Row, Shown};

use super::page::{Page, Place};
use super::providers::Providers;
use super::tables::orders;
use super::{TOKEN, accounts, body, idempotency, required};
use crate::config::orders::OrderSettings;
use crate::database::write::Abort;
use crate::error::{Code, Error};
use crate::source::Answer;
use crate::source::handler::{Call, Registry};

/// The provider that confirms what becomes of tokens. Customers do not choose it.
const ISSUER: &str = "sandbox";

#[expect(clippy::too_many_arguments, reason = "the columns of one row")]
mod sql {
    use diesel::sql_types::{BigInt, Double, Text, Uuid};

    diesel::define_sql_function! {
        #[sql_name = "ramp.create_order"]
        fn create(
            id: Uuid, account_id: Uuid, product: Text, provider: Text, given_amount: BigInt, given_currency: Text,
            received_amount: BigInt, received_currency: Text, fee: BigInt, rate: Text, quote_ttl_secs: Double,
        ) -> Bool;
    }
}

/// What is asked for.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// What the customer gives, in its minor units.
    amount: i64,
    currency: String,
    asset: String,
    provider: Option<String>,
}

impl Wanted {
    fn check(&self, product: Product) -> Result<(), Error> {
        let Self { amount, currency, asset, provider } = self;
        let wrong = |sentence: &'static str| Err(Error::new(Code::BodyInvalid, sentence));
        if *amount < 1 {
            return wrong("amount must be at least 1, in minor units");
        }
        if currency.len() != 3 || !currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return wrong("currency must be a code of three capitals, like USD");
        }
        match (product.is_outside(), provider) {
            (true, _) if asset != TOKEN && asset != currency => wrong("asset must be AFRI, or the currency itself"),
            (false, _) if asset != TOKEN => wrong("asset must be AFRI"),
            (true, None) => wrong("provider is missing: it names who pays or is paid"),
            (false, Some(_)) => wrong("provider: nobody else takes part in this, so there is none to name"),
            _ => Ok(()),
        }
    }
}

/// Adds the handlers of all products.
pub(super) fn register(registry: &mut Registry) {
    for product in Product::ALL {
        let handlers = product.handlers();
        registry.add(handlers.create, move |call| create(product, call));
        registry.describe(handlers.create, describe::create(product));
        registry.add(handlers.list, move |call| list(product, call));
        registry.describe(handlers.list, describe::list(product));
        registry.add(handlers.get, move |call| get(product, call));
        registry.describe(handlers.get, describe::get(product));
        registry.add(handlers.cancel, move |call| cancel(product, call));
        registry.describe(handlers.cancel, describe::cancel(product));
    }
}

/// `ramp.{product}.create`: quotes an amount, and opens an order at that.
async fn create(product: Product, call: Call) -> Result<Answer, Error> {
    let wanted: Wanted = body(&call)?;
    wanted.check(product)?;
    let (Some(providers), Some(settings)) = (call.data::<Providers>(), call.data::<OrderSettings>()) else {
        log::error!("the handlers of orders were not given their providers and settings");
        return Err(Error::new(Code::Internal, "no orders are taken here; the log says why"));
    };
    let provider = wanted.provider.as_deref().unwrap_or(ISSUER);
    if providers.get(provider).is_none() {
        return Err(match &wanted.provider {
            Some(_) => Error::new(Code::BodyInvalid, "provider: there is none of this name"),
            None => Error::new(Code::NotFound, format!("there is no issuer: the provider {ISSUER} is not configured")),
        });
    }
    idempotency::once(&call, product.handlers().create, &wanted, async |conn, account_id| {
        let id = open(conn, product, account_id, &wanted, settings).await?;
        let order = shown::find(conn, product, account_id, id).await?.ok_or_else(|| absent(id))?;
        Ok(Answer { status: 201, ..Answer::json(&order.instructed(Some(providers)))? })
    })
    .await
}

async fn open(
    conn: &mut AsyncPgConnection,
    product: Product,
    account_id: Uuid,
    wanted: &Wanted,
    settings: &OrderSettings,
) -> Result<Uuid, Abort> {
    let &Wanted { amount, ref currency, ref asset, ref provider } = wanted;
    let wanted = quote::Wanted { product, amount, currency, asset };
    let quote = wanted.quote(conn).await?;
    accounts::spend(conn, account_id, product.purse(), wanted.given(), amount).await?;
    let (id, provider) = (Uuid::new_v4(), provider.as_deref().unwrap_or(ISSUER));
    let create = sql::create(
        id,
        account_id,
        product.as_str(),
        provider,
        amount,
        wanted.given(),
        quote.received,
        wanted.received(),
        quote.fee,
        quote.rate.to_string(),
        settings.quote_ttl.0.as_secs_f64(),
    );
    if diesel::select(create).get_result::<bool>(conn).await? {
        return Ok(id);
    }
    Err(accounts::insufficient(wanted.given(), amount).into())
}

/// `ramp.{product}.get`: an order of the caller's.
async fn get(product: Product, call: Call) -> Result<Answer, Error> {
    let (account_id, id) = (accounts::of(&call)?, id(&call)?);
    let found = call.read(async |conn| shown::find(conn, product, account_id, id).await).await?;
    Answer::json(&found.ok_or_else(|| absent(id))?.instructed(call.data()))
}

#[derive(Serialize)]
struct List {
    orders: Vec<Shown>,
    next_cursor: Option<String>,
}

/// `ramp.{product}.list`: a page of the caller's orders, the newest first.
async fn list(product: Product, call: Call) -> Result<Answer, Error> {
    let account_id = accounts::of(&call)?;
    let page = Page::of(&call, product.as_str(), account_id)?;
    let status = call.params.text("status");
    let list = call.read(async |conn| {
        let mut query = orders::table
            .filter(orders::account_id.eq(account_id))
            .filter(orders::product.eq(product.as_str()))
            .order((orders::created_at.desc(), orders::id.desc()))
            .limit(page.rows_wanted())
            .select(Row::as_select())
            .into_boxed();
        if let Some(status) = status {
            query = query.filter(orders::status.eq(status));
        }
        if let Some(Place { at, id }) = page.below {
            // The first of the two is for the index.
            let is_below = orders::created_at.lt(at).or(orders::id.lt(id));
            query = query.filter(orders::created_at.le(at)).filter(is_below);
        }
        let (rows, next_cursor) = page.cut(query.load(conn).await?, Row::place);
        Ok(List { orders: shown::with_history(conn, product, rows).await?, next_cursor })
    });
    let List { orders, next_cursor } = list.await?;
    let orders = orders.into_iter().map(|order| order.instructed(call.data())).collect();
    Answer::json(&List { orders, next_cursor })
}

/// `ramp.{product}.cancel`: ends an order of the caller's, where that may still be.
async fn cancel(product: Product, call: Call) -> Result<Answer, Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    if !call.body.is_empty() {
        let Nothing {} = body(&call)?;
    }
    let id = id(&call)?;
    idempotency::once(&call, product.handlers().cancel, &id, async |conn, account_id| {
        // The order of another, or of another product, is none.
        shown::find(conn, product, account_id, id).await?.ok_or_else(|| absent(id))?;
        let status = events::cancel(conn, id).await?;
        let order = shown::find(conn, product, account_id, id).await?.ok_or_else(|| absent(id))?;
        if status.is_none() {
            let sentence = format!("the order is {}, and can no longer be cancelled", order.status());
            return Err(Error::new(Code::StateConflict, sentence).into());
        }
        Ok(Answer::json(&order)?)
    })
    .await
}

/// The order that a path names.
fn id(call: &Call) -> Result<Uuid, Error> {
    let id = required(call, "id")?;
    Uuid::parse_str(id).map_err(|_| Error::new(Code::NotFound, "there is no such order"))
}

fn absent(id: Uuid) -> Error {
    Error::new(Code::NotFound, format!("there is no order {id}"))
}
