//! JSON Schemas: of parameters as they are declared, of rows as the database types them, and of files that the manifest names.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::config::manifest::ResultShape;
use crate::config::manifest::about::{SchemaFile, each_keyword};
use crate::config::param::{self, Param, Place, Scalar};
use crate::database::json_type::JsonType;
use crate::database::read::Column;

/// What of Rust's regular expressions means something else, or nothing, in ECMA 262, which JSON Schema goes by.
const FOREIGN: [&str; 9] = ["(?", "\\A", "\\z", "\\p", "\\P", "\\x{", "\\u{", "[[", "&&"];

/// The schema of a parameter's value.
pub fn of_param(param: &Param) -> Value {
    let mut item = Map::new();
    match param.scalar {
        Scalar::Text => drop(item.insert("type".into(), json!("string"))),
        Scalar::Integer => {
            item.insert("type".into(), json!("integer"));
            item.insert("format".into(), json!("int64"));
        }
        Scalar::Number => drop(item.insert("type".into(), json!("number"))),
        Scalar::Boolean => drop(item.insert("type".into(), json!("boolean"))),
        Scalar::Date => string(&mut item, "date"),
        Scalar::Timestamp => string(&mut item, "date-time"),
        Scalar::Uuid => string(&mut item, "uuid"),
    }
    if param.scalar == Scalar::Text {
        match param.pattern.as_ref().map(regex::Regex::as_str).filter(|pattern| is_portable(pattern)) {
            Some(pattern) => drop(item.insert("pattern".into(), json!(pattern))),
            // A comma would part two items.
            None if param.array => drop(item.insert("pattern".into(), json!("^[^,]+$"))),
            // An empty segment is another path.
            None if param.place == Place::Path => drop(item.insert("minLength".into(), json!(1))),
            None => {}
        }
    }
    for (key, bound) in [("minimum", param.min), ("maximum", param.max)] {
        if let Some(bound) = bound {
            item.insert(key.into(), number(bound));
        }
    }
    let mut schema = if param.array {
        let mut list = Map::new();
        list.insert("type".into(), json!("array"));
        list.insert("items".into(), item.into());
        list.insert("maxItems".into(), json!(param::ITEMS_MAX));
        if param.set {
            list.insert("uniqueItems".into(), json!(true));
        }
        list
    } else {
        item
    };
    if let Some(default) = &param.default {
        schema.insert("default".into(), default_value(param.scalar, default));
    }
    schema.into()
}

/// A pattern that stands in no schema is told in words.
pub fn pattern_in_words(param: &Param) -> Option<String> {
    let pattern = param.pattern.as_ref()?.as_str();
    let is_in_schema = param.scalar == Scalar::Text && is_portable(pattern);
    (!is_in_schema).then(|| format!("Its canonical text matches `{pattern}`."))
}

fn is_portable(pattern: &str) -> bool {
    !FOREIGN.iter().any(|foreign| pattern.contains(foreign))
}

fn string(schema: &mut Map<String, Value>, format: &str) {
    schema.insert("type".into(), json!("string"));
    schema.insert("format".into(), json!(format));
}

/// A bound as it was most likely written: 500, not 500.0.
fn number(bound: f64) -> Value {
    let whole = format!("{bound:.0}").parse::<i64>().ok();
    let is_whole = bound.fract() == 0.0 && bound.abs() < 9e15;
    whole.filter(|_| is_whole).map_or_else(|| json!(bound), |whole| json!(whole))
}

fn default_value(scalar: Scalar, value: &param::Value<'_>) -> Value {
    let one = |text: &str| match scalar {
        Scalar::Integer | Scalar::Number | Scalar::Boolean => {
            serde_json::from_str(text).unwrap_or_else(|_| json!(text))
        }
        Scalar::Text | Scalar::Date | Scalar::Timestamp | Scalar::Uuid => json!(text),
    };
    match value {
        param::Value::Null => Value::Null,
        param::Value::One(text) => one(text),
        param::Value::Many(items) => items.iter().map(|item| one(item)).collect(),
    }
}

/// The schema of what a query answers. Until its columns are known, a row is anything.
pub fn of_result(shape: ResultShape, columns: Option<&[Column]>, rows_max: u32) -> Value {
    let row = columns.map_or_else(|| json!({}), of_row);
    match shape {
        ResultShape::Row => row,
        ResultShape::Rows => json!({ "type": "array", "maxItems": rows_max, "items": row }),
    }
}

