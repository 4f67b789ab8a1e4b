//! The body of a request to an upstream: whole, so that it can be sent again, or as it comes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use tokio::sync::{Mutex, mpsc};

use crate::error::{Code, Error};

/// Chunks that wait for the upstream to take them; the client is not read meanwhile.
const WAITING_MAX: usize = 2;

/// A body to be sent.
pub enum Body {
    /// All of it; empty: none.
    Whole(Bytes),
    /// What its [`Uploader`] brings, once.
    Stream(Arc<Upload>),
}

impl Body {
    /// Whether all of it is still to be had: it is kept, or nothing of it was sent.
    pub(super) fn is_there(&self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Stream(upload) => !upload.has_begun(),
        }
    }

    /// All of it, where nothing of it was sent. `grow` says whether so many more bytes may be held.
    ///
    /// # Errors
    /// `overloaded`, or why it did not come. Cancelling loses it.
    pub async fn take_back(&self, mut grow: impl FnMut(usize) -> bool) -> Result<Bytes, Error> {
        let upload = match self {
            Self::Whole(bytes) => return Ok(bytes.clone()),
            Self::Stream(upload) => upload,
        };
        let (mut chunks, mut body) = (upload.chunks.lock().await, BytesMut::new());
        while let Some(chunk) = chunks.recv().await {
            if !grow(chunk.len()) {
                return Err(Error::new(Code::Overloaded, "as many bodies as may are being read"));
            }
            body.extend_from_slice(&chunk);
        }
        match upload.trouble() {
            None if upload.is_whole() => Ok(body.freeze()),
            trouble => Err(trouble.unwrap_or_else(|| Error::new(Code::BodyIncomplete, "the body broke off"))),
        }
    }
}

/// A body on its way.
pub struct Upload {
    chunks: Mutex<mpsc::Receiver<Bytes>>,
    /// Bytes, where the client has said so.
    length: Option<u64>,
    /// Whether any of it may have been sent.
    has_begun: AtomicBool,
    end: Arc<End>,
}

/// Brings a body from the client. It holds nothing of the [`Upload`] but its end, and so learns when nobody wants more.
pub struct Uploader {
    chunks: mpsc::Sender<Bytes>,
    end: Arc<End>,
}

/// How a body ended.
#[derive(Default)]
struct End {
    is_whole: AtomicBool,
    trouble: OnceLock<Error>,
}

/// The client's body ended before it was whole.
#[derive(Debug, thiserror::Error)]
#[error("the client's body broke off")]
struct BrokeOff;

impl Upload {
    /// A body of such a length, where that is known, and the one who brings it.
    pub fn new(length: Option<u64>) -> (Arc<Self>, Uploader) {
        let (sender, chunks) = mpsc::channel(WAITING_MAX);
        let end = Arc::<End>::default();
        let uploader = Uploader { chunks: sender, end: Arc::clone(&end) };
        (Arc::new(Self { chunks: Mutex::new(chunks), length, has_begun: AtomicBool::new(false), end }), uploader)
    }

    /// Whether all of it has come.
    pub fn is_whole(&self) -> bool {
        self.end.is_whole.load(Ordering::Acquire)
    }

    /// Why it did not come: then the upstream is not to blame.
    pub(super) fn trouble(&self) -> Option<Error> {
        self.end.trouble.get().cloned()
    }

    pub(super) const fn length(&self) -> Option<u64> {
        self.length
    }

    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Acquire)
    }

    /// The body as the HTTP client takes it. An end without the whole is an error, so that nobody takes a part for all.
    pub(super) fn to_body(self: &Arc<Self>) -> reqwest::Body {
        let next = |upload: Arc<Self>| async move {
            upload.has_begun.store(true, Ordering::Release);
            let chunk = upload.chunks.lock().await.recv().await;
            match chunk {
                Some(chunk) => Some((Ok(chunk), upload)),
                None if upload.is_whole() => None,
                None => Some((Err(BrokeOff), upload)),
            }
        };
        reqwest::Body::wrap_stream(stream::unfold(Arc::clone(self), next))
    }
}

impl Uploader {
    /// Brings a chunk; waits until there is room for it. `false`: nobody wants more.
    pub async fn bring(&self, chunk: Bytes) -> bool {
        self.chunks.send(chunk).await.is_ok()
    }

    /// That was all of it, or there will be no more.
    pub fn end(self, outcome: Result<(), Error>) {
        match outcome {
            Ok(()) => self.end.is_whole.store(true, Ordering::Release),
            Err(error) => drop(self.end.trouble.set(error)),
        }
    }
}
