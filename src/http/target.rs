//! The request target in its one canonical form: what is routed is what is keyed.
//!
//! A path is taken only if it means one thing: `%2F`, NUL and other control characters, broken escapes and bytes that are
//! not UTF-8 are a 400, and dot segments or empty segments are never resolved, so no route has them. A query is read as
//! the route declares it; nothing else is in it.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value as Json};
use smallvec::SmallVec;

use crate::config::manifest::{Route, UnknownParams};
use crate::config::param::{Param, Params, Place, Value};
use crate::error::{Code, Error};

/// Pairs of a query, at most; more are a 400.
const PAIRS_MAX: usize = 256;

/// The decoded path; borrowed in the usual case that there is nothing to decode.
///
/// # Errors
/// `uri_invalid` where the path does not mean one thing.
pub fn canonical_path(raw: &str) -> Result<Cow<'_, str>, Error> {
    // All bytes at once, since nearly always all are.
    if raw.bytes().fold(true, |is_plain, byte| is_plain & byte.is_ascii_graphic() & (byte != b'%')) {
        return Ok(Cow::Borrowed(raw));
    }
    let mut path = String::with_capacity(raw.len());
    for (index, segment) in raw.split('/').enumerate() {
        if index > 0 {
            path.push('/');
        }
        let segment =
            decode(segment, Plus::Literal).map_err(|what| Error::new(Code::UriInvalid, format!("the path {what}")))?;
        if segment.contains('/') {
            return Err(Error::new(Code::UriInvalid, "the path has an encoded slash, which could mean two things"));
        }
        if segment.chars().any(char::is_control) {
            return Err(Error::new(Code::UriInvalid, "the path has an encoded control character"));
        }
        path.push_str(&segment);
    }
    Ok(Cow::Owned(path))
}

#[derive(Clone, Copy, PartialEq)]
enum Plus {
    /// In a path `+` is a plus sign.
    Literal,
    /// In a query it is a space.
    Space,
}

fn decode(text: &str, plus: Plus) -> Result<Cow<'_, str>, &'static str> {
    let text = if plus == Plus::Space && text.contains('+') {
        Cow::Owned(text.replace('+', " "))
    } else {
        Cow::Borrowed(text)
    };
    if !text.contains('%') {
        return Ok(text);
    }
    let escapes_are_whole = text.split('%').skip(1).all(|rest| {
        let mut digits = rest.bytes();
        digits.next().is_some_and(|byte| byte.is_ascii_hexdigit())
            && digits.next().is_some_and(|byte| byte.is_ascii_hexdigit())
    });
    if !escapes_are_whole {
        return Err("has a % that is not followed by two hexadecimal digits");
    }
    match percent_decode_str(&text).decode_utf8() {
        Ok(decoded) => Ok(Cow::Owned(decoded.into_owned())),
        Err(_) => Err("is not UTF-8 when decoded"),
    }
}

/// The canonical values of a route's parameters for one request.
#[derive(Clone, Debug)]
pub struct Arguments<'a> {
    values: SmallVec<[Value<'a>; 6]>,
}

impl<'a> Arguments<'a> {
    /// Reads the captures of the path, the query and the caller's claims as the route declares them.
    ///
    /// # Errors
    /// `param_…` or `uri_invalid`, naming the parameter; `claim_invalid`, naming the claim.
    pub fn read(
        route: &Route,
        capture: impl Fn(&str) -> Option<&'a str>,
        query: Option<&'a str>,
        claims: Option<&Map<String, Json>>,
    ) -> Result<Self, Error> {
        let query = query.unwrap_or_default();
        // Room for values is moved about with them, used or not.
        if route.params.is_empty() && query.is_empty() {
            return Ok(Self { values: SmallVec::new() });
        }
        let is_taken_whole = route.params.last().is_some_and(|param| param.place == Place::WholeQuery);
        let given = if is_taken_whole { Given::new() } else { given(route, query)? };
        let mut values = SmallVec::new();
        for (index, param) in route.params.iter().enumerate() {
            let is_given = given.iter().any(|(at, _)| *at == index);
            let mut texts = given.iter().filter(|(at, _)| *at == index).map(|(_, text)| text.clone());
            let value = match param.place {
                Place::Path => path_value(param, &capture),
                Place::Claim => Ok(claim_value(param, claims.and_then(|claims| claims.get(param.claim_name())))?),
                Place::WholeQuery if query.is_empty() => Ok(Value::Null),
                Place::WholeQuery => Ok(Value::One(Cow::Borrowed(query))),
                Place::Query if param.array && is_given => param.array_value(texts),
                Place::Query => match (texts.next(), texts.next()) {
                    (None, _) => Ok(absent(param)?),
                    (Some(text), None) => param.scalar_value(text),
                    (Some(_), Some(_)) => {
                        return Err(Error::new(
                            Code::ParamRepeated,
                            format!("parameter {} is given more than once", param.name),
                        ));
                    }
                },
            };
            values.push(value.map_err(|what| invalid(param, what))?);
        }
        Ok(Self { values })
    }

