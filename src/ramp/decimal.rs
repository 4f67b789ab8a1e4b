//! Exact positive decimals: rates as they were published, and their ratios.

use std::fmt;
use std::str::FromStr;

use diesel::data_types::PgNumeric;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::pg::{Pg, PgValue};
use diesel::sql_types::Numeric;
use serde::ser::{Error as _, Serialize, Serializer};
use serde_json::value::RawValue;

/// Digits before the point, and after it, that a published rate may have; the table `exchange_rates` checks the same.
/// Within these bounds every step of [`Decimal::ratio`] fits in 128 bits.
const SIDE_DIGITS_MAX: usize = 9;
/// The first number of 8 significant digits, and the first of 9.
const EIGHT_DIGITS: std::ops::Range<u128> = 10_000_000..100_000_000;

/// A positive decimal, `mantissa × 10^-scale`. The scale is kept as given, so that printing it gives the same digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromSqlRow)]
pub struct Decimal {
    mantissa: u64,
    scale: u32,
}

/// Why a text or a `numeric` is no rate, to stand after its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotARate {
    /// Something other than digits with at most one point between them.
    #[error("is not a plain decimal number")]
    Malformed,
    /// Zero.
    #[error("is not greater than zero")]
    NotPositive,
    /// More digits than the table takes.
    #[error("has more than 9 digits before or after the point")]
    TooLong,
}

impl Decimal {
    /// The rate of a currency in itself.
    pub const ONE: Self = Self { mantissa: 1, scale: 0 };

    /// `self / divisor`, rounded once to 8 significant digits, half to even; trailing zeros are left out.
    ///
    /// `None` only where the result has no 64-bit mantissa, which two published rates cannot bring about.
    pub fn ratio(self, divisor: Self) -> Option<Self> {
        let (mut dividend, mut divisor_scaled) = (u128::from(self.mantissa), u128::from(divisor.mantissa));
        let mut scale = i64::from(self.scale) - i64::from(divisor.scale);
        while dividend < divisor_scaled * EIGHT_DIGITS.start {
            dividend *= 10;
            scale += 1;
        }
        while dividend >= divisor_scaled * EIGHT_DIGITS.end {
            divisor_scaled *= 10;
            scale -= 1;
        }
        Self::trimmed(divide_half_even(dividend, divisor_scaled), scale)
    }

    /// `amount × self × 10^shift`, rounded down. The shift is between the minor units of two currencies. `None` where the amount is
    /// negative, or the result does not fit.
    pub fn of_amount(self, amount: i64, shift: i32) -> Option<i64> {
        // 63 and 64 bits are 127.
        let product = u128::try_from(amount).ok()? * u128::from(self.mantissa);
        let shift = shift.checked_sub(self.scale.try_into().ok()?)?;
        let power = 10_u128.checked_pow(shift.unsigned_abs());
        let shifted = if shift < 0 {
            // What is divided by more than 128 bits leaves nothing.
            power.map_or(0, |power| product / power)
        } else {
            product.checked_mul(power?)?
        };
        shifted.try_into().ok()
    }

    /// The decimal without trailing zeros after the point; a negative scale becomes zeros before it.
    fn trimmed(mut mantissa: u128, mut scale: i64) -> Option<Self> {
        while scale > 0 && mantissa.is_multiple_of(10) {
            mantissa /= 10;
            scale -= 1;
        }
        while scale < 0 {
            mantissa = mantissa.checked_mul(10)?;
            scale += 1;
        }
        Some(Self { mantissa: mantissa.try_into().ok()?, scale: scale.try_into().ok()? })
    }
}

/// The whole number nearest to `dividend / divisor`; of two equally near the even one. The divisor is not zero.
pub(super) fn divide_half_even(dividend: u128, divisor: u128) -> u128 {
    let (quotient, rest) = (dividend / divisor, dividend % divisor);
    // Comparing with what is missing to the next number, because twice the rest might not fit.
    let up = match rest.cmp(&(divisor - rest)) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => !quotient.is_multiple_of(2),
        std::cmp::Ordering::Greater => true,
    };
    quotient + u128::from(up)
}

impl FromStr for Decimal {
    type Err = NotARate;

    fn from_str(text: &str) -> Result<Self, NotARate> {
        let (whole, fraction) = text.split_once('.').map_or((text, None), |(whole, fraction)| (whole, Some(fraction)));
        let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_digits(whole) || !fraction.is_none_or(is_digits) {
            return Err(NotARate::Malformed);
        }
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.unwrap_or_default());
        if whole.len() > SIDE_DIGITS_MAX || fraction.len() > SIDE_DIGITS_MAX {
            return Err(NotARate::TooLong);
        }
        match format!("0{whole}{fraction}").parse() {
            Ok(0) => Err(NotARate::NotPositive),
            Ok(mantissa) => Ok(Self { mantissa, scale: fraction.len().try_into().map_err(|_| NotARate::TooLong)? }),
            Err(_) => Err(NotARate::Malformed),
        }
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mantissa, scale } = *self;
        let one = 10_u128.checked_pow(scale).ok_or(fmt::Error)?;
        let (whole, fraction) = (u128::from(mantissa) / one, u128::from(mantissa) % one);
        match usize::try_from(scale).map_err(|_| fmt::Error)? {
            0 => write!(f, "{whole}"),
            width => write!(f, "{whole}.{fraction:0>width$}"),
        }
    }
}

