//! Parameters of a route: their types, how a text becomes a value, and the one canonical spelling of each value.
//!
//! A value is kept as its canonical text. The same text is the cache key's and the one bound to the SQL (which casts it to
//! the declared type), so that what is keyed and what is asked cannot differ.

use std::borrow::Cow;

use chrono::{DateTime, NaiveDate, SecondsFormat, Timelike, Utc};
use regex::Regex;

use super::units::fingerprint_part;

/// Items of an array parameter, at most; more are a 400.
pub const ITEMS_MAX: usize = 100;
/// Digits of a `number`, at most: Postgres would take more, no API needs them.
const NUMBER_DIGITS_MAX: usize = 40;

/// The type of a scalar, or of the items of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// Any text without NUL.
    Text,
    /// A 64-bit integer.
    Integer,
    /// A decimal number of any size, exact.
    Number,
    /// `true` or `false`, also written `1` or `0`.
    Boolean,
    /// `YYYY-MM-DD`.
    Date,
    /// RFC 3339, kept in UTC to the microsecond.
    Timestamp,
    /// A UUID in any of its usual spellings.
    Uuid,
}

impl Scalar {
    /// The type that a manifest names so, without `[]`.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "text" => Self::Text,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            "date" => Self::Date,
            "timestamp" => Self::Timestamp,
            "uuid" => Self::Uuid,
            _ => return None,
        })
    }

    /// The name in the manifest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Date => "date",
            Self::Timestamp => "timestamp",
            Self::Uuid => "uuid",
        }
    }

    /// The Postgres type that the text is cast to.
    pub const fn sql_type(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Integer => "bigint",
            Self::Number => "numeric",
            Self::Boolean => "boolean",
            Self::Date => "date",
            Self::Timestamp => "timestamptz",
            Self::Uuid => "uuid",
        }
    }

    /// The canonical spelling of a text; borrowed where the text is canonical already.
    ///
    /// # Errors
    /// What was expected, to stand after "must be".
    pub fn canonical(self, text: Cow<'_, str>) -> Result<Cow<'_, str>, &'static str> {
        match self {
            Self::Text if text.contains('\0') => Err("text without NUL characters"),
            Self::Text => Ok(text),
            Self::Integer => {
                let value: i64 = text.parse().map_err(|_| "a whole number of at most 64 bits")?;
                let mut buffer = itoa::Buffer::new();
                let printed = buffer.format(value);
                Ok(if *text == *printed { text } else { Cow::Owned(printed.to_owned()) })
            }
            Self::Number => canonical_number(text).ok_or("a decimal number like 12.5, of at most 40 digits"),
            Self::Boolean => match &*text {
                "true" | "false" => Ok(text),
                "1" => Ok(Cow::Borrowed("true")),
                "0" => Ok(Cow::Borrowed("false")),
                _ => Err("true or false"),
            },
            Self::Date => match parse_date(&text) {
                Some(_) => Ok(text),
                None => Err("a date like 2026-10-30"),
            },
            Self::Timestamp => {
                let time = parse_timestamp(&text).ok_or("an RFC 3339 time like 2026-10-30T12:00:00Z")?;
                let form = if time.nanosecond() == 0 { SecondsFormat::Secs } else { SecondsFormat::Micros };
                Ok(Cow::Owned(time.to_rfc3339_opts(form, true)))
            }
            Self::Uuid => {
                let value: uuid::Uuid = text.parse().map_err(|_| "a UUID")?;
                Ok(Cow::Owned(value.hyphenated().to_string()))
            }
        }
    }
}

/// A date in exactly the form `YYYY-MM-DD`, which is its own canonical spelling.
fn parse_date(text: &str) -> Option<NaiveDate> {
    let shape = text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    let date = if shape { NaiveDate::parse_from_str(text, "%Y-%m-%d").ok() } else { None };
    // chrono pads on printing, so that comparing rules out spellings like `2026-1-030`. Postgres has no year zero.
    date.filter(|date| date.to_string() == text && chrono::Datelike::year(date) > 0)
}

/// A time with its offset. In a query an unescaped `+` has become a space, so a space before the offset counts as one.
fn parse_timestamp(text: &str) -> Option<DateTime<Utc>> {
    let time =
        DateTime::parse_from_rfc3339(text).or_else(|_| DateTime::parse_from_rfc3339(&text.replace(' ', "+"))).ok()?;
    let time = time.with_timezone(&Utc);
    // Leap seconds, the year zero and sub-microsecond digits do not exist in Postgres; years outside four digits print
    // differently.
    let in_range = (1..=9999).contains(&chrono::Datelike::year(&time)) && time.nanosecond() < 1_000_000_000;
    in_range.then(|| time.with_nanosecond(time.nanosecond() / 1_000 * 1_000)).flatten()
}

