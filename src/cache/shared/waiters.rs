//! Who in this process waits for a fill of another one, and who wakes them: one subscription for all.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use redis::Msg;
use redis::aio::PubSubSink;
use tokio::sync::watch;
use tokio::time::{sleep, timeout, timeout_at};

use super::target::Target;
use crate::cache::key::Key;
use crate::telemetry::traces::Link;

/// How often the subscription is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// How long it has for an answer, and the pause before it is made anew.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a wait lasts while nobody could wake it: then its caller asks again.
const DEAF_TIME: Duration = Duration::from_millis(100);

/// Those who wait: no more than there are fills. A wait ends when the sender of its key is gone.
#[derive(Default)]
pub struct Waiters {
    places: Mutex<HashMap<Key, watch::Sender<()>>>,
    is_listening: AtomicBool,
}

/// A wait for a fill of another instance.
pub struct Waiting {
    key: Key,
    waiters: Arc<Waiters>,
    woken: Option<watch::Receiver<()>>,
    ends: Instant,
    /// The fill that is waited for, where it is traced.
    leader: Option<Link>,
}

impl Waiters {
    /// A wait that begins now; who is woken from here on is this one, too.
    pub fn register(self: &Arc<Self>, key: Key) -> Waiting {
        let mut places = self.places.lock();
        let woken = places.entry(key).or_insert_with(|| watch::channel(()).0).subscribe();
        Waiting { key, waiters: Arc::clone(self), woken: Some(woken), ends: Instant::now(), leader: None }
    }

    fn wake(&self, key: Key) {
        self.places.lock().remove(&key);
    }

    fn wake_all(&self) {
        self.places.lock().clear();
    }

    /// Wakes whom the channel names, for ever. What is said while nobody listens stays unknown, and so everybody is woken when
    /// it begins to and when it ends.
    pub async fn listen(self: Arc<Self>, target: Arc<Target>, channel: String) {
        loop {
            match target.subscribe(&channel).await {
                Ok((sink, messages)) => {
                    self.is_listening.store(true, Ordering::Release);
                    self.wake_all();
                    self.follow(sink, messages).await;
                    self.is_listening.store(false, Ordering::Release);
                    self.wake_all();
                }
                Err(error) => log::debug!("no subscription in Redis: {error}"),
            }
            sleep(PING_TIMEOUT.mul_f64(fastrand::f64())).await;
        }
    }

    async fn follow(&self, mut sink: PubSubSink, messages: impl Stream<Item = Msg>) {
        let mut messages = pin!(messages);
        loop {
            match timeout(PING_INTERVAL, messages.next()).await {
                Ok(Some(message)) => {
                    let name = std::str::from_utf8(message.get_payload_bytes()).unwrap_or_default();
                    if let Ok(key) = u128::from_str_radix(name, 16) {
                        self.wake(Key(key));
                    }
                }
                Ok(None) => return,
                // A connection that was cut without a word says nothing, as one without messages does.
                Err(_) => match timeout(PING_TIMEOUT, sink.ping::<redis::Value>()).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(_)) | Err(_) => return,
                },
            }
        }
    }
}

impl Waiting {
    /// The lease that is waited for ends after so long, whatever becomes of its holder.
    pub(super) fn at_most(mut self, lease_left: Duration) -> Self {
        let is_listening = self.waiters.is_listening.load(Ordering::Acquire);
        let limit = if is_listening { lease_left } else { lease_left.min(DEAF_TIME) };
        self.ends = Instant::now() + limit;
        self
    }

    /// The holder's fill, where it is traced, is this.
    pub(super) fn behind(mut self, leader: Option<Link>) -> Self {
        self.leader = leader;
        self
    }

    /// The holder's fill, where it is traced.
    pub const fn leader(&self) -> Option<&Link> {
        self.leader.as_ref()
    }

    /// Waits for the holder to be done, but no longer than its lease, and no longer than `until`.
    pub async fn done(mut self, until: Instant) {
        if let Some(woken) = &mut self.woken {
            let _either_way_it_is_over = timeout_at(until.min(self.ends).into(), woken.changed()).await;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.woken.take());
        let mut places = self.waiters.places.lock();
        if places.get(&self.key).is_some_and(|sender| sender.receiver_count() == 0) {
            places.remove(&self.key);
        }
    }
}
