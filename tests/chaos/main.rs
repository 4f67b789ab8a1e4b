//! Chaos: a whole site of real processes, with viewers that go to a failover origin as a CDN does, while everything fails at
//! random. A cached read that fails although something could have answered it, and an answer that is wrong, end it. `make chaos` runs
//! it for minutes, `make test` for seconds.
#![allow(
    clippy::as_conversions,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

#[path = "../soak/ground.rs"]
mod ground;
#[path = "../soak/history.rs"]
mod history;
mod report;
mod site;
#[allow(dead_code, reason = "shared with the tests of single processes, which need more of it")]
#[path = "../process/support.rs"]
mod support;
mod trouble;
mod viewer;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mainstay::local::wait_until;

use ground::number;
use report::{Class, Report};
use site::{REGIONS, Site};
use trouble::Trouble;
use viewer::World;

/// How long it may take until all is in use again after trouble is over: breakers and pauses grow to less than that.
const RECOVERY_TIME_MAX: Duration = Duration::from_secs(60);
/// Some time in which nothing happens, so that each step begins with all well and everything cached.
const CALM: Duration = Duration::from_millis(300);
/// Lines of an origin's log that are shown of one that does not recover.
const LINES_MAX: usize = 40;

#[test]
fn viewers_of_a_site_in_trouble_miss_nothing_that_was_cached() {
    let seconds = number("CHAOS_SECONDS", 15);
    let seed = number("CHAOS_SEED", fastrand::u64(..));
    println!("chaos: {seconds} s; again with CHAOS_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let world = &World::new(Site::start());
    let mut report = Report::default();
    thread::scope(|scope| {
        // A violation, or trouble that fails, ends all of it.
        let _over = Over(&world.is_over);
        let mut spawn = |act: fn(&World, usize, fastrand::Rng), region: usize| {
            let random = random.fork();
            scope.spawn(move || {
                let _over = Over(&world.is_over);
                act(world, region, random);
            });
        };
        for region in 0..REGIONS {
            (0..2).for_each(|_| spawn(World::read_cached, region));
            spawn(World::read_new, region);
            spawn(World::read_strong, region);
        }
        spawn(|world, _, random| world.write(random), 0);
        recover(world);
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let mut left = Vec::new();
        println!("{}", Report::head());
        while Instant::now() < deadline && !world.is_over.load(Ordering::Relaxed) {
            if left.len() < 2 {
                left = Trouble::shuffled(&mut random);
            }
            let first = left.pop().unwrap();
            // One step in three is two troubles at once.
            let second =
                left.last().copied().filter(|second| random.u8(..) < 85 && first.leaves_something_beside(*second));
            if second.is_some() {
                left.pop();
            }
            let time = Duration::from_millis(random.u64(300..if seconds > 60 { 6000 } else { 1500 }));
            step(world, &mut report, first, second, time);
        }
    });
    println!("\n{}\n{}", report.summary(), world.history.report());
    assert_eq!(report.failed(), 0, "cached reads failed although something could have answered");
    assert_eq!(world.site.audits_wrong(), 0.0, "the origins themselves found answers that are wrong");
}

/// Something happens for some time, and is over; then all is well again.
fn step(world: &World, report: &mut Report, first: Trouble, second: Option<Trouble>, time: Duration) {
    let all: Vec<Trouble> = [first].into_iter().chain(second).collect();
    thread::sleep(CALM);
    let _calm = std::mem::take(&mut *world.tally.lock().unwrap());
    for trouble in &all {
        world.history.note(&format!("{trouble:?} for {time:?}"));
        trouble.begin(&world.site);
    }
    thread::sleep(time);
    for trouble in &all {
        trouble.end(&world.site);
        world.history.note(&format!("{trouble:?} is over"));
    }
    let recovered = recover(world);
    let tally = std::mem::take(&mut *world.tally.lock().unwrap());
    let named = |name: fn(Trouble) -> String| all.iter().map(|trouble| name(*trouble)).collect::<Vec<_>>().join(" + ");
    let kind = if second.is_some() { "two at once".to_owned() } else { named(Trouble::kind) };
    let name = format!("{:.1} s {}", time.as_secs_f64(), named(|trouble| format!("{trouble:?}")));
    if tally.of(Class::Cached).failed > 0 {
        show_logs(world);
    }
    println!("{}", report.step(&name, &kind, tally, recovered));
}

/// Waits until all is well, and says how long that took.
fn recover(world: &World) -> Duration {
    let over = Instant::now();
    let is_well = || world.is_over.load(Ordering::Relaxed) || (0..REGIONS).all(|region| world.is_well(region));
    if !wait_until(RECOVERY_TIME_MAX, is_well) {
        show_logs(world);
        panic!("it does not recover");
    }
    over.elapsed()
}

/// What the origins said last, for whoever is to find out why.
fn show_logs(world: &World) {
    for origin in 0..site::ORIGINS {
        let log = world.site.log(origin);
        let lines: Vec<&str> = log.lines().collect();
        println!("origin {origin}:\n{}", lines[lines.len().saturating_sub(LINES_MAX)..].join("\n"));
    }
}

/// Ends the run when a thread ends, however it does.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
