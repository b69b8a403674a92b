//! Holds `docs/DEPENDENCIES.md` and `deny.toml` to `Cargo.toml` and `Cargo.lock`: each dependency is accounted for, and each crate that
//! keys pass through is named so that cargo-deny refuses a second version.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use toml::Table;

/// Cryptography that the crate uses by itself. What they stand on is found in the lock file.
const CRYPTO: &[&str] = &["aes-gcm", "base64ct", "getrandom", "hkdf", "hmac", "rustls", "sha2", "subtle", "zeroize"];

/// What stands below them and sees no key, and why.
#[rustfmt::skip]
const NO_KEYS: &[(&str, &str)] = &[
    ("cfg-if", "a macro"), ("cpubits", "a macro"), ("const-oid", "names of algorithms"), ("typenum", "numbers as types"),
    ("generic-array", "of digest 0.10"), ("version_check", "asks which compiler it is"),
    ("libc", "declarations"), ("windows-sys", "declarations"), ("windows-targets", "declarations"), ("r-efi", "another system's"),
    ("wasi", "another system's"), ("wasip2", "another system's"), ("wit-bindgen", "another system's"),
    ("proc-macro2", "of macros"), ("quote", "of macros"), ("syn", "of macros"), ("unicode-ident", "of macros"),
    ("cc", "of build scripts"), ("cmake", "of build scripts"), ("dunce", "of build scripts"), ("fs_extra", "of build scripts"),
    ("find-msvc-tools", "of build scripts"), ("jobserver", "of build scripts"), ("shlex", "of build scripts"), ("pkg-config", "of build scripts"),
    ("rand_core", "traits, which aead and crypto-common may use and here do not"), ("log", "rustls is built without it"),
    ("once_cell", "cells"), ("untrusted", "reads certificates"), ("ring", "banned altogether: no target builds it"),
];

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

fn table(file: &str) -> Table {
    read(file).parse().unwrap()
}

/// The names in backticks.
fn quoted(text: &str) -> impl Iterator<Item = String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// The crates that the page accounts for: the first cell of each row, and those that see no secret.
fn accounted_for(page: &str) -> Vec<String> {
    let (tables, rest) = page.split_once("## No secret").unwrap();
    let rows = tables.lines().filter_map(|line| line.strip_prefix('|')?.split('|').next());
    let lists = rest.split_once("And at build time alone:").unwrap();
    let build_time = lists.1.split('.').next().unwrap();
    rows.flat_map(quoted).chain(quoted(lists.0)).chain(quoted(build_time)).collect()
}

#[test]
fn every_dependency_is_accounted_for() {
    let manifest = table("Cargo.toml");
    let direct: BTreeSet<String> = ["dependencies", "build-dependencies"]
        .iter()
        .flat_map(|kind| manifest[*kind].as_table().unwrap().keys().cloned())
        .collect();
    let named = accounted_for(&read("docs/DEPENDENCIES.md"));
    let once: BTreeSet<String> = named.iter().cloned().collect();
    assert_eq!(once.len(), named.len(), "docs/DEPENDENCIES.md names a crate twice: {named:?}");
    let missing: Vec<_> = direct.difference(&once).collect();
    assert!(
        missing.is_empty(),
        "docs/DEPENDENCIES.md does not say what {missing:?} sees: a row in a table, with what you checked, or a name below \"No secret\""
    );
    let gone: Vec<_> = once.difference(&direct).collect();
    assert!(gone.is_empty(), "docs/DEPENDENCIES.md names {gone:?}, on which nothing depends by itself any more");
}

/// The packages of the lock file by their names: versions, and what each depends on.
fn locked(file: &str) -> BTreeMap<String, BTreeMap<String, Vec<String>>> {
    let mut packages = BTreeMap::<_, BTreeMap<_, _>>::new();
    for package in table(file)["package"].as_array().unwrap() {
        let text = |name: &str| package[name].as_str().unwrap().to_owned();
        let below = package.get("dependencies").and_then(|list| list.as_array()).into_iter().flatten();
        let below = below.map(|name| name.as_str().unwrap().split(' ').next().unwrap().to_owned());
        packages.entry(text("name")).or_default().insert(text("version"), below.collect());
    }
    packages
}

