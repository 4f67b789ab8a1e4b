//! The reference application on real Postgres, with the real history of rates.

mod fees;
mod idempotency;
mod import;
mod ledger;
mod manifest;
mod migrations;
mod orders;
mod providers;
mod rates;
mod rights;
mod statistics;
mod transactions;
mod transfers;
mod webhooks;

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use diesel::Connection;
use diesel_async::AsyncPgConnection;
use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
use mainstay::config::param::{Params, Value};
use mainstay::config::settings::{Layers, Settings};
use mainstay::database::read::{Consistency, Database};
use mainstay::error::Error;
use mainstay::identity::Identity;
use mainstay::local::{Postgres, PostgresOptions, Scratch};
use mainstay::ramp;
use mainstay::ramp::providers::Providers;
use mainstay::source::Answer;
use mainstay::source::handler::{Call, Caller, Registry};

/// The newest fixing of the history that comes with the binary.
const LAST: &str = "2026-10-30";
/// What the sandbox signs with.
const WEBHOOK_SECRET: &str = "0123456789abcdef0123456789abcdef";

static SCRATCH: LazyLock<Scratch> = LazyLock::new(|| Scratch::new("ramp").unwrap());
pub static PRIMARY: LazyLock<Postgres> = LazyLock::new(|| {
    let options = PostgresOptions::new(SCRATCH.join("primary")).setting("fsync", "off");
    Postgres::primary(options).unwrap()
});

/// A database with all tables and all rates, for tests that only read.
pub static LOADED: LazyLock<String> = LazyLock::new(|| {
    let name = empty_database();
    let mut conn = connect(&name);
    ramp::migrate(&mut conn).unwrap();
    ramp::import::rates(&mut conn, ramp::import::bundled(), |_, _| {}).unwrap();
    name
});

/// A new database, and its name.
fn empty_database() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("ramp_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    sql("postgres", &format!("CREATE DATABASE {name}"));
    name
}

/// A new database with the tables and without rates, and its name.
fn migrated_database() -> String {
    let name = empty_database();
    ramp::migrate(&mut connect(&name)).unwrap();
    name
}

/// A connection as maintenance uses it.
fn connect(database: &str) -> AsyncConnectionWrapper<AsyncPgConnection> {
    AsyncConnectionWrapper::establish(&PRIMARY.url("postgres", database)).unwrap()
}

/// What `psql` prints of a statement.
fn sql(database: &str, statement: &str) -> String {
    PRIMARY.psql(database, statement).unwrap().trim_end().to_owned()
}

/// The answer of a handler to `name=value` parameters, on a database; an array's values are separated by commas.
fn ask(database: &str, handler: &str, parameters: &str) -> Result<String, Error> {
    ask_as("postgres", database, handler, parameters)
}

/// The same for a server that logs in as another role.
fn ask_as(role: &str, database: &str, handler: &str, parameters: &str) -> Result<String, Error> {
    let mut registry = Registry::default();
    ramp::register(&mut registry);
    let handler = registry.get(handler).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(async {
        let database = open_as(role, database);
        let deadline = Instant::now() + Duration::from_secs(30);
        let (method, body) = (Arc::from("GET"), Default::default());
        handler(Call::new(method, params(parameters), body, Some(database), Consistency::Eventual, None, deadline))
            .await
    })?;
    assert_eq!((answer.status, &*answer.content_type), (200, "application/json"));
    Ok(String::from_utf8(answer.body.to_vec()).unwrap())
}

/// A customer of a database, who calls handlers that write.
struct Customer {
    database: String,
    account: String,
}

impl Customer {
    /// A new one, of a tier, with so much of a currency.
    fn new(database: &str, kyc_tier: i16, currency: &str, funds: i64) -> Self {
        let insert = format!("INSERT INTO ramp.accounts (name, kyc_tier) VALUES ('customer', {kyc_tier}) RETURNING id");
        let customer = Self { database: database.to_owned(), account: sql(database, &insert) };
        customer.fund(currency, funds);
        customer
    }

    /// Gives so much of a currency.
    fn fund(&self, currency: &str, amount: i64) {
        if amount > 0 {
            let post = format!(
                "SELECT ramp.post(gen_random_uuid(), 'test', false, ARRAY['clearing:sandbox', '{}'], ARRAY['{currency}', '{currency}'], \
                 ARRAY[-{amount}, {amount}])",
                self.account
            );
            assert_eq!(sql(&self.database, &post), "t");
        }
    }

