//! Looks at every entry of the cache: beside the requests, and few at once.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::error::{Code, Error};

/// Each takes a core for as long as it looks, which may be at a million entries. Those of the console come on top, one at a time.
const AT_ONCE: usize = 2;

/// Who may look just now.
pub(super) struct Walks(Arc<Semaphore>);

impl Walks {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }

    /// Looks where nobody is answered. It ends though its caller has gone, and is counted until then.
    ///
    /// # Errors
    /// `overloaded` where as many as may are looking: nobody waits in a line that grows with impatience.
    pub(super) async fn walk<T: Send + 'static>(&self, look: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let busy = |_| {
            let detail = format!("{AT_ONCE} looks at all entries are under way, which is as many as may be");
            Error::new(Code::Overloaded, detail)
        };
        let place = Arc::clone(&self.0).try_acquire_owned().map_err(busy)?;
        aside(move || {
            let found = look();
            drop(place);
            found
        })
        .await
    }
}

/// Looks where nobody is answered, whoever else does.
pub(super) async fn aside<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    let failed = |_| Error::new(Code::Internal, "the entries could not be looked through");
    actix_rt::task::spawn_blocking(look).await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use futures_util::future::join;

    use super::*;

    #[actix_rt::test]
    async fn no_more_look_at_once_than_may_and_who_has_gone_counts_until_the_end() {
        let walks = Walks::new();
        let begin = || {
            let ((started, starts), (ends, end)) = (channel(), channel::<()>());
            let look = move || {
                started.send(()).unwrap();
                let _end = end.recv();
            };
            (look, starts, ends)
        };
        let ((one, one_starts, one_ends), (two, two_starts, two_ends)) = (begin(), begin());
        let both = join(walks.walk(one), walks.walk(two));
        let mut both = Box::pin(both);
        assert!(futures_util::poll!(&mut both).is_pending());
        let started = move || (one_starts.recv().unwrap(), two_starts.recv().unwrap());
        aside(started).await.unwrap();
        drop(both);
        assert_eq!(walks.walk(|| ()).await.map_err(|error| error.code), Err(Code::Overloaded));
        drop((one_ends, two_ends));
        while walks.walk(|| ()).await.is_err() {
            actix_rt::task::yield_now().await;
        }
    }
}
