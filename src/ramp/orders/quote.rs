//! Quotes: what a customer receives for an amount, and what that costs.
//!
//! The rate is the one that `/public/rates` tells, and what it prints is what is computed with: once, exactly, and rounded down in what
//! the customer receives. The fee is taken from the side that is no token, by the schedule of the product.

use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::super::decimal::Decimal;
use super::super::fees::{self, Schedule};
use super::super::ledger::AMOUNT_MAX;
use super::super::rates;
use super::super::schema::currencies;
use super::product::Product;
use crate::database::write::Abort;
use crate::error::{Code, Error};

/// What is to be quoted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub product: Product,
    /// What the customer gives, in its minor units.
    pub amount: i64,
    /// The money, outside or not.
    pub currency: &'a str,
    /// What it is bought or sold for.
    pub asset: &'a str,
}

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quote {
    /// Units received for one given.
    pub rate: Decimal,
    /// In minor units of the currency.
    pub fee: i64,
    /// In minor units of what the customer receives.
    pub received: i64,
}

/// Why there is no quote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoQuote {
    /// Something does not fit, or is more than one entry of the ledger takes.
    TooLarge,
    /// The fee is all of it, or more.
    Fee(i64),
    /// What is left is worth less than one minor unit.
    Nothing,
}

impl<'a> Wanted<'a> {
    /// What the customer gives.
    pub fn given(&self) -> &'a str {
        if self.product.buys() { self.currency } else { self.asset }
    }

    /// What the customer receives.
    pub fn received(&self) -> &'a str {
        if self.product.buys() { self.asset } else { self.currency }
    }

    /// The quote by the latest fixing and the schedule of today.
    pub async fn quote(&self, conn: &mut AsyncPgConnection) -> Result<Quote, Abort> {
        let Self { product, amount, currency, asset } = *self;
        let Some(schedule) = fees::find(conn, product.as_str(), currency).await? else {
            let sentence = format!(
                "currency: there is no {0} in {currency}; GET /public/fees?product={0} lists what there is",
                product.as_str()
            );
            return Err(Error::new(Code::BodyInvalid, sentence).into());
        };
        let (given, received) = (self.given(), self.received());
        let rate = if given == received { Some(Decimal::ONE) } else { rates::rate(conn, given, received).await? };
        let rate = rate.ok_or_else(|| {
            Error::new(
                Code::RateUnavailable,
                format!("the latest fixing, if there is any, has no rate from {given} to {received}"),
            )
        })?;
        let exponents = currencies::table.filter(currencies::code.eq_any([given, received]));
        let exponents: Vec<(String, i16)> =
            exponents.select((currencies::code, currencies::exponent)).load(conn).await?;
        let exponent =
            |code: &str| exponents.iter().find(|(other, _)| other == code).map_or(0, |(_, exponent)| *exponent);
        let shift = i32::from(exponent(received)) - i32::from(exponent(given));
        price(product, amount, rate, shift, &schedule).map_err(|no_quote| {
            let reason = match no_quote {
                NoQuote::TooLarge => format!("amount is too large: no order may move more than {AMOUNT_MAX} minor units"),
                NoQuote::Fee(fee) => {
                    format!("amount is too small: it is worth no more than the fee, which is {fee} minor units of {currency}")
                }
                NoQuote::Nothing => format!("amount is too small: after the fee it is worth less than one minor unit of {asset}"),
            };
            Error::new(Code::BodyInvalid, reason).into()
        })
    }
}

/// The quote of an amount at a rate; the shift is between the minor units of what is received and what is given.
fn price(product: Product, amount: i64, rate: Decimal, shift: i32, schedule: &Schedule) -> Result<Quote, NoQuote> {
    let fits = |amount: &i64| (0..=AMOUNT_MAX).contains(amount);
    let exchanged = |amount| rate.of_amount(amount, shift).filter(fits).ok_or(NoQuote::TooLarge);
    let fee_of = |amount| schedule.fee(amount).filter(fits).ok_or(NoQuote::TooLarge);
    let less = |amount: i64, fee: i64| amount.checked_sub(fee).filter(|rest| *rest > 0).ok_or(NoQuote::Fee(fee));
    if !fits(&amount) {
        return Err(NoQuote::TooLarge);
    }
    let (fee, received) = if product.buys() {
        let fee = fee_of(amount)?;
        (fee, exchanged(less(amount, fee)?)?)
    } else {
        let gross = exchanged(amount)?;
        let fee = fee_of(gross)?;
        (fee, less(gross, fee)?)
    };
    if received == 0 {
        return Err(NoQuote::Nothing);
    }
    Ok(Quote { rate, fee, received })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: Schedule = Schedule { percent_ppm: 9_900, fixed_fee: 30, min_fee: 50, max_fee: Some(25_000) };

    fn quoted(product: Product, amount: i64, rate: &str, shift: i32) -> Result<(i64, i64), NoQuote> {
        price(product, amount, rate.parse().unwrap(), shift, &PLAIN).map(|quote| (quote.fee, quote.received))
    }

    /// 0.99 % of 1,000 dollars and 30 cents are 10.20 dollars.
    #[test]
    fn the_fee_is_taken_from_the_money_on_either_side() {
        assert_eq!(quoted(Product::Onramp, 100_000, "1", 4), Ok((1_020, 989_800_000)));
        assert_eq!(quoted(Product::Mint, 100_000, "1.1172", 4), Ok((1_020, 1_105_804_560)));
        assert_eq!(quoted(Product::Offramp, 1_000_000_000, "1", -4), Ok((1_020, 98_980)));
        // 1,000 tokens are 895.09488 euros: the 0.488 cents are gone before the fee is taken.
        assert_eq!(quoted(Product::Redemption, 1_000_000_000, "0.89509488", -4), Ok((916, 88_593)));
    }

    #[test]
    fn what_is_too_small_or_too_large_is_told_apart() {
        for (product, amount, rate, shift, expected) in [
            (Product::Onramp, 50, "1", 4, NoQuote::Fee(50)),
            (Product::Offramp, 500_000, "1", -4, NoQuote::Fee(50)),
            (Product::Offramp, 9_999, "1", -4, NoQuote::Fee(50)),
            (Product::Mint, 51, "0.9", 0, NoQuote::Nothing),
            (Product::Onramp, AMOUNT_MAX, "1.1", 0, NoQuote::TooLarge),
            (Product::Onramp, AMOUNT_MAX + 1, "0.1", 0, NoQuote::TooLarge),
            (Product::Offramp, i64::MAX, "0.0001", 0, NoQuote::TooLarge),
            (Product::Redemption, AMOUNT_MAX, "18.6", 0, NoQuote::TooLarge),
        ] {
            assert_eq!(quoted(product, amount, rate, shift), Err(expected), "{product:?} {amount} {rate}");
        }
    }

    proptest! {
        /// What the customer receives is worth no more than what is given less the fee, and less than a minor unit below it.
        #[test]
        fn nobody_gets_more_than_was_given(
            product in prop::sample::select(&Product::ALL), amount in 1..AMOUNT_MAX, rate in 1_u64..100_000_000, shift in -6_i32..=6,
        ) {
            let rate: Decimal = format!("{}.{:07}", rate / 10_000_000, rate % 10_000_000).parse().unwrap();
            let Ok(quote) = price(product, amount, rate, shift, &PLAIN) else { return Ok(()) };
            prop_assert!(quote.received > 0 && quote.fee >= 50);
            let (given, gross) = if product.buys() { (amount - quote.fee, quote.received) } else { (amount, quote.received + quote.fee) };
            prop_assert_eq!(rate.of_amount(given, shift), Some(gross));
        }
    }
}
