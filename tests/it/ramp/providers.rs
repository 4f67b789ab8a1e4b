//! What the sandbox takes for its own: signatures, their time, and what is signed.

use std::time::Duration;

use mainstay::config::units::Secret;
use mainstay::error::Error;
use mainstay::ramp::providers::sandbox::Sandbox;
use mainstay::ramp::providers::{Delivery, Event, Provider};
use proptest::prelude::*;
use ring::hmac;

const NOW: u64 = 1_800_000_000;
const SECRET: &str = "correct horse battery staple";
const TOLERANCE: Duration = Duration::from_secs(300);
const ORDER: &str = "6f1d2c5b-8a3e-4790-9c1d-0123456789ab";

/// The hexadecimal digits that sign a body at a time.
pub fn mac(secret: &str, time: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, &[time.as_bytes(), b".", body].concat());
    tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The header that does.
pub fn signature(secret: &str, seconds: u64, body: &[u8]) -> String {
    format!("t={seconds},v1={}", mac(secret, &seconds.to_string(), body))
}

fn event(more: &str) -> String {
    format!(r#"{{"id":"evt_1","type":"payment.succeeded","data":{{"order_id":"{ORDER}"{more}}}}}"#)
}

/// What comes of header lines and a body at [`NOW`], with these secrets.
fn verify(secrets: &str, headers: &[&str], body: &[u8]) -> Result<Event, Error> {
    let sandbox = Sandbox::new(&Secret::new(secrets).list(), TOLERANCE).unwrap();
    let headers: Vec<(Box<str>, Box<[u8]>)> =
        headers.iter().map(|value| ("x-signature".into(), value.as_bytes().into())).collect();
    sandbox.verify(&Delivery { headers: &headers, body, now: Duration::from_secs(NOW) })
}

fn code(outcome: Result<Event, Error>) -> &'static str {
    outcome.map_or_else(|error| error.code.as_str(), |_| "taken")
}

#[test]
fn a_signature_counts_for_as_long_as_it_may_and_not_a_second_longer() {
    let body = event("");
    for (seconds, expected) in [
        (NOW, "taken"),
        (NOW - 300, "taken"),
        (NOW - 301, "signature_invalid"),
        (NOW + 300, "taken"),
        (NOW + 301, "signature_invalid"),
        (0, "signature_invalid"),
        (999_999_999_999, "signature_invalid"),
    ] {
        let outcome = verify(SECRET, &[&signature(SECRET, seconds, body.as_bytes())], body.as_bytes());
        assert_eq!(code(outcome), expected, "{seconds}");
    }
}

#[test]
fn any_secret_of_the_list_signs_and_any_signature_of_the_header_does() {
    let body = event("");
    let one = |secret: &str| signature(secret, NOW, body.as_bytes());
    let check = |secrets: &str, header: &str| code(verify(secrets, &[header], body.as_bytes()));
    for secret in ["old secret", "new secret"] {
        assert_eq!(check("new secret, old secret", &one(secret)), "taken", "{secret}");
    }
    assert_eq!(check("new secret", &one("old secret")), "signature_invalid");
    // A provider that changes its secret signs with both.
    let (old, new) =
        (mac("old secret", &NOW.to_string(), body.as_bytes()), mac("new secret", &NOW.to_string(), body.as_bytes()));
    for header in [format!("t={NOW},v1={old},v1={new}"), format!("v1={new}, v1={old}, t={NOW}, v0=other, v2=")] {
        assert_eq!(check("new secret", &header), "taken", "{header}");
    }
    assert!(Sandbox::new(&Secret::new(" , ").list(), TOLERANCE).is_none(), "without a secret there is no sandbox");
}

#[test]
fn what_is_not_signed_as_it_should_be_is_refused_and_nobody_learns_how_to() {
    let body = event("");
    let right = mac(SECRET, &NOW.to_string(), body.as_bytes());
    let good = format!("t={NOW},v1={right}");
    let form = "must be like";
    let cases: [(&[&str], &str); 20] = [
        (&[], "is required"),
        (&[&good, &good], "is required"),
        (&[""], form),
        (&["t"], form),
        (&[&right], form),
        (&[&format!("t={NOW}")], form),
        (&[&format!("v1={right}")], form),
        (&[&format!("t=,v1={right}")], form),
        (&[&format!("t=+{NOW},v1={right}")], form),
        (&[&format!("t=-1,v1={right}")], form),
        (&[&format!("t=0{NOW}00,v1={right}")], form),
        (&[&format!("t={NOW},t={NOW},v1={right}")], form),
        (&[&format!("t={NOW},v1={}", &right[1..])], form),
        (&[&format!("t={NOW},v1={right}0")], form),
        (&[&format!("t={NOW},v1={}é", &right[2..])], form),
        (&[&format!("t={NOW}{}", format!(",v1={right}").repeat(9))], form),
        (&[&format!("t={NOW},v1={}", "0".repeat(64))], "not that of this body"),
        (&[&format!("t={NOW},v0={right},v1={}", "0".repeat(64))], "not that of this body"),
        // The time is signed as it is written.
        (&[&format!("t=0{NOW},v1={right}")], "not that of this body"),
        (&[&signature("", NOW, body.as_bytes())], "not that of this body"),
    ];
    for (headers, says) in cases {
        let error = verify(SECRET, headers, body.as_bytes()).unwrap_err();
        assert_eq!(
            (error.code.as_str(), error.detail.contains(says)),
            ("signature_invalid", true),
            "{headers:?}: {error}"
        );
        assert!(!error.detail.contains(&right) && !error.detail.contains("horse"), "{error}");
    }
    assert_eq!(code(verify(SECRET, &[&good], body.as_bytes())), "taken");
    assert_eq!(
        code(verify(SECRET, &[&good.to_uppercase().replace("T=", "t=").replace("V1", "v1")], body.as_bytes())),
        "taken"
    );
    for other in [format!("{body} "), body.replace("evt_1", "evt_2"), String::new()] {
        assert_eq!(code(verify(SECRET, &[&good], other.as_bytes())), "signature_invalid", "{other}");
    }
}

