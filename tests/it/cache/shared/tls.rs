//! TLS to Redis, and URLs that are none.

use mainstay::local::{RedisCluster, RedisTls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::*;
use crate::support::wait_for;

/// A certificate for these names, and its roots.
fn certificate(names: &[&str]) -> RedisTls {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // OpenSSL takes a certificate whose issuer has its own name for one that signed itself.
    params.distinguished_name.push(DnType::CommonName, "authority");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    RedisTls { certificate_pem: certificate.pem(), key_pem: key.serialize_pem(), ca_pem: authority.pem() }
}

#[actix_rt::test]
async fn a_cluster_over_tls() {
    let scratch = Scratch::new("cluster-tls").unwrap();
    let tls = certificate(&["127.0.0.1"]);
    let cluster = RedisCluster::start(scratch.path(), Some(&tls)).unwrap().expect("redis-server is installed");
    let roots = scratch.join("roots.pem");
    std::fs::write(&roots, &tls.ca_pem).unwrap();
    let roots = [("MAINSTAY__REDIS__TLS_CA_FILE", roots.to_str().unwrap())];
    let instance = Instance::new(&cluster.url(), &[&PATIENT[..], &roots].concat());
    for key in (0..10).map(Key) {
        instance.put(key, &entry(1, "a"), None).await;
        assert!(instance.look(key, CANONICAL, &FINGERPRINT).await.found().is_some());
    }
}

#[actix_rt::test]
async fn tls_is_checked_against_the_roots() {
    let (ours, others) = (certificate(&["localhost"]), certificate(&["localhost"]));
    let site = Site::with("shared-tls", |options| mainstay::local::RedisOptions { tls: Some(ours.clone()), ..options });
    let instance = |host: &str, roots: String| {
        let file = site.scratch.join("roots.pem");
        std::fs::write(&file, roots).unwrap();
        let url = format!("rediss://{host}:{}", site.redis.tls_port());
        Instance::new(&url, &[&PATIENT[1..], &[("MAINSTAY__REDIS__TLS_CA_FILE", file.to_str().unwrap())]].concat())
    };
    let good = instance("localhost", ours.ca_pem.clone());
    good.recovers().await;
    good.put(KEY, &entry(1, "a"), None).await;
    assert_eq!(good.body().await.as_deref(), Some("a"));
    let listeners = || site.run::<(String, usize)>(&[b"PUBSUB", b"NUMSUB", b"mainstay:filled"]).1;
    wait_for("the subscription", || listeners() == 1).await;
    assert!(instance("localhost", others.ca_pem.clone()).is_unavailable().await, "somebody else's roots");
    assert!(instance("127.0.0.1", ours.ca_pem.clone()).is_unavailable().await, "another name");
}

#[actix_rt::test]
async fn a_url_that_is_none_stops_the_start_without_being_printed() {
    for url in [
        "http://u:geheim@h",
        "redis://u:geheim@h:port",
        "geheim",
        "rediss://",
        "redis-cluster://u:geheim@:x",
        "redis-cluster:// ",
    ] {
        let error = Instance::try_new(url, &[]).map(drop).unwrap_err().to_string();
        assert!(error.starts_with("redis.url: "), "{url}: {error}");
        assert!(!error.contains("geheim"), "{error}");
    }
    let error =
        |name: &str, value: &str| Instance::try_new("rediss://localhost", &[(name, value)]).map(drop).unwrap_err();
    let missing = error("MAINSTAY__REDIS__TLS_CA_FILE", "/nowhere/roots.pem").to_string();
    assert!(missing.starts_with("redis.tls_ca_file: "), "{missing}");
    let braces = error("MAINSTAY__CACHE__NAMESPACE", "a{b}").to_string();
    assert!(braces.starts_with("cache.namespace: "), "{braces}");
}
