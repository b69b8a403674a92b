//! Holds `src/` to the architecture: which module may use which, and where a crate or a facility may stand. One crate
//! cannot have Cargo check it.
//!
//! It reads tokens and not types: comments, literals and tests are skipped, `use` trees and paths are followed. What a
//! macro pastes together from pieces it does not see.

mod dependencies;
mod source;

use std::collections::BTreeSet;
use std::fmt;

use source::{Used, paths, read_source, test_modules, without_tests};

/// From the edge down. A module uses its own layer and those below it.
const LAYERS: &[&[&str]] = &[
    &["fuzzing"],
    &["grpc", "ops"],
    &["observed"],
    &["service"],
    &["access", "vault", "refresh", "customers", "jobs", "audit"],
    &["keyring"],
    &["factors"],
    &["store"],
    &["secret"],
    &["crypto"],
    &["aws", "config", "ids", "jitter", "randomness", "telemetry"],
];

/// Files that use nothing of the crate but their own module, and why.
const SELF_CONTAINED: &[(&str, &str)] = &[
    ("crypto/", "a reviewer reads it alone, in an hour"),
    ("factors/document.rs", "the build script compiles it too"),
    ("ids.rs", "everything may use it"),
];

/// A path that may not stand everywhere. `tonic*` stands for each name that begins so.
struct Rule {
    paths: &'static [&'static str],
    except: &'static [&'static str],
    places: Places,
    reason: &'static str,
}

enum Places {
    OnlyIn(&'static [&'static str]),
    NotIn(&'static [&'static str]),
}

const RULES: &[Rule] = &[
    Rule {
        paths: &["aws_sdk*", "aws_smithy*"],
        except: &[],
        places: Places::OnlyIn(&[
            "aws.rs",
            "factors/secrets_manager.rs",
            "factors/secrets_manager/",
            "factors/kms.rs",
            "store/dynamodb/",
        ]),
        reason: "each AWS service has one adapter, and they share aws.rs; everything else knows a trait",
    },
    Rule {
        paths: &["aws_config"],
        except: &[],
        places: Places::OnlyIn(&["aws.rs", "factors/secrets_manager.rs", "factors/kms.rs", "store/dynamodb/", "bin/"]),
        reason: "a program loads the AWS settings and hands them to the adapters",
    },
    Rule {
        paths: &["tonic*", "prost*"],
        except: &[],
        places: Places::OnlyIn(&["grpc/", "secret/stored.rs", "bin/triseal/"]),
        reason: "the edge alone knows the wire; for the stored form see docs/adr/0002",
    },
    Rule {
        paths: &["hyper*", "tower*"],
        except: &[],
        places: Places::OnlyIn(&["grpc/", "ops.rs", "bin/triseal/tls.rs"]),
        reason: "two listeners speak HTTP, and the command line dials one of them; nothing else does",
    },
    Rule {
        paths: &["metrics::counter", "metrics::gauge", "metrics::histogram", "metrics_exporter*"],
        except: &[],
        places: Places::OnlyIn(&["telemetry/"]),
        reason: "every metric stands in telemetry/metrics.rs, with its closed labels",
    },
    Rule {
        paths: &["rustls*", "tokio_rustls", "x509_parser"],
        except: &[],
        places: Places::OnlyIn(&["grpc/identity.rs", "grpc/tls.rs", "grpc/tls/", "bin/triseal/"]),
        reason: "who is at the other end is found out in one place; everything else knows a caller",
    },
    Rule {
        paths: &["rcgen"],
        except: &[],
        places: Places::OnlyIn(&["bin/triseal/certificates.rs"]),
        reason: "the service issues no certificate",
    },
    Rule {
        paths: &["cedar_policy*"],
        except: &[],
        places: Places::OnlyIn(&["access/policies.rs", "access/policies/"]),
        reason: "what a policy is, one file knows; everything else asks, the command line too",
    },
    Rule {
        paths: &["std::env"],
        except: &["std::env::args", "std::env::args_os"],
        places: Places::OnlyIn(&["config.rs"]),
        reason: "settings come from one place; a program's arguments are none",
    },
    Rule {
        paths: &["async", "await", "tokio*", "futures*", "async_trait"],
        except: &[],
        places: Places::NotIn(&["crypto/"]),
        reason: "crypto/ does no I/O, so nothing in it waits",
    },
    Rule {
        paths: &["std::time", "jiff"],
        except: &[],
        places: Places::NotIn(&["crypto/"]),
        reason: "crypto/ knows no clock",
    },
    Rule {
        paths: &["std::fs", "std::io", "std::net", "std::path", "std::process", "std::thread"],
        except: &[],
        places: Places::NotIn(&["crypto/"]),
        reason: "crypto/ knows no file, network or process",
    },
    Rule {
        paths: &["getrandom", "rand*"],
        except: &[],
        places: Places::NotIn(&["crypto/"]),
        reason: "randomness is a parameter of crypto/",
    },
    Rule {
        paths: &["tracing*", "log", "print", "println", "eprint", "eprintln", "dbg"],
        except: &[],
        places: Places::NotIn(&["crypto/"]),
        reason: "crypto/ holds keys and logs nothing",
    },
    Rule {
        paths: &["serde*", "minicbor"],
        except: &[],
        places: Places::NotIn(&["crypto/"]),
        reason: "a key has no serialized form but the one that factors/document.rs writes",
    },
];

