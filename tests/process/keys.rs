//! `mainstay keys` as operators use it, from a database that has no table of them to a key that is revoked.

use serde_json::{Value, json};

use crate::support::{Cluster, Folder, Origin, Outcome, mainstay, request};

const KEYED: &str = "[[route]]\npath = \"/mine\"\nsql = \"SELECT 1 AS one\"\nresult = \"row\"\nauth = \"key\"\n";

/// A database, and the URL of its owner.
struct Site {
    name: String,
    url: String,
}

impl Site {
    fn new() -> Self {
        let cluster = Cluster::shared();
        let name = cluster.database("");
        Self { url: cluster.primary.url("postgres", &name), name }
    }

    /// One whose table of keys is there.
    fn migrated() -> Self {
        let site = Self::new();
        let folder = Folder::new(KEYED);
        let migrated = mainstay(&["migrate", "--config", folder.text()], &[("DATABASE_URL", &site.url)]);
        assert_eq!(migrated.code, Some(0), "{migrated:?}");
        site
    }

    /// Needs nothing but the URL.
    fn keys(&self, args: &[&str]) -> Outcome {
        mainstay(&[&["keys"], args].concat(), &[("DATABASE_URL", &self.url)])
    }

    fn create(&self, args: &[&str]) -> Value {
        json(&self.keys(&[&["create", "--json"], args].concat()))
    }

    fn list(&self, args: &[&str]) -> Vec<Value> {
        json(&self.keys(&[&["list", "--json"], args].concat())).as_array().unwrap().clone()
    }

    fn sql(&self, sql: &str) -> String {
        Cluster::shared().primary.psql(&self.name, sql).unwrap().trim_end().to_owned()
    }
}

fn json(outcome: &Outcome) -> Value {
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
}

#[test]
fn a_key_is_made_listed_and_revoked() {
    let site = Site::migrated();
    assert_eq!(site.list(&["--all"]), Vec::<Value>::new());
    let made = site.create(&[
        "--name",
        "reports",
        "--owner",
        "acme",
        "--scope",
        "reports:read",
        "--scope",
        "reports:write",
        "--claim",
        "tenant=42",
        "--claim",
        "note=a=b",
        "--rate",
        "600/m",
        "--expires",
        "90d",
    ]);
    let (key, prefix) = (made["api_key"].as_str().unwrap(), made["prefix"].as_str().unwrap());
    assert!(key.starts_with(&format!("mk_{prefix}_")) && key.len() == 59, "{key}");
    let said = json!({ "name": made["name"], "owner": made["owner"], "scopes": made["scopes"], "claims": made["claims"], "rate": made["rate"] });
    let expected = json!({ "name": "reports", "owner": "acme", "scopes": ["reports:read", "reports:write"], "claims": { "tenant": "42", "note": "a=b" }, "rate": "600/m" });
    assert_eq!(said, expected);
    let days = format!(
        "SELECT round(extract(epoch FROM '{}'::timestamptz - now()) / 86400)",
        made["expires_at"].as_str().unwrap()
    );
    assert_eq!(site.sql(&days), "90");

    let plain = site.keys(&["create", "--name", "plain"]);
    assert_eq!(plain.code, Some(0), "{plain:?}");
    let words: Vec<&str> =
        plain.stdout.lines().filter_map(|line| line.split_once(' ')).map(|(_, rest)| rest.trim()).collect();
    let plain_prefix = words[1];
    assert!(words[0].starts_with(&format!("mk_{plain_prefix}_")), "{plain:?}");
    assert_eq!((words[3], words[6]), (plain_prefix, "never"), "without an owner it is its own: {plain:?}");
    assert!(plain.stdout.contains("not shown again"), "{plain:?}");

    let listed = site.list(&[]);
    assert_eq!(listed.iter().map(|key| key["name"].as_str().unwrap()).collect::<Vec<_>>(), ["reports", "plain"]);
    assert_eq!((&listed[0]["state"], &listed[0]["last_used_at"]), (&json!("active"), &json!(null)));
    let table = site.keys(&["list"]).stdout;
    assert!(table.starts_with("PREFIX") && table.contains("reports:read reports:write"), "{table}");
    let secret = key.rsplit('_').next().unwrap();
    let hash = site.sql(&format!("SELECT encode(hash, 'hex') FROM mainstay.api_keys WHERE prefix = '{prefix}'"));
    assert_eq!(hash, site.sql(&format!("SELECT encode(sha256('{key}'), 'hex')")), "it is kept as its SHA-256");
    for text in [&table, &json!(listed).to_string()] {
        assert!(!text.contains(secret) && !text.contains(&hash), "{text}");
    }

    let revoked = site.keys(&["revoke", key, plain_prefix]);
    assert_eq!(revoked.code, Some(0), "{revoked:?}");
    assert_eq!(revoked.stdout.matches("revoked  ").count(), 2, "{revoked:?}");
    assert!(!revoked.stdout.contains(secret), "{revoked:?}");
    assert_eq!(site.keys(&["revoke", prefix]).stdout, format!("revoked  {prefix}, before\n"));
    assert_eq!(site.list(&[]), Vec::<Value>::new());
    let all = site.list(&["--all"]);
    assert!(
        all.len() == 2 && all.iter().all(|key| key["state"] == "revoked" && key["revoked_at"] != json!(null)),
        "{all:?}"
    );
    let unknown = site.keys(&["revoke", "000000000000", prefix]);
    assert_eq!(
        (unknown.code, unknown.stderr.as_str()),
        (Some(1), "mainstay: no such key: 000000000000\n"),
        "{unknown:?}"
    );
}

