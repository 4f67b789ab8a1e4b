//! An entry as bytes, for Redis and for the snapshot file.
//!
//! A value begins with a head of fixed places, which the scripts in Redis read without the rest: what it is, how much its
//! filler had been told, and a checksum, which tells one value from another as well. The checksum is keyed with the namespace
//! and covers the key, so that a value is refused that was cut, changed, written for another key or by another fleet.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::hash::Hasher;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::cache::entry::{Entry, Origin, Parts};
use crate::cache::key::Key;
use crate::cache::policy::Limits;
use crate::cache::tag::Tag;
use crate::cache::variants::{Encoding, Variants};
use crate::position::{Lsn, Position, SystemId, Timeline};

/// The form that this file describes. It is part of the names in Redis, too: versions that run side by side do not meet.
pub const FORMAT: u8 = b'2';
/// What a value begins with.
const MAGIC: [u8; 4] = [b'M', b'S', b'e', FORMAT];
/// Where the stamp stands: whether there is one, then system, timeline and LSN, the greatest digits first, so that the order
/// of the bytes is the order of positions.
pub const STAMP: Range<usize> = 4..25;
/// How many bytes of the stamp must be equal for the rest of two to be compared: positions of two clusters have no order.
pub const STAMP_SYSTEM_BYTES: usize = 9;
/// Where the checksum stands.
const CHECKSUM: Range<usize> = 25..41;
/// The fixed places together.
pub const HEAD_BYTES: usize = 41;

/// A shorter body is in the value beside its encodings: to unpack it takes longer than to read it.
const PACKED_BYTES_MIN: usize = 4096;

/// Distinct texts that values may bring into this process: media types, and who produced an answer.
const INTERNED_MAX: usize = 256;
/// Longest of them.
const INTERNED_BYTES_MAX: usize = 256;

/// A value that is not one of this fleet for this key, or is no longer whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value is damaged, or was not written by this fleet for this key")]
pub struct NotOurs;

/// How long a value has been kept, as whoever keeps it can tell.
#[derive(Clone, Copy, Debug)]
pub enum Kept {
    /// For so long.
    For(Duration),
    /// So much is left of the time for which it was to be kept.
    Left(Duration),
}

/// Makes values of entries, and entries of values.
pub struct Codec {
    hasher: SipHasher13,
    body_bytes_max: usize,
}

impl Codec {
    /// The codec of a namespace. A body longer than the bound is not unpacked.
    pub fn new(namespace: &str, body_bytes_max: usize) -> Self {
        let digest: [u8; 32] = Sha256::digest(format!("mainstay value:{namespace}")).into();
        let mut seed = [0; 16];
        seed.iter_mut().zip(digest).for_each(|(byte, digest)| *byte = digest);
        Self { hasher: SipHasher13::new_with_key(&seed), body_bytes_max }
    }

