//! Schemas for people: the type of a value in a few words, and the members of objects as a table.

use serde_json::{Map, Value};

use super::html::Html;

/// How deep members of members are listed. The schema itself says the rest.
const DEPTH_MAX: usize = 4;
const REFERENCE: &str = "#/components/schemas/";

/// A text of a JSON value; empty where there is none.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The items of an array.
pub fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// The members of an object.
pub fn members<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let object = value.pointer(pointer).and_then(Value::as_object);
    object.into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

/// What a value of a schema is: `integer or null (int64), at least 1`.
pub fn kind(html: &mut Html, schema: &Value) {
    if let Some(name) = text(schema, "/$ref").strip_prefix(REFERENCE) {
        html.raw("<a href=\"#schema-").text(name).raw("\">").text(name).raw("</a>");
        return;
    }
    let types: Vec<&str> = match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if types.is_empty() && schema.get("const").is_none() && schema.get("enum").is_none() {
        html.raw("any");
    }
    html.text(&types.join(" or "));
    if let Some(items) = schema.get("items").filter(|_| types.contains(&"array")) {
        html.raw(" of ");
        kind(html, items);
    }
    if let Some(format) = schema.get("format").and_then(Value::as_str) {
        html.raw(" (").text(format).raw(")");
    }
    if let Some(value) = schema.get("const") {
        html.raw(" <code>").text(&value.to_string()).raw("</code>");
    }
    let values: Vec<String> = list(schema, "/enum").filter(|value| !value.is_null()).map(Value::to_string).collect();
    if !values.is_empty() {
        html.raw(", one of <code>").text(&values.join(" ")).raw("</code>");
    }
    for (key, words) in [
        ("pattern", ", like "),
        ("minimum", ", at least "),
        ("exclusiveMinimum", ", above "),
        ("maximum", ", at most "),
        ("maxItems", ", items at most "),
        ("default", ", default "),
    ] {
        match schema.get(key) {
            Some(Value::String(value)) => drop(html.raw(words).raw("<code>").text(value).raw("</code>")),
            Some(value) => drop(html.raw(words).raw("<code>").text(&value.to_string()).raw("</code>")),
            None => {}
        }
    }
}

/// The members of what a schema describes, where it describes any.
pub fn table(html: &mut Html, schema: &Value) {
    let mut rows = Vec::new();
    collect(schema, "", 0, &mut rows);
    if rows.is_empty() {
        return;
    }
    html.raw("<table>\n<thead><tr><th>Member</th><th>Type</th><th>Meaning</th></tr></thead>\n<tbody>\n");
    for Row { name, is_required, schema } in rows {
        html.raw("<tr><th scope=\"row\"><code>").text(&name).raw("</code>");
        if !is_required {
            html.raw(" <span class=\"badge\">optional</span>");
        }
        html.raw("</th><td>");
        kind(html, schema);
        html.raw("</td><td>").inline(text(schema, "/description")).raw("</td></tr>\n");
    }
    html.raw("</tbody>\n</table>\n");
}

struct Row<'a> {
    name: String,
    is_required: bool,
    schema: &'a Value,
}

fn collect<'a>(schema: &'a Value, prefix: &str, depth: usize, rows: &mut Vec<Row<'a>>) {
    if depth == DEPTH_MAX {
        return;
    }
    if let Some(items) = schema.get("items") {
        collect(items, prefix, depth, rows);
    }
    let required: Vec<&str> = list(schema, "/required").filter_map(Value::as_str).collect();
    let named = schema.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::iter);
    for (name, its) in named {
        let path = format!("{prefix}{name}");
        let is_required = required.contains(&name.as_str());
        let below = format!("{path}.");
        rows.push(Row { name: path, is_required, schema: its });
        collect(its, &below, depth + 1, rows);
    }
    if let Some(others) = schema.get("additionalProperties").filter(|others| others.is_object()) {
        rows.push(Row { name: format!("{prefix}*"), is_required: false, schema: others });
        collect(others, &format!("{prefix}*."), depth + 1, rows);
    }
}
