//! A CoreDNS Corefile → [`Config`]. What it asks for is done or named in an error with its line: nothing is passed over.

mod lexer;
mod plugins;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crate::config::{Block, Config};
use crate::name::Name;
use lexer::{Line, Token};

/// What is wrong with a Corefile, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {problem}")]
pub struct CorefileError {
    /// The file as it was named.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong and what to do.
    pub problem: Problem,
}

/// What may be wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A plugin nobody knows, or one we do not have.
    #[error(
        "plugin {0:?} is not one Fairway has; it has: {known}. Remove it, or leave DNS to CoreDNS (do not give --dns)",
        known = plugins::NAMES.join(", ")
    )]
    UnknownPlugin(String),
    /// A property a plugin of ours does not have.
    #[error("{plugin}: property {property:?} is not one Fairway has; it has: {known}")]
    UnknownProperty {
        /// The plugin.
        plugin: &'static str,
        /// The property.
        property: String,
        /// Those there are.
        known: &'static str,
    },
    /// A value that means nothing.
    #[error("{plugin}: {text:?} is no {wanted}")]
    BadValue {
        /// The plugin.
        plugin: String,
        /// What was written.
        text: String,
        /// What was to be written.
        wanted: &'static str,
    },
    /// Something is missing.
    #[error("{plugin}: {wanted} is missing")]
    Missing {
        /// The plugin.
        plugin: String,
        /// What.
        wanted: &'static str,
    },
    /// A plugin that may be there once is there twice.
    #[error("{0} is there twice in one server block")]
    Twice(&'static str),
    /// A file that cannot be read.
    #[error("cannot read {path}: {why}")]
    Unreadable {
        /// Which.
        path: String,
        /// The system's words.
        why: String,
    },
    /// Braces do not match.
    #[error("{0}")]
    Braces(&'static str),
    /// A zone that is no name.
    #[error("{0}")]
    BadZone(String),
    /// A scheme of a server block we do not serve.
    #[error("server blocks for {0}:// are not served, only dns://")]
    Scheme(String),
    /// Imports that go in circles or deep.
    #[error("import {0:?}: files are imported by files too deeply")]
    TooDeep(String),
    /// No server block at all.
    #[error("there is no server block: write `.:53 {{ … }}`")]
    Empty,
}

/// What a Corefile's words refer to outside it.
pub trait World {
    /// The text of a file.
    ///
    /// # Errors
    /// The system's words.
    fn read(&self, path: &Path) -> Result<String, String>;
    /// An environment variable.
    fn variable(&self, name: &str) -> Option<String>;
}

/// The machine's own files and this process's environment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine;

impl World for Machine {
    fn read(&self, path: &Path) -> Result<String, String> {
        std::fs::read_to_string(path).map_err(|error| error.to_string())
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

/// Reads a Corefile; relative files in it are looked for beside it.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(path: &Path, text: &str, world: &dyn World) -> Result<Config, CorefileError> {
    let mut reader = Reader { world, dir: path.parent().map(Path::to_owned).unwrap_or_default() };
    let file = path.display().to_string();
    let error = |line, problem| CorefileError { file: file.clone(), line, problem };
    let lines = lexer::lines(text, world).map_err(|(line, problem)| error(line, problem))?;
    let (mut blocks, mut snippets) = (Vec::new(), std::collections::HashMap::new());
    let mut lines = lines.into_iter().peekable();
    while let Some(head) = lines.next() {
        let at = head.number;
        let Some((last, zones)) = head.tokens.split_last() else { continue };
        let (zones, body) = if last.is_open() {
            (zones.to_vec(), block(&mut lines, at).map_err(|(line, it)| error(line, it))?)
        } else if zones.is_empty() && last.text == "import" {
            return Err(error(at, Problem::Missing { plugin: "import".into(), wanted: "a file" }));
        } else if head.tokens[0].text == "import" {
            // A file of server blocks.
            let name = head.tokens[1].text.clone();
            for (file, text) in reader.import(&name).map_err(|it| error(at, it))? {
                blocks.extend(parse(&file, &text, world)?.blocks);
            }
            continue;
        } else if lines.peek().is_none() && blocks.is_empty() {
            return Err(error(at, Problem::Braces("a server block is written ZONE { … }")));
        } else {
            return Err(error(
                at,
                Problem::Braces("a server block begins with { on its zones' line"),
            ));
        };
        if let [one] = zones.as_slice()
            && let Some(name) = one.text.strip_prefix('(').and_then(|it| it.strip_suffix(')'))
        {
            snippets.insert(name.to_owned(), body);
            continue;
        }
        let body = reader.expanded(body, &snippets, 0).map_err(|(line, it)| error(line, it))?;
        for (port, zones) in by_port(&zones).map_err(|it| error(at, it))? {
            let mut block = Block { zones, port, ..Block::default() };
            for directive in directives(&body).map_err(|(line, it)| error(line, it))? {
                plugins::apply(&mut block, &directive, &mut reader)
                    .map_err(|(line, problem)| error(line, problem))?;
            }
            plugins::finish(&mut block);
            blocks.push(block);
        }
    }
    if blocks.is_empty() {
        return Err(error(1, Problem::Empty));
    }
    Ok(Config { blocks })
}

/// Where something is wrong, and what.
type Wrong = (usize, Problem);

struct Reader<'a> {
    world: &'a dyn World,
    dir: PathBuf,
}

impl Reader<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn read(&self, name: &str) -> Result<String, Problem> {
        let path = self.path(name);
        let unreadable = |why| Problem::Unreadable { path: path.display().to_string(), why };
        self.world.read(&path).map_err(unreadable)
    }

    /// The files an `import` names. A pattern with `*` may match none.
    fn import(&self, name: &str) -> Result<Vec<(PathBuf, String)>, Problem> {
        if !name.contains('*') {
            return Ok(vec![(self.path(name), self.read(name)?)]);
        }
        let pattern = self.path(name);
        let (Some(dir), Some(file)) = (pattern.parent(), pattern.file_name()) else {
            return Ok(Vec::new());
        };
        let file = file.to_string_lossy();
        let (begin, end) = file.split_once('*').unwrap_or((&file, ""));
        let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.len() >= begin.len() + end.len()
                    && name.starts_with(begin)
                    && name.ends_with(end)
            })
            .collect();
        found.sort();
        let read = |path: PathBuf| {
            let unreadable = |why| Problem::Unreadable { path: path.display().to_string(), why };
            let text = self.world.read(&path).map_err(unreadable)?;
            Ok((path, text))
        };
        found.into_iter().map(read).collect()
    }

    /// A body with what it imports in place.
    fn expanded(
        &self,
        body: Vec<Line>,
        snippets: &std::collections::HashMap<String, Vec<Line>>,
        depth: usize,
    ) -> Result<Vec<Line>, Wrong> {
        let mut out = Vec::with_capacity(body.len());
        for line in body {
            match line.tokens.as_slice() {
                [word, name, ..] if word.text == "import" && !word.quoted => {
                    if depth > 8 {
                        return Err((line.number, Problem::TooDeep(name.text.clone())));
                    }
                    if let Some(snippet) = snippets.get(&name.text) {
                        out.extend(self.expanded(snippet.clone(), snippets, depth + 1)?);
                        continue;
                    }
                    for (_, text) in self.import(&name.text).map_err(|it| (line.number, it))? {
                        let lines = lexer::lines(&text, self.world)?;
                        // What is wrong in an imported file is told at the line of the import.
                        let lines = lines.into_iter().map(|it| Line { number: line.number, ..it });
                        out.extend(self.expanded(lines.collect(), snippets, depth + 1)?);
                    }
                }
                _ => out.push(line),
            }
        }
        Ok(out)
    }
}

