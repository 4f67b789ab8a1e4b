//! One operation of the document: a method of a route.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::errors::{codes, refer, responses};
use super::schema::{self, Components};
use super::{Facts, errors};
use crate::config::manifest::access::AuthMethod;
use crate::config::manifest::{Consistency, Route, Source, UnknownParams};
use crate::config::param::{Param, Place, Scalar};
use crate::database::read::Column;
use crate::error::Code;
use crate::source::description::{Description, Header, Response};

/// What an operation is made of.
pub struct Operation<'a> {
    /// Its route.
    pub route: &'a Route,
    /// One of the route's methods.
    pub method: &'a str,
    /// What the route's handler says of itself.
    pub description: Option<&'a Description>,
    /// The columns of the route's query, once they are known.
    pub columns: Option<&'a [Column]>,
    /// What holds for all routes.
    pub facts: &'a Facts,
}

/// Headers that every response has.
pub fn common_headers() -> Map<String, Value> {
    [("X-Request-Id", "RequestId"), ("X-Region", "Region")]
        .into_iter()
        .map(|(name, header)| (name.to_owned(), refer(header)))
        .collect()
}

impl Operation<'_> {
    /// The operation as the document has it, and the codes that it may answer with.
    pub fn write(&self, id: String, components: &mut Components) -> (Value, Vec<Code>) {
        let Self { route, method, description, facts, .. } = *self;
        let mut out = Map::new();
        out.insert("operationId".into(), json!(id));
        out.insert("tags".into(), json!([tag(&route.path)]));
        let said = description.map(|description| description.summary).filter(|summary| !summary.is_empty());
        if let Some(summary) = route.about.summary.as_deref().or(said) {
            out.insert("summary".into(), json!(summary));
        }
        let details = self.details();
        if !details.is_empty() {
            out.insert("description".into(), json!(details));
        }
        if route.about.deprecated {
            out.insert("deprecated".into(), json!(true));
        }
        let parameters = self.parameters();
        if !parameters.is_empty() {
            out.insert("parameters".into(), parameters.into());
        }
        if let Some(body) = self.request_body() {
            out.insert("requestBody".into(), body);
        }
        let codes = codes(route, method, description, facts);
        out.insert("responses".into(), self.responses(&codes, components));
        if let Some(access) = &route.access {
            out.insert("security".into(), json!([{ access.method.as_str(): access.scopes }]));
        }
        (out.into(), codes)
    }

    fn details(&self) -> String {
        let Self { route, description, .. } = self;
        let mut parts: Vec<String> = Vec::new();
        let said = description.map(|description| description.details).unwrap_or_default();
        parts.push(route.about.description.clone().unwrap_or_else(|| said.to_owned()));
        if route.is_catch_all() {
            parts.push("Answers for all paths below, slashes included, where nothing else does.".to_owned());
        }
        if let Some(access) = route.access.as_ref().filter(|access| !access.scopes.is_empty()) {
            parts.push(format!("Scopes: {}.", access.scopes.join(", ")));
        }
        if route.unknown_params == UnknownParams::Ignore && !self.takes_whole_query() {
            parts.push("Other parameters are ignored.".to_owned());
        }
        parts.retain(|part| !part.is_empty());
        parts.join("\n\n")
    }

    fn takes_whole_query(&self) -> bool {
        self.route.params_in(Place::WholeQuery).next().is_some()
    }

    fn parameters(&self) -> Vec<Value> {
        let Self { route, method, description, facts, .. } = *self;
        let mut parameters: Vec<Value> = route.params.iter().filter_map(parameter).collect();
        if method == "GET" && facts.may_ask_strong(route) {
            let asks = facts.asks_for_credentials(route);
            let with = if asks { " It is heard of those who show a credential (`Authorization: Bearer`)." } else { "" };
            parameters.push(json!({
                "name": "X-Consistency",
                "in": "header",
                "description": format!("`strong`: read from the primary, past all caches. Other values mean nothing.{with}"),
                "schema": { "type": "string" },
                "example": "strong",
            }));
        }
        if facts.has_tokens && route.consistency == Consistency::Session {
            parameters.push(json!({
                "name": "X-Consistency-Token",
                "in": "header",
                "description": "What the last answer of the session carried: this one will have seen no less.",
                "schema": { "type": "string" },
            }));
        }
        let read = description.map(|description| description.request_headers.as_slice()).unwrap_or_default();
        parameters.extend(read.iter().filter(|_| !route.is_cacheable()).map(|header| {
            let Header { name, summary, required, schema } = header;
            json!({ "name": name, "in": "header", "description": summary, "required": required, "schema": schema })
        }));
        parameters
    }

    fn request_body(&self) -> Option<Value> {
        let declared = self.description.and_then(|description| description.request.as_ref());
        match (self.method, declared) {
            ("GET" | "OPTIONS", _) => None,
            (_, Some(schema)) => {
                Some(json!({ "required": true, "content": { "application/json": { "schema": schema } } }))
            }
            ("POST" | "PUT" | "PATCH", None) if self.description.is_none() => {
                Some(json!({ "description": "Not described.", "content": { "*/*": {} } }))
            }
            _ => None,
        }
    }

    fn responses(&self, codes: &[Code], components: &mut Components) -> Value {
        let Self { route, description, .. } = *self;
        let mut out: BTreeMap<u16, Value> = responses(codes);
        let declared = route.about.schema.as_ref().map(|file| components.refer(file));
        let mut answers: Vec<(u16, Value)> = match (&route.source, description) {
            (Source::Sql { result, .. }, _) => {
                let schema = declared.unwrap_or_else(|| schema::of_result(*result, self.columns, self.facts.rows_max));
                vec![(200, self.answer("The answer.", Some(schema), &[]))]
            }
            (_, Some(description)) => {
                // What the manifest declares is the first of the handler's own.
                let schemas = std::iter::once(declared).chain(std::iter::repeat(None));
                let answers = description.responses.iter().zip(schemas);
                let answer = |(its, declared): (&Response, Option<Value>)| {
                    (its.status, self.answer(its.summary, declared.or_else(|| its.schema.clone()), &its.headers))
                };
                answers.map(answer).collect()
            }
            (_, None) => {
                let schema = declared.map(|schema| (200, self.answer("The answer.", Some(schema), &[])));
                schema.into_iter().collect()
            }
        };
        if route.is_cacheable() {
            let unchanged = json!({ "description": "The client has this answer already: its `If-None-Match` names it.", "headers": self.answer_headers(&[]) });
            answers.push((304, unchanged));
        }
        for (status, answer) in answers {
            merge(out.entry(status).or_insert(Value::Null), answer);
        }
        let mut out: Map<String, Value> =
            out.into_iter().map(|(status, response)| (status.to_string(), response)).collect();
        if let Some(whose) = self.undescribed() {
            out.insert("default".into(), json!({ "description": whose }));
        }
        out.into()
    }

    /// Who else may answer, with what nobody has described.
    fn undescribed(&self) -> Option<&'static str> {
        let Self { route, description, .. } = self;
        match &route.source {
            Source::Upstream { .. } => Some("Whatever the service behind this path answers."),
            Source::Handler(_) if description.is_none() => Some("What the handler answers; it is not described."),
            _ if route.middlewares.iter().any(|name| name != crate::http::cors::NAME) => {
                Some("What a middleware answers in the handler's place.")
            }
            _ => None,
        }
    }

    fn answer(&self, summary: &str, schema: Option<Value>, own: &[Header]) -> Value {
        let mut answer = json!({ "description": summary, "headers": self.answer_headers(own) });
        if let (Some(answer), Some(schema)) = (answer.as_object_mut(), schema) {
            answer.insert("content".into(), json!({ "application/json": { "schema": schema } }));
        }
        answer
    }

    fn answer_headers(&self, own: &[Header]) -> Map<String, Value> {
        let Self { route, method, facts, .. } = *self;
        let mut headers = common_headers();
        headers.insert("Cache-Control".into(), refer("CacheControl"));
        headers.insert("Cache-Status".into(), refer("CacheStatus"));
        if route.is_cacheable() {
            headers.insert("ETag".into(), refer("ETag"));
        }
        let is_of_session = route.consistency == Consistency::Session || method != "GET";
        if facts.has_tokens && is_of_session && !matches!(route.source, Source::Upstream { .. }) {
            headers.insert("X-Consistency-Token".into(), refer("ConsistencyToken"));
        }
        for Header { name, summary, required, schema } in own {
            let header = json!({ "description": summary, "required": required, "schema": schema });
            headers.insert((*name).to_owned(), header);
        }
        headers
    }
}

