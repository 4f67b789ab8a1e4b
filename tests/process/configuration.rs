//! Bad configuration never starts: the exit code, and a message that names the key.

use std::path::Path;

use mainstay::config::settings::{Layers, Settings};

use crate::support::{Cluster, Folder, ONE, Origin, ROTATING, mainstay};

/// Runs `serve` with this configuration, which must be refused.
fn refusal(toml: &str, env: &[(&str, &str)], args: &[&str]) -> String {
    let folder = Folder::new(ONE);
    folder.write("mainstay.toml", toml);
    // The usual ports may be in use, which would be said first.
    let env = [&[("BIND_ADDR", "127.0.0.1:0"), ("ADMIN_ADDR", "127.0.0.1:0")], env].concat();
    let outcome = mainstay(&[&["serve", "--config", folder.text()], args].concat(), &env);
    assert_eq!(outcome.code, Some(64), "{toml:?} {env:?}: {outcome:?}");
    assert_eq!(outcome.stdout, "", "nothing else is said");
    outcome.stderr
}

#[test]
fn a_configuration_that_cannot_be_run_with_is_64_and_names_its_key() {
    let url = "postgres://u@127.0.0.1:1/d";
    /// `mainstay.toml`, the environment, and what the message must name.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        ("[server]\nspeed = 9\n", &[], &["speed"]),
        ("[speed]\nx = 9\n", &[], &["speed"]),
        ("[server\n", &[], &["mainstay.toml"]),
        ("", &[("MAINSTAY__SERVER__SPEED", "9")], &["speed"]),
        ("", &[("MAINSTAY__LIMITS__REQUEST_TIMEOUT", "soon")], &["limits.request_timeout", "soon"]),
        ("[limits]\nrequest_timeout = 5\n", &[], &["limits.request_timeout"]),
        ("[database]\npool_size = 0\n", &[], &["database.pool_size"]),
        ("[database]\nstatement_timeout = \"0s\"\n", &[], &["database.statement_timeout"]),
        ("[database]\npooler = \"some\"\n", &[], &["database.pooler"]),
        ("", &[("BIND_ADDR", "nowhere")], &["server.bind_addr"]),
        ("", &[("DATABASE_URL", url), ("DATABASE_URL_FILE", "/x")], &["DATABASE_URL", "DATABASE_URL_FILE"]),
        ("", &[("DATABASE_URL_FILE", "/not/there")], &["DATABASE_URL_FILE", "/not/there"]),
        ("", &[("ADMIN_TOKEN_FILE", "/not/there")], &["ADMIN_TOKEN_FILE"]),
        ("", &[("DATABASE_READ_REPLICA_URL", url)], &["database.read_replica_urls", "DATABASE_URL"]),
        ("", &[("DATABASE_URL", "mysql://u@h/d")], &["database.url"]),
        ("[server]\ntls_cert_file = \"/c.pem\"\n", &[], &["server.tls_cert_file", "server.tls_key_file"]),
        ("[server]\ntls_cert_file = \"/c.pem\"\ntls_key_file = \"/k.pem\"\n", &[], &["server.tls_cert_file", "/c.pem"]),
        ("", &[("PRIMARY_ORIGIN", "origin.example:443")], &["forward.primary_origin", "http or https"]),
        (
            "[forward]\ntls_ca_file = \"/r.pem\"\n",
            &[("PRIMARY_ORIGIN", "https://origin.example")],
            &["forward.tls_ca_file", "/r.pem"],
        ),
        ("[failover]\nmax_age = \"300s\"\n", &[("MODE", "failover")], &["failover.max_age", "300s"]),
        ("[failover]\nmax_age = \"300900ms\"\n", &[("MODE", "failover")], &["failover.max_age"]),
        ("", &[("MODE", "failover"), ("FAILOVER_SOURCE", "writes")], &["failover.source"]),
        ("", &[("MODE", "sideways")], &["mode"]),
        ("", &[("REGION", "two words")], &["region"]),
        ("[server]\nhandover_socket = \"/not/there/socket\"\n", &[], &["server.handover_socket", "/not/there/socket"]),
        ("[log]\nlevel = \"mainstay=louder\"\n", &[], &["log.level", "louder"]),
        ("[cors]\norigins = 5\n", &[], &["cors.origins"]),
    ];
    for (toml, env, expected) in cases {
        let message = refusal(toml, env, &[]);
        for text in *expected {
            assert!(message.contains(text), "{toml:?} {env:?} should name {text}: {message}");
        }
    }
    assert!(
        refusal("", &[("MAINSTAY__FAILOVER__MAX_AGE", "5m")], &["--mode", "failover"]).contains("failover.max_age")
    );
}

