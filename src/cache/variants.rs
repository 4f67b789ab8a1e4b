//! The encodings in which a body is kept, each made once, when the entry is made.

use std::io::{Read, Write};

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// Quality of brotli: beyond 5 the time grows faster than the bytes shrink.
const BROTLI_QUALITY: u32 = 5;
/// log2 of brotli's window: 4 MiB, what every decoder takes.
const BROTLI_WINDOW: u32 = 22;

/// Longer bodies are not copied once more to be kept beside their tag.
const JOINED_BYTES_MAX: usize = 4096;

/// Bytes of the entity tag that each variant of a body is kept with.
pub const ETAG_BYTES: usize = 18;

/// An encoding of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As produced.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 7932.
    Brotli,
}

impl Encoding {
    /// The content coding's name; `None` for identity, which is not named.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Brotli => Some("br"),
        }
    }

    /// A body in this encoding; `None` where that does not make it smaller. Takes about a millisecond for 20 KiB.
    pub fn encode(self, body: &[u8]) -> Option<Bytes> {
        let encoded = match self {
            Self::Identity => None,
            Self::Gzip => gzip(body),
            Self::Brotli => brotli(body),
        };
        encoded.filter(|encoded| encoded.len() < body.len()).map(Bytes::from)
    }

    /// The body of so many bytes that was encoded. `None` where it is anything else: no more is unpacked than was asked for.
    pub fn decode(self, encoded: &[u8], body_bytes: usize) -> Option<Bytes> {
        let limit = u64::try_from(body_bytes).ok()?.checked_add(1)?;
        let mut body = Vec::with_capacity(limit.try_into().ok()?);
        let read = match self {
            Self::Identity => encoded.take(limit).read_to_end(&mut body),
            Self::Gzip => flate2::read::GzDecoder::new(encoded).take(limit).read_to_end(&mut body),
            Self::Brotli => brotli::Decompressor::new(encoded, 4096).take(limit).read_to_end(&mut body),
        };
        read.ok().filter(|read| *read == body_bytes).map(|_| body.into())
    }
}

/// A body in one encoding, with the strong entity tag of exactly these bytes.
#[derive(Clone, Debug)]
pub struct Variant {
    /// The bytes to send.
    pub bytes: Bytes,
    /// The tag, with its quotes.
    pub etag: Bytes,
}

/// A body in the encodings that are worth keeping.
#[derive(Clone, Debug)]
pub struct Variants {
    identity: Variant,
    /// Apart, since small bodies have none of it, and there may be a million of them.
    encoded: Option<Box<Encoded>>,
}

#[derive(Clone, Debug)]
struct Encoded {
    gzip: Option<Variant>,
    brotli: Option<Variant>,
}

impl Variant {
    /// A body with its tag. A small one is kept in one piece with it: there may be a million of them, and each piece of memory
    /// has its price.
    fn new(bytes: Bytes, etag: &str) -> Self {
        if bytes.len() > JOINED_BYTES_MAX {
            return Self { bytes, etag: Bytes::copy_from_slice(etag.as_bytes()) };
        }
        let joined = Bytes::from([&bytes, etag.as_bytes()].concat());
        Self { bytes: joined.slice(..bytes.len()), etag: joined.slice(bytes.len()..) }
    }
}

impl Variants {
    /// All variants of a body. Bodies shorter than `compress_bytes_min` are kept as they are, and so is a body that an
    /// encoding does not make smaller.
    pub fn of(body: Bytes, compress_bytes_min: usize) -> Self {
        let tag = etag_text(&body);
        let worth_it = body.len() >= compress_bytes_min;
        let encoded = |encoding: Encoding| worth_it.then(|| encoding.encode(&body)).flatten();
        let (gzip, brotli) = (encoded(Encoding::Gzip), encoded(Encoding::Brotli));
        Self::from_parts(&tag, body, gzip, brotli)
    }

    /// Variants that were made before, with the text of their tag.
    pub fn from_parts(tag: &str, identity: Bytes, gzip: Option<Bytes>, brotli: Option<Bytes>) -> Self {
        let variant = |encoding: Encoding, bytes| {
            let etag = match encoding.name() {
                Some(name) => format!("\"{tag}-{name}\""),
                None => format!("\"{tag}\""),
            };
            Variant::new(bytes, &etag)
        };
        let gzip = gzip.map(|bytes| variant(Encoding::Gzip, bytes));
        let brotli = brotli.map(|bytes| variant(Encoding::Brotli, bytes));
        let is_encoded = gzip.is_some() || brotli.is_some();
        Self {
            identity: variant(Encoding::Identity, identity),
            encoded: is_encoded.then(|| Box::new(Encoded { gzip, brotli })),
        }
    }

    fn variant(&self, encoding: Encoding) -> Option<&Variant> {
        let encoded = self.encoded.as_deref();
        match encoding {
            Encoding::Identity => Some(&self.identity),
            Encoding::Gzip => encoded?.gzip.as_ref(),
            Encoding::Brotli => encoded?.brotli.as_ref(),
        }
    }

    /// The text that the tags of all variants have in common.
    pub fn tag(&self) -> &[u8] {
        self.identity.etag.strip_prefix(b"\"").and_then(|tag| tag.strip_suffix(b"\"")).unwrap_or_default()
    }

    /// The body in an encoding, where that is kept.
    pub fn get(&self, encoding: Encoding) -> Option<&Bytes> {
        self.variant(encoding).map(|variant| &variant.bytes)
    }

    /// The best variant among those that the client takes: brotli, then gzip, then the body as it is.
    pub fn choose(&self, takes: impl Fn(Encoding) -> bool) -> (Encoding, &Variant) {
        let taken = [Encoding::Brotli, Encoding::Gzip]
            .into_iter()
            .find_map(|encoding| Some((encoding, self.variant(encoding).filter(|_| takes(encoding))?)));
        taken.unwrap_or((Encoding::Identity, &self.identity))
    }

    /// Whether there is more than one variant to choose from.
    pub fn is_encoded(&self) -> bool {
        self.encoded.is_some()
    }

    /// The body as produced.
    pub fn identity(&self) -> &Variant {
        &self.identity
    }

    /// Bytes of all variants and their tags.
    pub fn bytes_kept(&self) -> usize {
        let encodings = [Encoding::Identity, Encoding::Gzip, Encoding::Brotli].into_iter();
        encodings
            .filter_map(|encoding| self.variant(encoding))
            .map(|variant| variant.bytes.len() + variant.etag.len())
            .sum()
    }
}

/// 96 bits of SHA-256, six to a character: the same body has the same tag in every process, and the tag stays short.
fn etag_text(body: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digest = Sha256::digest(body);
    let bits = digest.iter().take(12).fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    let character = |index: u32| usize::try_from(bits >> (6 * index) & 63).ok().and_then(|at| ALPHABET.get(at));
    (0..16).rev().filter_map(character).copied().map(char::from).collect()
}

/// `None` where the encoder fails, which leaves the body as it is; writing to memory does not fail in practice.
fn gzip(body: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(body.len() / 4), flate2::Compression::default());
    encoder.write_all(body).ok()?;
    encoder.finish().ok()
}

fn brotli(body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(body.len() / 4);
    let mut encoder = brotli::CompressorWriter::new(&mut out, 4096, BROTLI_QUALITY, BROTLI_WINDOW);
    encoder.write_all(body).ok()?;
    encoder.flush().ok()?;
    drop(encoder);
    Some(out)
}
