//! Money over HTTP, with the real binary: accounts made by the command, a role that may do no more than it must, and servers that
//! are killed in the middle.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mainstay::local::{Postgres, PostgresOptions, Scratch};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Cluster, Origin, Reply, mainstay, repository, request, request_within};

/// A database with the tables of the reference application.
pub struct Site<'a> {
    pub primary: &'a Postgres,
    pub name: String,
    /// The URL of the role that serves.
    pub serving: String,
}

/// A customer, with an API key.
pub struct Customer {
    pub id: String,
    pub bearer: String,
}

impl<'a> Site<'a> {
    pub fn migrated(primary: &'a Postgres, name: String) -> Self {
        let role = format!("{name}_serving");
        primary.psql(&name, &format!("CREATE ROLE {role} LOGIN")).unwrap();
        let site = Self { primary, serving: primary.url(&role, &name), name };
        let migrated = site.run(&["migrate", "--config", repository("config").to_str().unwrap(), "--role", &role]);
        assert_eq!(migrated.code, Some(0), "{migrated:?}");
        // What every API of one's own grants by itself.
        site.sql(&format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"));
        site
    }

    /// A command, as the owner of the tables.
    pub fn run(&self, args: &[&str]) -> crate::support::Outcome {
        mainstay(args, &[("DATABASE_URL", &self.primary.url("postgres", &self.name))])
    }

    pub fn sql(&self, sql: &str) -> String {
        self.primary.psql(&self.name, sql).unwrap().trim_end().to_owned()
    }

    pub fn customer(&self, name: &str) -> Customer {
        let made = self.run(&["accounts", "create", "--name", name, "--json"]);
        assert_eq!(made.code, Some(0), "{made:?}");
        let made: Value = serde_json::from_str(&made.stdout).unwrap();
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        Customer { id: text("account_id"), bearer: format!("Bearer {}", text("api_key")) }
    }

    pub fn fund(&self, customer: &Customer, currency: &str, amount: i64) {
        let post = format!(
            "SELECT ramp.post(gen_random_uuid(), 'test', false, ARRAY['clearing:sandbox', '{}'], ARRAY['{currency}', '{currency}'], \
             ARRAY[-{amount}, {amount}])",
            customer.id
        );
        assert_eq!(self.sql(&post), "t");
    }

    pub fn serve(&self) -> Origin {
        let origin = Origin::start(&repository("config"), &[("DATABASE_URL", &self.serving)]);
        origin.get_until("/health/edge", |reply| reply.status == 200);
        origin
    }

    /// Money came from nowhere and went nowhere, and all balances are what the entries say.
    pub fn assert_sound(&self) {
        assert_eq!(self.sql("SELECT * FROM ramp.ledger_discrepancies"), "");
        assert_eq!(self.sql("SELECT * FROM ramp.ledger_accounts WHERE posted - held < balance_min"), "");
    }
}

impl Customer {
    pub fn get(&self, origin: &Origin, path: &str) -> Reply {
        request("GET", &format!("{}{path}", origin.base), &[("Authorization", &self.bearer)], None)
    }

    /// What there is of a currency.
    pub fn available(&self, origin: &Origin, currency: &str) -> i64 {
        let balances = self.get(origin, "/account/balances").json();
        let mut all = balances["balances"].as_array().unwrap().iter();
        all.find(|one| one["currency"] == currency).map_or(0, |one| one["available"].as_i64().unwrap())
    }

    pub fn send(&self, base: &str, to: &Self, amount: i64, currency: &str, key: Option<&str>) -> Reply {
        let body = json!({ "to_account_id": to.id, "amount": amount, "currency": currency }).to_string();
        self.post(&format!("{base}/api/v1/transfers"), &body, key)
    }

