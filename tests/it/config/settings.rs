//! Layers of settings, and the sentences that refuse them.

use std::collections::HashMap;

use mainstay::config::settings::{Layers, Settings};
use tempfile::TempDir;

/// A configuration folder with this `mainstay.toml`.
fn folder(toml: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("mainstay.toml"), toml).unwrap();
    dir
}

fn load(toml: &str, env: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Result<Settings, String> {
    let dir = folder(toml);
    let env: HashMap<String, String> =
        env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let flags = flags.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
    Settings::load(Layers { dir: dir.path(), env, flags }).map_err(|error| error.to_string())
}

#[test]
fn later_layers_win() {
    let toml = "region = \"from-file\"\n[cache]\nnamespace = \"file\"\n[cors]\norigins = [\"https://a.test\"]\n";
    let file = load(toml, &[], &[]).unwrap();
    assert_eq!((file.region.as_str(), file.cache.namespace.as_str()), ("from-file", "file"));
    assert_eq!(file.limits.headers_max, 64, "what nobody says is the default");
    let env = [
        ("REGION", "from-env"),
        ("MAINSTAY__CACHE__NAMESPACE", "env"),
        ("MAINSTAY__CORS__ORIGINS", "https://b.test,https://c.test"),
    ];
    let settings = load(toml, &env, &[]).unwrap();
    assert_eq!((settings.region.as_str(), settings.cache.namespace.as_str()), ("from-env", "env"));
    assert_eq!(settings.cors.origins, ["https://b.test", "https://c.test"]);
    let flags = load(toml, &env, &[("region", "from-flag")]).unwrap();
    assert_eq!(flags.region, "from-flag");
    assert_eq!(load(toml, &[("REGION", "")], &[]).unwrap().region, "from-file", "an empty value is not set");
}

#[test]
fn what_is_wrong_is_refused_with_its_key() {
    for (toml, env, says) in [
        ("nonsense = 1", ("A", ""), "nonsense"),
        ("[server]\nworker = 2", ("A", ""), "worker"),
        ("[limits]\nbody_timeout = \"soon\"", ("A", ""), "limits.body_timeout"),
        ("[limits]\nbody_timeout = 5", ("A", ""), "limits.body_timeout"),
        ("[limits]\nrequest_timeout = \"0s\"", ("A", ""), "limits.request_timeout"),
        ("[limits]\nheaders_max = 0", ("A", ""), "limits.headers_max"),
        ("[limits]\nheaders_max = -1", ("A", ""), "limits.headers_max"),
        ("[database]\npool_size = 0", ("A", ""), "database.pool_size"),
        ("[database]\npooler = \"session\"", ("A", ""), "database.pooler"),
        ("[server]\ntls_cert_file = \"x\"", ("A", ""), "server.tls_key_file"),
        ("[cache]\nnamespace = \"\"", ("A", ""), "cache.namespace"),
        ("mode = \"other\"", ("A", ""), "mode"),
        ("region = \"eu west\"", ("A", ""), "region"),
        ("[nodes]\npublic = true", ("A", ""), "nodes.public_token"),
        ("[nodes]\npublic_token = \"x, y\"", ("ADMIN_TOKEN", "z, y"), "nodes.public_token"),
        ("[nodes]\nregions = [\"replica-1\"]", ("A", ""), "nodes.regions"),
        ("[orders]\nquote_ttl = \"9s\"", ("A", ""), "orders.quote_ttl"),
        ("[orders]\nquote_ttl = \"25h\"", ("A", ""), "orders.quote_ttl"),
        ("[orders]\nsweep_interval = \"0s\"", ("A", ""), "orders.sweep_interval"),
        ("[orders]\nsweep_interval = \"61m\"", ("A", ""), "orders.sweep_interval"),
        ("", ("BIND_ADDR", "nowhere"), "server.bind_addr"),
        ("", ("MAINSTAY__LIMITS__NONSENSE", "1"), "nonsense"),
        ("", ("MAINSTAY__CONSISTENCY__STRONG_HEADER", "maybe"), "consistency.strong_header"),
        ("", ("DATABASE_READ_REPLICA_URL", "postgres://x/y"), "database.read_replica_urls"),
        ("", ("REGION_FILE", "/nowhere/region"), "REGION_FILE"),
        ("", ("PRIMARY_ORIGIN", "origin.example"), "forward.primary_origin"),
        ("", ("PRIMARY_ORIGIN", "ftp://origin.example"), "forward.primary_origin"),
        ("", ("PRIMARY_ORIGIN", "https://origin.example/?x=1"), "forward.primary_origin"),
        ("", ("PRIMARY_ORIGIN", "https://a.example,https://b.example"), "forward.primary_origin"),
        (
            "",
            ("PRIMARY_ORIGIN", "https://u:hunter2@origin.example"),
            "origin.example: a URL has no place for a password",
        ),
        ("[forward]\nconnect_timeout = \"0s\"", ("A", ""), "forward.connect_timeout"),
        ("not toml", ("A", ""), "mainstay.toml"),
    ] {
        let error = load(toml, &[env], &[]).err().unwrap_or_else(|| panic!("{toml} {env:?} is taken"));
        assert!(error.contains(says), "{toml} {env:?}: {error}");
    }
}

#[test]
fn secrets_come_from_files_and_are_never_shown() {
    let dir = folder("");
    let file = dir.path().join("url");
    std::fs::write(&file, " postgres://u:hunter2@db/x \n").unwrap();
    let env = [("DATABASE_URL_FILE", file.to_str().unwrap()), ("ADMIN_TOKEN", "hunter3"), ("ORIGIN_SECRET", "hunter4")];
    let settings = load("", &env, &[]).unwrap();
    assert_eq!(settings.database.url.current().expose(), "postgres://u:hunter2@db/x");
    assert!(!format!("{settings:?}").contains("hunter"), "{settings:?}");
    // A rotated password is picked up by the next login, and a file that is gone changes nothing.
    std::fs::write(&file, "postgres://u:hunter5@db/x").unwrap();
    assert_eq!(settings.database.url.current().expose(), "postgres://u:hunter5@db/x");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(settings.database.url.current().expose(), "postgres://u:hunter2@db/x");
    let both = [("REGION", "a"), ("REGION_FILE", "/b")];
    assert_eq!(load("", &both, &[]).err().unwrap(), "REGION and REGION_FILE are both set; keep one");
}

/// Deployments name a file for what only some have, and leave it empty.
#[test]
fn a_file_that_is_empty_names_no_broker() {
    let dir = folder("");
    let file = dir.path().join("log-amqp-url");
    std::fs::write(&file, "\n").unwrap();
    let env = [("LOG_AMQP_URL_FILE", file.to_str().unwrap()), ("OTEL_EXPORTER_OTLP_ENDPOINT", "")];
    let settings = load("", &env, &[]).unwrap();
    assert!(settings.log.amqp.url.is_empty() && settings.traces.endpoint.is_empty());
}

#[test]
fn tokens_that_could_end_too_early_are_refused() {
    let load = |toml: &str, secret: &str| load(toml, &[("TOKEN_SECRET", secret)], &[]);
    let secret = "sixteen letters!";
    let is_weak = |secret: &str| load("", secret).unwrap().consistency.has_weak_secret();
    assert!(!is_weak(secret) && !is_weak(&format!("{secret},{secret}")) && is_weak(&format!("{secret}, short")));
    for (toml, secret, key) in [
        // 5 s, two samples of 500 ms with a probe of 250 ms, and 10 s between the clocks.
        ("[consistency]\ntoken_ttl = \"16250ms\"", secret, "consistency.token_ttl"),
        ("[replication]\nlag_max = \"10m\"", secret, "consistency.token_ttl"),
        ("[consistency]\nsession_wait = \"10s\"", secret, "consistency.session_wait"),
    ] {
        let error = load(toml, secret).err().unwrap();
        assert!(error.starts_with(key), "{error}");
        assert!(load(toml, "").is_ok(), "without tokens none of it matters");
    }
    assert!(load("[consistency]\ntoken_ttl = \"16251ms\"", secret).is_ok());
}
