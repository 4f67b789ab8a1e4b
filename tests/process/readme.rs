//! Every command of README.md, run in order, and what it prints compared with what README.md says it prints.
//!
//! Blocks marked `sh` are run, a block marked `text` after one is its expected output, numbers aside. Three things are not taken
//! literally, and stand in the tables below: what `make` and `cargo` build is built already, ports are free ones, and the database of
//! somebody else's shop is one of `pgbench`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use mainstay::local::{Scratch, Signal, wait_until};

use crate::support::{Cluster, MAINSTAY, PATIENCE, Program, command, get, repository};

/// `make` targets that README.md mentions and that no test can run from within: they are what runs the tests, or take many
/// minutes. They must exist.
const NOT_RUN: [&str; 2] = ["make test", "make bench"];
/// `make dev` installs, builds, and then runs this.
const MAKE_DEV: (&str, &str) = ("make dev", "mainstay dev");
/// What `cargo test` has built beside the binary.
const EXAMPLE: (&str, &str) = ("cargo run --example own_handlers --", "own_handlers");
const FREE_PORTS: &str = "--bind 127.0.0.1:0 --admin 127.0.0.1:0";
/// They run until the next one starts.
const NEVER_END: [&str; 3] = ["make dev", "mainstay serve", "cargo run --example"];
const PUBLIC: &str = "127.0.0.1:8080";
const ADMIN: &str = "127.0.0.1:9090";
const EDGE: &str = "127.0.0.1:8088";

struct Block {
    line: usize,
    kind: String,
    text: String,
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut inside = false;
    for (index, line) in markdown.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(_) if inside => inside = false,
            Some(kind) => {
                inside = true;
                found.push(Block { line: index + 1, kind: kind.to_owned(), text: String::new() });
            }
            None if inside => {
                let text = &mut found.last_mut().unwrap().text;
                text.push_str(line);
                text.push('\n');
            }
            None => {}
        }
    }
    found
}

/// A server that a block left running.
struct Running {
    program: Program,
    public: String,
    admin: String,
    /// Of the first region, where there is one.
    edge: Option<String>,
}

impl Running {
    fn start(words: &str, cwd: &Path, env: &HashMap<String, String>) -> Self {
        let mut shell = command("sh");
        let edge_port = if words.contains("--edge") { "--edge-bind 127.0.0.1:0" } else { "" };
        shell.args(["-c", &format!("exec {words} {FREE_PORTS} {edge_port}")]).envs(env).current_dir(cwd);
        let mut program = Program::start(shell);
        let between = |text: &str, before: &str, after: &str| {
            let rest = text.split_once(before)?.1;
            Some(rest.split_once(after)?.0.trim().to_owned())
        };
        let (public, admin) = program.expect("addresses", |output| {
            between(output, "API      http://", "\n")
                .zip(between(output, "metrics  http://", "/metrics"))
                .filter(|_| output.contains("starts over"))
                .or_else(|| between(output, " serves on ", ",").zip(between(output, "metrics on http://", "/metrics")))
        });
        let edge = between(&program.output(), "edge     http://", "\n");
        let healthy = || get(&format!("http://{public}/health/edge")).body.contains("\"status\":\"healthy\"");
        assert!(wait_until(PATIENCE, healthy), "{words}: {}", program.output());
        Self { program, public, admin, edge }
    }

    fn stop(mut self) {
        self.program.signal_group(Signal::INT);
        assert_eq!(self.program.wait().code(), Some(0), "{}", self.program.output());
    }
}

/// Numbers differ from run to run; words must not.
fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    for c in text.trim_end().chars().filter(|c| *c != '\r') {
        match c {
            c if !c.is_ascii_digit() => out.push(c),
            _ if out.ends_with('#') => {}
            _ => out.push('#'),
        }
    }
    out
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn every_command_of_the_readme_does_what_it_says() {
    let cluster = Cluster::shared();
    let (database, reader, _) = cluster.pgbench_database();
    let exports = [
        ("DATABASE_URL", cluster.primary.url(&reader, &database)),
        ("DATABASE_DIRECT_URL", cluster.primary.url("postgres", &database)),
    ];
    let makefile = fs::read_to_string(repository("Makefile")).unwrap();
    let scratch = Scratch::new("readme").unwrap();
    for folder in ["config", "examples/own_handlers"] {
        copy(&repository(folder), &scratch.join(folder));
    }

    let path = std::env::var("PATH").unwrap_or_default();
    let bin = Path::new(MAINSTAY).parent().unwrap().display();
    let mut env = HashMap::from([("PATH".to_owned(), format!("{bin}:{bin}/examples:{path}"))]);
    let mut running: Option<Running> = None;
    let blocks = blocks(&fs::read_to_string(repository("README.md")).unwrap());
    assert!(blocks.iter().filter(|block| block.kind == "sh").count() >= 8);
    for (index, Block { line, text, .. }) in blocks.iter().enumerate().filter(|(_, block)| block.kind == "sh") {
        let mut script = String::new();
        for words in text.lines() {
            if let Some((name, _)) = words.strip_prefix("export ").and_then(|rest| rest.split_once('=')) {
                let (_, value) = exports.iter().find(|(known, _)| *known == name).expect("a value for every export");
                env.insert(name.to_owned(), value.clone());
            } else if NOT_RUN.contains(&words) {
                let target = words.strip_prefix("make ").unwrap();
                assert!(makefile.contains(&format!("\n{target}: ")), "README.md:{line}: no {target} in the Makefile");
            } else if NEVER_END.iter().any(|start| words.starts_with(start)) {
                run(&std::mem::take(&mut script), *line, scratch.path(), &env);
                if let Some(before) = running.take() {
                    before.stop();
                }
                let words = words.replace(MAKE_DEV.0, MAKE_DEV.1).replace(EXAMPLE.0, EXAMPLE.1);
                let words = words.replace("ARGS=", "").replace('"', "");
                running = Some(Running::start(&words, scratch.path(), &env));
            } else {
                script.push_str(words);
                script.push('\n');
            }
        }
        if let Some(running) = &running {
            script = script.replace(PUBLIC, &running.public).replace(ADMIN, &running.admin);
            if let Some(edge) = &running.edge {
                script = script.replace(EDGE, edge);
            }
        }
        let said = run(&script, *line, scratch.path(), &env);
        if let Some(expected) = blocks.get(index + 1).filter(|next| next.kind == "text") {
            assert_eq!(without_numbers(&said), without_numbers(&expected.text), "README.md:{line}");
        }
    }
    running.unwrap().stop();
}

/// Runs a script that ends, and returns what it prints.
fn run(script: &str, line: usize, cwd: &Path, env: &HashMap<String, String>) -> String {
    if script.is_empty() {
        return String::new();
    }
    let output = command("sh").args(["-e", "-c", script]).envs(env).current_dir(cwd).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "README.md:{line}: {script}\n{stdout}{stderr}");
    stdout
}
