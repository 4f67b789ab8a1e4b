//! An example of each operation, for a shell.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::page::Operation;
use super::shape::{list, text};

/// What may stand in a query as it is. A comma parts the items of a list.
const PLAIN: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b',').remove(b':');

/// The operation as a command. What there is no value for is told by its name in capitals.
pub fn curl(operation: &Operation<'_>) -> String {
    let mut path = operation.path.to_owned();
    let mut query = Vec::new();
    for parameter in list(operation.its, "/parameters") {
        let name = text(parameter, "/name");
        let value = || utf8_percent_encode(&example(name, parameter), PLAIN).to_string();
        let is_required = parameter.get("required").and_then(Value::as_bool) == Some(true);
        match text(parameter, "/in") {
            "path" => path = path.replace(&format!("{{{name}}}"), &value()),
            "query" if is_required => query.push(format!("{}={}", utf8_percent_encode(name, PLAIN), value())),
            _ => {}
        }
    }
    let mut command = match operation.method {
        "get" => "curl".to_owned(),
        method => format!("curl -X {}", method.to_uppercase()),
    };
    if operation.its.get("security").is_some() {
        command.push_str(" -H \"Authorization: Bearer $TOKEN\"");
    }
    if operation.its.get("requestBody").is_some() {
        command.push_str(" --json @body.json");
    }
    let separator = if query.is_empty() { "" } else { "?" };
    // Between single quotes a shell takes everything as it is, but for a quote.
    let rest = format!("{path}{separator}{}", query.join("&")).replace('\'', "%27");
    format!("{command} \"$ORIGIN\"'{rest}'")
}

fn example(name: &str, parameter: &Value) -> String {
    let schema = parameter.get("schema").unwrap_or(&Value::Null);
    let its = schema.get("items").unwrap_or(schema);
    match (text(its, "/type"), text(its, "/format")) {
        ("integer" | "number", _) => its.get("minimum").map_or_else(|| "1".to_owned(), Value::to_string),
        ("boolean", _) => "true".to_owned(),
        (_, "date") => "2026-10-30".to_owned(),
        (_, "date-time") => "2026-10-30T12:00:00Z".to_owned(),
        (_, "uuid") => "67e55044-10b1-426f-9247-bb680e5fe0c8".to_owned(),
        _ => name.to_uppercase(),
    }
}
