//! Lists of what happened, page by page: of transactions, and of transfers.

use std::sync::Arc;

use mainstay::database::read::Database;
use mainstay::ramp;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::ledger::{client, seed};
use super::{Customer, migrated_database, open, sql};

const CURRENCIES: [&str; 3] = ["AFRI", "EUR", "USD"];
const KINDS: [&str; 3] = ["deposit", "mint", "payout"];

/// Asks for lists, over connections that stay open.
struct Desk {
    runtime: Runtime,
    database: Arc<Database>,
}

impl Desk {
    fn new(database: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let database = runtime.block_on(async { open(database) });
        Self { runtime, database }
    }

    fn ask(&self, who: &Customer, handler: &str, parameters: &str) -> Result<Value, mainstay::Error> {
        let call = who.call_on(Arc::clone(&self.database), handler, parameters, &[], "");
        self.runtime.block_on(call).map(|answer| serde_json::from_slice(&answer.body).unwrap())
    }

    /// The ids of a page, and the cursor of the next one.
    fn page(&self, who: &Customer, list: &str, parameters: &str) -> (Vec<String>, Option<String>) {
        let page = self.ask(who, &format!("ramp.{list}.list"), parameters).unwrap();
        let ids = page[list].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned());
        (ids.collect(), page["next_cursor"].as_str().map(str::to_owned))
    }

    /// Walks to the end, with pages of these lengths, and does something between any two of them.
    fn walk(
        &self,
        who: &Customer,
        list: &str,
        filters: &str,
        limits: &[usize],
        mut between: impl FnMut(),
    ) -> Vec<String> {
        let (mut seen, mut cursor, mut limits) = (Vec::new(), None::<String>, limits.iter().cycle());
        loop {
            let limit = limits.next().unwrap();
            let at = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
            let (ids, next) = self.page(who, list, &format!("{filters}&limit={limit}{at}"));
            assert!(ids.len() <= *limit, "{ids:?}");
            seen.extend(ids);
            cursor = next;
            if cursor.is_none() {
                return seen;
            }
            between();
        }
    }
}

/// Writes random transactions of a customer's.
struct Writer {
    random: fastrand::Rng,
    client: postgres::Client,
    account: String,
    pending: Vec<Uuid>,
}

impl Writer {
    fn new(database: &str, account: &str, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self { random, client: client("postgres", database), account: account.to_owned(), pending: Vec::new() }
    }

    /// The statement of one, into one or two of the customer's accounts.
    fn post(&mut self) -> String {
        let (random, id) = (&mut self.random, Uuid::from_u128(fastrand::u128(..)));
        let is_pending = random.u8(..5) == 0;
        if is_pending {
            self.pending.push(id);
        }
        let kind = random.choice(KINDS).unwrap();
        let first = random.usize(..CURRENCIES.len());
        let second = (first + 1) % CURRENCIES.len();
        let currencies =
            if random.bool() { vec![CURRENCIES[first]] } else { vec![CURRENCIES[first], CURRENCIES[second]] };
        let (mut holders, mut names, mut amounts) = (Vec::new(), Vec::new(), Vec::new());
        for currency in currencies {
            let amount = random.i64(1..1000);
            for (holder, amount) in [(self.account.as_str(), amount), ("clearing:test", -amount)] {
                holders.push(format!("'{holder}'"));
                names.push(format!("'{currency}'"));
                amounts.push(amount.to_string());
            }
        }
        format!(
            "SELECT ramp.post('{id}', '{kind}', {is_pending}, ARRAY[{}], ARRAY[{}], ARRAY[{}])",
            holders.join(","),
            names.join(","),
            amounts.join(",")
        )
    }

    /// Enters so many in one transaction of the database: they have the same time. Beside others, one at a time: several lock
    /// accounts in no order.
    fn write(&mut self, count: usize) {
        let statements: Vec<String> = (0..count).map(|_| self.post()).collect();
        self.client.batch_execute(&format!("BEGIN; {}; COMMIT", statements.join("; "))).unwrap();
        if self.random.bool()
            && let Some(id) = self.pending.pop()
        {
            let settle = format!("SELECT ramp.settle('{id}', {})", self.random.bool());
            self.client.batch_execute(&settle).unwrap();
        }
    }
}