#[test]
fn exit_codes_tell_apart_what_is_wrong() {
    let folder = Folder::new(ONE);
    let code = |args: &[&str], env: &[(&str, &str)]| mainstay(args, env).code;
    assert_eq!(code(&["--help"], &[]), Some(0));
    assert_eq!(code(&["routes", "--config", folder.text()], &[]), Some(0));
    assert_eq!(code(&["serve", "--sideways"], &[]), Some(2));
    assert_eq!(code(&["sing"], &[]), Some(2));
    assert_eq!(code(&[], &[]), Some(2));
    assert_eq!(code(&["check", "--config", folder.text()], &[]), Some(64), "no DATABASE_URL");
    let nobody = [("DATABASE_URL", "postgres://u:hunter2@127.0.0.1:1/d")];
    let outcome = mainstay(&["check", "--config", folder.text()], &nobody);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("127.0.0.1:1/d") && !outcome.stderr.contains("hunter2"), "{outcome:?}");
    for command in ["serve", "dev", "migrate", "check", "routes", "init", "import"] {
        let help = mainstay(&[command, "--help"], &[]);
        assert_eq!(help.code, Some(0), "{command}");
        assert!(help.stdout.contains("Usage: mainstay"), "{command}: {}", help.stdout);
    }
    assert!(mainstay(&["--help"], &[]).stdout.contains("64  the configuration cannot be run with"));
}

/// A slip of the pen would run on the defaults: on an instance of this machine, say, in place of the one that was meant.
#[test]
fn a_folder_that_was_named_is_there_and_the_usual_one_may_be_missing() {
    let folder = Folder::new(ONE);
    let missing = folder.join("missing");
    let named = missing.to_str().unwrap();
    for command in [
        &["serve"][..],
        &["migrate"],
        &["check"],
        &["routes"],
        &["purge", "--all"],
        &["status"],
        &["health"],
        &["warm", "--hot", "1"],
        &["shadow"],
        &["audit"],
        &["log"],
        &["simulate", "/dev/null"],
        &["keys", "list"],
        &["accounts", "list"],
    ] {
        let outcome = mainstay(&[command, &["--config", named]].concat(), &[]);
        assert_eq!(outcome.code, Some(64), "{command:?}: {outcome:?}");
        let sentence = format!("mainstay: --config {named}: there is no such folder\n");
        assert_eq!(outcome.stderr, sentence, "{command:?}");
    }
    let file = folder.join("routes.toml");
    let outcome = mainstay(&["routes", "--config", file.to_str().unwrap()], &[]);
    assert!(outcome.code == Some(64) && outcome.stderr.contains("it is no folder"), "{outcome:?}");
    let outcome = mainstay(&["init", "--config", named], &[("DATABASE_URL", "postgres://u@127.0.0.1:1/d")]);
    assert_eq!(outcome.code, Some(1), "it makes the folder, and only the database is missing: {outcome:?}");
    let outcome = mainstay(&["status"], &[("ADMIN_ADDR", "127.0.0.1:1")]);
    assert!(outcome.code == Some(1) && outcome.stderr.contains("refused"), "the environment says it all: {outcome:?}");
}

#[test]
fn a_manifest_is_refused_with_every_line_that_is_wrong() {
    let folder = Folder::new(
        "[[route]]\npath = \"/a\"\nsql = \"SELECT 1\"\nmiddlewares = [\"nope\"]\n\n\
         [[route]]\npath = \"b\"\nsql = \"SELECT 1\"\n\n\
         [[route]]\npath = \"/c\"\nhandler = \"ghost\"\n",
    );
    for command in ["serve", "routes", "check"] {
        let outcome = mainstay(&[command, "--config", folder.text()], &[]);
        assert_eq!(outcome.code, Some(64), "{command}: {outcome:?}");
        let file = folder.join("routes.toml");
        for (line, reason) in [(1, "no middleware is called \"nope\""), (6, "must start with /"), (10, "\"ghost\"")] {
            let at = format!("{}:{line}: ", file.display());
            let found = outcome.stderr.lines().find(|text| text.contains(&at));
            let found = found.unwrap_or_else(|| panic!("{command}: no {at} in {}", outcome.stderr));
            assert!(found.contains(reason), "{found}");
        }
    }
    let folder = Folder::new("[[route]]\npath = \"/a\"\nsql = \"SELECT 1\"\ncolour = \"red\"\n");
    let outcome = mainstay(&["routes", "--config", folder.text()], &[]);
    assert_eq!(outcome.code, Some(64));
    assert!(outcome.stderr.contains("routes.toml:4: ") && outcome.stderr.contains("colour"), "{}", outcome.stderr);

    let nothing = Folder::empty();
    let outcome = mainstay(&["serve", "--config", nothing.text()], &[]);
    assert_eq!(outcome.code, Some(64));
    assert!(outcome.stderr.contains("mainstay init"), "{}", outcome.stderr);
}

