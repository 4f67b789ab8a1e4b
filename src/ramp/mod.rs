//! The reference application: a payments API on the tables of `migrations/ramp`.
//!
//! What a query can say stands in the manifest (currencies, fee schedules, documents, a customer's balances). Here is what needs
//! exact arithmetic: rates in any base, and quotes of fees, whose answers depend on the declared parameters and on the data
//! alone, never on the clock; and what writes: money moves through functions of the database, once for each [`idempotency`] key.

pub mod accounts;
pub mod decimal;
pub mod fees;
pub mod grants;
pub mod idempotency;
pub mod import;
pub mod ledger;
pub mod migrations;
pub mod orders;
mod page;
pub mod providers;
pub mod rates;
pub mod schema;
pub mod statistics;
pub mod tables;
pub mod transactions;
mod transfers;
pub mod webhooks;

pub use migrations::{migrate, revert};

use orders::Product;
use std::time::Duration;

use diesel::sql_types::{BigInt, Double};
use diesel::{QueryResult, QueryableByName, RunQueryDsl};
use serde::de::DeserializeOwned;

use crate::config::manifest::Source;
use crate::database::maintenance::MaintenanceConnection;
use crate::error::{Code, Error};
use crate::source::handler::{Call, Registry};

/// Statements of one pruning.
const PRUNE_ROUNDS_MAX: u32 = 100;

/// The currency that all stored rates are rates of.
const EURO: &str = "EUR";
/// The token, which no fixing quotes.
const TOKEN: &str = "AFRI";
/// The currency that one token is worth one of.
const TOKEN_PEG: &str = "USD";

/// The handlers that move money.
const MONEY_HANDLERS: [&str; 10] = [
    "ramp.transfers.create",
    "ramp.webhooks.receive",
    Product::Onramp.handlers().create,
    Product::Onramp.handlers().cancel,
    Product::Offramp.handlers().create,
    Product::Offramp.handlers().cancel,
    Product::Mint.handlers().create,
    Product::Mint.handlers().cancel,
    Product::Redemption.handlers().create,
    Product::Redemption.handlers().cancel,
];

/// Whether a route's source is one of those that move money.
pub fn moves_money(source: &Source) -> bool {
    matches!(source, Source::Handler(name) if MONEY_HANDLERS.contains(&&**name))
}

/// Whether a route's source is a handler of the reference application: there is none that does without the database.
pub fn asks_database(source: &Source) -> bool {
    matches!(source, Source::Handler(name) if name.starts_with("ramp."))
}

/// Adds the handlers of the reference application.
pub fn register(registry: &mut Registry) {
    registry.add("ramp.rates.latest", rates::latest);
    registry.describe("ramp.rates.latest", rates::describe_latest());
    registry.add("ramp.rates.history", rates::history);
    registry.describe("ramp.rates.history", rates::describe_history());
    registry.add("ramp.fees.quote", fees::quote);
    registry.describe("ramp.fees.quote", fees::describe_quote());
    registry.add("ramp.transfers.create", transfers::create);
    registry.describe("ramp.transfers.create", transfers::describe_create());
    registry.add("ramp.transfers.get", transfers::get);
    registry.describe("ramp.transfers.get", transfers::describe_get());
    registry.add("ramp.transfers.list", transfers::list);
    registry.describe("ramp.transfers.list", transfers::describe_list());
    registry.add("ramp.transactions.list", transactions::list);
    registry.describe("ramp.transactions.list", transactions::describe_list());
    registry.add("ramp.transactions.get", transactions::get);
    registry.describe("ramp.transactions.get", transactions::describe_get());
    registry.add("ramp.stats.daily", statistics::daily);
    registry.describe("ramp.stats.daily", statistics::describe_daily());
    registry.add("ramp.webhooks.receive", webhooks::receive);
    registry.describe("ramp.webhooks.receive", webhooks::describe_receive());
    orders::register(registry);
}

/// Calls a function of the database that forgets what is older than this, some thousands of rows at a time, until nothing is left or it
/// was called often enough: then the rest waits for the next time. Says how many rows they were.
fn prune(conn: &mut MaintenanceConnection, function: &str, retention: Duration) -> QueryResult<i64> {
    #[derive(QueryableByName)]
    struct Pruned {
        #[diesel(sql_type = BigInt)]
        count: i64,
    }
    let prune = format!("SELECT {function}(make_interval(secs => $1)) AS count");
    let mut pruned = 0;
    for _ in 0..PRUNE_ROUNDS_MAX {
        let round = diesel::sql_query(&prune).bind::<Double, _>(retention.as_secs_f64());
        let Pruned { count } = round.get_result(conn)?;
        pruned += count;
        if count == 0 {
            break;
        }
    }
    Ok(pruned)
}

/// The text of a parameter that a handler cannot do without.
fn required<'a>(call: &'a Call, name: &str) -> Result<&'a str, Error> {
    let missing = || Error::new(Code::ParamMissing, format!("the parameter {name} is required"));
    call.params.text(name).ok_or_else(missing)
}

/// The body of a call, as JSON.
fn body<T: DeserializeOwned>(call: &Call) -> Result<T, Error> {
    json(&call.body)
}

/// A body, as a JSON object and nothing after it. What is wrong is named by where it stands.
fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    // An array would be taken for the fields in their order.
    if body.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(Error::new(Code::BodyInvalid, "the body must be a JSON object"));
    }
    let mut text = serde_json::Deserializer::from_slice(body);
    let parsed = serde_path_to_error::deserialize(&mut text).map_err(|error| match error.path().to_string().as_str() {
        "." => error.inner().to_string(),
        path => format!("{path}: {}", error.inner()),
    });
    let whole = parsed.and_then(|body| text.end().map(|()| body).map_err(|error| error.to_string()));
    whole.map_err(|reason| Error::new(Code::BodyInvalid, reason))
}

/// A parameter that parses and yet cannot be answered.
fn invalid(name: &str, sentence: &str) -> Error {
    Error::new(Code::ParamInvalid, format!("{name} {sentence}"))
}

fn unknown_currency(parameter: &str, code: &str) -> Error {
    let sentence = format!("{parameter}: {code} is not a currency of this API; the route of currencies lists them");
    Error::new(Code::ParamInvalid, sentence)
}
