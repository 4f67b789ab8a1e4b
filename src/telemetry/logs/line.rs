//! How a line looks: a JSON object for machines, text for people. Neither lets what came from outside look like another line.

use std::fmt::Write as _;
use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};
use log::kv::{self, Key, Value, VisitSource, VisitValue};
use log::{Level, Record};
use serde::Serialize;

/// Bytes of a text in a line; what is longer is cut. Several of it together stay below what pipelines take for one line, and
/// Elasticsearch for one term.
const TEXT_BYTES_MAX: usize = 4096;

/// What the value of a field is, and how Elasticsearch is to take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text that is searched for and counted by as a whole.
    Keyword,
    /// A whole number.
    Long,
}

/// The fields of single lines that stand beside those that every line has. Others stand below `fields`, so that no library can
/// bring a field that an index does not know.
pub const FIELDS: [(&str, Kind); 18] = [
    ("request_id", Kind::Keyword),
    ("trace_id", Kind::Keyword),
    ("method", Kind::Keyword),
    ("path", Kind::Keyword),
    ("query", Kind::Keyword),
    ("route", Kind::Keyword),
    ("status", Kind::Long),
    ("bytes", Kind::Long),
    ("duration_us", Kind::Long),
    ("outcome", Kind::Keyword),
    ("cache_detail", Kind::Keyword),
    ("cache_status", Kind::Keyword),
    ("client", Kind::Keyword),
    ("key_id", Kind::Keyword),
    ("node", Kind::Keyword),
    ("peer", Kind::Keyword),
    ("kept_back", Kind::Long),
    ("left_out", Kind::Long),
];

/// The fields that every line has, in their order. `message` is the one that is searched in word by word.
pub const EVERY: [&str; 8] = ["timestamp", "level", "target", "message", "service", "version", "region", "instance"];

/// Who speaks.
#[derive(Clone, Debug)]
pub(super) struct Speaker {
    pub version: String,
    pub region: String,
    /// This process among all of its kind: where it runs, and which one there.
    pub instance: String,
}

/// A line as a JSON object.
pub(super) fn json(record: &Record<'_>, now: SystemTime, speaker: &Speaker, trace_id: Option<&str>) -> Vec<u8> {
    let mut members = Members(Vec::with_capacity(512));
    members.put("timestamp", &timestamp(now));
    members.put("level", record.level().as_str());
    members.put("target", &record.target());
    members.put("message", cut(&record.args().to_string()));
    members.put("service", "mainstay");
    members.put("version", speaker.version.as_str());
    members.put("region", speaker.region.as_str());
    members.put("instance", speaker.instance.as_str());
    if let Some(trace_id) = trace_id {
        members.put("trace_id", trace_id);
    }
    let mut pairs = Pairs { known: members, others: Members(Vec::new()) };
    // What a field's own code fails at leaves the field out.
    let _all_or_not = record.key_values().visit(&mut pairs);
    let Pairs { known: Members(mut line), others: Members(others) } = pairs;
    if !others.is_empty() {
        line.extend_from_slice(b",\"fields\":");
        line.extend_from_slice(&others);
        line.push(b'}');
    }
    line.extend_from_slice(b"}\n");
    line
}

/// A line for a person.
pub(super) fn text(record: &Record<'_>, now: SystemTime, has_colours: bool) -> Vec<u8> {
    let colour = match record.level() {
        _ if !has_colours => None,
        Level::Error => Some("31"),
        Level::Warn => Some("33"),
        Level::Info => Some("32"),
        Level::Debug | Level::Trace => Some("90"),
    };
    let (before, after) = colour.map_or_else(Default::default, |code| (format!("\x1b[{code}m"), "\x1b[0m"));
    let mut line = format!("{} {before}{:5}{after} {}: ", timestamp(now), record.level(), record.target());
    // Writing to a string does not fail.
    let _ = write!(Plain(&mut line), "{}", cut(&record.args().to_string()));
    let _all_or_not = record.key_values().visit(&mut Words(&mut line));
    line.push('\n');
    line.into_bytes()
}

fn timestamp(now: SystemTime) -> String {
    DateTime::<Utc>::from(now).to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default()
}

/// The members of a JSON object that is being written.
struct Members(Vec<u8>);

impl Members {
    fn put<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) {
        let begun = self.0.len();
        self.0.push(if begun == 0 { b'{' } else { b',' });
        let written = serde_json::to_writer(&mut self.0, name)
            .map(|()| self.0.push(b':'))
            .and_then(|()| serde_json::to_writer(&mut self.0, value));
        if written.is_err() {
            self.0.truncate(begun);
        }
    }
}

/// The pairs of a record, those that have a place of their own and the others.
struct Pairs {
    known: Members,
    others: Members,
}

impl<'kvs> VisitSource<'kvs> for Pairs {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let kind = FIELDS.iter().find(|(name, _)| *name == key.as_str()).map(|(_, kind)| *kind);
        let mut scalar = Scalar::Null;
        value.visit(&mut scalar)?;
        match (kind, scalar) {
            (_, Scalar::Null) => {}
            (Some(Kind::Long), Scalar::Integer(number)) => self.known.put(key.as_str(), &number),
            (Some(Kind::Keyword), Scalar::Text(text)) => self.known.put(key.as_str(), cut(&text)),
            (Some(Kind::Keyword), Scalar::Integer(number)) => self.known.put(key.as_str(), &number.to_string()),
            (_, Scalar::Integer(number)) => self.others.put(key.as_str(), &number),
            (_, Scalar::Float(number)) => self.others.put(key.as_str(), &number),
            (_, Scalar::Bool(is)) => self.others.put(key.as_str(), &is),
            (_, Scalar::Text(text)) => self.others.put(key.as_str(), cut(&text)),
        }
        Ok(())
    }
}

