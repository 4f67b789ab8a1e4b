//! The ledger, straight on the database: many connections at once, some of them killed, and whoever tries to bend its rules.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mainstay::ramp;
use postgres::{Client, NoTls};
use uuid::Uuid;

use super::{PRIMARY, connect, migrated_database, sql};
use crate::support::PATIENCE;

const CURRENCIES: [&str; 2] = ["USD", "AFRI"];
const FUNDS: i64 = 1_000;

/// The seed of a test: given by `LEDGER_SEED`, else a new one. It is printed where the test fails.
#[expect(clippy::print_stdout, reason = "whoever wants to see a failure again needs it")]
pub(super) fn seed() -> u64 {
    let seed = std::env::var("LEDGER_SEED").ok().map_or_else(|| fastrand::u64(..), |text| text.parse().unwrap());
    println!("LEDGER_SEED={seed}");
    seed
}

pub(super) fn client(user: &str, database: &str) -> Client {
    Client::connect(&PRIMARY.url(user, database), NoTls).unwrap()
}

fn list<T: std::fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| format!("'{item}'")).collect::<Vec<_>>().join(", ")
}

/// The call of `ramp.post` with such postings: holder, currency, amount.
fn post(id: Uuid, is_pending: bool, postings: &[(&str, &str, i64)]) -> String {
    format!(
        "SELECT ramp.post('{id}', 'test', {is_pending}, ARRAY[{}], ARRAY[{}], ARRAY[{}]::bigint[])",
        list(postings.iter().map(|posting| posting.0)),
        list(postings.iter().map(|posting| posting.1)),
        list(postings.iter().map(|posting| posting.2))
    )
}

/// Accounts of customers, each with [`FUNDS`] of each currency.
fn funded(database: &str, count: usize) -> Vec<String> {
    let mut client = client("postgres", database);
    let accounts: Vec<String> = (0..count)
        .map(|number| {
            let insert = format!("INSERT INTO ramp.accounts (name) VALUES ('customer {number}') RETURNING id::text");
            client.query_one(&insert, &[]).unwrap().get(0)
        })
        .collect();
    for account in &accounts {
        for currency in CURRENCIES {
            let postings = [("clearing:sandbox", currency, -FUNDS), (account, currency, FUNDS)];
            assert_eq!(call(&mut client, &post(Uuid::new_v4(), false, &postings)).unwrap(), Some(true));
        }
    }
    accounts
}

/// What a function of the ledger says.
fn call(client: &mut Client, sql: &str) -> Result<Option<bool>, postgres::Error> {
    Ok(client.query_one(sql, &[])?.get(0))
}

/// That the ledger is as it should be, whatever happened to it.
fn assert_sound(database: &str) {
    assert_eq!(sql(database, "SELECT * FROM ramp.ledger_discrepancies"), "");
    let below = "SELECT * FROM ramp.ledger_accounts WHERE posted - held < balance_min OR held < 0";
    assert_eq!(sql(database, below), "");
    let created = "SELECT currency, sum(posted) FROM ramp.ledger_balances GROUP BY currency HAVING sum(posted) <> 0";
    assert_eq!(sql(database, created), "", "money came from nowhere");
}

/// What one connection may do at random, and what it was told.
#[derive(Clone, Copy, Debug)]
enum Act {
    Post { is_pending: bool },
    Settle { is_voided: bool },
    Reverse,
}

/// What was confirmed of a transaction.
type Told = Vec<(Act, Option<bool>)>;

/// What all connections know of one another.
#[derive(Default)]
struct Known {
    /// Transactions to be settled or reversed by anybody; some may never have been committed.
    ids: Mutex<Vec<Uuid>>,
    told: Mutex<HashMap<Uuid, Told>>,
}

impl Known {
    fn any(&self, random: &mut fastrand::Rng) -> Uuid {
        let ids = self.ids.lock().unwrap();
        random.choice(&*ids).copied().unwrap_or_default()
    }

    fn note(&self, id: Uuid, act: Act, outcome: Option<bool>) {
        self.told.lock().unwrap().entry(id).or_default().push((act, outcome));
    }
}

