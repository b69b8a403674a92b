//! Reads `src/` for the architecture test: its files without their tests, their tokens, and the paths in them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A file of `src/`.
pub(super) struct SourceFile {
    /// Relative to `src/`.
    pub(super) path: String,
    /// Without its tests.
    pub(super) text: String,
}

/// All of `src/` but the files that hold only tests.
pub(super) fn read_source() -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut tests = BTreeSet::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
                tests.extend(test_modules(&path, &text));
                files.push(SourceFile { path, text: without_tests(&text).to_owned() });
            }
        }
    }
    files.retain(|file| {
        !tests.iter().any(|test| file.path == format!("{test}.rs") || file.path.starts_with(&format!("{test}/")))
    });
    files
}

/// The text before a module of tests, which is the last item of its file.
pub(super) fn without_tests(text: &str) -> &str {
    let marks = text.match_indices("\n#[cfg(test)]\n").map(|(at, mark)| (at + 1, at + mark.len()));
    let mut starts = marks.filter(|(_, after)| {
        let item = text[*after..].lines().map(str::trim).find(|line| !line.starts_with("#["));
        item.is_some_and(|line| line.starts_with("mod ") && line.ends_with('{'))
    });
    starts.next().map_or(text, |(start, _)| &text[..start])
}

/// The files (without `.rs`) of the modules that a file declares for tests alone.
pub(super) fn test_modules(file: &str, text: &str) -> Vec<String> {
    let folder = match file.rsplit_once('/') {
        Some((folder, "mod.rs")) => format!("{folder}/"),
        None if file == "lib.rs" => String::new(),
        Some(_) | None => format!("{}/", file.trim_end_matches(".rs")),
    };
    let mut found = Vec::new();
    let mut lines = text.lines().map(str::trim).peekable();
    while let Some(line) = lines.next() {
        if line != "#[cfg(test)]" {
            continue;
        }
        while lines.next_if(|line| line.starts_with("#[")).is_some() {}
        let declared = lines.peek().and_then(|line| line.trim_start_matches("pub(crate) ").strip_prefix("mod "));
        if let Some(name) = declared.and_then(|rest| rest.strip_suffix(';')) {
            found.push(format!("{folder}{name}"));
        }
    }
    found
}

#[derive(Debug, PartialEq)]
enum Token<'a> {
    Name(&'a str),
    /// `::`
    Colons,
    Other(char),
}

/// Names and punctuation with their lines; comments and literals are left out.
fn tokens(text: &str) -> Vec<(usize, Token<'_>)> {
    let octets = text.as_bytes();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < octets.len() {
        let start = at;
        let rest = &text[at..];
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            at += block_comment_length(rest);
        } else if let Some(length) = literal_length(rest) {
            at += length;
            found.push((line, Token::Other('"')));
        } else if rest.starts_with("::") {
            at += 2;
            found.push((line, Token::Colons));
        } else {
            let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let first = rest.chars().next().unwrap();
            if length == 0 {
                at += first.len_utf8();
                if !first.is_whitespace() {
                    found.push((line, Token::Other(first)));
                }
            } else {
                at += length;
                found.push((line, Token::Name(&rest[..length])));
            }
        }
        line += text[start..at].matches('\n').count();
    }
    found
}

fn block_comment_length(text: &str) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < text.len() {
        match text.as_bytes().get(at..at + 2) {
            Some(b"/*") => (at, depth) = (at + 2, depth + 1),
            Some(b"*/") => (at, depth) = (at + 2, depth - 1),
            Some(_) | None => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

/// How long the string or character at the beginning is, if there is one. A lifetime is neither.
fn literal_length(text: &str) -> Option<usize> {
    let prefix = text.len() - text.trim_start_matches(['b', 'c', 'r']).len();
    let rest = &text[prefix..];
    if text[..prefix].ends_with('r') {
        let hashes = rest.len() - rest.trim_start_matches('#').len();
        let body = rest[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(prefix + hashes + 1 + body.find(&end)? + end.len());
    }
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let mut inner = rest.char_indices().skip(1);
    let (second, third) = (inner.clone().next()?.1, inner.clone().nth(1)?.1);
    if quote == '\'' && second != '\\' && third != '\'' {
        return None;
    }
    while let Some((at, c)) = inner.next() {
        if c == quote {
            return Some(prefix + at + 1);
        }
        if c == '\\' {
            inner.next();
        }
    }
    None
}

/// A path as it is used, with every branch of a `use` tree spelt out.
#[derive(Debug)]
pub(super) struct Used {
    pub(super) line: usize,
    pub(super) names: Vec<String>,
    /// So many modules of the file stand around it, `mod x { … }`.
    pub(super) nested: usize,
}

pub(super) fn paths(text: &str) -> Vec<Used> {
    let tokens = tokens(text);
    let before = |at: usize, back: usize| at.checked_sub(back).map(|at| &tokens[at].1);
    let mut found = Vec::new();
    // For each open brace, whether it is a module's.
    let mut braces = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].1 {
            // A field or a method of that name is no path.
            Token::Name(name) if before(at, 1) == Some(&Token::Other('.')) && name != "await" => at += 1,
            Token::Name(_) => {
                let known = found.len();
                at = path(&tokens, at, &[], &mut found);
                let nested = braces.iter().filter(|is_module| **is_module).count();
                found.iter_mut().skip(known).for_each(|used: &mut Used| used.nested = nested);
            }
            // The rest of `<T as Trait>::name`.
            Token::Colons if before(at, 1) == Some(&Token::Other('>')) => at += 2,
            Token::Other('{') => {
                braces.push(before(at, 2) == Some(&Token::Name("mod")));
                at += 1;
            }
            Token::Other('}') => {
                braces.pop();
                at += 1;
            }
            Token::Colons | Token::Other(_) => at += 1,
        }
    }
    found
}

/// Reads the path that starts at a name, and returns where it ends.
fn path(tokens: &[(usize, Token<'_>)], start: usize, prefix: &[String], found: &mut Vec<Used>) -> usize {
    let mut names = prefix.to_vec();
    let mut at = start;
    while let Some((line, Token::Name(name))) = tokens.get(at) {
        if *name != "self" || names.is_empty() {
            names.push((*name).to_owned());
        }
        at += 1;
        if tokens.get(at).map(|token| &token.1) != Some(&Token::Colons) {
            found.push(Used { line: *line, names, nested: 0 });
            return at;
        }
        at += 1;
        if tokens.get(at).map(|token| &token.1) == Some(&Token::Other('{')) {
            return tree(tokens, at + 1, &names, found);
        }
    }
    // `path::*`, or `Type::<…>`.
    found.push(Used { line: tokens[start].0, names, nested: 0 });
    at
}

/// Reads the branches after a `{`, and returns where its `}` ends.
fn tree(tokens: &[(usize, Token<'_>)], start: usize, prefix: &[String], found: &mut Vec<Used>) -> usize {
    let mut at = start;
    while let Some((_, token)) = tokens.get(at) {
        match token {
            Token::Other('}') => return at + 1,
            Token::Name("as") => at += 2,
            Token::Name(_) => at = path(tokens, at, prefix, found),
            Token::Other('*') => {
                found.push(Used { line: tokens[at].0, names: prefix.to_vec(), nested: 0 });
                at += 1;
            }
            Token::Colons | Token::Other(_) => at += 1,
        }
    }
    at
}