/// What a list is to show, in its order, by one plain query.
fn expected(database: &str, account: &str, filter: &str) -> Vec<String> {
    let query = format!(
        "SELECT t.id FROM ramp.ledger_transactions t \
         WHERE EXISTS (SELECT FROM ramp.ledger_entries e JOIN ramp.ledger_accounts a ON a.id = e.ledger_account_id \
                       WHERE e.transaction_id = t.id AND a.account_id = '{account}' {filter}) \
         ORDER BY t.created_at DESC, t.id DESC"
    );
    sql(database, &query).lines().map(str::to_owned).collect()
}

fn customer(database: &str) -> Customer {
    Customer::new(database, 1, "USD", 0)
}

/// Random filters and page lengths: the pages are the whole list cut, and, where others write between them, each one that was
/// there when the walk began comes once, and none twice.
#[test]
fn pages_one_after_another_are_the_list_whatever_is_written_between_them() {
    let database = migrated_database();
    let (one, other) = (customer(&database), customer(&database));
    let mut random = fastrand::Rng::with_seed(seed());
    let mut writer = Writer::new(&database, &one.account, random.u64(..));
    let mut others = Writer::new(&database, &other.account, random.u64(..));
    (0..60).for_each(|number| writer.write(1 + number % 3));
    (0..10).for_each(|_| others.write(1));
    let desk = Desk::new(&database);
    let times: Vec<String> = sql(
        &database,
        "SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM ramp.ledger_transactions",
    )
    .lines()
    .map(str::to_owned)
    .collect();
    let (mut walks, mut rows) = (0, 0);
    while walks < 24 {
        let (mut filters, mut wanted) = (Vec::new(), String::new());
        for (name, values) in [("currency", &CURRENCIES), ("kind", &KINDS), ("state", &["pending", "posted", "voided"])]
        {
            if random.u8(..3) == 0 {
                let (value, table) = (random.choice(values).unwrap(), if name == "currency" { "a" } else { "t" });
                filters.push(format!("{name}={value}"));
                wanted.push_str(&format!(" AND {table}.{name} = '{value}'"));
            }
        }
        for (name, comparison) in [("from", ">="), ("to", "<")] {
            if random.u8(..4) == 0 {
                let time = random.choice(&times).unwrap();
                filters.push(format!("{name}={time}"));
                wanted.push_str(&format!(" AND t.created_at {comparison} '{time}'"));
            }
        }
        let (filters, limits) = (filters.join("&"), [random.usize(1..20), random.usize(1..20), random.usize(1..20)]);
        let before = expected(&database, &one.account, &wanted);
        let is_refused = desk.ask(&one, "ramp.transactions.list", &filters);
        if let Err(error) = is_refused {
            assert!(
                filters.contains("from") && filters.contains("to") && error.detail.starts_with("from "),
                "{filters}: {error}"
            );
            continue;
        }
        assert_eq!(desk.walk(&one, "transactions", &filters, &limits, || ()), before, "{filters} {limits:?}");
        // Only new ones: what is settled may cease to be what was asked for.
        let seen = desk.walk(&one, "transactions", &filters, &limits, || {
            let post = writer.post();
            writer.client.batch_execute(&post).unwrap();
        });
        let of_before: Vec<&String> = seen.iter().filter(|id| before.contains(id)).collect();
        assert_eq!(of_before, before.iter().collect::<Vec<_>>(), "{filters} {limits:?}");
        assert_eq!(seen.len(), before.len(), "what came later stands above where the walk began");
        (walks, rows) = (walks + 1, rows + before.len());
    }
    assert!(rows > 200, "{rows}");
}

