//! Settings from any file and any environment.

use std::ffi::OsString;

use super::reading::Overrides;
use super::{Settings, SettingsError};

/// A settings file; after each NUL, a variable of the environment, `NAME=VALUE`. Why they are refused, if they are.
pub(crate) fn settings(octets: &[u8]) -> Result<(), SettingsError> {
    let Ok(text) = std::str::from_utf8(octets) else { return Ok(()) };
    let mut parts = text.split('\0');
    let file = parts.next().unwrap_or_default();
    let variables = parts.filter_map(|part| part.split_once('='));
    let variables = variables.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let settings = Settings::from_toml(file, &Overrides::of(variables)?)?;
    settings.check()?;
    assert!(settings.tls.is_some() != settings.insecure.plaintext, "a service without TLS that was not asked for");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::MISPLACED;
    use crate::fuzzing::tests::seed;

    #[test]
    fn seeds_of_settings_are_what_their_names_say() {
        let none = || Overrides::of(std::iter::empty()).unwrap();
        let read = |name| Settings::from_toml(&String::from_utf8(seed("settings", name)).unwrap(), &none());
        read("dev").unwrap().check().unwrap();
        read("tls").unwrap().check().unwrap();
        assert!(String::from_utf8(seed("settings", "key-for-a-path")).unwrap().contains(MISPLACED));
        read("key-for-a-path").unwrap().check().unwrap_err();
        for name in ["key-for-a-word", "key-for-a-number", "key-for-a-name", "key-for-a-file"] {
            read(name).unwrap_err();
        }
    }
}
