//! As much of JSON Schema (2020-12) and of OpenAPI as the document uses, for holding the one to the other.

use std::collections::BTreeSet;

use chrono::{DateTime, NaiveDate};
use regex::Regex;
use serde_json::Value;

use crate::instance::client::Reply;

/// Keywords that the checker knows, or that mean nothing to it.
const KNOWN: [&str; 19] = [
    "$ref",
    "type",
    "format",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "maxItems",
    "uniqueItems",
    "enum",
    "const",
    "allOf",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "pattern",
    "minLength",
    "description",
    "default",
];

/// Says where a value does not fit a schema of a document.
pub fn misfit(document: &Value, schema: &Value, value: &Value) -> Option<String> {
    let members = schema.as_object().unwrap_or_else(|| panic!("{schema} is no schema"));
    if let Some(unknown) = members.keys().find(|key| !KNOWN.contains(&key.as_str()) && *key != "$defs") {
        panic!("the checker does not know {unknown}: {schema}");
    }
    let wrong = |what: &str| Some(format!("{value} is not {what}: {schema}"));
    if let Some(target) = schema["$ref"].as_str() {
        return misfit(document, at(document, target), value);
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        if let Some(reason) = misfit(document, part, value) {
            return Some(reason);
        }
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(all) => all.iter().map(|one| one.as_str().unwrap()).collect(),
        _ => Vec::new(),
    };
    if !types.is_empty() && !types.iter().any(|its| is_a(its, value)) {
        return wrong("of its type");
    }
    if members.get("enum").is_some_and(|all| !all.as_array().unwrap().contains(value)) {
        return wrong("one of the values");
    }
    if members.get("const").is_some_and(|only| only != value) {
        return wrong("the value");
    }
    if let (Some(text), Some(format)) = (value.as_str(), schema["format"].as_str())
        && !has_format(format, text)
    {
        return wrong(format);
    }
    if let (Some(text), Some(pattern)) = (value.as_str(), schema["pattern"].as_str())
        && !Regex::new(pattern).unwrap().is_match(text)
    {
        return wrong("like the pattern");
    }
    if let Some(number) = value.as_f64() {
        let bound = |key: &str| schema[key].as_f64();
        let format = schema["format"].as_str();
        if bound("minimum").is_some_and(|least| number < least)
            || bound("maximum").is_some_and(|most| number > most)
            || bound("exclusiveMinimum").is_some_and(|below| number <= below)
            || (format == Some("int32") && i32::try_from(value.as_i64().unwrap()).is_err())
        {
            return wrong("within the bounds");
        }
    }
    let required = schema["required"].as_array().into_iter().flatten();
    if let Some(object) = value.as_object() {
        if let Some(missing) = required.map(|name| name.as_str().unwrap()).find(|name| !object.contains_key(*name)) {
            return wrong(&format!("whole, {missing} is missing"));
        }
        return object.iter().find_map(|(name, value)| {
            let declared = schema["properties"].get(name).or_else(|| members.get("additionalProperties"));
            declared.and_then(|schema| misfit(document, schema, value))
        });
    }
    if let Some(items) = value.as_array() {
        if schema["maxItems"].as_u64().is_some_and(|most| items.len() > usize::try_from(most).unwrap()) {
            return wrong("short enough");
        }
        return members.get("items").and_then(|schema| items.iter().find_map(|item| misfit(document, schema, item)));
    }
    None
}

fn is_a(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("there is no type {other}"),
    }
}

fn has_format(format: &str, text: &str) -> bool {
    match format {
        "date" => NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok(),
        "date-time" => DateTime::parse_from_rfc3339(text).is_ok(),
        "uuid" => text.len() == 36 && text.parse::<uuid::Uuid>().is_ok(),
        "uri" => text.contains(':'),
        other => panic!("there is no format {other} of strings"),
    }
}

/// What a reference leads to.
pub fn at<'a>(document: &'a Value, reference: &str) -> &'a Value {
    let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} leads out of the document"));
    document.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere"))
}

