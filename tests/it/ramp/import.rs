//! `mainstay import rates` against a real database.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use mainstay::local::Scratch;
use mainstay::ramp::import::{self, ImportError, Report};

use super::{connect, migrated_database, sql};

const COUNT: &str = "SELECT count(*) FROM exchange_rates";
/// Digests every stored digit.
const DIGEST: &str =
    "SELECT md5(string_agg(date || currency || rate, ',' ORDER BY date, currency)) FROM exchange_rates";

fn import_text(database: &str, text: &str) -> Result<Report, ImportError> {
    import::rates(&mut connect(database), text.as_bytes(), |_, _| {})
}

#[test]
fn the_whole_history_is_loaded_once() {
    let name = migrated_database();
    let mut conn = connect(&name);
    let mut steps = Vec::new();
    let report = import::rates(&mut conn, import::bundled(), |loaded, total| steps.push((loaded, total))).unwrap();
    let expected = Report { fixings: 7126, currencies: 41, rates: 221_702, changed: 221_702 };
    assert_eq!(report, expected);
    assert!(steps.len() > 10 && steps.is_sorted(), "progress is told on the way");
    assert_eq!(steps.last(), Some(&(221_702, 221_702)));
    assert_eq!(
        sql(&name, "SELECT count(*), count(DISTINCT currency), min(date), max(date) FROM exchange_rates"),
        "221702|41|1999-01-04|2026-10-30"
    );
    let first_line = "SELECT string_agg(rate::text, ',' ORDER BY currency) FROM exchange_rates WHERE date = '2026-10-30' \
                      AND currency IN ('USD', 'JPY', 'ISK', 'IDR', 'DKK')";
    assert_eq!(sql(&name, first_line), "7.4735,20275.17,136,175.68,1.1172");

    let digest = sql(&name, DIGEST);
    let again = import::rates(&mut conn, import::bundled(), |_, _| {}).unwrap();
    assert_eq!(again, Report { changed: 0, ..expected });
    assert_eq!(sql(&name, DIGEST), digest);
    assert_eq!(sql(&name, "SELECT count(*) FROM exchange_rates WHERE xmax::text <> '0'"), "0", "no row was rewritten");
}

#[test]
fn corrections_and_new_days_are_loaded_and_the_rest_is_kept() {
    let name = migrated_database();
    import_text(&name, "Date,USD,JPY,\n2026-10-30,1.1172,175.68,\n2026-10-29,1.113,175.92,\n").unwrap();
    let report = import_text(&name, "Date,USD,JPY,\n2026-10-31,1.2,N/A,\n2026-10-30,1.1172,175.7,\n").unwrap();
    assert_eq!(report, Report { fixings: 2, currencies: 2, rates: 3, changed: 2 });
    assert_eq!(
        sql(&name, "SELECT date, currency, rate FROM exchange_rates ORDER BY 1, 2"),
        "2026-10-29|JPY|175.92\n2026-10-29|USD|1.113\n2026-10-30|JPY|175.7\n2026-10-30|USD|1.1172\n2026-10-31|USD|1.2"
    );
    let report = import_text(&name, "Date,USD\n2026-10-31,1.20\n").unwrap();
    assert_eq!(report.changed, 1, "a digit more is a change, since digits are shown as published");
}

#[test]
fn a_bad_row_is_named_and_nothing_is_loaded() {
    let name = migrated_database();
    let text = "Date,USD,JPY,\n2026-10-30,1.1172,175.68,\n2026-10-29,1.1l3,175.92,\n2026-13-01,1,1,\n2026-10-27,1,\n";
    let error = import_text(&name, text).unwrap_err();
    assert_eq!(
        error.to_string(),
        "nothing was imported:\
         \n  line 3, column USD: \"1.1l3\" is not a plain decimal number\
         \n  line 4, column Date: \"2026-13-01\" is not a date like 2026-10-30\
         \n  line 5: has 3 columns, the first line has 4"
    );
    assert_eq!(sql(&name, COUNT), "0");
    assert!(import_text(&name, "Date,USD,EUR\n2026-10-30,1,1\n").unwrap_err().to_string().contains("column EUR"));
    assert_eq!(sql(&name, COUNT), "0");
}

/// What only the database can refuse ends the transaction: here the last of many batches.
#[test]
fn a_failure_on_the_way_leaves_the_database_as_it_was() {
    let name = migrated_database();
    sql(&name, "ALTER TABLE exchange_rates ADD CHECK (date > '1999-01-04')");
    let outcome = import::rates(&mut connect(&name), import::bundled(), |_, _| {});
    assert!(matches!(outcome, Err(ImportError::Database(_))), "{outcome:?}");
    assert_eq!(sql(&name, COUNT), "0");
}

#[test]
fn files_are_read_plain_or_packed_whatever_their_name() {
    let name = migrated_database();
    let scratch = Scratch::new("import").unwrap();
    let text = "Date,USD\n2026-10-30,1.1172\n";
    let mut packer = GzEncoder::new(Vec::new(), Compression::best());
    packer.write_all(text.as_bytes()).unwrap();
    let packed = packer.finish().unwrap();
    let load = |file: &str, bytes: &[u8]| {
        let path = scratch.join(file);
        std::fs::write(&path, bytes).unwrap();
        import::rates(&mut connect(&name), import::open(&path)?, |_, _| {})
    };
    assert_eq!(load("plain.csv", text.as_bytes()).unwrap().changed, 1);
    assert_eq!(load("packed.csv.gz", &packed).unwrap().rates, 1);
    assert_eq!(load("packed.csv", &packed).unwrap().rates, 1);
    let torn = load("torn.csv.gz", &packed[..packed.len() - 4]);
    assert!(matches!(torn, Err(ImportError::Read(_))), "{torn:?}");
    assert!(matches!(import::open(&scratch.join("missing.csv")), Err(ImportError::Read(_))));
}