    /// Reads the captures of the path alone: what all requests for it have in common, whatever their query.
    ///
    /// # Errors
    /// `param_invalid`, naming the parameter.
    pub fn of_path(route: &Route, capture: impl Fn(&str) -> Option<&'a str>) -> Result<Self, Error> {
        let value = |param: &Param| match param.place {
            Place::Path => path_value(param, &capture).map_err(|what| invalid(param, what)),
            Place::Query | Place::WholeQuery | Place::Claim => Ok(Value::Null),
        };
        Ok(Self { values: route.params.iter().map(value).collect::<Result<_, _>>()? })
    }

    /// Appends the canonical form: the path with its values, then those query values that differ from their defaults, in
    /// declared order. Two requests have the same text if and only if they ask the same.
    pub fn write(&self, route: &Route, out: &mut SmallVec<[u8; 256]>) {
        let value_of = |name: &str| {
            let at = route.params.iter().position(|param| param.place == Place::Path && param.name == name);
            at.and_then(|at| self.values.get(at))
        };
        if route.params_in(Place::Path).next().is_none() {
            out.extend_from_slice(route.path.as_bytes());
        } else {
            for segment in route.path.split('/').skip(1) {
                out.push(b'/');
                match segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
                    Some(name) => match name.strip_prefix('*') {
                        Some(name) => value_of(name).into_iter().for_each(|value| write_rest(value, out)),
                        None => value_of(name).into_iter().for_each(|value| write_value(value, out)),
                    },
                    None => out.extend_from_slice(segment.as_bytes()),
                }
            }
        }
        let mut separator = b'?';
        for (param, value) in route.params.iter().zip(&self.values) {
            if let (Place::WholeQuery, Value::One(query)) = (param.place, value) {
                // Nobody says what is in it, so nothing of it can be said in another way: it is what was sent.
                out.push(b'?');
                out.extend_from_slice(query.as_bytes());
            }
            let is_said = param.place == Place::Query && *value != Value::Null && param.default.as_ref() != Some(value);
            if is_said {
                out.push(separator);
                separator = b'&';
                out.extend_from_slice(param.name.as_bytes());
                out.push(b'=');
                write_value(value, out);
            }
        }
    }

    /// The values under their names, for the source.
    pub fn into_params(self, route: &Route) -> Params {
        let named = |(param, value): (&Param, Value<'a>)| (param.name.clone(), value.into_owned());
        Params::new(route.params.iter().zip(self.values).map(named).collect())
    }
}

fn path_value<'a>(param: &Param, capture: impl Fn(&str) -> Option<&'a str>) -> Result<Value<'a>, String> {
    let text = Cow::Borrowed(capture(&param.name).unwrap_or_default());
    if param.array { param.array_value(std::iter::once(text)) } else { param.scalar_value(text) }
}

