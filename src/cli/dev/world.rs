//! What `mainstay dev` boots, and what it stops when it is dropped: origins before the databases that they read.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{ADMIN_TOKEN, DATABASE, DevArgs, ROLE, SANDBOX_SECRET, TOKEN_SECRET, prepare, step};
use crate::cli::{Failure, migrate};
use crate::config::settings::Settings;
use crate::local::{
    Nginx, NginxOptions, Origin, OriginOptions, Postgres, PostgresOptions, Proxy, Redis, RedisOptions, ReplicaOptions,
    Server, wait_until,
};

/// How long a replica may take to have what was just loaded.
const CATCH_UP: Duration = Duration::from_secs(60);
/// How far the primary is from all regions but the first, one way: half of what it is across an ocean.
const DISTANCE: Duration = Duration::from_millis(40);
/// How long the edge waits for an origin. CloudFront waits 30 seconds unless it is told otherwise; who has a second origin should tell it.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything.
pub(super) struct World {
    pub edges: Vec<Nginx>,
    /// Whether the folder or the environment has ADMIN_TOKEN; else it is the one of this program.
    pub has_own_token: bool,
    pub failover: Origin,
    pub regions: Vec<Region>,
    pub primary: Postgres,
}

/// A region: an origin with a replica and a Redis of its own.
pub(super) struct Region {
    pub name: String,
    pub origin: Origin,
    pub redis: Option<Redis>,
    pub replica: Postgres,
    /// The ways to the primary and to the origin there, where they are far.
    _far: [Option<Proxy>; 2],
}

/// A region's databases, before its origin runs.
struct Stores {
    redis: Option<Redis>,
    replica: Postgres,
    far: Option<Proxy>,
}

impl World {
    /// Boots it in a directory. Blocks.
    pub fn start(dir: &Path, args: &DevArgs, wanted: &migrate::Wanted) -> Result<Self, Failure> {
        // What is wrong is said before anything is made.
        let settings = args.folder.settings(Vec::new())?;
        check(&args.regions)?;
        if args.edge {
            Nginx::program().map_err(Failure::new)?;
        }
        step("starting a Postgres primary");
        let primary = Postgres::primary(PostgresOptions::new(dir.join("primary"))).map_err(Failure::new)?;
        prepare(&primary, &args.folder, wanted)?;
        let names = if args.regions.is_empty() { vec![settings.region.clone()] } else { args.regions.clone() };
        let program = std::env::current_exe().map_err(Failure::new)?;
        let config = std::path::absolute(args.folder.dir()).map_err(Failure::new)?;
        let site = Site { dir, args, settings: &settings, program, config };
        let mut regions: Vec<Region> = Vec::new();
        for (index, name) in names.into_iter().enumerate() {
            regions.push(site.region(&primary, name, index, regions.first())?);
        }
        let failover = site.failover(&regions)?;
        let edges = if args.edge { regions.iter().enumerate() } else { [].iter().enumerate() };
        let edges = edges.map(|(index, region)| site.edge(region, &failover, index)).collect::<Result<_, _>>()?;
        let has_own_token = !settings.server.admin_token.list().is_empty();
        Ok(Self { edges, has_own_token, failover, regions, primary })
    }

    /// The servers that are processes of `mainstay`, with what they are called.
    pub fn origins(&self) -> impl Iterator<Item = (&str, &Origin)> {
        let regions = self.regions.iter().map(|region| (region.name.as_str(), &region.origin));
        regions.chain([("failover", &self.failover)])
    }

    /// All servers.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        let regions = self.regions.iter().flat_map(|region| {
            let redis = region.redis.as_ref().map(|redis| &redis.server);
            [Some(&region.replica.server), redis, Some(&region.origin.server)].into_iter().flatten()
        });
        let edges = self.edges.iter().map(|edge| &edge.server);
        [&self.primary.server].into_iter().chain(regions).chain([&self.failover.server]).chain(edges)
    }
}

