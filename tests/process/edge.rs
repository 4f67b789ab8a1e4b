//! End to end: two regions and a failover origin behind nginx in the place of a CDN, under load, while one thing after another is
//! stopped. Viewers must not notice: a key that has been cached is answered as long as anything that could answer is alive.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use mainstay::local::{
    Nginx, NginxOptions, Origin, OriginOptions, Postgres, PostgresOptions, Proxy, Redis, RedisOptions, ReplicaOptions,
    Scratch, wait_until,
};

use crate::load::{Load, Seen, Then};
use crate::support::{Folder, MAINSTAY, PATIENCE, get, mainstay, request};

const REGIONS: [&str; 2] = ["us-east-1", "eu-west-1"];
const KEYS: usize = 40;
/// Viewers of each region.
const VIEWERS: usize = 4;
/// Answers that each region's viewers get while something is stopped.
const ANSWERS: usize = 40;
/// Short, so that everything expires while what it was read from is gone.
const ROUTES: &str = r#"
[[route]]
path = "/public/item/{n}"
sql = "SELECT n, price FROM items WHERE n = $1"
result = "row"
params = [{ name = "n", in = "path", type = "integer" }]
[route.cache]
ttl = "250ms"
stale_while_revalidate = "250ms"
stale_if_error = "1h"
tags = ["item:{n}"]
watch = [{ table = "items", tag = "item:{n}" }]
"#;
/// After so long nothing is fresh any more, nor to be served while it is renewed.
const EXPIRY: Duration = Duration::from_millis(600);
const TOKEN: &str = "correct-horse";

struct Region {
    edge: Nginx,
    origin: Origin,
    redis: Redis,
    replica: Postgres,
    _far: Option<Proxy>,
}

/// Everything behind the edges. What reads goes before what is read.
struct World {
    regions: Vec<Region>,
    failover: Origin,
    primary: Postgres,
    _folder: Folder,
    _scratch: Scratch,
}

impl World {
    fn start() -> Self {
        let scratch = Scratch::new("edge").unwrap();
        let folder = Folder::new(ROUTES);
        let options = PostgresOptions::new(scratch.join("primary")).setting("shared_buffers", "16MB");
        let primary = Postgres::primary(options).unwrap();
        let items = format!(
            "CREATE TABLE items (n integer PRIMARY KEY, price integer NOT NULL); \
             INSERT INTO items SELECT n, n * 10 FROM generate_series(1, {KEYS}) AS n"
        );
        primary.psql("postgres", &items).unwrap();
        let url = primary.url("postgres", "postgres");
        let migrated = mainstay(&["migrate", "--config", folder.text()], &[("DATABASE_URL", &url)]);
        assert_eq!(migrated.code, Some(0), "{migrated:?}");

        let origin = |name: &str| {
            OriginOptions::new(MAINSTAY, folder.path(), scratch.join(name).join("origin"))
                .env("REGION", name)
                .env("ADMIN_TOKEN", TOKEN)
                .env("MAINSTAY__SERVER__DRAIN_DELAY", "0s")
                .env("MAINSTAY__SERVER__WORKERS", "1")
                .env("MAINSTAY__DATABASE__POOL_SIZE", "4")
        };
        let behind = REGIONS.iter().enumerate().map(|(index, name)| {
            // The second region is far from the primary.
            let far = (index > 0).then(|| Proxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, primary.server.port()))));
            let far = far.transpose().unwrap();
            far.iter().for_each(|far| far.set_delay(Duration::from_millis(20)));
            let replica = ReplicaOptions {
                upstream: far.as_ref().map(Proxy::address),
                application_name: Some((*name).to_owned()),
                ..ReplicaOptions::new(scratch.join(name).join("replica"))
            };
            let replica = primary.replica(replica).unwrap();
            let redis = Redis::start(&RedisOptions::new(scratch.join(name).join("redis"))).unwrap();
            let redis = redis.expect("redis-server is installed");
            let url = far
                .as_ref()
                .map_or_else(|| url.clone(), |far| format!("postgres://postgres@{}/postgres", far.address()));
            let options = origin(name)
                .env("DATABASE_URL", &url)
                .env("DATABASE_READ_REPLICA_URL", &replica.url("postgres", "postgres"))
                .env("REDIS_URL", &redis.url());
            (Origin::start(&options).unwrap(), redis, replica, far)
        });
        let behind: Vec<_> = behind.collect();
        let peers: Vec<String> = behind.iter().skip(1).map(|(origin, ..)| origin.admin_url()).collect();
        let failover = origin("failover")
            .env("MODE", "failover")
            .env("REDIS_URL", &behind[0].1.url())
            .env("MAINSTAY__FAILOVER__PEERS", &peers.join(","))
            .env("FAILOVER_PEER_TOKEN", TOKEN);
        let failover = Origin::start(&failover).unwrap();
        let regions = behind.into_iter().zip(REGIONS).map(|((origin, redis, replica, far), name)| {
            let options = NginxOptions {
                dir: scratch.join(name).join("edge"),
                primary: origin.public.to_string(),
                secondary: failover.public.to_string(),
                response_timeout: Duration::from_millis(250),
                ..NginxOptions::default()
            };
            Region { edge: Nginx::start(&options).unwrap(), origin, redis, replica, _far: far }
        });
        let regions = regions.collect();
        Self { regions, failover, primary, _folder: folder, _scratch: scratch }
    }

    /// Waits until everything says that it is well.
    fn settle(&self) {
        for region in &self.regions {
            let health = format!("{}/health/edge", region.origin.url());
            let healthy = || get(&health).status == 200;
            assert!(wait_until(PATIENCE, healthy), "{}\n{}", get(&health).body, region.origin.server.log_tail());
        }
        assert!(wait_until(PATIENCE, || get(&format!("{}/health/ready", self.failover.url())).status == 200));
    }
}

