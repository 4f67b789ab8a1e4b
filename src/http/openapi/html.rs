//! HTML in which nothing stands unescaped that is not part of this program.

use std::fmt::Write as _;

/// A text of HTML that grows. What is not written in this program goes through [`Html::text`].
#[derive(Default)]
pub struct Html(String);

impl Html {
    /// Markup of this program.
    pub fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// A text, in an element or between the quotes of an attribute.
    pub fn text(&mut self, text: &str) -> &mut Self {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                other => self.0.push(other),
            }
        }
        self
    }

    /// A number.
    pub fn number(&mut self, number: u16) -> &mut Self {
        let _never_fails = write!(self.0, "{number}");
        self
    }

    /// Sentences: empty lines part paragraphs, backticks mark code.
    pub fn prose(&mut self, text: &str) -> &mut Self {
        for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
            self.raw("<p>").inline(paragraph).raw("</p>\n");
        }
        self
    }

    /// One paragraph of them.
    pub fn inline(&mut self, text: &str) -> &mut Self {
        let is_paired = text.matches('`').count().is_multiple_of(2);
        for (index, part) in text.split('`').enumerate() {
            match (is_paired, index) {
                (true, index) if index % 2 == 1 => self.raw("<code>").text(part).raw("</code>"),
                (false, index) if index > 0 => self.raw("`").text(part),
                _ => self.text(part),
            };
        }
        self
    }

    /// The whole text.
    pub fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_becomes_markup() {
        let mut html = Html::default();
        html.text("<script>\"'&").prose("a `<b>` c\n\n`open <i>");
        assert_eq!(
            html.finish(),
            "&lt;script&gt;&quot;&#39;&amp;<p>a <code>&lt;b&gt;</code> c</p>\n<p>`open &lt;i&gt;</p>\n"
        );
    }
}