/// Signed, as the provider meant it, or as nobody should have.
#[test]
fn what_is_signed_is_read_and_what_is_no_event_is_refused_by_name() {
    let read = |body: &[u8]| verify(SECRET, &[&signature(SECRET, NOW, body)], body);
    let full = read(event(r#","amount":100000,"currency":"USD""#).as_bytes()).unwrap();
    let expected = Event {
        id: "evt_1".to_owned(),
        kind: "payment.succeeded".to_owned(),
        order_id: ORDER.parse().unwrap(),
        amount: Some(100_000),
        currency: Some("USD".to_owned()),
    };
    assert_eq!(full, expected);
    let bare = Event { amount: None, currency: None, ..expected };
    let deep = format!(r#","note":{}1{}"#, "[".repeat(100), "]".repeat(100));
    for more in ["", r#","amount":null,"currency":null"#, r#","fee":1e999,"note":{"amount":7},"amount_due":3"#, &deep] {
        assert_eq!(read(event(more).as_bytes()).unwrap(), bare, "{more}");
    }
    let with = |from: &str, to: &str| event("").replace(from, to).into_bytes();
    let cases: [(Vec<u8>, &str); 17] = [
        ([b"\xef\xbb\xbf", event("").as_bytes()].concat(), "object"),
        (event("").into_bytes().into_iter().chain(*b"\0").collect(), "trailing"),
        ([event(""), event("")].concat().into_bytes(), "trailing"),
        (Vec::new(), "EOF"),
        (b"[]".to_vec(), "object"),
        (with("evt_1", "evt_\u{0}"), "id"),
        (with("evt_1", "\u{fffd}").into_iter().map(|byte| if byte > 0x7f { 0xff } else { byte }).collect(), "id"),
        (with(r#""id":"#, r#""id":"evt_0","id":"#), "id"),
        (with(r#""order_id""#, r#""order_id":"","order_id""#), "order_id"),
        (with(r#""type":"#, r#""kind":"#), "type"),
        (with(r#""evt_1""#, "7"), "id"),
        (with(ORDER, "7"), "order_id"),
        (event(r#","amount":9223372036854775808"#).into_bytes(), "amount"),
        (event(r#","amount":1e3"#).into_bytes(), "amount"),
        (event(r#","amount":"100""#).into_bytes(), "amount"),
        (event(r#","currency":7"#).into_bytes(), "currency"),
        (event(r#","amount":1,"amount":2"#).into_bytes(), "amount"),
    ];
    for (body, named) in cases {
        let text = String::from_utf8_lossy(&body).into_owned();
        let error = read(&body).unwrap_err();
        assert_eq!((error.code.as_str(), error.detail.contains(named)), ("body_invalid", true), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn no_other_body_time_or_signature_is_taken(at in any::<prop::sample::Index>(), byte: u8, part in 0_usize..3) {
        let (mut body, mut time) = (event("").into_bytes(), NOW.to_string().into_bytes());
        let mut digits = mac(SECRET, &NOW.to_string(), &body).into_bytes();
        let changed = [&mut body, &mut time, &mut digits].into_iter().nth(part).unwrap();
        let at = at.index(changed.len());
        prop_assume!(!changed[at].eq_ignore_ascii_case(&byte) && byte.is_ascii_graphic());
        changed[at] = byte;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let header = format!("t={},v1={}", text(time), text(digits));
        prop_assert_eq!(code(verify(SECRET, &[&header], &body)), "signature_invalid", "{}", header);
    }

    #[test]
    fn no_header_or_body_makes_it_fall(header in "\\PC{0,80}", parts in "(t|v1|v0|=|,|[0-9a-f]{64}|[0-9]{1,13}){0,12}", body: Vec<u8>) {
        for header in [&header, &parts] {
            prop_assert_eq!(code(verify(SECRET, &[header], &body)), "signature_invalid");
        }
        prop_assert_eq!(code(verify(SECRET, &[&signature(SECRET, NOW, &body)], &body)), "body_invalid");
    }
}
