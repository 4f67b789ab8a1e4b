//! `mainstay completions`: shells take them.

use crate::support::{MAINSTAY, command, mainstay};

/// Has bash complete a line that begins with these words, as it does at the tab key.
const COMPLETE: &str = r#"
source <("$0" completions bash)
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
_mainstay mainstay "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

fn complete(words: &[&str]) -> Vec<String> {
    let output = command("bash").args(["-c", COMPLETE, MAINSTAY]).args(words).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_flags_and_values() {
    let commands = complete(&["mainstay", ""]);
    for name in ["serve", "simulate", "status", "keys", "completions"] {
        assert!(commands.iter().any(|found| found == name), "{name}: {commands:?}");
    }
    assert_eq!(complete(&["mainstay", "simulate", "--inst"]), ["--instances"]);
    assert_eq!(complete(&["mainstay", "status", "--wa"]), ["--watch"]);
    assert_eq!(complete(&["mainstay", "keys", "re"]), ["revoke"]);
    assert_eq!(complete(&["mainstay", "completions", "z"]), ["zsh"]);
}

#[test]
fn there_are_scripts_for_three_shells() {
    for (shell, text) in
        [("bash", "complete -F _mainstay"), ("zsh", "#compdef mainstay"), ("fish", "complete -c mainstay")]
    {
        let script = mainstay(&["completions", shell], &[]);
        assert_eq!(script.code, Some(0));
        assert!(script.stdout.contains(text), "{}", script.stdout);
    }
    assert_eq!(mainstay(&["completions", "tcsh"], &[]).code, Some(2));
}
