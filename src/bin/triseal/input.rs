//! Reads a secret from a file or standard input: bounded, into memory that is wiped, and without ever repeating in an
//! error what was read.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use triseal::grpc::v1::{Password, SalesforceOAuth};
use triseal::secret::stored::to_timestamp;
use zeroize::Zeroizing;

use crate::failure::Failure;

/// What a request may have in all, so no secret has more.
pub(crate) const MAX_INPUT_OCTETS: usize = 1_048_576;

/// Reads the file, or standard input if there is none or it is `-`.
pub(crate) fn read(path: Option<&Path>) -> Result<Zeroizing<Vec<u8>>, Failure> {
    read_bounded(open(path)?)
}

/// Opens the file, or standard input if there is none or it is `-`.
pub(crate) fn open(path: Option<&Path>) -> Result<File, Failure> {
    // The path is not repeated in errors: it may be a secret that was given in the wrong place.
    match path {
        Some(path) if path != Path::new("-") => {
            let file = File::open(path);
            file.map_err(|error| Failure::failed(format!("cannot open the input file: {error}")))
        }
        Some(_) | None => standard_input(),
    }
}

/// Standard input without the standard library's buffer, which is never wiped.
fn standard_input() -> Result<File, Failure> {
    if io::stdin().is_terminal() {
        let _ =
            io::stderr().write_all(b"reading the secret from the terminal; end it with Ctrl-D on a line of its own\n");
    }
    let input = io::stdin().as_fd().try_clone_to_owned();
    input.map(File::from).map_err(|error| Failure::failed(format!("cannot read standard input: {error}")))
}

fn read_bounded(mut input: impl Read) -> Result<Zeroizing<Vec<u8>>, Failure> {
    // As long as it can get, from the start: what grows leaves copies behind.
    let mut octets = Zeroizing::new(vec![0; MAX_INPUT_OCTETS + 1]);
    let mut filled = 0;
    while let Some(rest) = octets.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::failed(format!("cannot read the input: {error}"))),
        }
    }
    match filled {
        0 => Err(Failure::input("the input is empty".to_owned())),
        filled if filled > MAX_INPUT_OCTETS => {
            Err(Failure::input(format!("the input is longer than {MAX_INPUT_OCTETS} octets")))
        }
        filled => {
            octets.truncate(filled);
            Ok(octets)
        }
    }
}

/// Reads one JSON object. `fields` are the names that may stand in an error; every other is the input's own text.
pub(crate) fn json<'a, T: Deserialize<'a>>(octets: &'a [u8], fields: &[&str]) -> Result<T, Failure> {
    // serde would take an array for an object, by position.
    if !octets.trim_ascii_start().starts_with(b"{") {
        return Err(Failure::input("the input is not a JSON object".to_owned()));
    }
    let mut json = serde_json::Deserializer::from_slice(octets);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let name = path.split(['.', '[']).next().unwrap_or_default();
        json_failure(fields.contains(&name).then_some(path.as_str()), error.inner())
    })?;
    json.end().map_err(|error| json_failure(None, &error))?;
    Ok(value)
}

/// serde_json's own message may repeat a value, so only its kind and place are kept.
fn json_failure(field: Option<&str>, error: &serde_json::Error) -> Failure {
    let problem = match (error.classify(), field) {
        (serde_json::error::Category::Data, Some(field)) => {
            format!("the input's field {field} is there twice, of another type, or out of range")
        }
        (serde_json::error::Category::Data, None) => "the input has a field that is unknown or missing".to_owned(),
        (
            serde_json::error::Category::Io | serde_json::error::Category::Syntax | serde_json::error::Category::Eof,
            Some(_) | None,
        ) => "the input is not JSON".to_owned(),
    };
    let line = if error.line() > 1 { format!("line {}, ", error.line()) } else { String::new() };
    Failure::input(format!("{problem}, at {line}column {}", error.column()))
}

/// A text that is wiped when dropped. Only where the JSON has escapes does the parser keep a copy that is not.
#[derive(Default)]
pub(crate) struct Text(Zeroizing<String>);

