//! How an instance ends: it says so, waits until nobody comes any more, lets requests end, leaves the fleet, and writes its
//! snapshot. Each stage has its time, and all of it `server.shutdown_timeout`, whatever hangs.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use super::Server;

/// This part of `server.shutdown_timeout` is for what comes after the requests: telling the fleet, and the snapshot.
const KEEPING_PART: u32 = 5;
/// Balancers get no more than this part of it to notice.
const DRAIN_PART: u32 = 2;
/// However short it is, so much is for what comes after the requests.
const KEEPING_TIME_MIN: Duration = Duration::from_secs(1);

/// Why an instance ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// It is to end in order: SIGTERM.
    Terminate,
    /// Somebody sits there and waits for it: SIGINT.
    Interrupt,
    /// Its successor is ready, on the same sockets.
    Relieved,
}

impl Server {
    /// Waits until a successor has taken over. Without `server.handover_socket` none ever does.
    pub async fn wait_relieved(&self) {
        self.relieved.notified().await;
    }

    /// Closes at once what nobody is waiting for.
    pub async fn stop(self) {
        self.shut_down(Wish::Interrupt).await;
    }

    /// Drains and closes everything, within `server.shutdown_timeout`. Requests in flight that are not done when four fifths of it
    /// are over are cut off.
    pub async fn shut_down(self, wish: Wish) {
        let Self { core, public, admin, sockets, is_held, .. } = self;
        let settings = &core.pipeline.settings.server;
        let whole = settings.shutdown_timeout.0;
        let requests_until = Instant::now() + whole - whole / KEEPING_PART;
        let deadline = requests_until + (whole / KEEPING_PART).max(KEEPING_TIME_MIN);
        match wish {
            // The address is as ready as before.
            Wish::Relieved => core.health.close_connections(),
            Wish::Terminate | Wish::Interrupt => core.health.drain(),
        }
        if let Some(snapshots) = core.snapshots.as_ref().filter(|_| wish == Wish::Relieved) {
            snapshots.give_up();
        }
        if is_held || wish == Wish::Relieved {
            // What waits in the sockets is somebody else's from now on.
            public.handle.pause().await;
            admin.handle.pause().await;
        }
        if wish != Wish::Interrupt {
            sleep(settings.drain_delay.0.min(whole / DRAIN_PART)).await;
        }
        drop(sockets);
        if timeout_at(requests_until, public.handle.stop(true)).await.is_err() {
            log::warn!("requests that did not end in time are cut off");
        }
        public.task.abort();
        let _told = timeout_at(deadline, core.ear.leave()).await;
        let _ended = timeout_at(deadline, admin.handle.stop(false)).await;
        if let Some(snapshots) = core.snapshots.clone().filter(|_| wish != Wish::Relieved) {
            // What is not whole at the deadline is never put into its place.
            if !done_by(deadline, move || snapshots.write()).await {
                log::error!("cache.snapshot_file: it was not written in time, the one before stays");
            }
        }
        if core.pipeline.capabilities.tells {
            core.leave_statistics(deadline).await;
            let _written_or_late = timeout_at(deadline, core.pipeline.auth.write_uses()).await;
        }
        if let Some(exporter) = &core.exporter {
            exporter.finish(deadline).await;
        }
        if let Some(database) = &core.pipeline.database {
            database.shutdown();
        }
    }
}

/// Does work that blocks, on a thread that nobody waits for beyond the deadline: a disk may hang. Says whether it was done.
async fn done_by(deadline: Instant, work: impl FnOnce() + Send + 'static) -> bool {
    let (done, is_done) = oneshot::channel();
    let work = move || {
        work();
        let _nobody_waits_any_more = done.send(());
    };
    let started = std::thread::Builder::new().name("snapshot".to_owned()).spawn(work).is_ok();
    started && matches!(timeout_at(deadline, is_done).await, Ok(Ok(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn work_that_hangs_is_not_waited_for() {
        assert!(done_by(Instant::now() + Duration::from_secs(60), || {}).await);
        let (end, hangs) = std::sync::mpsc::channel::<()>();
        let hang = move || {
            let _ended = hangs.recv();
        };
        assert!(!done_by(Instant::now() + Duration::from_millis(10), hang).await);
        drop(end);
    }
}
