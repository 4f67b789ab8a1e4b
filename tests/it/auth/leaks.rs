//! What is one caller's own reaches nobody else, in whatever mix of caches, coalescing, failing sources, purges, forwarding and a
//! failover origin.
//!
//! Each caller has a word that only answers for them have in them. Many ask at once, of three origins, with right credentials,
//! another's kind of them, or none, while sources fail and tags fall; no answer has a word of another's, and in the end none is
//! in any cache. `LEAK_SEED=17` runs that seed.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use fastrand::Rng;
use mainstay::auth::keys::NewKey;
use mainstay::error::{Code, Error};
use mainstay::local::wait_until;
use mainstay::{Answer, Call};
use serde_json::json;
use tempfile::TempDir;

use super::people::{Issuer, bearer_of};
use crate::coherence::fleet::{Fleet, Member};
use crate::instance::Instance;
use crate::instance::client::Reply;
use crate::source::upstream::server::{Service, answer};
use crate::support::PATIENCE;

/// What all get who get the same.
const COMMON: &str = "the-same-for-all";
/// Clients that ask at once, and how often each does.
const CLIENTS: usize = 6;
const REQUESTS: usize = 150;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Token,
    Key,
}

/// Whom the answers of a route are for.
#[derive(Clone, Copy, PartialEq)]
enum Audience {
    Own(Kind),
    Shared(Kind),
    Everyone,
}

use Audience::{Everyone, Own, Shared};
use Kind::{Key, Token};

/// Each route, and what else the manifest says of it.
const ROUTES: [(&str, Audience, &str); 14] = [
    ("/own/sql", Own(Token), MINE),
    ("/own/session", Own(Token), "handler = \"tell\"\nconsistency = \"session\""),
    ("/own/told", Own(Token), "handler = \"tell\""),
    ("/public/own", Own(Token), "handler = \"tell\""),
    ("/account/told", Own(Token), "handler = \"tell\""),
    ("/own/upstream", Own(Token), "upstream = \"there\""),
    ("/keyed/told", Own(Key), "handler = \"tell\""),
    (KEYED_UPSTREAM, Own(Key), "upstream = \"there\""),
    ("/keyed/strong", Own(Key), STRONG),
    ("/shared/told", Shared(Token), "handler = \"tell\""),
    ("/shared/sql", Shared(Token), "sql = \"SELECT 'the-same-for-all' AS word, sum(value) FROM items\""),
    ("/shared/upstream", Shared(Token), "upstream = \"there\""),
    ("/keyed/shared", Shared(Key), "handler = \"tell\""),
    (
        "/public/told",
        Everyone,
        "handler = \"tell\"\n[route.cache]\nttl = \"20ms\"\nstale_if_error = \"1d\"\ntags = [\"told\"]",
    ),
];

/// An upstream that is told nothing of keys answers all with the same.
const KEYED_UPSTREAM: &str = "/keyed/upstream";

const MINE: &str =
    "sql = \"SELECT word FROM words WHERE owner = $1\"\nparams = [{ name = \"sub\", in = \"claim\", type = \"text\" }]";
const STRONG: &str = "sql = \"SELECT word FROM words WHERE owner = $1\"\nparams = [{ name = \"sub\", in = \"claim\", type = \"text\" }]\nconsistency = \"strong\"";
const CACHE: &str = "shared = true\n[route.cache]\nttl = \"20ms\"\nstale_while_revalidate = \"20ms\"\nstale_if_error = \"1d\"\ntags = [\"told\"]";

fn manifest(upstream: &Service) -> String {
    let route = |(path, audience, more): &(&str, Audience, &str)| {
        let auth = |kind: &Kind| if *kind == Token { "auth = \"jwt\"" } else { "auth = \"key\"" };
        let rest = match audience {
            Own(kind) => auth(kind).to_owned(),
            Shared(kind) => format!("{}\n{CACHE}", auth(kind)),
            Everyone => String::new(),
        };
        format!("[[route]]\npath = \"{path}\"\n{more}\n{rest}\n\n")
    };
    let routes: String = ROUTES.iter().map(route).collect();
    format!("{routes}[upstream.there]\nendpoints = [\"{}\"]\n", upstream.url())
}

