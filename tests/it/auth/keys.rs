//! API keys by themselves: what is asked of the database, what is remembered, and what a change ends.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mainstay::auth::keys::{self, Keys, NewKey, Revoked};
use mainstay::auth::{Auth, Look};
use mainstay::cache::fence::{Fences, SilenceLimits};
use mainstay::cache::tag::Tag;
use mainstay::config::manifest::access::AuthMethod;
use mainstay::config::settings::Settings;
use mainstay::database::changes::{install, schema};
use mainstay::database::maintenance::{MaintenanceConnection, MaintenancePool};
use mainstay::database::read::{Database, Role};
use mainstay::error::{Code, Error};
use mainstay::identity::Identity;
use mainstay::telemetry::metrics::Metrics;

use crate::support::{Cluster, fence, settings, soon, start, start_eligible, wait_for};

/// A database with the table of keys, and one who checks them. No feed is followed: a test tells of changes itself.
struct Site<'a> {
    cluster: &'a Cluster,
    name: String,
    settings: Settings,
    database: Arc<Database>,
    fences: Arc<Fences>,
    metrics: Arc<Metrics>,
    auth: Auth,
}

/// Runs blocking work of maintenance on a thread of its own: the test's runs a runtime.
fn maintain<T: Send + 'static>(
    settings: &Settings,
    work: impl FnOnce(&mut MaintenanceConnection) -> T + Send + 'static,
) -> T {
    let mut database = settings.database.clone();
    // Maintenance gives up where serving would, which is not what tests of keys are about.
    database.connect_timeout.0 = crate::support::PATIENCE;
    thread::spawn(move || work(&mut MaintenancePool::open(&database).unwrap().get().unwrap())).join().unwrap()
}

impl<'a> Site<'a> {
    async fn new(cluster: &'a Cluster, more: &[(&str, &str)]) -> Self {
        let name = cluster.database();
        let urls = [cluster.primary.url("postgres", &name), cluster.replica.url("postgres", &name)];
        let more: Vec<_> = more.iter().copied().chain([("MAINSTAY__REPLICATION__LAG_MAX", "1h")]).collect();
        let settings = settings(&urls[0], &urls[1], &more);
        maintain(&settings, |conn| schema::migrate(conn).unwrap());
        cluster.catch_up();
        let database = start_eligible(&settings).await;
        Self::with(cluster, name, settings, database)
    }

    fn with(cluster: &'a Cluster, name: String, settings: Settings, database: Arc<Database>) -> Self {
        let limits = SilenceLimits { max: Duration::from_secs(2), hard_max: None };
        let fences = Arc::new(Fences::new(1000, limits));
        let floor = fence(&cluster.primary, &name);
        fences.change(|ledger| ledger.begin(floor, Some(floor)));
        cluster.catch_up();
        let metrics = Arc::new(Metrics::new().unwrap());
        let auth = Auth::new(Some(&database), &fences, &settings, &metrics).unwrap();
        Self { cluster, name, settings, database, fences, metrics, auth }
    }

    fn sql(&self, sql: &str) -> String {
        self.cluster.primary.psql(&self.name, sql).unwrap().trim_end().to_owned()
    }

    /// Makes a key.
    fn make(&self, key: NewKey) -> (String, String) {
        let issued = maintain(&self.settings, move |conn| keys::create(conn, &key).unwrap());
        (issued.api_key.expose().to_owned(), issued.prefix)
    }

    fn key(&self) -> (String, String) {
        self.make(NewKey { name: "test".to_owned(), owner: Some("ann".to_owned()), ..NewKey::default() })
    }

    fn revoke(&self, prefix: &str) {
        let named = vec![prefix.to_owned()];
        let outcome = maintain(&self.settings, move |conn| keys::revoke(conn, &named).unwrap());
        assert_eq!(outcome, [(prefix.to_owned(), Revoked::Now)]);
    }

    /// What the feed tells of a change of a key.
    fn tell(&self, prefix: &str) {
        let at = fence(&self.cluster.primary, &self.name);
        let tags = [Tag::new(format!("mainstay.api_keys:{prefix}"))];
        self.fences.change(|ledger| ledger.purge_here(&tags, Some(at), false));
    }

    fn keys(&self) -> &Keys {
        self.auth.keys.as_ref().unwrap()
    }

