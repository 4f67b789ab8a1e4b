//! The snapshot: the entries of a process in a file, so that the next one does not begin with nothing.
//!
//! A head, then the values of single entries, the most asked for first, each with a checksum of its own, then a tail that says
//! that the file is whole. The file is written beside its place and moved there, so that there is always one whole file or none.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::entry::{Entry, Origin};
use super::fence::{Fences, Standing};
use super::key::Key;
use super::memory::Memory;
use super::shared::codec::{Codec, Kept};

const MAGIC: &[u8; 8] = b"MSsnap1\n";
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

/// Writes what is worth keeping, within a bound. Blocks.
///
/// # Errors
/// Those of the file system; the file that was there stays.
pub fn write(file: &Path, memory: &Memory, fences: &Fences, codec: &Codec, bytes_max: u64) -> io::Result<Count> {
    let now = Instant::now();
    let is_worth_it = |entry: &Arc<Entry>| {
        let is_allowed = entry.standing(fences, entry.age(now), now) != Standing::Forbidden;
        is_allowed && entry.is_shareable() && entry.age(now) < entry.limits.retention()
    };
    let mut entries: Vec<(Key, Arc<Entry>)> = memory.entries().filter(|(_, entry)| is_worth_it(entry)).collect();
    entries.sort_unstable_by_key(|(_, entry)| std::cmp::Reverse(entry.hits()));
    let beside = file.with_extension("new");
    let mut out = BufWriter::new(File::create(&beside)?);
    out.write_all(MAGIC)?;
    out.write_all(&since_epoch().as_secs().to_be_bytes())?;
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
    let written = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    written.sync_all()?;
    std::fs::rename(&beside, file)?;
    Ok(count)
}

/// Puts what a file holds into an empty memory. A file that is not whole, or not of this fleet, puts nothing there. Blocks.
///
/// # Errors
/// Why the file is not used; [`ErrorKind::NotFound`] where there is none.
pub fn load(file: &Path, memory: &Memory, codec: &Codec) -> io::Result<Count> {
    let mut read = BufReader::new(File::open(file)?);
    if read_array::<8>(&mut read)? != *MAGIC {
        return Err(io::Error::new(ErrorKind::InvalidData, "it is no snapshot of this version"));
    }
    let written = Duration::from_secs(u64::from_be_bytes(read_array(&mut read)?));
    // A clock that was set back makes nothing younger than it was when it was written.
    let kept = Kept::For(since_epoch().saturating_sub(written));
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
            Ok(entry) if entry.age(now) < entry.limits.retention() => {
                entries.push((key, Arc::new(entry)));
                count = Count { entries: count.entries + 1, bytes: count.bytes + u64::from(length), ..count };
            }
            // Too old for this machine's clock, or for anyone.
            Ok(_) => count.left_out += 1,
            Err(error) => return Err(io::Error::new(ErrorKind::InvalidData, error)),
        }
    }
    if read_array::<8>(&mut read)? != *TAIL {
        return Err(io::Error::new(ErrorKind::InvalidData, "its end is missing"));
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
