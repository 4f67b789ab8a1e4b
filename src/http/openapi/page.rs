//! The page for people: the document as HTML. It works without scripts, and asks for nothing beyond itself.

use std::sync::LazyLock;

use actix_http::header::HeaderValue;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::DOCUMENT;
use super::document::Document;
use super::example::curl;
use super::html::Html;
use super::shape::{self, list, members, text};
use crate::http::headers;

const STYLE: &str = include_str!("page.css");

/// What the page may load: its own style, and nothing else. Should a text ever become markup, it does nothing.
pub fn content_security_policy() -> HeaderValue {
    static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
        let style = STANDARD.encode(Sha256::digest(STYLE));
        headers::value(format!(
            "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ))
    });
    POLICY.clone()
}

/// An operation as it stands in the document.
pub struct Operation<'a> {
    /// Its path.
    pub path: &'a str,
    /// Its method, in small letters.
    pub method: &'a str,
    /// The rest.
    pub its: &'a Value,
}

/// The page.
pub fn render(document: &Document) -> String {
    let json = &document.json;
    let operations: Vec<Operation<'_>> = members(json, "/paths")
        .flat_map(|(path, item)| members(item, "").map(move |(method, its)| Operation { path, method, its }))
        .collect();
    let tags: Vec<&str> = list(json, "/tags").map(|tag| text(tag, "/name")).collect();
    let mut html = Html::default();
    html.raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    html.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>");
    html.text(text(json, "/info/title")).raw("</title>\n<style>").raw(STYLE).raw("</style>\n</head>\n<body>\n");
    html.raw("<a class=\"skip\" href=\"#main\">Skip to the operations</a>\n<div class=\"layout\">\n");
    navigation(&mut html, &tags, &operations, json);
    html.raw("<main id=\"main\" tabindex=\"-1\">\n<h1>").text(text(json, "/info/title")).raw(" <small>version ");
    html.text(text(json, "/info/version")).raw("</small></h1>\n").prose(text(json, "/info/description"));
    html.raw("<p>For programs: <a href=\"").raw(DOCUMENT).raw("\">openapi.json</a> (OpenAPI 3.1). ");
    html.raw("The examples below take the address of this API from <code>ORIGIN</code>.</p>\n");
    for tag in tags {
        html.raw("<section>\n<h2>").text(tag).raw("</h2>\n");
        let its = operations.iter().filter(|operation| text(operation.its, "/tags/0") == tag);
        its.for_each(|operation| article(&mut html, operation));
        html.raw("</section>\n");
    }
    schemas(&mut html, json);
    errors(&mut html, document);
    html.raw("</main>\n</div>\n</body>\n</html>\n");
    html.finish()
}