/// The lines up to the brace that closes.
fn block(lines: &mut impl Iterator<Item = Line>, opened: usize) -> Result<Vec<Line>, Wrong> {
    let mut depth = 0;
    let mut body = Vec::new();
    for line in lines {
        match line.tokens.as_slice() {
            [only] if only.is_close() && depth == 0 => return Ok(body),
            [only] if only.is_close() => depth -= 1,
            [.., last] if last.is_open() => depth += 1,
            _ => {}
        }
        body.push(line);
    }
    Err((opened, Problem::Braces("the { of this line is not closed")))
}

/// A plugin's line, and the lines in its braces.
#[derive(Clone, Debug)]
struct Directive {
    line: usize,
    name: String,
    arguments: Vec<Token>,
    body: Vec<Line>,
}

fn directives(body: &[Line]) -> Result<Vec<Directive>, Wrong> {
    let mut lines = body.iter().cloned();
    let mut all = Vec::new();
    while let Some(line) = lines.next() {
        let number = line.number;
        let mut tokens = line.tokens;
        let has_body = tokens.last().is_some_and(Token::is_open);
        if has_body {
            tokens.pop();
        }
        let mut tokens = tokens.into_iter();
        let Some(name) = tokens.next().filter(|it| !it.is_close()) else {
            return Err((number, Problem::Braces("a brace without a plugin")));
        };
        let body = if has_body { self::block(&mut lines, number)? } else { Vec::new() };
        all.push(Directive { line: number, name: name.text, arguments: tokens.collect(), body });
    }
    Ok(all)
}