/// Someone who asks.
struct Person {
    kind: Kind,
    bearer: String,
    /// What nobody else must see.
    word: String,
}

/// What a request is about to be.
struct Wish {
    origin: usize,
    route: usize,
    person: Option<usize>,
    method: &'static str,
    headers: Vec<(&'static str, String)>,
}

/// How often sources were asked. They fail in runs of it, and not for stretches of time: else on a slow machine they might fail nearly
/// always.
#[derive(Default)]
struct Trials(AtomicUsize);

impl Trials {
    const RUN: usize = 8;

    fn next_fails(&self) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed) / Self::RUN % 2 == 1
    }
}

struct World {
    people: Vec<Person>,
    /// The origin of a region, one of the primary's region, and the one that stands in.
    origins: [Instance; 3],
    /// Answers that had a word in them, which was the right one.
    own: AtomicUsize,
    /// Answers out of a cache.
    hits: AtomicUsize,
    fleet: Fleet,
    snapshots: TempDir,
    _upstream: Service,
}

impl World {
    fn new(rng: &mut Rng) -> Self {
        let (fleet, issuer) = (Fleet::new("leaks"), Issuer::new());
        let mut word = || format!("word-{:016x}", rng.u64(..));
        let mut people: Vec<Person> = ["alice", "bob", "carol"]
            .map(|name| Person { kind: Token, bearer: issuer.bearer(name, ""), word: word() })
            .into();
        let keys = ["kim", "lee"].map(|owner| {
            let key = NewKey { name: owner.to_owned(), owner: Some(owner.to_owned()), ..NewKey::default() };
            Person { kind: Key, bearer: bearer_of(&fleet, &fleet.database, key), word: word() }
        });
        people.extend(keys);
        let names = ["alice", "bob", "carol", "kim", "lee"];
        let subjects =
            ["jwt:https://id.test|alice", "jwt:https://id.test|bob", "jwt:https://id.test|carol", "key:kim", "key:lee"];
        fleet.sql("CREATE TABLE words (owner text, word text)");
        for (name, person) in names.iter().zip(&people) {
            // What a key says of its bearer's name, and what a token does.
            fleet.sql(&format!(
                "INSERT INTO words VALUES ('{name}', '{}'), ('key:{name}', '{}')",
                person.word, person.word
            ));
        }
        let trials = Arc::new(Trials::default());
        let by_subject: HashMap<_, _> =
            subjects.iter().map(|subject| (*subject).to_owned()).zip(people.iter().map(|it| it.word.clone())).collect();
        let by_bearer: HashMap<_, _> = people.iter().map(|it| (it.bearer.clone(), it.word.clone())).collect();
        let upstream = Service::new({
            let trials = Arc::clone(&trials);
            move |seen, stream| {
                let word = seen.header("authorization").and_then(|bearer| by_bearer.get(&bearer).cloned());
                let status = if trials.next_fails() { "500 Down" } else { "200 OK" };
                let headers =
                    [("Cache-Control", "public, max-age=60"), ("Content-Type", "text/plain"), ("ETag", "\"1\"")];
                answer(stream, status, &headers, word.as_deref().unwrap_or(COMMON).as_bytes());
            }
        });
        let tell = Arc::new(tell(by_subject, trials));
        let routes = manifest(&upstream);
        fleet.migrate(&routes.replace("handler = \"tell\"", "sql = \"SELECT 1\""));
        let snapshots = tempfile::tempdir().unwrap();
        let plan = |name: &str| {
            let (tell, file) = (Arc::clone(&tell), snapshots.path().join(name));
            let plan = issuer.believed(fleet.plan_with(&routes)).handler("tell", move |call| {
                let answer = tell(&call);
                async move { answer }
            });
            plan.set("cache.snapshot_file", file.to_str().unwrap())
                .set("cache.snapshot_interval", "20ms")
                .set("cache.early_refresh_beta", "1")
                .set("TOKEN_SECRET", "0123456789abcdef0123456789abcdef")
                .set("consistency.token_ttl", "3h")
                .set("changes.poll_interval", "5ms")
        };
        let there = plan("there").start();
        let here = plan("here").set("PRIMARY_ORIGIN", &format!("http://{}", there.public)).start();
        let standing_in =
            plan("standing_in").set("MODE", "failover").unset("DATABASE_URL").unset("DATABASE_READ_REPLICA_URL");
        let standing_in = standing_in.start();
        [&there, &here].iter().for_each(|origin| origin.wait_hearing("stream"));
        let (own, hits) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { people, origins: [here, there, standing_in], own, hits, fleet, snapshots, _upstream: upstream }
    }

