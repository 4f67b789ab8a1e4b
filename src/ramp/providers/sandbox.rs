//! The sandbox: a provider that moves nothing. Who knows its secret says what was paid.

use std::time::Duration;

use ring::hmac;
use serde::Deserialize;
use subtle::{Choice, ConstantTimeEq};
use uuid::Uuid;

use super::{Delivery, Event, Provider};
use crate::config::units::Secret;
use crate::error::{Code, Error};
use crate::ramp::json;

/// Its name.
pub const NAME: &str = "sandbox";
/// The request header with the signature, in lower case.
const HEADER: &str = "x-signature";
/// Digits of a time in seconds; enough for the next 30,000 years.
const TIME_DIGITS_MAX: usize = 12;
/// Signatures that one header may have: as many as there are secrets while they change, and some more.
const SIGNATURES_MAX: usize = 8;
const MAC_BYTES: usize = 32;

/// The provider. Deliveries are signed with one of its secrets: `X-Signature: t=<unix seconds>,v1=<hex HMAC-SHA256 of "t.body">`.
pub struct Sandbox {
    keys: Vec<hmac::Key>,
    tolerance: Duration,
}

/// The events, as they are written. Providers add members as they please, so unknown ones are no error.
#[derive(Deserialize)]
struct Body {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    order_id: Uuid,
    amount: Option<i64>,
    currency: Option<String>,
}

/// What a signature header says.
struct Signed<'a> {
    /// The time as it is written, which is how it was signed.
    time: &'a str,
    seconds: u64,
    macs: Vec<[u8; MAC_BYTES]>,
}

impl Sandbox {
    /// One that takes what any of these secrets has signed, as long as its time differs by no more than this; none without secrets.
    pub fn new(secrets: &[Secret], tolerance: Duration) -> Option<Self> {
        let key = |secret: &Secret| hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
        let keys: Vec<hmac::Key> = secrets.iter().map(key).collect();
        (!keys.is_empty()).then_some(Self { keys, tolerance })
    }

    /// Whether any of the signatures is that of any secret. All pairs are compared, each in the same time wherever they differ.
    fn is_signed(&self, signed: &Signed<'_>, body: &[u8]) -> bool {
        let mut any = Choice::from(0);
        for key in &self.keys {
            let mut context = hmac::Context::with_key(key);
            context.update(signed.time.as_bytes());
            context.update(b".");
            context.update(body);
            let expected = context.sign();
            for mac in &signed.macs {
                any |= expected.as_ref().ct_eq(mac);
            }
        }
        any.into()
    }
}

impl Provider for Sandbox {
    fn name(&self) -> &str {
        NAME
    }

    fn verify(&self, delivery: &Delivery<'_>) -> Result<Event, Error> {
        let refused = |sentence: String| Error::new(Code::SignatureInvalid, sentence);
        let mut values = delivery.header(HEADER);
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(refused("one header X-Signature is required".to_owned()));
        };
        let signed = Signed::read(value).ok_or_else(|| {
            let form = "t=<unix seconds>,v1=<64 hexadecimal digits>";
            refused(format!("X-Signature must be like {form}, with at most {SIGNATURES_MAX} signatures"))
        })?;
        if delivery.now.as_secs().abs_diff(signed.seconds) > self.tolerance.as_secs() {
            let seconds = self.tolerance.as_secs();
            return Err(refused(format!("the time in X-Signature is not within {seconds} s of the time here")));
        }
        if !self.is_signed(&signed, delivery.body) {
            return Err(refused("X-Signature is not that of this body".to_owned()));
        }
        let Body { id, kind, data } = json(delivery.body)?;
        let Data { order_id, amount, currency } = data;
        Ok(Event { id, kind, order_id, amount, currency })
    }
}

impl<'a> Signed<'a> {
    fn read(value: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let (mut time, mut macs) = (None, Vec::new());
        for part in text.split(',') {
            match part.trim_ascii().split_once('=')? {
                ("t", digits) if time.is_none() => time = Some(digits),
                ("t", _) => return None,
                ("v1", digits) if macs.len() < SIGNATURES_MAX => macs.push(mac(digits)?),
                ("v1", _) => return None,
                // Another scheme, which may be a later one.
                _ => {}
            }
        }
        let time =
            time.filter(|time| time.len() <= TIME_DIGITS_MAX && time.bytes().all(|byte| byte.is_ascii_digit()))?;
        (!macs.is_empty()).then_some(Self { time, seconds: time.parse().ok()?, macs })
    }
}

/// The bytes that 64 hexadecimal digits stand for.
fn mac(digits: &str) -> Option<[u8; MAC_BYTES]> {
    let mut mac = [0; MAC_BYTES];
    if digits.len() != MAC_BYTES * 2 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in mac.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(mac)
}