fn navigation(html: &mut Html, tags: &[&str], operations: &[Operation<'_>], json: &Value) {
    html.raw("<nav aria-label=\"Contents\">\n");
    for tag in tags {
        html.raw("<h2>").text(tag).raw("</h2>\n<ul>\n");
        for operation in operations.iter().filter(|operation| text(operation.its, "/tags/0") == *tag) {
            html.raw("<li><a href=\"#").text(text(operation.its, "/operationId")).raw("\">");
            method(html, operation.method);
            html.raw(" <span class=\"path\">").text(operation.path).raw("</span></a></li>\n");
        }
        html.raw("</ul>\n");
    }
    html.raw("<h2>Schemas</h2>\n<ul>\n");
    for (name, _) in members(json, "/components/schemas") {
        html.raw("<li><a href=\"#schema-").text(name).raw("\">").text(name).raw("</a></li>\n");
    }
    html.raw("</ul>\n<h2>Errors</h2>\n<ul>\n<li><a href=\"#errors\">All codes</a></li>\n</ul>\n</nav>\n");
}

fn method(html: &mut Html, method: &str) {
    html.raw("<span class=\"method ").text(method).raw("\">").text(&method.to_uppercase()).raw("</span>");
}

fn article(html: &mut Html, operation: &Operation<'_>) {
    let its = operation.its;
    let id = text(its, "/operationId");
    html.raw("<article id=\"").text(id).raw("\">\n<h3>");
    method(html, operation.method);
    html.raw(" <a class=\"path\" href=\"#").text(id).raw("\">").text(operation.path).raw("</a></h3>\n");
    if its.get("deprecated").is_some() {
        html.raw("<p><span class=\"badge\">deprecated</span> Look for another one.</p>\n");
    }
    html.raw("<div class=\"summary\">").prose(text(its, "/summary")).raw("</div>\n").prose(text(its, "/description"));
    for (scheme, _) in list(its, "/security").flat_map(|requirement| members(requirement, "")) {
        let credential = if scheme == "jwt" { "a signed token" } else { "an API key" };
        html.raw("<p><span class=\"badge\">authentication</span> <code>Authorization: Bearer</code> and ");
        html.text(credential);
        html.raw(".</p>\n");
    }
    parameters(html, its);
    if let Some(body) = its.get("requestBody") {
        html.raw("<h4>Body</h4>\n").prose(text(body, "/description"));
        contents(html, body);
    }
    html.raw("<h4>Answers</h4>\n");
    members(its, "/responses").for_each(|(status, response)| answer(html, status, response));
    html.raw("<h4>Example</h4>\n<pre tabindex=\"0\"><code>").text(&curl(operation)).raw("</code></pre>\n</article>\n");
}

fn parameters(html: &mut Html, operation: &Value) {
    if list(operation, "/parameters").next().is_none() {
        return;
    }
    html.raw(
        "<h4>Parameters</h4>\n<table>\n<thead><tr><th>Name</th><th>Type</th><th>Meaning</th></tr></thead>\n<tbody>\n",
    );
    for parameter in list(operation, "/parameters") {
        html.raw("<tr><th scope=\"row\"><code>").text(text(parameter, "/name")).raw("</code> <span class=\"badge\">");
        html.text(text(parameter, "/in")).raw("</span>");
        if parameter.get("required").and_then(Value::as_bool) == Some(true) {
            html.raw(" <span class=\"badge\">required</span>");
        }
        html.raw("</th><td>");
        shape::kind(html, parameter.get("schema").unwrap_or(&Value::Null));
        html.raw("</td><td>").inline(text(parameter, "/description")).raw("</td></tr>\n");
    }
    html.raw("</tbody>\n</table>\n");
}

/// Answers that are no errors stand open, errors as a line that leads to their codes.
fn answer(html: &mut Html, status: &str, response: &Value) {
    let codes = response.pointer("/content/application~1problem+json/schema/properties/code/enum");
    let codes: Vec<&str> = codes.map(|codes| list(codes, "").filter_map(Value::as_str).collect()).unwrap_or_default();
    html.raw("<p><strong>").text(status).raw("</strong> ");
    if !codes.is_empty() {
        for (index, code) in codes.iter().enumerate() {
            html.raw(if index > 0 { ", " } else { "" });
            html.raw("<a href=\"#error-").text(code).raw("\"><code>").text(code).raw("</code></a>");
        }
    } else {
        html.inline(text(response, "/description"));
    }
    html.raw("</p>\n");
    contents(html, response);
}

/// What bodies look like, but for problem documents, which all look the same.
fn contents(html: &mut Html, holder: &Value) {
    for (media_type, content) in members(holder, "/content").filter(|(name, _)| *name != "application/problem+json") {
        html.raw("<p class=\"soft\"><code>").text(media_type).raw("</code> ");
        let Some(schema) = content.get("schema") else {
            html.raw("</p>\n");
            continue;
        };
        shape::kind(html, schema);
        html.raw("</p>\n");
        shape::table(html, schema);
    }
}

fn schemas(html: &mut Html, json: &Value) {
    html.raw("<section>\n<h2>Schemas</h2>\n");
    for (name, schema) in members(json, "/components/schemas") {
        html.raw("<article id=\"schema-").text(name).raw("\">\n<h3>").text(name).raw("</h3>\n");
        html.prose(text(schema, "/description"));
        shape::table(html, schema);
        html.raw("<details><summary>JSON Schema</summary>\n<pre tabindex=\"0\"><code>");
        html.text(&serde_json::to_string_pretty(schema).unwrap_or_default());
        html.raw("</code></pre></details>\n</article>\n");
    }
    html.raw("</section>\n");
}

fn errors(html: &mut Html, document: &Document) {
    html.raw("<section id=\"errors\">\n<h2>Errors</h2>\n<p>Every error is a <a href=\"#schema-Problem\">problem document</a>.</p>\n<table>\n");
    html.raw("<thead><tr><th>Code</th><th>Status</th><th>Meaning</th></tr></thead>\n<tbody>\n");
    let mut codes = document.codes.clone();
    codes.sort_by_key(|code| (code.info().status, code.as_str()));
    for code in codes {
        let info = code.info();
        html.raw("<tr id=\"error-").text(info.name).raw("\"><th scope=\"row\"><code>").text(info.name);
        html.raw("</code></th><td>").number(info.status).raw("</td><td>").text(info.title);
        if info.retryable {
            html.raw("; the same request may succeed later");
        }
        html.raw("</td></tr>\n");
    }
    html.raw("</tbody>\n</table>\n</section>\n");
}