/// What a credential says of its bearer. Where that will not do it is the credential that is at fault, and not the request.
fn claim_value(param: &Param, claim: Option<&Json>) -> Result<Value<'static>, Error> {
    let wrong = |what: &str| {
        let detail = format!("the claim {} of the credential must be {what}", param.claim_name());
        Error::new(Code::ClaimInvalid, detail)
    };
    let text = |claim: &Json| match claim {
        Json::String(text) => Ok(Cow::Owned(text.clone())),
        Json::Number(number) => Ok(Cow::Owned(number.to_string())),
        Json::Bool(value) => Ok(Cow::Owned(value.to_string())),
        Json::Null | Json::Array(_) | Json::Object(_) => {
            Err(wrong("a text, a number or a boolean, or an array of them"))
        }
    };
    let value = match claim {
        None | Some(Json::Null) => {
            return absent(param).map_err(|_| {
                Error::new(Code::ClaimInvalid, format!("the credential has no claim {}", param.claim_name()))
            });
        }
        // Each item is one: a comma in it is part of it, or a list of tenants could be made longer from within.
        Some(Json::Array(items)) if param.array => {
            let texts = items.iter().map(text).collect::<Result<Vec<_>, _>>()?;
            param.list_value(texts.into_iter())
        }
        Some(claim) if param.array => param.list_value(std::iter::once(text(claim)?)),
        Some(claim) => param.scalar_value(text(claim)?),
    };
    value.map_err(|what| wrong(&what))
}

fn invalid(param: &Param, what: String) -> Error {
    Error::new(Code::ParamInvalid, format!("parameter {} must be {what}", param.name))
}

fn absent(param: &Param) -> Result<Value<'static>, Error> {
    match &param.default {
        Some(default) => Ok(default.clone()),
        None if param.optional => Ok(Value::Null),
        None => Err(Error::new(Code::ParamMissing, format!("parameter {} is required", param.name))),
    }
}

type Given<'a> = SmallVec<[(usize, Cow<'a, str>); 8]>;

/// The pairs of the query that the route declares, as positions of parameters and decoded texts.
fn given<'a>(route: &Route, query: &'a str) -> Result<Given<'a>, Error> {
    let mut given = SmallVec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, text) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name, Plus::Space)
            .map_err(|what| Error::new(Code::UriInvalid, format!("the name of a query parameter {what}")))?;
        let declared = route.params.iter().position(|param| param.place == Place::Query && *param.name == *name);
        let Some(index) = declared else {
            if route.unknown_params == UnknownParams::Ignore {
                continue;
            }
            return Err(unknown(route, &name));
        };
        if given.len() == PAIRS_MAX {
            return Err(Error::new(Code::UriInvalid, format!("the query has more than {PAIRS_MAX} parameters")));
        }
        let text = decode(text, Plus::Space)
            .map_err(|what| Error::new(Code::UriInvalid, format!("parameter {name} {what}")))?;
        given.push((index, text));
    }
    Ok(given)
}

fn unknown(route: &Route, name: &str) -> Error {
    let known: Vec<&str> = route.params_in(Place::Query).map(|(_, param)| param.name.as_str()).collect();
    let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    let detail = if known.is_empty() {
        format!("parameter {shown} is not known; this route takes none")
    } else {
        format!("parameter {shown} is not known; this route takes {}", known.join(", "))
    };
    Error::new(Code::ParamUnknown, detail)
}

/// Writes a value so that no two values look alike: everything outside the unreserved characters is escaped, and a comma
/// stands only between items. (An array's items are never empty, so an empty text is the empty array.)
fn write_value(value: &Value<'_>, out: &mut SmallVec<[u8; 256]>) {
    match value {
        Value::Null => {}
        Value::One(text) => write_text(text, out),
        Value::Many(items) => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_text(item, out);
            }
        }
    }
}

/// Writes all the rest of a path, whose slashes are slashes: an encoded one was refused.
fn write_rest(value: &Value<'_>, out: &mut SmallVec<[u8; 256]>) {
    let Value::One(rest) = value else { return };
    for (index, segment) in rest.split('/').enumerate() {
        if index > 0 {
            out.push(b'/');
        }
        write_text(segment, out);
    }
}

fn write_text(text: &str, out: &mut SmallVec<[u8; 256]>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let hex = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':') {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'%', hex(byte >> 4), hex(byte & 15)]);
        }
    }
}
