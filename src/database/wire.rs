//! A tap on the server's side of a connection that notes the SQLSTATE of the last error.
//!
//! Whether a read is tried again on another node depends on the SQLSTATE, and diesel-async drops it: what is left is a
//! message in the language of the server's `lc_messages`. So the messages are looked at as they come in. Their framing is
//! one byte of type and four of length; only an `ErrorResponse` is read further, up to its field `C`.
//!
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsStream};

/// How much of an error is kept in search of its SQLSTATE, which comes right after the severity.
const ERROR_BYTES_MAX: usize = 128;

/// An SQLSTATE: five characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// From its five characters.
    pub fn new(text: &str) -> Option<Self> {
        text.as_bytes().try_into().ok().map(Self)
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or("?????")
    }
}

/// Where the last SQLSTATE of a connection is left for whoever used it.
#[derive(Debug, Default)]
pub struct Tap(AtomicU64);

impl Tap {
    fn put(&self, state: SqlState) {
        let [a, b, c, d, e] = state.0;
        self.0.store(u64::from_be_bytes([0, 0, 1, a, b, c, d, e]), Ordering::Release);
    }

    /// The last SQLSTATE, once.
    pub fn take(&self) -> Option<SqlState> {
        match self.0.swap(0, Ordering::AcqRel).to_be_bytes() {
            [0, 0, 1, a, b, c, d, e] => Some(SqlState([a, b, c, d, e])),
            _ => None,
        }
    }
}

/// Where the messages begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// At the first byte.
    AtOnce,
    /// After the server's one-byte answer to a request for TLS: `N`, and they follow in clear; else nothing here is read,
    /// for what follows is encrypted.
    AfterNegotiation,
}

#[derive(Debug)]
enum State {
    Negotiation,
    Inert,
    /// Type and length, as far as they came.
    Header { bytes: [u8; 5], have: usize },
    /// The rest of a message; of an error, its beginning is kept.
    Body { left: usize, kept: Option<Vec<u8>> },
}

const HEADER: State = State::Header { bytes: [0; 5], have: 0 };

/// A stream whose incoming messages are looked at.
#[derive(Debug)]
pub struct Watched<S> {
    inner: S,
    state: State,
    tap: Arc<Tap>,
}

impl<S> Watched<S> {
    /// Looks at what comes through `inner`.
    pub fn new(inner: S, tap: Arc<Tap>, begin: Begin) -> Self {
        let state = if begin == Begin::AtOnce { HEADER } else { State::Negotiation };
        Self { inner, state, tap }
    }

    fn look(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match &mut self.state {
                State::Inert => return,
                State::Negotiation => {
                    let in_clear = bytes.first() == Some(&b'N');
                    self.state = if in_clear { HEADER } else { State::Inert };
                    bytes.get(1..).unwrap_or_default()
                }
                State::Header { bytes: header, have } => {
                    let room = header.get_mut(*have..).unwrap_or_default();
                    let taken = room.len().min(bytes.len());
                    room.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
                    *have += taken;
                    if *have == header.len() {
                        let [kind, a, b, c, d] = *header;
                        let length = u32::from_be_bytes([a, b, c, d]).saturating_sub(4);
                        let left = usize::try_from(length).unwrap_or(usize::MAX);
                        self.state = if left == 0 { HEADER } else { State::Body { left, kept: (kind == b'E').then(Vec::new) } };
                    }
                    bytes.get(taken..).unwrap_or_default()
                }
                State::Body { left, kept } => {
                    let (body, rest) = bytes.split_at(bytes.len().min(*left));
                    if let Some(kept) = kept {
                        kept.extend(body.iter().take(ERROR_BYTES_MAX.saturating_sub(kept.len())));
                    }
                    *left -= body.len();
                    if *left == 0 {
                        if let Some(state) = kept.as_deref().and_then(sqlstate) {
                            self.tap.put(state);
                        }
                        self.state = HEADER;
                    }
                    rest
                }
            };
        }
    }
}

/// The field `C` of an error's body: fields are a letter and a text that ends with a zero.
fn sqlstate(body: &[u8]) -> Option<SqlState> {
    let field = body.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"C"))?;
    field.try_into().ok().map(SqlState)
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buffer))?;
        this.look(buffer.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Watched<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.inner.channel_binding()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[kind][..], &length.to_be_bytes(), body].concat()
    }

    #[test]
    fn the_sqlstate_is_found_however_the_bytes_are_cut() {
        let error = message(b'E', b"SFEHLER\0VERROR\0C40001\0MC57014\0\0");
        let stream = [message(b'Z', b"I"), message(b'1', b""), error, message(b'D', b"E\0\0\0\x05C99999\0")].concat();
        for begin in [Begin::AtOnce, Begin::AfterNegotiation] {
            let stream = if begin == Begin::AtOnce { stream.clone() } else { [b"N".to_vec(), stream.clone()].concat() };
            for size in 1..stream.len() {
                let tap = Arc::new(Tap::default());
                let mut watched = Watched::new((), tap.clone(), begin);
                stream.chunks(size).for_each(|chunk| watched.look(chunk));
                assert_eq!(tap.take().unwrap().as_str(), "40001");
                assert_eq!(tap.take(), None);
            }
        }
    }

    #[test]
    fn what_is_encrypted_is_left_alone() {
        let tap = Arc::new(Tap::default());
        let mut watched = Watched::new((), tap.clone(), Begin::AfterNegotiation);
        watched.look(b"S");
        watched.look(&message(b'E', b"C40001\0\0"));
        assert_eq!(tap.take(), None);
    }

    #[test]
    fn long_or_odd_errors_do_no_harm() {
        let tap = Arc::new(Tap::default());
        let mut watched = Watched::new((), tap.clone(), Begin::AtOnce);
        watched.look(&message(b'E', &[b'x'; 5000]));
        watched.look(&[b'E', 0, 0, 0, 0]);
        watched.look(&message(b'E', b"C123\0\0"));
        assert_eq!(tap.take(), None);
        watched.look(&message(b'E', b"SERROR\0C42P01\0\0"));
        assert_eq!(tap.take(), SqlState::new("42P01"));
    }
}
