//! Holds `docs/THREAT_MODEL.md` to the tests: every defence names what shows it, and everything that is named is there. Whether a test
//! shows what the page says of it, a reader has to judge.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What shows a defence and is no test.
const OTHERS: [&str; 4] = ["deny.toml", "tests/vectors/reference.py", ".ci/run", "the compiler"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The names of all tests below a directory.
fn tests(directory: &Path, names: &mut BTreeSet<String>) {
    for path in directory.read_dir().unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            tests(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(tests_in(&std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The functions that follow an attribute such as `#[test]` or `#[tokio::test(…)]`, other attributes between; and those that
/// `on_both_sites!` lists.
fn tests_in(source: &str) -> Vec<String> {
    let (mut names, mut is_test, mut is_listed) = (Vec::new(), false, false);
    for line in source.lines().map(str::trim) {
        if line.starts_with("on_both_sites! {") {
            is_listed = true;
        } else if is_listed {
            is_listed = line != "}";
            names.extend(line.strip_suffix(',').map(str::to_owned));
        } else if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test) {
            names.extend(rest.split(['(', '<']).next().map(str::to_owned));
            is_test = false;
        } else if !line.starts_with("#[") {
            is_test = false;
        }
    }
    names
}

/// What is wrong with a page, if these tests are there.
fn faults(page: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let rows = page.split_once("## Defences").expect("the table of defences").1;
    let rows =
        rows.lines().skip_while(|line| !line.starts_with("|---")).skip(1).take_while(|line| line.starts_with('|'));
    let mut faults = Vec::new();
    for row in rows {
        let mut cells = row.trim_matches('|').split(" | ").map(str::trim);
        let (Some(defence), Some(shown_by)) = (cells.next(), cells.next()) else { panic!("no row: {row}") };
        let quoted: Vec<&str> = shown_by.split('`').skip(1).step_by(2).collect();
        let (named, rest): (Vec<&str>, Vec<&str>) = quoted.into_iter().partition(|name| tests.contains(*name));
        let missing = rest.iter().filter(|name| !root().join(name).exists());
        faults.extend(missing.map(|name| format!("{defence}: there is no {name}")));
        if named.is_empty() && !OTHERS.iter().any(|other| shown_by.contains(other)) {
            faults.push(format!("{defence}: no test is named"));
        }
    }
    faults
}

#[test]
fn each_defence_names_a_test_that_is_there() {
    let mut names = BTreeSet::new();
    for directory in ["src", "tests"] {
        tests(&root().join(directory), &mut names);
    }
    assert!(names.len() > 400 && names.contains("each_defence_names_a_test_that_is_there"), "{}", names.len());
    let page = std::fs::read_to_string(root().join("docs/THREAT_MODEL.md")).unwrap();
    assert!(page.contains("`each_defence_names_a_test_that_is_there`"), "the page says what holds it to its word");
    let faults = faults(&page, &names);
    assert!(faults.is_empty(), "docs/THREAT_MODEL.md:\n{}", faults.join("\n"));
}

#[test]
fn a_name_that_is_not_there_and_a_row_without_one_are_found() {
    let source = "#[test]\nfn one() {}\n#[tokio::test(start_paused = true)]\n#[ignore]\nasync fn two() {}\nfn three() {}\non_both_sites! {\n    four,\n}\n";
    assert_eq!(tests_in(source), ["one", "two", "four"]);
    let page = "## Defences\n\n| defence | shown by |\n|---|---|\n| a | `Cargo.toml`: `one` |\n| b | `three` |\n\
        | c | `src/lib.rs` |\n| d | the compiler |\n\n| e | f |\n";
    let found = faults(page, &["one", "two"].map(str::to_owned).into());
    assert_eq!(found, ["b: there is no three", "b: no test is named", "c: no test is named"]);
}
