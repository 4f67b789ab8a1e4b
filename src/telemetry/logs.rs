//! Log lines on standard output: JSON for machines, text for people, through the `log` facade.

use std::io::IsTerminal;
use std::str::FromStr;

use log::LevelFilter;
use logforth::append::Stdout;
use logforth::filter::rustlog::RustLogFilter;
use logforth::layout::{JsonLayout, TextLayout};

use crate::config::ConfigError;
use crate::config::settings::{LogFormat, LogSettings};

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
            dispatch.append(Stdout::default().with_layout(JsonLayout::default()))
        } else {
            dispatch.append(Stdout::default().with_layout(TextLayout::default()))
        }
    });
    builder.try_apply().map_err(|error| ConfigError::new(format!("logs: {error}")))?;
    log::set_max_level(most_verbose(&settings.level));
    Ok(())
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
