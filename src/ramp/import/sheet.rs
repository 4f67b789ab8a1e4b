//! The file of rates, checked: every problem named by its line and column, or every rate ready to load.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::rc::Rc;

use chrono::NaiveDate;
use csv::{ByteRecord, Position, Reader, ReaderBuilder, Trim};

use super::ImportError;
use crate::ramp::decimal::Decimal;

/// Bytes of a file after unpacking; forty times the history since 1999, and a bound for what a packed file may expand to.
const FILE_BYTES_MAX: u64 = 80 << 20;
/// Problems that are listed; a file in the wrong form would have one in every place.
const PROBLEMS_MAX: usize = 20;
/// How the file says that a currency was not quoted.
const NOT_QUOTED: &str = "N/A";

/// One thing that is wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, counted from one.
    pub line: u64,
    /// The name of the column, as the first line gives it; empty where the line as a whole is meant.
    pub column: String,
    /// What is wrong.
    pub sentence: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, sentence } = self;
        match column.as_str() {
            "" => write!(f, "line {line}: {sentence}"),
            column => write!(f, "line {line}, column {column}: {sentence}"),
        }
    }
}

/// The problems, each on a line of its own; where the list is full it says so.
pub(super) fn list(problems: &[Problem]) -> String {
    let mut lines: String = problems.iter().map(|problem| format!("\n  {problem}")).collect();
    if problems.len() >= PROBLEMS_MAX {
        lines.push_str("\n  (there may be more)");
    }
    lines
}

/// One rate of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Quote {
    pub date: NaiveDate,
    pub currency: Rc<str>,
    pub rate: Decimal,
}

/// A file without problems.
#[derive(Debug)]
pub(super) struct Sheet {
    pub fixings: usize,
    pub currencies: usize,
    /// In the order of days.
    pub quotes: Vec<Quote>,
}

impl Sheet {
    /// Reads a file to its end, or to the last problem that fits in the list.
    pub fn read(file: impl Read, known: &[String]) -> Result<Self, ImportError> {
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
            let sentence = format!("the file is longer than {FILE_BYTES_MAX} bytes");
            return Err(ImportError::Invalid(vec![Problem { line: 1, column: String::new(), sentence }]));
        }
        // No quoting: the format has none, and an opening quote would swallow lines that are to be named.
        let mut lines = ReaderBuilder::new();
        lines.has_headers(false).flexible(true).quoting(false).trim(Trim::All);
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        Reading::default().read(lines.from_reader(text), known)
    }
}

/// A file while it is read.
#[derive(Default)]
struct Reading {
    /// The columns after the first. The bank ends each line with a comma, so that the last one has no name.
    columns: Vec<Rc<str>>,
    line: u64,
    lines_by_date: HashMap<NaiveDate, u64>,
    quotes: Vec<Quote>,
    problems: Vec<Problem>,
}

impl Reading {
    fn read(mut self, mut lines: Reader<&[u8]>, known: &[String]) -> Result<Sheet, ImportError> {
        let mut record = ByteRecord::new();
        let mut is_first = true;
        while self.problems.len() < PROBLEMS_MAX && lines.read_byte_record(&mut record).map_err(std::io::Error::from)? {
            self.line = record.position().map_or(0, Position::line);
            let texts: Vec<Cow<'_, str>> = record.iter().map(String::from_utf8_lossy).collect();
            if is_first {
                self.header(&texts, known);
            } else {
                self.fixing(&texts);
            }
            is_first = false;
        }
        if self.quotes.is_empty() && self.problems.is_empty() {
            self.problem("", "the file has no rates");
        }
        if !self.problems.is_empty() {
            self.problems.truncate(PROBLEMS_MAX);
            return Err(ImportError::Invalid(self.problems));
        }
        // The bank's file begins with the newest day; in the order of the primary key the index fills its pages.
        self.quotes.sort_by_key(|quote| quote.date);
        let currencies = self.columns.iter().filter(|name| !name.is_empty()).count();
        Ok(Sheet { fixings: self.lines_by_date.len(), currencies, quotes: self.quotes })
    }