/// Crypto crates and all below them, but those of [`NO_KEYS`].
fn crypto(packages: &BTreeMap<String, BTreeMap<String, Vec<String>>>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut waiting: Vec<String> = CRYPTO.iter().map(|name| (*name).to_owned()).collect();
    while let Some(name) = waiting.pop() {
        let is_crypto = !NO_KEYS.iter().any(|(other, _)| *other == name);
        if is_crypto && found.insert(name.clone()) {
            waiting.extend(packages[&name].values().flatten().cloned());
        }
    }
    found
}

#[test]
fn a_second_version_of_a_crypto_crate_is_refused() {
    let (packages, deny) = (locked("Cargo.lock"), table("deny.toml"));
    let entries = |list: &str| deny["bans"][list].as_array().unwrap().clone();
    let name = |entry: &toml::Value| entry["crate"].as_str().unwrap().to_owned();
    let is_single =
        |entry: &toml::Value| entry.get("deny-multiple-versions").is_some_and(|on| on.as_bool() == Some(true));
    let single: BTreeSet<_> = entries("deny").iter().filter(|entry| is_single(entry)).map(name).collect();
    let skipped: BTreeSet<_> = entries("skip").iter().map(name).collect();

    let crypto = crypto(&packages);
    assert!(
        ["aead", "aes", "aws-lc-rs", "digest", "polyval"].iter().all(|below| crypto.contains(*below)),
        "{crypto:?}"
    );
    let unheld: Vec<_> = crypto.difference(&single).collect();
    assert!(
        unheld.is_empty(),
        "deny.toml lets second versions of {unheld:?} in: add each with deny-multiple-versions, or to NO_KEYS with a reason"
    );
    let idle: Vec<_> = NO_KEYS.iter().filter(|(name, _)| !packages.contains_key(*name)).collect();
    assert!(idle.is_empty(), "NO_KEYS names {idle:?}, and Cargo.lock has none");
    let gone: Vec<_> = single.iter().filter(|name| !packages.contains_key(*name)).collect();
    assert!(gone.is_empty(), "deny.toml holds {gone:?} to one version, and Cargo.lock has none");
    for name in &skipped {
        let (_, version) = name.split_once('@').unwrap_or_else(|| panic!("deny.toml skips every version of {name}"));
        assert!(
            packages[name.split('@').next().unwrap()].contains_key(version),
            "deny.toml skips {name}, which is gone"
        );
    }
}

#[test]
fn what_is_fuzzed_is_built_as_what_is_shipped() {
    let shipped = locked("Cargo.lock");
    let is_shipped =
        |name: &str, version: &String| shipped.get(name).is_some_and(|versions| versions.contains_key(version));
    let fuzzed = locked("fuzz/Cargo.lock");
    let packages =
        fuzzed.iter().flat_map(|(name, versions)| versions.keys().map(move |version| (name.as_str(), version)));
    let other: Vec<_> = packages.filter(|(name, version)| !is_shipped(name, version)).map(|(name, _)| name).collect();
    assert_eq!(
        other,
        ["arbitrary", "libfuzzer-sys", "triseal-fuzz"],
        "fuzz/README.md tells how to make fuzz/Cargo.lock anew"
    );
}

#[test]
fn what_a_page_leaves_out_is_found() {
    let page = "| crate | sees |\n|---|---|\n| `a`, `b` | keys of `c` |\n\n## No secret\n\n`d`, `e`.\n\nAnd at build time alone: `f`. With `a`.";
    assert_eq!(accounted_for(page), ["a", "b", "d", "e", "f"]);
}