    /// The value of an entry, which is to be kept for so long from now on.
    pub fn encode(&self, key: Key, entry: &Entry, now: Instant, kept_for: Duration) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(512 + entry.body.bytes_kept()));
        out.bytes(&MAGIC);
        out.position(entry.told());
        out.bytes(&[0; CHECKSUM.end - CHECKSUM.start]);
        let Limits { fresh, stale_while_revalidate, stale_if_error } = entry.limits;
        for span in [entry.age(now), kept_for, entry.cost(), fresh, stale_while_revalidate, stale_if_error] {
            out.span(span);
        }
        out.bytes(&entry.status.to_be_bytes());
        out.bytes(&[u8::from(entry.outlives_change)]);
        out.position(entry.as_of());
        out.position(entry.seen());
        out.part(entry.content_type.as_bytes());
        out.part(entry.detail.as_bytes());
        out.part(&entry.canonical);
        out.bytes(&entry.fingerprint);
        out.optional(entry.absence.as_ref().map(|sentence| sentence.as_bytes()));
        out.length(entry.tags.len());
        entry.tags.iter().for_each(|tag| out.part(tag.name().as_bytes()));
        // A long body is left out where an encoding of it is there, and unpacked from that.
        let body = &entry.body.identity().bytes;
        out.part(entry.body.tag());
        out.length(body.len());
        let identity = Some(body).filter(|_| body.len() < PACKED_BYTES_MIN || !entry.body.is_encoded());
        for bytes in [identity, entry.body.get(Encoding::Gzip), entry.body.get(Encoding::Brotli)] {
            out.optional(bytes.map(|bytes| &**bytes));
        }
        let checksum = self.checksum(key, &out.0);
        if let Some(place) = out.0.get_mut(CHECKSUM) {
            place.copy_from_slice(&checksum);
        }
        out.0
    }

    /// The entry of a value. Its age is what it was when it was encoded and for how long it was kept since, as of `asked`.
    ///
    /// # Errors
    /// [`NotOurs`], whatever the bytes are: nothing in them is believed before the checksum is right.
    pub fn decode(&self, key: Key, value: &[u8], kept: Kept, asked: Instant, origin: Origin) -> Result<Entry, NotOurs> {
        let mut read = Reader(value);
        let (magic, told, checksum) = (read.bytes(MAGIC.len())?, read.position()?, read.bytes(CHECKSUM.len())?);
        if magic != MAGIC || checksum != self.checksum(key, value) {
            return Err(NotOurs);
        }
        let (age, kept_for, cost) = (read.span()?, read.span()?, read.span()?);
        let limits = Limits { fresh: read.span()?, stale_while_revalidate: read.span()?, stale_if_error: read.span()? };
        let kept = match kept {
            Kept::For(span) => span,
            Kept::Left(left) => kept_for.saturating_sub(left),
        };
        // Never younger than it is: what is too old for this machine's clock is not taken at all.
        let made = asked.checked_sub(age.saturating_add(kept)).ok_or(NotOurs)?;
        let status = u16::from_be_bytes(read.array()?);
        let outlives_change = read.array::<1>()? == [1];
        let (as_of, seen) = (read.position()?, read.position()?);
        let (content_type, detail) = (interned(read.text()?)?, interned(read.text()?)?);
        let (canonical, fingerprint) = (read.part()?, read.array()?);
        let absence = match read.optional()? {
            Some(bytes) => Some(Cow::Owned(text(bytes)?.to_owned())),
            None => None,
        };
        let tags = read.tags(key)?;
        let body = self.body(&mut read)?;
        if !read.0.is_empty() {
            return Err(NotOurs);
        }
        let parts = Parts {
            status,
            content_type,
            body,
            tags,
            told,
            is_local: false,
            as_of,
            seen,
            outlives_change,
            origin,
            made,
            cost,
            limits,
            detail,
            absence,
        };
        Ok(Entry::new(canonical, fingerprint, parts))
    }

    fn body(&self, read: &mut Reader<'_>) -> Result<Variants, NotOurs> {
        let (tag, body_bytes) = (read.text()?, read.length()?);
        let [identity, gzip, brotli] = [read.optional()?, read.optional()?, read.optional()?];
        if body_bytes > self.body_bytes_max {
            return Err(NotOurs);
        }
        // gzip before brotli: it is unpacked in a third of the time.
        let kept = [(Encoding::Identity, identity), (Encoding::Gzip, gzip), (Encoding::Brotli, brotli)];
        let (encoding, bytes) =
            kept.into_iter().find_map(|(encoding, bytes)| Some((encoding, bytes?))).ok_or(NotOurs)?;
        let identity = encoding.decode(bytes, body_bytes).ok_or(NotOurs)?;
        let copy = |bytes: Option<&[u8]>| bytes.map(Bytes::copy_from_slice);
        Ok(Variants::from_parts(tag, identity, copy(gzip), copy(brotli)))
    }

    /// The checksum of a page of values: see `page.rs`.
    pub(in crate::cache) fn page_checksum(&self, page: &[u8]) -> [u8; 16] {
        let mut hasher = self.hasher;
        hasher.write(b"page");
        hasher.write(page);
        hasher.finish128().as_u128().to_be_bytes()
    }

    /// Covers all but itself.
    fn checksum(&self, key: Key, value: &[u8]) -> [u8; 16] {
        let mut hasher = self.hasher;
        hasher.write(&key.0.to_be_bytes());
        hasher.write(value.get(..CHECKSUM.start).unwrap_or_default());
        hasher.write(value.get(CHECKSUM.end..).unwrap_or_default());
        hasher.finish128().as_u128().to_be_bytes()
    }
}