/// By whom and which, beside an answer that is as it was, and never with the key.
#[test]
fn who_makes_and_revokes_keys_is_written_down() {
    let site = Site::migrated();
    let lines = |outcome: &Outcome| -> Vec<Value> {
        outcome
            .stderr
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{outcome:?}")))
            .collect()
    };
    let made = site.keys(&["create", "--json", "--name", "reports", "--owner", "acme"]);
    let key = json(&made)["api_key"].as_str().unwrap().to_owned();
    let (prefix, secret) = (json(&made)["prefix"].as_str().unwrap().to_owned(), key.rsplit('_').next().unwrap());
    let revoked = site.keys(&["revoke", &key]);
    let whats = [format!("key {prefix} of acme, reports"), format!("key {prefix}")];
    for ((outcome, action), what) in [(&made, "keys_create"), (&revoked, "keys_revoke")].into_iter().zip(whats) {
        let lines = lines(outcome);
        let [line] = &lines[..] else { panic!("{outcome:?}") };
        assert_eq!((&line["target"], &line["service"]), (&json!("mainstay::audit"), &json!("mainstay")));
        let fields = &line["fields"];
        let said = (&fields["action"], &fields["what"], &fields["role"], &fields["result"]);
        assert_eq!(said, (&json!(action), &json!(what), &json!("postgres"), &json!("done")), "{line}");
        assert_eq!(fields["uid"], json!(rustix::process::getuid().as_raw()), "{line}");
        assert!(!outcome.stderr.contains(secret), "{outcome:?}");
    }
    // What changes nothing is no line, and no filter silences one.
    let again = site.keys(&["revoke", &prefix]);
    assert_eq!((again.code, again.stderr.as_str()), (Some(0), ""));
    let env = [("DATABASE_URL", site.url.as_str()), ("MAINSTAY__LOG__LEVEL", "off")];
    let quiet = mainstay(&["keys", "create", "--name", "quiet"], &env);
    assert_eq!((quiet.code, lines(&quiet).len()), (Some(0), 1), "{quiet:?}");
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let site = Site::migrated();
    let long = "x".repeat(201);
    for (args, code, words) in [
        (&["create"][..], 2, "--name"),
        (&["create", "--name", ""], 2, "name: "),
        (&["create", "--name", &long], 2, "name: "),
        (&["create", "--name", "a\u{1b}[2J"], 2, "name: "),
        (&["create", "--name", "a", "--owner", " "], 2, "owner: "),
        (&["create", "--name", "a", "--scope", "two words"], 2, "scope \"two words\""),
        (&["create", "--name", "a", "--claim", "tenant"], 2, "NAME=VALUE"),
        (&["create", "--name", "a", "--claim", "=42"], 2, "claim \"\""),
        (&["create", "--name", "a", "--claim", "sub=root"], 2, "claim sub: follows from"),
        (&["create", "--name", "a", "--claim", "a=1", "--claim", "a=2"], 2, "claim a: given more than once"),
        (&["create", "--name", "a", "--rate", "fast"], 2, "not a rate like"),
        (&["create", "--name", "a", "--expires", "soon"], 2, "--expires"),
        (&["create", "--name", "a", "--expires", "0s"], 2, "expires: at least one second"),
        (&["create", "--name", "a", "--expires", "1000y"], 2, "expires: at most 100 years"),
        (&["revoke"], 2, "PREFIX|KEY"),
        (&["revoke", "short"], 2, "12 letters and digits"),
    ] {
        let refused = site.keys(args);
        assert_eq!(refused.code, Some(code), "{args:?}: {refused:?}");
        assert!(refused.stderr.contains(words), "{args:?}: {refused:?}");
    }
    assert_eq!(site.list(&["--all"]), Vec::<Value>::new());
}