    fn wish(&self, rng: &mut Rng) -> Wish {
        let person = (rng.u8(..8) > 0).then(|| rng.usize(..self.people.len()));
        let mut headers = Vec::new();
        match person {
            Some(person) => headers.push(("Authorization", self.people[person].bearer.clone())),
            None if rng.bool() => headers.push(("Authorization", "Bearer mk_made.up".to_owned())),
            None => {}
        }
        if rng.u8(..4) == 0 {
            headers.push(("X-Consistency", "strong".to_owned()));
        }
        if rng.u8(..6) == 0 {
            headers.push(("If-None-Match", "*".to_owned()));
        }
        let method = if rng.u8(..10) == 0 { "HEAD" } else { "GET" };
        Wish { origin: rng.usize(..3), route: rng.usize(..ROUTES.len()), person, method, headers }
    }

    /// Asks, and looks at what comes.
    fn ask(&self, wish: &Wish) {
        let (path, audience, _) = ROUTES[wish.route];
        let headers: Vec<_> = wish.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let reply = self.origins[wish.origin].request(wish.method, path, &headers);
        let whole = format!("{:?} {}", reply.headers, reply.text());
        for (number, person) in self.people.iter().enumerate() {
            let is_theirs = matches!(audience, Own(_)) && wish.person == Some(number);
            assert!(is_theirs || !whole.contains(&person.word), "{path} of {}: another's word: {reply:?}", wish.origin);
        }
        let asked_for = match audience {
            Own(kind) | Shared(kind) => Some(kind),
            Everyone => None,
        };
        let person = wish.person.map(|person| &self.people[person]);
        let is_let_in = asked_for.is_none_or(|kind| person.is_some_and(|person| person.kind == kind));
        let kept = reply.said("cache-control");
        if !is_let_in {
            // A failover origin has nobody to ask about keys.
            assert!(matches!(reply.status, 401 | 503), "{path}: {reply:?}");
            assert_eq!(kept, "no-store, private", "{path}: {reply:?}");
            return;
        }
        assert!(matches!(reply.status, 200 | 304 | 500 | 503), "{path}: {reply:?}");
        match audience {
            Own(_) => {
                assert_eq!(kept, "no-store, private", "{path} of {}: {reply:?}", wish.origin);
                assert!(!reply.is_hit() && reply.status != 304 && reply.header("age").is_none(), "{path}: {reply:?}");
                if reply.status == 200 && wish.method == "GET" && path != KEYED_UPSTREAM {
                    assert!(whole.contains(&person.unwrap().word), "{path} of {}: {reply:?}", wish.origin);
                    self.own.fetch_add(1, Ordering::Relaxed);
                }
            }
            Shared(_) => {
                let is_private = kept.split(", ").any(|word| word == "private");
                assert!(is_private && !kept.contains("public") && !kept.contains("s-maxage"), "{path}: {reply:?}");
                self.count_hit(&reply);
            }
            Everyone => self.count_hit(&reply),
        }
    }

