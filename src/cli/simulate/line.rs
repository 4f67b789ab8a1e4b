//! A line of an access log: what was asked, when, and what came of it. The common and the combined log format, and JSON.
//!
//! Logs are written by whoever sends requests as much as by the server, so every byte of them is hostile.

use std::borrow::Cow;
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};
use serde_json::Value;

/// Longer lines are skipped, and never held in memory.
pub(super) const LINE_BYTES_MAX: usize = 64 * 1024;
/// Methods are short words.
const METHOD_BYTES_MAX: usize = 16;
/// The times that a log may have, in milliseconds: from 1970 to 2200.
const TIMES_MS: std::ops::Range<i64> = 0..7_258_118_400_000;

/// A request as a log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Logged {
    /// When, in milliseconds since 1970.
    pub time_ms: i64,
    pub method: String,
    /// Path and query, as they were sent.
    pub target: String,
    /// What it was answered with, where the log says.
    pub status: Option<u16>,
    /// Bytes of the answer's body, where the log says.
    pub body_bytes: Option<u64>,
    /// Where it is Mainstay's own log: how many lines it left out before this one.
    pub own: Option<u64>,
}

/// Why a line is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unread {
    TooLong,
    Form,
    Time,
    Request,
    Encoding,
}

impl Unread {
    /// As people and programs are told.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Form => "unknown_form",
            Self::Time => "no_time",
            Self::Request => "no_request",
            Self::Encoding => "not_utf8",
        }
    }

    pub(super) const fn sentence(self) -> &'static str {
        match self {
            Self::TooLong => "longer than 64 KiB",
            Self::Form => "neither the common log format nor a JSON object with a request",
            Self::Time => "without a time between 1970 and 2200",
            Self::Request => "without a method and a path, such as what a port scanner sends",
            Self::Encoding => "the request is not UTF-8",
        }
    }
}

/// Reads a line. `None`: it is about no request, such as an empty one, a comment, or another line of Mainstay's own log.
///
/// # Errors
/// Why it cannot be read.
pub(super) fn parse(line: &[u8]) -> Result<Option<Logged>, Unread> {
    if line.len() > LINE_BYTES_MAX {
        return Err(Unread::TooLong);
    }
    // A client's name of itself may be anything; what was asked must be text.
    let text = String::from_utf8_lossy(line);
    let text = text.trim();
    let logged = match text.bytes().next() {
        None | Some(b'#') => return Ok(None),
        Some(b'{') => match json(text)? {
            Some(logged) => logged,
            None => return Ok(None),
        },
        Some(_) => common(text)?,
    };
    if logged.target.contains(char::REPLACEMENT_CHARACTER) {
        return Err(Unread::Encoding);
    }
    Ok(Some(logged))
}

/// `host - user [10/Oct/2000:13:55:36 -0700] "GET /path HTTP/1.1" 200 2326 …`
fn common(text: &str) -> Result<Logged, Unread> {
    let (_, rest) = text.split_once('[').ok_or(Unread::Form)?;
    let (time, rest) = rest.split_once(']').ok_or(Unread::Form)?;
    let (line, rest) = quoted(rest.trim_start()).ok_or(Unread::Form)?;
    let time_ms = time_of_text(time).ok_or(Unread::Time)?;
    let (method, target) = request_line(&line)?;
    let mut words = rest.split_ascii_whitespace();
    let status = words.next().and_then(|word| word.parse().ok());
    let body_bytes = words.next().and_then(|word| word.parse().ok());
    Ok(Logged { time_ms, method, target, status, body_bytes, own: None })
}

/// What stands between quotes, without the escapes of Apache and nginx (`\"`, `\x22`), and what follows.
fn quoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let inside = text.strip_prefix('"')?;
    let mut is_escaped = false;
    let end = inside.bytes().position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    })?;
    let (line, rest) = inside.split_at_checked(end)?;
    Some((unescaped(line), rest.strip_prefix('"')?))
}

fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('\\');
    bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    let mut is_literal = false;
    for part in parts {
        let hex =
            part.strip_prefix('x').and_then(|rest| rest.get(..2)).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match hex {
            _ if is_literal => {
                bytes.extend_from_slice(part.as_bytes());
                is_literal = false;
            }
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(part.get(3..).unwrap_or_default().as_bytes());
            }
            // Two backslashes are one, and what follows it is as it stands.
            None if part.is_empty() => {
                bytes.push(b'\\');
                is_literal = true;
            }
            None => bytes.extend_from_slice(part.as_bytes()),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// `GET /path HTTP/1.1`
fn request_line(line: &str) -> Result<(String, String), Unread> {
    let (method, rest) = line.split_once(' ').ok_or(Unread::Request)?;
    let target = match rest.rsplit_once(' ') {
        Some((target, version)) if version.starts_with("HTTP/") => target,
        _ => rest,
    };
    request(method, target)
}

fn request(method: &str, target: &str) -> Result<(String, String), Unread> {
    let is_method = !method.is_empty()
        && method.len() <= METHOD_BYTES_MAX
        && method.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-');
    let target = origin_form(target).ok_or(Unread::Request)?;
    if !is_method || target.chars().any(|c| c.is_control() || c == ' ') {
        return Err(Unread::Request);
    }
    Ok((method.to_ascii_uppercase(), target))
}

/// Path and query, without the scheme and the host of a whole URL and without a fragment, which no server sees.
fn origin_form(target: &str) -> Option<String> {
    let target = match target.split_once("://") {
        Some(("http" | "https", rest)) => {
            let at = rest.find(['/', '?']).unwrap_or(rest.len());
            rest.get(at..).filter(|rest| rest.starts_with('/')).unwrap_or("/")
        }
        _ => target,
    };
    let target = target.split('#').next().unwrap_or_default();
    target.starts_with('/').then(|| target.to_owned())
}

/// Where a JSON line may have what is looked for: in the object itself, or in one of these members (Caddy has `request`, Mainstay
/// `kvs`).
const WITHIN: [&str; 4] = ["request", "response", "kvs", "http"];
const TIMES: [&str; 8] = ["timestamp", "@timestamp", "time", "ts", "time_iso8601", "time_local", "msec", "datetime"];
const METHODS: [&str; 5] = ["method", "request_method", "http_method", "cs-method", "requestMethod"];
const TARGETS: [&str; 7] = ["uri", "request_uri", "url", "requestUrl", "path", "cs-uri-stem", "request_path"];
const QUERIES: [&str; 5] = ["query", "query_string", "args", "cs-uri-query", "request_query"];
const LINES: [&str; 2] = ["request", "request_line"];
const STATUSES: [&str; 5] = ["status", "status_code", "sc-status", "response_code", "statusCode"];
const BYTES: [&str; 8] =
    ["body_bytes", "body_bytes_sent", "bytes", "bytes_sent", "size", "sc-bytes", "response_size", "responseSize"];

/// A line of a log of objects. `None`: a line of Mainstay's log that is about something else.
fn json(text: &str) -> Result<Option<Logged>, Unread> {
    let line: Value = serde_json::from_str(text).map_err(|_| Unread::Form)?;
    let own = line.get("target").and_then(Value::as_str).filter(|target| target.starts_with("mainstay"));
    if own.is_some_and(|target| target != "mainstay::access") {
        return Ok(None);
    }
    let message = own.filter(|_| line.get("method").is_none()).and(line.get("message"));
    let (method, target) = match message.and_then(Value::as_str) {
        Some(message) => request_line(message)?,
        None => requested(&line)?,
    };
    let own = own.map(|_| line.get("left_out").and_then(number).unwrap_or(0));
    let time_ms = time_of(&line).ok_or(Unread::Time)?;
    let status = find(&line, &STATUSES).and_then(number).and_then(|status| u16::try_from(status).ok());
    let body_bytes = find(&line, &BYTES).and_then(number);
    Ok(Some(Logged { time_ms, method, target, status, body_bytes, own }))
}

fn requested(line: &Value) -> Result<(String, String), Unread> {
    if let Some(whole) = LINES.iter().find_map(|name| line.get(*name)?.as_str()) {
        return request_line(whole);
    }
    let text = |names| find(line, names).and_then(Value::as_str);
    let (method, target) = (text(&METHODS).unwrap_or("GET"), text(&TARGETS).ok_or(Unread::Form)?);
    let query = text(&QUERIES).map(|query| query.trim_start_matches('?')).filter(|query| !matches!(*query, "" | "-"));
    match query {
        Some(query) if !target.contains('?') => request(method, &format!("{target}?{query}")),
        _ => request(method, target),
    }
}

/// The first of some names that there is, whichever object has it.
fn find<'a>(line: &'a Value, names: &[&str]) -> Option<&'a Value> {
    let within = std::iter::once(Some(line)).chain(WITHIN.iter().map(|name| line.get(*name)));
    within.flatten().find_map(|object| names.iter().find_map(|name| object.get(*name)))
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn time_of(line: &Value) -> Option<i64> {
    // CloudFront has the day and the time of day apart.
    if let (Some(day), Some(time)) =
        (line.get("date").and_then(Value::as_str), line.get("time").and_then(Value::as_str))
    {
        return time_of_text(&format!("{day} {time}"));
    }
    match find(line, &TIMES)? {
        Value::Number(number) => time_of_number(number.as_f64()?),
        Value::String(text) => text.parse().ok().map_or_else(|| time_of_text(text), time_of_number),
        _ => None,
    }
}