/// One connection does so many things at random. A connection that is killed is opened anew; any other error ends the test, a
/// deadlock and a failed serialisation included.
fn work(database: &str, accounts: &[String], known: &Known, mut random: fastrand::Rng, count: usize) {
    let mut client = client("worker", database);
    for _ in 0..count {
        let act = match random.u8(..10) {
            0..5 => Act::Post { is_pending: false },
            5..7 => Act::Post { is_pending: true },
            7..9 => Act::Settle { is_voided: random.bool() },
            _ => Act::Reverse,
        };
        let (id, statement) = match act {
            Act::Post { is_pending } => {
                let id = Uuid::from_u128(random.u128(..));
                known.ids.lock().unwrap().push(id);
                let (from, to) = (random.usize(..accounts.len()), random.usize(1..accounts.len()));
                let (from, to) = (&accounts[from], &accounts[(from + to) % accounts.len()]);
                let (currency, amount, fee) =
                    (random.choice(CURRENCIES).unwrap(), random.i64(1..FUNDS), random.i64(1..5));
                // Two currencies change hands at once, at times.
                let mut postings =
                    vec![(&**from, currency, -amount - fee), ("fees", currency, fee), (to, currency, amount)];
                if random.u8(..4) == 0 {
                    let other = CURRENCIES[usize::from(currency == CURRENCIES[0])];
                    postings.extend([(&**to, other, -amount), (from, other, amount)]);
                }
                random.shuffle(&mut postings);
                (id, post(id, is_pending, &postings))
            }
            Act::Settle { is_voided } => {
                let id = known.any(&mut random);
                (id, format!("SELECT ramp.settle('{id}', {is_voided})"))
            }
            Act::Reverse => {
                let id = known.any(&mut random);
                let reversal = Uuid::from_u128(random.u128(..));
                (id, format!("SELECT ramp.reverse('{reversal}', '{id}')"))
            }
        };
        match call(&mut client, &statement) {
            Ok(outcome) => known.note(id, act, outcome),
            // 57P01: it was killed. Without a state: it was killed while nothing was under way.
            Err(error) if error.code().is_none_or(|code| code.code() == "57P01") => {
                client = self::client("worker", database)
            }
            Err(error) => panic!("{statement}: {error:?}"),
        }
    }
}

/// The states that transactions are in, and those that were taken back.
fn states(database: &str) -> (HashMap<Uuid, String>, HashSet<Uuid>) {
    let mut client = client("postgres", database);
    let rows = client.query("SELECT id::text, state, reverses::text FROM ramp.ledger_transactions", &[]).unwrap();
    let parse = |text: &str| text.parse::<Uuid>().unwrap();
    let states = rows.iter().map(|row| (parse(row.get(0)), row.get(1))).collect();
    (states, rows.iter().filter_map(|row| row.get::<_, Option<&str>>(2).map(parse)).collect())
}

