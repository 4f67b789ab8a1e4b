//! The rows of the README's table of failures: a proxy of ours stands before each server, one of them fails, and the promise is
//! held: while anything that could answer is alive, a cached read is answered, and in time; and all is well again by itself.

mod both;
mod disk;
mod dns;
mod primary;
mod redis;
mod replica;

use std::time::{Duration, Instant};

use mainstay::local::{Proxy, ProxyMode, Server, wait_until};
use mainstay::{Answer, Call};
use serde_json::json;

use crate::coherence::fleet::{Claim, Fleet, Member};
use crate::instance::asking::while_asking;
use crate::instance::client::Reply;
use crate::instance::{Instance, Plan};
use crate::support::{Cluster, PATIENCE, count};

const ROUTES: &str = r#"
[[route]]
path = "/public/kept/{id}"
result = "row"
sql = "SELECT value FROM items WHERE id = $1"
params = [{ name = "id", in = "path", type = "integer" }]
[route.cache]
ttl = "1h"
stale_while_revalidate = "1h"
stale_if_error = "1d"
tags = ["items:{id}"]
watch = [{ table = "items", tag = "items:{id}" }]

# Old as soon as it is there: each read asks the source, and gets what is kept where that fails.
[[route]]
path = "/public/brief/{id}"
result = "row"
sql = "SELECT value FROM items WHERE id = $1"
params = [{ name = "id", in = "path", type = "integer" }]
[route.cache]
ttl = "1ms"
stale_if_error = "1d"
watch = []

[[route]]
path = "/account/{id}"
result = "row"
sql = "SELECT value FROM items WHERE id = $1"
params = [{ name = "id", in = "path", type = "integer" }]

[[route]]
path = "/orders"
methods = ["POST"]
handler = "order"
"#;

const KEPT: &str = "/public/kept/1";
const BRIEF: &str = "/public/brief/1";
/// Never asked for before a test does, so that it is no cached read.
const NEW: &str = "/public/kept/2";
const ACCOUNT: &str = "/account/1";

/// The deadline of a request, which is the default.
const DEADLINE: Duration = Duration::from_secs(10);

/// How a server fails.
#[derive(Clone, Copy, Debug)]
enum How {
    /// Connections end, and new ones are closed at once.
    Cut,
    /// Connections are reset, and new ones, too.
    Reset,
    /// Nothing arrives any more, and nothing says so.
    BlackHole,
    /// Everything takes seconds.
    Delayed,
    /// Some bytes come through now and then.
    Throttled,
}

/// A server, as the instance sees it.
struct Part(Proxy);

impl Part {
    fn before(server: &Server) -> Self {
        Self(Proxy::start(([127, 0, 0, 1], server.port()).into()).unwrap())
    }

    fn fail(&self, how: How) {
        match how {
            How::Cut => {
                self.0.set_mode(ProxyMode::Refuse);
                self.0.cut();
            }
            How::Reset => {
                self.0.set_mode(ProxyMode::Reset);
                self.0.reset();
            }
            How::BlackHole => self.0.set_mode(ProxyMode::BlackHole),
            How::Delayed => self.0.set_delay(Duration::from_secs(5)),
            How::Throttled => self.0.set_throttle(Some(50)),
        }
    }

    fn mend(&self) {
        self.0.set_mode(ProxyMode::Pass);
        self.0.set_delay(Duration::ZERO);
        self.0.set_throttle(None);
    }

    fn postgres(&self, database: &str) -> String {
        format!("postgres://postgres@{}/{database}", self.0.address())
    }
}

/// An instance, and all that it stands on.
struct Site {
    fleet: Fleet,
    primary: Part,
    replica: Part,
    redis: Part,
    instance: Instance,
}

impl Site {
    fn new(name: &str) -> Self {
        Self::on(Fleet::new(name), |plan| plan)
    }

    fn on(fleet: Fleet, change: impl FnOnce(Plan) -> Plan) -> Self {
        let primary = Part::before(&fleet.primary.server);
        let replica = Part::before(&fleet.replica.server);
        let redis = Part::before(&fleet.redis.server);
        let instance = change(Self::plan(&fleet, &primary, &replica, &redis)).start();
        instance.wait_hearing("stream");
        let site = Self { fleet, primary, replica, redis, instance };
        site.wait_well();
        site
    }