    pub fn post(&self, url: &str, body: &str, key: Option<&str>) -> Reply {
        let mut headers = vec![("Authorization", self.bearer.as_str()), ("Content-Type", "application/json")];
        headers.extend(key.map(|key| ("Idempotency-Key", key)));
        request_within(Duration::from_secs(10), "POST", url, &headers, Some(body))
    }
}

#[test]
fn accounts_have_keys_balances_limits_and_transfers() {
    let cluster = Cluster::shared();
    let site = Site::migrated(&cluster.primary, cluster.database(""));
    let (ada, bob, eve) = (site.customer("Ada"), site.customer("Bob"), site.customer("Eve"));
    site.fund(&ada, "AFRI", 5_000_000);
    let check =
        mainstay(&["check", "--config", repository("config").to_str().unwrap()], &[("DATABASE_URL", &site.serving)]);
    assert_eq!(check.code, Some(0), "{check:?}");
    let origin = site.serve();

    let stranger = origin.get("/account/balances");
    assert_eq!((stranger.status, stranger.code().as_str()), (401, "unauthorized"), "{stranger:?}");
    let profile = ada.get(&origin, "/account/profile");
    assert_eq!((profile.status, profile.header("cache-control")), (200, "no-store, private"), "{profile:?}");
    let shown = profile.json();
    assert_eq!((&shown["account_id"], &shown["name"], &shown["kyc_tier"]), (&json!(ada.id), &json!("Ada"), &json!(1)));
    let balances = ada.get(&origin, "/account/balances").json();
    assert_eq!(balances, json!({ "balances": [{ "currency": "AFRI", "available": 5_000_000, "held": 0 }] }));
    assert_eq!(bob.get(&origin, "/account/balances").json(), json!({ "balances": [] }));

    let sent = ada.send(&origin.base, &bob, 1_500_000, "AFRI", Some("rent"));
    let transfer = sent.json();
    assert_eq!((sent.status, &transfer["status"], &transfer["fee"]), (201, &json!("completed"), &json!(0)), "{sent:?}");
    assert_eq!(sent.header("cache-control"), "no-store, private");
    let again = ada.send(&origin.base, &bob, 1_500_000, "AFRI", Some("rent"));
    assert_eq!((again.status, &again.body, again.header("idempotency-replayed")), (201, &sent.body, "true"));
    for (amount, key, status, code) in [
        (1_500_001, Some("rent"), 422, "idempotency_mismatch"),
        (1, None, 400, "idempotency_key_missing"),
        (3_500_001, Some("more"), 422, "insufficient_funds"),
        (20_000_000_000, Some("much more"), 422, "insufficient_funds"),
    ] {
        let refused = ada.send(&origin.base, &bob, amount, "AFRI", key);
        assert_eq!((refused.status, refused.code().as_str()), (status, code), "{refused:?}");
    }
    let refused = ada.send(&origin.base, &bob, 3_500_001, "AFRI", Some("more"));
    assert_eq!((refused.code().as_str(), refused.header("idempotency-replayed")), ("insufficient_funds", "true"));

    let path = format!("/api/v1/transfers/{}", transfer["id"].as_str().unwrap());
    assert_eq!((ada.get(&origin, &path).body, bob.get(&origin, &path).body), (sent.body.clone(), sent.body.clone()));
    assert_eq!((eve.get(&origin, &path).status, eve.get(&origin, &path).code().as_str()), (404, "not_found"));
    assert_eq!((ada.available(&origin, "AFRI"), bob.available(&origin, "AFRI")), (3_500_000, 1_500_000));
    let kyc = ada.get(&origin, "/account/kyc").json();
    assert_eq!((&kyc["status"], &kyc["tier"]), (&json!("verified"), &json!(1)));
    let limits = kyc["limits"].as_array().unwrap();
    let afri = limits.iter().find(|limit| limit["currency"] == "AFRI").unwrap();
    let expected = json!({ "currency": "AFRI", "per_transaction": 10_000_000_000_i64, "per_day": 100_000_000_000_i64, "sent_today": 1_500_000 });
    assert_eq!((limits.len(), afri), (7, &expected));
    site.assert_sound();
}

#[test]
fn accounts_are_made_with_their_keys_or_not_at_all() {
    let cluster = Cluster::shared();
    let bare = cluster.database("");
    let create = |name: &str, database: &str| {
        mainstay(
            &["accounts", "create", "--name", name, "--json"],
            &[("DATABASE_URL", &cluster.primary.url("postgres", database))],
        )
    };
    let refused = create("Ada", &bare);
    assert_eq!((refused.code, refused.stderr.contains("mainstay migrate")), (Some(1), true), "{refused:?}");
    let site = Site::migrated(&cluster.primary, cluster.database(""));
    assert_eq!(create(" ", &site.name).code, Some(2));
    site.customer("Ada");
    site.sql("ALTER TABLE mainstay.api_keys ADD CONSTRAINT full_house CHECK (false) NOT VALID");
    assert_eq!(create("Bob", &site.name).code, Some(1));
    assert_eq!(site.sql("SELECT string_agg(name, ' ') FROM ramp.accounts"), "Ada");
    let listed = site.run(&["accounts", "list", "--json"]);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["name"]), (1, &json!("Ada")));
    assert!(site.run(&["accounts", "list"]).stdout.contains("tier 1  Ada"));
}