/// A status that a handler uses for its own answers and the server for an error has both contents.
fn merge(into: &mut Value, answer: Value) {
    match (into.as_object_mut(), answer) {
        (Some(into), Value::Object(answer)) => {
            for (key, value) in answer {
                match into.get_mut(&key) {
                    Some(Value::Object(there)) if key != "description" => {
                        if let Value::Object(more) = value {
                            there.extend(more);
                        }
                    }
                    _ => drop(into.insert(key, value)),
                }
            }
        }
        (_, answer) => *into = answer,
    }
}

/// A parameter as the document has it. What comes from the caller's identity is none of the request's.
fn parameter(param: &Param) -> Option<Value> {
    let place = match param.place {
        Place::Path => "path",
        Place::Query => "query",
        Place::WholeQuery => return Some(whole_query()),
        Place::Claim => return None,
    };
    let mut out = json!({ "name": param.name, "in": place });
    let members = out.as_object_mut()?;
    let is_bounded = param.scalar == Scalar::Number;
    let notes = [
        param.description.clone(),
        is_bounded.then(|| "Written without an exponent, of at most 40 digits.".to_owned()),
        schema::pattern_in_words(param),
        param.set.then(|| "A set: order and repetition mean nothing.".to_owned()),
    ];
    let notes: Vec<String> = notes.into_iter().flatten().collect();
    if !notes.is_empty() {
        members.insert("description".into(), json!(notes.join(" ")));
    }
    if place == "path" || (param.default.is_none() && !param.optional) {
        members.insert("required".into(), json!(true));
    }
    if param.array && place == "query" {
        members.insert("style".into(), json!("form"));
        members.insert("explode".into(), json!(false));
    }
    members.insert("schema".into(), schema::of_param(param));
    Some(out)
}

