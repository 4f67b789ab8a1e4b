//! Whether two answers say the same, and if not, where they differ.

use serde::Serialize;
use serde_json::Value;

/// Characters of a value that are shown.
const SHOWN_CHARS_MAX: usize = 120;
/// Differences that are looked for. The first few tell what is the matter.
const DIFFERENCES_MAX: usize = 5;

/// A place where two answers differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Where (RFC 6901); empty: the whole.
    pub pointer: String,
    /// What stands there in the one; `None`: nothing does.
    pub upstream: Option<String>,
    /// What stands there in the other.
    pub twin: Option<String>,
}

/// Where two bodies differ. Of JSON the meaning is compared: objects in any order of their members, numbers by their value.
/// What is no JSON is compared byte by byte.
pub fn differences(upstream: &[u8], twin: &[u8]) -> Vec<Difference> {
    let mut found = Vec::new();
    match (serde_json::from_slice::<Value>(upstream), serde_json::from_slice::<Value>(twin)) {
        (Ok(upstream), Ok(twin)) => compare(&mut String::new(), Some(&upstream), Some(&twin), &mut found),
        _ if upstream == twin => {}
        _ => {
            let text = |bytes| Some(shortened(&String::from_utf8_lossy(bytes)));
            found.push(Difference { pointer: String::new(), upstream: text(upstream), twin: text(twin) });
        }
    }
    found
}

fn compare(pointer: &mut String, upstream: Option<&Value>, twin: Option<&Value>, found: &mut Vec<Difference>) {
    if found.len() >= DIFFERENCES_MAX {
        return;
    }
    match (upstream, twin) {
        (Some(Value::Object(one)), Some(Value::Object(other))) => {
            let only_there = other.keys().filter(|name| !one.contains_key(*name));
            for name in one.keys().chain(only_there) {
                at(pointer, name, |pointer| compare(pointer, one.get(name), other.get(name), found));
            }
        }
        (Some(Value::Array(one)), Some(Value::Array(other))) => {
            for index in 0..one.len().max(other.len()) {
                at(pointer, &index.to_string(), |pointer| compare(pointer, one.get(index), other.get(index), found));
            }
        }
        (Some(Value::Number(one)), Some(Value::Number(other))) if one == other || one.as_f64() == other.as_f64() => {}
        _ if upstream == twin => {}
        _ => {
            let text = |value: Option<&Value>| value.map(|value| shortened(&value.to_string()));
            found.push(Difference { pointer: shortened(pointer), upstream: text(upstream), twin: text(twin) });
        }
    }
}

/// Goes one step down, and back.
fn at(pointer: &mut String, name: &str, go: impl FnOnce(&mut String)) {
    let length = pointer.len();
    pointer.push('/');
    pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
    go(pointer);
    pointer.truncate(length);
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers(one: &str, other: &str) -> Vec<String> {
        differences(one.as_bytes(), other.as_bytes()).into_iter().map(|difference| difference.pointer).collect()
    }

    #[test]
    fn the_meaning_is_compared_and_not_the_spelling() {
        assert!(pointers(r#"{"a":1,"b":[1.0,null]}"#, r#"{ "b": [1, null], "a": 1.00 }"#).is_empty());
        assert!(pointers("plain", "plain").is_empty());
    }

    #[test]
    fn differences_are_named_by_their_place() {
        assert_eq!(pointers(r#"{"a":{"b/c":[1,2]}}"#, r#"{"a":{"b/c":[1,3]}}"#), ["/a/b~1c/1"]);
        assert_eq!(pointers("[1,2]", "[1]"), ["/1"]);
        assert_eq!(pointers(r#"{"a":null}"#, r#"{"b":null}"#), ["/a", "/b"]);
        assert_eq!(pointers(r#""1""#, "1"), [""]);
        assert_eq!(pointers("<html>", "{}"), [""]);
        // Beyond what a float holds, the digits count.
        assert_eq!(pointers("[9007199254740993]", "[\"9007199254740993\"]"), ["/0"]);
    }

    #[test]
    fn a_few_are_enough_and_long_values_are_cut() {
        let many = |value: u32| serde_json::to_vec(&vec![value; 100]).unwrap();
        assert_eq!(differences(&many(1), &many(2)).len(), DIFFERENCES_MAX);
        let long = differences("ü".repeat(1000).as_bytes(), b"x");
        assert_eq!(long[0].upstream.as_ref().unwrap().chars().count(), SHOWN_CHARS_MAX + 1);
    }
}
