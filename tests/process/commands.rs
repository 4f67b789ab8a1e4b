//! Commands that the documents name are commands, and so are their flags.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::support::{mainstay, repository};

/// Every page, but for what is about other programs.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![repository("README.md"), repository("infra/README.md")];
    for folder in ["docs", "docs/decisions"] {
        let entries = std::fs::read_dir(repository(folder)).unwrap().map(|entry| entry.unwrap().path());
        pages.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    pages
}

/// What is code in a page: lines of blocks for a shell, and what stands between backticks.
fn code(page: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(page).unwrap();
    let mut found = Vec::new();
    for (index, part) in text.split("```").enumerate() {
        if index % 2 == 0 {
            found.extend(part.split('`').skip(1).step_by(2).map(str::to_owned));
        } else if part.starts_with("sh\n") || part.starts_with("shell\n") {
            found.extend(part.replace("\\\n", " ").lines().skip(1).map(str::to_owned));
        }
    }
    found
}

/// The commands that `mainstay … --help` lists.
fn listed(help: &str) -> BTreeSet<String> {
    let commands = help.split("Commands:\n").nth(1).unwrap_or_default();
    let names = commands.lines().take_while(|line| !line.trim().is_empty());
    names.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
}

#[test]
fn every_command_that_the_documents_name_is_one() {
    let help = |words: &[&str]| mainstay(&[words, &["--help"]].concat(), &[]).stdout;
    let commands = listed(&help(&[]));
    assert!(commands.len() > 15, "{commands:?}");
    let mut helps: BTreeMap<String, String> = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut count = 0;
    for page in pages() {
        for line in code(&page) {
            let words: Vec<&str> = line.split_whitespace().map(|word| word.trim_matches(['(', ')', '"'])).collect();
            let Some(at) = words.iter().position(|word| *word == "mainstay") else { continue };
            // `mainstay` may also be a folder, a database or a namespace.
            let Some(name) = words.get(at + 1).filter(|name| commands.contains(**name)) else { continue };
            count += 1;
            let of_command = helps.entry((*name).to_owned()).or_insert_with(|| help(&[name])).clone();
            let sub = words.get(at + 2).filter(|sub| listed(&of_command).contains(**sub));
            let known = match sub {
                Some(sub) => helps.entry(format!("{name} {sub}")).or_insert_with(|| help(&[name, sub])).clone(),
                None => of_command,
            };
            let ends = |word: &&&str| matches!(**word, "|" | "&&" | ";" | "||" | ">" | "<");
            let flags = words[at + 1..].iter().take_while(|word| !ends(word)).filter(|word| word.starts_with("--"));
            for flag in flags {
                let flag = flag.split('=').next().unwrap().trim_end_matches([',', ';', '.', ']']);
                let is_known = known.split(|c: char| c.is_whitespace() || ",=[]".contains(c)).any(|word| word == flag);
                if !is_known {
                    wrong.push(format!("{}: {line}: no {flag}", page.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 60, "{count} commands were found");
}
