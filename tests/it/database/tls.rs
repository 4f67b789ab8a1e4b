//! TLS against a real server, with certificates made here.

use mainstay::config::settings::Settings;
use mainstay::database::read::Consistency;
use mainstay::error::Code;
use mainstay::local::{Postgres, PostgresOptions, PostgresTls, Scratch};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::support::{settings, soon, start, word};

const ENCRYPTED: &str = "SELECT ssl::text AS word FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

struct Site {
    postgres: Postgres,
    scratch: Scratch,
}

impl Site {
    /// A server with a certificate for `localhost` that descends from `roots.pem`; `others.pem` are somebody else's roots.
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name).unwrap();
        let authority = || {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
        };
        let (ours, others) = (authority(), authority());
        std::fs::write(scratch.join("roots.pem"), ours.pem()).unwrap();
        std::fs::write(scratch.join("others.pem"), others.pem()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &ours).unwrap();
        let tls = PostgresTls { certificate_pem: certificate.pem(), key_pem: key.serialize_pem(), client_ca_pem: None };
        let options = PostgresOptions { tls: Some(tls), ..PostgresOptions::new(scratch.join("postgres")) };
        Self { postgres: Postgres::primary(options).unwrap(), scratch }
    }

    fn settings(&self, host: &str, mode: &str, roots: &str) -> Settings {
        let port = self.postgres.server.port();
        let roots = if roots.is_empty() { String::new() } else { self.scratch.join(roots).display().to_string() };
        let url = format!("postgres://postgres@{host}:{port}/postgres?sslmode={mode}");
        settings(&url, "", &[("MAINSTAY__DATABASE__TLS_CA_FILE", &roots)])
    }

    async fn encrypted(&self, host: &str, mode: &str, roots: &str) -> Result<bool, Code> {
        let database = start(&self.settings(host, mode, roots)).await;
        let read = word(&database, Consistency::Strong, ENCRYPTED).await;
        read.map(|(word, _)| word == "true").map_err(|error| error.code)
    }
}

#[actix_rt::test]
async fn each_sslmode_means_what_libpq_means() {
    let site = Site::new("tls");
    let refused = Err(Code::StrongUnavailable);
    for (host, mode, roots, expected) in [
        ("127.0.0.1", "disable", "", Ok(false)),
        ("127.0.0.1", "prefer", "", Ok(true)),
        ("127.0.0.1", "require", "", Ok(true)),
        ("127.0.0.1", "require", "roots.pem", Ok(true)),
        ("localhost", "require", "others.pem", refused),
        ("127.0.0.1", "verify-ca", "roots.pem", Ok(true)),
        ("localhost", "verify-ca", "others.pem", refused),
        ("localhost", "verify-full", "roots.pem", Ok(true)),
        ("127.0.0.1", "verify-full", "roots.pem", refused),
        ("localhost", "verify-full", "", refused),
    ] {
        assert_eq!(site.encrypted(host, mode, roots).await, expected, "{host} {mode} {roots}");
    }
}

#[actix_rt::test]
async fn sqlstates_are_seen_through_tls() {
    let site = Site::new("tls-states");
    let mut settings = site.settings("localhost", "verify-full", "roots.pem");
    settings.database.statement_timeout.0 = std::time::Duration::from_millis(100);
    let database = start(&settings).await;
    let slow = word(&database, Consistency::Strong, "SELECT 'x' AS word FROM pg_sleep(30)").await;
    assert_eq!(slow.unwrap_err().code, Code::SourceTimeout);
    assert!(database.describe("SELECT 1 AS one", soon()).await.is_ok());
}

#[actix_rt::test]
async fn a_server_without_tls_is_refused_where_tls_is_required() {
    let cluster = crate::support::Cluster::shared();
    let url = |mode: &str| format!("{}?sslmode={mode}", cluster.primary.url("postgres", "postgres"));
    let database = start(&settings(&url("require"), "", &[])).await;
    assert_eq!(word(&database, Consistency::Strong, ENCRYPTED).await.unwrap_err().code, Code::StrongUnavailable);
    let database = start(&settings(&url("prefer"), "", &[])).await;
    assert_eq!(word(&database, Consistency::Strong, ENCRYPTED).await.unwrap().0, "false");
}