fn of_row(columns: &[Column]) -> Value {
    if let [only] = columns
        && matches!(only.type_name.as_str(), "json" | "jsonb")
    {
        return json!({});
    }
    let mut properties = Map::new();
    let mut names = Vec::new();
    for column in columns {
        // A name that stands twice in a row stands twice in its object, too, where the last one counts.
        if properties.insert(column.name.clone(), of_column(&column.json)).is_none() {
            names.push(column.name.as_str());
        }
    }
    json!({ "type": "object", "required": names, "properties": properties })
}

/// The schema of a column. That a table's column is NOT NULL says nothing of what joins make of it, so any may be null.
fn of_column(its: &JsonType) -> Value {
    match its {
        JsonType::Boolean => json!({ "type": ["boolean", "null"] }),
        JsonType::Integer(16) => json!({ "type": ["integer", "null"], "minimum": i16::MIN, "maximum": i16::MAX }),
        JsonType::Integer(bits) => json!({ "type": ["integer", "null"], "format": format!("int{bits}") }),
        JsonType::Float(32) => json!({ "type": ["number", "null"], "format": "float" }),
        JsonType::Float(_) => json!({ "type": ["number", "null"], "format": "double" }),
        JsonType::Decimal => json!({ "type": ["number", "null"] }),
        JsonType::Text => json!({ "type": ["string", "null"] }),
        JsonType::Date => json!({ "type": ["string", "null"], "format": "date" }),
        JsonType::Time => json!({ "type": ["string", "null"], "format": "date-time" }),
        // `date-time` has an offset.
        JsonType::LocalTime => json!({ "type": ["string", "null"], "description": "A time without an offset." }),
        JsonType::Uuid => json!({ "type": ["string", "null"], "format": "uuid" }),
        JsonType::Labels(labels) => {
            let labels: Vec<Value> = labels.iter().map(|label| json!(label)).chain([Value::Null]).collect();
            json!({ "type": ["string", "null"], "enum": labels })
        }
        JsonType::Array(items) => json!({ "type": ["array", "null"], "items": of_column(items) }),
        JsonType::Object => json!({ "type": ["object", "null"] }),
        JsonType::Any => json!({}),
    }
}

/// Schemas that operations refer to, by their names in the document.
#[derive(Default)]
pub struct Components {
    schemas: BTreeMap<String, Value>,
    /// Names of files, with the names that they have been given.
    files: BTreeMap<String, String>,
}

impl Components {
    /// A reference to the schema of a file, which becomes part of the document.
    pub fn refer(&mut self, file: &SchemaFile) -> Value {
        let name = match self.files.get(&file.name) {
            Some(name) => name.clone(),
            None => self.adopt(file),
        };
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }

    /// A schema under a name that no file can have.
    pub fn insert(&mut self, name: &str, schema: Value) {
        self.schemas.insert(name.to_owned(), schema);
    }

    fn adopt(&mut self, file: &SchemaFile) -> String {
        let stem = file.name.rsplit('/').next().unwrap_or_default();
        let stem = stem.strip_suffix(".json").unwrap_or(stem);
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' };
        let stem: String = stem.chars().map(plain).collect();
        // Two files of one name in two folders, and one called as a schema of the server's own.
        let numbers = std::iter::once(String::new()).chain((2..).map(|number| format!("_{number}")));
        let free = numbers.map(|number| format!("{stem}{number}")).find(|name| !self.schemas.contains_key(name));
        let name = free.unwrap_or(stem);
        let mut schema = file.schema.clone();
        // References within the file become ones within the document.
        each_keyword(&mut schema, &mut |key, value| {
            if let ("$ref" | "$dynamicRef", Value::String(target)) = (key, value)
                && let Some(rest) = target.strip_prefix('#')
            {
                *target = format!("#/components/schemas/{name}{rest}");
            }
        });
        self.schemas.insert(name.clone(), schema.into());
        self.files.insert(file.name.clone(), name.clone());
        name
    }

    /// All of them.
    pub fn into_schemas(self) -> Value {
        self.schemas.into_iter().collect::<Map<_, _>>().into()
    }
}
