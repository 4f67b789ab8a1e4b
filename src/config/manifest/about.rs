//! What a route says of itself to those who read of the API: `summary`, `description`, `deprecated`, `schema_file`. None of it
//! changes an answer, and so none of it is in the fingerprint.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use super::beside;
use super::raw::RawRoute;

/// A schema has to fit into a document that clients fetch whole.
const SCHEMA_BYTES_MAX: u64 = 256 * 1024;
/// What schemas are read as.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// What a route says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct About {
    /// A few words.
    pub summary: Option<String>,
    /// More of it.
    pub description: Option<String>,
    /// Whether clients should look for something else.
    pub deprecated: bool,
    /// What its answers look like, where that is declared.
    pub schema: Option<SchemaFile>,
}

/// A JSON Schema (2020-12) in a file of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct SchemaFile {
    /// The name in the manifest.
    pub name: String,
    /// The schema. It refers to nothing outside itself.
    pub schema: Map<String, Value>,
}

/// What a route says of itself.
pub(super) fn about(raw: &RawRoute, file: &Path) -> Result<About, String> {
    let read = |name: &String| read(file, name).map_err(|reason| format!("schema_file {name}{reason}"));
    Ok(About {
        summary: raw.summary.clone(),
        description: raw.description.clone(),
        deprecated: raw.deprecated,
        schema: raw.schema_file.as_ref().map(read).transpose()?,
    })
}

/// Reads a schema. An error goes on where the file's name ends.
fn read(manifest: &Path, name: &str) -> Result<SchemaFile, String> {
    let mut text = Vec::new();
    let opened = File::open(beside(manifest, name));
    let read = opened.and_then(|file| file.take(SCHEMA_BYTES_MAX + 1).read_to_end(&mut text));
    read.map_err(|error| format!(": {error}"))?;
    if u64::try_from(text.len()).is_ok_and(|length| length > SCHEMA_BYTES_MAX) {
        return Err(format!(": more than {SCHEMA_BYTES_MAX} bytes"));
    }
    let schema: Value =
        serde_json::from_slice(&text).map_err(|error| format!(":{}:{}: {error}", error.line(), error.column()))?;
    let Value::Object(mut schema) = schema else {
        return Err(": a JSON Schema is an object".to_owned());
    };
    match schema.shift_remove("$schema") {
        None => {}
        Some(Value::String(dialect)) if dialect.trim_end_matches('#') == DIALECT => {}
        Some(other) => return Err(format!(": $schema is {other}; schemas here are {DIALECT}")),
    }
    match outside(&mut schema) {
        Some(reason) => Err(format!(": {reason}")),
        None => Ok(SchemaFile { name: name.to_owned(), schema }),
    }
}

/// What of a schema only means something where the file is: it becomes part of a document, and nobody fetches anything.
fn outside(schema: &mut Map<String, Value>) -> Option<String> {
    let mut found = None;
    each_keyword(schema, &mut |key, value| match (key, value) {
        ("$ref" | "$dynamicRef", Value::String(target)) if target != "#" && !target.starts_with("#/") => {
            found = Some(format!("{key} {target:?}: references stay within the file, like #/$defs/name"));
        }
        ("$id" | "$anchor" | "$dynamicAnchor", _) => {
            found = Some(format!("{key}: the schema becomes part of a document; refer to #/$defs/name"));
        }
        _ => {}
    });
    found
}

/// Shows every keyword of a schema, and of the schemas in it, with its value. Names of members are no keywords, and neither is
/// anything in a value that stands for itself.
pub fn each_keyword(schema: &mut Map<String, Value>, see: &mut impl FnMut(&str, &mut Value)) {
    for (key, value) in schema {
        see(key, value);
        match (key.as_str(), value) {
            ("const" | "enum" | "default" | "examples", _) => {}
            ("properties" | "patternProperties" | "dependentSchemas" | "$defs", Value::Object(named)) => {
                named.values_mut().filter_map(Value::as_object_mut).for_each(|schema| each_keyword(schema, see));
            }
            (_, Value::Object(schema)) => each_keyword(schema, see),
            (_, Value::Array(schemas)) => {
                schemas.iter_mut().filter_map(Value::as_object_mut).for_each(|schema| each_keyword(schema, see));
            }
            _ => {}
        }
    }
}
