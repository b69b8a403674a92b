//! `triseal keygen`: makes the first version of the codebase's or the environment's key, or `certificates`. It needs no service. A
//! key goes to a new file that only its owner can read, and nowhere else.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;
use triseal::crypto::{CodebaseKey, EnvironmentKey, Fingerprint, fingerprint};
use triseal::factors::document::{Form, KeyDocument};
use triseal::factors::local;
use zeroize::Zeroizing;

use crate::certificates;
use crate::failure::Failure;
use crate::output::{Format, Output, printable};

/// The commands.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make the key that is compiled into the service
    // Without the options of a service, which clap would name where the environment sets them.
    #[command(
        override_usage = "triseal keygen codebase [OPTIONS] <FILE>",
        after_help = "Example:\n  triseal keygen codebase codebase-keys.json\n  \
                      TRISEAL_CODEBASE_KEYS=$PWD/codebase-keys.json cargo build --profile dist"
    )]
    Codebase(Destination),
    /// Make the key of a deployment, for a file of its service or for its secret
    #[command(
        override_usage = "triseal keygen environment [OPTIONS] <FILE>",
        after_help = "Example:\n  triseal keygen environment environment-keys.json"
    )]
    Environment(Destination),
    /// Make certificates to try TLS with: a CA, the service's and callers'
    #[command(
        after_help = "Example:\n  triseal keygen certificates certificates --caller realtask --caller security\n  \
                            triseal keygen certificates certificates --revoke realtask"
    )]
    Certificates(certificates::Arguments),
}

#[derive(Args)]
pub(crate) struct Destination {
    /// A file that is not there yet: keys are never written over, and never printed
    file: PathBuf,
}

#[derive(Serialize)]
struct Made<'a> {
    file: &'a str,
    format: &'static str,
    version: u32,
    fingerprint: String,
}

pub(crate) fn run(command: &Command, output: &mut Output) -> Result<(), Failure> {
    let (form, path) = match command {
        Command::Codebase(destination) => (Form::Codebase, &destination.file),
        Command::Environment(destination) => (Form::Environment, &destination.file),
        Command::Certificates(arguments) => return certificates::run(arguments, output),
    };
    if path == Path::new("-") {
        return Err(Failure::usage("a key is never printed".to_owned()).with_hint("name a file that is not there yet"));
    }
    let fingerprint = make(form, path, Timestamp::now())?;
    let fingerprint: String = fingerprint.0.iter().map(|octet| format!("{octet:02x}")).collect();
    let file = path.to_string_lossy();
    if output.format() == Format::Json {
        return output.json(&Made { file: &file, format: form.as_str(), version: 1, fingerprint });
    }
    output.fields(&[
        ("file", file.to_string()),
        ("format", form.as_str().to_owned()),
        ("version", "1".to_owned()),
        ("fingerprint", fingerprint),
    ])?;
    // As it can be named from everywhere.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let path = printable(&path.to_string_lossy());
    let next = match form {
        Form::Codebase => format!(
            "next: keep a copy offline, and never in version control: without it nothing opens again\n\
             \x20     build the service with it: TRISEAL_CODEBASE_KEYS={path} cargo build --profile dist\n"
        ),
        Form::Environment => format!(
            "next: keep a copy offline: without it nothing opens again\n\
             \x20     where the settings have factors.environment = \"file\", set factors.file.path = \"{path}\"\n\
             \x20     where they have \"secrets-manager\", put the file's content, whole, as the value of the secret\n"
        ),
    };
    output.octets(next.as_bytes())
}

/// Makes a document with one new key and writes it to a new file.
fn make(form: Form, path: &Path, now: Timestamp) -> Result<Fingerprint, Failure> {
    let mut key = Zeroizing::new([0; 32]);
    getrandom::fill(key.as_mut())
        .map_err(|_| Failure::failed("the operating system gives no random numbers".to_owned()))?;
    let fingerprint = match form {
        Form::Codebase => fingerprint(&CodebaseKey::new(key.clone())),
        Form::Environment => fingerprint(&EnvironmentKey::new(key.clone())),
    };
    // Whole seconds are enough to tell versions apart.
    let document = KeyDocument::first(key, Timestamp::from_second(now.as_second()).unwrap_or(now)).to_json(form);
    write_new(path, document.as_bytes())?;
    Ok(fingerprint)
}

fn write_new(path: &Path, octets: &[u8]) -> Result<(), Failure> {
    local::create(path, octets).map_err(|error| {
        let file = path.display();
        match error.kind() {
            io::ErrorKind::AlreadyExists => {
                Failure::refused(format!("{file} is there already, and keys are never written over"))
                    .with_hint("name a file that is not there yet")
            }
            _ => Failure::failed(format!("cannot make {file}: {error}"))
                .with_hint("name a file in a folder that is there and that you may write to"),
        }
    })
}

#[cfg(test)]
mod tests {
    use triseal::factors::document::KeyState;

    use super::*;
    use crate::failure::Exit;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_new_document_can_be_read_and_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        for form in [Form::Codebase, Form::Environment] {
            let path = directory.path().join(&form.as_str()[..9]);
            let made = make(form, &path, "2026-11-24T09:00:00.75Z".parse().unwrap()).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

            let read = KeyDocument::parse(form, &fs::read_to_string(&path).unwrap()).unwrap();
            let [entry] = read.keys.as_slice() else { panic!("one key") };
            assert_eq!((read.primary, entry.version, entry.state), (1, 1, KeyState::Enabled));
            assert_eq!(entry.created_at, Some("2026-11-24T09:00:00Z".parse().unwrap()));
            assert_eq!(made, fingerprint(&CodebaseKey::new(entry.key.clone())));
        }
    }

    #[test]
    fn no_two_keys_are_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let make = |name: &str| make(Form::Codebase, &directory.path().join(name), Timestamp::UNIX_EPOCH).unwrap();
        assert_ne!(make("a"), make("b"));
    }

    #[test]
    fn a_file_is_never_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.json");
        fs::write(&path, "precious").unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path().join("nowhere"), &link).unwrap();
        for taken in [&path, &link] {
            let failure = make(Form::Codebase, taken, Timestamp::UNIX_EPOCH).unwrap_err();
            assert_eq!(failure.exit, Exit::Refused);
            assert!(failure.message.starts_with(&taken.display().to_string()), "{}", failure.message);
        }
        for nowhere in [directory.path().join("missing/keys.json"), path.join("keys.json")] {
            let failure = make(Form::Codebase, &nowhere, Timestamp::UNIX_EPOCH).unwrap_err();
            assert_eq!(failure.exit, Exit::Failed);
            assert!(failure.message.contains(&nowhere.display().to_string()), "{}", failure.message);
            assert!(failure.hint.is_some_and(|hint| hint.contains("folder")));
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert!(!directory.path().join("nowhere").exists());
    }
}
