//! The launcher: it starts what it says, and leaves nothing behind.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mainstay::local::{
    LocalError, Postgres, PostgresOptions, PostgresTls, Proxy, ProxyMode, Redis, RedisOptions, ReplicaOptions, Scratch,
    ServerUser, Signal, wait_until,
};
use postgres::{Client, NoTls};

use crate::support::{mainstay, repository};

const PATIENCE: Duration = Duration::from_secs(20);

fn connect(postgres: &Postgres) -> Client {
    Client::connect(&postgres.url("postgres", "postgres"), NoTls).unwrap()
}

fn count(client: &mut Client) -> i64 {
    client.query_one("SELECT count(*) FROM t", &[]).map_or(-1, |row| row.get(0))
}

#[test]
fn a_replica_follows_its_primary_through_crashes_and_promotion() {
    let scratch = Scratch::new("local").unwrap();
    let primary = Postgres::primary(PostgresOptions::new(scratch.join("primary"))).unwrap();
    let proxy = Proxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, primary.server.port()))).unwrap();
    let options = ReplicaOptions {
        upstream: Some(proxy.address()),
        application_name: Some("second".to_owned()),
        slot: Some("second".to_owned()),
        ..ReplicaOptions::new(scratch.join("replica"))
    };
    let replica = primary.replica(options).unwrap();
    assert!(wait_until(PATIENCE, || proxy.connections() == 1), "the replica streams through the proxy");

    let mut writer = connect(&primary);
    writer.batch_execute("CREATE TABLE t (id int); INSERT INTO t VALUES (1)").unwrap();
    let mut reader = connect(&replica);
    assert!(wait_until(PATIENCE, || count(&mut reader) == 1));
    let row = writer.query_one("SELECT application_name, pg_is_in_recovery() FROM pg_stat_replication", &[]).unwrap();
    assert_eq!((row.get::<_, String>(0).as_str(), row.get::<_, bool>(1)), ("second", false));
    assert_eq!(primary.psql("postgres", "SELECT slot_name, active FROM pg_replication_slots").unwrap(), "second|t\n");

    primary.server.kill9();
    assert!(!primary.server.is_running());
    assert!(matches!(primary.server.signal(Signal::HUP), Err(LocalError::NotRunning { .. })));
    assert_eq!(count(&mut reader), 1, "the replica outlives its primary");
    let port = primary.server.port();
    primary.server.start().unwrap();
    assert_eq!(primary.server.port(), port);
    let mut writer = connect(&primary);
    writer.batch_execute("INSERT INTO t VALUES (2)").unwrap();
    assert!(wait_until(PATIENCE, || count(&mut reader) == 2), "the replica finds its primary again");

    replica.promote().unwrap();
    reader.batch_execute("INSERT INTO t VALUES (3)").unwrap();
    assert_eq!((count(&mut writer), count(&mut reader)), (2, 3));
}

#[test]
fn a_second_start_uses_what_is_there_and_replaces_a_useless_replica() {
    let scratch = Scratch::new("again").unwrap();
    let (primary_dir, replica_dir) = (scratch.join("primary"), scratch.join("replica"));
    {
        let primary = Postgres::primary(PostgresOptions::new(&primary_dir)).unwrap();
        let _replica = primary.replica(ReplicaOptions::new(&replica_dir)).unwrap();
        connect(&primary).batch_execute("CREATE TABLE t AS SELECT 1").unwrap();
    }
    let birth = |dir: &Path| fs::metadata(dir.join("data")).unwrap().created().unwrap();
    let (primary_birth, replica_birth) = (birth(&primary_dir), birth(&replica_dir));
    {
        let primary = Postgres::primary(PostgresOptions::new(&primary_dir)).unwrap();
        let replica = primary.replica(ReplicaOptions::new(&replica_dir)).unwrap();
        // It may have ended before it had replayed the table.
        assert!(wait_until(PATIENCE, || count(&mut connect(&replica)) == 1));
        assert_eq!((birth(&primary_dir), birth(&replica_dir)), (primary_birth, replica_birth));
        replica.promote().unwrap();
    }
    let other = Postgres::primary(PostgresOptions::new(scratch.join("other"))).unwrap();
    let replica = other.replica(ReplicaOptions::new(&replica_dir)).unwrap();
    assert_eq!(replica.system_id().unwrap(), other.system_id().unwrap(), "promoted, and of another cluster");
    drop(replica);

    fs::remove_dir_all(replica_dir.join("data/global")).unwrap();
    let replica = other.replica(ReplicaOptions::new(&replica_dir)).unwrap();
    assert_eq!(replica.system_id().unwrap(), other.system_id().unwrap(), "broken");
}