/// A transaction that begins before a walk and is committed during it is old by its time, and appears in the middle of the list.
#[test]
fn while_others_write_nothing_is_shown_twice_and_nothing_that_was_there_is_lost() {
    let database = migrated_database();
    let one = customer(&database);
    let seed = seed();
    let mut writer = Writer::new(&database, &one.account, seed);
    (0..30).for_each(|number| writer.write(1 + number % 3));
    let mut late: Vec<postgres::Client> = (0..3).map(|_| client("postgres", &database)).collect();
    for client in &mut late {
        // It takes its time here, and locks nothing yet.
        client.batch_execute("BEGIN; SELECT now()").unwrap();
        writer.write(1);
    }
    std::thread::scope(|scope| {
        for number in 1..3 {
            let (database, account) = (&database, &one.account);
            scope.spawn(move || {
                let mut writer = Writer::new(database, account, seed + number);
                (0..80).for_each(|_| writer.write(1));
            });
        }
        let desk = Desk::new(&database);
        for round in 0..6 {
            let before = expected(&database, &one.account, "");
            let seen = desk.walk(&one, "transactions", "", &[7], || {
                if let Some(mut client) = late.pop_if(|_| round % 2 == 0) {
                    client.batch_execute(&format!("{}; COMMIT", writer.post())).unwrap();
                }
            });
            let mut once = seen.clone();
            once.sort_unstable();
            once.dedup();
            assert_eq!(once.len(), seen.len(), "something came twice");
            let of_before: Vec<&String> = seen.iter().filter(|id| before.contains(id)).collect();
            assert_eq!(of_before, before.iter().collect::<Vec<_>>());
        }
    });
    assert!(late.is_empty());
}

#[test]
fn a_transaction_is_one_whatever_it_touches_and_its_accounts_alone_see_it() {
    let database = migrated_database();
    let (one, other, third) = (customer(&database), customer(&database), customer(&database));
    let (mint, held, back) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    one.fund("USD", 10_000);
    let post = |id: Uuid, kind: &str, is_pending: bool, postings: &[(&str, &str, i64)]| {
        let part = |part: fn(&(&str, &str, i64)) -> String| postings.iter().map(part).collect::<Vec<_>>().join(",");
        let statement = format!(
            "SELECT ramp.post('{id}', '{kind}', {is_pending}, ARRAY[{}], ARRAY[{}], ARRAY[{}])",
            part(|(holder, ..)| format!("'{holder}'")),
            part(|(_, currency, _)| format!("'{currency}'")),
            part(|(.., amount)| amount.to_string())
        );
        assert_eq!(sql(&database, &statement), "t");
    };
    let fee = ("fees", "USD", 50);
    let both = [
        (&*one.account, "USD", -1050),
        fee,
        ("reserve", "USD", 1000),
        ("issued", "AFRI", -9),
        (&*one.account, "AFRI", 9),
    ];
    post(mint, "mint", false, &both);
    post(held, "transfer", true, &[(&one.account, "USD", -7), (&other.account, "USD", 7)]);
    sql(&database, &format!("SELECT ramp.reverse('{back}', '{mint}')"));
    let desk = Desk::new(&database);
    let get = |who: &Customer, id: &str| desk.ask(who, "ramp.transactions.get", &format!("id={id}"));
    let shown = get(&one, &mint.to_string()).unwrap();
    assert_eq!(
        shown,
        json!({
            "id": mint, "kind": "mint", "state": "posted", "reverses": null,
            "entries": [{ "currency": "AFRI", "amount": 9 }, { "currency": "USD", "amount": -1050 }],
            "created_at": shown["created_at"], "settled_at": shown["settled_at"],
        })
    );
    let pending = get(&other, &held.to_string()).unwrap();
    let entries = json!([{ "currency": "USD", "amount": 7 }]);
    assert_eq!(
        (&pending["state"], &pending["settled_at"], &pending["entries"]),
        (&json!("pending"), &json!(null), &entries)
    );
    let reversal = get(&one, &back.to_string()).unwrap();
    assert_eq!((&reversal["kind"], &reversal["reverses"]), (&json!("reversal"), &json!(mint)));
    let list = |filters: &str| desk.ask(&one, "ramp.transactions.list", filters).unwrap();
    assert_eq!(list("")["transactions"].as_array().unwrap()[..2], [reversal, get(&one, &held.to_string()).unwrap()]);
    assert_eq!(list("currency=AFRI&kind=mint")["transactions"], json!([shown]), "with its dollars");
    assert_eq!(list("currency=AFRI&state=pending"), json!({ "transactions": [], "next_cursor": null }));
    for (who, id) in [(&other, mint.to_string()), (&third, held.to_string()), (&one, Uuid::new_v4().to_string())] {
        assert_eq!(get(who, &id).unwrap_err().code.as_str(), "not_found");
    }
    assert_eq!(get(&one, "seven").unwrap_err().code.as_str(), "not_found");
    assert_eq!(desk.page(&third, "transactions", "").0, Vec::<String>::new());
}