    /// What a request is told that shows this, and whether anybody had to be asked.
    async fn show(&self, credential: &str) -> (Result<Arc<Identity>, Error>, bool) {
        match self.auth.look(AuthMethod::Key, credential.as_bytes(), Instant::now()) {
            Look::Known(answer) => (answer, false),
            Look::Unknown => (self.auth.ask(AuthMethod::Key, credential.as_bytes(), soon()).await, true),
        }
    }

    #[track_caller]
    fn assert_is(&self, shown: (Result<Arc<Identity>, Error>, bool), code: Code, asked: bool) {
        assert_eq!((shown.0.map_err(|error| error.code), shown.1), (Err(code), asked));
    }

    async fn assert_lets_in(&self, credential: &str) {
        let (answer, _) = self.show(credential).await;
        assert_eq!(&*answer.unwrap().subject, "key:ann");
    }

    /// Queries that were served for keys: by the replica, and by the primary.
    fn queries(&self) -> (u64, u64) {
        let count = |role| {
            let nodes = self.database.status().nodes;
            nodes.iter().filter(|node| node.role == role).map(|node| node.counts.served).sum()
        };
        (count(Role::Replica), count(Role::Primary))
    }

    fn checks(&self, result: &str) -> u64 {
        self.keys().export();
        self.metrics.auth_checks.with_label_values(&["key", result]).get()
    }
}

/// A key of the right form that nobody has made.
fn made_up(number: usize) -> String {
    format!("mk_{number:012}_{:043}", number * 7)
}

/// The same key with another secret.
fn with_another_secret(key: &str) -> String {
    let last = if key.ends_with('0') { '1' } else { '0' };
    format!("{}{last}", &key[..key.len() - 1])
}

#[actix_rt::test]
async fn a_key_says_who_asks_and_what_they_may() {
    let site = Site::new(Cluster::shared(), &[]).await;
    let claims = serde_json::json!({ "tenant": "42" }).as_object().unwrap().clone();
    let (key, prefix) = site.make(NewKey {
        name: "reports".to_owned(),
        owner: Some("acme".to_owned()),
        scopes: vec!["reports:read".to_owned(), "reports:write".to_owned()],
        claims,
        rate: Some("600/m".parse().unwrap()),
        lifetime: Some(Duration::from_secs(3600)),
    });
    site.cluster.catch_up();
    let (identity, asked) = site.show(&key).await;
    let identity = identity.unwrap();
    assert!(asked);
    assert_eq!(&*identity.subject, "key:acme");
    assert!(identity.has_scopes(&["reports:read".to_owned(), "reports:write".to_owned()]));
    assert!(!identity.has_scopes(&["reports".to_owned()]));
    let claims = serde_json::json!({ "tenant": "42", "sub": "acme", "scope": "reports:read reports:write" });
    assert_eq!(serde_json::Value::Object(identity.claims.clone()), claims);
    let known = identity.key.as_ref().unwrap();
    assert_eq!((&*known.prefix, known.rate.unwrap().to_string()), (prefix.as_str(), "600/m".to_owned()));
    let Look::Known(Ok(again)) = site.auth.look(AuthMethod::Key, key.as_bytes(), Instant::now()) else {
        panic!("it is remembered")
    };
    assert!(Arc::ptr_eq(&identity, &again));
    let later = Instant::now() + Duration::from_secs(59);
    assert!(matches!(site.auth.look(AuthMethod::Key, key.as_bytes(), later), Look::Known(Ok(_))));
    let later = Instant::now() + Duration::from_secs(61);
    assert!(matches!(site.auth.look(AuthMethod::Key, key.as_bytes(), later), Look::Unknown), "it is checked again");
    assert_eq!(site.queries(), (1, 0), "the replica has it, and its word is enough");
    let row = site.sql(&format!("SELECT k::text FROM mainstay.api_keys k WHERE prefix = '{prefix}'"));
    let secret = key.rsplit('_').next().unwrap();
    assert!(!row.contains(secret) && !format!("{identity:?}").contains(secret), "nobody keeps it");
}

