//! Statistics by day: `ramp.stats.daily`, and the roll-up that it shows.

pub mod tally;

use std::time::Duration;

use chrono::{Days, NaiveDate};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Date, Integer, Nullable, Text};
use diesel_async::RunQueryDsl;
use serde_json::{Value, json};

use super::invalid;
use super::rates::date;
use crate::config::manifest::Source;
use crate::database::maintenance::MaintenanceConnection;
use crate::error::{Code, Error};
use crate::source::Answer;
use crate::source::description::{Description, Response};
use crate::source::handler::Call;
use tally::Batch;

/// Days of one answer.
const DAYS_MAX: i64 = 92;
/// Days before its end at which an answer begins whose call does not say.
const DAYS: Days = Days::new(29);
/// Transactions that one statement counts.
const COUNTED_MAX: i32 = 5_000;
/// Statements of one round. What is left waits for the next.
const COUNT_ROUNDS_MAX: u32 = 20;
/// How long a statement of the roll-up may take.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

const SHOWN: &str = "
    SELECT json_build_object('days', coalesce(json_agg(json_build_object(
               'day', d.day, 'routes', coalesce(r.routes, '[]'), 'money', coalesce(m.money, '[]')) ORDER BY d.day), '[]'))::text AS body
    FROM (
        SELECT day FROM ramp.daily_requests WHERE day BETWEEN $1 AND $2
        UNION SELECT day FROM ramp.daily_money WHERE day BETWEEN $1 AND $2
    ) AS d
    LEFT JOIN LATERAL (
        SELECT json_agg(json_build_object('route', route, 'requests', requests, 'errors', errors, 'hits', hits) ORDER BY route) AS routes
        FROM ramp.daily_requests WHERE day = d.day
    ) AS r ON true
    LEFT JOIN LATERAL (
        SELECT json_agg(json_build_object('kind', kind, 'currency', currency, 'transactions', transactions, 'amount', amount)
                        ORDER BY kind, currency) AS money
        FROM ramp.daily_money WHERE day = d.day
    ) AS m ON true";

const LAST: &str =
    "SELECT greatest((SELECT max(day) FROM ramp.daily_requests), (SELECT max(day) FROM ramp.daily_money)) AS day";

/// Whether a route's source shows what is rolled up.
pub fn are_shown_by(source: &Source) -> bool {
    matches!(source, Source::Handler(name) if &**name == "ramp.stats.daily")
}

