//! What is recorded of one trace: spans, and which of them runs now.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use reqwest::header::HeaderMap;

use super::queue::Trace;
use super::{Traces, context};

/// Spans of one trace; what comes after that is counted and left out.
const SPANS_MAX: u32 = 128;
/// Longer texts of attributes are cut.
const TEXT_BYTES_MAX: usize = 256;

tokio::task_local! {
    static CURRENT: Option<Here>;
}

/// What this instance has to do with one trace, until the last who takes part has ended.
pub(super) struct Record {
    traces: Arc<Traces>,
    trace: u128,
    /// Whether a caller's trace goes on here.
    continues: AtomicBool,
    is_sampled: bool,
    /// Whether it is kept although it was not sampled.
    is_notable: AtomicBool,
    begun: AtomicU32,
    ended: Mutex<Vec<Ended>>,
}

/// A span that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) id: u64,
    /// 0: none.
    pub(super) parent: u64,
    pub(super) name: Cow<'static, str>,
    pub(super) kind: SpanKind,
    pub(super) began: Instant,
    pub(super) took: Duration,
    pub(super) attributes: Vec<(&'static str, Value)>,
    pub(super) link: Option<(u128, u64)>,
    pub(super) error: Option<&'static str>,
}

/// On which side of a call a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// Within this instance.
    Internal,
    /// It answers somebody.
    Server,
    /// It asks somebody.
    Client,
}

/// The value of an attribute. None is ever made of what a caller has sent, but for its request id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A word of this program.
    Word(&'static str),
    /// A name out of settings or the manifest.
    Name(Arc<str>),
    /// Another text.
    Text(String),
    /// A number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
}

impl From<&'static str> for Value {
    fn from(word: &'static str) -> Self {
        Self::Word(word)
    }
}

impl From<&Arc<str>> for Value {
    fn from(name: &Arc<str>) -> Self {
        Self::Name(Arc::clone(name))
    }
}