    fn count_hit(&self, reply: &Reply) {
        self.hits.fetch_add(usize::from(reply.is_hit()), Ordering::Relaxed);
    }

    /// Has tags fall.
    fn trouble(&self, rng: &mut Rng) {
        match rng.u8(..3) {
            0 => drop(self.origins[rng.usize(..2)].admin("POST", "/admin/cache/purge", r#"{"tags":["told"]}"#)),
            1 => self.fleet.set(1, rng.i64(..1000)),
            _ => thread::sleep(std::time::Duration::from_millis(rng.u64(..10))),
        }
    }

    /// No cache has a word of anybody.
    fn look_into_caches(&self) {
        let find = "local found = 0 for _, key in ipairs(redis.call('KEYS', '*')) do \
                    local value = redis.call('TYPE', key).ok == 'string' and redis.call('GET', key) or redis.call('DUMP', key) \
                    if value and string.find(value, ARGV[1], 1, true) then found = found + 1 end end return found";
        let in_redis =
            |word: &str| -> usize { self.fleet.redis.command(&["EVAL", find, "0", word]).unwrap().parse().unwrap() };
        assert!(in_redis(COMMON) > 0, "what is shared is there");
        for person in &self.people {
            assert_eq!(in_redis(&person.word), 0, "somebody's word is in Redis");
        }
        for name in ["here", "there"] {
            let snapshot = || fs::read(self.snapshots.path().join(name)).unwrap_or_default();
            let has = |bytes: &[u8], word: &str| bytes.windows(word.len()).any(|window| window == word.as_bytes());
            assert!(wait_until(PATIENCE, || has(&snapshot(), COMMON)), "what is shared is kept by {name}");
            let snapshot = snapshot();
            assert!(
                self.people.iter().all(|person| !has(&snapshot, &person.word)),
                "somebody's word is kept by {name}"
            );
        }
    }
}

/// A handler that answers whoever it is told of with their word, and others with what is the same for all.
fn tell(words: HashMap<String, String>, trials: Arc<Trials>) -> impl Fn(&Call) -> Result<Answer, Error> + Send + Sync {
    move |call| {
        if trials.next_fails() {
            return Err(Error::new(Code::DatabaseUnavailable, "down, as the test says"));
        }
        let identity = call.caller.as_ref().and_then(|caller| caller.identity.as_ref());
        let word = identity.and_then(|identity| words.get(&*identity.subject)).map_or(COMMON, String::as_str);
        let answer = Answer::json(&json!({ "word": word }))?;
        Ok(Answer { headers: identity.map(|_| ("x-word", word.to_owned())).into_iter().collect(), ..answer })
    }
}

#[test]
fn nobody_ever_sees_what_is_anothers() {
    let seed = std::env::var("LEAK_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("LEAK_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let world = &World::new(&mut rng);
    let is_over = &AtomicBool::new(false);
    thread::scope(|scope| {
        let mut trouble = rng.fork();
        scope.spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                world.trouble(&mut trouble);
            }
        });
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let mut rng = rng.fork();
                scope.spawn(move || (0..REQUESTS).for_each(|_| world.ask(&world.wish(&mut rng))))
            })
            .collect();
        let outcomes: Vec<_> = clients.into_iter().map(thread::ScopedJoinHandle::join).collect();
        is_over.store(true, Ordering::Relaxed);
        assert!(outcomes.iter().all(Result::is_ok), "LEAK_SEED={seed}");
    });
    let (own, hits) = (world.own.load(Ordering::Relaxed), world.hits.load(Ordering::Relaxed));
    assert!(own > CLIENTS * REQUESTS / 20 && hits > CLIENTS * REQUESTS / 50, "{own} of one's own, {hits} hits");
    world.look_into_caches();
}