impl Serialize for Decimal {
    /// A JSON number with exactly the digits of the decimal; a float would not keep them.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits = self.to_string();
        let number: &RawValue = serde_json::from_str(&digits).map_err(S::Error::custom)?;
        number.serialize(serializer)
    }
}

impl FromSql<Numeric, Pg> for Decimal {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let PgNumeric::Positive { weight, scale, digits } = PgNumeric::from_sql(value)? else {
            return Err(Box::new(NotARate::NotPositive));
        };
        // Postgres sends groups of four digits, `weight` of the first counting from zero at the point. They need not reach down to
        // the last digit of the scale, and the last group may reach past it with zeros.
        let groups_below = i64::from(weight) + 1 - i64::try_from(digits.len())?;
        let shift = groups_below * 4 + i64::from(scale);
        let mut mantissa = 0_u128;
        for group in digits {
            mantissa = mantissa.checked_mul(10_000).ok_or(NotARate::TooLong)? + u128::try_from(group)?;
        }
        let power = 10_u128.checked_pow(shift.unsigned_abs().try_into()?).ok_or(NotARate::TooLong)?;
        let mantissa =
            if shift < 0 { mantissa / power } else { mantissa.checked_mul(power).ok_or(NotARate::TooLong)? };
        if mantissa == 0 {
            return Err(Box::new(NotARate::NotPositive));
        }
        Ok(Self { mantissa: mantissa.try_into()?, scale: scale.into() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    fn ratio(dividend: &str, divisor: &str) -> String {
        decimal(dividend).ratio(decimal(divisor)).unwrap().to_string()
    }

    #[test]
    fn a_rate_prints_the_digits_it_was_read_from() {
        for text in ["136", "20275.17", "0.58231", "1.10", "372274", "999999999.999999999", "0.000000001"] {
            assert_eq!(decimal(text).to_string(), text);
            assert_eq!(serde_json::to_string(&decimal(text)).unwrap(), text);
        }
    }

    #[test]
    fn what_is_no_rate_is_told_apart() {
        for text in ["", ".", "1.", ".5", "-1", "+1", "1e3", "1,5", "1.2.3", "N/A", " 1", "NaN", "١"] {
            assert_eq!(text.parse::<Decimal>(), Err(NotARate::Malformed), "{text:?}");
        }
        assert_eq!("0.000".parse::<Decimal>(), Err(NotARate::NotPositive));
        assert_eq!("1234567890".parse::<Decimal>(), Err(NotARate::TooLong));
        assert_eq!("1.1234567890".parse::<Decimal>(), Err(NotARate::TooLong));
    }

    /// By hand, or with `bc`.
    #[test]
    fn ratios_have_eight_digits() {
        assert_eq!(ratio("1", "1.1172"), "0.89509488");
        assert_eq!(ratio("175.68", "1.1172"), "157.25027");
        assert_eq!(ratio("136", "136.000"), "1");
        assert_eq!(ratio("1", "8"), "0.125");
        assert_eq!(ratio("2", "3"), "0.66666667");
        assert_eq!(ratio("1", "372274"), "0.0000026861935");
        assert_eq!(ratio("999999999", "0.000000001"), "1000000000000000000", "rounding carries into a ninth digit");
        assert_eq!(ratio("0.000000001", "999999999"), "0.000000000000000001");
        // Exactly between two numbers of eight digits: the even one.
        assert_eq!(ratio("1.00000005", "1"), "1");
        assert_eq!(ratio("1.00000015", "1"), "1.0000002");
        assert_eq!(ratio("300000003", "2"), "150000000");
    }

    /// By hand, or with `bc`.
    #[test]
    fn amounts_are_rounded_down() {
        let of = |mantissa, scale, amount, shift| Decimal { mantissa, scale }.of_amount(amount, shift);
        assert_eq!(of(1, 0, 98_970, 4), Some(989_700_000), "cents to millionths");
        assert_eq!(of(1, 0, 989_700_000, -4), Some(98_970));
        assert_eq!(of(1, 0, 9_999, -4), Some(0));
        assert_eq!(of(11_172, 4, 1, 4), Some(11_172));
        assert_eq!(of(89_509_488, 8, 1_999_999, -4), Some(179));
        assert_eq!(of(26_861_935, 13, 372_274, 0), Some(0), "0.9999…");
        assert_eq!(of(1, 18, i64::MAX, -4), Some(0));
        assert_eq!(of(1, 0, i64::MAX, 0), Some(i64::MAX));
        assert_eq!(of(100_000_001, 8, i64::MAX, 0), None);
        assert_eq!(of(1_000_000_000_000_000_000, 0, i64::MAX, 6), None);
        assert_eq!(of(1, 0, 1, i32::MAX), None);
        assert_eq!(of(1, 0, i64::MAX, i32::MIN + 1), Some(0));
        assert_eq!(of(1, 0, -1, 0), None);
    }

    /// Long division, one decimal digit after the other, as on paper: shares nothing with the code under test.
    fn ratio_on_paper(dividend: Decimal, divisor: Decimal) -> String {
        let aligned = |mine: Decimal, other: Decimal| {
            u128::from(mine.mantissa) * 10_u128.pow(other.scale.saturating_sub(mine.scale))
        };
        let (dividend, divisor) = (aligned(dividend, divisor), aligned(divisor, dividend));
        let mut digits = vec![0_u8];
        digits.extend((dividend / divisor).to_string().bytes().map(|byte| byte - b'0'));
        let mut point = digits.len();
        let mut rest = dividend % divisor;
        let significant = |digits: &[u8]| digits.iter().skip_while(|digit| **digit == 0).count();
        while significant(&digits) < 8 {
            rest *= 10;
            digits.push(u8::try_from(rest / divisor).unwrap());
            rest %= divisor;
        }
        let excess = significant(&digits) - 8;
        let cut = digits.split_off(digits.len() - excess);
        // What was cut, in halves of the last digit kept: the digits first, then the rest of the division.
        let up = match (cut.as_slice(), digits.last().unwrap() % 2) {
            ([], odd) => rest * 2 > divisor || (rest * 2 == divisor && odd == 1),
            ([5, tail @ ..], odd) => odd == 1 || rest > 0 || tail.iter().any(|digit| *digit > 0),
            ([first, ..], _) => *first > 5,
        };
        digits.extend(cut.iter().map(|_| 0));
        let last_kept = digits.len() - excess - 1;
        if up {
            let carried = digits[..=last_kept].iter().rposition(|digit| *digit < 9).unwrap();
            digits[carried] += 1;
            digits[carried + 1..=last_kept].fill(0);
        }
        while digits.len() > point && digits.last() == Some(&0) {
            digits.pop();
        }
        while point > 1 && digits[0] == 0 {
            digits.remove(0);
            point -= 1;
        }
        let text: String = digits.iter().map(|digit| char::from(b'0' + digit)).collect();
        match text.split_at(point) {
            (whole, "") => whole.to_owned(),
            (whole, fraction) => format!("{whole}.{fraction}"),
        }
    }

    fn any_rate() -> impl Strategy<Value = Decimal> {
        // Short numbers make ties and exact quotients likely, long ones reach the bounds.
        ("[0-9]{1,9}(\\.[0-9]{1,9})?|[0-9]{1,2}(\\.[0-9]{1,2})?").prop_filter_map("zero", |text| text.parse().ok())
    }

    proptest! {
        #[test]
        fn ratios_agree_with_long_division(dividend in any_rate(), divisor in any_rate()) {
            prop_assert_eq!(dividend.ratio(divisor).unwrap().to_string(), ratio_on_paper(dividend, divisor));
        }

        /// Ties: a divisor of 2^k and a dividend with one digit too many.
        #[test]
        fn ties_go_to_the_even_neighbour(digits in 10_000_000_u64..99_999_999, halves in 1_u32..4) {
            let dividend = Decimal { mantissa: digits * 10 + 5, scale: 1 };
            let divisor = Decimal { mantissa: 10_u64.pow(halves), scale: 0 };
            let even = digits + digits % 2;
            let expected = Decimal::trimmed(u128::from(even), i64::from(halves)).unwrap();
            prop_assert_eq!(dividend.ratio(divisor), Some(expected));
            prop_assert_eq!(dividend.ratio(divisor).unwrap().to_string(), ratio_on_paper(dividend, divisor));
        }

        #[test]
        fn whole_division_is_nearest_and_even(dividend in 0_u64.., divisor in 1_u64..) {
            let (dividend, divisor) = (u128::from(dividend), u128::from(divisor));
            let quotient = divide_half_even(dividend, divisor);
            let twice_off = (quotient * divisor).abs_diff(dividend) * 2;
            prop_assert!(twice_off < divisor || (twice_off == divisor && quotient.is_multiple_of(2)));
        }

        /// Rounded down, by less than one: `floor(x) ≤ x < floor(x) + 1`, in integers.
        #[test]
        fn what_is_rounded_off_is_less_than_one(amount in 0_i64..1 << 40, rate in any_rate(), shift in -6_i32..=6) {
            let Some(units) = rate.of_amount(amount, shift) else { return Ok(()) };
            let (up, down) = (10_u128.pow(shift.max(0).unsigned_abs()), 10_u128.pow(shift.min(0).unsigned_abs() + rate.scale));
            let (amount, units) = (u128::try_from(amount).unwrap(), u128::try_from(units).unwrap());
            let exact = amount * u128::from(rate.mantissa) * up;
            prop_assert!(units * down <= exact && exact < (units + 1) * down);
        }

        #[test]
        fn texts_are_kept(whole in 1_u32..999_999_999, fraction in "[0-9]{1,9}") {
            let text = format!("{whole}.{fraction}");
            prop_assert_eq!(decimal(&text).to_string(), text);
        }
    }
}
