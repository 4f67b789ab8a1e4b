//! Which paths a tag leads to.

use std::path::Path;

use mainstay::config::auth::AccountReads;
use mainstay::config::manifest::{Known, Manifest};
use mainstay::edge::paths;

const ROUTES: &str = r#"
[[route]]
path = "/public/rates"
handler = "probe"
params = [{ name = "base", in = "query", type = "text", default = "EUR" }]
  [route.cache]
  ttl = "1h"
  tags = ["rates", "rates:{base}"]
  watch = [{ table = "rates", tag = "rates:{base}" }, "currencies"]

[[route]]
path = "/public/rates/{base}/history/{day}"
handler = "probe"
params = [{ name = "base", in = "path", type = "text" }, { name = "day", in = "path", type = "date" }]
  [route.cache]
  ttl = "1h"
  tags = ["rates:{base}", "days:{base}:{day}"]
  watch = [{ table = "rates", tag = "rates:{base}" }]

[[route]]
path = "/public/pages/{slug}"
handler = "probe"
params = [{ name = "slug", in = "path", type = "text" }]
  [route.cache]
  ttl = "1h"
  tags = ["pages", "pages:{slug}"]
  watch = [{ table = "pages", tag = "pages:{slug}" }]

[[route]]
path = "/public/list"
handler = "probe"
  [route.cache]
  ttl = "1h"
  tags = ["pages"]
  watch = ["pages"]

[[route]]
path = "/public/never-outside"
handler = "probe"
  [route.cache]
  ttl = "1h"
  browser_ttl = "0s"
  tags = ["pages"]
  watch = []

[[route]]
path = "/shared"
handler = "probe"
auth = "key"
shared = true
  [route.cache]
  ttl = "1h"
  tags = ["pages"]
  watch = []

[[route]]
path = "/plain"
handler = "probe"
"#;

fn of(tags: &[&str]) -> Vec<String> {
    let known = Known { handlers: &["probe"], middlewares: &[], version: "1", account_reads: AccountReads::Strong };
    let manifest = Manifest::parse(ROUTES, Path::new("routes.toml"), &known).unwrap();
    let tags: Vec<String> = tags.iter().map(|&tag| tag.to_owned()).collect();
    paths::of(manifest.routes.iter().map(|route| &**route), &tags)
}

#[test]
fn a_tag_leads_to_the_routes_that_carry_it_with_what_it_says_filled_in() {
    for (tags, paths) in [
        (&["pages:terms"][..], &["/public/pages/terms"][..]),
        (&["pages"], &["/public/list", "/public/pages/*"]),
        (&["pages:terms", "pages:fees", "pages:terms"], &["/public/pages/fees", "/public/pages/terms"]),
        // A query is not in the tag's gift, and CloudFront has `*` at the end alone.
        (&["rates"], &["/public/rates*"]),
        (&["days:USD:2026-10-30"], &["/public/rates/*"]),
        // What another path covers is not paid for.
        (&["rates:USD"], &["/public/rates*"]),
        (&["pages", "pages:terms"], &["/public/list", "/public/pages/*"]),
        // A viewer may have written it in several ways.
        (&["pages:caf\u{e9}"], &["/public/pages/*"]),
        (&["pages:a/b"], &["/public/pages/*"]),
        (&["*", "pages"], &["/*"]),
    ] {
        assert_eq!(of(tags), paths, "{tags:?}");
    }
}

#[test]
fn tags_that_the_server_makes_lead_to_paths_as_well() {
    for (tags, paths) in [
        (&["route:/public/pages/{slug}"][..], &["/public/pages/*"][..]),
        (&["path:/public/pages/terms"], &["/public/pages/terms"]),
        (&["path:/public/nothing"], &[]),
        (&["pages:all"], &["/public/list", "/public/pages/*"]),
        // Every page carries the tag of its row, so that a change of one leaves the others alone.
        (&["pages:any"], &["/public/list", "/public/pages/any"]),
        (&["rates:any"], &["/public/rates*"]),
        (&["currencies:any"], &["/public/rates*"]),
        (&["key:00000000000000000000000000000000", "unknown"], &[]),
    ] {
        assert_eq!(of(tags), paths, "{tags:?}");
    }
}
