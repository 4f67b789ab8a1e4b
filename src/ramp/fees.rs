//! Fees: `ramp.fees.quote`. The list of schedules is a plain query of the manifest.

use diesel::dsl::{exists, select};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::Serialize;
use serde_json::json;

use super::decimal::divide_half_even;
use super::schema::{currencies, fee_schedules};
use super::{invalid, required, unknown_currency};
use crate::error::{Code, Error};
use crate::source::Answer;
use crate::source::description::{Description, Response};
use crate::source::handler::Call;

const MILLION: u128 = 1_000_000;

/// What a product costs in a currency. Amounts are in the currency's minor units.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Serialize)]
#[diesel(table_name = fee_schedules, check_for_backend(diesel::pg::Pg))]
pub struct Schedule {
    /// Parts per million of the amount.
    pub percent_ppm: i32,
    /// Added to the percentage.
    pub fixed_fee: i64,
    /// The least fee.
    pub min_fee: i64,
    /// The greatest fee, if there is one.
    pub max_fee: Option<i64>,
}

impl Schedule {
    /// The fee of an amount; the percentage is rounded to the nearest unit, half to even. `None` where the fee, or the
    /// parameters of a schedule that the table would refuse, do not fit.
    pub fn fee(&self, amount: i64) -> Option<i64> {
        let parts = u128::try_from(self.percent_ppm).ok()? * u128::try_from(amount).ok()?;
        let percentage: i64 = divide_half_even(parts, MILLION).try_into().ok()?;
        let fee = percentage.checked_add(self.fixed_fee)?.max(self.min_fee);
        Some(self.max_fee.map_or(fee, |max| fee.min(max)))
    }
}

#[derive(Serialize)]
struct Quote<'a> {
    product: &'a str,
    currency: &'a str,
    amount: i64,
    fee: i64,
    /// What is paid where the fee comes on top.
    total: i64,
    /// What arrives where the fee is taken from the amount; negative where the amount does not cover it.
    net: i64,
    schedule: &'a Schedule,
    rounding: &'static str,
}

/// Why there is no schedule.
enum Missing {
    /// The currency is unknown.
    Currency,
    /// The product has no price in this currency.
    Schedule,
}

/// `ramp.fees.quote`: the fee of `amount` minor units of `currency` for `product`.
pub(super) async fn quote(call: Call) -> Result<Answer, Error> {
    let (product, currency) = (required(&call, "product")?, required(&call, "currency")?);
    let amount: i64 = required(&call, "amount")?.parse().map_err(|_| invalid("amount", "must be a whole number"))?;
    if amount < 1 {
        return Err(invalid("amount", "must be at least 1"));
    }
    let found = call.read(async |conn| schedule(conn, product, currency).await).await?;
    let schedule = found.map_err(|missing| match missing {
        Missing::Currency => unknown_currency("currency", currency),
        Missing::Schedule => {
            Error::new(Code::NotFound, format!("there is no fee schedule for {product} in {currency}"))
        }
    })?;
    let too_large = || invalid("amount", "is too large: with its fee it does not fit in 64 bits");
    let fee = schedule.fee(amount).ok_or_else(too_large)?;
    let total = amount.checked_add(fee).ok_or_else(too_large)?;
    let net = amount.checked_sub(fee).ok_or_else(too_large)?;
    Answer::json(&Quote { product, currency, amount, fee, total, net, schedule: &schedule, rounding: "half-even" })
}

/// The schedule of a product in a currency, if there is one.
pub(super) async fn find(conn: &mut AsyncPgConnection, product: &str, currency: &str) -> QueryResult<Option<Schedule>> {
    fee_schedules::table.find((product, currency)).select(Schedule::as_select()).first(conn).await.optional()
}

/// What [`quote`] takes and gives.
pub(super) fn describe_quote() -> Description {
    let units = |description: &str| json!({ "type": "integer", "format": "int64", "description": description });
    let schema = json!({
        "type": "object",
        "required": ["product", "currency", "amount", "fee", "total", "net", "schedule", "rounding"],
        "properties": {
            "product": { "type": "string" },
            "currency": { "type": "string" },
            "amount": units("In minor units, like all amounts here."),
            "fee": units("What is charged."),
            "total": units("What is paid where the fee comes on top."),
            "net": units("What arrives where the fee is taken from the amount; negative where that does not cover it."),
            "schedule": {
                "type": "object",
                "required": ["percent_ppm", "fixed_fee", "min_fee", "max_fee"],
                "properties": {
                    "percent_ppm": { "type": "integer", "format": "int32", "description": "Parts per million of the amount." },
                    "fixed_fee": units("Added to the percentage."),
                    "min_fee": units("The least fee."),
                    "max_fee": { "type": ["integer", "null"], "format": "int64", "description": "The greatest fee, if there is one." },
                },
            },
            "rounding": { "const": "half-even" },
        },
    });
    Description {
        summary: "The fee of one amount",
        responses: vec![Response::ok("The fee, and how it came about.", schema)],
        codes: vec![Code::NotFound, Code::ParamInvalid],
        ..Description::default()
    }
}

async fn schedule(
    conn: &mut AsyncPgConnection,
    product: &str,
    currency: &str,
) -> QueryResult<Result<Schedule, Missing>> {
    if let Some(schedule) = find(conn, product, currency).await? {
        return Ok(Ok(schedule));
    }
    let known: bool = select(exists(currencies::table.find(currency))).get_result(conn).await?;
    Ok(Err(if known { Missing::Schedule } else { Missing::Currency }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: Schedule = Schedule { percent_ppm: 10_000, fixed_fee: 0, min_fee: 0, max_fee: None };

    #[test]
    fn the_percentage_rounds_half_to_even() {
        for (amount, fee) in [(1, 0), (49, 0), (50, 0), (51, 1), (149, 1), (150, 2), (151, 2), (250, 2), (350, 4)] {
            assert_eq!(PLAIN.fee(amount), Some(fee), "1 % of {amount}");
        }
    }

    #[test]
    fn fixed_least_and_greatest_fees_apply() {
        let schedule = Schedule { percent_ppm: 9_000, fixed_fee: 25, min_fee: 50, max_fee: Some(25_000) };
        assert_eq!(schedule.fee(1), Some(50));
        assert_eq!(schedule.fee(10_000), Some(115));
        assert_eq!(schedule.fee(1_000_000_000), Some(25_000));
        assert_eq!(schedule.fee(i64::MAX), Some(25_000));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(Schedule { percent_ppm: 1_000_000, ..PLAIN }.fee(i64::MAX), Some(i64::MAX));
        assert_eq!(Schedule { percent_ppm: 1_000_000, fixed_fee: 1, ..PLAIN }.fee(i64::MAX), None);
        assert_eq!(Schedule { percent_ppm: -1, ..PLAIN }.fee(1), None);
        assert_eq!(PLAIN.fee(-1), None);
    }

    proptest! {
        #[test]
        fn a_fee_is_never_off_by_more_than_half_a_unit(amount in 1_i64.., percent_ppm in 0..=1_000_000) {
            let fee = Schedule { percent_ppm, ..PLAIN }.fee(amount).unwrap();
            let exact = i128::from(amount) * i128::from(percent_ppm);
            let twice_off = (i128::from(fee) * 1_000_000 - exact).abs() * 2;
            prop_assert!(twice_off < 1_000_000 || (twice_off == 1_000_000 && fee % 2 == 0));
        }
    }
}