/// A value as JSON has it.
enum Scalar {
    Null,
    Integer(i64),
    Float(f64),
    Bool(bool),
    Text(String),
}

impl<'v> VisitValue<'v> for &mut Scalar {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), kv::Error> {
        **self = Scalar::Text(value.to_string());
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), kv::Error> {
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), kv::Error> {
        **self = Scalar::Integer(value);
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        // What is above is above the greatest that Elasticsearch has, too.
        **self = Scalar::Integer(i64::try_from(value).unwrap_or(i64::MAX));
        Ok(())
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), kv::Error> {
        **self = Scalar::Float(value);
        Ok(())
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), kv::Error> {
        **self = Scalar::Bool(value);
        Ok(())
    }
}

fn is_null(value: &Value<'_>) -> bool {
    let mut scalar = Scalar::Null;
    value.visit(&mut scalar).is_ok() && matches!(scalar, Scalar::Null)
}

/// Pairs as words of a line of text.
struct Words<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for Words<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        if is_null(&value) {
            return Ok(());
        }
        let value = value.to_string();
        let is_word = !value.is_empty() && !value.contains([' ', '"', '=']);
        let written = if is_word {
            write!(Plain(self.0), " {key}={}", cut(&value))
        } else {
            write!(Plain(self.0), " {key}={:?}", cut(&value))
        };
        written.map_err(kv::Error::from)
    }
}

/// Escapes what would begin another line, or tell a terminal to do something.
struct Plain<'a>(&'a mut String);

impl std::fmt::Write for Plain<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for char in text.chars() {
            if is_plain(char) { self.0.push(char) } else { self.0.extend(char.escape_unicode()) }
        }
        Ok(())
    }
}

/// Neither a control character, nor a separator of lines, nor one that turns the direction of the text.
fn is_plain(char: char) -> bool {
    !char.is_control() && !matches!(char, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HOSTILE: &str = "a\n{\"level\":\"ERROR\"}\r\n\u{1b}[2J\u{85}\u{2028}\u{202e}\"b\\";

    fn speaker() -> Speaker {
        Speaker { version: "1.2.3".to_owned(), region: "eu-1".to_owned(), instance: "web-1/42".to_owned() }
    }

    fn written(pairs: &[(&str, Value<'_>)], message: &str) -> (String, String) {
        let source = pairs;
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_micros(1_700_000_000_123_456);
        let mut record = Record::builder();
        let args = format_args!("{message}");
        let record = record.level(Level::Warn).target("mainstay::test").key_values(&source).args(args).build();
        let json = json(&record, now, &speaker(), Some("0af7"));
        let text = text(&record, now, false);
        (String::from_utf8(json).unwrap(), String::from_utf8(text).unwrap())
    }

    #[test]
    fn a_line_has_what_every_line_has_its_fields_and_others_below() {
        let (line, text) = written(
            &[
                ("status", Value::from(200_u64)),
                ("request_id", Value::from("r-1")),
                ("key_id", Value::from(17_i64)),
                ("bytes", Value::from("many")),
                ("level", Value::from("mine")),
                ("ratio", Value::from(0.5)),
                ("is", Value::from(true)),
                ("node", Value::null()),
            ],
            "it works",
        );
        assert!(line.ends_with("}\n"), "{line}");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let expected = json!({
            "timestamp": "2023-11-14T22:13:20.123456Z", "level": "WARN", "target": "mainstay::test", "message": "it works",
            "service": "mainstay", "version": "1.2.3", "region": "eu-1", "instance": "web-1/42", "trace_id": "0af7",
            "status": 200, "request_id": "r-1", "key_id": "17",
            "fields": { "bytes": "many", "level": "mine", "ratio": 0.5, "is": true },
        });
        assert_eq!(line, expected);
        let names: Vec<&str> = line.as_object().unwrap().keys().take(EVERY.len()).map(String::as_str).collect();
        assert_eq!(names, EVERY);
        let expected = "2023-11-14T22:13:20.123456Z WARN  mainstay::test: it works status=200 request_id=r-1 key_id=17 bytes=many level=mine ratio=0.5 is=true\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn nothing_from_outside_begins_another_line() {
        let (line, text) = written(&[("path", Value::from(HOSTILE)), ("other", Value::from(HOSTILE))], HOSTILE);
        for line in [&line, &text] {
            assert_eq!(line.matches('\n').count(), 1, "{line:?}");
            assert!(!line.contains(['\r', '\u{1b}']), "{line:?}");
        }
        assert!(!text.contains(['\u{85}', '\u{2028}', '\u{202e}']), "{text:?}");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&line["message"], &line["path"], &line["level"]),
            (&json!(HOSTILE), &json!(HOSTILE), &json!("WARN"))
        );
        assert_eq!(line["fields"]["other"], json!(HOSTILE));
    }

    #[test]
    fn a_line_has_a_bound() {
        let long = "ä".repeat(100_000);
        let (line, text) = written(&[("path", Value::from(long.as_str())), ("x", Value::from(long.as_str()))], &long);
        assert!(line.len() < 4 * TEXT_BYTES_MAX && text.len() < 4 * TEXT_BYTES_MAX, "{} {}", line.len(), text.len());
        assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok());
    }
}