/// Who has mended the one must not start again to hear of the other.
#[test]
fn wrong_settings_and_a_wrong_manifest_are_told_at_once() {
    let folder =
        Folder::new("[[route]]\npath = \"/a\"\nsql = \"SELECT 1\"\n\n[[route]]\npath = \"b\"\nsql = \"SELECT 1\"\n");
    folder.write("mainstay.toml", "[database]\npool_size = 0\n");
    let at = format!("{}:5: ", folder.join("routes.toml").display());
    for command in ["serve", "check", "routes", "migrate"] {
        let outcome = mainstay(&[command, "--config", folder.text()], &[]);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(64), ""), "{command}: {outcome:?}");
        let lines: Vec<&str> = outcome.stderr.lines().collect();
        let [setting, route] = lines[..] else { panic!("{command}: {outcome:?}") };
        assert!(setting.starts_with("mainstay: database.pool_size") && route.starts_with(&at), "{outcome:?}");
    }
    // What only the settings can tell is told once they are right.
    folder.write("routes.toml", "[[route]]\npath = \"/a\"\nsql = \"SELECT 1\"\nauth = \"jwt\"\n");
    let outcome = mainstay(&["check", "--config", folder.text()], &[]);
    assert_eq!((outcome.code, outcome.stderr.lines().count()), (Some(64), 1), "{outcome:?}");
}

/// Nobody could ever be let in: that is said before anybody asks.
#[test]
fn routes_whose_credentials_nobody_could_check_are_refused_with_the_setting() {
    let folder = Folder::new(
        "[[route]]\npath = \"/a\"\nsql = \"SELECT 1\"\nauth = \"jwt\"\nscopes = [\"read\", \"a\"]\n\n\
         [[route]]\npath = \"/b\"\nsql = \"SELECT 1\"\nauth = \"key\"\nshared = true\n[route.cache]\nttl = \"1m\"\n\n\
         [[route]]\npath = \"/c\"\nsql = \"SELECT 1\"\n",
    );
    for command in ["serve", "check"] {
        let outcome = mainstay(&[command, "--config", folder.text()], &[]);
        assert_eq!(outcome.code, Some(64), "{outcome:?}");
        for says in [":1: route /a: auth = \"jwt\" needs", "auth.jwks_url"] {
            assert!(outcome.stderr.contains(says), "{command}: {says}: {}", outcome.stderr);
        }
        // Keys are in the database, which may come later.
        assert!(!outcome.stderr.contains("/b") && !outcome.stderr.contains("/c"), "{}", outcome.stderr);
    }
    // Whatever else is wrong is said in the same go, of the same route as well.
    let wrong = Folder::new(
        "[[route]]\npath = \"b\"\nsql = \"SELECT 1\"\n\n\
         [[route]]\npath = \"/c\"\nhandler = \"ghost\"\nauth = \"jwt\"\n\n\
         [[route]]\npath = \"/d\"\nsql = \"SELECT 1\"\nauth = \"jwt\"\n\n\
         [[route]]\npath = \"e\"\nsql = \"SELECT 1\"\n",
    );
    for command in ["serve", "check"] {
        let outcome = mainstay(&[command, "--config", wrong.text()], &[]);
        assert_eq!(outcome.code, Some(64), "{outcome:?}");
        let lines: Vec<&str> = outcome.stderr.lines().collect();
        assert_eq!(lines.len(), 5, "{lines:#?}");
        let (c, d) = (":5: route /c: auth = \"jwt\"", ":10: route /d: auth = \"jwt\"");
        for (line, says) in lines.iter().zip([":1: ", "ghost", c, d, ":15: "]) {
            assert!(line.contains(says), "{says}: {lines:#?}");
        }
    }
    let routes = mainstay(&["routes", "--config", folder.text()], &[]);
    let rows: Vec<&str> = routes.stdout.lines().collect();
    assert!(rows[0].contains("  jwt (read, a)  ") && rows[0].contains("no-store, private"), "{routes:?}");
    assert!(rows[1].contains("  key shared  ") && rows[1].contains("private, max-age=60"), "{routes:?}");
    assert!(rows[2].contains("  none  "), "{routes:?}");
}

#[test]
fn later_layers_win() {
    let folder = Folder::new(ONE);
    let region = |args: &[&str], env: &[(&str, &str)]| {
        let origin = Origin::start_with(folder.path(), args, env);
        origin.get("/health/live").header("x-region").to_owned()
    };
    assert_eq!(region(&[], &[]), "local", "the compiled-in default");
    folder.write("mainstay.toml", "region = \"from-file\"\n");
    assert_eq!(region(&[], &[]), "from-file");
    assert_eq!(region(&[], &[("MAINSTAY__REGION", "from-env")]), "from-env");
    assert_eq!(region(&[], &[("MAINSTAY__REGION", "from-env"), ("REGION", "from-name")]), "from-name");
    let secret = Folder::empty();
    secret.write("region", "from-secret\n");
    let file = secret.join("region");
    assert_eq!(region(&[], &[("REGION_FILE", file.to_str().unwrap())]), "from-secret", "trimmed");
    assert_eq!(region(&["--region", "from-flag"], &[("REGION", "from-name")]), "from-flag");
}

