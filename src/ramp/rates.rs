//! Exchange rates: `ramp.rates.latest` and `ramp.rates.history`.
//!
//! Stored are rates of the euro alone. What is asked for in another base is computed from them, exactly, when it is read.

use std::borrow::Cow;
use std::collections::BTreeMap;

use chrono::{Days, NaiveDate};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::decimal::Decimal;
use super::schema::{currencies, exchange_rates};
use super::{EURO, TOKEN, TOKEN_PEG, invalid, unknown_currency};
use crate::error::{Code, Error};
use crate::source::Answer;
use crate::source::description::{Description, Response};
use crate::source::handler::Call;

/// Stored rates that one history may read.
const HISTORY_RATES_MAX: i64 = 60_000;
/// Days before its end at which a history begins that does not say.
const HISTORY_DAYS: Days = Days::new(30);

/// What a call asks to be priced, and in what.
struct Wanted<'a> {
    base: &'a str,
    /// None: all that there are, the base excepted.
    symbols: &'a [Cow<'static, str>],
}

impl<'a> Wanted<'a> {
    fn of(call: &'a Call) -> Self {
        Self { base: call.params.text("base").unwrap_or(EURO), symbols: call.params.list("symbols") }
    }

    fn has(&self, code: &str) -> bool {
        if self.symbols.is_empty() { code != self.base } else { self.symbols.iter().any(|symbol| symbol == code) }
    }

    fn names(&self, code: &str) -> bool {
        self.base == code || self.symbols.iter().any(|symbol| symbol == code)
    }

    /// That the base and all symbols are currencies.
    fn check<'c>(&self, known: impl Iterator<Item = &'c str> + Clone) -> Result<(), Error> {
        let is_known = |code: &str| known.clone().any(|known| known == code);
        if !is_known(self.base) {
            return Err(unknown_currency("base", self.base));
        }
        match self.symbols.iter().find(|symbol| !is_known(symbol)) {
            Some(symbol) => Err(unknown_currency("symbols", symbol)),
            None => Ok(()),
        }
    }

    /// The currencies whose stored rates the answer needs; none: all. The euro has no stored rate.
    fn stored(&self) -> Vec<&str> {
        let needed = self.symbols.iter().map(|symbol| &**symbol).chain([self.base]);
        let needed = needed.map(|code| if code == TOKEN { TOKEN_PEG } else { code });
        if self.symbols.is_empty() { Vec::new() } else { needed.filter(|code| *code != EURO).collect() }
    }

    /// The wanted rates of one fixing, given its stored ones. Empty where the fixing does not quote the base.
    fn rates<'q>(&self, stored: impl Iterator<Item = (&'q str, Decimal)>) -> Rates {
        let mut quotes: BTreeMap<&str, Decimal> = stored.collect();
        quotes.insert(EURO, Decimal::ONE);
        // No fixing quotes it, so that it is shown to those alone who name it.
        let peg = quotes.get(TOKEN_PEG).copied().filter(|_| self.names(TOKEN));
        quotes.extend(peg.map(|rate| (TOKEN, rate)));
        let Some(base) = quotes.get(self.base).copied() else {
            return Rates::default();
        };
        let wanted = quotes.into_iter().filter(|(code, _)| self.has(code));
        // The published digits are not to be rounded, so the euro's rates pass through.
        let in_base = |rate: Decimal| if self.base == EURO { Some(rate) } else { rate.ratio(base) };
        Rates(wanted.filter_map(|(code, rate)| Some((code.to_owned(), in_base(rate)?))).collect())
    }
}

/// Rates by currency, in alphabetical order; an object in JSON.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rates(Vec<(String, Decimal)>);

impl Serialize for Rates {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(code, rate)| (code, rate)))
    }
}

#[derive(Serialize)]
struct Latest<'a> {
    base: &'a str,
    date: NaiveDate,
    rates: Rates,
}

