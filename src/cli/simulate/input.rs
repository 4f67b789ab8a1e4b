//! A log, a line at a time, in bounded memory however long it is and however long its lines are.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::rc::Rc;

use flate2::read::MultiGzDecoder;

use super::line::LINE_BYTES_MAX;

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 64 * 1024;
/// What begins a file that gzip has packed (RFC 1952, section 2.3.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The lines of a log.
pub(super) struct Lines {
    reader: BufReader<Box<dyn Read>>,
    line: Vec<u8>,
    /// Bytes of the log, packed as it may be.
    pub length: Option<u64>,
    done: Rc<Cell<u64>>,
}

/// A line.
pub(super) enum Line<'a> {
    Whole(&'a [u8]),
    TooLong,
}

impl Lines {
    /// Opens a log, standard input where it is called `-`, and unpacks what begins as gzip does.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub(super) fn open(log: &Path) -> io::Result<Self> {
        let (file, length): (Box<dyn Read>, _) = if log == Path::new("-") {
            (Box::new(io::stdin().lock()), None)
        } else {
            let file = File::open(log)?;
            let metadata = file.metadata()?;
            (Box::new(file), metadata.is_file().then_some(metadata.len()))
        };
        let done = Rc::new(Cell::new(0));
        let counted = Counted { inner: file, done: Rc::clone(&done) };
        let mut counted = BufReader::new(counted);
        let is_packed = counted.fill_buf()?.starts_with(&GZIP);
        let input: Box<dyn Read> = if is_packed { Box::new(MultiGzDecoder::new(counted)) } else { Box::new(counted) };
        Ok(Self { reader: BufReader::with_capacity(BUFFER_BYTES, input), line: Vec::new(), length, done })
    }

    /// Bytes of it that were read.
    pub(super) fn done(&self) -> u64 {
        self.done.get()
    }

    /// The next line, without its end. `None` after the last one.
    ///
    /// # Errors
    /// Those of the file, and of what it is packed with.
    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        self.line.clear();
        let (mut is_any, mut is_too_long) = (false, false);
        loop {
            let buffer = match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                buffer => buffer?,
            };
            if buffer.is_empty() {
                break;
            }
            is_any = true;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let part = buffer.get(..end.unwrap_or(buffer.len())).unwrap_or_default();
            is_too_long |= self.line.len() + part.len() > LINE_BYTES_MAX;
            if !is_too_long {
                self.line.extend_from_slice(part);
            }
            let used = end.map_or(buffer.len(), |end| end + 1);
            self.reader.consume(used);
            if end.is_some() {
                break;
            }
        }
        Ok(match (is_any, is_too_long) {
            (false, _) => None,
            (true, true) => Some(Line::TooLong),
            (true, false) => Some(Line::Whole(&self.line)),
        })
    }
}

/// Counts what is read.
struct Counted {
    inner: Box<dyn Read>,
    done: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.done.set(self.done.get().saturating_add(u64::try_from(read).unwrap_or(0)));
        Ok(read)
    }
}