/// Seconds, milliseconds, microseconds or nanoseconds since 1970, which their size tells apart.
fn time_of_number(number: f64) -> Option<i64> {
    let seconds = match number {
        seconds if seconds < 1e11 => seconds,
        millis if millis < 1e14 => millis / 1e3,
        micros if micros < 1e17 => micros / 1e6,
        nanos => nanos / 1e9,
    };
    // To the nearest millisecond, which no decimal fraction hits by itself.
    let time_ms = Duration::try_from_secs_f64(seconds + 0.0005).ok()?.as_millis();
    i64::try_from(time_ms).ok().filter(|time_ms| TIMES_MS.contains(time_ms))
}

fn time_of_text(text: &str) -> Option<i64> {
    const CLF: &str = "%d/%b/%Y:%H:%M:%S %z";
    let utc = |time: NaiveDateTime| time.and_utc();
    let time = DateTime::parse_from_str(text, CLF).map(|time| time.with_timezone(&Utc));
    let time = time.or_else(|_| DateTime::parse_from_rfc3339(text).map(|time| time.with_timezone(&Utc)));
    let time = time.or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").map(utc));
    let time = time.or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").map(utc));
    time.ok().map(|time| time.timestamp_millis()).filter(|time_ms| TIMES_MS.contains(time_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(time_ms: i64, target: &str, status: Option<u16>, body_bytes: Option<u64>) -> Option<Logged> {
        Some(Logged { time_ms, method: "GET".to_owned(), target: target.to_owned(), status, body_bytes, own: None })
    }

    const T: i64 = 1_792_584_000_000;

    #[test]
    fn logs_of_many_servers_are_read() {
        let whole = logged(T, "/public/rates?base=USD", Some(200), Some(321));
        for line in [
            r#"203.0.113.9 - - [21/Oct/2026:12:00:00 +0000] "GET /public/rates?base=USD HTTP/1.1" 200 321"#,
            r#"203.0.113.9 - ada [21/Oct/2026:14:00:00 +0200] "GET /public/rates?base=USD HTTP/2.0" 200 321 "https://a.example/" "curl/8 \"x\"" 0.001"#,
            r#"api.example.com:443 ::1 - - [21/Oct/2026:12:00:00 +0000] "GET /public/rates?base=USD HTTP/1.0" 200 321 "-" "-""#,
            r#"{"time":"2026-10-21T12:00:00+00:00","request":"GET /public/rates?base=USD HTTP/1.1","status":"200","body_bytes_sent":"321"}"#,
            r#"{"msec":"1792584000.000","request_method":"GET","request_uri":"/public/rates?base=USD","status":200,"bytes_sent":321}"#,
            r#"{"level":"info","ts":1792584000.0,"request":{"remote_ip":"::1","method":"GET","host":"a","uri":"/public/rates?base=USD"},"size":321,"status":200}"#,
            r#"{"date":"2026-10-21","time":"12:00:00","sc-bytes":"321","cs-method":"GET","cs-uri-stem":"/public/rates","cs-uri-query":"base=USD","sc-status":"200"}"#,
            r#"{"timestamp":1792584000000,"method":"get","url":"https://a.example/public/rates?base=USD#top","status":200,"size":321}"#,
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(whole.clone()), "{line}");
        }
        for line in [
            "",
            "  ",
            "#Fields: date time",
            r#"{"timestamp":"2026-10-21T12:00:00Z","target":"mainstay::http","message":"serves"}"#,
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(None), "{line}");
        }
        let own = r#"{"timestamp":"2026-10-21T12:00:00.000000Z","level":"INFO","target":"mainstay::access","message":"GET /a 200","method":"GET","path":"/public/rates","query":"base=USD","status":200,"bytes":321,"left_out":7}"#;
        assert_eq!(parse(own.as_bytes()).unwrap().unwrap(), Logged { own: Some(7), ..whole.unwrap() });
        let bare = r#"- - - [21/Oct/2026:12:00:00 +0000] "GET /a" - -"#;
        assert_eq!(parse(bare.as_bytes()), Ok(logged(T, "/a", None, None)));
        let escaped = r#"- - - [21/Oct/2026:12:00:00 +0000] "GET /a?q=\x22\\x\"\xc3\xa9 HTTP/1.1" 400 0"#;
        assert_eq!(parse(escaped.as_bytes()), Ok(logged(T, "/a?q=\"\\x\"é", Some(400), Some(0))));
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let at = |request: &str| format!("h - - [21/Oct/2026:12:00:00 +0000] \"{request}\" 400 0");
        for (line, why) in [
            ("hello".to_owned(), Unread::Form),
            ("[".to_owned(), Unread::Form),
            ("{".to_owned(), Unread::Form),
            ("{}".to_owned(), Unread::Form),
            (r#"{"time":"x","uri":"/"}"#.to_owned(), Unread::Time),
            (r#"{"time":-1,"uri":"/"}"#.to_owned(), Unread::Time),
            (r#"{"time":1e300,"uri":"/"}"#.to_owned(), Unread::Time),
            (r#"{"uri":"/"}"#.to_owned(), Unread::Time),
            (r#"h - - [21/Oct/0000:12:00:00 +0000] "GET / HTTP/1.1" 200 1"#.to_owned(), Unread::Time),
            (r#"h - - [99/Foo/2026:12:00:00] "GET / HTTP/1.1" 200 1"#.to_owned(), Unread::Time),
            (at("-"), Unread::Request),
            (at("\\x16\\x03\\x01"), Unread::Request),
            (at("GET * HTTP/1.1"), Unread::Request),
            (at("GET /a b HTTP/1.1"), Unread::Request),
            (at("G\\x00T / HTTP/1.1"), Unread::Request),
            (at("GET /\\xff HTTP/1.1"), Unread::Encoding),
            (at("unfinished").replace('"', ""), Unread::Form),
            ("x".repeat(LINE_BYTES_MAX + 1), Unread::TooLong),
        ] {
            assert_eq!(parse(line.as_bytes()), Err(why), "{line}");
        }
    }

    proptest::proptest! {
        /// Whatever is in a line, it is read or it is not.
        #[test]
        fn no_line_is_too_strange(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300), cut in 0_usize..200) {
            let _read_or_not = parse(&bytes);
            let line = br#"h - - [21/Oct/2026:12:00:00 +0000] "GET /a\x22\ HTTP/1.1" 200 12 "-" "-""#;
            let (head, tail) = line.split_at(cut.min(line.len()));
            let _read_or_not = parse(&[head, &bytes, tail].concat());
            let line = br#"{"time":1792584000.5,"request":{"method":"GET","uri":"/a"},"status":200,"size":"12"}"#;
            let (head, tail) = line.split_at(cut.min(line.len()));
            let _read_or_not = parse(&[head, &bytes, tail].concat());
        }
    }
}