#[test]
fn a_cursor_leads_nowhere_but_in_its_own_list() {
    let database = migrated_database();
    let (one, other) = (customer(&database), customer(&database));
    for who in [&one, &other] {
        (0..3).for_each(|_| who.fund("USD", 100));
    }
    (0..2).for_each(|number| assert!(one.send(&other, 1, "USD", &number.to_string()).is_ok()));
    let desk = Desk::new(&database);
    let cursor = |who: &Customer, list: &str, filters: &str| {
        let (_, cursor) = desk.page(who, list, &format!("{filters}&limit=1"));
        cursor.unwrap()
    };
    let own = cursor(&one, "transactions", "currency=USD");
    assert!(desk.ask(&one, "ramp.transactions.list", &format!("currency=USD&limit=2&cursor={own}")).is_ok());
    let refused = [
        (&other, "transactions", format!("currency=USD&cursor={own}")),
        (&one, "transactions", format!("currency=EUR&cursor={own}")),
        (&one, "transactions", format!("cursor={own}")),
        (&one, "transfers", format!("cursor={}", cursor(&one, "transactions", ""))),
        (&one, "transactions", format!("cursor={}", cursor(&one, "transfers", ""))),
        (&one, "transfers", format!("direction=received&cursor={}", cursor(&one, "transfers", "direction=sent"))),
        (&one, "transactions", "cursor=".to_owned()),
        (&one, "transactions", format!("currency=USD&cursor={}A", &own[..own.len() - 1])),
    ];
    for (who, list, parameters) in refused {
        let error = desk.ask(who, &format!("ramp.{list}.list"), &parameters).unwrap_err();
        let is_named = error.detail.starts_with("cursor ");
        assert_eq!((error.code.as_str(), is_named), ("param_invalid", true), "{parameters}: {error}");
    }
}