/// `-0012.500` → `-12.5`. Exponents are not taken: they let a short text name a huge number.
fn canonical_number(text: Cow<'_, str>) -> Option<Cow<'_, str>> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(&text)),
    };
    let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(whole, fraction)| (whole, Some(fraction)));
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !all_digits(whole) || !fraction.is_none_or(all_digits) {
        return None;
    }
    let fraction = fraction.unwrap_or_default();
    if whole.len() + fraction.len() > NUMBER_DIGITS_MAX {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    let mut out = String::with_capacity(text.len());
    if negative && !(whole.is_empty() && fraction.is_empty()) {
        out.push('-');
    }
    out.push_str(if whole.is_empty() { "0" } else { whole });
    if !fraction.is_empty() {
        out.push('.');
        out.push_str(fraction);
    }
    Some(if *text == *out { text } else { Cow::Owned(out) })
}

/// Where a parameter stands in the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A `{name}` of the path.
    Path,
    /// The query string.
    Query,
    /// All of the query string, as it was sent: what an upstream takes that nothing is declared of.
    WholeQuery,
    /// The caller's verified identity.
    Claim,
}

/// One declared parameter, validated.
#[derive(Clone, Debug)]
pub struct Param {
    /// Its name in the path or the query, or of the claim.
    pub name: String,
    /// Where it stands.
    pub place: Place,
    /// The type of the value, or of an array's items.
    pub scalar: Scalar,
    /// Whether it is an array: a comma list.
    pub array: bool,
    /// Whether an array is sorted and freed of duplicates before use.
    pub set: bool,
    /// What a text (or each item) must match, anchored as written.
    pub pattern: Option<Regex>,
    /// Least value of an integer or number.
    pub min: Option<f64>,
    /// Greatest value of an integer or number.
    pub max: Option<f64>,
    /// The canonical value where the request does not say; `None`: it must say, unless `optional`.
    pub default: Option<Value<'static>>,
    /// Whether it may be left out without a default; it is bound as NULL then.
    pub optional: bool,
    /// The claim that it is, where that is not called as it is.
    pub claim: Option<String>,
    /// What it means, for readers.
    pub description: Option<String>,
}

/// The canonical value of one parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// An optional parameter that was not given.
    Null,
    /// A scalar.
    One(Cow<'a, str>),
    /// An array.
    Many(Vec<Cow<'a, str>>),
}

impl Value<'_> {
    /// The same value, independent of the request it came from.
    pub fn into_owned(self) -> Value<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        match self {
            Self::Null => Value::Null,
            Self::One(text) => Value::One(own(text)),
            Self::Many(items) => Value::Many(items.into_iter().map(own).collect()),
        }
    }
}

impl Param {
    /// The value of a scalar parameter's text.
    ///
    /// # Errors
    /// What it must be.
    pub fn scalar_value<'a>(&self, text: Cow<'a, str>) -> Result<Value<'a>, String> {
        self.item(text).map(Value::One)
    }

    /// The value of an array parameter: the items of all its texts, in order or as a set.
    ///
    /// # Errors
    /// What its items must be.
    pub fn array_value<'a>(&self, texts: impl Iterator<Item = Cow<'a, str>>) -> Result<Value<'a>, String> {
        let mut items = Vec::new();
        for text in texts.filter(|text| !text.is_empty()) {
            match text {
                Cow::Borrowed(text) => self.push_items(text.split(',').map(Cow::Borrowed), &mut items)?,
                Cow::Owned(text) => {
                    self.push_items(text.split(',').map(|item| Cow::Owned(item.to_owned())), &mut items)?
                }
            }
        }
        Ok(self.many(items))
    }

    /// The value of an array parameter out of its items, none of which is a list itself.
    ///
    /// # Errors
    /// What its items must be.
    pub fn list_value<'a>(&self, texts: impl Iterator<Item = Cow<'a, str>>) -> Result<Value<'a>, String> {
        let mut items = Vec::new();
        self.push_items(texts, &mut items)?;
        Ok(self.many(items))
    }

    fn many<'a>(&self, mut items: Vec<Cow<'a, str>>) -> Value<'a> {
        if self.set {
            items.sort_unstable();
            items.dedup();
        }
        Value::Many(items)
    }

    fn push_items<'a>(
        &self,
        texts: impl Iterator<Item = Cow<'a, str>>,
        items: &mut Vec<Cow<'a, str>>,
    ) -> Result<(), String> {
        for text in texts {
            if items.len() == ITEMS_MAX {
                return Err(format!("a list of at most {ITEMS_MAX} items"));
            }
            if text.is_empty() {
                return Err("a list without empty items".to_owned());
            }
            items.push(self.item(text)?);
        }
        Ok(())
    }

    fn item<'a>(&self, text: Cow<'a, str>) -> Result<Cow<'a, str>, String> {
        let text = self.scalar.canonical(text)?;
        if let Some(pattern) = &self.pattern
            && !pattern.is_match(&text)
        {
            return Err(format!("text that matches {pattern}"));
        }
        if self.min.is_some() || self.max.is_some() {
            // Bounds are declared as TOML numbers; f64 compares them exactly enough for what a manifest can write.
            let number: f64 = text.parse().map_err(|_| "a number")?;
            if self.min.is_some_and(|min| number < min) || self.max.is_some_and(|max| number > max) {
                return Err(self.bounds());
            }
        }
        Ok(text)
    }

    fn bounds(&self) -> String {
        match (self.min, self.max) {
            (Some(min), Some(max)) => format!("between {min} and {max}"),
            (Some(min), None) => format!("at least {min}"),
            (None, Some(max)) => format!("at most {max}"),
            (None, None) => String::new(),
        }
    }

    /// The Postgres type that the parameter is bound as.
    pub fn sql_type(&self) -> String {
        format!("{}{}", self.scalar.sql_type(), if self.array { "[]" } else { "" })
    }

    /// The claim that it is, where it is one.
    pub fn claim_name(&self) -> &str {
        self.claim.as_deref().unwrap_or(&self.name)
    }

    /// What of the declaration a cached answer depends on, for the route's fingerprint.
    pub fn describe(&self, out: &mut Vec<u8>) {
        let parts = [
            self.name.clone(),
            format!("{:?} {:?} {} {}", self.place, self.scalar, self.array, self.set),
            format!("{:?} {:?} {:?}", self.default, self.min, self.max),
            self.pattern.as_ref().map(ToString::to_string).unwrap_or_default(),
        ];
        parts.iter().for_each(|part| fingerprint_part(out, part));
    }
}