#[test]
fn tls_and_access_rules_are_as_asked() {
    let scratch = Scratch::new("tls").unwrap();
    let issued = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (certificate_pem, key_pem) = (issued.cert.pem(), issued.signing_key.serialize_pem());
    let primary = Postgres::primary(PostgresOptions {
        hba: vec!["host all stranger 127.0.0.1/32 reject".to_owned()],
        tls: Some(PostgresTls { certificate_pem, key_pem, client_ca_pem: None }),
        ..PostgresOptions::new(scratch.join("primary"))
    })
    .unwrap();
    // psql prefers TLS.
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(primary.psql("postgres", sql).unwrap(), "t\n");
    let refused = Client::connect(&primary.url("stranger", "postgres"), NoTls).map(drop).unwrap_err();
    assert!(refused.as_db_error().unwrap().message().contains("rejects connection"), "{refused}");
}

#[test]
fn a_suspended_server_hangs_and_can_still_be_stopped() {
    let scratch = Scratch::new("suspend").unwrap();
    let options = PostgresOptions::new(scratch.join("primary")).setting("work_mem", "5MB");
    let primary = Postgres::primary(options).unwrap();
    assert_eq!(primary.psql("postgres", "SHOW work_mem").unwrap(), "5MB\n");
    let (sender, answers) = std::sync::mpsc::channel();
    let mut client = connect(&primary);

    primary.server.suspend().unwrap();
    let asker = std::thread::spawn(move || sender.send(client.simple_query("SELECT 1").is_ok()));
    // The one wait for something not to happen.
    assert!(answers.recv_timeout(Duration::from_millis(200)).is_err());
    primary.server.resume().unwrap();
    assert_eq!(answers.recv_timeout(PATIENCE), Ok(true));
    asker.join().unwrap().unwrap();

    primary.server.suspend().unwrap();
    primary.server.stop();
    assert!(!primary.server.is_running());
}

#[test]
fn a_taken_port_is_named() {
    let scratch = Scratch::new("port").unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = listener.local_addr().unwrap().port();
    let options = RedisOptions { port: taken, ..RedisOptions::new(scratch.join("redis")) };
    match Redis::start(&options) {
        Err(LocalError::PortInUse { port }) => assert_eq!(port, taken),
        Err(other) => panic!("{other}"),
        Ok(redis) => assert!(redis.is_none(), "Redis is not installed, or the port was refused"),
    }
}

#[test]
fn a_setting_that_is_wrong_shows_in_the_error() {
    let scratch = Scratch::new("wrong").unwrap();
    let options = PostgresOptions::new(scratch.join("primary")).setting("shared_buffer", "1MB");
    let error = Postgres::primary(options).map(drop).unwrap_err().to_string();
    assert!(error.contains("unrecognized configuration parameter \"shared_buffer\""), "{error}");
}

#[test]
fn root_finds_another_place_where_the_servers_user_cannot_go() {
    let user = ServerUser::detect().unwrap();
    let scratch = Scratch::new("closed").unwrap();
    assert_eq!(user.directory(&scratch.join("open")).unwrap(), scratch.join("open"));

    let closed = scratch.join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let wanted = closed.join("wanted");
    let used = user.directory(&wanted).unwrap();
    assert_eq!(user.directory(&wanted).unwrap(), used, "the same place every time");
    // An ordinary user's servers run as that user, and go where it goes.
    if used != wanted {
        fs::remove_dir(used).unwrap();
    }
}

/// Set in the child of [`a_launcher_that_is_killed_leaves_nothing`].
const CHILD: &str = "MAINSTAY_TEST_LAUNCHER_CHILD";

/// Not a test of its own: what the next test runs in another process, to kill it.
#[test]
fn launcher_child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let scratch = Scratch::new("killed").unwrap();
    let primary = Postgres::primary(PostgresOptions::new(scratch.join("primary"))).unwrap();
    let replica = primary.replica(ReplicaOptions::new(scratch.join("replica"))).unwrap();
    let redis = Redis::start(&RedisOptions::new(scratch.join("redis"))).unwrap();
    // A suspended server must go, too.
    replica.server.suspend().unwrap();
    println!("\nready {}", scratch.path().display());
    let _ = std::io::stdin().read(&mut [0]);
    drop(redis);
}

