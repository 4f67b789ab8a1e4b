//! A CDN that knows what it keeps by tags: which ones answers name, and which ones it is told.

use std::path::Path;

use mainstay::config::auth::AccountReads;
use mainstay::config::manifest::{Known, Manifest};
use mainstay::edge::tags;

use super::*;

const MORE: &str = r#"
[[route]]
path = "/public/list"
handler = "probe"
  [route.cache]
  ttl = "1h"
  tags = ["lists"]
  watch = []

[[route]]
path = "/private"
handler = "probe"
auth = "key"
shared = true
  [route.cache]
  ttl = "1h"
  tags = ["secrets"]
  watch = []
"#;

const HEADER: &str = "cache-tag";

fn of(tags: &[String]) -> Vec<String> {
    let known = Known { handlers: &["probe"], middlewares: &[], version: "1", account_reads: AccountReads::Strong };
    let manifest = Manifest::parse(&format!("{ROUTES}{MORE}"), Path::new("routes.toml"), &known).unwrap();
    tags::of(manifest.routes.iter().map(|route| &**route), tags)
}

fn owned(tags: &[&str]) -> Vec<String> {
    tags.iter().map(|&tag| tag.to_owned()).collect()
}

#[test]
fn what_nothing_outside_carries_is_not_paid_for() {
    assert_eq!(of(&owned(&["pages:fees", "lists", "key:00000000000000000000000000000000"])).len(), 3);
    assert_eq!(of(&owned(&["secrets", "nobody-carries-this"])), Vec::<String>::new());
}

#[test]
fn more_tags_than_a_call_takes_are_paths_where_these_are_fewer() {
    let pages = |count: usize| (0..count).map(|page| format!("pages:caf\u{e9}{page}")).collect::<Vec<_>>();
    assert_eq!(of(&pages(15)).iter().filter(|tag| tag.starts_with('#')).count(), 15);
    assert_eq!(of(&pages(16)), ["/public/pages/*"]);
    let plain: Vec<String> = (0..16).map(|page| format!("pages:{page}")).collect();
    assert_eq!(of(&plain).iter().filter(|tag| tag.starts_with('#')).count(), 16, "as many paths are no better");
    assert_eq!(of(&owned(&["*", "lists"])), ["/*"]);
}

/// From the first answer to the call: what the edge is told stands in the header of what it must forget, and in no other.
#[test]
fn a_purge_is_told_by_the_tags_that_answers_name() {
    let (cloudfront, probe) = (Service::new(|_, stream| created(stream)), Probe::default());
    let instance = with_keys(plan(&cloudfront, &probe)).set("edge.tag_header", "Cache-Tag").start();
    let named = |path: &str| -> Vec<String> {
        let (miss, hit) = (instance.get(path), instance.get(path));
        assert!(hit.is_hit() && hit.header(HEADER) == miss.header(HEADER), "{hit:?}");
        hit.header(HEADER).unwrap().split(',').map(|tag| format!("#{tag}")).collect()
    };
    let (fees, terms) = (named("/public/pages/fees"), named("/public/pages/terms"));
    let etag = instance.get("/public/pages/fees").header("etag").unwrap().to_owned();
    let not_modified = instance.get_with("/public/pages/fees", &[("If-None-Match", &etag)]);
    assert_eq!((not_modified.status, not_modified.header(HEADER).is_some()), (304, true));
    let strong = instance.get_with("/public/pages/fees", &[("X-Consistency", "strong")]);
    assert_eq!((strong.said("cache-control"), strong.header(HEADER)), ("no-store", None), "{strong:?}");

    purge(&instance, &["pages:fees"]);
    wait_metric(&instance, SENT, 1.0);
    let (told, _) = super::named(&cloudfront.last());
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(fees.contains(&told[0]) && !terms.contains(&told[0]), "{told:?}: {fees:?}, {terms:?}");
    purge(&instance, &["route:/public/pages/{slug}"]);
    wait_metric(&instance, SENT, 2.0);
    let (told, _) = super::named(&cloudfront.last());
    assert!(fees.contains(&told[0]) && terms.contains(&told[0]), "{told:?}: {fees:?}, {terms:?}");
}

#[test]
fn an_answer_names_no_more_tags_than_are_taken_and_none_unless_that_is_wanted() {
    let many = Probe::answering(|_, _| {
        let tags = (0..80).map(|number| format!("row:{number}")).collect();
        Ok(mainstay::Answer { tags, ..mainstay::Answer::json(&json!({}))? })
    });
    let instance = Plan::probed(ROUTES, &many).set("edge.tag_header", HEADER).start();
    let reply = instance.get("/public/pages/fees");
    let names: Vec<&str> = reply.header(HEADER).unwrap().split(',').collect();
    assert_eq!(names.len(), 50);
    assert!(
        names.iter().all(|name| name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit())),
        "{names:?}"
    );
    let silent = Plan::probed(ROUTES, &many).start();
    assert_eq!(silent.get("/public/pages/fees").header(HEADER), None);
    for name in ["etag", "cache-control", "cache tag", "x-cachetag\r\nset-cookie"] {
        let error = Plan::probed(ROUTES, &many).set("edge.tag_header", name).try_start().err().unwrap_or_default();
        assert!(error.starts_with("edge.tag_header: "), "{name}: {error}");
    }
}