/// crypto/ without its tests, blank lines and comments included.
const MAX_CRYPTO_LINES: usize = 900;

#[test]
fn the_source_keeps_to_the_architecture() {
    let files = read_source();
    let violations: Vec<_> = files.iter().flat_map(|file| check(&file.path, &file.text)).collect();
    assert!(violations.is_empty(), "\n{}\n", lines(&violations));
}

#[test]
fn crypto_stays_small_enough_to_be_read() {
    let lines: usize = read_source()
        .iter()
        .filter(|file| file.path.starts_with("crypto/"))
        .map(|file| file.text.lines().count())
        .sum();
    assert!(lines > 100, "only {lines} lines were found in src/crypto/");
    assert!(
        lines <= MAX_CRYPTO_LINES,
        "src/crypto/ has {lines} lines without tests, and at most {MAX_CRYPTO_LINES} may be"
    );
}

#[test]
fn every_module_has_a_layer() {
    let files = read_source();
    let known: BTreeSet<&str> = LAYERS.iter().copied().flatten().copied().collect();
    for file in files.iter().filter(|file| file.path != "lib.rs" && !file.path.starts_with("bin/")) {
        let module = module_path(&file.path);
        assert!(known.contains(module[0]), "src/{}: the module `{}` has no layer in LAYERS", file.path, module[0]);
    }
    // That the walk sees the tree at all.
    for path in ["lib.rs", "crypto/envelope.rs", "grpc/mod.rs", "bin/triseald.rs"] {
        assert!(files.iter().any(|file| file.path == path), "src/{path} was not read");
    }
}

/// `autotests = false` in Cargo.toml: what is not listed there is never compiled, and never run.
#[test]
fn every_test_is_listed() {
    let package = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest: toml::Table = std::fs::read_to_string(package.join("Cargo.toml")).unwrap().parse().unwrap();
    let tests = manifest["test"].as_array().unwrap();
    let listed: BTreeSet<_> = tests.iter().map(|test| test["path"].as_str().unwrap().to_owned()).collect();
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(package.join("tests")).unwrap().map(|entry| entry.unwrap().path()) {
        let main = if entry.is_dir() { entry.join("main.rs") } else { entry };
        if main.is_file() && main.extension().is_some_and(|extension| extension == "rs") {
            found.insert(main.strip_prefix(package).unwrap().to_str().unwrap().to_owned());
        }
    }
    assert_eq!(found, listed);
    assert!(!manifest["package"]["autotests"].as_bool().unwrap());
}

// --- the checks ------------------------------------------------------------

#[derive(PartialEq)]
struct Violation {
    file: String,
    line: usize,
    rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src/{}:{}: {}", self.file, self.line, self.rule)
    }
}

fn lines(violations: &[Violation]) -> String {
    violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Everything that is wrong with one file, whose path is relative to `src/`.
fn check(file: &str, text: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    for used in paths(without_tests(text)) {
        let complaint = |rule: String| Violation { file: file.to_owned(), line: used.line, rule };
        found.extend(RULES.iter().filter_map(|rule| rule.breach(file, &used.names)).map(complaint));
        if let Some(target) = module_of_crate(file, &used) {
            found.extend(layer_breach(file, &target).map(complaint));
        }
    }
    // `use x::{self, Y}` names x twice.
    found.dedup();
    found
}

impl Rule {
    fn breach(&self, file: &str, used: &[String]) -> Option<String> {
        let path = self.paths.iter().find(|path| begins_with(used, path))?;
        if self.except.iter().any(|path| begins_with(used, path)) {
            return None;
        }
        match self.places {
            Places::OnlyIn(places) if !is_in(file, places) => {
                Some(format!("`{path}` may stand only in {}: {}", places.join(", "), self.reason))
            }
            Places::NotIn(places) if is_in(file, places) => {
                Some(format!("`{path}` may not stand in {}: {}", places.join(", "), self.reason))
            }
            Places::OnlyIn(_) | Places::NotIn(_) => None,
        }
    }
}

fn is_in(file: &str, places: &[&str]) -> bool {
    places.iter().any(|place| file == *place || (place.ends_with('/') && file.starts_with(place)))
}

fn begins_with(used: &[String], path: &str) -> bool {
    let mut names = used.iter();
    path.split("::").all(|expected| {
        names.next().is_some_and(|name| match expected.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == expected,
        })
    })
}

