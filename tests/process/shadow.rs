//! A route of a legacy application is moved over: `mainstay check`, `routes` and `shadow` on the way.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;

use crate::support::{Cluster, Folder, Origin, mainstay};

/// A legacy application that answers every request with this body, until its last client has gone.
fn legacy(body: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).is_ok_and(|length| length > 0) {
                    let _gone = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                }
            });
        }
    });
    address
}

fn manifest(address: SocketAddr, more: &str) -> String {
    format!(
        "[upstream.legacy]\nendpoints = [\"http://{address}\"]\n\n\
         [[route]]\npath = \"/{{*path}}\"\nupstream = \"legacy\"\n{more}"
    )
}

const USER: &str = r#"
[[route]]
path = "/users/{id}"
upstream = "legacy"
params = [{ name = "id", in = "path", type = "integer" }]
  [route.shadow]
  sql = "SELECT id, name FROM users WHERE id = $1"
  result = "row"
  sample = 0.000000001
"#;

#[test]
fn a_route_is_moved_over_with_evidence() {
    let cluster = Cluster::shared();
    let database =
        cluster.database("CREATE TABLE users (id bigint, name text); INSERT INTO users VALUES (1, 'Ada'), (2, 'Bo')");
    let url = cluster.primary.url("postgres", &database);
    let folder = Folder::new(&manifest(legacy(r#"{"id":1,"name":"Ada"}"#), USER));
    let run = |args: &[&str], env: &[(&str, &str)]| mainstay(&[args, &["--config", folder.text()]].concat(), env);

    let checked = run(&["check", "--strict"], &[("DATABASE_URL", &url)]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let routes = run(&["routes"], &[]);
    assert!(routes.stdout.contains("upstream legacy + shadow"), "{routes:?}");

    let origin = Origin::start(folder.path(), &[("DATABASE_URL", &url), ("ADMIN_TOKEN", "t")]);
    origin.get_until("/health/edge", |reply| reply.status == 200);
    assert_eq!(origin.get("/anything").json()["name"], "Ada");
    let address = origin.admin.strip_prefix("http://").unwrap().to_owned();
    let admin = [("ADMIN_ADDR", address.as_str()), ("ADMIN_TOKEN", "t")];

    folder.write("equal.txt", "# of an access log\n/users/1\n");
    let equal = run(&["shadow", "--requests", &folder.join("equal.txt").display().to_string()], &admin);
    assert_eq!(
        (equal.code, equal.stdout.as_str()),
        (Some(0), "1 requests: 1 equal, 0 different, 0 failed\n"),
        "{equal:?}"
    );

    folder.write("different.txt", "/users/1\n/users/2\n/users/x\n");
    let different = run(&["shadow", "--requests", &folder.join("different.txt").display().to_string()], &admin);
    assert_eq!(different.code, Some(1), "{different:?}");
    assert!(different.stdout.starts_with("3 requests: 1 equal, 1 different, 1 failed\n"), "{different:?}");
    assert!(different.stdout.contains("    /name: upstream \"Ada\", shadow \"Bo\"\n"), "{different:?}");
    assert!(different.stderr.contains("1 answers differ"), "{different:?}");

    let summary = run(&["shadow", "/users/{id}"], &admin);
    assert_eq!(summary.code, Some(1), "{summary:?}");
    assert!(summary.stdout.contains("/users/{id}: 3 compared"), "{summary:?}");
    assert!(
        summary.stdout.contains("2 equal, 1 different, 0 failed") && summary.stdout.contains("/users/2"),
        "{summary:?}"
    );
    let unknown = run(&["shadow", "/users"], &admin);
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    assert!(unknown.stderr.contains("no route /users with a shadow"), "{unknown:?}");
}

#[test]
fn check_looks_at_upstreams_and_needs_no_database_where_there_is_none() {
    let address = legacy("{}");
    let check = |manifest: &str, args: &[&str]| {
        let folder = Folder::new(manifest);
        mainstay(&[&["check", "--config", folder.text()], args].concat(), &[])
    };
    let good = check(&manifest(address, ""), &["--strict"]);
    assert_eq!(good.code, Some(0), "{good:?}");
    assert!(good.stdout.contains("ok  GET /{*path}"), "{good:?}");

    let lost = check(&manifest(address, "").replace(&address.to_string(), "no-such-host.invalid:80"), &[]);
    assert_eq!(lost.code, Some(1), "{lost:?}");
    assert!(
        lost.stdout.contains("routes.toml:1: error: upstream legacy: no-such-host.invalid does not resolve"),
        "{lost:?}"
    );

    let spare = format!("{}\n[upstream.spare]\nendpoints = [\"http://{address}\"]\n", manifest(address, ""));
    assert_eq!(check(&spare, &[]).code, Some(0));
    let spare = check(&spare, &["--strict"]);
    assert_eq!(spare.code, Some(1), "{spare:?}");
    assert!(spare.stdout.contains("warning: upstream spare: no route names it"), "{spare:?}");

    let needs = check(&manifest(address, "[[route]]\npath = \"/x\"\nsql = \"SELECT 1\"\n"), &[]);
    assert_ne!(needs.code, Some(0), "sql wants a database: {needs:?}");
}