#[actix_rt::test]
async fn whatever_is_wrong_with_a_key_the_same_is_asked() {
    let site = Site::new(Cluster::shared(), &[]).await;
    let (key, prefix) = site.key();
    let (revoked, revoked_prefix) = site.key();
    let (expired, expired_prefix) = site.key();
    site.revoke(&revoked_prefix);
    site.sql(&format!(
        "UPDATE mainstay.api_keys SET expires_at = now() - interval '1 s' WHERE prefix = '{expired_prefix}'"
    ));
    site.cluster.catch_up();
    for malformed in ["", "x", "mk_", &key[..58], &format!("{key}0"), "mk_000000000000-00", "Bearer x"] {
        site.assert_is(site.show(malformed).await, Code::CredentialsInvalid, false);
    }
    assert_eq!(site.queries(), (0, 0), "what is no key is no question");
    let wrong = with_another_secret(&key);
    let swapped = format!("mk_{prefix}_{}", revoked.rsplit('_').next().unwrap());
    let mut asked = 0;
    for (credential, code) in [
        (wrong.as_str(), Code::CredentialsInvalid),
        (&swapped, Code::CredentialsInvalid),
        (&made_up(1), Code::CredentialsInvalid),
        (&with_another_secret(&revoked), Code::CredentialsInvalid),
        (&with_another_secret(&expired), Code::CredentialsInvalid),
        (&revoked, Code::CredentialsInvalid),
        (&expired, Code::CredentialsExpired),
    ] {
        site.assert_is(site.show(credential).await, code, true);
        asked += 1;
        assert_eq!(site.queries(), (asked, asked), "{credential}: one question to each");
        site.assert_is(site.show(credential).await, code, false);
        assert_eq!(site.queries(), (asked, asked), "{credential}: it is remembered");
    }
    site.assert_lets_in(&key).await;
    assert_eq!(site.queries(), (asked + 1, asked), "others' wrong guesses are not its owner's");
    assert_eq!((site.checks("refused"), site.checks("remembered"), site.checks("accepted")), (7 + asked, asked, 1));
}

#[actix_rt::test]
async fn a_key_expires_in_the_middle_of_what_is_remembered() {
    let site = Site::new(Cluster::shared(), &[]).await;
    let lifetime = Some(Duration::from_secs(30));
    let (key, _) = site.make(NewKey { name: "short".to_owned(), lifetime, ..NewKey::default() });
    site.cluster.catch_up();
    site.show(&key).await.0.unwrap();
    let at = |seconds| site.auth.look(AuthMethod::Key, key.as_bytes(), Instant::now() + Duration::from_secs(seconds));
    assert!(matches!(at(0), Look::Known(Ok(_))));
    assert!(matches!(at(31), Look::Known(Err(Error { code: Code::CredentialsExpired, .. }))));
}

/// Whoever makes keys up cannot make the primary busy: it is asked one question at a time, for all of them.
#[actix_rt::test]
async fn many_keys_that_are_none_cost_few_queries() {
    const KEYS: usize = 500;
    let site = Site::new(Cluster::shared(), &[]).await;
    let keys: Vec<String> = (0..KEYS).map(made_up).collect();
    let answers = join_all(keys.iter().map(|key| site.show(key))).await;
    for answer in answers {
        site.assert_is(answer, Code::CredentialsInvalid, true);
    }
    let (replica, primary) = site.queries();
    assert!((2..30).contains(&replica) && (2..30).contains(&primary), "{replica} and {primary} queries");
}

#[actix_rt::test]
async fn a_key_that_many_show_at_once_is_checked_once() {
    let site = Site::new(Cluster::shared(), &[]).await;
    let (key, _) = site.key();
    site.cluster.catch_up();
    let answers = join_all((0..200).map(|_| site.show(&key))).await;
    assert!(answers.iter().all(|(answer, _)| answer.is_ok()));
    assert_eq!(site.queries(), (1, 0));
}

#[actix_rt::test]
async fn more_keys_at_once_than_may_be_asked_for_are_refused_for_now() {
    let site = Site::new(Cluster::shared(), &[]).await;
    let keys: Vec<String> = (0..2000).map(made_up).collect();
    let answers = join_all(keys.iter().map(|key| site.show(key))).await;
    let codes = |code| answers.iter().filter(|(answer, _)| answer.as_ref().unwrap_err().code == code).count();
    assert_eq!(codes(Code::CredentialsInvalid) + codes(Code::Overloaded), 2000);
    assert_eq!(codes(Code::CredentialsInvalid), 1024);
    site.assert_is(site.show(&made_up(5000)).await, Code::CredentialsInvalid, true);
}