/// Clients that repeat each request until they know what came of it, while the server is killed and the database restarted under
/// them: each key has one effect, and everybody was told the truth.
#[test]
fn whoever_is_killed_in_the_middle_each_key_has_one_effect() {
    const CLIENTS: usize = 6;
    const FUNDS: i64 = 10_000;
    let seed = std::env::var("MONEY_SEED").ok().map_or_else(|| fastrand::u64(..), |text| text.parse().unwrap());
    println!("MONEY_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let scratch = Scratch::new("money").unwrap();
    let primary = Postgres::primary(PostgresOptions::new(scratch.join("primary"))).unwrap();
    primary.psql("postgres", "CREATE DATABASE money").unwrap();
    let site = Site::migrated(&primary, "money".to_owned());
    let customers: Vec<Customer> = (0..4).map(|number| site.customer(&format!("customer {number}"))).collect();
    customers.iter().for_each(|customer| site.fund(customer, "AFRI", FUNDS));
    let origin = Mutex::new(site.serve());
    let base = Mutex::new(origin.lock().unwrap().base.clone());
    let (is_over, repeated) = (AtomicBool::new(false), AtomicUsize::new(0));
    let told: Mutex<HashMap<String, (i64, Reply)>> = Mutex::default();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (mut random, customers, base, told) = (random.fork(), &customers, &base, &told);
            let (is_over, repeated) = (&is_over, &repeated);
            scope.spawn(move || {
                for number in 0.. {
                    if is_over.load(Ordering::SeqCst) {
                        return;
                    }
                    let from = random.usize(..customers.len());
                    let to = &customers[(from + random.usize(1..customers.len())) % customers.len()];
                    let (amount, key) = (random.i64(1..FUNDS / 4), format!("client {client}, transfer {number}"));
                    let reply = (0..400).find_map(|_| {
                        let base = base.lock().unwrap().clone();
                        let reply = customers[from].send(&base, to, amount, "AFRI", Some(&key));
                        if matches!(reply.status, 201 | 422) {
                            return Some(reply);
                        }
                        assert!(matches!(reply.status, 0 | 409 | 503), "{reply:?}");
                        repeated.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(50));
                        None
                    });
                    told.lock().unwrap().insert(key, (amount, reply.expect("an answer in the end")));
                }
            });
        }
        let _over = Over(&is_over);
        for is_database in [false, true, false] {
            // Time is what is tested here: trouble comes at any moment.
            std::thread::sleep(Duration::from_millis(random.u64(100..600)));
            if is_database {
                primary.server.kill9();
                primary.server.start().unwrap();
            } else {
                origin.lock().unwrap().program.signal(Signal::KILL);
                let fresh = site.serve();
                *base.lock().unwrap() = fresh.base.clone();
                *origin.lock().unwrap() = fresh;
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    });
    site.assert_sound();
    let told = told.into_inner().unwrap();
    let outcomes = site.sql(
        "SELECT key || '|' || outcome || '|' || coalesce(convert_from(body, 'UTF8'), '') FROM ramp.idempotency_keys",
    );
    assert_eq!(outcomes.lines().count(), told.len());
    let transfers = site.sql("SELECT id || '|' || amount FROM ramp.transfers");
    let transfers: HashMap<&str, &str> = transfers.lines().map(|line| line.split_once('|').unwrap()).collect();
    let mut sent = 0;
    for line in outcomes.lines() {
        let [key, outcome, body] = line.splitn(3, '|').collect::<Vec<_>>().try_into().unwrap();
        let (amount, reply) = &told[key];
        match outcome {
            "201" => assert_eq!((reply.status, reply.body.as_str()), (201, body), "{key}"),
            refusal => assert_eq!((reply.status, reply.code().as_str()), (422, refusal), "{key}"),
        }
        if outcome == "201" {
            let id = reply.json()["id"].as_str().unwrap().to_owned();
            assert_eq!(transfers[&*id], amount.to_string(), "{key}");
            sent += 1;
        }
    }
    assert_eq!(transfers.len(), sent, "nothing beside what was told");
    let origin = origin.into_inner().unwrap();
    let all: i64 = customers.iter().map(|customer| customer.available(&origin, "AFRI")).sum();
    assert_eq!(all, FUNDS * 4);
    assert!(repeated.into_inner() > 0 && sent > 0, "nobody noticed anything");
}

/// Tells the clients that it is over, also where something panics.
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