/// `mainstay dev` says where its own databases are, and must not end up on the user's.
#[test]
fn a_flag_wins_over_a_file_too() {
    let secret = Folder::empty();
    secret.write("url", "postgres://u@production/d");
    let file = secret.join("url").to_str().unwrap().to_owned();
    let env = ["DATABASE_URL_FILE", "DATABASE_READ_REPLICA_URL_FILE"].map(|name| (name.to_owned(), file.clone()));
    let flags = ["database.url", "database.read_replica_urls"].map(|key| (key, "postgres://u@throwaway/d".to_owned()));
    let layers = Layers { dir: Path::new("/"), env: env.into_iter().collect(), flags: flags.to_vec() };
    let settings = Settings::load(layers).unwrap().database;
    assert_eq!(settings.url.current().expose(), "postgres://u@throwaway/d");
    assert_eq!(settings.read_replica_urls.list()[0].current().expose(), "postgres://u@throwaway/d");
}

/// What looks like a number stays what was written, wherever a text is wanted; lists are comma lists.
#[test]
fn values_of_the_environment_are_taken_as_they_are() {
    let env = [
        ("MAINSTAY__SERVER__ORIGIN_SECRET", "00123"),
        ("MAINSTAY__SERVER__ADMIN_TOKEN", "1e5"),
        ("MAINSTAY__REGION", "007"),
        ("MAINSTAY__CACHE__NAMESPACE", "TRUE"),
        ("MAINSTAY__CACHE__MEMORY_BYTES_MAX", "1000000"),
        ("MAINSTAY__CACHE__EARLY_REFRESH_BETA", "0.5"),
        ("MAINSTAY__SERVER__LIST_ROUTES_ON_404", "false"),
        ("MAINSTAY__CORS__ORIGINS", "https://a.example, https://b.example"),
        ("MAINSTAY__HEALTH__REQUIRED", "primary"),
    ];
    let env = env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let settings = Settings::load(Layers { dir: Path::new("/"), env, flags: Vec::new() }).unwrap();
    assert_eq!(settings.server.origin_secret.expose(), "00123");
    assert_eq!(settings.server.admin_token.expose(), "1e5");
    assert_eq!((settings.region.as_str(), settings.cache.namespace.as_str()), ("007", "TRUE"));
    assert_eq!((settings.cache.memory_bytes_max, settings.cache.early_refresh_beta), (1_000_000, 0.5));
    assert!(!settings.server.list_routes_on_404);
    assert_eq!(settings.cors.origins, ["https://a.example", "https://b.example"]);
    assert_eq!(settings.health.required.len(), 1);
}

/// A password that changes under a running server: the file is read again by the login that follows.
#[test]
fn a_rotated_password_is_picked_up_from_its_file() {
    let cluster = Cluster::shared();
    let database = cluster.database("");
    let set = |password: &str| {
        let sql = format!("ALTER ROLE {ROTATING} PASSWORD '{password}'");
        cluster.primary.psql("postgres", &sql).unwrap();
    };
    cluster.primary.psql("postgres", &format!("CREATE ROLE {ROTATING} LOGIN")).unwrap();
    set("old-word");
    let folder = Folder::new(ONE);
    let url = |password: &str| {
        let url = cluster.primary.url(ROTATING, &database);
        url.replace(ROTATING, &format!("{ROTATING}:{password}"))
    };
    folder.write("url", &url("old-word"));
    let file = folder.join("url");
    let env = [("DATABASE_URL_FILE", file.to_str().unwrap()), ("MAINSTAY__REPLICATION__SAMPLE_INTERVAL", "50ms")];
    let origin = Origin::start(folder.path(), &env);
    origin.get_until("/one", |reply| reply.status == 200);

    set("new-word");
    let end = format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{ROTATING}'");
    cluster.primary.psql("postgres", &end).unwrap();
    let refused = origin.get_until("/one", |reply| reply.status != 200);
    assert_eq!((refused.status, refused.code().as_str()), (503, "database_unavailable"));
    folder.write("url", &url("new-word"));
    let answer = origin.get_until("/one", |reply| reply.status == 200);
    assert_eq!(answer.body, "{\"one\":1}");
    for password in ["old-word", "new-word"] {
        assert!(!origin.program.output().contains(password), "{}", origin.program.output());
    }
}
