//! The reference application on real Postgres, with the real history of rates.

mod fees;
mod import;
mod manifest;
mod migrations;
mod rates;

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
use mainstay::local::{Postgres, PostgresOptions, Scratch};
use mainstay::ramp;
use mainstay::source::handler::{Call, Registry};

/// The newest fixing of the history that comes with the binary.
const LAST: &str = "2026-10-30";

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
    let mut registry = Registry::default();
    ramp::register(&mut registry);
    let handler = registry.get(handler).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(async {
        let database = open(database);
        let deadline = Instant::now() + Duration::from_secs(30);
        let (method, body) = (Arc::from("GET"), Default::default());
        handler(Call::new(method, params(parameters), body, Some(database), Consistency::Eventual, None, deadline))
            .await
    })?;
    assert_eq!((answer.status, &*answer.content_type), (200, "application/json"));
    Ok(String::from_utf8(answer.body.to_vec()).unwrap())
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
    let env = [("DATABASE_URL".to_owned(), PRIMARY.url("postgres", database))];
    let layers = Layers { dir: SCRATCH.path(), env: env.into_iter().collect(), flags: Vec::new() };
    Database::start(&Settings::load(layers).unwrap()).unwrap()
}

/// The code and the sentence of an error, for comparing.
fn refusal(answer: Result<String, Error>) -> (&'static str, String) {
    let error = answer.unwrap_err();
    (error.code.as_str(), error.detail.into_owned())
}
