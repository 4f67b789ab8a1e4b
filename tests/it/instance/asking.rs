//! Clients that ask all the time while something happens.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Ends the clients also where the work panics.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `work` while so many clients ask one thing after the other, each made by `client` of its number. Returns how often they
/// have asked. What a client asserts holds for each of its answers.
pub fn while_asking<Ask: FnMut()>(clients: usize, client: impl Fn(usize) -> Ask + Sync, work: impl FnOnce()) -> usize {
    let (is_over, client) = (&AtomicBool::new(false), &client);
    thread::scope(|scope| {
        let run = move |number| {
            let (mut ask, mut count) = (client(number), 0);
            while !is_over.load(Ordering::Relaxed) {
                ask();
                count += 1;
            }
            count
        };
        let running: Vec<_> = (0..clients).map(|number| scope.spawn(move || run(number))).collect();
        let end = End(is_over);
        work();
        drop(end);
        running.into_iter().map(|client| client.join().unwrap()).sum()
    })
}
