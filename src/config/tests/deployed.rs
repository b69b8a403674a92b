//! What `deploy/` has for `triseald --config` is read by this release, and complete.

use super::*;

const EXAMPLE: &str = include_str!("../../../deploy/triseald.example.toml");
const IMAGE: &str = include_str!("../../../deploy/triseald.toml");
const COMPOSE: &str = include_str!("../../../deploy/compose/settings.toml");
const PREPARE: &str = include_str!("../../../deploy/compose/prepare");
const SERVICE: &str = include_str!("../../../deploy/cloudformation/service.yaml");

const SECRET: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:triseal-AbCdEf";
const KEY: &str = "arn:aws:kms:us-east-1:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab";

#[test]
fn the_example_names_every_setting_with_its_default() {
    let example = read(EXAMPLE).unwrap();
    example.check().unwrap();
    let defaults = read("").unwrap();
    let shown = |settings: &Settings| {
        let Settings { deployment, server, cache, store, telemetry, insecure, audit, .. } = settings;
        format!("{deployment:?} {server:?} {cache:?} {store:?} {telemetry:?} {insecure:?} {audit:?}")
    };
    assert_eq!(shown(&example), shown(&defaults));
    assert_eq!(example.policy_directory(), defaults.policy_directory());

    // Its commented lines are settings, too.
    let setting = |line: &str| line.starts_with('[') || line.split_once(" = ").is_some_and(|(key, _)| is_key(key));
    let uncommented = |line: &'static str| line.strip_prefix("# ").filter(|line| setting(line)).unwrap_or(line);
    let all: Vec<_> = EXAMPLE.lines().map(uncommented).collect();
    let all = read(&all.join("\n")).unwrap();
    all.check().unwrap();
    assert!(all.tls.is_some_and(|tls| tls.client_crl.is_some()) && all.audit.kms_mac_key.is_some());
}

fn is_key(text: &str) -> bool {
    text.bytes().all(|octet| octet.is_ascii_lowercase() || octet == b'_')
}

/// With what `cloudformation/service.yaml` sets by the environment.
#[test]
fn the_images_settings_are_complete_with_those_of_the_stack() {
    let named = |line: &'static str| line.split_once("TRISEAL__").map(|(_, name)| name);
    let names = SERVICE.lines().filter_map(named);
    let names: Vec<&'static str> = names.filter_map(|name| name.split([',', ' ']).next()).collect();
    assert!(names.len() >= 10, "{names:?}");
    let value = |name: &'static str| match name {
        "AUDIT__SINK" => "file",
        "FACTORS__SECRETS_MANAGER__SECRET_ID" => SECRET,
        "FACTORS__KMS__WRAP_WITH" | "AUDIT__KMS_MAC_KEY" => KEY,
        name if name.ends_with("_TABLE") => name,
        _ => "production",
    };
    let variables: Vec<_> = names.iter().map(|name| (format!("TRISEAL__{name}"), value(name))).collect();
    let variables: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let settings = read_with(IMAGE, &variables).unwrap();
    settings.check().unwrap();
    assert!(settings.tls.is_some_and(|tls| tls.client_crl.is_some()), "revocation would do nothing");
    assert!(read(IMAGE).is_err(), "it names no deployment's trust domain");
}

#[test]
fn the_settings_of_compose_are_complete_with_what_prepare_puts_in() {
    let mut text = COMPOSE.to_owned();
    for (name, value) in [("@SECRET@", SECRET), ("@AUDIT_KEY@", KEY), ("@WRAPPING_KEY@", KEY)] {
        assert!(PREPARE.contains(&format!("s|{name}|")) && text.contains(name), "{name}");
        text = text.replace(name, value);
    }
    let settings = read(&text).unwrap();
    settings.check().unwrap();
    assert!(settings.tls.is_some_and(|tls| tls.client_crl.is_some()));
    assert!(read(COMPOSE).unwrap().check().is_err(), "a name that is left is no ARN");
}
