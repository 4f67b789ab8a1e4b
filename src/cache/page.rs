//! A page of a snapshot, as one origin hands it to another: entries in the form that Redis and the snapshot file have, the hard
//! purges that its origin knows, and where to go on.
//!
//! A page is believed whole or not at all: its checksum is keyed with the namespace and covers every byte. The purges are those
//! that were known once all entries were in, so whoever learns them first never has an entry that one of them forbids.

use super::fence::HardPurges;
use super::key::Key;
use super::shared::codec::{Codec, NotOurs, Reader, Writer};
use crate::position::Position;

const MAGIC: &[u8; 8] = b"MSpage1\n";
const CHECKSUM_BYTES: usize = 16;
/// No page is longer, whatever was asked for.
pub const PAGE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A place in the snapshot of a process, for whoever goes on from there. To others it is a text without meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The process: in another one all numbers are others.
    pub epoch: u64,
    /// All that was put into the store up to this number is told.
    pub since: u64,
    /// The walk under way through what was put there later; 0: none is.
    pub walk: u64,
    /// How far it has come.
    pub index: u64,
}

impl Cursor {
    /// None where it is no cursor, or that of another version.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-').map(|part| u64::from_str_radix(part, 16).ok());
        let mut next = || parts.next().flatten();
        let cursor = Self { epoch: next()?, since: next()?, walk: next()?, index: next()? };
        parts.next().is_none().then_some(cursor)
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { epoch, since, walk, index } = self;
        write!(f, "{epoch:x}-{since:x}-{walk:x}-{index:x}")
    }
}

/// What stands in a page beside its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// What to ask for next.
    pub cursor: String,
    /// Whether there is nothing more for now.
    pub is_last: bool,
    /// Whether the cursor that was asked for leads nowhere any more, so that this page begins anew.
    pub began_anew: bool,
    /// The hard purges that its origin knows; none where it was told nothing yet.
    pub purges: Option<HardPurges>,
    /// Whether they are all that matter.
    pub are_all_purges: bool,
}

/// Makes a page.
pub struct PageWriter {
    out: Writer,
}

impl PageWriter {
    /// A page without entries.
    pub fn new() -> Self {
        Self { out: Writer(MAGIC.to_vec()) }
    }

    /// Adds the value of an entry, unless the page would become too long. Says whether it did.
    pub fn add(&mut self, key: Key, value: &[u8]) -> bool {
        let fits = self.bytes() + value.len() <= PAGE_BYTES_MAX / 2;
        if fits {
            self.out.bytes(&[1]);
            self.out.bytes(&key.0.to_be_bytes());
            self.out.part(value);
        }
        fits
    }

    /// Its bytes as of now.
    pub fn bytes(&self) -> usize {
        self.out.0.len()
    }

    /// The page with its tail.
    pub fn finish(mut self, tail: &Tail, codec: &Codec) -> Vec<u8> {
        let out = &mut self.out;
        out.bytes(&[0]);
        out.part(tail.cursor.as_bytes());
        out.bytes(&[u8::from(tail.is_last), u8::from(tail.began_anew), u8::from(tail.are_all_purges)]);
        out.bytes(&[u8::from(tail.purges.is_some())]);
        if let Some(HardPurges { through, all, tags }) = &tail.purges {
            out.position(Some(*through));
            out.position(*all);
            out.length(tags.len());
            for (hash, at) in tags {
                out.bytes(&hash.to_be_bytes());
                out.position(Some(*at));
            }
        }
        let checksum = codec.page_checksum(&out.0);
        out.bytes(&checksum);
        self.out.0
    }
}

impl Default for PageWriter {
    fn default() -> Self {
        Self::new()
    }
}

/// A page that was read: its tail, and the values of its entries with their keys.
#[derive(Debug)]
pub struct Page<'a> {
    /// What stands beside the entries.
    pub tail: Tail,
    /// The entries.
    pub values: Vec<(Key, &'a [u8])>,
}

impl<'a> Page<'a> {
    /// Reads a page.
    ///
    /// # Errors
    /// [`NotOurs`] where it was cut or changed, is of another version, or of an origin with another namespace.
    pub fn read(page: &'a [u8], codec: &Codec) -> Result<Self, NotOurs> {
        let length = page.len().checked_sub(CHECKSUM_BYTES).ok_or(NotOurs)?;
        let (page, checksum) = page.split_at_checked(length).ok_or(NotOurs)?;
        if checksum != codec.page_checksum(page) {
            return Err(NotOurs);
        }
        let mut read = Reader(page);
        if read.bytes(MAGIC.len())? != MAGIC {
            return Err(NotOurs);
        }
        let mut values = Vec::new();
        while flag(&mut read)? {
            let key = Key(u128::from_be_bytes(read.array()?));
            values.push((key, read.part()?));
        }
        let cursor = std::str::from_utf8(read.part()?).map_err(|_| NotOurs)?.to_owned();
        let (is_last, began_anew, are_all_purges) = (flag(&mut read)?, flag(&mut read)?, flag(&mut read)?);
        let purges = if flag(&mut read)? { Some(purges(&mut read)?) } else { None };
        if !read.0.is_empty() || Cursor::parse(&cursor).is_none() {
            return Err(NotOurs);
        }
        Ok(Self { tail: Tail { cursor, is_last, began_anew, purges, are_all_purges }, values })
    }
}