#[test]
fn a_database_without_keys_says_what_to_run() {
    let site = Site::new();
    for args in [&["create", "--name", "a"][..], &["list"], &["revoke", "000000000000"]] {
        let refused = site.keys(args);
        let sentence = "mainstay: this database has no table of API keys yet: run `mainstay migrate` with a manifest in which a \
                        route has auth = \"key\"\n";
        assert_eq!((refused.code, refused.stderr.as_str()), (Some(1), sentence));
    }
    let nowhere = mainstay(&["keys", "list"], &[]);
    assert_eq!(nowhere.code, Some(64), "{nowhere:?}");
    assert!(nowhere.stderr.contains("DATABASE_URL"), "{nowhere:?}");
}

#[test]
fn a_server_before_a_database_without_keys_says_in_its_log_what_to_run() {
    let site = Site::new();
    let mut origin = Origin::start(Folder::new(KEYED).path(), &[("DATABASE_URL", &site.url)]);
    origin.get_until("/health/edge", |reply| reply.status == 200);
    let key = format!("Bearer mk_{}_{}", "0".repeat(12), "0".repeat(43));
    let refused = request("GET", &format!("{}/mine", origin.base), &[("authorization", &key)], None);
    assert_eq!((refused.status, refused.code().as_str()), (503, "auth_unavailable"), "{refused:?}");
    origin.program.expect_text("API keys cannot be looked up");
    assert!(origin.program.output().contains("run `mainstay migrate`"), "{}", origin.program.output());
}

#[test]
fn a_database_that_is_not_reached_is_what_is_said() {
    let refused = mainstay(&["keys", "list"], &[("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing")]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.starts_with("mainstay: no connection to the database: "), "{refused:?}");
    assert!(!refused.stderr.contains("timed out waiting"), "{refused:?}");
}

/// `check` and `migrate` know what a route with keys takes, and a role that serves cannot make itself a key.
#[test]
fn a_route_with_keys_is_checked_and_migrated() {
    let site = Site::new();
    let (cluster, folder, role) = (Cluster::shared(), Folder::new(KEYED), format!("{}_server", site.name));
    site.sql(&format!("CREATE ROLE {role} LOGIN"));
    let serving = cluster.primary.url(&role, &site.name);
    let check = || mainstay(&["check", "--config", folder.text()], &[("DATABASE_URL", &serving)]);
    let missing = check();
    assert_eq!(missing.code, Some(1), "{missing:?}");
    assert!(missing.stdout.contains("error: API keys: the database has no table of them; run `mainstay migrate`"));

    let env = [("DATABASE_DIRECT_URL", site.url.as_str()), ("DATABASE_URL", &serving)];
    let migrate = |args: &[&str]| mainstay(&[&["migrate", "--config", folder.text()], args].concat(), &env);
    let preview = migrate(&["--dry-run"]);
    assert_eq!(preview.code, Some(0), "{preview:?}");
    assert!(preview.stdout.contains("CREATE TABLE mainstay.api_keys"), "{preview:?}");
    assert_eq!(site.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'mainstay'"), "0");
    assert_eq!(migrate(&[]).code, Some(0));
    assert_eq!(migrate(&[]).stdout, "the schema is up to date\n");
    assert_eq!(check().code, Some(0), "{:?}", check());
    let triggers = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'mainstay.api_keys'::regclass AND NOT tgisinternal";
    assert_eq!(site.sql(triggers), "4", "its changes are told");

    let denied = mainstay(&["keys", "create", "--name", "a"], &[("DATABASE_URL", &serving)]);
    assert_eq!(denied.code, Some(1), "{denied:?}");
    assert!(denied.stderr.starts_with(&format!("mainstay: role {role} may not make API keys; connect as the owner")));
    let made = mainstay(&["keys", "create", "--name", "a"], &env);
    assert_eq!(made.code, Some(0), "{made:?}");
    let told = "SELECT count(*) FROM mainstay.change_feed WHERE 'mainstay.api_keys:any' = ANY (tags)";
    assert_eq!(site.sql(told), "1");

    site.sql(&format!("REVOKE EXECUTE ON FUNCTION mainstay.find_api_keys(text[]) FROM {role}"));
    let lacking = check();
    assert_eq!(lacking.code, Some(1), "{lacking:?}");
    let (_, grants) = lacking.stdout.split_once("may not follow it; ").unwrap();
    site.sql(grants.lines().next().unwrap());
    assert_eq!(check().code, Some(0), "the GRANT that was printed is the one that was missing");
}
