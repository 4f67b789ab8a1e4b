//! What headers say of a trace: `traceparent` (W3C Trace Context), or those of Zipkin (B3), in one line or in several.
//!
//! A caller is not trusted: what does not follow its form to the letter, or stands there twice, is as good as nothing, and the
//! request begins a trace of its own.

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::Here;
use crate::config::traces::B3;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3_SINGLE: HeaderName = HeaderName::from_static("b3");
const B3_TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const TRACEPARENT_BYTES: usize = 55;

/// What a caller has said of the trace that a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// The trace, and the caller's span. Zipkin's callers may decide on sampling and leave these to others.
    pub ids: Option<(u128, u64)>,
    /// Whether the caller samples it, where it has decided.
    pub sampled: Option<bool>,
}

impl Said {
    /// Reads the lines of headers, which are given by their name. `traceparent` counts for more than the one header `b3`, and that for
    /// more than the several of it.
    pub fn read<'a, Lines: Iterator<Item = &'a [u8]>>(lines: impl Fn(&'static str) -> Lines) -> Option<Self> {
        let only = |name| {
            let mut lines = lines(name);
            let first = lines.next()?;
            if lines.next().is_some() { None } else { std::str::from_utf8(first).ok() }
        };
        only("traceparent").and_then(traceparent).or_else(|| only("b3").and_then(b3_single)).or_else(|| b3_multi(only))
    }
}

fn traceparent(text: &str) -> Option<Said> {
    let (head, rest) = text.split_at_checked(TRACEPARENT_BYTES)?;
    let mut parts = head.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let version = digits(version, 2)?;
    // What later versions add comes behind another dash.
    let is_whole = rest.is_empty() || (version > 0 && rest.starts_with('-'));
    if version == 0xff || !is_whole || parts.next().is_some() {
        return None;
    }
    let flags = digits(flags, 2)?;
    Some(Said { ids: Some(ids(digits(trace, 32)?, digits(span, 16)?)?), sampled: Some(flags & 1 == 1) })
}

/// `{trace}-{span}-{sampled}-{parent}`, of which the last one or two may be missing, or the word on sampling alone.
fn b3_single(text: &str) -> Option<Said> {
    if let Some(sampled) = b3_sampled(text) {
        return Some(Said { ids: None, sampled: Some(sampled) });
    }
    let mut parts = text.split('-');
    let (trace, span) = (b3_trace(parts.next()?)?, digits(parts.next()?, 16)?);
    let sampled = match parts.next() {
        Some(word) => Some(b3_sampled(word)?),
        None => None,
    };
    let is_whole = parts.next().is_none_or(|parent| digits(parent, 16).is_some()) && parts.next().is_none();
    is_whole.then_some(Said { ids: Some(ids(trace, span)?), sampled })
}

fn b3_multi<'a>(only: impl Fn(&'static str) -> Option<&'a str>) -> Option<Said> {
    let is_debug = only("x-b3-flags") == Some("1");
    let sampled = if is_debug { Some(true) } else { only("x-b3-sampled").and_then(b3_sampled) };
    let found = || ids(b3_trace(only("x-b3-traceid")?)?, digits(only("x-b3-spanid")?, 16)?);
    let ids = found();
    (ids.is_some() || sampled.is_some()).then_some(Said { ids, sampled })
}