/// How and where everything is booted.
struct Site<'a> {
    dir: &'a Path,
    args: &'a DevArgs,
    settings: &'a Settings,
    program: PathBuf,
    /// The configuration folder, as others see it who run elsewhere.
    config: PathBuf,
}

impl Site<'_> {
    /// The directory of a server of a region; with one region it has no name of its own.
    fn place(&self, region: &str, server: &str) -> PathBuf {
        if self.args.regions.is_empty() { self.dir.join(server) } else { self.dir.join(region).join(server) }
    }

    /// A region that is far from the first one, where that is another.
    fn region(
        &self,
        primary: &Postgres,
        name: String,
        index: usize,
        first: Option<&Region>,
    ) -> Result<Region, Failure> {
        let said = if self.args.regions.is_empty() { String::new() } else { format!(" in {name}") };
        step(&format!("starting a streaming replica{said}"));
        let Stores { redis, replica, far } = self.stores(primary, &name, first.is_some())?;
        if redis.is_none() {
            step("redis-server is not installed: there is no shared cache");
        }
        step(&format!("starting a regional origin{said}"));
        let mut primary_url = primary.url(ROLE, DATABASE);
        if let Some(far) = &far {
            primary_url = format!("postgres://{ROLE}@{}/{DATABASE}", far.address());
        }
        let far_origin = first.map(|first| distant(first.origin.public)).transpose()?;
        let primary_origin = far_origin.as_ref().map(|far| format!("http://{}", far.address())).unwrap_or_default();
        let options = self
            .origin(&self.place(&name, "origin"), near(self.args.bind, index), near(self.args.admin, index))
            .env("REGION", &name)
            .env("DATABASE_URL", &primary_url)
            .env("DATABASE_READ_REPLICA_URL", &replica.url(ROLE, DATABASE))
            .env("PRIMARY_ORIGIN", &primary_origin)
            .env("REDIS_URL", &redis.as_ref().map(Redis::url).unwrap_or_default());
        let origin = Origin::start(&options).map_err(Failure::new)?;
        Ok(Region { name, origin, redis, replica, _far: [far, far_origin] })
    }

    fn stores(&self, primary: &Postgres, region: &str, is_far: bool) -> Result<Stores, Failure> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, primary.server.port()));
        let far = is_far.then(|| distant(address)).transpose()?;
        let options = ReplicaOptions {
            upstream: far.as_ref().map(Proxy::address),
            application_name: Some(region.to_owned()),
            ..ReplicaOptions::new(self.place(region, "replica"))
        };
        let replica = primary.replica(options).map_err(Failure::new)?;
        let caught_up = wait_until(CATCH_UP, || {
            let position = primary.psql("postgres", "SELECT pg_current_wal_flush_lsn()").unwrap_or_default();
            let reached = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", position.trim());
            replica.psql("postgres", &reached).is_ok_and(|answer| answer.trim() == "t")
        });
        if !caught_up {
            return Err(Failure::new("the replica does not catch up; `mainstay dev --fresh` starts over"));
        }
        let redis = Redis::start(&RedisOptions::new(self.place(region, "redis"))).map_err(Failure::new)?;
        Ok(Stores { redis, replica, far })
    }

    /// It has the first region's Redis to read, and the snapshots of all others: whatever region is lost, it has something.
    fn failover(&self, regions: &[Region]) -> Result<Origin, Failure> {
        step("starting a failover origin");
        let redis = regions.first().and_then(|region| region.redis.as_ref()).map(Redis::url).unwrap_or_default();
        let peers: Vec<String> = regions.iter().skip(1).map(|region| region.origin.admin_url()).collect();
        let at = regions.len();
        let options = self
            .origin(&self.dir.join("failover"), near(self.args.bind, at), near(self.args.admin, at))
            .env("MODE", "failover")
            .env("REGION", "failover")
            .env("REDIS_URL", &redis)
            .env("MAINSTAY__FAILOVER__PEERS", &peers.join(","))
            .env("FAILOVER_PEER_TOKEN", &self.admin_token());
        Origin::start(&options).map_err(Failure::new)
    }

    fn edge(&self, region: &Region, failover: &Origin, index: usize) -> Result<Nginx, Failure> {
        let secrets = self.settings.server.origin_secret.list();
        let options = NginxOptions {
            dir: self.place(&region.name, "edge"),
            port: near(self.args.edge_bind, index).port(),
            primary: region.origin.public.to_string(),
            secondary: failover.public.to_string(),
            cache: self.args.edge_cache,
            response_timeout: RESPONSE_TIMEOUT,
            origin_secret: secrets.first().map_or_else(String::new, |secret| secret.expose().to_owned()),
        };
        Nginx::start(&options).map_err(Failure::new)
    }

    /// An origin with the environment of this process, as far as that does not name databases.
    fn origin(&self, dir: &Path, bind: SocketAddr, admin: SocketAddr) -> OriginOptions {
        const OURS: [&str; 9] = [
            "DATABASE_URL",
            "DATABASE_READ_REPLICA_URL",
            "DATABASE_DIRECT_URL",
            "PRIMARY_ORIGIN",
            "REDIS_URL",
            "REGION",
            "MODE",
            "ADMIN_TOKEN",
            "FAILOVER_PEER_TOKEN",
        ];
        let is_ours = |name: &str| OURS.contains(&name.strip_suffix("_FILE").unwrap_or(name));
        let options = OriginOptions {
            bind,
            admin,
            env: std::env::vars().filter(|(name, _)| !is_ours(name)).collect(),
            ..OriginOptions::new(&self.program, &self.config, dir)
        };
        // One that is set stands in the environment, or in the folder, of all origins already.
        let options = match self.settings.consistency.token_secret.is_empty() {
            true => options.env("TOKEN_SECRET", TOKEN_SECRET),
            false => options,
        };
        let options = match self.settings.webhooks.sandbox_secret.is_empty() {
            true => options.env("SANDBOX_WEBHOOK_SECRET", SANDBOX_SECRET),
            false => options,
        };
        // No balancer has to notice when it ends.
        options.env("ADMIN_TOKEN", &self.admin_token()).env("MAINSTAY__SERVER__DRAIN_DELAY", "0s")
    }

    fn admin_token(&self) -> String {
        let tokens = self.settings.server.admin_token.list();
        tokens.first().map_or_else(|| ADMIN_TOKEN.to_owned(), |token| token.expose().to_owned())
    }
}