impl From<String> for Value {
    fn from(mut text: String) -> Self {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl Record {
    pub(super) fn new(traces: &Arc<Traces>, trace: u128, is_sampled: bool) -> Self {
        Self {
            traces: Arc::clone(traces),
            trace,
            continues: AtomicBool::new(false),
            is_sampled,
            is_notable: AtomicBool::new(false),
            begun: AtomicU32::new(0),
            ended: Mutex::default(),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.is_sampled && !*self.is_notable.get_mut() {
            return;
        }
        let trace = Trace {
            id: self.trace,
            spans: std::mem::take(self.ended.get_mut()),
            left_out: self.begun.get_mut().saturating_sub(SPANS_MAX),
            read_at: (Instant::now(), SystemTime::now()),
        };
        self.traces.keep(trace, self.is_sampled);
    }
}

/// A place in a trace: what begins there is the child of its span.
#[derive(Clone)]
pub struct Here {
    record: Arc<Record>,
    span: u64,
}

impl Here {
    /// The id of the trace.
    pub fn trace_id(&self) -> u128 {
        self.record.trace
    }

    pub(super) fn span_id(&self) -> u64 {
        self.span
    }

    pub(super) fn is_sampled(&self) -> bool {
        self.record.is_sampled
    }

    pub(super) fn continues(&self) -> bool {
        self.record.continues.load(Ordering::Relaxed)
    }

    /// A child of this span that began so long ago.
    pub fn span_since(&self, name: impl Into<Cow<'static, str>>, kind: SpanKind, began: Instant) -> Span {
        Span::begin(&self.record, self.span, name.into(), kind, began)
    }

    /// What others may refer to it by. It keeps nothing alive.
    pub fn link(&self) -> Link {
        Link { trace: self.record.trace, span: self.span, record: Arc::downgrade(&self.record) }
    }

    /// Says in the headers of a request that it belongs to this span.
    pub fn write(&self, headers: &mut HeaderMap) {
        context::write(headers, self, self.record.traces.b3);
    }
}

/// Another trace's span, as it is referred to.
#[derive(Clone)]
pub struct Link {
    trace: u128,
    span: u64,
    record: Weak<Record>,
}

impl Link {
    /// As another instance reads it.
    pub fn text(&self) -> String {
        context::link_text(self.trace, self.span)
    }

    /// What another instance has written. To refer to it keeps nothing there.
    pub fn read(text: &str) -> Option<Self> {
        context::link(text).map(|(trace, span)| Self { trace, span, record: Weak::new() })
    }
}

/// A part of a request that takes time, until it is dropped. Where nothing is traced it is none, and all that is done to it
/// nothing.
#[derive(Default)]
#[must_use = "it ends when it is dropped"]
pub struct Span(Option<Box<Open>>);

struct Open {
    record: Arc<Record>,
    span: Ended,
}

impl Span {
    pub(super) fn root(
        record: Arc<Record>,
        parent: u64,
        name: Cow<'static, str>,
        kind: SpanKind,
        began: Instant,
    ) -> Self {
        record.continues.store(parent != 0, Ordering::Relaxed);
        Self::begin(&record, parent, name, kind, began)
    }

    fn begin(record: &Arc<Record>, parent: u64, name: Cow<'static, str>, kind: SpanKind, began: Instant) -> Self {
        if record.begun.fetch_add(1, Ordering::Relaxed) >= SPANS_MAX {
            return Self(None);
        }
        let (id, took) = (fastrand::u64(1..), Duration::ZERO);
        let span = Ended { id, parent, name, kind, began, took, attributes: Vec::new(), link: None, error: None };
        Self(Some(Box::new(Open { record: Arc::clone(record), span })))
    }

    /// Whether anything is recorded.
    pub const fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Where its children begin; none where nothing is traced.
    pub fn here(&self) -> Option<Here> {
        let open = self.0.as_ref()?;
        Some(Here { record: Arc::clone(&open.record), span: open.span.id })
    }

    /// Says something of it. Attributes have no secrets and no values of parameters: who may read traces may not read those.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(open) = &mut self.0 {
            open.span.attributes.push((key, value.into()));
        }
    }

    /// Says what it is called, once that is known.
    pub fn rename(&mut self, name: impl FnOnce(&str) -> String) {
        if let Some(open) = &mut self.0 {
            open.span.name = Cow::Owned(name(&open.span.name));
        }
    }

    /// Says why it came to nothing: a word of a closed set.
    pub fn fail(&mut self, reason: &'static str) {
        if let Some(open) = &mut self.0 {
            open.span.error = Some(reason);
        }
    }

    /// Keeps its trace, even if it was not sampled.
    pub fn keep(&self) {
        if let Some(open) = &self.0 {
            open.record.is_notable.store(true, Ordering::Relaxed);
        }
    }

    /// Refers to a span of another trace. What a sampled trace refers to is kept as well.
    pub fn refer(&mut self, link: Option<&Link>) {
        if let Some((open, link)) = self.0.as_mut().zip(link) {
            open.span.link = Some((link.trace, link.span));
            if let Some(record) = link.record.upgrade().filter(|_| open.record.is_sampled) {
                record.is_notable.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Runs work within it: what the work begins are its children.
    pub fn around<F: Future>(&self, work: F) -> Scoped<F> {
        scope(self.here().or_else(current), work)
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(open) = self.0.take() else { return };
        let Open { record, mut span } = *open;
        span.took = span.began.elapsed();
        if span.took >= record.traces.slow {
            record.is_notable.store(true, Ordering::Relaxed);
        }
        record.ended.lock().push(span);
    }
}

/// Where the work that calls this stands in its trace; none where nothing is traced.
pub fn current() -> Option<Here> {
    CURRENT.try_with(Clone::clone).ok().flatten()
}

/// The id of the trace that runs now, as it is written: 32 hexadecimal digits.
pub fn current_id() -> Option<String> {
    CURRENT.try_with(|here| here.as_ref().map(|here| format!("{:032x}", here.trace_id()))).ok().flatten()
}

/// A child of what runs now.
pub fn span(name: &'static str, kind: SpanKind) -> Span {
    let begin = |here: &Option<Here>| here.as_ref().map(|here| here.span_since(name, kind, Instant::now()));
    CURRENT.try_with(begin).ok().flatten().unwrap_or_default()
}

/// Work at a place in a trace.
pub type Scoped<F> = tokio::task::futures::TaskLocalFuture<Option<Here>, F>;

/// Runs work at a place in a trace, or at none. Tasks that are spawned begin at none: who spawns one takes the place along.
pub fn scope<F: Future>(here: Option<Here>, work: F) -> Scoped<F> {
    CURRENT.scope(here, work)
}

/// As [`scope`], for work that does not wait.
pub fn within<T>(here: Option<Here>, work: impl FnOnce() -> T) -> T {
    if here.is_none() { work() } else { CURRENT.sync_scope(here, work) }
}