/// Writes numbers, the greatest digits first, and parts with their lengths before them.
pub(in crate::cache) struct Writer(pub Vec<u8>);

impl Writer {
    pub(in crate::cache) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A length that four bytes cannot hold is one that no reader finds so many bytes for.
    pub(in crate::cache) fn length(&mut self, length: usize) {
        self.bytes(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    }

    pub(in crate::cache) fn part(&mut self, part: &[u8]) {
        self.length(part.len());
        self.bytes(part);
    }

    fn optional(&mut self, part: Option<&[u8]>) {
        self.bytes(&[u8::from(part.is_some())]);
        if let Some(part) = part {
            self.part(part);
        }
    }

    fn span(&mut self, span: Duration) {
        self.bytes(&u64::try_from(span.as_micros()).unwrap_or(u64::MAX).to_be_bytes());
    }

    pub(in crate::cache) fn position(&mut self, position: Option<Position>) {
        let zero = Position::start_of(SystemId(0), Timeline(0));
        let Position { system, timeline, lsn } = position.unwrap_or(zero);
        self.bytes(&[u8::from(position.is_some())]);
        self.bytes(&system.0.to_be_bytes());
        self.bytes(&timeline.0.to_be_bytes());
        self.bytes(&lsn.0.to_be_bytes());
    }
}

/// Reads what a [`Writer`] wrote. Whatever the bytes are, that ends.
pub(in crate::cache) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub(in crate::cache) fn bytes(&mut self, count: usize) -> Result<&'a [u8], NotOurs> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(NotOurs)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(in crate::cache) fn array<const COUNT: usize>(&mut self) -> Result<[u8; COUNT], NotOurs> {
        self.bytes(COUNT)?.try_into().map_err(|_| NotOurs)
    }

    pub(in crate::cache) fn length(&mut self) -> Result<usize, NotOurs> {
        usize::try_from(u32::from_be_bytes(self.array()?)).map_err(|_| NotOurs)
    }

    pub(in crate::cache) fn part(&mut self) -> Result<&'a [u8], NotOurs> {
        let length = self.length()?;
        self.bytes(length)
    }

    fn optional(&mut self) -> Result<Option<&'a [u8]>, NotOurs> {
        match self.array::<1>()? {
            [0] => Ok(None),
            _ => self.part().map(Some),
        }
    }

    fn text(&mut self) -> Result<&'a str, NotOurs> {
        text(self.part()?)
    }

    fn span(&mut self) -> Result<Duration, NotOurs> {
        Ok(Duration::from_micros(u64::from_be_bytes(self.array()?)))
    }

    pub(in crate::cache) fn position(&mut self) -> Result<Option<Position>, NotOurs> {
        let is_there = self.array::<1>()? == [1];
        let position = Position {
            system: SystemId(u64::from_be_bytes(self.array()?)),
            timeline: Timeline(u32::from_be_bytes(self.array()?)),
            lsn: Lsn(u64::from_be_bytes(self.array()?)),
        };
        Ok(Some(position).filter(|_| is_there))
    }

    /// Tags by name. That of the entry itself has none.
    fn tags(&mut self, key: Key) -> Result<Vec<Tag>, NotOurs> {
        let count = self.length()?;
        let mut tags = Vec::with_capacity(count.min(64));
        for _ in 0..count {
            tags.push(match self.text()? {
                "" => Tag::of_key(key),
                name => Tag::new(name),
            });
        }
        Ok(tags)
    }
}

fn text(bytes: &[u8]) -> Result<&str, NotOurs> {
    std::str::from_utf8(bytes).map_err(|_| NotOurs)
}