/// `example.org:5353 dns://.` as zones by port.
fn by_port(keys: &[Token]) -> Result<Vec<(u16, Vec<Name>)>, Problem> {
    let mut ports: Vec<(u16, Vec<Name>)> = Vec::new();
    let keys = keys.iter().flat_map(|key| key.text.split(',')).filter(|key| !key.is_empty());
    for key in keys {
        let key = match key.split_once("://") {
            Some(("dns", rest)) => rest,
            Some((scheme, _)) => return Err(Problem::Scheme(scheme.into())),
            None => key,
        };
        let (zone, port) = match key.rsplit_once(':') {
            Some((zone, port)) => match port.parse::<u16>() {
                Ok(port) => (zone, port),
                Err(_) => return Err(Problem::BadZone(format!("{key:?} ends with no port"))),
            },
            None => (key, 53),
        };
        let zones = zones(zone)?;
        match ports.iter_mut().find(|(known, _)| *known == port) {
            Some((_, all)) => all.extend(zones),
            None => ports.push((port, zones)),
        }
    }
    Ok(ports)
}

/// A zone, or the reverse zones of a network.
fn zones(text: &str) -> Result<Vec<Name>, Problem> {
    let text = if text.is_empty() { "." } else { text };
    if text.contains('/') {
        let bad = || Problem::BadZone(format!("{text:?} is no network: write 10.96.0.0/16"));
        let network: ipnet::IpNet = text.parse().map_err(|_| bad())?;
        return Ok(reverse_zones(network));
    }
    let name = Name::parse(text).map_err(|error| Problem::BadZone(error.to_string()))?;
    Ok(vec![name.lower()])
}

/// The zones that hold the reverse names of a network: at a boundary of octets (nibbles for IPv6), as many as it takes.
fn reverse_zones(network: ipnet::IpNet) -> Vec<Name> {
    let step = if network.addr().is_ipv4() { 8 } else { 4 };
    let length = network.prefix_len().div_ceil(step).max(1) * step;
    let Ok(parts) = network.subnets(length) else { return Vec::new() };
    parts
        .map(|part| {
            let name = Name::reverse(part.network());
            let labels: Vec<&[u8]> = name.labels().collect();
            let skip = usize::from((part.max_prefix_len() - length) / step);
            Name::of_labels(labels[skip..].iter().copied())
                .expect("invariant: the tail of a name is a name")
        })
        .collect()
}