    /// What there is of a currency.
    fn available(&self, currency: &str) -> i64 {
        let select = format!(
            "SELECT coalesce(sum(posted - held), 0) FROM ramp.ledger_accounts WHERE holder = '{}' AND currency = '{currency}'",
            self.account
        );
        sql(&self.database, &select).parse().unwrap()
    }

    /// Calls a handler with header lines and a body.
    fn call(&self, handler: &str, parameters: &str, headers: &[(&str, &str)], body: &str) -> Result<Answer, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { self.call_on(open(&self.database), handler, parameters, headers, body).await })
    }

    /// The same, on databases that are open already.
    async fn call_on(
        &self,
        database: Arc<Database>,
        handler: &str,
        parameters: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Answer, Error> {
        let mut registry = Registry::default();
        ramp::register(&mut registry);
        equip(&mut registry);
        let handler = registry.get(handler).unwrap();
        let claims = [("sub".to_owned(), self.account.clone().into())].into_iter().collect();
        let subject = format!("key:{}", self.account).into();
        let identity = Identity { subject, key: None, scopes: Vec::new(), claims };
        let headers = headers.iter().map(|(name, value)| ((*name).into(), value.as_bytes().into())).collect();
        let caller = Arc::new(Caller { identity: Some(Arc::new(identity)), headers, ..Caller::default() });
        let (method, deadline) =
            (if body.is_empty() { "GET" } else { "POST" }, Instant::now() + Duration::from_secs(30));
        let (method, body) = (Arc::from(method), bytes::Bytes::from(body.to_owned()));
        let params = params(parameters);
        let call = Call::new(method, params, body, Some(database), Consistency::Strong, None, deadline);
        handler(call.of(caller)).await
    }

    /// Sends money to another one.
    fn send(&self, to: &Self, amount: i64, currency: &str, key: &str) -> Result<Answer, Error> {
        let body = format!(r#"{{"to_account_id":"{}","amount":{amount},"currency":"{currency}"}}"#, to.account);
        self.call("ramp.transfers.create", "", &[("idempotency-key", key)], &body)
    }
}

/// Gives handlers what a server gives them: the settings that nobody has set, and the sandbox.
fn equip(registry: &mut Registry) {
    let env = [("SANDBOX_WEBHOOK_SECRET".to_owned(), WEBHOOK_SECRET.to_owned())];
    let settings =
        Settings::load(Layers { dir: SCRATCH.path(), env: env.into_iter().collect(), flags: Vec::new() }).unwrap();
    registry.add_data(Arc::new(Providers::default().with_sandbox(&settings.webhooks).unwrap()));
    registry.add_data(Arc::new(settings.orders));
}

/// Whether an answer was given before.
fn is_replayed(headers: &[(&'static str, String)]) -> bool {
    headers.iter().any(|(name, value)| *name == "idempotency-replayed" && value == "true")
}

/// Parameters as the front passes them on: canonical texts.
fn params(query: &str) -> Params {
    let own = |text: &str| Cow::Owned(text.to_owned());
    let value = |name: &str, text: &str| match name {
        "symbols" => Value::Many(text.split(',').map(own).collect()),
        _ => Value::One(own(text)),
    };
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    Params::new(pairs.map(|(name, text)| (name.to_owned(), value(name, text))).collect())
}

/// The databases of an instance that has this primary and no replica; needs a runtime.
fn open(database: &str) -> Arc<Database> {
    open_as("postgres", database)
}

fn open_as(role: &str, database: &str) -> Arc<Database> {
    let env = [("DATABASE_URL".to_owned(), PRIMARY.url(role, database))];
    let layers = Layers { dir: SCRATCH.path(), env: env.into_iter().collect(), flags: Vec::new() };
    Database::start(&Settings::load(layers).unwrap()).unwrap()
}

/// The code and the sentence of an error, for comparing.
fn refusal(answer: Result<String, Error>) -> (&'static str, String) {
    let error = answer.unwrap_err();
    (error.code.as_str(), error.detail.into_owned())
}