    /// A plan that waits for failures as a user's would, or somewhat shorter, but that a busy machine is no failure.
    fn plan(fleet: &Fleet, primary: &Part, replica: &Part, redis: &Part) -> Plan {
        fleet
            .plan_with(ROUTES)
            .handler("order", order)
            .set("DATABASE_URL", &primary.postgres(&fleet.database))
            .set("DATABASE_READ_REPLICA_URL", &replica.postgres(&fleet.database))
            .set("REDIS_URL", &format!("redis://{}", redis.0.address()))
            .set("limits.request_timeout", "10s")
            .set("database.statement_timeout", "5s")
            .set("database.connect_timeout", "1s")
            .set("cache.max_silence", "1s")
            .set("redis.timeout", "500ms")
            .set("redis.connect_timeout", "500ms")
            .set("nodes.open_time", "200ms")
            .set("nodes.open_time_max", "500ms")
    }

    /// Waits until all parts are in use, and what is to be cached is.
    fn wait_well(&self) {
        self.instance.wait_healthy();
        self.wait_from("replica");
        self.instance.wait_for("a fresh hit", KEPT, |reply| reply.is_hit() && reply.claims_fresh());
        assert!(self.wait_metric("mainstay_node_breaker_state{node=\"redis\"}", 0.0));
        assert!(wait_until(PATIENCE, || self.order().status == 200), "writers are refused");
    }

    /// Waits until a part answers what is asked anew each time.
    fn wait_from(&self, part: &str) -> Reply {
        let detail = format!("; detail={part}");
        let from = |reply: &Reply| reply.cache().starts_with("fwd=stale; stored") && reply.cache().ends_with(&detail);
        self.instance.wait_for(part, BRIEF, from)
    }

    fn order(&self) -> Reply {
        self.instance.connect().request_with_body("POST", "/orders", &[], b"{}")
    }

    fn wait_metric(&self, sample: &str, value: f64) -> bool {
        wait_until(PATIENCE, || self.instance.metric(sample) == value)
    }

    fn is_up(&self, node: &str, up: bool) {
        let sample = format!("mainstay_node_up{{node=\"{node}\"}}");
        assert!(self.wait_metric(&sample, f64::from(up)), "{node} is not found to be up: {up}");
    }

    /// Waits until `/health/edge` gives a reason.
    fn wait_reason(&self, expected: &str) -> Reply {
        self.instance.wait_for(expected, "/health/edge", |reply| {
            reply.json()["reasons"].as_array().unwrap().iter().any(|reason| reason == expected)
        })
    }

    /// Runs `trouble` while clients read what is cached: each of them is answered, within the deadline of a request.
    fn while_reading(&self, trouble: impl FnOnce()) {
        let client = |number| {
            let mut connection = self.instance.connect();
            let target = [KEPT, BRIEF][number % 2];
            move || assert_eq!(in_time(|| connection.request("GET", target, &[])).status, 200)
        };
        let answers = while_asking(4, client, trouble);
        assert!(answers > 20, "{answers}");
    }
}

/// What is answered within the deadline of a request.
fn in_time(ask: impl FnOnce() -> Reply) -> Reply {
    let began = Instant::now();
    let reply = ask();
    assert!(began.elapsed() < DEADLINE, "{:?}: {reply:?}", began.elapsed());
    reply
}

/// Asks for several things at once, none of which may take longer than half of the deadline.
fn together(targets: &[String], ask: impl Fn(&str) -> Reply + Sync) -> Vec<Reply> {
    let (ask, began) = (&ask, Instant::now());
    let replies = std::thread::scope(|scope| {
        let asking: Vec<_> = targets.iter().map(|target| scope.spawn(move || ask(target))).collect();
        asking.into_iter().map(|asking| asking.join().unwrap()).collect()
    });
    assert!(began.elapsed() < DEADLINE / 2, "{:?}", began.elapsed());
    replies
}

/// What is known to fail is not waited for: many requests take less than one would that waited for its deadline.
fn at_once(ask: impl Fn() -> Reply) -> Reply {
    let began = Instant::now();
    let replies: Vec<Reply> = (0..20).map(|_| ask()).collect();
    assert!(began.elapsed() < DEADLINE, "{:?}", began.elapsed());
    replies.into_iter().next_back().unwrap()
}

/// A write, as far as a session that may not write goes.
async fn order(call: Call) -> Result<Answer, mainstay::Error> {
    let value =
        call.read(async |conn| count(conn, "SELECT value::int AS number FROM items WHERE id = 1").await).await?;
    Answer::json(&json!({ "value": value }))
}
