//! The reference application: a payments API on the tables of `migrations/ramp`.
//!
//! What a query can say stands in the manifest (currencies, fee schedules, documents). Here is what needs exact arithmetic: rates
//! in any base, and quotes of fees. Answers depend on the declared parameters and on the data alone, never on the clock.

pub mod decimal;
pub mod fees;
pub mod import;
pub mod migrations;
pub mod rates;
pub mod schema;

pub use migrations::{migrate, revert};

use crate::error::{Code, Error};
use crate::source::handler::{Call, Registry};

/// The currency that all stored rates are rates of.
const EURO: &str = "EUR";

/// Adds the handlers of the reference application.
pub fn register(registry: &mut Registry) {
    registry.add("ramp.rates.latest", rates::latest);
    registry.describe("ramp.rates.latest", rates::describe_latest());
    registry.add("ramp.rates.history", rates::history);
    registry.describe("ramp.rates.history", rates::describe_history());
    registry.add("ramp.fees.quote", fees::quote);
    registry.describe("ramp.fees.quote", fees::describe_quote());
}

/// The text of a parameter that a handler cannot do without.
fn required<'a>(call: &'a Call, name: &str) -> Result<&'a str, Error> {
    let missing = || Error::new(Code::ParamMissing, format!("the parameter {name} is required"));
    call.params.text(name).ok_or_else(missing)
}

/// A parameter that parses and yet cannot be answered.
fn invalid(name: &str, sentence: &str) -> Error {
    Error::new(Code::ParamInvalid, format!("{name} {sentence}"))
}

fn unknown_currency(parameter: &str, code: &str) -> Error {
    let sentence = format!("{parameter}: {code} is not a currency of this API; the route of currencies lists them");
    Error::new(Code::ParamInvalid, sentence)
}
