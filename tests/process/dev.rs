//! `mainstay dev`: everything on this machine, and nothing left behind, however it ends.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mainstay::local::{Scratch, Signal, wait_until};

use crate::support::{MAINSTAY, PATIENCE, Program, command, get, repository};

/// Longest second start: nothing is made or loaded again.
const SECOND_START_MAX: Duration = Duration::from_secs(10);

fn dev(cwd: &Path, args: &[&str]) -> Program {
    let mut dev = command(MAINSTAY);
    dev.args(["dev", "--config", repository("config").to_str().unwrap()])
        .args(["--bind", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(args)
        .current_dir(cwd);
    Program::start(dev)
}

/// Waits until it is ready; how long it says that took.
fn ready(program: &mut Program) -> Duration {
    let seconds = program.expect("ready", |output| {
        let (_, rest) = output.split_once("Mainstay is ready after ")?;
        rest.contains("starts over").then(|| rest.split_once(" s.").unwrap().0.parse().unwrap())
    });
    // The replica is read once it has been sampled.
    let health =
        program.expect("health", |output| Some(output.split_once("  health ")?.1.lines().next()?.trim().to_owned()));
    let is_healthy = || get(&health).body.contains("\"status\":\"healthy\"");
    assert!(wait_until(PATIENCE, is_healthy), "{}", program.output());
    Duration::from_secs_f64(seconds)
}

/// Processes that have a directory in their command line.
fn processes_in(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().unwrap();
    let lines = fs::read_dir("/proc").unwrap().flatten();
    let lines = lines.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(dir)).collect()
}

fn assert_nothing_left(dir: &Path) {
    assert!(wait_until(PATIENCE, || processes_in(dir).is_empty()), "left behind: {:?}", processes_in(dir));
}

#[test]
fn dev_starts_shows_what_to_try_and_leaves_nothing_behind() {
    let scratch = Scratch::new("dev").unwrap();
    // The remover of the scratch directory has it in its command line, the servers have what is below it.
    let data = scratch.join(".mainstay");

    let mut first = dev(scratch.path(), &[]);
    ready(&mut first);
    assert!(first.stderr().contains("221702 rates of 41 currencies"), "{}", first.stderr());
    assert!(processes_in(&data).len() >= 2, "{:?}", processes_in(&data));
    let tries: Vec<String> =
        first.stdout().lines().filter(|line| line.starts_with("  curl ")).map(|line| line.trim().to_owned()).collect();
    assert_eq!(tries.len(), 6, "{}", first.stdout());
    let (failover, tries) = tries.split_last().unwrap();
    let ask = |line: &str| {
        let output = Command::new("sh").args(["-c", &line.replacen("curl", "curl -sS", 1)]).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for line in tries {
        let answer = ask(line);
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{line}: {answer}");
        let is_strong = line.contains("X-Consistency");
        let expected = if is_strong { "fwd=bypass; detail=primary" } else { "fwd=miss; stored; detail=replica" };
        assert!(answer.contains(expected), "{line}: {answer}");
        if !is_strong {
            assert!(ask(line).contains("cache-status: mainstay; hit"), "{line}");
        }
    }
    // What the regional origin has stored the failover origin serves.
    let answer = ask(failover);
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("detail=failover"), "{failover}: {answer}");
    for label in ["  health ", "  metrics "] {
        let url = first.stdout().lines().find_map(|line| line.strip_prefix(label).map(|url| url.trim().to_owned()));
        assert_eq!(get(&url.unwrap()).status, 200, "{label}");
    }
    first.signal_group(Signal::INT);
    assert_eq!(first.wait().code(), Some(0), "{}", first.output());
    assert_nothing_left(&data);

    let mut second = dev(scratch.path(), &[]);
    let took = ready(&mut second);
    assert!(took < SECOND_START_MAX, "{took:?}");
    assert!(!second.stderr().contains("importing"), "{}", second.stderr());
    second.signal(Signal::TERM);
    assert_eq!(second.wait().code(), Some(0));
    assert_nothing_left(&data);

    let mut third = dev(scratch.path(), &[]);
    ready(&mut third);
    third.signal(Signal::KILL);
    third.wait();
    assert_nothing_left(&data);

    // What a crash left is used again, and --fresh makes it anew.
    let mut fourth = dev(scratch.path(), &["--fresh"]);
    ready(&mut fourth);
    assert!(fourth.stderr().contains("importing"), "{}", fourth.stderr());
    fourth.signal(Signal::TERM);
    assert_eq!(fourth.wait().code(), Some(0));
    assert_nothing_left(&data);
}

#[test]
fn a_signal_while_the_servers_start_ends_it_in_order() {
    let scratch = Scratch::new("dev-early").unwrap();
    let mut program = dev(scratch.path(), &[]);
    program.expect_text("starting a Postgres primary");
    program.signal_group(Signal::INT);
    assert_eq!(program.wait().code(), Some(0), "{}", program.output());
    assert_nothing_left(&scratch.join(".mainstay"));
}

#[test]
fn regions_that_cannot_be_are_refused_before_anything_is_made() {
    let scratch = Scratch::new("dev-regions").unwrap();
    for regions in ["a,a", "../up", "two words", ""] {
        let mut program = dev(scratch.path(), &["--regions", regions]);
        assert_eq!(program.wait().code(), Some(2), "{regions:?}: {}", program.output());
        assert!(program.stderr().contains("--regions"), "{regions:?}: {}", program.output());
    }
    assert!(!scratch.join(".mainstay").exists());
}

#[test]
fn starting_fresh_where_nothing_is_or_was_is_a_start() {
    let scratch = Scratch::new("dev-fresh").unwrap();
    let mut program = dev(scratch.path(), &["--fresh"]);
    program.expect_text("starting a Postgres primary");
    program.signal(Signal::TERM);
    assert_eq!(program.wait().code(), Some(0), "{}", program.output());
    assert_nothing_left(&scratch.join(".mainstay"));
}
