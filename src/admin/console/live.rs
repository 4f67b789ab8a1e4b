//! The picture of an instance that open pages show, and the stream in which they get it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::HttpRequest;
use bytes::Bytes;
use futures_util::{Stream, stream};
use serde::Serialize;

use super::sessions::SessionKey;
use crate::admin::Desk;
use crate::admin::lookout::{Point, RouteFigures};
use crate::admin::stats::{Hot, hottest};
use crate::admin::status::{Status, status_of};
use crate::admin::walks::aside;
use crate::error::{Code, Error};

/// Entries that are shown as the hottest.
const HOT_SHOWN: usize = 12;
/// How often all entries are looked through for them.
const HOT_INTERVAL: Duration = Duration::from_secs(10);
/// Routes that are shown.
const ROUTES_SHOWN: usize = 12;

/// What a page shows.
#[derive(Serialize)]
struct Picture<'a> {
    status: Status<'a>,
    /// Of the last minute, those that are asked for most.
    routes: Vec<RouteFigures>,
    hot: Arc<Vec<Hot>>,
    /// The newest point of the charts.
    point: Option<Point>,
    /// Moves whenever something is written into the journal.
    journal: u64,
}

impl Desk {
    /// Shows everybody how it is now, if anybody looks.
    pub(in crate::admin) async fn show(self: &Arc<Self>) {
        let now = Instant::now();
        if !self.viewers.look(now) {
            return;
        }
        let looked_at = self.viewers.hot.lock().0;
        if looked_at.is_none_or(|at| now.saturating_duration_since(at) >= HOT_INTERVAL) {
            self.find_hottest(now).await;
        }
        match self.picture() {
            Ok(picture) => self.viewers.show(picture),
            Err(error) => log::error!("the console has no picture to show: {}", error.detail),
        }
    }

    async fn find_hottest(&self, now: Instant) {
        match aside(hottest(self, HOT_SHOWN)).await {
            Ok(hot) => *self.viewers.hot.lock() = (Some(now), Arc::new(hot)),
            Err(error) => log::error!("the console does not know what is hot: {}", error.detail),
        }
    }

    fn picture(&self) -> Result<Bytes, Error> {
        let hot = Arc::clone(&self.viewers.hot.lock().1);
        let picture = Picture {
            status: status_of(self),
            routes: self.routes(ROUTES_SHOWN),
            hot,
            point: self.lookout.newest_point(),
            journal: self.parts.journal.written(),
        };
        event("picture", &picture)
    }
}

/// An event as it goes over the line. JSON has no line breaks of its own.
fn event(name: &str, data: &impl Serialize) -> Result<Bytes, Error> {
    let json = serde_json::to_string(data)
        .map_err(|error| Error::new(Code::Internal, format!("the event cannot be written: {error}")))?;
    Ok(Bytes::from(format!("event: {name}\ndata: {json}\n\n")))
}

/// What one page gets: the last quarter of an hour, then a picture a second until its session ends, it goes, or this instance does.
/// Whoever falls behind gets the newest.
pub(super) async fn stream(
    desk: &Arc<Desk>,
    request: &HttpRequest,
    session: Option<SessionKey>,
) -> Result<impl Stream<Item = Result<Bytes, Error>> + use<>, Error> {
    let socket = request.conn_data::<Arc<OwnedFd>>().cloned();
    let (viewer, newest) = desk.viewers.enter(socket, Instant::now())?;
    if desk.viewers.hot.lock().0.is_none() {
        desk.find_hottest(Instant::now()).await;
    }
    let first = [event("history", &desk.lookout.points())?, desk.picture()?].concat();
    let watching = (Arc::clone(desk), viewer, newest, Some(Bytes::from(first)));
    Ok(stream::unfold(Some(watching), move |watching| async move {
        let (desk, viewer, mut newest, mut first) = watching?;
        if let Some(first) = first.take() {
            return Some((Ok(first), Some((desk, viewer, newest, None))));
        }
        newest.changed().await.ok()?;
        let now = Instant::now();
        viewer.took(now);
        if session.is_some_and(|session| !desk.sessions.lives(session, now)) {
            return Some((Ok(Bytes::from_static(b"event: over\ndata: {}\n\n")), None));
        }
        let picture = newest.borrow_and_update().clone();
        Some((Ok(picture), Some((desk, viewer, newest, first))))
    }))
}
