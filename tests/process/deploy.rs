//! Deploys: how an instance goes, how another takes its place, and what clients see of it, which is nothing.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mainstay::local::{Redis, RedisOptions, Scratch, Signal, wait_until};

use crate::load::{Kept, Load, Seen, Then};
use crate::support::{Cluster, Folder, MAINSTAY, ONE, Origin, PATIENCE, Program, command, get, mainstay};

const CLIENTS: usize = 8;
/// Answers that are waited for between two steps, so that each step happens under load.
const ANSWERS: usize = 200;

const ROUTES: &str = "[[route]]\npath = \"/public/square/{n}\"\nsql = \"SELECT $1 * $1 AS square\"\nresult = \"row\"\n\
                      params = [{ name = \"n\", in = \"path\", type = \"integer\", max = 1000 }]\n\
                      [route.cache]\nttl = \"1h\"\n";

fn targets() -> Vec<String> {
    (0..50).map(|n| format!("/public/square/{n}")).collect()
}

fn address(base: &str) -> SocketAddr {
    base.strip_prefix("http://").unwrap().parse().unwrap()
}

/// Waits until clients have had answers since now.
fn keep_going(load: &Load) {
    let before = load.seen().answers;
    assert!(wait_until(PATIENCE, || load.seen().answers >= before + ANSWERS), "{:?}", load.seen());
}

fn assert_nothing_lost(seen: &Seen) {
    assert!(seen.failures.is_empty(), "{seen:?}");
}

/// What a balancer does: asks each instance whether it is ready, and sends new connections to those that are.
struct Balancer {
    members: Arc<Mutex<Vec<(SocketAddr, bool)>>>,
    next: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
}