/// The key is made, and revoked, while the replica replays nothing.
#[actix_rt::test]
async fn a_replica_that_is_behind_keeps_no_key_out_and_lets_none_in() {
    let cluster = Cluster::private("keys-behind");
    let site = Site::new(&cluster, &[]).await;
    let (old, old_prefix) = site.key();
    cluster.catch_up();
    cluster.replica.psql("postgres", "SELECT pg_wal_replay_pause()").unwrap();
    wait_for("the pause", || site.database.status().replicas().all(|node| !node.flowing)).await;
    let (new, _) = site.key();
    site.assert_lets_in(&new).await;
    site.assert_lets_in(&old).await;
    site.revoke(&old_prefix);
    site.assert_lets_in(&old).await;
    site.tell(&old_prefix);
    for _ in 0..3 {
        let (answer, _) = site.show(&old).await;
        assert_eq!(answer.unwrap_err().code, Code::CredentialsInvalid);
        site.tell(&old_prefix);
    }
    let refused = cluster.replica.psql(&site.name, "SELECT count(*) FROM mainstay.api_keys WHERE revoked_at IS NULL");
    assert_eq!(refused.unwrap().trim(), "1", "the replica has the old row all the time");
    site.assert_lets_in(&new).await;

    // A purge that is told while a check runs: whoever comes after it gets a check of his own.
    let (other, other_prefix) = site.key();
    let both = futures_util::future::join(site.show(&other), async {
        site.revoke(&other_prefix);
        site.tell(&other_prefix);
        site.show(&other).await
    });
    let (_, (after, _)) = both.await;
    assert_eq!(after.unwrap_err().code, Code::CredentialsInvalid);
    let (after, _) = site.show(&other).await;
    assert_eq!(after.unwrap_err().code, Code::CredentialsInvalid);
}

#[actix_rt::test]
async fn while_the_database_is_away_known_keys_go_on() {
    let cluster = Cluster::private("keys-away");
    // Each time it is asked anew.
    let site = Site::new(&cluster, &[("MAINSTAY__AUTH__CHECK_TTL", "0s")]).await;
    let [(known, known_prefix), (revoked, revoked_prefix), (untold, untold_prefix), (unknown, _)] =
        [(); 4].map(|()| site.key());
    cluster.catch_up();
    for key in [&known, &revoked, &untold] {
        site.assert_lets_in(key).await;
    }
    site.revoke(&revoked_prefix);
    site.tell(&revoked_prefix);
    site.assert_is(site.show(&revoked).await, Code::CredentialsInvalid, true);
    site.tell(&untold_prefix);
    cluster.replica.server.kill9();
    cluster.primary.server.kill9();
    for _ in 0..3 {
        site.assert_lets_in(&known).await;
    }
    assert!(site.checks("stale") >= 3);
    let began = Instant::now();
    for _ in 0..100 {
        site.assert_lets_in(&known).await;
    }
    assert!(began.elapsed() < Duration::from_secs(20), "nobody waits each time for who does not answer");
    let (answer, _) = site.show(&revoked).await;
    assert_eq!(answer.unwrap_err().code, Code::CredentialsInvalid, "it stays refused");
    let (answer, _) = site.show(&untold).await;
    assert_eq!(answer.unwrap_err().code, Code::AuthUnavailable, "it was changed, nobody can say how");
    let (answer, _) = site.show(&unknown).await;
    assert_eq!(answer.unwrap_err().code, Code::AuthUnavailable, "it may be right");
    let later = Instant::now() + Duration::from_secs(601);
    assert!(matches!(site.auth.look(AuthMethod::Key, known.as_bytes(), later), Look::Unknown), "not for ever");

    // A replica alone lets in whom it knows, and refuses nobody.
    cluster.replica.server.start().unwrap();
    let site =
        Site { auth: Auth::new(Some(&site.database), &site.fences, &site.settings, &site.metrics).unwrap(), ..site };
    wait_for("the replica", || site.database.status().replicas().all(|node| node.up)).await;
    let deadline = Instant::now() + crate::support::PATIENCE;
    while site.show(&unknown).await.0.is_err() {
        assert!(Instant::now() < deadline, "the replica knows it");
    }
    let (answer, _) = site.show(&made_up(1)).await;
    assert_eq!(answer.unwrap_err().code, Code::AuthUnavailable, "the primary may know it");

    cluster.primary.server.start().unwrap();
    wait_for("the primary", || site.database.status().nodes.iter().all(|node| node.up)).await;
    let deadline = Instant::now() + crate::support::PATIENCE;
    while site.show(&made_up(1)).await.0.unwrap_err().code != Code::CredentialsInvalid {
        assert!(Instant::now() < deadline, "the primary says that there is no such key");
    }
    site.assert_lets_in(&known).await;
    site.assert_lets_in(&untold).await;
    assert_eq!(known_prefix.len(), 12);
}