impl Text {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, for a message that wipes it in turn.
    pub(crate) fn into_exposed(mut self) -> String {
        std::mem::take(&mut self.0)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl Visitor<'_> for TextVisitor {
            type Value = Text;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(Zeroizing::new(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// A time in RFC 3339.
struct Time(prost_types::Timestamp);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text::deserialize(deserializer)?;
        let time: jiff::Timestamp = text.as_str().parse().map_err(|_| D::Error::custom("no time"))?;
        Ok(Self(to_timestamp(time)))
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct SalesforceInput {
    access_token: Text,
    refresh_token: Text,
    instance_url: Text,
    token_url: Text,
    identity_url: Text,
    scopes: Vec<Text>,
    issue_time: Option<Time>,
    access_token_expire_time: Option<Time>,
}

const SALESFORCE_FIELDS: [&str; 8] = [
    "access_token",
    "refresh_token",
    "instance_url",
    "token_url",
    "identity_url",
    "scopes",
    "issue_time",
    "access_token_expire_time",
];

/// Reads `--kind salesforce_oauth`: an object with the names of the protocol's message.
pub(crate) fn salesforce_oauth(octets: &[u8]) -> Result<SalesforceOAuth, Failure> {
    let input: SalesforceInput = json(octets, &SALESFORCE_FIELDS).map_err(|failure| {
        failure.with_hint(format!(
            "its fields are {}: scopes is an array of strings, times are RFC 3339, all others strings; for an answer of \
             Salesforce as it is, use --from-salesforce",
            SALESFORCE_FIELDS.join(", ")
        ))
    })?;
    Ok(SalesforceOAuth {
        access_token: input.access_token.into_exposed(),
        refresh_token: input.refresh_token.into_exposed(),
        instance_url: input.instance_url.into_exposed(),
        token_url: input.token_url.into_exposed(),
        identity_url: input.identity_url.into_exposed(),
        scopes: input.scopes.into_iter().map(Text::into_exposed).collect(),
        issue_time: input.issue_time.map(|time| time.0),
        access_token_expire_time: input.access_token_expire_time.map(|time| time.0),
    })
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct PasswordInput {
    username: Text,
    password: Text,
    security_token: Text,
    login_url: Text,
}

const PASSWORD_FIELDS: [&str; 4] = ["username", "password", "security_token", "login_url"];

/// Reads `--kind password`: an object with the names of the protocol's message.
pub(crate) fn password(octets: &[u8]) -> Result<Password, Failure> {
    let input: PasswordInput = json(octets, &PASSWORD_FIELDS)
        .map_err(|failure| failure.with_hint(format!("its fields are {}, all strings", PASSWORD_FIELDS.join(", "))))?;
    Ok(Password {
        username: input.username.into_exposed(),
        password: input.password.into_exposed(),
        security_token: input.security_token.into_exposed(),
        login_url: input.login_url.into_exposed(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn a_password_has_the_fields_of_the_protocol() {
        let read = password(br#" {"username": "u", "password": "p\u00e4\"", "security_token": "s"}"#).unwrap();
        assert_eq!((read.username.as_str(), read.password.as_str()), ("u", "pä\""));
        assert_eq!((read.security_token.as_str(), read.login_url.as_str()), ("s", ""));
    }

    #[test]
    fn salesforce_oauth_has_the_fields_of_the_protocol() {
        let read = salesforce_oauth(
            br#"{"access_token": "a", "refresh_token": "r", "instance_url": "i", "token_url": "t", "identity_url": "d",
                "scopes": ["api", "refresh_token"], "issue_time": "2026-11-24T09:00:00.5+01:00",
                "access_token_expire_time": "2026-11-24T10:00:00Z"}"#,
        )
        .unwrap();
        assert_eq!(read.scopes, ["api", "refresh_token"]);
        let issued = read.issue_time.unwrap();
        assert_eq!((issued.seconds, issued.nanos), (1_795_507_200, 500_000_000));
        assert!(read.access_token_expire_time.is_some());
    }

    #[test]
    fn bad_json_is_never_repeated() {
        for bad in [
            r#"{"password": "MARKER"#,
            r#"{"password": "MARKER",}"#,
            r#"{"password": ["MARKER"]}"#,
            r#"{"password": {"MARKER": 1}}"#,
            r#"{"password": "x", "MARKER": 1}"#,
            r#"{"password": "MARKER", "password": "MARKER"}"#,
            r#"{"password": "x"} MARKER"#,
            r#"{"password": "\uD800MARKER"}"#,
            r#"["u", "MARKER", "s", "l"]"#,
            r#""MARKER""#,
            "MARKER",
        ] {
            let Err(failure) = password(bad.as_bytes()) else { panic!("{bad} is taken") };
            assert!(!format!("{failure:?}").contains("MARKER"), "{bad}: {failure:?}");
            assert_eq!(failure.exit, Exit::Usage);
        }
        for bad in [r#"{"issue_time": "MARKER"}"#, r#"{"scopes": "MARKER"}"#, r#"{"scopes": [["MARKER"]]}"#] {
            let Err(failure) = salesforce_oauth(bad.as_bytes()) else { panic!("{bad} is taken") };
            assert!(!format!("{failure:?}").contains("MARKER"), "{bad}: {failure:?}");
        }
    }

    #[test]
    fn errors_name_the_field_and_the_place() {
        let message = |octets: &[u8]| salesforce_oauth(octets).err().map(|failure| failure.message).unwrap_or_default();
        assert_eq!(
            message(b"{\"scopes\": [\"api\",\n 7]}"),
            "the input's field scopes[1] is there twice, of another type, or out of range, at line 2, column 2"
        );
        assert_eq!(
            message(br#"{"acess_token": ""}"#),
            "the input has a field that is unknown or missing, at column 14"
        );
        assert_eq!(message(b"{"), "the input is not JSON, at column 1");
    }

    #[test]
    fn input_is_bounded() {
        assert_eq!(read_bounded(&b"abc"[..]).unwrap().as_slice(), b"abc");
        let longest = vec![b'x'; MAX_INPUT_OCTETS];
        assert_eq!(read_bounded(longest.as_slice()).unwrap().len(), MAX_INPUT_OCTETS);
        for bad in [vec![], vec![b'x'; MAX_INPUT_OCTETS + 1]] {
            assert_eq!(read_bounded(bad.as_slice()).err().map(|failure| failure.exit), Some(Exit::Usage));
        }
        assert!(read_bounded(io::repeat(b'x')).is_err());
    }
}
