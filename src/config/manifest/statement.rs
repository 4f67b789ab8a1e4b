//! The SQL of a route, cut where its placeholders stand.
//!
//! This is a lexer, not a parser: it only has to know what is code and what is a string, an identifier or a comment.
//! Postgres judges the rest when the statement is prepared.

/// One statement, as alternating text and placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    pieces: Vec<Piece>,
}

/// A part of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text that is passed on as it is.
    Text(String),
    /// `$n`, counted from zero.
    Placeholder(usize),
}

impl Statement {
    /// Cuts a statement into pieces. A semicolon at the end is dropped.
    ///
    /// # Errors
    /// A sentence, where there is no statement, more than one, or something is left open.
    pub fn parse(sql: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = sql;
        let mut ended = false;
        while let Some(first) = rest.chars().next() {
            let token = token(rest)?;
            let (token_text, tail) = rest.split_at_checked(token.len).unwrap_or((rest, ""));
            rest = tail;
            if matches!(token.kind, Kind::Comment) {
                text.push(' ');
                continue;
            }
            if ended && !first.is_whitespace() {
                return Err("more than one statement; a route runs exactly one".to_owned());
            }
            match token.kind {
                Kind::Placeholder(0) => return Err("$0 is not a placeholder; they count from $1".to_owned()),
                Kind::Placeholder(number) => {
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                    pieces.push(Piece::Placeholder(number - 1));
                }
                Kind::Semicolon => ended = true,
                Kind::Comment | Kind::Code => text.push_str(token_text),
            }
        }
        pieces.push(Piece::Text(text.trim_end().to_owned()));
        let statement = Self { pieces };
        if statement.words().next().is_none() {
            return Err("the SQL is empty".to_owned());
        }
        Ok(statement)
    }

    /// The pieces in order.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The greatest number of placeholders that any `$n` asks for, and whether each below it is used.
    pub fn placeholders_used(&self) -> Vec<bool> {
        let used: Vec<usize> = self
            .pieces
            .iter()
            .filter_map(|piece| match piece {
                Piece::Placeholder(index) => Some(*index),
                Piece::Text(_) => None,
            })
            .collect();
        let count = used.iter().max().map_or(0, |greatest| greatest + 1);
        (0..count).map(|index| used.contains(&index)).collect()
    }

    /// The statement as text, each placeholder written by the caller.
    pub fn render(&self, mut placeholder: impl FnMut(usize) -> String) -> String {
        self.pieces
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.clone(),
                Piece::Placeholder(index) => placeholder(*index),
            })
            .collect()
    }

    /// The unquoted words of the statement in lower case: keywords, functions, tables, columns.
    pub fn words(&self) -> impl Iterator<Item = String> {
        self.words_and_calls().into_iter().map(|(word, _)| word)
    }

    /// Those words that stand before a parenthesis, as the names of called functions do.
    pub fn calls(&self) -> impl Iterator<Item = String> {
        self.words_and_calls().into_iter().filter(|(_, is_call)| *is_call).map(|(word, _)| word)
    }

    fn words_and_calls(&self) -> Vec<(String, bool)> {
        let code: String = self
            .pieces
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => without_literals(text),
                Piece::Placeholder(_) => " ".to_owned(),
            })
            .collect();
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let mut words = Vec::new();
        let mut rest = code.trim_start_matches(|c| !is_word(c));
        while !rest.is_empty() {
            let len = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let (word, tail) = rest.split_at_checked(len).unwrap_or((rest, ""));
            words.push((word.to_lowercase(), tail.trim_start().starts_with('(')));
            rest = tail.trim_start_matches(|c| !is_word(c));
        }
        words
    }
}

enum Kind {
    Code,
    Comment,
    Placeholder(usize),
    Semicolon,
}

struct Token {
    kind: Kind,
    /// In bytes, at least one character.
    len: usize,
}

/// The token at the start of a non-empty text.
fn token(rest: &str) -> Result<Token, String> {
    let code = |len| Ok(Token { kind: Kind::Code, len });
    let Some(first) = rest.chars().next() else { return code(0) };
    match first {
        '\'' => code(quoted(rest, '\'', Escapes::Doubled).ok_or("a string is not closed")?),
        '"' => code(quoted(rest, '"', Escapes::Doubled).ok_or("a quoted identifier is not closed")?),
        ';' => Ok(Token { kind: Kind::Semicolon, len: 1 }),
        '-' if rest.starts_with("--") => Ok(Token { kind: Kind::Comment, len: rest.find('\n').unwrap_or(rest.len()) }),
        '/' if rest.starts_with("/*") => {
            Ok(Token { kind: Kind::Comment, len: block_comment(rest).ok_or("a comment is not closed")? })
        }
        '$' => dollar(rest),
        _ if first.is_alphabetic() || first == '_' => {
            let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(rest.len());
            let is_escape_string = word == 1 && matches!(first, 'e' | 'E') && rest.as_bytes().get(1) == Some(&b'\'');
            match rest.get(1..) {
                Some(string) if is_escape_string => {
                    code(1 + quoted(string, '\'', Escapes::Backslash).ok_or("a string is not closed")?)
                }
                _ => code(word),
            }
        }
        _ => code(first.len_utf8()),
    }
}