#[actix_rt::test]
async fn last_uses_are_written_down_in_one_statement() {
    let site = Site::new(Cluster::shared(), &[]).await;
    let [(one, one_prefix), (other, other_prefix), (_, unused)] = [(); 3].map(|()| site.key());
    site.cluster.catch_up();
    for _ in 0..3 {
        site.assert_lets_in(&one).await;
        site.assert_lets_in(&other).await;
    }
    let feed = site.sql("SELECT count(*) FROM mainstay.change_feed");
    site.keys().write_uses().await.unwrap();
    let listed = maintain(&site.settings, |conn| keys::list(conn, false).unwrap());
    let used = |prefix: &str| listed.iter().find(|key| key.prefix == prefix).unwrap().last_used_at.is_some();
    assert_eq!((used(&one_prefix), used(&other_prefix), used(&unused)), (true, true, false));
    assert_eq!(site.sql("SELECT count(*) FROM mainstay.change_feed"), feed, "no change of a key is told");

    // Unused since: nothing is written. Used: it is, a while later.
    let uses = || site.sql("SELECT string_agg(prefix || last_used_at, ' ' ORDER BY prefix) FROM mainstay.api_key_uses");
    site.sql("UPDATE mainstay.api_key_uses SET last_used_at = now() - interval '1 hour'");
    let before = uses();
    site.keys().write_uses().await.unwrap();
    assert_eq!(uses(), before);
    site.assert_lets_in(&one).await;
    site.keys().write_uses().await.unwrap();
    assert_eq!(
        site.sql(
            "SELECT string_agg(prefix, ' ') FROM mainstay.api_key_uses WHERE last_used_at > now() - interval '1 minute'"
        ),
        one_prefix
    );
}

/// The role that serves may look up the keys that it is shown, note their use, and nothing else of keys.
#[actix_rt::test]
async fn a_serving_role_can_look_keys_up_and_neither_list_nor_make_them() {
    let owner = Site::new(Cluster::shared(), &[]).await;
    let role = format!("{}_server", owner.name);
    owner.sql(&format!("CREATE ROLE {role} LOGIN"));
    let site_as = |role: &str| {
        let urls = [&owner.cluster.primary, &owner.cluster.replica].map(|node| node.url(role, &owner.name));
        settings(&urls[0], &urls[1], &[])
    };
    let (key, _) = owner.key();
    owner.cluster.catch_up();
    let settings = site_as(&role);
    let site = Site::with(owner.cluster, owner.name.clone(), settings.clone(), start(&settings).await);
    site.assert_is(site.show(&key).await, Code::AuthUnavailable, true);
    let named = role.clone();
    let grants = maintain(&owner.settings, move |conn| install::grants(conn, &named).unwrap());
    owner.sql(&grants.unwrap());
    owner.cluster.catch_up();
    site.assert_lets_in(&key).await;
    site.keys().write_uses().await.unwrap();
    assert_eq!(owner.sql("SELECT count(*) FROM mainstay.api_key_uses"), "1");
    for denied in [
        "SELECT count(*) FROM mainstay.api_keys",
        "SELECT count(*) FROM mainstay.api_key_uses",
        "INSERT INTO mainstay.api_keys (prefix, hash, name, owner) VALUES ('000000000000', sha256('x'), 'x', 'x')",
        "UPDATE mainstay.api_keys SET revoked_at = NULL",
    ] {
        let refused = owner.cluster.primary.psql(&owner.name, &format!("SET ROLE {role}; {denied}"));
        assert!(refused.unwrap_err().to_string().contains("permission denied"), "{denied}");
    }
    let error = maintain(&settings, |conn| keys::create(conn, &NewKey { name: "x".to_owned(), ..NewKey::default() }));
    assert!(error.unwrap_err().to_string().starts_with(&format!("role {role} may not make API keys")));

    // Without the right to it nothing else suffers.
    owner.sql(&format!("REVOKE EXECUTE ON FUNCTION mainstay.note_api_key_uses(text[]) FROM {role}"));
    assert!(
        maintain(&owner.settings, {
            let role = role.clone();
            move |conn| install::grants(conn, &role).unwrap()
        })
        .is_some()
    );
    owner.sql("DELETE FROM mainstay.api_key_uses");
    site.assert_lets_in(&key).await;
    site.keys().write_uses().await.unwrap_err();
    owner.sql(&format!("GRANT EXECUTE ON FUNCTION mainstay.note_api_key_uses(text[]) TO {role}"));
    site.keys().write_uses().await.unwrap();
    assert_eq!(owner.sql("SELECT count(*) FROM mainstay.api_key_uses"), "1", "what was not written down is, later");
}
