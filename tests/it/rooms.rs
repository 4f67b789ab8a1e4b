//! The house as it is drawn: who may import whom, how long a file may be, and that every error code is explained.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Lines that a file in `src/` may have. A longer one holds two things.
const LINES_MAX: usize = 600;

/// Crates that are the business of HTTP. A user's middlewares see them, so the builder in `lib.rs` names them, too.
const HTTP_CRATES: [&str; 4] = ["actix_web", "actix_http", "actix_service", "actix_server"];
const HTTP_ROOMS: [&str; 5] = ["admin", "app", "http", "lib", "cli"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

/// A file of `src/`, by its path below it.
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// The folder or file directly below `src/`: `http`, `error`.
    fn room(&self) -> String {
        let first = Path::new(self.path.iter().next().unwrap());
        first.file_stem().unwrap().to_str().unwrap().to_owned()
    }

    /// How many modules lie between the crate's root and this file's content: 2 for `http/cors.rs`, 1 for `http/mod.rs`.
    fn depth(&self) -> usize {
        self.path.iter().count() - usize::from(self.path.ends_with("mod.rs"))
    }
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut folders = vec![src.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push(Source { path: path.strip_prefix(&src).unwrap().to_owned(), text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 50, "{} files", found.len());
    found
}

/// The table in the documentation of `src/lib.rs`: room → rooms that it may import.
fn rules() -> BTreeMap<String, BTreeSet<String>> {
    let text = read("src/lib.rs");
    let rows: Vec<(String, String)> = text
        .lines()
        .skip_while(|line| !line.contains("| room | may import |"))
        .skip(2)
        .map_while(|line| line.strip_prefix("//! |")?.strip_suffix('|')?.split_once('|'))
        .map(|(room, allowed)| (room.trim().trim_matches('`').to_owned(), allowed.trim().to_owned()))
        .collect();
    let all: BTreeSet<String> = rows.iter().map(|(room, _)| room.clone()).collect();
    let named = |text: &str| -> BTreeSet<String> { text.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let allowed = |text: &str| match text {
        "nothing" => BTreeSet::new(),
        "everything" => all.clone(),
        text => match text.strip_prefix("everything but ") {
            Some(exceptions) => &all - &named(exceptions),
            None => named(text),
        },
    };
    rows.iter().map(|(room, text)| (room.clone(), allowed(text))).collect()
}

/// Rust without comments and without what is in strings; line breaks stay.
fn code(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let len = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(string) = rest.strip_prefix("r#\"") {
            string.find("\"#").map_or(rest.len(), |end| end + 5)
        } else if first == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            end.map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("'\"'") || rest.starts_with("b'\"'") {
            3
        } else {
            out.push(first);
            first.len_utf8()
        };
        rest = &rest[len..];
    }
    out
}

/// The rooms that a text names, as `crate::room` or as a member of `crate::{…}`.
fn rooms_named(code: &str) -> BTreeSet<String> {
    let word = |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let mut found = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        let Some(group) = after.strip_prefix('{') else {
            found.insert(word(after));
            continue;
        };
        let mut depth = 0;
        let mut member = true;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => member = true,
                c if member && depth == 0 && c.is_alphabetic() => {
                    found.insert(word(&group[at..]));
                    member = false;
                }
                _ => {}
            }
        }
    }
    found
}

/// Members of the crate's root, which a room may not reach for either: it would see itself through the front door.
fn is_room(name: &str, rules: &BTreeMap<String, BTreeSet<String>>) -> bool {
    rules.contains_key(name)
}

#[test]
fn every_room_imports_only_what_it_may() {
    let rules = rules();
    let mut wrong = Vec::new();
    for source in sources() {
        let room = source.room();
        if room == "lib" || room == "main" {
            continue;
        }
        let path = source.path.display();
        let Some(allowed) = rules.get(&room) else {
            wrong.push(format!("src/{path}: the table of src/lib.rs has no room {room}"));
            continue;
        };
        for named in rooms_named(&code(&source.text)) {
            if !is_room(&named, &rules) {
                wrong.push(format!("src/{path} names crate::{named}, which is no room"));
            } else if named != room && !allowed.contains(&named) {
                wrong.push(format!("src/{path}: {room} may not import {named}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_has_every_room_and_no_circle() {
    let rules = rules();
    let rooms: BTreeSet<String> =
        sources().iter().map(Source::room).filter(|room| room != "lib" && room != "main").collect();
    assert_eq!(rules.keys().cloned().collect::<BTreeSet<_>>(), rooms);
    for (room, allowed) in &rules {
        for other in allowed.iter().filter(|other| *other != room) {
            assert!(rules.contains_key(other), "{room} may import {other}, which is no room");
            assert!(!rules[other].contains(room), "{room} and {other} may import each other");
        }
    }
}

#[test]
fn no_file_leaves_its_room_by_the_back_door() {
    for source in sources() {
        let text = code(&source.text);
        // Tests inside a file stand one module deeper.
        let outside_tests = text.split("#[cfg(test)]").next().unwrap_or_default();
        let chains = outside_tests.split("super::").collect::<Vec<_>>();
        let longest = chains.windows(2).scan(0, |run, pair| {
            *run = if pair[0].is_empty() { *run + 1 } else { 1 };
            Some(*run)
        });
        let longest = longest.max().unwrap_or(0);
        assert!(longest < source.depth().max(1), "src/{} climbs to the root by super::", source.path.display());
    }
}

#[test]
fn only_the_top_rooms_know_the_http_framework() {
    for source in sources() {
        let (room, text) = (source.room(), code(&source.text));
        for name in HTTP_CRATES.iter().filter(|name| text.contains(&format!("{name}::"))) {
            assert!(HTTP_ROOMS.contains(&room.as_str()), "src/{} names {name}", source.path.display());
        }
    }
}

#[test]
fn files_stay_short() {
    for source in sources() {
        let lines = source.text.lines().count();
        assert!(lines <= LINES_MAX, "src/{} has {lines} lines", source.path.display());
    }
}

#[test]
fn every_error_code_is_unique_and_explained() {
    let text = read("src/error.rs");
    let documented = read("docs/errors.md");
    let codes: Vec<(&str, &str)> = text
        .split("=> info(\"")
        .skip(1)
        .map(|rest| {
            let (name, rest) = rest.split_once('"').unwrap();
            (name, rest.trim_start_matches([',', ' ']).split(',').next().unwrap())
        })
        .collect();
    assert!(codes.len() > 20, "{codes:?}");
    let unique: BTreeSet<&str> = codes.iter().map(|(name, _)| *name).collect();
    assert_eq!(unique.len(), codes.len(), "{codes:?}");
    for (name, status) in codes {
        let row = format!("| `{name}` | {status} |");
        assert!(documented.contains(&row), "docs/errors.md has no row that begins with {row}");
    }
}

#[test]
fn the_reader_of_paths_reads_paths() {
    let text = code(
        "use crate::{a, b::{c, d}, e};\n// crate::comment\nlet x = \"crate::text\"; crate::f::g(); '\"'; use crate::h;",
    );
    let named: Vec<String> = rooms_named(&text).into_iter().collect();
    assert_eq!(named, ["a", "b", "e", "f", "h"]);
}
