//! `mainstay completions`: what a shell needs to complete commands and flags.

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::generate;

use super::{Cli, Failure};

pub(super) const HELP: &str = "\
Examples:
  mainstay completions bash > /etc/bash_completion.d/mainstay
  mainstay completions zsh > /usr/local/share/zsh/site-functions/_mainstay
  mainstay completions fish > ~/.config/fish/completions/mainstay.fish
  source <(mainstay completions bash)                         for this shell alone";

#[derive(Args)]
pub(super) struct CompletionsArgs {
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    // Made whole before it is written: where nobody reads on, the generator would panic.
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "mainstay", &mut script);
    super::put(String::from_utf8_lossy(&script).trim_end());
    Ok(())
}