impl Balancer {
    fn start() -> Self {
        let members = Arc::<Mutex<Vec<(SocketAddr, bool)>>>::default();
        let is_over = Arc::<AtomicBool>::default();
        let (looked_at, over) = (members.clone(), is_over.clone());
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let addresses: Vec<_> = looked_at.lock().unwrap().iter().map(|(address, _)| *address).collect();
                for address in addresses {
                    let is_ready = get(&format!("http://{address}/health/ready")).status == 200;
                    let mut members = looked_at.lock().unwrap();
                    members.iter_mut().filter(|member| member.0 == address).for_each(|member| member.1 = is_ready);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { members, next: Arc::default(), is_over }
    }

    fn add(&self, origin: &Origin) {
        self.members.lock().unwrap().push((address(&origin.base), false));
        self.wait(origin, true);
    }

    fn wait(&self, origin: &Origin, is_ready: bool) {
        let member = (address(&origin.base), is_ready);
        assert!(wait_until(PATIENCE, || self.members.lock().unwrap().contains(&member)), "{}", origin.program.output());
    }

    fn remove(&self, origin: &Origin) {
        let gone = address(&origin.base);
        self.members.lock().unwrap().retain(|(address, _)| *address != gone);
    }

    fn place(&self) -> impl Fn() -> SocketAddr + Clone + Send + use<> {
        let (members, next) = (self.members.clone(), self.next.clone());
        move || {
            let ready: Vec<_> =
                members.lock().unwrap().iter().filter(|(_, is_ready)| *is_ready).map(|(address, _)| *address).collect();
            ready[next.fetch_add(1, Ordering::Relaxed) % ready.len()]
        }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_rolling_restart_of_three_loses_no_request() {
    let cluster = Cluster::shared();
    let database = cluster.database("");
    let urls = [&cluster.primary, &cluster.replica].map(|node| node.url("postgres", &database));
    let scratch = Scratch::new("rolling").unwrap();
    let redis = Redis::start(&RedisOptions::new(scratch.join("redis"))).unwrap().expect("redis-server is installed");
    let redis_url = redis.url();
    let folder = Folder::new(ROUTES);
    let start = || {
        let env = [
            ("DATABASE_URL", urls[0].as_str()),
            ("DATABASE_READ_REPLICA_URL", &urls[1]),
            ("REDIS_URL", &redis_url),
            ("MAINSTAY__SERVER__DRAIN_DELAY", "1s"),
            ("LOG_FORMAT", "json"),
        ];
        Origin::start(folder.path(), &env)
    };
    let balancer = Balancer::start();
    let mut instances: Vec<_> = (0..3).map(|_| start()).collect();
    instances.iter().for_each(|instance| balancer.add(instance));
    let load = Load::start(CLIENTS, Then::Keep, &targets(), balancer.place());
    keep_going(&load);
    for instance in &mut instances {
        let mut old = std::mem::replace(instance, start());
        balancer.add(instance);
        keep_going(&load);
        old.program.signal(Signal::TERM);
        balancer.wait(&old, false);
        assert_eq!(old.program.wait().code(), Some(0), "{}", old.program.output());
        balancer.remove(&old);
        keep_going(&load);
    }
    let seen = load.end();
    assert_nothing_lost(&seen);
    println!("rolling restart of three: {} answers, none lost", seen.answers);
}

#[test]
fn one_process_takes_over_the_port_of_another_and_no_request_is_lost() {
    const TIMES: usize = 5;
    let cluster = Cluster::shared();
    let url = cluster.primary.url("postgres", &cluster.database(""));
    let folder = Folder::new(ROUTES);
    let socket = folder.join("handover");
    let start = || {
        let env = [
            ("DATABASE_URL", url.as_str()),
            ("MAINSTAY__SERVER__HANDOVER_SOCKET", socket.to_str().unwrap()),
            ("MAINSTAY__SERVER__DRAIN_DELAY", "500ms"),
            ("LOG_FORMAT", "json"),
        ];
        Origin::start(folder.path(), &env)
    };
    let mut serving = start();
    serving.get_until("/health/ready", |reply| reply.status == 200);
    let place = address(&serving.base);
    let load = Load::start(CLIENTS, Then::Keep, &targets(), move || place);
    // What waits for its turn in a socket that closes is reset, and these wait there all the time.
    let fresh = Load::start(CLIENTS, Then::Leave, &targets(), move || place);
    for _ in 0..TIMES {
        keep_going(&load);
        let mut newcomer = start();
        assert_eq!((&newcomer.base, &newcomer.admin), (&serving.base, &serving.admin), "the same ports");
        newcomer.program.expect_text("took over from the process before");
        assert_eq!(serving.program.wait().code(), Some(0), "{}", serving.program.output());
        assert_eq!(newcomer.get("/health/ready").status, 200);
        assert_eq!(get(&format!("{}/metrics", newcomer.admin)).status, 200);
        serving = newcomer;
    }
    keep_going(&load);
    let (kept, fresh) = (load.end(), fresh.end());
    assert_nothing_lost(&kept);
    assert_nothing_lost(&fresh);
    println!("{TIMES} hand-overs: {} answers, {} of them on new connections, none lost", kept.answers, fresh.answers);
}

#[test]
fn a_successor_that_does_not_become_ready_changes_nothing() {
    let folder = Folder::new(ONE);
    let socket = folder.join("handover");
    let env = [("MAINSTAY__SERVER__HANDOVER_SOCKET", socket.to_str().unwrap()), ("ADMIN_TOKEN", "correct-horse")];
    let mut serving = Origin::start(folder.path(), &env);
    serving.get_until("/health/ready", |reply| reply.status == 200);

    let broken = Folder::new("[[route]]\npath = \"/three\"\nhandler = \"ghost\"\n");
    let outcome = mainstay(&["serve", "--config", broken.text()], &env);
    assert_eq!(outcome.code, Some(64), "{outcome:?}");
    assert!(!serving.program.output().contains("successor"), "it was asked for nothing: {}", serving.program.output());

    // Its database accepts and says nothing, so that it is not ready for a while.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://nobody@{}/nothing", silent.local_addr().unwrap());
    let slow = [&env[..], &[("DATABASE_URL", &url), ("MAINSTAY__DATABASE__CONNECT_TIMEOUT", "60s")]].concat();
    let mut early = Origin::start(folder.path(), &slow);
    early.program.signal(Signal::KILL);
    early.program.wait();
    let stays = || serving.program.output().matches("this process stays").count();
    assert!(wait_until(PATIENCE, || stays() == 1), "{}", serving.program.output());
    assert_eq!(serving.get("/health/ready").status, 200);
    assert_eq!(serving.get("/one").header("connection"), "", "clients stay");

    let mut good = Origin::start(folder.path(), &env);
    assert_eq!(serving.program.wait().code(), Some(0));
    good.program.expect_text("took over from the process before");
    // Nobody is there to take over from: who ended left nothing but the name of its socket.
    good.program.signal(Signal::TERM);
    assert_eq!(good.program.wait().code(), Some(0));
    let again = Origin::start(folder.path(), &env);
    again.get_until("/health/ready", |reply| reply.status == 200);
    assert!(!again.program.output().contains("took over"));
}

/// `mainstay serve` by a supervisor that holds these, as systemd does. The shell takes over the process that it passes them to.
fn held(passed: &[&dyn AsFd], folder: &Path) -> Command {
    let kept: Vec<_> = passed.iter().map(|held| held.as_fd().try_clone_to_owned().unwrap()).collect();
    let mut script = String::new();
    for (number, descriptor) in (3..).zip(&kept) {
        rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty()).unwrap();
        // Through a high number, since the low ones may be among those that are moved.
        script = format!("exec {}<&{}; {script} exec {number}<&{0};", number + 100, descriptor.as_raw_fd());
    }
    script += &format!("LISTEN_PID=$$ LISTEN_FDS={} exec \"$0\" \"$@\"", passed.len());
    let mut shell = command("/bin/bash");
    shell.envs([("BIND_ADDR", "127.0.0.1:0"), ("ADMIN_ADDR", "127.0.0.1:0")]);
    shell.args(["-c", &script, MAINSTAY, "serve", "--config", folder.to_str().unwrap()]);
    // The shell has to inherit them.
    std::mem::forget(kept);
    shell
}

#[test]
fn sockets_of_a_supervisor_are_the_public_and_the_admin_one_and_must_be_sockets() {
    let folder = Folder::new(ONE);
    let [public, admin] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let origin = Origin::start_command(held(&[&public, &admin], folder.path()), &[]);
    assert_eq!(address(&origin.base), public.local_addr().unwrap());
    assert_eq!(address(&origin.admin), admin.local_addr().unwrap());

    let refused = |passed: &dyn AsFd, env: &[(&str, &str)]| {
        let mut command = held(&[passed], folder.path());
        command.envs(env.iter().copied());
        let mut program = Program::start(command);
        assert_eq!(program.wait().code(), Some(64), "{}", program.output());
        program.stderr()
    };
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(refused(&file, &[]).contains("LISTEN_FDS: descriptor 3 cannot be used"));
    let both = [("MAINSTAY__SERVER__HANDOVER_SOCKET", "/nowhere/handover")];
    assert!(refused(&public, &both).contains("server.handover_socket"));
    let precious = folder.join("precious");
    std::fs::write(&precious, "not a socket").unwrap();
    let outcome = mainstay(
        &["serve", "--config", folder.text()],
        &[
            ("BIND_ADDR", "127.0.0.1:0"),
            ("ADMIN_ADDR", "127.0.0.1:0"),
            ("MAINSTAY__SERVER__HANDOVER_SOCKET", precious.to_str().unwrap()),
        ],
    );
    assert_eq!(outcome.code, Some(64), "{outcome:?}");
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "not a socket");
}

#[test]
fn a_socket_that_a_supervisor_holds_loses_nothing_while_nobody_serves() {
    let cluster = Cluster::shared();
    let url = cluster.primary.url("postgres", &cluster.database(""));
    let folder = Folder::new(ROUTES);
    let env = [("DATABASE_URL", url.as_str()), ("MAINSTAY__SERVER__DRAIN_DELAY", "500ms"), ("LOG_FORMAT", "json")];
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap();
    let start = || Origin::start_command(held(&[&listener], folder.path()), &env);
    let mut serving = start();
    assert_eq!(address(&serving.base), place);
    serving.get_until("/health/ready", |reply| reply.status == 200);
    let loads = [Then::Keep, Then::Leave].map(|then| Load::start(CLIENTS, then, &targets(), move || place));
    for _ in 0..2 {
        loads.iter().for_each(keep_going);
        serving.program.signal(Signal::TERM);
        assert_eq!(serving.program.wait().code(), Some(0), "{}", serving.program.output());
        serving = start();
    }
    loads.iter().for_each(keep_going);
    for seen in loads.map(Load::end) {
        assert_nothing_lost(&seen);
    }
}

#[test]
fn a_connection_that_is_kept_is_told_to_go_and_one_that_says_nothing_does_not_hold_the_end() {
    let folder = Folder::new(ONE);
    let mut origin = Origin::start(folder.path(), &[("MAINSTAY__SERVER__DRAIN_DELAY", "1s")]);
    let (mut talks, _silent) = (Kept::open(address(&origin.base)).unwrap(), Kept::open(address(&origin.base)).unwrap());
    talks.get("/health/live").unwrap();
    assert!(!talks.is_closed);
    let began = Instant::now();
    origin.program.signal(Signal::TERM);
    origin.get_until("/health/ready", |reply| reply.status == 503);
    talks.get("/health/live").unwrap();
    assert!(talks.is_closed);
    assert_eq!(origin.program.wait().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}
