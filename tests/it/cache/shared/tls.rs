//! TLS to Redis, and URLs that are none.

use mainstay::local::RedisTls;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::*;

#[actix_rt::test]
async fn tls_is_checked_against_the_roots() {
    let authority = || {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    };
    let (ours, others) = (authority(), authority());
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &ours).unwrap();
    let tls = RedisTls { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() };
    let site = Site::with("shared-tls", |options| mainstay::local::RedisOptions { tls: Some(tls.clone()), ..options });
    let instance = |host: &str, roots: String| {
        let file = site.scratch.join("roots.pem");
        std::fs::write(&file, roots).unwrap();
        let url = format!("rediss://{host}:{}", site.redis.tls_port());
        Instance::new(&url, &[&PATIENT[1..], &[("MAINSTAY__REDIS__TLS_CA_FILE", file.to_str().unwrap())]].concat())
    };
    let good = instance("localhost", ours.pem());
    good.recovers().await;
    good.put(KEY, &entry(1, "a"), None).await;
    assert_eq!(good.body().await.as_deref(), Some("a"));
    let mut listeners = site.run::<(String, usize)>(&[b"PUBSUB", b"NUMSUB", b"mainstay:filled"]).1;
    while listeners == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        listeners = site.run::<(String, usize)>(&[b"PUBSUB", b"NUMSUB", b"mainstay:filled"]).1;
    }
    assert!(instance("localhost", others.pem()).is_unavailable().await, "somebody else's roots");
    assert!(instance("127.0.0.1", ours.pem()).is_unavailable().await, "another name");
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