/// `ramp.rates.latest`: the fixing of `date`, or the last one before it that quotes the base; without `date` the latest.
pub(super) async fn latest(call: Call) -> Result<Answer, Error> {
    let wanted = Wanted::of(&call);
    let asked = date(&call, "date")?;
    let (fixing, quotes) = call
        .read(async |conn| {
            let fixing = last_fixing(conn, wanted.base, asked).await?;
            Ok((fixing, quotes(conn, fixing).await?))
        })
        .await?;
    wanted.check(quotes.iter().map(|(code, _)| &**code))?;
    let Some(fixing) = fixing else {
        let until = asked.map(|date| format!(" at or before {date}")).unwrap_or_default();
        return Err(Error::new(Code::NotFound, format!("there are no rates of {}{until}", wanted.base)));
    };
    let rates = wanted.rates(quotes.iter().filter_map(|(code, rate)| Some((&**code, (*rate)?))));
    if rates.0.is_empty() {
        return Err(Error::new(Code::NotFound, format!("the fixing of {fixing} quotes none of the symbols")));
    }
    Answer::json(&Latest { base: wanted.base, date: fixing, rates })
}

/// What [`latest`] takes and gives.
pub(super) fn describe_latest() -> Description {
    let schema = json!({
        "type": "object",
        "required": ["base", "date", "rates"],
        "properties": {
            "base": { "type": "string", "description": "The currency that is priced." },
            "date": { "type": "string", "format": "date", "description": "The day of the fixing." },
            "rates": rates_schema(),
        },
    });
    Description {
        summary: "Exchange rates of one fixing",
        details: "The fixing of `date`, or the last one before it that quotes the base; without `date` the latest.",
        responses: vec![Response::ok("The rates.", schema)],
        codes: vec![Code::NotFound, Code::ParamInvalid],
        ..Description::default()
    }
}

fn rates_schema() -> Value {
    json!({
        "type": "object",
        "description": "By currency: what one unit of the base is worth.",
        "additionalProperties": { "type": "number", "exclusiveMinimum": 0 },
    })
}

/// The last fixing that quotes a currency, at or before a date where one is given.
async fn last_fixing(
    conn: &mut AsyncPgConnection,
    quoted: &str,
    until: Option<NaiveDate>,
) -> QueryResult<Option<NaiveDate>> {
    let mut fixings = exchange_rates::table
        .filter(exchange_rates::base.eq(EURO))
        .select(exchange_rates::date)
        .order(exchange_rates::date.desc())
        .into_boxed();
    if let Some(until) = until {
        fixings = fixings.filter(exchange_rates::date.le(until));
    }
    let quoted = if quoted == TOKEN { TOKEN_PEG } else { quoted };
    // Every fixing quotes the euro.
    if quoted != EURO {
        fixings = fixings.filter(exchange_rates::currency.eq(quoted));
    }
    fixings.first(conn).await.optional()
}

/// Every known currency, with its rate at a fixing where it has one.
async fn quotes(
    conn: &mut AsyncPgConnection,
    fixing: Option<NaiveDate>,
) -> QueryResult<Vec<(String, Option<Decimal>)>> {
    let of_fixing = exchange_rates::base
        .eq(EURO)
        .and(exchange_rates::date.nullable().eq(fixing))
        .and(exchange_rates::currency.eq(currencies::code));
    currencies::table
        .left_join(exchange_rates::table.on(of_fixing))
        .select((currencies::code, exchange_rates::rate.nullable()))
        .load(conn)
        .await
}

/// What one unit of `base` is worth in another currency by the latest fixing, as `ramp.rates.latest` tells it; none where that does
/// not quote both. What the token is worth by definition needs no fixing.
pub(super) async fn rate(conn: &mut AsyncPgConnection, base: &str, symbol: &str) -> QueryResult<Option<Decimal>> {
    if matches!((base, symbol), (TOKEN, TOKEN_PEG) | (TOKEN_PEG, TOKEN)) {
        return Ok(Some(Decimal::ONE));
    }
    let Some(fixing) = last_fixing(conn, EURO, None).await? else { return Ok(None) };
    let symbols = [Cow::Owned(symbol.to_owned())];
    let wanted = Wanted { base, symbols: &symbols };
    let stored = rows(conn, Span { from: fixing, to: fixing }, wanted.stored()).await?;
    let Rates(rates) = wanted.rates(stored.iter().map(|(_, code, rate)| (&**code, *rate)));
    Ok(rates.into_iter().next().map(|(_, rate)| rate))
}