fn targets() -> Vec<String> {
    (1..=KEYS).map(|n| format!("/public/item/{n}")).collect()
}

/// What viewers saw while something was stopped.
struct Step {
    what: &'static str,
    seen: [Seen; 2],
}

impl Step {
    fn failures(&self) -> usize {
        self.seen.iter().flat_map(|seen| seen.failures.values()).sum()
    }

    fn line(&self) -> String {
        let answers: usize = self.seen.iter().map(|seen| seen.answers).sum();
        let longest = self.seen.iter().map(|seen| seen.longest).max().unwrap();
        let mut line = format!("{:<52} {answers:>7} {:>8} {:>8} ms ", self.what, self.failures(), longest.as_millis());
        for (region, seen) in REGIONS.iter().zip(&self.seen) {
            let share =
                |(name, answers): (&String, &usize)| format!(" {name} {} %", answers * 100 / seen.answers.max(1));
            line += &format!(" {region} by{};", seen.by.iter().map(share).collect::<String>());
        }
        line
    }
}

#[test]
fn viewers_do_not_notice_what_is_stopped() {
    let world = World::start();
    world.settle();
    // What had been cached: in each region, and, by the first region's Redis, at the failover origin.
    let all_answer = |base: &str| targets().iter().all(|target| get(&format!("{base}{target}")).status == 200);
    for base in world.regions.iter().map(|region| region.edge.url()).chain([world.failover.url()]) {
        assert!(wait_until(PATIENCE, || all_answer(&base)), "{base}");
    }
    let load = world.regions.iter().map(|region| {
        let place = SocketAddr::from((Ipv4Addr::LOCALHOST, region.edge.server.port()));
        Load::start(VIEWERS, Then::Keep, &targets(), move || place)
    });
    let load: Vec<Load> = load.collect();
    let mut steps = Vec::new();
    let mut watch = |what: &'static str| {
        let enough = || load.iter().all(|load| load.seen().answers + load.seen().failures.len() >= ANSWERS);
        assert!(wait_until(PATIENCE, enough), "{what}: {:?}", load.iter().map(Load::seen).collect::<Vec<_>>());
        std::thread::sleep(EXPIRY);
        steps.push(Step { what, seen: [load[0].take(), load[1].take()] });
    };
    let [home, far] = &world.regions[..] else { panic!("two regions") };
    let (primary, failover) = (&world.primary.server, &world.failover.server);
    let databases = [&home.replica.server, &far.replica.server, primary];

    watch("nothing is stopped");
    home.replica.server.kill9();
    watch("the first region's replica");
    home.replica.server.start().unwrap();
    primary.kill9();
    watch("the primary");
    databases.iter().for_each(|server| server.kill9());
    watch("all databases");
    home.redis.server.kill9();
    watch("all databases and the first region's Redis");
    home.origin.server.kill9();
    watch("… and the first region's origin");
    far.redis.server.kill9();
    watch("… and the second region's Redis");
    far.origin.server.kill9();
    watch("… and the second region's origin");

    databases.iter().rev().for_each(|server| server.start().unwrap());
    [home, far].iter().for_each(|region| region.redis.server.start().unwrap());
    [home, far].iter().for_each(|region| region.origin.server.start().unwrap());
    world.settle();
    watch("nothing any more");
    // Each process of nginx finds out by itself.
    let is_home = || get(&format!("{}/public/item/1", home.edge.url())).header("x-region") == REGIONS[0];
    let is_again = || (0..20).all(|_| is_home());
    assert!(wait_until(PATIENCE, is_again), "the regional origin answers again");

    home.redis.server.suspend().unwrap();
    watch("the first region's Redis hangs");
    home.redis.server.resume().unwrap();
    primary.suspend().unwrap();
    watch("the primary hangs");
    primary.resume().unwrap();
    home.origin.server.suspend().unwrap();
    watch("the first region's origin hangs");
    home.origin.server.resume().unwrap();
    home.origin.server.stop();
    watch("the first region's origin ends in order");
    home.origin.server.start().unwrap();
    world.settle();
    assert!(wait_until(PATIENCE, is_again), "the failover origin is needed no more");
    failover.kill9();
    watch("the failover origin");
    failover.start().unwrap();
    watch("nothing any more");

    println!("{:<52} {:>7} {:>8} {:>11}", "stopped", "answers", "failures", "longest");
    steps.iter().for_each(|step| println!("{}", step.line()));
    for step in &steps {
        let failures: Vec<_> = step.seen.iter().map(|seen| &seen.failures).collect();
        assert_eq!(step.failures(), 0, "{}: {failures:?}", step.what);
    }
    load.into_iter().for_each(|load| drop(load.end()));
}

