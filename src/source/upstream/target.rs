//! The target that an upstream is asked for, in canonical form.
//!
//! It is made of the parameters, which are decoded, so that one path has one spelling, and none in which a dot segment or a
//! slash could hide: those were refused before.

use crate::config::manifest::upstream::WHOLE_QUERY;
use crate::config::param::{Params, Value};

/// The path of a pattern with its parameters, and all others as its query.
pub(super) fn of(pattern: &str, params: &Params) -> String {
    let mut target = String::with_capacity(pattern.len() + 64);
    let mut in_path: Vec<&str> = Vec::new();
    for segment in pattern.split('/').skip(1) {
        target.push('/');
        match segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some(name) => {
                let name = name.strip_prefix('*').unwrap_or(name);
                in_path.push(name);
                let is_rest = segment.starts_with("{*");
                values(params.get(name), |byte| is_path(byte) || (is_rest && byte == b'/'), &mut target);
            }
            None => target.push_str(segment),
        }
    }
    let mut separator = '?';
    for (name, value) in params.named().filter(|(name, value)| !in_path.contains(name) && **value != Value::Null) {
        target.push(separator);
        separator = '&';
        if name == WHOLE_QUERY {
            target.push_str(params.text(name).unwrap_or_default());
        } else {
            target.push_str(name);
            target.push('=');
            values(Some(value), is_unreserved, &mut target);
        }
    }
    target
}

fn values(value: Option<&Value<'_>>, is_literal: impl Fn(u8) -> bool, out: &mut String) {
    match value {
        None | Some(Value::Null) => {}
        Some(Value::One(text)) => escape(text, &is_literal, out),
        Some(Value::Many(items)) => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                escape(item, |byte| byte != b',' && is_literal(byte), out);
            }
        }
    }
}

fn escape(text: &str, is_literal: impl Fn(u8) -> bool, out: &mut String) {
    for byte in text.bytes() {
        if is_literal(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What stands in a path as it is (RFC 3986, section 3.3): old applications give `;` and `=` in it a meaning.
fn is_path(byte: u8) -> bool {
    is_unreserved(byte) || b"!$&'()*+,;=:@".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(pattern: &str, pairs: &[(&str, &str)]) -> String {
        let value = |text: &str| Value::One(text.to_owned().into());
        of(pattern, &Params::new(pairs.iter().map(|(name, text)| ((*name).to_owned(), value(text))).collect()))
    }

    #[test]
    fn a_target_has_one_spelling() {
        type Case = (&'static str, &'static [(&'static str, &'static str)], &'static str);
        let cases: [Case; 7] = [
            ("/", &[], "/"),
            ("/{*path}", &[("path", "")], "/"),
            ("/{*path}", &[("path", "a b/ü;v=1/%2f"), (WHOLE_QUERY, "x=%2f&&y")], "/a%20b/%C3%BC;v=1/%252f?x=%2f&&y"),
            ("/{*path}", &[("path", "/other.example/x\\..?#")], "//other.example/x%5C..%3F%23"),
            ("/users/{id}", &[("id", "a/b")], "/users/a%2Fb"),
            ("/old/{*rest}", &[("rest", "x/"), ("q", "a&b c,d")], "/old/x/?q=a%26b%20c%2Cd"),
            ("/x", &[(WHOLE_QUERY, "a=1")], "/x?a=1"),
        ];
        for (pattern, pairs, expected) in cases {
            assert_eq!(target(pattern, pairs), expected);
        }
        let list = Value::Many(vec!["a,b".into(), "c".into()]);
        let params = Params::new(vec![("ids".to_owned(), list), ("none".to_owned(), Value::Null)]);
        assert_eq!(of("/x", &params), "/x?ids=a%2Cb,c");
    }
}