#[derive(Serialize)]
struct History<'a> {
    base: &'a str,
    start_date: NaiveDate,
    end_date: NaiveDate,
    rates: BTreeMap<NaiveDate, Rates>,
}

/// A stored rate with its day and currency.
type Row = (NaiveDate, String, Decimal);

/// `ramp.rates.history`: the fixings of the days `from` to `to`. Without `to` it ends with the latest fixing, without
/// `from` it begins 30 days before its end: of the clock it knows nothing, so that a cached answer is right until a rate changes.
pub(super) async fn history(call: Call) -> Result<Answer, Error> {
    let wanted = Wanted::of(&call);
    let (from, to) = (date(&call, "from")?, date(&call, "to")?);
    let Stored { known, span, rows } = call.read(async |conn| stored(conn, &wanted, from, to).await).await?;
    wanted.check(known.iter().map(|code| &**code))?;
    let Some(Span { from, to }) = span else {
        return Err(Error::new(Code::NotFound, "there are no rates yet"));
    };
    if from > to {
        return Err(invalid("from", &format!("must not be after to: {from} is after {to}")));
    }
    if i64::try_from(rows.len()).is_ok_and(|length| length > HISTORY_RATES_MAX) {
        let sentence = format!("to {to} is more than {HISTORY_RATES_MAX} rates: name fewer symbols, or a later from");
        return Err(invalid("from", &sentence));
    }
    let fixings = rows.chunk_by(|(day, ..), (next, ..)| day == next);
    let rates = fixings.filter_map(|fixing| {
        let rates = wanted.rates(fixing.iter().map(|(_, code, rate)| (&**code, *rate)));
        fixing.first().filter(|_| !rates.0.is_empty()).map(|(day, ..)| (*day, rates))
    });
    Answer::json(&History { base: wanted.base, start_date: from, end_date: to, rates: rates.collect() })
}

/// What [`history`] takes and gives.
pub(super) fn describe_history() -> Description {
    let schema = json!({
        "type": "object",
        "required": ["base", "start_date", "end_date", "rates"],
        "properties": {
            "base": { "type": "string", "description": "The currency that is priced." },
            "start_date": { "type": "string", "format": "date" },
            "end_date": { "type": "string", "format": "date" },
            "rates": {
                "type": "object",
                "description": "By day, of the days with a fixing.",
                "additionalProperties": rates_schema(),
            },
        },
    });
    Description {
        summary: "Exchange rates of a span of days",
        details: "Without `to` it ends with the latest fixing, without `from` it begins 30 days before its end.",
        responses: vec![Response::ok("The rates, day by day.", schema)],
        codes: vec![Code::NotFound, Code::ParamInvalid],
        ..Description::default()
    }
}

/// What a history is made of.
struct Stored {
    /// The codes of all currencies.
    known: Vec<String>,
    /// None where the data has no end that could stand for one that was not asked for.
    span: Option<Span>,
    rows: Vec<Row>,
}

async fn stored(
    conn: &mut AsyncPgConnection,
    wanted: &Wanted<'_>,
    from: Option<NaiveDate>,
    to: Option<NaiveDate>,
) -> QueryResult<Stored> {
    let known = currencies::table.select(currencies::code).load(conn).await?;
    let last = match to {
        Some(to) => Some(to),
        None => last_fixing(conn, EURO, None).await?,
    };
    let span = last.map(|last| Span::new(from, to, last));
    let rows = match span {
        Some(span) => rows(conn, span, wanted.stored()).await?,
        None => Vec::new(),
    };
    Ok(Stored { known, span, rows })
}

/// The days of a history, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    from: NaiveDate,
    to: NaiveDate,
}

impl Span {
    /// The span as asked for, with the end filled in. One that begins after the latest fixing and names no end is one day
    /// long and empty, not an error: its first rates are yet to come.
    fn new(from: Option<NaiveDate>, to: Option<NaiveDate>, last: NaiveDate) -> Self {
        let end = to.unwrap_or_else(|| from.map_or(last, |from| from.max(last)));
        Self { from: from.unwrap_or_else(|| end.checked_sub_days(HISTORY_DAYS).unwrap_or(end)), to: end }
    }
}

