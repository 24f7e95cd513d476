//! Words and lines of a Corefile: blanks divide, `#` begins a comment, quotes hold a word together, `{$NAME}` and `{%NAME%}`
//! are variables of the environment.

use super::{Problem, World, Wrong};

/// A word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) quoted: bool,
}

impl Token {
    pub(super) fn is_open(&self) -> bool {
        self.text == "{" && !self.quoted
    }

    pub(super) fn is_close(&self) -> bool {
        self.text == "}" && !self.quoted
    }
}

/// The words of a line that has some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// From 1.
    pub(super) number: usize,
    pub(super) tokens: Vec<Token>,
}

/// The lines. A closing brace is always a line of its own.
pub(super) fn lines(text: &str, world: &dyn World) -> Result<Vec<Line>, Wrong> {
    let mut lines: Vec<Line> = Vec::new();
    let (mut number, mut begun) = (1, 1);
    let mut tokens: Vec<Token> = Vec::new();
    let mut word = String::new();
    let mut quoted = None;
    let mut is_quoted = false;
    let mut comment = false;
    let mut characters = text.chars().peekable();
    loop {
        let character = characters.next();
        if let Some(opened) = quoted {
            match character {
                None => {
                    return Err((opened, Problem::Braces("the quote of this line is not closed")));
                }
                Some('"') => quoted = None,
                Some('\\') if characters.peek() == Some(&'"') => {
                    word.push('"');
                    characters.next();
                }
                Some(character) => {
                    number += usize::from(character == '\n');
                    word.push(character);
                }
            }
            continue;
        }
        let ends_word = comment
            || character.is_none_or(|it| it.is_whitespace() || it == '#' && word.is_empty());
        if ends_word && (!word.is_empty() || is_quoted) {
            let text = if is_quoted { std::mem::take(&mut word) } else { variables(&word, world) };
            word.clear();
            if tokens.is_empty() {
                begun = number;
            }
            tokens.push(Token { text, quoted: is_quoted });
            is_quoted = false;
        }
        match character {
            None | Some('\n') => {
                finish(&mut lines, begun, &mut tokens);
                comment = false;
                if character.is_none() {
                    return Ok(lines);
                }
                number += 1;
            }
            _ if comment => {}
            Some('#') if word.is_empty() => comment = true,
            Some('"') if word.is_empty() => {
                quoted = Some(number);
                is_quoted = true;
            }
            Some('\\') if characters.peek() == Some(&'\n') => {
                // The line goes on.
                characters.next();
                number += 1;
            }
            Some(character) if character.is_whitespace() => {}
            Some(character) => word.push(character),
        }
    }
}

fn finish(lines: &mut Vec<Line>, number: usize, tokens: &mut Vec<Token>) {
    if tokens.is_empty() {
        return;
    }
    let mut tokens = std::mem::take(tokens);
    // `{ a b }` on one line is an opening, a line and a closing.
    let close = tokens.len() > 1 && tokens.last().is_some_and(Token::is_close);
    let closing = if close { tokens.pop() } else { None };
    let open = tokens.iter().position(Token::is_open);
    match open.filter(|at| at + 1 < tokens.len()) {
        Some(at) => {
            let rest = tokens.split_off(at + 1);
            lines.push(Line { number, tokens });
            lines.push(Line { number, tokens: rest });
        }
        None => lines.push(Line { number, tokens }),
    }
    if let Some(closing) = closing {
        lines.push(Line { number, tokens: vec![closing] });
    }
}

/// A variable's value is not looked at again.
fn variables(word: &str, world: &dyn World) -> String {
    let mut out = word.to_owned();
    for (begin, end) in [("{$", "}"), ("{%", "%}")] {
        let text = std::mem::take(&mut out);
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once(begin)
            && let Some((name, after)) = after.split_once(end)
        {
            out.push_str(before);
            out.push_str(&world.variable(name).unwrap_or_default());
            rest = after;
        }
        out.push_str(rest);
    }
    out
}