/// The way to an address that is an ocean away.
fn distant(address: SocketAddr) -> Result<Proxy, Failure> {
    let way = Proxy::start(address).map_err(Failure::new)?;
    way.set_delay(DISTANCE);
    Ok(way)
}

/// Names of regions are names of directories, too.
fn check(regions: &[String]) -> Result<(), Failure> {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    if let Some(wrong) = regions.iter().find(|name| !is_name(name)) {
        return Err(Failure::Arguments(format!("--regions: {wrong:?} is no name of a region like \"eu-west-1\"")));
    }
    let names: HashSet<&String> = regions.iter().collect();
    if names.len() < regions.len() {
        return Err(Failure::Arguments("--regions: each region once".to_owned()));
    }
    Ok(())
}

/// The address so many ports on, or a free port on it where that is taken. Port 0 is a free one in any case.
fn near(wanted: SocketAddr, ports_on: usize) -> SocketAddr {
    let port = u16::try_from(ports_on).ok().and_then(|on| wanted.port().checked_add(on)).unwrap_or(0);
    let near = SocketAddr::new(wanted.ip(), if wanted.port() == 0 { 0 } else { port });
    match TcpListener::bind(near) {
        Ok(_) => near,
        Err(_) => SocketAddr::new(wanted.ip(), 0),
    }
}