/// The stored rates of a span in the order of days, one more than the limit at most.
async fn rows(conn: &mut AsyncPgConnection, span: Span, only: Vec<&str>) -> QueryResult<Vec<Row>> {
    let mut rows = exchange_rates::table
        .filter(exchange_rates::base.eq(EURO))
        .filter(exchange_rates::date.between(span.from, span.to))
        .select((exchange_rates::date, exchange_rates::currency, exchange_rates::rate))
        .order(exchange_rates::date)
        .limit(HISTORY_RATES_MAX + 1)
        .into_boxed();
    if !only.is_empty() {
        rows = rows.filter(exchange_rates::currency.eq_any(only));
    }
    rows.load(conn).await
}

/// An optional date of the call.
pub(super) fn date(call: &Call, name: &str) -> Result<Option<NaiveDate>, Error> {
    let parse = |text: &str| text.parse().map_err(|_| invalid(name, "must be a date like 2026-10-30"));
    call.params.text(name).map(parse).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(base: &str, symbols: &[&'static str], stored: &[(&str, &str)]) -> String {
        let symbols: Vec<_> = symbols.iter().map(|symbol| Cow::Borrowed(*symbol)).collect();
        let wanted = Wanted { base, symbols: &symbols };
        let stored = stored.iter().map(|(code, rate)| (*code, rate.parse().unwrap()));
        serde_json::to_string(&wanted.rates(stored)).unwrap()
    }

    const FIXING: &[(&str, &str)] = &[("USD", "1.1172"), ("ISK", "136"), ("IDR", "20275.17")];

    #[test]
    fn rates_of_the_euro_are_the_published_digits() {
        assert_eq!(rates("EUR", &[], FIXING), r#"{"IDR":20275.17,"ISK":136,"USD":1.1172}"#);
    }

    #[test]
    fn other_bases_are_ratios_and_include_the_euro() {
        assert_eq!(rates("USD", &[], FIXING), r#"{"EUR":0.89509488,"IDR":18148.201,"ISK":121.7329}"#);
    }

    #[test]
    fn the_base_is_priced_only_when_asked_for() {
        assert_eq!(rates("USD", &["EUR", "USD"], FIXING), r#"{"EUR":0.89509488,"USD":1}"#);
        assert_eq!(rates("EUR", &["EUR"], FIXING), r#"{"EUR":1}"#);
    }

    #[test]
    fn what_is_not_quoted_is_left_out() {
        assert_eq!(rates("EUR", &["CYP", "ISK"], FIXING), r#"{"ISK":136}"#);
        assert_eq!(rates("CYP", &[], FIXING), "{}");
    }

    #[test]
    fn the_token_is_worth_a_dollar_and_shown_to_those_who_name_it() {
        assert_eq!(rates("USD", &["AFRI"], FIXING), r#"{"AFRI":1}"#);
        assert_eq!(rates("AFRI", &["EUR", "ISK", "USD"], FIXING), r#"{"EUR":0.89509488,"ISK":121.7329,"USD":1}"#);
        assert_eq!(rates("EUR", &["AFRI"], FIXING), r#"{"AFRI":1.1172}"#);
        assert_eq!(rates("AFRI", &[], FIXING), r#"{"EUR":0.89509488,"IDR":18148.201,"ISK":121.7329,"USD":1}"#);
        assert_eq!(rates("AFRI", &["USD"], &FIXING[1..]), "{}");
    }

    #[test]
    fn spans_are_filled_from_the_data() {
        let day = |text: &str| text.parse::<NaiveDate>().unwrap();
        let last = day("2026-10-30");
        let span = |from: Option<&str>, to: Option<&str>| {
            let Span { from, to } = Span::new(from.map(day), to.map(day), last);
            format!("{from} {to}")
        };
        assert_eq!(span(None, None), "2026-09-30 2026-10-30");
        assert_eq!(span(None, Some("2000-01-31")), "2000-01-01 2000-01-31");
        assert_eq!(span(Some("2026-10-01"), None), "2026-10-01 2026-10-30");
        assert_eq!(span(Some("2027-01-01"), None), "2027-01-01 2027-01-01");
        assert_eq!(span(Some("2026-02-01"), Some("2026-01-01")), "2026-02-01 2026-01-01");
    }
}
