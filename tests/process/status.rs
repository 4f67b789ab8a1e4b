//! `mainstay status`: how it says whether all is well, and how it is watched.

use mainstay::local::{Postgres, PostgresOptions, Scratch, Signal};

use crate::support::{Folder, MAINSTAY, Origin, Outcome, Program, command, mainstay};

const TOKEN: &str = "correct-horse";
const ROUTES: &str = "[[route]]\npath = \"/one\"\nsql = \"SELECT 1 AS one\"\nresult = \"row\"\n[route.cache]\nttl = \"1s\"\nstale_if_error = \"1h\"\n";

fn ask(folder: &Folder, address: &str, args: &[&str]) -> Outcome {
    let args = [&["status", "--config", folder.text()], args].concat();
    mainstay(&args, &[("ADMIN_ADDR", address), ("ADMIN_TOKEN", TOKEN)])
}

fn watch(folder: &Folder, address: &str, args: &[&str]) -> Program {
    let mut watch = command(MAINSTAY);
    watch.args(["status", "--watch", "--interval", "100ms", "--config", folder.text()]).args(args);
    watch.env("ADMIN_ADDR", address).env("ADMIN_TOKEN", TOKEN);
    Program::start(watch)
}

#[test]
fn the_exit_code_says_how_it_is_and_the_page_what_to_do() {
    let scratch = Scratch::new("status").unwrap();
    let primary = Postgres::primary(PostgresOptions::new(scratch.join("primary")).setting("fsync", "off")).unwrap();
    let folder = Folder::new(ROUTES);
    let url = primary.url("postgres", "postgres");
    let mut origin = Origin::start(folder.path(), &[("DATABASE_URL", &url), ("ADMIN_TOKEN", TOKEN)]);
    origin.get_until("/health/edge", |reply| reply.status == 200);
    origin.get_until("/one", |reply| reply.status == 200);
    let address = origin.admin.strip_prefix("http://").unwrap().to_owned();

    let well = ask(&folder, &address, &[]);
    assert_eq!(well.code, Some(0), "{well:?}");
    assert!(well.stdout.contains("\nok") && well.stdout.contains("1 entries"), "{}", well.stdout);
    let wrong = mainstay(
        &["status", "--watch", "--interval", "100ms", "--config", folder.text()],
        &[("ADMIN_ADDR", &address), ("ADMIN_TOKEN", "wrong")],
    );
    assert_eq!(wrong.code, Some(1), "it would shut everybody of this address out: {wrong:?}");
    let mut watched = watch(&folder, &address, &[]);
    watched.expect_text("\nok");

    primary.server.signal(Signal::QUIT).unwrap();
    origin.get_until("/health/edge", |reply| reply.body.contains("unhealthy"));
    watched.expect_text("CRITICAL");
    let ill = ask(&folder, &address, &[]);
    assert_eq!(ill.code, Some(4), "{ill:?}");
    assert!(ill.stdout.contains("CRITICAL") && ill.stdout.contains("primary_down"), "{}", ill.stdout);
    assert!(ill.stderr.starts_with("mainstay: "), "{ill:?}");
    let as_json = ask(&folder, &address, &["--json"]);
    let document: serde_json::Value = serde_json::from_str(&as_json.stdout).unwrap();
    assert_eq!((as_json.code, &document["health"]["status"]), (Some(4), &"unhealthy".into()));

    origin.program.signal(Signal::INT);
    assert_eq!(origin.program.wait().code(), Some(0));
    watched.expect_text("NOT REACHED");
    assert!(!watched.stdout().contains('\u{1b}'), "nothing is drawn where there is no terminal");
    watched.signal(Signal::INT);
    assert_eq!(watched.wait().code(), Some(0), "{}", watched.output());
    assert_eq!(ask(&folder, &address, &[]).code, Some(1));
}

/// A listener whose process hangs: the kernel takes connections, and nobody answers.
#[test]
fn an_instance_that_hangs_is_not_waited_for() {
    let hung = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (folder, address) = (Folder::new(ROUTES), hung.local_addr().unwrap().to_string());
    std::thread::scope(|scope| {
        for args in
            [&["status"][..], &["log"], &["log", "debug"], &["log", "--reset"], &["audit"], &["audit", "--acknowledge"]]
        {
            let (folder, address) = (&folder, &address);
            scope.spawn(move || {
                let args = [args, &["--config", folder.text()]].concat();
                let outcome = mainstay(&args, &[("ADMIN_ADDR", address), ("ADMIN_TOKEN", TOKEN)]);
                assert_eq!(outcome.code, Some(1), "{args:?}: {outcome:?}");
                assert!(outcome.stderr.contains("no answer within 5 s"), "{args:?}: {outcome:?}");
            });
        }
    });
}

#[test]
fn watched_as_json_each_look_is_a_line_and_a_reader_that_goes_is_no_error() {
    let folder = Folder::new(ROUTES);
    let origin = Origin::start(folder.path(), &[("ADMIN_TOKEN", TOKEN)]);
    let address = origin.admin.strip_prefix("http://").unwrap().to_owned();
    let mut watched = watch(&folder, &address, &["--json"]);
    watched.expect("three lines", |output| (output.lines().count() >= 3).then_some(()));
    watched.signal(Signal::TERM);
    assert_eq!(watched.wait().code(), Some(0));
    for line in watched.stdout().lines() {
        let document: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(document["mode"], "regional");
    }
    let mut shell = command("sh");
    let script = format!("{MAINSTAY} status --config {} | head -n 1", folder.text());
    shell.args(["-c", &script]).env("ADMIN_ADDR", &address).env("ADMIN_TOKEN", TOKEN);
    let mut shell = Program::start(shell);
    assert!(shell.wait().success());
    assert!(!shell.stderr().contains("panicked"), "{}", shell.stderr());
}