    fn header(&mut self, texts: &[Cow<'_, str>], known: &[String]) {
        let [first, names @ ..] = texts else { return };
        if first != "Date" {
            self.problem(first, "the first column must be Date");
        }
        for (index, name) in names.iter().enumerate() {
            let is_nameless_end = name.is_empty() && index + 1 == names.len();
            let is_known = known.iter().any(|known| known == name);
            if self.columns.iter().any(|earlier| **earlier == **name) {
                self.problem(name, "the currency has a column already");
            } else if !is_known && !is_nameless_end {
                self.problem(name, "is not a currency that has a rate here");
            }
            self.columns.push(Rc::from(&**name));
        }
    }

    fn fixing(&mut self, texts: &[Cow<'_, str>]) {
        let [date, rates @ ..] = texts else { return };
        if rates.len() != self.columns.len() {
            let (found, expected) = (texts.len(), self.columns.len() + 1);
            return self.problem("", &format!("has {found} columns, the first line has {expected}"));
        }
        let Some(date) = parse_date(date) else {
            return self.problem("Date", &format!("{date:?} is not a date like 2026-10-30"));
        };
        if let Some(earlier) = self.lines_by_date.insert(date, self.line) {
            return self.problem("Date", &format!("{date} stands on line {earlier} already"));
        }
        for (currency, text) in self.columns.clone().into_iter().zip(rates) {
            match parse_rate(&currency, text) {
                Ok(Some(rate)) => self.quotes.push(Quote { date, currency, rate }),
                Ok(None) => {}
                Err(sentence) => self.problem(&currency, &sentence),
            }
        }
    }

    fn problem(&mut self, column: &str, sentence: &str) {
        self.problems.push(Problem {
            line: self.line.max(1),
            column: column.to_owned(),
            sentence: sentence.to_owned(),
        });
    }
}

/// A date in the one form that the file has.
fn parse_date(text: &str) -> Option<NaiveDate> {
    text.parse().ok().filter(|date: &NaiveDate| date.to_string() == text)
}

/// The rate in a column; none where the currency was not quoted, or the column is the nameless last one.
fn parse_rate(currency: &str, text: &str) -> Result<Option<Decimal>, String> {
    match (currency, text) {
        (_, NOT_QUOTED) | ("", "") => Ok(None),
        ("", text) => Err(format!("{text:?} stands under no currency")),
        (_, "") => Err(format!("is empty; what is not quoted is written {NOT_QUOTED}")),
        (_, text) => text.parse().map(Some).map_err(|reason| format!("{text:?} {reason}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Sheet, Vec<String>> {
        Sheet::read(text.as_bytes(), &["USD".to_owned(), "JPY".to_owned()]).map_err(|error| match error {
            ImportError::Invalid(problems) => problems.iter().map(ToString::to_string).collect(),
            other => panic!("{other}"),
        })
    }

    #[test]
    fn a_file_is_read_with_or_without_its_trailing_commas() {
        for text in ["Date,USD,JPY,\n2026-10-30,1.1,N/A,\n", "\u{feff}Date, USD, JPY\r\n\r\n2026-10-30, 1.1, N/A"] {
            let sheet = read(text).unwrap();
            assert_eq!((sheet.fixings, sheet.currencies), (1, 2));
            let [quote] = sheet.quotes.as_slice() else { panic!("{sheet:?}") };
            assert_eq!((quote.date.to_string(), &*quote.currency), ("2026-10-30".to_owned(), "USD"));
            assert_eq!(quote.rate.to_string(), "1.1");
        }
    }

    #[test]
    fn every_problem_is_named_by_line_and_column() {
        let text = "Date,USD,JPY\n2026-10-30,1.1,x\n2026-10-29,0,\n2026-10-28,1\n2026-02-30,1,1\n2026-10-30,1,1\n";
        assert_eq!(
            read(text).unwrap_err(),
            [
                "line 2, column JPY: \"x\" is not a plain decimal number",
                "line 3, column USD: \"0\" is not greater than zero",
                "line 3, column JPY: is empty; what is not quoted is written N/A",
                "line 4: has 2 columns, the first line has 3",
                "line 5, column Date: \"2026-02-30\" is not a date like 2026-10-30",
                "line 6, column Date: 2026-10-30 stands on line 2 already",
            ]
        );
    }

    #[test]
    fn the_first_line_must_name_known_currencies_once() {
        assert_eq!(
            read("Day,USD,XXX,USD\n2026-10-30,1,1,1\n").unwrap_err(),
            [
                "line 1, column Day: the first column must be Date",
                "line 1, column XXX: is not a currency that has a rate here",
                "line 1, column USD: the currency has a column already",
            ]
        );
    }

    #[test]
    fn a_file_without_rates_is_a_problem() {
        assert_eq!(read("").unwrap_err(), ["line 1: the file has no rates"]);
        assert_eq!(read("Date,USD\n").unwrap_err(), ["line 1: the file has no rates"]);
    }

    #[test]
    fn the_list_of_problems_ends() {
        let text = format!("Date,USD\n{}", "2026-10-30,x\n".repeat(100));
        assert_eq!(read(&text).unwrap_err().len(), PROBLEMS_MAX);
    }
}