/// The text as one that lives as long as the program. Beyond the bound a new one is refused, and so its value.
///
/// # Errors
/// [`NotOurs`] for a new text beyond the bound.
pub fn interned(text: &str) -> Result<&'static str, NotOurs> {
    static TEXTS: RwLock<BTreeSet<&'static str>> = RwLock::new(BTreeSet::new());
    if let Some(known) = TEXTS.read().get(text) {
        return Ok(known);
    }
    let mut texts = TEXTS.write();
    if texts.len() >= INTERNED_MAX || text.len() > INTERNED_BYTES_MAX {
        return Err(NotOurs);
    }
    let known: &'static str = text.to_owned().leak();
    texts.insert(known);
    Ok(known)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: Key = Key(7);

    fn codec() -> Codec {
        Codec::new("test", 1024 * 1024)
    }

    fn at(lsn: u64) -> Position {
        Position { lsn: Lsn(lsn), ..Position::start_of(SystemId(u64::MAX), Timeline(3)) }
    }

    fn entry(body: Vec<u8>, absence: Option<&'static str>, told: Option<Position>) -> Entry {
        let parts = Parts {
            status: 200,
            content_type: "application/json",
            body: Variants::of(body.into(), 1024),
            tags: vec![Tag::new("rates"), Tag::of_key(KEY), Tag::new("rates:USD")],
            told,
            is_local: false,
            as_of: Some(at(9)),
            seen: Some(at(11)),
            outlives_change: true,
            origin: Origin::Filled,
            made: Instant::now(),
            cost: Duration::from_millis(3),
            limits: Limits {
                fresh: Duration::from_secs(300),
                stale_while_revalidate: Duration::from_secs(60),
                stale_if_error: Duration::from_secs(86400),
            },
            detail: "replica",
            absence: absence.map(Cow::Borrowed),
        };
        Entry::new(b"/rates?base=EUR", [5; 16], parts)
    }

    const HOUR: Duration = Duration::from_secs(3600);

    fn encode(entry: &Entry) -> Vec<u8> {
        codec().encode(KEY, entry, entry.made + Duration::from_secs(10), HOUR)
    }

    fn decode(value: &[u8]) -> Result<Entry, NotOurs> {
        codec().decode(KEY, value, Kept::For(Duration::ZERO), Instant::now(), Origin::Shared)
    }

    #[track_caller]
    fn assert_same(entry: &Entry, other: &Entry) {
        assert_eq!(other.origin, Origin::Shared);
        assert!(other.answers(&entry.canonical, &entry.fingerprint));
        assert_eq!((other.status, other.content_type, other.detail), (entry.status, entry.content_type, entry.detail));
        assert_eq!((&other.tags, other.told()), (&entry.tags, entry.told()));
        assert_eq!((other.as_of(), other.seen()), (entry.as_of(), entry.seen()));
        assert_eq!((other.cost(), other.limits, &other.absence), (entry.cost(), entry.limits, &entry.absence));
        assert_eq!(other.outlives_change, entry.outlives_change);
        for encoding in [Encoding::Identity, Encoding::Gzip, Encoding::Brotli] {
            assert_eq!(other.body.get(encoding), entry.body.get(encoding), "{encoding:?}");
            let etag = |entry: &Entry| entry.body.choose(|it| it == encoding).1.etag.clone();
            assert_eq!(etag(other), etag(entry));
        }
    }

    proptest! {
        #[test]
        fn an_entry_reads_as_it_was_written(body: Vec<u8>, times in 1_usize..2000, told: Option<u64>) {
            let entry = entry(body.repeat(times), None, told.map(at));
            let value = encode(&entry);
            assert_same(&entry, &decode(&value).unwrap());
        }

        #[test]
        fn a_value_with_any_bit_flipped_is_refused(size in 0_usize..3000, place: prop::sample::Index, bit in 0_u8..8) {
            let mut value = encode(&entry(b"ab".repeat(size), Some("nothing"), Some(at(1))));
            let place = place.index(value.len());
            value[place] ^= 1_u8 << bit;
            prop_assert_eq!(decode(&value).unwrap_err(), NotOurs);
        }

        #[test]
        fn a_value_of_another_length_is_refused(size in 0_usize..3000, end: prop::sample::Index, more: Vec<u8>) {
            let mut value = encode(&entry(b"ab".repeat(size), None, None));
            value.truncate(end.index(value.len()));
            prop_assert_eq!(decode(&value).unwrap_err(), NotOurs);
            value.extend(more);
            prop_assert_eq!(decode(&value).unwrap_err(), NotOurs);
        }

        #[test]
        fn whatever_the_bytes_are_reading_them_ends(mut value: Vec<u8>, place: prop::sample::Index, noise: Vec<u8>) {
            prop_assert_eq!(decode(&value).unwrap_err(), NotOurs);
            // With a right checksum: what a defect, or an enemy who has the namespace, could write.
            value.splice(..0, encode(&entry(vec![b'a'; PACKED_BYTES_MIN], None, None)));
            let place = HEAD_BYTES + place.index(value.len() - HEAD_BYTES);
            let end = (place + noise.len()).min(value.len());
            value[place..end].copy_from_slice(&noise[..end - place]);
            let checksum = codec().checksum(KEY, &value);
            value[CHECKSUM].copy_from_slice(&checksum);
            let _any = decode(&value);
        }
    }

    #[test]
    fn values_of_others_are_refused() {
        let value = encode(&entry(vec![1, 2, 3], None, None));
        let now = Instant::now();
        let read = |codec: Codec, key| codec.decode(key, &value, Kept::Left(HOUR), now, Origin::Shared).map(drop);
        assert_eq!(read(codec(), KEY), Ok(()));
        assert_eq!(read(codec(), Key(8)), Err(NotOurs), "another key");
        assert_eq!(read(Codec::new("other", 1024), KEY), Err(NotOurs), "another namespace");
        assert_eq!(read(Codec::new("test", 2), KEY), Err(NotOurs), "too long a body");
        let mut later = value.clone();
        later[3] += 1;
        let checksum = codec().checksum(KEY, &later);
        later[CHECKSUM].copy_from_slice(&checksum);
        assert_eq!(decode(&later).unwrap_err(), NotOurs, "another version");
    }

    #[test]
    fn no_more_is_unpacked_than_the_value_says() {
        let entry = entry(vec![b'a'; 100_000], None, None);
        for encoding in [Encoding::Gzip, Encoding::Brotli] {
            let encoded = entry.body.get(encoding).unwrap();
            assert_eq!(encoding.decode(encoded, 100_000), Some(entry.body.identity().bytes.clone()));
            assert_eq!(encoding.decode(encoded, 99_999), None);
            assert_eq!(encoding.decode(encoded, 100_001), None);
            assert_eq!(encoding.decode(&encoded[..encoded.len() / 2], 100_000), None);
        }
    }

    #[test]
    fn the_age_goes_on_while_the_value_is_kept() {
        let value = encode(&entry(Vec::new(), None, None));
        let asked = Instant::now();
        let age = |kept| codec().decode(KEY, &value, kept, asked, Origin::Shared).unwrap().age(asked);
        let seconds = Duration::from_secs;
        assert_eq!(age(Kept::For(seconds(5))), seconds(15));
        assert_eq!(age(Kept::Left(HOUR - seconds(7))), seconds(17));
        assert_eq!(age(Kept::Left(2 * HOUR)), seconds(10), "a clock that went back adds nothing");
        assert!(codec().decode(KEY, &value, Kept::For(Duration::MAX), asked, Origin::Shared).is_err());
    }

    #[test]
    fn the_bytes_of_stamps_have_the_order_of_positions() {
        let stamp = |told| encode(&entry(Vec::new(), None, told))[STAMP].to_vec();
        let on = |timeline, lsn| Some(Position { timeline: Timeline(timeline), lsn: Lsn(lsn), ..at(0) });
        let stamps = [None, on(0, 0), on(0, 255), on(0, 256), on(1, 0), on(256, u64::MAX)].map(stamp);
        assert!(stamps.is_sorted() && stamps.windows(2).all(|pair| pair[0] != pair[1]));
        let system = |stamp: &[u8]| stamp[..STAMP_SYSTEM_BYTES].to_vec();
        assert!(stamps[1..].iter().all(|stamp| system(stamp) == system(&stamps[1])));
    }

    #[test]
    fn texts_from_outside_do_not_add_up() {
        assert_eq!(interned("application/json").unwrap(), "application/json");
        assert!(interned(&"x".repeat(INTERNED_BYTES_MAX + 1)).is_err());
    }
}
