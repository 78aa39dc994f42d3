//! Rust source, split into code and comments, so that a rule about code does not fire on a
//! sentence and a fixture in a string does not fire at all.

/// The two views have the lines of the file; what belongs to neither is blank in both.
#[derive(Clone, Debug)]
pub(super) struct Source {
    code: String,
    comments: String,
}

impl Source {
    /// Splits a file. String and character literals appear in neither view.
    pub(super) fn new(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let mut kinds = vec![Kind::Code; chars.len()];
        let mut at = 0;
        while at < chars.len() {
            let (kind, len) = token(&chars, at);
            kinds[at..at + len].fill(kind);
            at += len;
        }
        let view = |wanted: Kind| {
            let shown = |(&c, &kind): (&char, &Kind)| {
                if kind == wanted || c == '\n' { c } else { ' ' }
            };
            chars.iter().zip(&kinds).map(shown).collect()
        };
        Self {
            code: view(Kind::Code),
            comments: view(Kind::Comment),
        }
    }

    /// Lines with their numbers from 1, code only.
    pub(super) fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line))
    }

    /// Lines with their numbers from 1, comments only.
    pub(super) fn comment_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.comments
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

/// What starts at `at`, and how many characters it has; at least one.
fn token(chars: &[char], at: usize) -> (Kind, usize) {
    let rest = &chars[at..];
    let follows_word = at > 0 && is_word(chars[at - 1]);
    match rest {
        ['/', '/', ..] => (
            Kind::Comment,
            rest.iter().take_while(|&&c| c != '\n').count(),
        ),
        ['/', '*', ..] => (Kind::Comment, block_comment(rest)),
        ['"', ..] => (Kind::Literal, quoted(rest, '"')),
        ['\'', '\\', ..] => (Kind::Literal, quoted(rest, '\'')),
        ['\'', _, '\'', ..] => (Kind::Literal, 3),
        ['r', '"' | '#', ..] if !follows_word => raw_string(rest, 1),
        ['b' | 'c', 'r', '"' | '#', ..] if !follows_word => raw_string(rest, 2),
        _ => (Kind::Code, 1),
    }
}

fn block_comment(rest: &[char]) -> usize {
    let (mut at, mut depth) = (2, 1);
    while at < rest.len() && depth > 0 {
        match rest[at..] {
            ['/', '*', ..] => (at, depth) = (at + 2, depth + 1),
            ['*', '/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
    }
    at
}

fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            c if c == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `prefix` characters stand before the hashes. A raw identifier is code.
fn raw_string(rest: &[char], prefix: usize) -> (Kind, usize) {
    let hashes = rest[prefix..].iter().take_while(|&&c| c == '#').count();
    let body = prefix + hashes + 1;
    if rest.get(body - 1) != Some(&'"') {
        return (Kind::Code, body - 1);
    }
    let ends = |at: &usize| {
        rest[*at] == '"'
            && rest[at + 1..]
                .iter()
                .take(hashes)
                .filter(|&&c| c == '#')
                .count()
                == hashes
    };
    let end = (body..rest.len()).find(ends);
    (Kind::Literal, end.map_or(rest.len(), |at| at + 1 + hashes))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Identifiers, keywords and numbers of a line.
pub(super) fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !is_word(c))
        .filter(|word| !word.is_empty())
}

/// The parts of `snake_case`, `CamelCase` or `UPPER_CASE`, in lower case.
pub(super) fn name_parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut before_was_lower = false;
    for c in name.chars() {
        let is_new = c == '_' || c == '-' || (c.is_uppercase() && before_was_lower);
        if is_new {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut().filter(|_| c != '_' && c != '-') {
            part.extend(c.to_lowercase());
        }
        before_was_lower = c.is_lowercase();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        let source = Source::new(text);
        source.code.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn literals_and_comments_are_not_code() {
        let cases = [
            ("a // b\nc", "a c"),
            ("a /* b /* c */ d */ e", "a e"),
            ("f(\"a // b\")", "f( )"),
            ("f(\"a \\\" b\")", "f( )"),
            ("f(r#\"a \" b\"#)", "f( )"),
            ("f(br\"a\\\")", "f( )"),
            ("f('\"') + g", "f( ) + g"),
            ("f('\\'') + g", "f( ) + g"),
            ("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}"),
            ("r#type + 1", "r#type + 1"),
            ("var\"x\"", "var"),
        ];
        for (text, expected) in cases {
            assert_eq!(code(text), expected, "{text}");
        }
    }

    #[test]
    fn comments_keep_their_lines() {
        let source = Source::new("a\nb // c\n\"// d\"");
        let comments: Vec<_> = source
            .comment_lines()
            .filter(|(_, text)| !text.trim().is_empty())
            .collect();
        assert_eq!(comments.len(), 1);
        assert_eq!((comments[0].0, comments[0].1.trim()), (2, "// c"));
    }

    #[test]
    fn unfinished_text_does_not_hang_or_panic() {
        for text in ["\"", "'", "r#\"", "/*", "b'\\", "r#", "\"\\"] {
            let _ = Source::new(text);
        }
    }

    #[test]
    fn names_split_into_parts() {
        assert_eq!(name_parts("PeerManager"), ["peer", "manager"]);
        assert_eq!(name_parts("MISC_MAX"), ["misc", "max"]);
        assert_eq!(name_parts("hyper_util"), ["hyper", "util"]);
    }
}
