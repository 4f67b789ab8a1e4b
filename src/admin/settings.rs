//! The configuration in force, with secrets hidden.

use serde::Serialize;
use serde_json::Value;

use super::{Desk, document};
use crate::config::settings::Settings;
use crate::error::{Code, Error};

#[derive(Serialize)]
struct Shown {
    settings: Vec<Setting>,
}

#[derive(Serialize)]
struct Setting {
    key: String,
    value: Value,
    /// Whether it is the compiled-in value.
    is_default: bool,
}

/// `GET /admin/settings`
pub(super) fn settings(desk: &Desk) -> Result<Vec<u8>, Error> {
    let in_force = flat(&desk.parts.pipeline.settings)?;
    let defaults = Settings::defaults().map_err(|error| Error::new(Code::Internal, error.to_string()))?;
    let defaults = flat(&defaults)?;
    let settings = in_force.into_iter().map(|(key, value)| {
        let is_default = defaults.iter().any(|(known, default)| *known == key && *default == value);
        Setting { key, value: masked(value), is_default }
    });
    document(&Shown { settings: settings.collect() })
}

/// Key by key, in the order of their declaration.
fn flat(settings: &Settings) -> Result<Vec<(String, Value)>, Error> {
    let value = serde_json::to_value(settings)
        .map_err(|error| Error::new(Code::Internal, format!("the settings cannot be written: {error}")))?;
    let mut found = Vec::new();
    descend(String::new(), value, &mut found);
    Ok(found)
}

fn descend(key: String, value: Value, found: &mut Vec<(String, Value)>) {
    let Value::Object(members) = value else { return found.push((key, value)) };
    for (name, value) in members {
        descend(if key.is_empty() { name } else { format!("{key}.{name}") }, value, found);
    }
}

/// Without what an URL may hide. Secrets hide themselves by their type; this is for who puts a password where none belongs.
fn masked(value: Value) -> Value {
    match value {
        Value::String(text) => {
            Value::String(urls(&text).iter().map(|url| masked_url(url)).collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => items.into_iter().map(masked).collect(),
        Value::Object(members) => members.into_iter().map(|(name, value)| (name, masked(value))).collect(),
        other => other,
    }
}

/// The members of a comma list. A comma begins another one only where a scheme follows, since a password may have commas, too.
fn urls(text: &str) -> Vec<String> {
    let mut urls: Vec<String> = Vec::new();
    for part in text.split(',') {
        let scheme = part.trim_start().split_once("://").map(|(scheme, _)| scheme);
        let is_url =
            scheme.is_some_and(|scheme| scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)));
        match urls.last_mut() {
            Some(last) if !is_url => last.extend([",", part]),
            _ => urls.push(part.to_owned()),
        }
    }
    urls
}

/// Without what stands before the `@` of its host, and without its query, in which keys are sent. Where an `@` comes later, nobody
/// can say whether a password with a `/` in it stands before it: nothing is shown then.
fn masked_url(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let shown = rest.split(['?', '#']).next().unwrap_or_default();
    let query = if shown.len() < rest.len() { "?***" } else { "" };
    match rest.rfind('@') {
        Some(at) if at >= authority.len() => format!("{scheme}://***"),
        Some(at) => format!("{scheme}://***{}{query}", shown.get(at..).unwrap_or_default()),
        None => format!("{scheme}://{shown}{query}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_url_is_shown_without_its_credentials() {
        for (url, shown) in [
            ("https://api.example.com/a/b", "https://api.example.com/a/b"),
            ("https://api.example.com/keys?api_key=secret", "https://api.example.com/keys?***"),
            ("https://api.example.com?key=a@b", "https://***"),
            ("https://api.example.com/#secret", "https://api.example.com/?***"),
            ("http://user:sec,ret@collector:4318", "http://***@collector:4318"),
            ("http://user:sec/ret@collector:4318", "http://***"),
            ("http://u:s,e@one/x?y, http://two,http://u:p@three", "http://***@one/x?***, http://two,http://***@three"),
            ("a,b", "a,b"),
            ("https://user:secret@api.example.com/x", "https://***@api.example.com/x"),
            ("http://u:p@ss@one,http://two", "http://***@one,http://two"),
            ("eu-west-1", "eu-west-1"),
        ] {
            assert_eq!(masked(Value::from(url)), Value::from(shown), "{url}");
            let inside = |text: &str| serde_json::json!([{ "name": [text] }]);
            assert_eq!(masked(inside(url)), inside(shown), "{url} in a list");
        }
    }

    #[test]
    fn the_compiled_in_values_are_shown_as_they_are_written() {
        let settings = flat(&Settings::defaults().unwrap()).unwrap();
        let get = |key: &str| settings.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone());
        assert_eq!(get("server.drain_delay"), Some(Value::from("5s")));
        assert_eq!(get("mode"), Some(Value::from("regional")));
        assert_eq!(get("server.admin_token"), Some(Value::from("")));
        assert_eq!(get("server"), None);
    }
}