/// `ramp.stats.daily`: the days `from` to `to`. Without `to` it ends with the last day that there is, without `from` it begins 29 days
/// before its end: of the clock it knows nothing, so that a cached answer is right until something is rolled up.
pub(super) async fn daily(call: Call) -> Result<Answer, Error> {
    #[derive(QueryableByName)]
    struct Last {
        #[diesel(sql_type = Nullable<Date>)]
        day: Option<NaiveDate>,
    }
    #[derive(QueryableByName)]
    struct Shown {
        #[diesel(sql_type = Text)]
        body: String,
    }
    let (from, to) = (date(&call, "from")?, date(&call, "to")?);
    if from.zip(to).is_some_and(|(from, to)| from > to) {
        return Err(invalid("from", "must not be after to"));
    }
    let body = call.read(async |conn| {
        let last = match to {
            Some(to) => Some(to),
            None => diesel::sql_query(LAST).get_result::<Last>(conn).await?.day,
        };
        let Some((from, to)) = span(from, last) else { return Ok(Some(r#"{"days":[]}"#.to_owned())) };
        if (to - from).num_days() >= DAYS_MAX {
            return Ok(None);
        }
        let shown = diesel::sql_query(SHOWN).bind::<Date, _>(from).bind::<Date, _>(to);
        Ok(Some(shown.get_result::<Shown>(conn).await?.body))
    });
    let too_many = || invalid("from", &format!("must be less than {DAYS_MAX} days before to"));
    body.await?.map(|body| Answer::json_bytes(body.into_bytes())).ok_or_else(too_many)
}

/// The first and the last day of an answer; none where there is no last one.
fn span(from: Option<NaiveDate>, last: Option<NaiveDate>) -> Option<(NaiveDate, NaiveDate)> {
    let to = from.max(last)?;
    Some((from.unwrap_or_else(|| to.checked_sub_days(DAYS).unwrap_or(to)), to))
}

/// Adds what an instance has counted, unless that was done before.
///
/// # Errors
/// That of the database. Then nobody knows whether it was added; the same batch may be added again.
pub fn add(conn: &mut MaintenanceConnection, batch: &Batch) -> QueryResult<()> {
    const ADD: &str = "SELECT ramp.add_requests($1, $2, $3, $4, $5, $6, $7)";
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let (mut days, mut routes) = (Vec::new(), Vec::new());
    let (mut requests, mut errors, mut hits) = (Vec::new(), Vec::new(), Vec::new());
    for ((day, route), counts) in &batch.rows {
        days.push(*day);
        routes.push(route.as_str());
        requests.push(number(counts.requests));
        errors.push(number(counts.errors));
        hits.push(number(counts.hits));
    }
    limit(conn)?;
    let add = diesel::sql_query(ADD)
        .bind::<diesel::sql_types::Uuid, _>(batch.instance)
        .bind::<BigInt, _>(batch.sequence)
        .bind::<Array<Date>, _>(days)
        .bind::<Array<Text>, _>(routes)
        .bind::<Array<BigInt>, _>(requests)
        .bind::<Array<BigInt>, _>(errors)
        .bind::<Array<BigInt>, _>(hits);
    diesel::RunQueryDsl::execute(add, conn).map(drop)
}

/// Counts the money that has moved and is not counted yet, and says how many transactions that were.
///
/// # Errors
/// That of the database. What was counted before stays so.
pub fn count_money(conn: &mut MaintenanceConnection) -> QueryResult<i64> {
    const COUNT: &str = "SELECT ramp.count_money($1) AS count";
    #[derive(QueryableByName)]
    struct Counted {
        #[diesel(sql_type = BigInt)]
        count: i64,
    }
    limit(conn)?;
    let mut counted = 0;
    for _ in 0..COUNT_ROUNDS_MAX {
        let round = diesel::sql_query(COUNT).bind::<Integer, _>(COUNTED_MAX);
        let Counted { count } = diesel::RunQueryDsl::get_result(round, conn)?;
        counted += count;
        if count < i64::from(COUNTED_MAX) {
            break;
        }
    }
    Ok(counted)
}

/// Maintenance has all the time of the world; this has not.
fn limit(conn: &mut MaintenanceConnection) -> QueryResult<()> {
    let limit = format!("SET statement_timeout = {}", STATEMENT_TIMEOUT.as_millis());
    diesel::RunQueryDsl::execute(diesel::sql_query(limit), conn).map(drop)
}

/// What [`daily`] takes and gives.
pub(super) fn describe_daily() -> Description {
    let count = |description: &str| json!({ "type": "integer", "minimum": 0, "description": description });
    let route = json!({
        "type": "object",
        "required": ["route", "requests", "errors", "hits"],
        "properties": {
            "route": { "type": "string", "description": "The route's pattern." },
            "requests": count("Answered requests."),
            "errors": count("Those of them that were answered with 500 or above."),
            "hits": count("Those of them that were answered out of a cache."),
        },
    });
    let money = json!({
        "type": "object",
        "required": ["kind", "currency", "transactions", "amount"],
        "properties": {
            "kind": { "type": "string", "description": "`transfer`, `reversal`, …" },
            "currency": { "type": "string" },
            "transactions": count("Transactions that were posted."),
            "amount": count("What they moved, fees included, in minor units."),
        },
    });
    let list = |items: Value| json!({ "type": "array", "items": items });
    let day = json!({
        "type": "object",
        "required": ["day", "routes", "money"],
        "properties": { "day": { "type": "string", "format": "date" }, "routes": list(route), "money": list(money) },
    });
    let schema = json!({ "type": "object", "required": ["days"], "properties": { "days": list(day) } });
    Description {
        summary: "What was asked, and what money moved, by day",
        details: "Days are days in UTC. Without `to` it ends with the last day that there is, without `from` it begins 29 days before its \
                  end; 92 days at most. The last minute or so is not in it yet.",
        responses: vec![Response::ok("The days on which there was something.", schema)],
        codes: vec![Code::ParamInvalid],
        ..Description::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_filled_from_the_data() {
        let day = |text: &str| text.parse::<NaiveDate>().unwrap();
        let span = |from: Option<&str>, last: Option<&str>| {
            span(from.map(day), last.map(day)).map(|(from, to)| format!("{from} {to}"))
        };
        assert_eq!(span(None, None), None);
        assert_eq!(span(None, Some("2026-11-30")).unwrap(), "2026-11-01 2026-11-30");
        assert_eq!(span(Some("2026-11-21"), Some("2026-11-30")).unwrap(), "2026-11-21 2026-11-30");
        assert_eq!(span(Some("2026-12-01"), Some("2026-11-30")).unwrap(), "2026-12-01 2026-12-01");
    }
}