/// The top-level module of this crate that a path leads to, if it does.
fn module_of_crate(file: &str, used: &Used) -> Option<String> {
    if file == "lib.rs" || file.starts_with("bin/") {
        // The crate's root only lists its modules, and a program may use all of them.
        return None;
    }
    if used.names.first().is_some_and(|name| name == "crate") {
        return used.names.get(1).cloned();
    }
    let ups = used.names.iter().take_while(|name| *name == "super").count();
    let depth = module_path(file).len() + used.nested;
    if ups == depth { used.names.get(ups).cloned() } else { None }
}

fn layer_breach(file: &str, target: &str) -> Option<String> {
    let module = module_path(file)[0];
    if let Some((place, reason)) = SELF_CONTAINED.iter().find(|(place, _)| is_in(file, &[place])) {
        let own = place.ends_with('/') && target == module;
        return (!own)
            .then(|| format!("{place} may not use crate::{target}, nor anything else of the crate: {reason}"));
    }
    let layer_of = |name: &str| LAYERS.iter().position(|layer| layer.contains(&name));
    let (from, to) = (layer_of(module)?, layer_of(target)?);
    (to < from)
        .then(|| format!("{module} may not use crate::{target}: dependencies point down the layers and never up"))
}

/// `store/dynamodb.rs` is `["store", "dynamodb"]`, and `store/mod.rs` is `["store"]`.
fn module_path(file: &str) -> Vec<&str> {
    file.trim_end_matches(".rs").split('/').filter(|name| *name != "mod").collect()
}

// --- the checker itself ----------------------------------------------------

/// The one violation that is planted in a file, as `line: rule`.
#[track_caller]
fn finds(file: &str, text: &str, line: usize, part: &str) {
    let found = check(file, text);
    assert_eq!(found.len(), 1, "{file}: {}", lines(&found));
    assert!(found[0].line == line && found[0].rule.contains(part), "{}", found[0]);
}

#[track_caller]
fn accepts(file: &str, text: &str) {
    let found = check(file, text);
    assert!(found.is_empty(), "{}", lines(&found));
}

#[test]
fn a_use_up_the_layers_is_found() {
    finds("store/rows.rs", "//! Why.\n\nuse crate::keyring::Keyring;\n", 3, "store may not use crate::keyring");
    finds("store/rows.rs", "use crate::{ids::CustomerId,\n    grpc::v1};", 2, "crate::grpc");
    finds("vault.rs", "fn f() { super::grpc::serve() }", 1, "crate::grpc");
    finds("store/embedded.rs", "use super::super::vault::{self, Vault};\n", 1, "crate::vault");
    finds("store/mod.rs", "mod x { fn f() {} use super::super::vault; }", 1, "crate::vault");
    finds("secret/mod.rs", "use super::store;", 1, "crate::store");
    finds("telemetry.rs", "fn f(x: &crate::crypto::Root) {}", 1, "crate::crypto");
    finds("factors/kms.rs", "pub(in crate::vault) fn f() {}", 1, "crate::vault");
}

#[test]
fn uses_down_the_layers_are_accepted() {
    accepts("grpc/mod.rs", "use crate::{config::Settings, vault::Vault};");
    accepts("vault.rs", "use crate::audit::Entry; use crate::keyring; use super::store::Row;");
    accepts("store/embedded.rs", "use super::{rows, keyring::NotTheCratesOwn}; use crate::secret::Kind;");
    accepts("store/mod.rs", "mod x { use super::vault; } fn f() {}");
    accepts("keyring/mod.rs", "pub(crate) fn f() -> crate::factors::Factor { self::x::y() }");
    accepts("lib.rs", "pub mod grpc; pub use crate::grpc::v1;");
    accepts("bin/triseald.rs", "use triseal::grpc; mod x; use crate::x::y;");
}

#[test]
fn what_stands_alone_uses_nothing() {
    finds("crypto/kdf.rs", "use crate::ids::CustomerId;", 1, "crypto/ may not use crate::ids");
    finds("factors/document.rs", "use super::Factor;\nuse crate::crypto::Key;", 2, "factors/document.rs may not use");
    finds("ids.rs", "use crate::config;", 1, "ids.rs may not use crate::config");
    accepts("crypto/kdf.rs", "use super::secret::Root; use crate::crypto::Version;");
}