/// The values of a request's parameters, in the order in which the route declares them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(Vec<(String, Value<'static>)>);

impl Params {
    /// Values with the names of their parameters.
    pub fn new(values: Vec<(String, Value<'static>)>) -> Self {
        Self(values)
    }

    /// The values in declared order.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &Value<'static>> {
        self.0.iter().map(|(_, value)| value)
    }

    /// The values with their names, in declared order.
    pub fn named(&self) -> impl Iterator<Item = (&str, &Value<'static>)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The canonical text of a scalar; `None` where it is NULL, an array, or not declared.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Value::One(text) => Some(text),
            Value::Null | Value::Many(_) => None,
        }
    }

    /// The canonical texts of an array's items; empty where it is not declared.
    pub fn list(&self, name: &str) -> &[Cow<'static, str>] {
        match self.get(name) {
            Some(Value::Many(items)) => items,
            _ => &[],
        }
    }

    /// The value of a declared parameter.
    pub fn get(&self, name: &str) -> Option<&Value<'static>> {
        self.0.iter().find(|(declared, _)| declared == name).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(scalar: Scalar, text: &str) -> Option<String> {
        scalar.canonical(Cow::Borrowed(text)).ok().map(Cow::into_owned)
    }

    #[test]
    fn each_type_has_one_spelling() {
        let cases = [
            (Scalar::Integer, "007", Some("7")),
            (Scalar::Integer, "+7", Some("7")),
            (Scalar::Integer, "-0", Some("0")),
            (Scalar::Integer, "9223372036854775808", None),
            (Scalar::Integer, "1.0", None),
            (Scalar::Number, "-0012.500", Some("-12.5")),
            (Scalar::Number, "-0.0", Some("0")),
            (Scalar::Number, ".5", None),
            (Scalar::Number, "5.", None),
            (
                Scalar::Number,
                "9999999999999999999999999999999999999999",
                Some("9999999999999999999999999999999999999999"),
            ),
            (Scalar::Number, "99999999999999999999999999999999999999990", None),
            (Scalar::Number, "1e9", None),
            (Scalar::Number, "NaN", None),
            (Scalar::Boolean, "1", Some("true")),
            (Scalar::Boolean, "TRUE", None),
            (Scalar::Date, "2026-10-30", Some("2026-10-30")),
            (Scalar::Date, "2026-02-30", None),
            (Scalar::Date, "2026-1-030", None),
            (Scalar::Date, "+026-01-01", None),
            (Scalar::Date, "0000-01-01", None),
            (Scalar::Timestamp, "0001-01-01T00:00:00+01:00", None),
            (Scalar::Timestamp, "2026-10-30T12:00:00+02:00", Some("2026-10-30T10:00:00Z")),
            (Scalar::Timestamp, "2026-10-30T12:00:00 02:00", Some("2026-10-30T10:00:00Z")),
            (Scalar::Timestamp, "2026-10-30T10:00:00.0000001Z", Some("2026-10-30T10:00:00Z")),
            (Scalar::Timestamp, "2026-10-30T10:00:00.5Z", Some("2026-10-30T10:00:00.500000Z")),
            (Scalar::Timestamp, "2026-10-30", None),
            (Scalar::Uuid, "67E5504410B1426F9247BB680E5FE0C8", Some("67e55044-10b1-426f-9247-bb680e5fe0c8")),
            (Scalar::Text, "a\0b", None),
        ];
        for (scalar, text, expected) in cases {
            assert_eq!(canonical(scalar, text).as_deref(), expected, "{scalar:?} {text:?}");
        }
    }

    proptest::proptest! {
        /// Canonical texts are fixed points: printing again changes nothing.
        #[test]
        fn canonical_is_idempotent(text in "[-+]?[0-9]{0,12}(\\.[0-9]{1,6})?") {
            for scalar in [Scalar::Integer, Scalar::Number, Scalar::Text] {
                if let Some(once) = canonical(scalar, &text) {
                    proptest::prop_assert_eq!(canonical(scalar, &once), Some(once.clone()));
                }
            }
        }
    }
}
