//! `mainstay health`, the health check of the container image.

use crate::support::{Folder, ONE, Origin, Outcome, mainstay};

/// What it says with the settings of a server on `base`.
fn ask(folder: &Folder, base: &str, question: &[&str], env: &[(&str, &str)]) -> Outcome {
    let address = base.split_once("://").unwrap().1;
    let args = [&["health", "--config", folder.text()], question].concat();
    mainstay(&args, &[&[("BIND_ADDR", address)], env].concat())
}

#[test]
fn it_is_the_answer_of_this_machines_own_listener() {
    let folder = Folder::new(ONE);
    // A failover origin with nothing to serve from lives, and is not ready.
    let mut origin = Origin::start(folder.path(), &[("MODE", "failover")]);
    for question in [&[][..], &["live"]] {
        let answer = ask(&folder, &origin.base, question, &[]);
        assert_eq!((answer.code, &*answer.stdout, &*answer.stderr), (Some(0), "", ""));
    }
    for question in ["ready", "edge"] {
        let answer = ask(&folder, &origin.base, &[question], &[]);
        assert_eq!(answer.code, Some(1), "{answer:?}");
        assert!(answer.stderr.contains(&format!("/health/{question} answers 503")), "{answer:?}");
    }

    // Where a server listens on all addresses, it is asked on loopback.
    let everywhere = origin.base.replace("127.0.0.1", "0.0.0.0");
    assert_eq!(ask(&folder, &everywhere, &[], &[]).code, Some(0));

    origin.program.signal(mainstay::local::Signal::TERM);
    origin.program.wait();
    let answer = ask(&folder, &origin.base, &[], &[]);
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert!(answer.stderr.contains("refused"), "{answer:?}");
}

#[test]
fn a_listener_with_tls_is_asked_over_tls_whatever_its_certificate_is_for() {
    let folder = Folder::new(ONE);
    let made = rcgen::generate_simple_self_signed(["api.example".to_owned()]).unwrap();
    folder.write("cert.pem", &made.cert.pem());
    folder.write("key.pem", &made.signing_key.serialize_pem());
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let tls = [
        ("MAINSTAY__SERVER__TLS_CERT_FILE", cert.to_str().unwrap()),
        ("MAINSTAY__SERVER__TLS_KEY_FILE", key.to_str().unwrap()),
    ];
    let origin = Origin::start(folder.path(), &tls);
    assert_eq!(ask(&folder, &origin.base, &[], &tls).code, Some(0));
    assert_eq!(ask(&folder, &origin.base, &[], &[]).code, Some(1), "plain HTTP is not what it speaks");
}

#[test]
fn settings_that_cannot_be_run_with_are_said_as_by_the_server() {
    let folder = Folder::new(ONE);
    let answer = mainstay(&["health", "--config", folder.text()], &[("BIND_ADDR", "nowhere")]);
    assert_eq!(answer.code, Some(64), "{answer:?}");
    assert!(answer.stderr.contains("server.bind_addr"), "{answer:?}");
}