/// A query that is passed on as it is.
fn whole_query() -> Value {
    json!({
        "name": "query",
        "in": "query",
        "description": "Any parameters: they are passed on as they are.",
        "style": "form",
        "explode": true,
        "schema": { "type": "object", "additionalProperties": { "type": "string" } },
    })
}

/// The first segment of a path: what operations are listed under.
pub fn tag(path: &str) -> &str {
    let first = path.split('/').nth(1).unwrap_or_default();
    if first.is_empty() || first.starts_with('{') { "other" } else { first }
}

/// The schemes that routes ask for.
pub fn security_schemes(methods: &[AuthMethod]) -> Map<String, Value> {
    let scheme = |method: &AuthMethod| {
        let scheme = match method {
            AuthMethod::Key => json!({ "type": "http", "scheme": "bearer", "description": "An API key." }),
            AuthMethod::Jwt => {
                json!({ "type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "A signed token." })
            }
        };
        (method.as_str().to_owned(), scheme)
    };
    methods.iter().map(scheme).collect()
}

/// All that operations refer to beside their schemas.
pub fn shared_components(components: Components, methods: &[AuthMethod]) -> Value {
    let mut out = Map::new();
    out.insert("schemas".into(), components.into_schemas());
    out.insert("headers".into(), errors::headers());
    if !methods.is_empty() {
        out.insert("securitySchemes".into(), security_schemes(methods).into());
    }
    out.into()
}
