//! Callers of whole instances: those with tokens that an issuer has signed, and those with API keys.

use mainstay::auth::keys::{self, NewKey};
use mainstay::config::settings::DatabaseSettings;
use mainstay::database::changes::schema;
use mainstay::database::maintenance::MaintenancePool;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::jwt::issuer::{Signer, changed, claims, set};
use crate::instance::Plan;
use crate::support::{Cluster, settings};

/// Whose tokens are believed.
pub struct Issuer {
    signer: Signer,
    dir: TempDir,
}

impl Issuer {
    /// An issuer with a key of its own, and the file that says so.
    pub fn new() -> Self {
        let (signer, dir) = (Signer::new("EdDSA", "1"), tempfile::tempdir().unwrap());
        std::fs::write(dir.path().join("jwks.json"), set(&[signer.public()])).unwrap();
        Self { signer, dir }
    }

    /// A plan whose instance believes it.
    pub fn believed(&self, plan: Plan) -> Plan {
        let file = self.dir.path().join("jwks.json");
        let claims = claims(json!({}));
        let said = |claim: &str| claims[claim].as_str().unwrap().to_owned();
        plan.set("auth.jwks_file", file.to_str().unwrap())
            .set("auth.issuer", &said("iss"))
            .set("auth.audience", &said("aud"))
    }

    /// The `Authorization` of someone of whom this is claimed.
    pub fn claiming(&self, subject: &str, more: Value) -> String {
        format!("Bearer {}", self.signer.token(&claims(changed(json!({ "sub": subject }), more))))
    }

    /// The `Authorization` of someone with these scopes.
    pub fn bearer(&self, subject: &str, scopes: &str) -> String {
        self.claiming(subject, json!({ "scope": scopes }))
    }
}

/// The table of API keys in a database, where there is none yet.
pub fn migrate(cluster: &Cluster, database: &str) {
    let mut conn = MaintenancePool::open(&maintenance(cluster, database)).unwrap().get().unwrap();
    schema::migrate(&mut conn).unwrap();
    drop(conn);
    cluster.catch_up();
}

/// The `Authorization` of a new key.
pub fn bearer_of(cluster: &Cluster, database: &str, key: NewKey) -> String {
    let mut conn = MaintenancePool::open(&maintenance(cluster, database)).unwrap().get().unwrap();
    format!("Bearer {}", keys::create(&mut conn, &key).unwrap().api_key.expose())
}

fn maintenance(cluster: &Cluster, database: &str) -> DatabaseSettings {
    settings(&cluster.primary.url("postgres", database), "", &[]).database
}
