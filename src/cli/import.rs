//! `mainstay import rates FILE`: loads a file of reference rates, with a progress bar where a person looks on.

use std::io::Read;

use diesel::connection::LoadConnection;
use diesel::pg::Pg;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::ramp::import::{self, ImportError, Report};

/// Imports a file of rates and shows how far it is, on standard error and only where that is a terminal.
///
/// # Errors
/// Those of [`import::rates`]; their text is complete, and the command ends with a failure.
pub fn rates<C>(conn: &mut C, file: impl Read) -> Result<Report, ImportError>
where
    C: LoadConnection<Backend = Pg>,
{
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} rates") {
        bar.set_style(style);
    }
    let result = import::rates(conn, file, |loaded, total| {
        bar.set_length(u64::try_from(total).unwrap_or(u64::MAX));
        bar.set_position(u64::try_from(loaded).unwrap_or(u64::MAX));
    });
    bar.finish_and_clear();
    result
}

/// What an import did, in one sentence.
pub fn sentence(report: &Report) -> String {
    let Report { fixings, currencies, rates, changed } = report;
    format!("{rates} rates of {currencies} currencies on {fixings} days: {changed} changed")
}
