//! What `mainstay dev` prints when everything runs: where it is, what to ask it, and how to break it.

use std::time::Instant;

use super::world::{Region, World};
use super::{ADMIN_TOKEN, DATABASE, SANDBOX_SECRET};
use crate::local::Server;

/// Everything there is to say.
pub(super) fn all(world: &World, began: Instant) {
    say!("\nMainstay is ready after {:.1} s.\n", began.elapsed().as_secs_f64());
    let [first, others @ ..] = world.regions.as_slice() else { return };
    let is_alone = others.is_empty();
    for region in &world.regions {
        places(world, region, is_alone);
    }
    say!("  failover {}", world.failover.url());
    say!("  primary  {}", world.primary.url("postgres", DATABASE));
    let base = world.edges.first().map_or_else(|| first.origin.url(), |edge| edge.url());
    things_to_try(world, first, &base);
    things_to_break(world, first, &base);
    let data = world.primary.dir();
    say!(
        "\nCtrl-C stops everything. Logs and data stay in {}; --fresh starts over.\n",
        data.parent().unwrap_or(data).display()
    );
}

fn places(world: &World, region: &Region, is_alone: bool) {
    if !is_alone {
        say!("  {}", region.name);
    }
    let index = world.regions.iter().position(|other| other.name == region.name);
    if let Some(edge) = index.and_then(|index| world.edges.get(index)) {
        say!("  edge     {}", edge.url());
    }
    let base = region.origin.url();
    say!("  API      {base}");
    say!("  health   {base}/health/edge");
    say!("  console  {}/ (the token is {})", region.origin.admin_url(), token(world.has_own_token).0);
    say!("  metrics  {}/metrics", region.origin.admin_url());
    say!("  replica  {}", region.replica.url("postgres", DATABASE));
    if let Some(redis) = &region.redis {
        say!("  Redis    {}", redis.url());
    }
    if !is_alone {
        crate::cli::put("");
    }
}

fn things_to_try(world: &World, first: &Region, base: &str) {
    say!("\nThings to try (the second time each is a hit; look at Cache-Status):\n");
    for request in [
        format!("curl -i '{base}/public/rates?symbols=USD,GBP'"),
        format!("curl -i '{base}/public/rates?base=USD&date=2024-12-25'"),
        format!("curl -i '{base}/api/v1/rates/history?symbols=USD&from=2026-10-01&to=2026-10-30'"),
        format!("curl -i '{base}/api/v1/fees/quote?product=onramp&amount=100000&currency=USD'"),
        format!("curl -i -H 'X-Consistency: strong' '{base}/public/rates'"),
    ] {
        say!("  {request}");
    }
    say!("\nA change in the database, and the next answer has it:\n");
    say!(
        "  psql '{}' -c \"UPDATE exchange_rates SET rate = rate * 2 WHERE currency = 'USD' AND date = (SELECT max(date) FROM exchange_rates)\"",
        world.primary.url("postgres", DATABASE)
    );
    say!(
        "\nWhat the sandbox tells of an order that was paid (README.md makes one; a secret of your own goes in the place of this one):\n"
    );
    say!("  {}", told_by_the_sandbox(base));
    say!("\nA purge by hand, and what the server knows:\n");
    let admin = first.origin.admin_url();
    let (_, before) = token(world.has_own_token);
    say!("  {before}mainstay purge --admin {admin} --path '/public/rates/*'");
    say!("  {before}mainstay status --admin {admin}");
}

/// What to sign in with, and what stands before a command that needs it. One that is set is found by the commands as well, and is
/// a secret: it is not printed.
fn token(is_own: bool) -> (&'static str, String) {
    if is_own {
        ("the first of ADMIN_TOKEN", String::new())
    } else {
        (ADMIN_TOKEN, format!("ADMIN_TOKEN={ADMIN_TOKEN} "))
    }
}

/// A line that signs an event as the sandbox provider does, and delivers it.
fn told_by_the_sandbox(base: &str) -> String {
    let body = r#"{"id":"evt_'$T'","type":"payment.succeeded","data":{"order_id":"'$ORDER'"}}"#;
    let mac =
        format!(r#"printf '%s.%s' $T "$BODY" | openssl dgst -sha256 -hmac '{SANDBOX_SECRET}' -r | cut -d' ' -f1"#);
    format!(
        r#"ORDER=its-id; T=$(date +%s); BODY='{body}'; curl -i '{base}/api/v1/webhooks/sandbox' -H "X-Signature: t=$T,v1=$({mac})" -d "$BODY""#
    )
}

fn things_to_break(world: &World, first: &Region, base: &str) {
    say!("\nThings to break, one after another; ask again after each, and look who answers:\n");
    let line = |what: &str, signal: &str, server: &Server| {
        if let Some(pid) = server.pid() {
            say!("  kill -{signal} {:<9} # {what}", pid);
        }
    };
    line("the replica", "QUIT", &first.replica.server);
    line("the primary", "QUIT", &world.primary.server);
    if let Some(redis) = &first.redis {
        line("Redis", "KILL", &redis.server);
    }
    line("the regional origin", "KILL", &first.origin.server);
    if world.edges.is_empty() {
        say!(
            "  curl -i '{}/public/rates?symbols=USD,GBP'   # the failover origin has it from Redis",
            world.failover.url()
        );
    } else {
        say!("  curl -i '{base}/public/rates?symbols=USD,GBP'   # X-Region says who answered");
    }
    say!("  kill -HUP {:<9} # all that ended starts again, and reads its manifest", std::process::id());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_that_is_named_is_the_one_in_force() {
        assert_eq!(token(false), ("dev", "ADMIN_TOKEN=dev ".to_owned()));
        assert_eq!(token(true), ("the first of ADMIN_TOKEN", String::new()));
    }
}
