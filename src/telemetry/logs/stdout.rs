//! Standard output, or standard error, written by a thread of its own: a pipe whose reader has stopped holds up this thread and nobody else.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::io::Errno;

use super::queue::Queue;
use crate::telemetry::metrics::LogDropped;

/// Bytes that are written at once, where so many wait.
const BATCH_BYTES_MAX: usize = 64 * 1024;
/// How long nothing to write is waited for at a time.
const WAIT: Duration = Duration::from_secs(60);
/// How long a reader who shares a pipe that does not block is left alone.
const REST: Duration = Duration::from_millis(10);

/// Writes what is queued, until the process ends.
///
/// # Errors
/// Where there can be no more threads.
pub(super) fn start(queue: Arc<Queue>, output: impl AsFd + Send + 'static) -> io::Result<()> {
    let write = move || {
        let mut writer = Writer { output, is_torn: false };
        loop {
            let (_, lines) = queue.first(BATCH_BYTES_MAX, WAIT);
            let written = writer.write(&lines);
            queue.count_written(written);
            queue.count_dropped(LogDropped::WriteFailed, lines.len() - written);
            queue.take(lines.len());
        }
    };
    std::thread::Builder::new().name("log".to_owned()).spawn(write).map(drop)
}

struct Writer<F> {
    output: F,
    /// The last line was written in part: the next one must not look like the rest of it.
    is_torn: bool,
}

impl<F: AsFd> Writer<F> {
    /// Writes lines, and says how many are out whole. Those that cannot be written, as on a full disk, are lost.
    fn write(&mut self, lines: &[Bytes]) -> usize {
        let mut bytes = if self.is_torn { b"\n".to_vec() } else { Vec::new() };
        lines.iter().for_each(|line| bytes.extend_from_slice(line));
        let written = self.write_bytes(&bytes);
        let out = bytes.get(..written).unwrap_or_default();
        let whole = out.iter().filter(|byte| **byte == b'\n').count() - usize::from(self.is_torn && written > 0);
        self.is_torn = out.last().map_or(self.is_torn, |byte| *byte != b'\n');
        whole
    }

    fn write_bytes(&self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            match rustix::io::write(&self.output, rest) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => std::thread::sleep(REST),
                Err(_) => break,
            }
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_none_looks_like_the_rest_of_another() {
        let lines = [Bytes::from_static(b"one\n"), Bytes::from_static(b"two\n")];
        let mut full = Writer { output: File::options().write(true).open("/dev/full").unwrap(), is_torn: false };
        assert_eq!((full.write(&lines), full.is_torn), (0, false));
        let (mut reader, mut pipe) = std::io::pipe().unwrap();
        pipe.write_all(b"half of a li").unwrap();
        let mut torn = Writer { output: pipe, is_torn: true };
        assert_eq!((torn.write(&lines), torn.is_torn), (2, false));
        assert_eq!(torn.write(&[]), 0);
        drop(torn);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "half of a li\none\ntwo\n");
    }
}