/// Money is conserved, no balance is below its limit, what was confirmed is so, once, and nobody is told of a deadlock; all of it
/// while connections are killed at random.
#[test]
fn whatever_many_do_at_once_the_ledger_is_sound() {
    const WORKERS: usize = 12;
    const ACTS: usize = 80;
    let database = migrated_database();
    let worker = "DO $$ BEGIN CREATE ROLE worker SUPERUSER LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$";
    sql(&database, worker);
    let accounts = funded(&database, 5);
    let mut random = fastrand::Rng::with_seed(seed());
    let (known, working, killed) = (Known::default(), AtomicUsize::new(WORKERS), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            let (random, database, accounts, known, working) = (random.fork(), &database, &accounts, &known, &working);
            scope.spawn(move || {
                let _done = Done(working);
                work(database, accounts, known, random, ACTS);
            });
        }
        let mut killer = client("postgres", &database);
        while working.load(Ordering::SeqCst) > 0 {
            let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'worker' \
                        AND datname = current_database() ORDER BY random() LIMIT 1";
            killed.fetch_add(killer.query(kill, &[]).unwrap().len(), Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    assert_sound(&database);
    let (states, reversed) = states(&database);
    let told = known.told.into_inner().unwrap();
    let mut seen = HashSet::new();
    for (id, told) in &told {
        let state = states.get(id).map(String::as_str);
        let count =
            |wanted: fn(&Act) -> bool| told.iter().filter(|(act, yes)| *yes == Some(true) && wanted(act)).count();
        let (posts, settled, reversals) = (
            count(|act| matches!(act, Act::Post { .. })),
            count(|act| matches!(act, Act::Settle { .. })),
            count(|act| matches!(act, Act::Reverse)),
        );
        assert!(posts <= 1 && settled <= 1 && reversals <= 1, "{id}: {told:?}");
        assert!(reversals == 0 || reversed.contains(id), "{id} was said to be taken back");
        for (act, outcome) in told {
            let expected = match (act, outcome) {
                (Act::Post { is_pending: false }, Some(true)) => vec![Some("posted")],
                (Act::Post { .. }, Some(true)) => vec![Some("pending"), Some("posted"), Some("voided")],
                (Act::Post { .. }, _) => vec![None],
                (Act::Settle { is_voided }, Some(true)) => vec![Some(if *is_voided { "voided" } else { "posted" })],
                (Act::Reverse, Some(_)) => vec![Some("posted")],
                _ => continue,
            };
            assert!(expected.contains(&state), "{id} is {state:?}: {act:?} {outcome:?}");
            seen.insert(format!("{act:?} {outcome:?}"));
        }
    }
    assert!(killed.into_inner() > 0 && seen.len() >= 8, "too little happened: {seen:?}");
}

/// Counts a worker off, also where it panics.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Sequentially, the ledger decides as a plain account of all balances does.
#[test]
fn one_after_another_it_decides_as_a_simple_model_does() {
    let database = migrated_database();
    let accounts = funded(&database, 3);
    let mut client = client("postgres", &database);
    let mut random = fastrand::Rng::with_seed(seed());
    // Posted and held.
    let mut balances: HashMap<(&str, &str), (i64, i64)> =
        accounts.iter().flat_map(|account| CURRENCIES.map(|currency| ((&**account, currency), (FUNDS, 0)))).collect();
    let mut entered: Vec<(Uuid, &str, &str, &str, i64, &str)> = Vec::new();
    let mut reversed = HashSet::new();
    for _ in 0..300 {
        let is_enough = |balances: &HashMap<_, (i64, i64)>, key, amount| balances[&key].0 - balances[&key].1 >= amount;
        match random.u8(..4) {
            0 | 1 => {
                let (from, currency) = (random.usize(..3), random.choice(CURRENCIES).unwrap());
                let to = &*accounts[(from + random.usize(1..3)) % 3];
                let (from, amount, is_pending) = (&*accounts[from], random.i64(1..700), random.bool());
                let id = Uuid::from_u128(random.u128(..));
                let statement = post(id, is_pending, &[(from, currency, -amount), (to, currency, amount)]);
                let expected = is_enough(&balances, (from, currency), amount);
                assert_eq!(call(&mut client, &statement).unwrap(), Some(expected), "{statement}");
                if expected && is_pending {
                    balances.get_mut(&(from, currency)).unwrap().1 += amount;
                } else if expected {
                    balances.get_mut(&(from, currency)).unwrap().0 -= amount;
                    balances.get_mut(&(to, currency)).unwrap().0 += amount;
                }
                if expected {
                    entered.push((id, from, to, currency, amount, if is_pending { "pending" } else { "posted" }));
                }
            }
            2 => {
                let Some((id, from, to, currency, amount, state)) = random.choice(&mut entered) else { continue };
                let is_voided = random.bool();
                let settled = call(&mut client, &format!("SELECT ramp.settle('{id}', {is_voided})")).unwrap();
                assert_eq!(settled, Some(*state == "pending"));
                if *state == "pending" {
                    balances.get_mut(&(*from, *currency)).unwrap().1 -= *amount;
                    if !is_voided {
                        balances.get_mut(&(*from, *currency)).unwrap().0 -= *amount;
                        balances.get_mut(&(*to, *currency)).unwrap().0 += *amount;
                    }
                    *state = if is_voided { "voided" } else { "posted" };
                }
            }
            _ => {
                let Some((id, from, to, currency, amount, state)) = random.choice(&entered) else { continue };
                let expected = (*state == "posted" && !reversed.contains(id))
                    .then(|| is_enough(&balances, (*to, *currency), *amount));
                let reverse = format!("SELECT ramp.reverse('{}', '{id}')", Uuid::from_u128(random.u128(..)));
                assert_eq!(call(&mut client, &reverse).unwrap(), expected, "{state}");
                if expected == Some(true) {
                    reversed.insert(*id);
                    balances.get_mut(&(*from, *currency)).unwrap().0 += *amount;
                    balances.get_mut(&(*to, *currency)).unwrap().0 -= *amount;
                }
            }
        }
    }
    for ((account, currency), (posted, held)) in balances {
        let row = format!(
            "SELECT posted, held FROM ramp.ledger_accounts WHERE holder = '{account}' AND currency = '{currency}'"
        );
        assert_eq!(sql(&database, &row), format!("{posted}|{held}"));
    }
    assert!(!reversed.is_empty());
    assert_sound(&database);
}

/// What breaks a rule is refused: to the role that serves, by its grants; to the owner of the tables, by triggers.
#[test]
fn nobody_changes_what_was_entered() {
    let database = migrated_database();
    let accounts = funded(&database, 2);
    let role = format!("serving_{database}");
    sql(&database, &format!("CREATE ROLE {role} LOGIN"));
    let grants = ramp::grants::grants(&mut connect(&database), &role).unwrap().unwrap();
    sql(&database, &grants);
    assert_eq!(ramp::grants::grants(&mut connect(&database), &role).unwrap(), None, "nothing is lacking any more");

    let (mut owner, mut serving) = (client("postgres", &database), client(&role, &database));
    let id = Uuid::new_v4();
    let transfer = post(id, true, &[(&accounts[0], "USD", -10), (&accounts[1], "USD", 10)]);
    assert_eq!(call(&mut owner, &transfer).unwrap(), Some(true));
    let send = format!("SELECT ramp.send('{}', '{}', '{}', 'USD', 1, 0)", Uuid::new_v4(), accounts[0], accounts[1]);
    serving.batch_execute(&send).expect("by the function it may");
    let of = |account: &str| {
        format!("(SELECT id FROM ramp.ledger_accounts WHERE holder = '{account}' AND currency = 'USD')")
    };
    let entry = |account: &str, amount: i64| format!("('{id}', {}, {amount})", of(account));
    let second_pair =
        format!("INSERT INTO ramp.ledger_entries VALUES {}, {}", entry("fees", -1), entry("clearing:sandbox", 1));
    sql(
        &database,
        "SELECT ramp.post(gen_random_uuid(), 'test', false, ARRAY['fees', 'clearing:sandbox'], ARRAY['USD', 'USD'], ARRAY[1, -1])",
    );
    let refused = [
        "UPDATE ramp.ledger_entries SET amount = 1",
        "DELETE FROM ramp.ledger_entries",
        "TRUNCATE ramp.ledger_entries",
        "TRUNCATE ramp.ledger_transactions, ramp.ledger_entries, ramp.transfers",
        "DELETE FROM ramp.ledger_transactions",
        "DELETE FROM ramp.ledger_accounts",
        "UPDATE ramp.ledger_accounts SET posted = posted + 1",
        "UPDATE ramp.ledger_accounts SET held = 0 WHERE held > 0",
        "UPDATE ramp.ledger_accounts SET holder = 'other' WHERE holder = 'fees'",
        "UPDATE ramp.ledger_accounts SET balance_min = posted + 1 WHERE balance_min = 0",
        "UPDATE ramp.ledger_transactions SET state = 'pending', settled_at = NULL WHERE state = 'posted'",
        "UPDATE ramp.ledger_transactions SET state = 'voided' WHERE state = 'posted'",
        "UPDATE ramp.ledger_transactions SET kind = 'other'",
        &second_pair,
        // One leg alone; two legs of two currencies; an account that there is not.
        "SELECT ramp.post(gen_random_uuid(), 'test', false, ARRAY['fees', 'clearing:sandbox'], ARRAY['USD', 'USD'], ARRAY[1, -2])",
        "SELECT ramp.post(gen_random_uuid(), 'test', false, ARRAY['fees', 'fees'], ARRAY['USD', 'EUR'], ARRAY[1, -1])",
        "SELECT ramp.post(gen_random_uuid(), 'test', false, ARRAY['fees'], ARRAY['USD'], ARRAY[0])",
        "SELECT ramp.post(gen_random_uuid(), 'test', false, ARRAY['fees', 'fees'], ARRAY['USD', 'USD'], ARRAY[1, -1])",
        "SELECT ramp.post(gen_random_uuid(), 'test', false, ARRAY['fees', '00000000-0000-4000-8000-000000000000'], ARRAY['USD', 'USD'], ARRAY[-1, 1])",
        "SELECT ramp.post(gen_random_uuid(), 'test', false, ARRAY['fees', 'clearing:sandbox'], ARRAY['XXX', 'XXX'], ARRAY[1, -1])",
    ];
    for statement in refused {
        assert!(owner.batch_execute(statement).is_err(), "{statement}");
        assert!(serving.batch_execute(statement).is_err(), "to the serving role: {statement}");
    }
    let refused_to_serving = [
        "INSERT INTO ramp.ledger_accounts (holder, currency) VALUES ('mine', 'USD')".to_owned(),
        format!(
            "INSERT INTO ramp.ledger_transactions (id, kind, state) VALUES ('{}', 'test', 'pending')",
            Uuid::new_v4()
        ),
        format!("UPDATE ramp.ledger_transactions SET state = 'posted', settled_at = now() WHERE id = '{id}'"),
        "UPDATE ramp.accounts SET kyc_tier = 2".to_owned(),
        "UPDATE ramp.kyc_limits SET per_day = 1".to_owned(),
        "DELETE FROM ramp.daily_volumes".to_owned(),
        "UPDATE ramp.daily_money SET amount = 1".to_owned(),
        "INSERT INTO ramp.daily_requests VALUES ('2026-11-21', '/', 1, 1, 1)".to_owned(),
        "DELETE FROM ramp.uncounted_transactions".to_owned(),
        "UPDATE ramp.idempotency_keys SET outcome = '201'".to_owned(),
        "DELETE FROM ramp.idempotency_keys".to_owned(),
        post(Uuid::new_v4(), false, &[(&accounts[0], "USD", -10), (&accounts[1], "USD", 10)]),
        format!("SELECT ramp.settle('{id}', true)"),
        "UPDATE ramp.transfers SET amount = 1".to_owned(),
        "INSERT INTO ramp.transfers SELECT * FROM ramp.transfers".to_owned(),
        "CREATE TABLE ramp.mine ()".to_owned(),
    ];
    for statement in refused_to_serving {
        let error = serving.batch_execute(&statement).unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("42501"), "{statement}: {error}");
    }
    assert_sound(&database);
    assert_eq!(sql(&database, &format!("SELECT state FROM ramp.ledger_transactions WHERE id = '{id}'")), "pending");
}

/// Whatever the order of the postings, accounts are locked in the order of their ids: who waits for the first one has not locked
/// the second one yet. So nobody waits in a circle.
#[test]
fn the_order_of_postings_does_not_matter() {
    let database = migrated_database();
    let accounts = funded(&database, 3);
    let [first, second, third] = [0, 1, 2].map(|number: usize| &*accounts[number]);
    let pay = |from, to| post(Uuid::new_v4(), false, &[(from, "USD", -1), (to, "USD", 1)]);
    let pending = Uuid::new_v4();
    sql(&database, &post(pending, true, &[(second, "USD", -1), (first, "USD", 1)]));
    let waits = [
        post(Uuid::new_v4(), false, &[(second, "USD", -1), (first, "USD", 1)]),
        post(Uuid::new_v4(), false, &[(first, "USD", 1), (second, "USD", -1)]),
        post(Uuid::new_v4(), true, &[(second, "USD", -1), (first, "USD", 1)]),
        format!("SELECT ramp.settle('{pending}', false)"),
    ];
    let (mut holder, mut other) = (client("postgres", &database), client("postgres", &database));
    other.batch_execute("SET lock_timeout = '2s'").unwrap();
    for waiting in waits {
        let mut open = holder.transaction().unwrap();
        open.execute(&pay(first, third), &[]).unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| call(&mut client("postgres", &database), &waiting));
            let is_waiting =
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
            assert!(mainstay::local::wait_until(PATIENCE, || sql(&database, is_waiting) == "1"), "{waiting}");
            // The third one is locked as well, by who holds the first.
            let free = post(Uuid::new_v4(), false, &[(second, "USD", -1), ("fees", "USD", 1)]);
            assert_eq!(call(&mut other, &free).unwrap(), Some(true), "{waiting} holds what comes second");
            open.commit().unwrap();
            assert_eq!(waits.join().unwrap().unwrap(), Some(true));
        });
    }
    assert_sound(&database);
}

