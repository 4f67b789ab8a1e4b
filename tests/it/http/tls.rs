//! TLS on the public listener.

use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::instance::client::Connection;
use crate::instance::probe::Probe;
use crate::instance::{Instance, Plan};
use crate::support::PATIENCE;

const ROUTES: &str = "[[route]]\npath = \"/public/echo\"\nhandler = \"probe\"\n";

/// An instance with a certificate for `origin.test`, and the certificate.
fn start() -> (Instance, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["origin.test".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let plan = Plan::probed(ROUTES, &Probe::default()).set("server.tls_cert_file", cert.to_str().unwrap());
    (plan.set("server.tls_key_file", key.to_str().unwrap()).start(), made.cert.der().clone())
}

fn connect(
    instance: &Instance,
    trusted: &CertificateDer<'static>,
    alpn: &[&[u8]],
) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let client = ClientConnection::new(Arc::new(config), ServerName::try_from("origin.test").unwrap()).unwrap();
    let stream = TcpStream::connect(instance.public).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    StreamOwned::new(client, stream)
}

#[test]
fn requests_come_over_tls_and_connections_are_kept() {
    let (instance, certificate) = start();
    let mut connection = Connection::over(connect(&instance, &certificate, &[b"http/1.1"]));
    assert_eq!(connection.request("GET", "/public/echo", &[]).cache(), "fwd=miss; stored; detail=handler");
    assert!(connection.request("GET", "/public/echo", &[]).is_hit());
    assert_eq!(connection.request("GET", "/health/live", &[]).status, 200);
    assert_eq!(connection.request_with_body("GET", "/public/echo", &[], b"x").status, 400);
}

/// Whichever protocol is agreed on must be one that is spoken.
#[test]
fn a_client_that_offers_both_protocols_gets_one_that_works() {
    let (instance, certificate) = start();
    let mut stream = connect(&instance, &certificate, &[b"h2", b"http/1.1"]);
    stream.conn.complete_io(&mut stream.sock).unwrap();
    let agreed = stream.conn.alpn_protocol().map(<[u8]>::to_vec);
    assert_eq!(agreed.as_deref(), Some(&b"http/1.1"[..]), "HTTP/2 is not compiled in");
    assert_eq!(Connection::over(stream).request("GET", "/public/echo", &[]).status, 200);
}

#[test]
fn clear_text_is_not_answered_and_harms_nobody() {
    let (instance, certificate) = start();
    let mut clear = Connection::open(instance.public);
    clear.send("GET /public/echo HTTP/1.1\r\nHost: x\r\n\r\n");
    clear.end();
    assert!(!clear.rest().starts_with(b"HTTP/1.1 200"));
    let mut connection = Connection::over(connect(&instance, &certificate, &[]));
    assert_eq!(connection.request("GET", "/public/echo", &[]).status, 200);
}

#[test]
fn a_certificate_that_cannot_be_read_stops_the_start() {
    let plan = Plan::new("").set("server.tls_cert_file", "/nowhere/cert.pem");
    let error = plan.set("server.tls_key_file", "/nowhere/key.pem").try_start().err().unwrap();
    assert!(error.starts_with("server.tls_cert_file: /nowhere/cert.pem"), "{error}");
    let half = Plan::new("").set("server.tls_cert_file", "/nowhere/cert.pem").try_start().err().unwrap();
    assert!(half.contains("server.tls_key_file"), "{half}");
}
