//! Log lines on standard output: JSON for machines, text for people, through the `log` facade.

use std::io::IsTerminal;
use std::str::FromStr;

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
    builder.try_apply().map_err(|error| ConfigError::new(format!("logs: {error}")))
}