#[test]
fn a_launcher_that_is_killed_leaves_nothing() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "local::launcher_child", "--nocapture"])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let scratch = lines.map(Result::unwrap).find_map(|line| Some(line.strip_prefix("ready ")?.to_owned())).unwrap();
    let descendants = descendants(child.id());
    assert!(descendants.len() > 10, "{descendants:?}");
    // The watchers, too, stay when the launcher is killed; each has to end by itself.
    child.kill().unwrap();
    child.wait().unwrap();
    let alive = || descendants.iter().filter(|pid| is_alive(**pid)).collect::<Vec<_>>();
    assert!(wait_until(PATIENCE, || alive().is_empty()), "left behind: {:?}", alive());
    assert!(wait_until(PATIENCE, || !Path::new(&scratch).exists()), "left behind: {scratch}");
}

/// The state letter and the parent of every process.
fn processes() -> Vec<(u32, char, u32)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold blanks; it ends with the last parenthesis.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        Some((pid, fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
    })
    .collect()
}

fn descendants(ancestor: u32) -> Vec<u32> {
    let processes = processes();
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(processes.iter().filter(|(_, _, ppid)| *ppid == parent).map(|(pid, ..)| *pid));
        next += 1;
    }
    found.split_off(1)
}

/// Zombies have ended; only nobody has asked for their exit status yet.
fn is_alive(pid: u32) -> bool {
    processes().iter().any(|(other, state, _)| *other == pid && *state != 'Z')
}

/// A server that sends back what it receives, until the listener's process ends.
fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
            });
        }
    });
    address
}

fn open(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends a byte and waits for it to come back.
fn ping(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

#[test]
fn the_proxy_forwards_delays_and_ends_connections() {
    let proxy = Proxy::start(echo_server()).unwrap();
    let mut stream = open(&proxy);
    ping(&mut stream).unwrap();
    assert_eq!(proxy.connections(), 1);

    let delay = Duration::from_millis(50);
    proxy.set_delay(delay);
    let start = Instant::now();
    ping(&mut stream).unwrap();
    assert!(start.elapsed() >= 2 * delay);
    proxy.set_delay(Duration::ZERO);

    proxy.set_throttle(Some(10_000));
    let start = Instant::now();
    stream.write_all(&[0; 2000]).unwrap();
    stream.read_exact(&mut [0; 2000]).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(150), "{:?}", start.elapsed());
    proxy.set_throttle(None);

    proxy.cut();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert!(wait_until(PATIENCE, || proxy.connections() == 0));

    let mut stream = open(&proxy);
    ping(&mut stream).unwrap();
    proxy.reset();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);

    let mut stream = open(&proxy);
    ping(&mut stream).unwrap();
    drop(proxy);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn the_proxy_carries_bulk_and_half_closed_connections() {
    const BYTES: usize = 4 << 20;
    let proxy = Proxy::start(echo_server()).unwrap();
    let mut stream = open(&proxy);
    let mut writer = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        writer.write_all(&vec![7; BYTES]).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    assert_eq!(received.len(), BYTES);
    sender.join().unwrap();
}

#[test]
fn the_proxy_refuses_resets_and_swallows() {
    let proxy = Proxy::start(echo_server()).unwrap();
    let mut old = open(&proxy);
    ping(&mut old).unwrap();

    proxy.set_mode(ProxyMode::Refuse);
    assert_eq!(open(&proxy).read(&mut [0]).unwrap(), 0);
    proxy.set_mode(ProxyMode::Reset);
    // The reset may come before or after the client learns that it is connected.
    let greeting = TcpStream::connect(proxy.address()).and_then(|mut stream| stream.read(&mut [0]));
    assert_eq!(greeting.unwrap_err().kind(), ErrorKind::ConnectionReset);
    ping(&mut old).unwrap();

    proxy.set_mode(ProxyMode::BlackHole);
    let mut new = open(&proxy);
    for stream in [&mut old, &mut new] {
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert_eq!(ping(stream).unwrap_err().kind(), ErrorKind::WouldBlock);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    proxy.set_mode(ProxyMode::Pass);
    for stream in [&mut old, &mut new] {
        stream.read_exact(&mut [0]).unwrap();
        ping(stream).unwrap();
    }

    let other = echo_server();
    proxy.set_target(other);
    ping(&mut open(&proxy)).unwrap();
}

#[test]
fn a_postgres_from_somewhere_else_is_refused_with_a_sentence() {
    let config = repository("config");
    let outcome = mainstay(
        &["dev", "--config", config.to_str().unwrap(), "--bind", "127.0.0.1:0", "--admin", "127.0.0.1:0"],
        &[("MAINSTAY_TEST_POSTGRES", "docker")],
    );
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("MAINSTAY_TEST_POSTGRES: it is `local` or `container`"), "{outcome:?}");
}