fn purges(read: &mut Reader<'_>) -> Result<HardPurges, NotOurs> {
    let (through, all) = (read.position()?.ok_or(NotOurs)?, read.position()?);
    let mut tags: Vec<(u64, Position)> = Vec::new();
    for _ in 0..read.length()? {
        tags.push((u64::from_be_bytes(read.array()?), read.position()?.ok_or(NotOurs)?));
    }
    Ok(HardPurges { through, all, tags })
}

fn flag(read: &mut Reader<'_>) -> Result<bool, NotOurs> {
    match read.array()? {
        [0] => Ok(false),
        [1] => Ok(true),
        _ => Err(NotOurs),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::position::{Lsn, SystemId, Timeline};

    fn codec() -> Codec {
        Codec::new("test", 1024)
    }

    fn at(lsn: u64) -> Position {
        Position { lsn: Lsn(lsn), ..Position::start_of(SystemId(7), Timeline(1)) }
    }

    fn tail(purges: Option<u64>) -> Tail {
        let cursor = Cursor { epoch: u64::MAX, since: 5, walk: 0, index: 17 };
        let list = |count| HardPurges {
            through: at(99),
            all: Some(at(3)).filter(|_| count % 2 == 0),
            tags: (0..count).map(|number| (number * 31, at(number))).collect(),
        };
        let purges = purges.map(list);
        Tail { cursor: cursor.to_string(), is_last: true, began_anew: false, are_all_purges: true, purges }
    }

    fn page(values: &[Vec<u8>], purges: Option<u64>) -> Vec<u8> {
        let mut page = PageWriter::new();
        for (number, value) in (0..).zip(values) {
            assert!(page.add(Key(number), value));
        }
        page.finish(&tail(purges), &codec())
    }

    proptest! {
        #[test]
        fn a_page_reads_as_it_was_written(values: Vec<Vec<u8>>, purges in prop::option::of(0_u64..20)) {
            let written = page(&values, purges);
            let read = Page::read(&written, &codec()).unwrap();
            prop_assert_eq!(read.tail, tail(purges));
            prop_assert!((0..).zip(&values).map(|(number, value)| (Key(number), value.as_slice())).eq(read.values));
        }

        #[test]
        fn a_page_that_was_cut_or_changed_anywhere_is_refused(
            values: Vec<Vec<u8>>,
            place: prop::sample::Index,
            bit in 0_u8..8,
            more in 1_usize..9,
        ) {
            let whole = page(&values, Some(2));
            let place = place.index(whole.len());
            prop_assert!(Page::read(&whole[..place], &codec()).is_err(), "cut");
            let mut changed = whole.clone();
            changed[place] ^= 1_u8 << bit;
            prop_assert!(Page::read(&changed, &codec()).is_err(), "changed");
            changed.clone_from(&whole);
            changed.extend(std::iter::repeat_n(0, more));
            prop_assert!(Page::read(&changed, &codec()).is_err(), "longer");
        }

        #[test]
        fn whatever_the_bytes_are_reading_them_ends(noise: Vec<u8>) {
            prop_assert!(Page::read(&noise, &codec()).is_err());
            // With a right checksum: what a defect, or an enemy who has the namespace, could send.
            let mut page = [MAGIC.as_slice(), &noise].concat();
            page.extend(codec().page_checksum(&page));
            let _any = Page::read(&page, &codec());
        }

        #[test]
        fn a_cursor_reads_what_it_prints(epoch: u64, since: u64, walk: u64, index: u64, noise: String) {
            let cursor = Cursor { epoch, since, walk, index };
            prop_assert_eq!(Cursor::parse(&cursor.to_string()), Some(cursor));
            prop_assert!(Cursor::parse(&noise).is_none_or(|cursor| cursor.epoch < u64::MAX));
        }
    }

    #[test]
    fn pages_of_others_are_refused() {
        let written = page(&[vec![1]], None);
        assert!(Page::read(&written, &Codec::new("other", 1024)).is_err());
        for text in ["", "1-2-3", "1-2-3-4-5", "1-2-3-x", "-1-2-3-4"] {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_page_stays_within_its_bound() {
        let mut page = PageWriter::new();
        assert!(!page.add(Key(1), &vec![0; PAGE_BYTES_MAX]));
        assert!(page.add(Key(2), &[1]));
        let page = page.finish(&tail(None), &codec());
        assert_eq!(Page::read(&page, &codec()).unwrap().values, [(Key(2), [1].as_slice())]);
    }
}
