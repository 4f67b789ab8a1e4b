//! Endpoints that are reached by https.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;

use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::CATCH_ALL;
use crate::instance::Plan;

/// A certificate for localhost, the key, and the root that vouches for it, in PEM.
pub fn server() -> (ServerConfig, String) {
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::new(Vec::new()).unwrap();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::new(root, root_key);
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    (config, root_pem)
}

/// A server that answers every request with this body.
pub fn listen(config: ServerConfig, body: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, config) = (listener.local_addr().unwrap(), Arc::new(config));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, stream.unwrap());
            let mut buffer = [0; 4096];
            if stream.read(&mut buffer).is_ok_and(|length| length > 0) {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                let _gone = stream.write_all(&[head.as_bytes(), body.as_bytes()].concat());
                stream.conn.send_close_notify();
                let _gone = stream.flush();
            }
        }
    });
    address
}

#[test]
fn an_endpoint_is_believed_by_its_certificate_alone() {
    let (config, root) = server();
    let address = listen(config, "secret");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("root.pem");
    std::fs::write(&file, root).unwrap();
    let start = |host: &str, more: &str| {
        let url = format!("https://{host}:{}", address.port());
        Plan::new(&format!("[upstream.old]\nendpoints = [\"{url}\"]\n{more}\n{CATCH_ALL}")).start()
    };
    let trusted = format!("tls_ca_file = {:?}", file.to_str().unwrap());
    assert_eq!(start("localhost", &trusted).get("/a").text(), "secret");
    assert_eq!(start("127.0.0.1", &trusted).get("/a").problem(), "upstream_unavailable", "another name");
    assert_eq!(start("localhost", "").get("/a").problem(), "upstream_unavailable", "nobody vouches for it");
}
