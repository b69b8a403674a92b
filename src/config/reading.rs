//! What the environment says of the settings, and what is told when a setting can't be read: its name, the variable that set it, and
//! what it must be. Never its value, which may be a secret that was given in the wrong place.

use std::collections::HashMap;
use std::ffi::OsString;

use config::{ConfigError, Environment};

use super::SettingsError;

/// Variables that begin so, and have two underscores somewhere else, were meant to be settings.
const ALMOST: &str = "TRISEAL_";
const PREFIX: &str = "TRISEAL__";
/// A longer name is no misspelt one of ours, and may be a value in a name's place.
const MAX_NAME_OCTETS: usize = 40;

/// The variables that set something: `TRISEAL__SECTION__KEY`, each with its value.
pub(super) struct Overrides(HashMap<String, String>);

impl Overrides {
    /// Takes what concerns us of all variables.
    pub(super) fn of(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Self, SettingsError> {
        let wrong = |name: &str, problem: &str| Err(SettingsError::Unreadable(format!("{name}: {problem}")));
        let mut ours = HashMap::new();
        for (name, value) in variables {
            let Ok(name) = name.into_string() else { continue };
            // As config does, in upper or lower case.
            let upper = name.to_uppercase();
            let Some(rest) = upper.strip_prefix(PREFIX) else {
                if let Some(rest) = upper.strip_prefix(ALMOST).filter(|rest| rest.contains("__")) {
                    return wrong(&name, &format!("is no setting: write {PREFIX}{rest}, with two underscores"));
                }
                continue;
            };
            if !is_name(rest) {
                return wrong(&name.escape_debug().to_string(), "is no setting: docs/SETTINGS.md lists them");
            }
            let Ok(value) = value.into_string() else { return wrong(&name, "must be UTF-8") };
            ours.insert(name, value);
        }
        Ok(Self(ours))
    }

    /// For config. Values are texts until their setting's type is known: a deployment `007` is no number.
    pub(super) fn source(&self) -> Environment {
        Environment::with_prefix("TRISEAL").prefix_separator("__").separator("__").source(Some(self.0.clone()))
    }

    /// The variable that sets a key such as `server.listen`.
    fn variable(&self, key: &str) -> Option<&str> {
        let name = format!("{PREFIX}{}", key.to_uppercase().replace('.', "__"));
        self.0.keys().find(|variable| variable.to_uppercase() == name).map(String::as_str)
    }

    /// What is told of config's error.
    pub(super) fn told(&self, error: ConfigError) -> SettingsError {
        let (key, problem) = reduced(error);
        SettingsError::Unreadable(match self.variable(&key) {
            Some(variable) => format!("{key} ({variable} in the environment): {problem}"),
            None if key.is_empty() => problem,
            None => format!("{key}: {problem}"),
        })
    }
}

/// The key and what is wrong with it, without the value that config repeats.
fn reduced(error: ConfigError) -> (String, String) {
    match error {
        ConfigError::At { error, key, .. } => {
            let (below, problem) = reduced(*error);
            let key: Vec<_> = key.into_iter().chain([below]).filter(|part| !part.is_empty()).collect();
            (key.join("."), problem)
        }
        ConfigError::Type { key, expected, .. } => (key.unwrap_or_default(), format!("must be {expected}")),
        ConfigError::NotFound(key) => (key, "is missing".to_owned()),
        ConfigError::Message(text) => message(&text),
        // Of names and forms that were looked at before.
        _ => (String::new(), "the settings can't be read: docs/SETTINGS.md shows their form".to_owned()),
    }
}

/// serde's own messages repeat what they refuse; ours, of the types in this module's parent, do not.
fn message(text: &str) -> (String, String) {
    // What was found stands before that, whatever is in it.
    let (found, expected) = text.rsplit_once(", expected ").unwrap_or((text, "what docs/SETTINGS.md says"));
    if let Some(name) = found.strip_prefix("unknown field `") {
        let name = name.strip_suffix('`').filter(|name| is_name(name)).unwrap_or("a name");
        return (name.to_owned(), format!("is no setting: must be {expected}; docs/SETTINGS.md describes them"));
    }
    let of_serde = ["invalid type: ", "invalid value: ", "invalid length: ", "unknown variant "];
    if of_serde.iter().any(|beginning| text.starts_with(beginning)) {
        let expected = if expected.starts_with("struct ") { "a table" } else { expected };
        return (String::new(), format!("must be {expected}"));
    }
    if text == "invalid socket address syntax" {
        return (String::new(), "must be an address and a port, such as 127.0.0.1:7443".to_owned());
    }
    (String::new(), text.to_owned())
}

fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME_OCTETS
        && text.bytes().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'_' | b'-'))
}