#[test]
fn transfers_are_listed_in_both_directions() {
    let database = migrated_database();
    let (one, other, third) = (customer(&database), customer(&database), customer(&database));
    [&one, &other].into_iter().for_each(|who| who.fund("USD", 10_000));
    let send = |from: &Customer, to: &Customer, key: &str| {
        let answer = from.send(to, 100, "USD", key).unwrap();
        serde_json::from_slice::<Value>(&answer.body).unwrap()["id"].as_str().unwrap().to_owned()
    };
    let mut all: Vec<(&str, String)> = (0..12)
        .map(|number| {
            let key = number.to_string();
            if number % 3 == 0 { ("received", send(&other, &one, &key)) } else { ("sent", send(&one, &other, &key)) }
        })
        .collect();
    send(&other, &third, "not one's");
    all.reverse();
    sql(&database, &format!("SELECT ramp.reverse(gen_random_uuid(), '{}')", all[4].1));
    let desk = Desk::new(&database);
    for direction in ["", "sent", "received"] {
        let expected: Vec<&String> =
            all.iter().filter(|(way, _)| direction.is_empty() || *way == direction).map(|(_, id)| id).collect();
        let filters = if direction.is_empty() { String::new() } else { format!("direction={direction}") };
        for limit in [1, 2, 5, 12, 200] {
            assert_eq!(desk.walk(&one, "transfers", &filters, &[limit], || ()).iter().collect::<Vec<_>>(), expected);
        }
    }
    let shown = desk.ask(&one, "ramp.transfers.list", "limit=5").unwrap();
    let statuses: Vec<&str> =
        shown["transfers"].as_array().unwrap().iter().map(|row| row["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["completed", "completed", "completed", "completed", "reversed"]);
    let single = one.call("ramp.transfers.get", &format!("id={}", all[4].1), &[], "").unwrap();
    assert_eq!(shown["transfers"][4], serde_json::from_slice::<Value>(&single.body).unwrap(), "the same in both");
    let middle = shown["transfers"][2]["created_at"].as_str().unwrap();
    assert_eq!(desk.page(&one, "transfers", &format!("from={middle}")).0.len(), 3);
    assert_eq!(desk.page(&one, "transfers", &format!("to={middle}")).0.len(), 9);
}

/// So many transactions of a customer's, as the owner of the tables enters them, and one of another kind before all of them.
fn fill(database: &str, account: &str, count: usize) {
    let funds = "ramp.post(gen_random_uuid(), 'rare', false, ARRAY['clearing:test', acc, 'clearing:test', acc], \
                 ARRAY['USD', 'USD', 'EUR', 'EUR'], ARRAY[-1, 1, -1, 1])";
    sql(database, &format!("SELECT {} FROM (SELECT '{account}'::text AS acc) a", funds));
    let statement = format!(
        "BEGIN;
         CREATE TEMPORARY TABLE made ON COMMIT DROP AS
             SELECT gen_random_uuid() AS id, now() + i * interval '1 millisecond' AS at FROM generate_series(1, {count}) i;
         INSERT INTO ramp.ledger_transactions (id, kind, state, created_at, settled_at)
             SELECT id, 'common', 'posted', at, at FROM made;
         INSERT INTO ramp.ledger_entries (transaction_id, ledger_account_id, amount, created_at)
             SELECT m.id, a.id, CASE a.holder WHEN 'clearing:test' THEN -1 ELSE 1 END, m.at
             FROM made m CROSS JOIN ramp.ledger_accounts a WHERE a.holder IN ('clearing:test', '{account}');
         COMMIT;
         ANALYZE ramp.ledger_entries, ramp.ledger_transactions, ramp.ledger_accounts"
    );
    client("postgres", database).batch_execute(&statement).unwrap();
}

/// Where filters leave nearly all out, a page ends before it is full, and says where to go on.
#[test]
fn a_page_looks_at_so_many_and_no_more() {
    let database = migrated_database();
    let one = customer(&database);
    fill(&database, &one.account, 5_000);
    let desk = Desk::new(&database);
    let (ids, cursor) = desk.page(&one, "transactions", "kind=rare&limit=10");
    assert_eq!((ids.len(), cursor.is_some()), (0, true));
    let mut pages = 1;
    let found = desk.walk(&one, "transactions", "kind=rare", &[10], || pages += 1);
    assert_eq!((found.len(), pages), (1, 3), "2,000 at a time");
    assert_eq!(desk.walk(&one, "transactions", "kind=common&currency=EUR", &[200], || ()).len(), 5_000);
}

/// However many there are, a page reads a few times as many rows as it shows: no plan sorts or scans all.
#[test]
fn a_page_of_many_reads_no_more_than_it_shows() {
    let database = migrated_database();
    let one = customer(&database);
    fill(&database, &one.account, 30_000);
    let id = &one.account;
    let middle = "SELECT transaction_id FROM ramp.ledger_entries ORDER BY created_at DESC OFFSET 40000 LIMIT 1";
    let middle = format!("'{}'", sql(&database, middle));
    let time = sql(&database, &format!("SELECT created_at FROM ramp.ledger_transactions WHERE id = {middle}"));
    let time = format!("'{time}'");
    for (time, place, currency) in [("NULL", "NULL", "NULL"), (&time, &middle, "NULL"), (&time, &middle, "'USD'")] {
        let statement = ramp::transactions::NEWEST
            .replace("$1", &format!("'{id}'::uuid"))
            .replace("$2", &format!("{currency}::text"))
            .replace("$3", "NULL::timestamptz")
            .replace("$4", &format!("{time}::timestamptz"))
            .replace("$5", &format!("{place}::uuid"))
            .replace("$6", "51");
        let plan = sql(&database, &format!("EXPLAIN (ANALYZE, FORMAT JSON) {statement}"));
        let plan: Value = serde_json::from_str(&plan).unwrap();
        let mut read = Vec::new();
        reads(&plan[0]["Plan"], &mut read);
        for (relation, node, rows) in &read {
            let is_small = relation == "ledger_accounts";
            assert!(
                is_small || (node.contains("Index") && *rows <= 2.0 * 51.0),
                "{relation}: {node} of {rows} rows: {plan:#}"
            );
        }
        assert!(read.iter().any(|(relation, ..)| relation == "ledger_entries"), "{plan:#}");
    }
}

/// What a plan reads: relation, how, and how many rows.
fn reads(node: &Value, out: &mut Vec<(String, String, f64)>) {
    if let Some(relation) = node["Relation Name"].as_str() {
        let number = |name: &str| node[name].as_f64().unwrap_or_default();
        let rows = (number("Actual Rows") + number("Rows Removed by Filter")) * number("Actual Loops");
        out.push((relation.to_owned(), node["Node Type"].as_str().unwrap().to_owned(), rows));
    }
    node["Plans"].as_array().into_iter().flatten().for_each(|child| reads(child, out));
}
