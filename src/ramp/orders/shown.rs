//! Orders as customers see them.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::super::decimal::Decimal;
use super::super::page::Place;
use super::super::providers::{Due, Providers};
use super::super::tables::{order_history, orders};
use super::product::Product;

/// An order with its quote.
#[derive(Queryable, Selectable)]
#[diesel(table_name = orders, check_for_backend(diesel::pg::Pg))]
pub(super) struct Row {
    id: Uuid,
    provider: String,
    given_amount: i64,
    given_currency: String,
    received_amount: i64,
    received_currency: String,
    fee: i64,
    rate: Decimal,
    created_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    status: String,
}

impl Row {
    /// Where it stands in a list.
    pub fn place(&self) -> Place {
        Place { at: self.created_at, id: self.id }
    }
}

/// A step of an order's history.
#[derive(Queryable, Selectable, Serialize)]
#[diesel(table_name = order_history, check_for_backend(diesel::pg::Pg))]
struct Step {
    #[diesel(column_name = to_status)]
    status: String,
    event: String,
    /// What it has entered into the ledger, or ended there.
    transaction_id: Option<Uuid>,
    at: DateTime<Utc>,
}

/// An order in an answer.
#[derive(Serialize)]
pub(super) struct Shown {
    id: Uuid,
    status: String,
    amount: i64,
    currency: String,
    asset: String,
    provider: String,
    quote: Quote,
    #[serde(skip_serializing_if = "Option::is_none")]
    instructions: Option<Value>,
    history: Vec<Step>,
    created_at: DateTime<Utc>,
}

#[derive(Serialize)]
struct Quote {
    rate: Decimal,
    fee: i64,
    fee_currency: String,
    #[serde(flatten)]
    received: Received,
    expires_at: DateTime<Utc>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Received {
    AssetAmount(i64),
    CurrencyAmount(i64),
}

impl Shown {
    fn new(product: Product, order: Row, history: Vec<Step>) -> Self {
        let Row { id, provider, given_currency, received_currency, fee, rate, created_at, expires_at, status, .. } =
            order;
        let (currency, asset, received) = if product.buys() {
            (given_currency, received_currency, Received::AssetAmount(order.received_amount))
        } else {
            (received_currency, given_currency, Received::CurrencyAmount(order.received_amount))
        };
        let quote = Quote { rate, fee, fee_currency: currency.clone(), received, expires_at };
        Self {
            id,
            status,
            amount: order.given_amount,
            currency,
            asset,
            provider,
            quote,
            instructions: None,
            history,
            created_at,
        }
    }

    /// The same, with what its customer is told to do, where there is something to pay.
    pub fn instructed(self, providers: Option<&Providers>) -> Self {
        let due = Due { order_id: self.id, amount: self.amount, currency: &self.currency };
        let provider = providers.filter(|_| self.status == "awaiting_payment").and_then(|all| all.get(&self.provider));
        Self { instructions: provider.and_then(|provider| provider.instructions(&due)), ..self }
    }

    /// Where the order stands.
    pub fn status(&self) -> &str {
        &self.status
    }
}

/// An order of a customer's.
pub(super) async fn find(
    conn: &mut AsyncPgConnection,
    product: Product,
    account_id: Uuid,
    id: Uuid,
) -> QueryResult<Option<Shown>> {
    let own = orders::account_id.eq(account_id).and(orders::product.eq(product.as_str()));
    let row = orders::table.find(id).filter(own).select(Row::as_select()).first(conn).await.optional()?;
    let Some(row) = row else { return Ok(None) };
    Ok(with_history(conn, product, vec![row]).await?.pop())
}

/// The same orders, each with its history.
pub(super) async fn with_history(
    conn: &mut AsyncPgConnection,
    product: Product,
    rows: Vec<Row>,
) -> QueryResult<Vec<Shown>> {
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let steps: Vec<(Uuid, Step)> = order_history::table
        .filter(order_history::order_id.eq_any(ids))
        .order((order_history::order_id, order_history::seq))
        .select((order_history::order_id, Step::as_select()))
        .load(conn)
        .await?;
    let mut histories: HashMap<Uuid, Vec<Step>> = HashMap::new();
    for (id, step) in steps {
        histories.entry(id).or_default().push(step);
    }
    Ok(rows
        .into_iter()
        .map(|row| {
            let history = histories.remove(&row.id).unwrap_or_default();
            Shown::new(product, row, history)
        })
        .collect())
}
