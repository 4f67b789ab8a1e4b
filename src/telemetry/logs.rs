//! Log lines on standard output: JSON for machines, text for people, through the `log` facade.

use std::io::IsTerminal;
use std::str::FromStr;

use log::LevelFilter;
use logforth::append::Stdout;
use logforth::filter::rustlog::RustLogFilter;
use logforth::layout::{JsonLayout, TextLayout};
use logforth::record::Record;
use logforth::{Append, Diagnostic, Error};

use crate::config::ConfigError;
use crate::config::logs::{LogFormat, LogSettings};

/// Sends all log lines to standard output from here on.
///
/// # Errors
/// Where `log.level` is no filter, or a logger is set already.
pub fn start(settings: &LogSettings) -> Result<(), ConfigError> {
    let filter = RustLogFilter::from_str(&settings.level).map_err(|error| {
        ConfigError::new(format!("log.level: {:?} is no filter like \"info,mainstay=debug\": {error}", settings.level))
    })?;
    let as_json = match settings.format {
        LogFormat::Json => true,
        LogFormat::Pretty => false,
        LogFormat::Auto => !std::io::stdout().is_terminal(),
    };
    let builder = logforth::starter_log::builder().dispatch(|dispatch| {
        let dispatch = dispatch.filter(filter);
        if as_json {
            dispatch.append(Lossy(Stdout::default().with_layout(JsonLayout::default())))
        } else {
            dispatch.append(Lossy(Stdout::default().with_layout(TextLayout::default())))
        }
    });
    builder.try_apply().map_err(|error| ConfigError::new(format!("logs: {error}")))?;
    log::set_max_level(most_verbose(&settings.level));
    Ok(())
}

/// Lines that cannot be written, as on a full disk, are lost: the logger would say on standard error what it could not say, and
/// panic where that is full as well, in the middle of whichever request had something to say.
#[derive(Debug)]
struct Lossy(Stdout);

impl Append for Lossy {
    fn append(&self, record: &Record<'_>, diagnostics: &[Box<dyn Diagnostic>]) -> Result<(), Error> {
        let _lost = self.0.append(record, diagnostics);
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        let _lost = self.0.flush();
        Ok(())
    }
}

/// The most verbose level that a filter lets through. Lines below it then cost one comparison where they are written: libraries
/// trace on every request, and asking the filter each time took a twelfth of a cache hit.
fn most_verbose(filter: &str) -> LevelFilter {
    let directives = filter.split('/').next().unwrap_or_default().split(',');
    let level = |directive: &str| match directive.rsplit('=').next().map(str::trim) {
        Some("") | None => LevelFilter::Off,
        // A module without a level lets everything of it through.
        Some(text) => text.parse().unwrap_or(LevelFilter::Trace),
    };
    directives.map(level).max().unwrap_or(LevelFilter::Off)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_verbose_level_of_a_filter_counts() {
        let cases = [
            ("info", LevelFilter::Info),
            ("info,mainstay=debug", LevelFilter::Debug),
            ("warn, mainstay = trace", LevelFilter::Trace),
            ("off", LevelFilter::Off),
            ("mainstay", LevelFilter::Trace),
            ("", LevelFilter::Off),
        ];
        for (filter, expected) in cases {
            assert_eq!(most_verbose(filter), expected, "{filter:?}");
        }
    }
}