/// Accounts of the system have no balance that transactions would wait for.
#[test]
fn accounts_without_a_limit_keep_nobody_waiting() {
    let database = migrated_database();
    let accounts = funded(&database, 4);
    let (mut one, mut other) = (client("postgres", &database), client("postgres", &database));
    let mut open = one.transaction().unwrap();
    let pay =
        |from: &str, to: &str| post(Uuid::new_v4(), false, &[(from, "USD", -6), (to, "USD", 5), ("fees", "USD", 1)]);
    open.execute(&pay(&accounts[0], &accounts[1]), &[]).unwrap();
    // It opens the account for fees that the first one has opened and not committed: only this time it would wait.
    drop(open);
    assert_eq!(call(&mut one, &pay(&accounts[0], &accounts[1])).unwrap(), Some(true));
    let mut open = one.transaction().unwrap();
    open.execute(&pay(&accounts[0], &accounts[1]), &[]).unwrap();
    other.batch_execute("SET lock_timeout = '1s'").unwrap();
    assert_eq!(call(&mut other, &pay(&accounts[2], &accounts[3])).unwrap(), Some(true), "beside it");
    open.commit().unwrap();
    assert_sound(&database);
    assert_eq!(sql(&database, "SELECT posted FROM ramp.ledger_balances WHERE holder = 'fees'"), "3");
}