/// `d` asks for more than sampling, in words that this server has not.
fn b3_sampled(word: &str) -> Option<bool> {
    match word {
        "1" | "d" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

/// Older callers have ids of half the length.
fn b3_trace(text: &str) -> Option<u128> {
    digits(text, 32).or_else(|| digits(text, 16))
}

/// A number of exactly so many hexadecimal digits, in lower case.
fn digits(text: &str, count: usize) -> Option<u128> {
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_whole = text.len() == count && text.as_bytes().iter().all(is_digit);
    if is_whole { u128::from_str_radix(text, 16).ok() } else { None }
}

/// Ids of nothing but zeros are none.
fn ids(trace: u128, span: u128) -> Option<(u128, u64)> {
    let span = u64::try_from(span).ok()?;
    (trace != 0 && span != 0).then_some((trace, span))
}

/// A span of another trace, as instances write it to each other.
pub(super) fn link_text(trace: u128, span: u64) -> String {
    format!("{trace:032x}-{span:016x}")
}

/// Reads it.
pub(super) fn link(text: &str) -> Option<(u128, u64)> {
    let (trace, span) = text.split_once('-')?;
    ids(digits(trace, 32)?, digits(span, 16)?)
}

/// Says in the headers of a request that it belongs to this span. What they said before is the caller's, and names another one;
/// its `tracestate` goes on with its trace, unchanged, where it is there.
pub(super) fn write(headers: &mut HeaderMap, here: &Here, b3: B3) {
    for name in [&TRACEPARENT, &B3_SINGLE, &B3_TRACE_ID, &B3_SPAN_ID, &B3_PARENT_SPAN_ID, &B3_SAMPLED, &B3_FLAGS] {
        headers.remove(name);
    }
    if !here.continues() {
        headers.remove(TRACESTATE);
    }
    let (trace, span, sampled) = (here.trace_id(), here.span_id(), u8::from(here.is_sampled()));
    let mut say = |name: HeaderName, text: String| {
        // Digits and dashes can stand in any header.
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(name, value);
        }
    };
    say(TRACEPARENT, format!("00-{trace:032x}-{span:016x}-{sampled:02x}"));
    match b3 {
        B3::Off => {}
        B3::Single => say(B3_SINGLE, format!("{trace:032x}-{span:016x}-{sampled}")),
        B3::Multi => {
            say(B3_TRACE_ID, format!("{trace:032x}"));
            say(B3_SPAN_ID, format!("{span:016x}"));
            say(B3_SAMPLED, sampled.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
    const SPAN: u64 = 0xb7ad_6b71_6920_3331;

    fn read(lines: &[(&str, &str)]) -> Option<Said> {
        Said::read(|wanted| lines.iter().filter(move |(name, _)| *name == wanted).map(|(_, value)| value.as_bytes()))
    }

    fn said(sampled: Option<bool>) -> Option<Said> {
        Some(Said { ids: Some((TRACE, SPAN)), sampled })
    }

    #[test]
    fn traceparent_is_read_to_the_letter() {
        let good = [
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", said(Some(true))),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", said(Some(false))),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03", said(Some(true))),
            ("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", said(Some(true))),
            ("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", said(Some(true))),
        ];
        for (text, expected) in good {
            assert_eq!(read(&[("traceparent", text)]), expected, "{text}");
        }
        let bad = [
            "",
            "00",
            "00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.more",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",
            " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319cb7ad6b7169203331---01",
            "é0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0é",
        ];
        for text in bad {
            assert_eq!(read(&[("traceparent", text)]), None, "{text}");
        }
        let twice = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(read(&[twice, twice]), None, "of two nobody knows which counts");
    }

    #[test]
    fn b3_is_read_in_one_header_and_in_several() {
        let single = |text| read(&[("b3", text)]);
        assert_eq!(single("0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"), said(None));
        assert_eq!(single("0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0"), said(Some(false)));
        assert_eq!(single("0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-d-05e3ac9a4f6e3b90"), said(Some(true)));
        assert_eq!(single("0"), Some(Said { ids: None, sampled: Some(false) }));
        let short = Said { ids: Some((0x8448_eb21_1c80_319c, SPAN)), sampled: Some(true) };
        assert_eq!(single("8448eb211c80319c-b7ad6b7169203331-1"), Some(short));
        for bad in ["", "x", "0af7-b7ad", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-2", "-", "1-"] {
            assert_eq!(single(bad), None, "{bad}");
        }
        let several = [("x-b3-traceid", "0af7651916cd43dd8448eb211c80319c"), ("x-b3-spanid", "b7ad6b7169203331")];
        assert_eq!(read(&several), said(None));
        assert_eq!(read(&[several[0], several[1], ("x-b3-sampled", "1")]), said(Some(true)));
        assert_eq!(read(&[several[0], several[1], ("x-b3-flags", "1")]), said(Some(true)));
        assert_eq!(read(&[("x-b3-sampled", "0")]), Some(Said { ids: None, sampled: Some(false) }));
        assert_eq!(read(&several[..1]), None, "half of it is nothing");
    }

    #[test]
    fn traceparent_counts_before_b3() {
        let other = ("b3", "00000000000000010000000000000002-0000000000000003-0");
        let w3c = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(read(&[other, w3c]), said(Some(true)));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_without_a_panic(text in ".{0,80}", name in "traceparent|b3|x-b3-traceid|x-b3-sampled") {
            let _anything = Said::read(|wanted| (wanted == name).then_some(text.as_bytes()).into_iter());
        }

        #[test]
        fn what_is_written_is_read_again(trace in 1_u128.., span in 1_u64.., sampled: bool) {
            let text = format!("00-{trace:032x}-{span:016x}-{:02x}", u8::from(sampled));
            let expected = Some(Said { ids: Some((trace, span)), sampled: Some(sampled) });
            prop_assert_eq!(read(&[("traceparent", &text)]), expected);
            let text = format!("{trace:032x}-{span:016x}-{}", u8::from(sampled));
            prop_assert_eq!(read(&[("b3", &text)]), expected);
            prop_assert_eq!(link(&link_text(trace, span)), Some((trace, span)));
            prop_assert_eq!(link(&text), None);
        }
    }
}