/// Holds an answer to the document: its status is declared, and so are its media type, its headers and its body.
#[track_caller]
pub fn hold(document: &Value, method: &str, path: &str, reply: &Reply) {
    let operation = &document["paths"][path][method.to_lowercase()];
    assert!(operation.is_object(), "{method} {path} is not in the document");
    let status = reply.status.to_string();
    let response = operation["responses"].get(&status).or_else(|| operation["responses"].get("default"));
    let response = response.unwrap_or_else(|| panic!("{method} {path} does not declare {reply:?}"));
    for (name, header) in response["headers"].as_object().into_iter().flatten() {
        let header = header["$ref"].as_str().map_or(header, |target| at(document, target));
        let value = reply.header(&name.to_lowercase());
        assert!(value.is_some() || header["required"] != true, "{method} {path} lacks {name}: {reply:?}");
    }
    let media_type = reply.said("content-type");
    match response.get("content") {
        Some(content) => {
            let declared = content.get(media_type).or_else(|| content.get("*/*"));
            let declared = declared.unwrap_or_else(|| panic!("{method} {path} declares no {media_type}: {reply:?}"));
            if let Some(schema) = declared.get("schema") {
                let reason = misfit(document, schema, &reply.json());
                assert_eq!(reason, None, "{method} {path} {}", reply.text());
            }
        }
        None => assert!(reply.body.is_empty() || response.get("headers").is_none(), "{method} {path}: {reply:?}"),
    }
}

/// Holds the document to what OpenAPI asks for beyond its schema: every reference leads somewhere, ids are unique, every name in a
/// path is a parameter and the other way round, security schemes and tags are declared.
pub fn check_document(document: &Value) {
    assert_eq!(document["openapi"], "3.1.0");
    walk(document, &mut |key, value| {
        if let ("$ref", Some(target)) = (key, value.as_str()) {
            at(document, target);
        }
    });
    let mut ids = BTreeSet::new();
    let tags: BTreeSet<&str> =
        document["tags"].as_array().unwrap().iter().map(|tag| tag["name"].as_str().unwrap()).collect();
    for (path, item) in document["paths"].as_object().unwrap() {
        let in_path: BTreeSet<&str> = path.split('{').skip(1).map(|rest| rest.split_once('}').expect(path).0).collect();
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{id} is there twice");
            assert!(["get", "post", "put", "patch", "delete", "options"].contains(&method.as_str()), "{method} {path}");
            let parameters: Vec<&Value> = operation["parameters"].as_array().into_iter().flatten().collect();
            let names: BTreeSet<(&str, &str)> = parameters
                .iter()
                .map(|parameter| (parameter["in"].as_str().unwrap(), parameter["name"].as_str().unwrap()))
                .collect();
            assert_eq!(names.len(), parameters.len(), "{method} {path} has a parameter twice");
            let declared: BTreeSet<&str> =
                names.iter().filter(|(place, _)| *place == "path").map(|(_, name)| *name).collect();
            assert_eq!(declared, in_path, "{method} {path}");
            assert!(parameters.iter().all(|parameter| parameter["in"] != "path" || parameter["required"] == true));
            assert!(!operation["responses"].as_object().unwrap().is_empty(), "{method} {path}");
            for response in operation["responses"].as_object().unwrap().values() {
                assert!(response["description"].is_string(), "{method} {path}: {response}");
            }
            for tag in operation["tags"].as_array().unwrap() {
                assert!(tags.contains(tag.as_str().unwrap()), "{tag} is not declared");
            }
            for requirement in operation["security"].as_array().into_iter().flatten() {
                let scheme = requirement.as_object().unwrap().keys().next().unwrap();
                assert!(document["components"]["securitySchemes"][scheme].is_object(), "{scheme} is not declared");
            }
        }
    }
}

fn walk(value: &Value, see: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                see(key, value);
                // What stands there is a value, whatever it looks like; a member of that name is a schema of some type.
                if !matches!(key.as_str(), "default" | "const" | "enum") || value.get("type").is_some() {
                    walk(value, see);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, see)),
        _ => {}
    }
}