#[test]
fn crates_out_of_their_place_are_found() {
    finds("vault.rs", "fn f(client: aws_sdk_kms::Client) {}", 1, "`aws_sdk*` may stand only in");
    finds("bin/triseald.rs", "use aws_sdk_dynamodb::Client;", 1, "`aws_sdk*`");
    finds("access/mod.rs", "use cedar_policy::Authorizer;", 1, "`cedar_policy*`");
    finds("bin/triseal/policy.rs", "use cedar_policy::PolicySet;", 1, "`cedar_policy*`");
    finds("store/dynamodb.rs", "use aws_sdk_dynamodb::Client;", 1, "`aws_sdk*`");
    accepts("store/dynamodb/wire.rs", "use aws_sdk_dynamodb::Client;");
    finds("vault.rs", "fn f() -> Result<(), ::tonic::Status> { g() }", 1, "`tonic*`");
    finds("store/encoding.rs", "use prost::Message as _;", 1, "`prost*`");
    finds("store/encoding.rs", "use {std::fmt, prost_types::Timestamp};", 1, "`prost*`");
    finds("grpc/credential.rs", "fn f(key: rustls::pki_types::PrivateKeyDer) {}", 1, "`rustls*`");
    finds("bin/triseald.rs", "use rcgen::KeyPair;", 1, "`rcgen`");
    finds("bin/triseald.rs", "use std::{fs, env};\n", 1, "`std::env`");
    finds("vault.rs", "const A: &str = \"//\";\nfn f() { std::env::var(\"X\") }", 2, "`std::env`");
    finds("vault.rs", "fn f() { metrics::counter!(\"x\", \"customer\" => id).increment(1) }", 1, "`metrics::counter`");
    finds("vault.rs", "use hyper::Request;", 1, "`hyper*`");
    accepts("vault.rs", "use crate::telemetry::metrics; fn f(x: &metrics::RootCache) {}");
    accepts("factors/kms.rs", "use aws_sdk_kms::Client;");
    accepts("access/policies.rs", "use cedar_policy::Authorizer;");
    accepts("secret/stored.rs", "tonic::include_proto!(\"triseal.storage.v1\");");
    accepts("config.rs", "std::env::vars_os();");
    accepts("bin/triseal/main.rs", "let a = std::env::args_os(); const B: &str = env!(\"CARGO_PKG_NAME\");");
}

#[test]
fn crypto_is_found_to_be_impure() {
    for (text, part) in [
        ("async fn f() {}", "`async`"),
        ("fn f() { g().await; }", "`await`"),
        ("use tokio::sync::Mutex;", "`tokio*`"),
        ("fn f() { std::time::Instant::now(); }", "`std::time`"),
        ("fn f(at: jiff::Timestamp) {}", "`jiff`"),
        ("use std::{fmt, fs::File};", "`std::fs`"),
        ("use std::io::Read;", "`std::io`"),
        ("fn f() { getrandom::fill(&mut x); }", "`getrandom`"),
        ("fn f() { tracing::info!(\"x\"); }", "`tracing*`"),
        ("fn f() { println!(\"x\"); }", "`println`"),
        ("#[derive(serde::Serialize)] struct X;", "`serde*`"),
    ] {
        finds("crypto/envelope.rs", &format!("{text}\n"), 1, part);
    }
    accepts("crypto/envelope.rs", "use std::fmt; fn f(x: &X) -> u8 { x.log + x.rand() }");
    accepts("keyring/mod.rs", "async fn f() { tokio::time::sleep(x).await }");
}

#[test]
fn comments_literals_and_tests_are_no_code() {
    accepts("crypto/aead.rs", "// tokio::spawn\n/* crate::grpc /* tonic:: */ async */ fn f<'async_>() {}");
    accepts(
        "crypto/aead.rs",
        "const A: &[u8] = b\"tokio::spawn\"; const B: &str = r#\"\"async\"#; const C: char = '\"';",
    );
    accepts(
        "crypto/aead.rs",
        "const D: char = '\\u{1f512}'; const E: u8 = b'\\''; fn f<'a>(x: &'a str) -> &'a str { x }",
    );
    accepts("crypto/aead.rs", "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n");
    finds("crypto/aead.rs", "fn f<'a>(x: &'a str) {}\n#[cfg(test)]\nuse std::fs;\nfn g() {}", 3, "`std::fs`");
    finds("crypto/aead.rs", "const A: char = '\\n';\nconst B: &str = \"\\\"\n\";\nuse std::fs;", 4, "`std::fs`");
    assert_eq!(test_modules("crypto/mod.rs", "#[cfg(test)]\nmod tests;\nmod aead;"), ["crypto/tests"]);
    assert_eq!(test_modules("crypto/aead.rs", "#[cfg(test)]\n#[path = \"x\"]\nmod tests;"), ["crypto/aead/tests"]);
}
