//! The snapshot: the entries of a process in a file, so that the next one does not begin with nothing.
//!
//! A head, then the values of single entries, the most asked for first, each with a checksum of its own, then a tail that says
//! that the file is whole. The file is written beside its place and moved there, so that there is always one whole file or none.
//! It holds what the database holds, so nobody else on the machine may read it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::entry::{Entry, Origin};
use super::fence::{Fences, Standing};
use super::key::Key;
use super::memory::Memory;
use super::shared::codec::{Codec, Kept};

const MAGIC: &[u8; 8] = b"MSsnap2\n";
const TAIL: &[u8; 8] = b"MSend 1\n";
/// No value is longer: whatever stands in a length, so much memory is asked for at most.
const VALUE_BYTES_MAX: u32 = 256 * 1024 * 1024;

/// What a snapshot came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Entries.
    pub entries: u64,
    /// Their bytes in the file.
    pub bytes: u64,
    /// Entries that were left out, for want of room or because they are of no use.
    pub left_out: u64,
}

/// A snapshot beside its place. Unless it is published, nothing of it stays.
pub struct Draft {
    beside: PathBuf,
}

impl Draft {
    fn create(file: &Path) -> io::Result<(Self, File)> {
        let mut beside = file.as_os_str().to_owned();
        beside.push(".new");
        let draft = Self { beside: beside.into() };
        // One that a crash has left may be readable for others.
        draft.remove();
        let out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft.beside)?;
        Ok((draft, out))
    }

    /// Puts it into its place.
    ///
    /// # Errors
    /// Those of the file system; the file that was there stays.
    pub fn publish(self, file: &Path) -> io::Result<()> {
        std::fs::rename(&self.beside, file)
    }

    fn remove(&self) {
        let _is_gone_already = std::fs::remove_file(&self.beside);
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Writes what is worth keeping, within a bound, beside the place of the file. Blocks.
///
/// # Errors
/// Those of the file system; the file that was there stays.
pub fn write(
    file: &Path,
    memory: &Memory,
    fences: &Fences,
    codec: &Codec,
    bytes_max: u64,
) -> io::Result<(Draft, Count)> {
    let now = Instant::now();
    let entries = memory.entries().filter(|(_, entry)| is_worth_keeping(entry, fences, now));
    let mut entries: Vec<(Key, Arc<Entry>)> = entries.collect();
    // Each is looked at once: the count goes on while they are sorted.
    entries.sort_by_cached_key(|(_, entry)| std::cmp::Reverse(entry.hits()));
    let (draft, out) = Draft::create(file)?;
    let mut out = BufWriter::new(out);
    out.write_all(MAGIC)?;
    let written_secs = since_epoch().as_secs().to_be_bytes();
    out.write_all(&written_secs)?;
    let mut count = Count::default();
    for (key, entry) in &entries {
        let value = codec.encode(*key, entry, now, Duration::ZERO);
        let bytes = u64::try_from(value.len()).unwrap_or(u64::MAX);
        let Some(length) = u32::try_from(value.len()).ok().filter(|_| count.bytes.saturating_add(bytes) <= bytes_max)
        else {
            count.left_out += 1;
            continue;
        };
        out.write_all(&length.to_be_bytes())?;
        out.write_all(&key.0.to_be_bytes())?;
        out.write_all(&value)?;
        count = Count { entries: count.entries + 1, bytes: count.bytes + bytes, ..count };
    }
    out.write_all(&0_u32.to_be_bytes())?;
    out.write_all(TAIL)?;
    // Again, since no entry's checksum covers it, and a wrong one would make them younger than they are.
    out.write_all(&written_secs)?;
    let written = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    written.sync_all()?;
    Ok((draft, count))
}

/// Whether another process may have an entry, and has any use for it.
pub(super) fn is_worth_keeping(entry: &Entry, fences: &Fences, now: Instant) -> bool {
    let age = entry.age(now);
    let is_allowed = entry.standing(fences, age, now) != Standing::Forbidden;
    is_allowed && entry.is_shareable() && age < entry.limits.retention()
}

/// Puts what a file holds into an empty memory, the most asked for first, within a bound. A file that is not whole, not of
/// this fleet, or older than is allowed, puts nothing there. Blocks.
///
/// # Errors
/// Why the file is not used; [`ErrorKind::NotFound`] where there is none.
pub fn load(file: &Path, memory: &Memory, codec: &Codec, bytes_max: u64, age_max: Duration) -> io::Result<Count> {
    let mut read = BufReader::new(File::open(file)?);
    if read_array::<8>(&mut read)? != *MAGIC {
        return Err(io::Error::new(ErrorKind::InvalidData, "it is no snapshot of this version"));
    }
    let written_secs = read_array(&mut read)?;
    let written = Duration::from_secs(u64::from_be_bytes(written_secs));
    // A clock that was set back makes nothing younger than it was when it was written.
    let age = since_epoch().saturating_sub(written);
    if age > age_max {
        return Err(io::Error::new(ErrorKind::InvalidData, "it is too old"));
    }
    let kept = Kept::For(age);
    let (now, mut entries, mut count) = (Instant::now(), Vec::new(), Count::default());
    loop {
        let length = u32::from_be_bytes(read_array(&mut read)?);
        if length == 0 {
            break;
        }
        if length > VALUE_BYTES_MAX {
            return Err(io::Error::new(ErrorKind::InvalidData, "a length in it is out of bounds"));
        }
        let key = Key(u128::from_be_bytes(read_array(&mut read)?));
        let mut value = Vec::new();
        let bytes = (&mut read).take(length.into()).read_to_end(&mut value)?;
        if u32::try_from(bytes).ok() != Some(length) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        match codec.decode(key, &value, kept, now, Origin::Snapshot) {
            Ok(entry)
                if entry.age(now) < memory.retention(&entry)
                    && count.bytes.saturating_add(length.into()) <= bytes_max =>
            {
                entries.push((key, Arc::new(entry)));
                count = Count { entries: count.entries + 1, bytes: count.bytes + u64::from(length), ..count };
            }
            // Of no use any more, or of those that are asked for least and have no room.
            Ok(_) => count.left_out += 1,
            Err(error) => return Err(io::Error::new(ErrorKind::InvalidData, error)),
        }
    }
    if read_array::<8>(&mut read)? != *TAIL || read_array(&mut read)? != written_secs {
        return Err(io::Error::new(ErrorKind::InvalidData, "its end is not that of its beginning"));
    }
    entries.into_iter().for_each(|(key, entry)| memory.put(key, entry));
    Ok(count)
}

fn read_array<const N: usize>(read: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    read.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::entry::Parts;
    use super::super::fence::SilenceLimits;
    use super::super::tag::Tag;
    use super::super::testing::{HOUR, parts};
    use super::*;
    use crate::position::{Position, SystemId, Timeline};

    const BYTES_MAX: u64 = 1024 * 1024;

    /// A memory, the fences of its instance, and a place for a file.
    struct Bench {
        memory: Memory,
        fences: Fences,
        codec: Codec,
        dir: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let fences = Fences::new(100, SilenceLimits { max: Duration::from_secs(2), hard_max: None });
            fences.change(|ledger| ledger.begin_alone(clock()));
            let codec = Codec::new("test", 1024 * 1024);
            Self { memory: Memory::new(BYTES_MAX), fences, codec, dir: tempfile::tempdir().unwrap() }
        }

        /// With entries `a`, `b` and so on, each hit as often as its place says.
        fn filled(count: u8) -> Self {
            let bench = Self::new();
            for number in 0..count {
                let entry = entry(b'a' + number);
                entry.count_hits(number.into());
                bench.memory.put(Key(number.into()), Arc::new(entry));
            }
            bench
        }

        fn file(&self) -> PathBuf {
            self.dir.path().join("snapshot")
        }

        fn write(&self, bytes_max: u64) -> io::Result<Count> {
            let (draft, count) = write(&self.file(), &self.memory, &self.fences, &self.codec, bytes_max)?;
            draft.publish(&self.file())?;
            Ok(count)
        }

        /// What another process reads of the file.
        fn read(&self) -> io::Result<Vec<u8>> {
            let memory = Memory::new(BYTES_MAX);
            let loaded = load(&self.file(), &memory, &self.codec, BYTES_MAX, HOUR);
            let mut bodies: Vec<u8> = memory.entries().map(|(_, entry)| entry.body.identity().bytes[0]).collect();
            bodies.sort_unstable();
            match loaded {
                Ok(count) => assert_eq!(usize::try_from(count.entries).unwrap(), bodies.len()),
                Err(_) => assert!(bodies.is_empty(), "a file that is refused puts nothing there"),
            }
            loaded.map(|_| bodies)
        }
    }

    fn clock() -> Position {
        Position::start_of(SystemId(7), Timeline(0))
    }

    fn entry(letter: u8) -> Entry {
        let tags = vec![Tag::new(format!("tag:{}", char::from(letter)))];
        let parts = Parts { tags, told: Some(clock()), ..parts(letter) };
        Entry::new(&[letter], [1; 16], parts)
    }

    #[test]
    fn what_is_written_is_read_and_nobody_else_may_read_it() {
        let bench = Bench::filled(3);
        // What a crash has left, readable for all.
        std::fs::write(bench.dir.path().join("snapshot.new"), "half").unwrap();
        assert_eq!(bench.write(BYTES_MAX).unwrap().entries, 3);
        assert_eq!(bench.read().unwrap(), b"abc");
        assert_eq!(std::fs::metadata(bench.file()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(bench.dir.path()).unwrap().count(), 1, "nothing lies beside it");
    }

    #[test]
    fn without_room_for_all_the_hottest_are_kept() {
        let bench = Bench::filled(5);
        let all = bench.write(BYTES_MAX).unwrap();
        let some = bench.write(all.bytes * 2 / 5).unwrap();
        assert_eq!((some.entries, some.left_out), (2, 3));
        assert_eq!(bench.read().unwrap(), b"de");
        bench.write(BYTES_MAX).unwrap();
        let memory = Memory::new(BYTES_MAX);
        let count = load(&bench.file(), &memory, &bench.codec, all.bytes * 2 / 5, HOUR).unwrap();
        assert_eq!((count.entries, count.left_out), (2, 3), "the bound may have been lowered since");
    }

    #[test]
    fn what_was_purged_for_good_is_not_written() {
        let bench = Bench::filled(3);
        bench.fences.change(|ledger| ledger.purge_here(&[Tag::new("tag:b")], None, true));
        bench.fences.change(|ledger| ledger.purge_here(&[Tag::new("tag:c")], None, false));
        assert_eq!(bench.write(BYTES_MAX).unwrap().entries, 2);
        assert_eq!(bench.read().unwrap(), b"ac");
    }

    #[test]
    fn a_file_that_was_cut_or_changed_anywhere_is_refused() {
        let bench = Bench::filled(2);
        bench.write(BYTES_MAX).unwrap();
        let whole = std::fs::read(bench.file()).unwrap();
        for length in 0..whole.len() {
            std::fs::write(bench.file(), &whole[..length]).unwrap();
            assert!(bench.read().is_err(), "cut to {length} of {} bytes", whole.len());
        }
        for place in 0..whole.len() {
            for bit in [0_u8, 3, 7] {
                let mut changed = whole.clone();
                changed[place] ^= 1_u8 << bit;
                std::fs::write(bench.file(), &changed).unwrap();
                assert!(bench.read().is_err(), "bit {bit} of byte {place}");
            }
        }
    }

    #[test]
    fn a_file_of_others_or_of_long_ago_is_refused() {
        let bench = Bench::filled(1);
        bench.write(BYTES_MAX).unwrap();
        let whole = std::fs::read(bench.file()).unwrap();
        let other = Codec::new("other", 1024 * 1024);
        let refused = load(&bench.file(), &Memory::new(BYTES_MAX), &other, BYTES_MAX, HOUR).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidData);
        let long_ago = (since_epoch().as_secs() - 3605).to_be_bytes();
        let mut old = whole.clone();
        let end = old.len() - 8;
        old[8..16].copy_from_slice(&long_ago);
        old[end..].copy_from_slice(&long_ago);
        std::fs::write(bench.file(), &old).unwrap();
        assert!(bench.read().unwrap_err().to_string().contains("too old"));
        let mut endless = whole;
        endless[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
        std::fs::write(bench.file(), &endless).unwrap();
        assert!(bench.read().unwrap_err().to_string().contains("out of bounds"));
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file() {
        let bench = Bench::filled(2);
        bench.write(BYTES_MAX).unwrap();
        bench.memory.put(Key(9), Arc::new(entry(b'z')));
        drop(write(&bench.file(), &bench.memory, &bench.fences, &bench.codec, BYTES_MAX).unwrap());
        assert_eq!(bench.read().unwrap(), b"ab", "a draft that is given up is no file");
        std::fs::create_dir(bench.dir.path().join("snapshot.new")).unwrap();
        bench.write(BYTES_MAX).unwrap_err();
        assert_eq!(bench.read().unwrap(), b"ab");
    }
}
