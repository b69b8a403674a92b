//! The texts of a policy directory, read together: bounded, and only from files that nobody may change but their owner and group. It
//! does not know what stands in them.
//!
//! Kubernetes mounts a directory whose names are links through `..data`, which is exchanged at once. Links are followed, names that
//! begin with a dot are skipped, and a set is taken only if two readings in a row agree, so that no set mixes two.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::policies::{PolicyError, Problem};

/// The schema's file.
pub(super) const SCHEMA: &str = "triseal.cedarschema";
/// The file of callers and teams.
pub(super) const ENTITIES: &str = "entities.json";
/// How the names of files with policies end.
const POLICIES: &str = ".cedar";
/// A directory has at most so many files with policies.
const MAX_FILES: usize = 64;
/// And at most so many names at all: it is no home directory.
const MAX_NAMES: usize = 1_000;
/// A file has at most so many octets.
const MAX_FILE_OCTETS: u64 = 1 << 20;
/// A directory that changes under each of so many readings can't be read.
const READINGS: usize = 5;

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Text {
    pub(super) name: String,
    pub(super) content: String,
}

/// All files of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Texts {
    pub(super) schema: Text,
    pub(super) entities: Text,
    /// By name.
    pub(super) policies: Vec<Text>,
}

impl Texts {
    /// Reads a directory until two readings in a row agree.
    ///
    /// # Errors
    /// [`PolicyError`], if a file is missing or can't be read, or if they go on changing.
    pub(super) fn settled(directory: &Path) -> Result<Self, PolicyError> {
        let mut last = Self::read(directory);
        for _ in 1..READINGS {
            let next = Self::read(directory);
            if next == last {
                return next;
            }
            last = next;
        }
        Err(problem(directory, "changes while it is read"))
    }

    /// Reads a directory once.
    ///
    /// # Errors
    /// [`PolicyError`], if a file is missing or can't be read.
    pub(super) fn read(directory: &Path) -> Result<Self, PolicyError> {
        not_everyones(directory, &fs::metadata(directory).map_err(|error| unreadable(directory, &error))?)?;
        let entries = fs::read_dir(directory).map_err(|error| unreadable(directory, &error))?;
        let mut names = Vec::new();
        for entry in entries.take(MAX_NAMES + 1) {
            names.push(entry.map_err(|error| unreadable(directory, &error))?.file_name());
        }
        if names.len() > MAX_NAMES {
            return Err(problem(directory, &format!("has more than {MAX_NAMES} names in it")));
        }
        let is_policy = |name: &&str| name.ends_with(POLICIES) && !name.starts_with('.');
        let mut policies: Vec<_> = names.iter().filter_map(|name| name.to_str()).filter(is_policy).collect();
        policies.sort_unstable();
        match policies.len() {
            0 => return Err(problem(directory, "has no *.cedar file, so that nothing would be permitted")),
            1..=MAX_FILES => {}
            _ => return Err(problem(directory, &format!("has more than {MAX_FILES} *.cedar files"))),
        }
        Ok(Self {
            schema: read_file(directory, SCHEMA)?,
            entities: read_file(directory, ENTITIES)?,
            policies: policies.into_iter().map(|name| read_file(directory, name)).collect::<Result<_, _>>()?,
        })
    }
}

fn read_file(directory: &Path, name: &str) -> Result<Text, PolicyError> {
    let path = directory.join(name);
    let wrong = |error: io::Error| unreadable(&path, &error);
    // Before it is opened: a pipe would wait for a writer.
    let about = fs::metadata(&path).map_err(wrong)?;
    if !about.is_file() {
        return Err(problem(&path, "is no file"));
    }
    not_everyones(&path, &about)?;
    let mut content = Vec::new();
    File::open(&path).map_err(wrong)?.take(MAX_FILE_OCTETS + 1).read_to_end(&mut content).map_err(wrong)?;
    if content.len() as u64 > MAX_FILE_OCTETS {
        return Err(problem(&path, &format!("is longer than {MAX_FILE_OCTETS} octets")));
    }
    let content = String::from_utf8(content).map_err(|_| problem(&path, "is not UTF-8"))?;
    Ok(Text { name: name.to_owned(), content })
}

/// Whoever may write to it may permit himself everything.
fn not_everyones(path: &Path, about: &fs::Metadata) -> Result<(), PolicyError> {
    match about.mode() & 0o7777 {
        mode if mode & 0o002 == 0 => Ok(()),
        mode => Err(problem(path, &format!("may be changed by everyone (mode {mode:04o}): type `chmod o-w` on it"))),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> PolicyError {
    match error.kind() {
        io::ErrorKind::NotFound => problem(path, "is not there"),
        _ => problem(path, &format!("can't be read: {error}")),
    }
}

fn problem(path: &Path, text: &str) -> PolicyError {
    Problem::about(path.display().to_string(), None, text).into()
}
