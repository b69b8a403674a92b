//! The pages as text: which commands stand in them, in which sections, and what they take from the list of names. It runs nothing.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The shell blocks of a page, in order.
pub(super) fn blocks(page: &str) -> Vec<String> {
    sections(page).into_iter().flat_map(|(_, blocks)| blocks).collect()
}

/// The shell blocks of a section of a page.
pub(super) fn section(page: &str, heading: &str) -> Vec<String> {
    let found = sections(page).into_iter().find(|(name, _)| name == heading);
    found.unwrap_or_else(|| panic!("{page} has no section {heading:?}")).1
}

/// The sections of a page that have shell blocks, and these. What stands before the first is one without a name.
fn sections(page: &str) -> Vec<(String, Vec<String>)> {
    let mut sections = vec![(String::new(), Vec::new())];
    let mut block: Option<(String, String)> = None;
    for line in fs::read_to_string(pages().join(page)).unwrap().lines() {
        let trimmed = line.trim_start();
        match (&mut block, trimmed.strip_prefix("```")) {
            (None, Some(kind)) => block = Some((kind.to_owned(), String::new())),
            (Some(_), Some("")) => {
                let (kind, text) = block.take().unwrap();
                match kind.as_str() {
                    "sh" => sections.last_mut().unwrap().1.push(text),
                    // Nothing of ours hides where nothing is run.
                    "console" => assert!(
                        text.lines().all(|line| !line.trim_start().starts_with("triseal")),
                        "{page}: a command of triseal stands in a block that is not run: {text}"
                    ),
                    other => panic!("{page}: a block of kind {other:?}"),
                }
            }
            (Some((_, text)), _) => writeln!(text, "{trimmed}").unwrap(),
            (None, None) => {
                if let Some(heading) = line.strip_prefix("## ") {
                    sections.push((heading.to_owned(), Vec::new()));
                }
            }
        }
    }
    assert!(block.is_none(), "{page}: a block has no end");
    sections.retain(|(_, blocks)| !blocks.is_empty());
    sections
}

fn pages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations")
}

/// What is typed once, before any page: how an identity is taken.
pub(super) fn identities() -> String {
    let listed = fs::read_to_string(pages().join("README.md")).unwrap();
    let line = listed.lines().find(|line| line.starts_with("as() {")).expect("README.md says how an identity is taken");
    line.to_owned()
}

/// What a text takes from the list of names: `$NAME`, in capitals.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split('$').skip(1).map(|rest| {
        let end = rest.find(|character: char| !(character.is_ascii_uppercase() || character == '_'));
        &rest[..end.unwrap_or(rest.len())]
    })
}

#[test]
fn every_name_in_a_block_is_in_the_list() {
    let listed = fs::read_to_string(pages().join("README.md")).unwrap();
    let mut found = 0;
    for entry in fs::read_dir(pages()).unwrap() {
        let page = entry.unwrap().file_name().into_string().unwrap();
        let text = fs::read_to_string(pages().join(&page)).unwrap();
        // Also of the blocks that are not run.
        for block in text.split("```").skip(1).step_by(2) {
            for name in names(block).filter(|name| name.len() > 1 && *name != "PWD") {
                let set = listed.lines().any(|line| {
                    let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
                    words.any(|word| word.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')))
                });
                assert!(set, "{page} uses {name}, which README.md does not list");
                found += 1;
            }
        }
    }
    assert!(found > 40, "{found}");
}

#[test]
fn every_page_is_listed_and_run() {
    let listed = fs::read_to_string(pages().join("README.md")).unwrap();
    let source = include_str!("../runbooks.rs");
    let mut found = 0;
    for entry in fs::read_dir(pages()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name != "README.md" {
            assert!(listed.contains(&format!("]({name})")), "{name} is not listed");
            let whole = source.contains(&format!(".run(\"{name}\")"));
            for (heading, _) in sections(&name) {
                let part = source.contains(&format!("run_section(\"{name}\", \"{heading}\")"));
                assert!(whole || part, "{name}: {heading:?} is not run");
            }
            found += 1;
        }
    }
    assert!(found >= 8);
    // The list itself has nothing to run, and is read as the others are.
    assert!(blocks("README.md").is_empty());
}