#[derive(PartialEq)]
enum Escapes {
    Doubled,
    Backslash,
}

/// The length of a quoted text that starts with its quote; `None` where it is not closed. A doubled quote reads as the
/// end of one text and the start of the next, which cuts at the same places.
fn quoted(rest: &str, quote: char, escapes: Escapes) -> Option<usize> {
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == '\\' && escapes == Escapes::Backslash {
            chars.next();
        } else if c == quote {
            // In an escape string a doubled quote must not end the string, for the rest of it has other rules.
            if escapes == Escapes::Backslash && rest.get(at + 1..).is_some_and(|next| next.starts_with(quote)) {
                chars.next();
            } else {
                return Some(at + quote.len_utf8());
            }
        }
    }
    None
}

/// The length of a block comment, which may hold others.
fn block_comment(rest: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        let tail = rest.get(at..)?;
        if tail.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if tail.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += tail.chars().next()?.len_utf8();
        }
    }
}

/// `$1`, `$tag$ … $tag$`, or a dollar sign alone.
fn dollar(rest: &str) -> Result<Token, String> {
    let after = rest.get(1..).unwrap_or("");
    let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
    if digits > 0 {
        let number = after.get(..digits).and_then(|digits| digits.parse().ok()).filter(|number| *number <= 1000_usize);
        let number = number.ok_or("a placeholder's number is too large")?;
        return Ok(Token { kind: Kind::Placeholder(number), len: 1 + digits });
    }
    let tag = after.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(after.len());
    let Some(delimiter) = rest.get(..tag + 2).filter(|delimiter| delimiter.ends_with('$')) else {
        return Ok(Token { kind: Kind::Code, len: 1 });
    };
    let body = rest.get(delimiter.len()..).unwrap_or("");
    let end = body.find(delimiter).ok_or("a dollar-quoted string is not closed")?;
    Ok(Token { kind: Kind::Code, len: end + 2 * delimiter.len() })
}

/// Code with its strings and quoted identifiers blanked.
fn without_literals(code: &str) -> String {
    let mut out = String::new();
    let mut rest = code;
    while !rest.is_empty() {
        let len = token(rest).map_or(rest.len(), |token| token.len);
        let (text, tail) = rest.split_at_checked(len).unwrap_or((rest, ""));
        let is_literal = text.contains('\'') || text.starts_with(['"', '$']);
        out.push_str(if is_literal { " " } else { text });
        rest = tail;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(sql: &str) -> Result<String, String> {
        Statement::parse(sql).map(|statement| statement.render(|index| format!("<{index}>")))
    }

    #[test]
    fn placeholders_are_found_only_in_code() {
        let cases = [
            ("SELECT $1, $2", "SELECT <0>, <1>"),
            ("SELECT '$1', \"$1\", $1", "SELECT '$1', \"$1\", <0>"),
            ("SELECT 'it''s $1', $1", "SELECT 'it''s $1', <0>"),
            ("SELECT E'\\'$1', $1", "SELECT E'\\'$1', <0>"),
            ("SELECT E'a''$1', $1", "SELECT E'a''$1', <0>"),
            ("SELECT $$ $1 ; $$, $1", "SELECT $$ $1 ; $$, <0>"),
            ("SELECT $t$ $1 $$ $t$, $1", "SELECT $t$ $1 $$ $t$, <0>"),
            ("SELECT $1 -- $2 ; x", "SELECT <0>"),
            ("SELECT /* $2 /* ; */ */ $1;", "SELECT   <0>"),
            ("SELECT a$1 FROM t WHERE b = $1 ;\n -- end\n", "SELECT a$1 FROM t WHERE b = <0>"),
            ("SELECT 'é', $1", "SELECT 'é', <0>"),
        ];
        for (sql, expected) in cases {
            assert_eq!(rendered(sql).as_deref(), Ok(expected), "{sql}");
        }
    }

    #[test]
    fn more_than_one_statement_is_refused() {
        for sql in
            ["SELECT 1; SELECT 2", "SELECT 1;;SELECT 2", "", " ; ", "-- nothing", "SELECT '", "SELECT $0", "SELECT $$"]
        {
            assert!(rendered(sql).is_err(), "{sql}");
        }
    }

    #[test]
    fn unused_placeholders_show() {
        let statement = Statement::parse("SELECT $3 + $1").unwrap();
        assert_eq!(statement.placeholders_used(), [true, false, true]);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_or_loses_code(sql in "[-a-zE'\"$0-9;/* \n\\\\é]{0,40}") {
            let _ = rendered(&sql);
        }
    }
}