#[test]
fn the_edge_asks_the_second_origin_for_reads_alone_and_for_nothing_that_the_first_one_answers() {
    let world = World::start();
    world.settle();
    let home = &world.regions[0];
    let ask = |method: &str, path: &str, body: Option<&str>| {
        let reply = request(method, &format!("{}{path}", home.edge.url()), &[], body);
        (reply.status, reply.header("x-region").to_owned())
    };
    assert_eq!(ask("GET", "/public/item/1", None), (200, REGIONS[0].to_owned()));
    // What the regional origin answers is the answer, a refusal, too.
    assert_eq!(ask("GET", "/public/item/0", None), (404, REGIONS[0].to_owned()));
    assert_eq!(ask("POST", "/public/item/1", Some("")), (405, REGIONS[0].to_owned()));
    home.origin.server.kill9();
    for method in ["GET", "HEAD", "OPTIONS"] {
        let (status, region) = ask(method, "/public/item/1", None);
        assert!(status == 200 || (method == "OPTIONS" && status == 204), "{method}: {status}");
        assert_eq!(region, "failover", "{method}");
    }
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        assert_eq!(ask(method, "/public/item/1", Some("")), (502, String::new()), "{method} is not asked twice");
    }
    let unknown = get(&format!("{}/public/item/2", home.edge.url()));
    assert_eq!((unknown.status, unknown.code().as_str()), (503, "not_cached"));
}
