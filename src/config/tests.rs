use std::collections::HashMap;

use super::*;

/// The settings of a file, with these variables in the environment.
fn read_with(text: &str, variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let variables: HashMap<_, _> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Settings::from_toml(text, environment().source(Some(variables.into_iter().collect())))
}

fn read(text: &str) -> Result<Settings, SettingsError> {
    read_with(text, &[])
}

/// What this release can run with.
const GOOD: &str = "
    server.listen = '127.0.0.1:7443'
    factors = { environment = 'file', customer = 'local' }
    store.backend = 'embedded'
    insecure = { plaintext = true, local_kms = true }
";

type Edit = fn(&mut Settings);

#[test]
fn an_empty_file_has_the_safe_defaults() {
    let settings = read("").unwrap();
    assert_eq!(settings.deployment.as_str(), "production");
    assert_eq!(settings.server.listen.to_string(), "0.0.0.0:7443");
    assert_eq!(settings.server.ops_listen.to_string(), "0.0.0.0:7480");
    let Server { max_concurrent_requests, max_connection_age, drain, .. } = settings.server;
    assert_eq!((max_concurrent_requests, max_connection_age), (512, Duration::from_mins(10)));
    assert_eq!(drain, Duration::from_secs(20));
    assert_eq!(settings.factors.codebase_primary, None);
    assert_eq!(settings.factors.environment, EnvironmentFrom::SecretsManager);
    assert_eq!(settings.factors.customer, CustomerFrom::Kms);
    assert_eq!(settings.factors.file.path, Path::new(".triseal/environment.json"));
    let file = &settings.factors.file;
    assert_eq!((file.poll, file.max_age), (Duration::from_secs(30), Duration::from_mins(15)));
    assert_eq!(settings.factors.local.master_key, Path::new(".triseal/insecure-local-kms.key"));
    let Cache { roots, refresh_after, max_age, customer_staleness } = settings.cache;
    assert_eq!((roots, refresh_after), (100_000, Duration::from_mins(15)));
    assert_eq!((max_age, customer_staleness), (Duration::from_mins(60), Duration::from_secs(10)));
    assert_eq!(settings.store.backend, Backend::Dynamodb);
    assert_eq!(settings.store.embedded.path, Path::new(".triseal/store.redb"));
    assert_eq!(settings.telemetry.log, "info");
    let Insecure { plaintext, development_codebase_key, local_kms } = settings.insecure;
    assert!(!plaintext && !development_codebase_key && !local_kms);
}

#[test]
fn what_is_unknown_or_of_another_type_is_refused_by_name() {
    for (text, named) in [
        ("extra = 1", "extra"),
        ("server.extra = 1", "extra"),
        ("[factors.file]\nextra = 1", "extra"),
        ("[insecure]\neverything = true", "everything"),
        ("server = 1", "server"),
        ("server.listen = 'localhost'", "server.listen"),
        ("server.listen = '127.0.0.1'", "server.listen"),
        ("server.drain = 20", "server.drain"),
        ("server.drain = '20'", "server.drain"),
        ("server.drain = '0s'", "server.drain"),
        ("server.drain = '-1s'", "server.drain"),
        ("server.drain = '721h'", "server.drain"),
        ("cache.max_age = 'soon'", "cache.max_age"),
        ("cache.roots = -1", "cache.roots"),
        ("cache.roots = 'many'", "cache.roots"),
        ("deployment = ''", "deployment"),
        ("deployment = 'a b'", "deployment"),
        ("factors.environment = 'environment'", "factors.environment"),
        ("factors.customer = 'KMS'", "factors.customer"),
        ("factors.codebase_primary = -1", "factors.codebase_primary"),
        ("store.backend = 'redb'", "store.backend"),
        ("insecure.plaintext = 'perhaps'", "insecure.plaintext"),
        ("this is no TOML", "TOML"),
    ] {
        let told = read(text).err().unwrap_or_else(|| panic!("{text} was accepted")).to_string();
        assert!(told.starts_with("settings: ") && told.contains(named), "{text}: {told}");
    }
}

#[test]
fn times_are_written_with_their_unit() {
    for (text, wanted) in [
        ("1ms", Duration::from_millis(1)),
        ("500ms", Duration::from_millis(500)),
        ("20s", Duration::from_secs(20)),
        ("15m", Duration::from_mins(15)),
        ("1h30m", Duration::from_mins(90)),
        ("720h", Duration::from_hours(720)),
    ] {
        assert_eq!(read(&format!("server.drain = '{text}'")).unwrap().server.drain, wanted);
    }
}

#[test]
fn the_environment_overrides_the_file() {
    let settings = read_with(
        GOOD,
        &[
            ("TRISEAL__DEPLOYMENT", "007"),
            ("TRISEAL__SERVER__LISTEN", "[::1]:1"),
            ("TRISEAL__CACHE__ROOTS", "5"),
            ("TRISEAL__FACTORS__CODEBASE_PRIMARY", "2"),
            ("TRISEAL__FACTORS__FILE__PATH", "1.50"),
            ("TRISEAL__INSECURE__PLAINTEXT", "false"),
            ("TRISEAL__TELEMETRY__LOG", "triseal=debug,warn"),
            ("TRISEAL_ENDPOINT", "is the command line's"),
            ("TRISEALED__EXTRA", "is somebody else's"),
        ],
    )
    .unwrap();
    assert_eq!(settings.deployment.as_str(), "007", "a text is no number");
    assert_eq!(settings.server.listen.to_string(), "[::1]:1");
    assert_eq!((settings.cache.roots, settings.factors.codebase_primary), (5, NonZeroU32::new(2)));
    assert_eq!(settings.factors.file.path, Path::new("1.50"));
    assert!(!settings.insecure.plaintext && settings.insecure.local_kms);
    assert_eq!(settings.telemetry.log, "triseal=debug,warn");
    assert_eq!(settings.store.backend, Backend::Embedded);

    for (name, value, named) in [
        ("TRISEAL__EXTRA", "1", "extra"),
        ("TRISEAL__SERVER__EXTRA", "1", "extra"),
        ("TRISEAL__CACHE__ROOTS", "many", "cache.roots"),
        ("TRISEAL__FACTORS__CODEBASE_PRIMARY", "0", "factors.codebase_primary"),
        ("TRISEAL__STORE__BACKEND", "", "store.backend"),
        ("TRISEAL__INSECURE__PLAINTEXT", "perhaps", "insecure.plaintext"),
    ] {
        let told = read_with(GOOD, &[(name, value)]).err().unwrap_or_else(|| panic!("{name} was accepted")).to_string();
        assert!(told.contains(named), "{told}");
    }
}

#[test]
fn each_refusal_names_its_key() {
    read(GOOD).unwrap().check().unwrap();
    let edits: [(&str, Edit); 13] = [
        ("insecure.plaintext", |settings| settings.insecure.plaintext = false),
        ("server.listen", |settings| settings.server.listen = "0.0.0.0:7443".parse().unwrap()),
        ("server.listen", |settings| settings.server.listen = "[::ffff:127.0.0.1]:7443".parse().unwrap()),
        ("server.max_concurrent_requests", |settings| settings.server.max_concurrent_requests = 0),
        ("server.max_concurrent_requests", |settings| settings.server.max_concurrent_requests = 100_001),
        ("factors.environment", |settings| settings.factors.environment = EnvironmentFrom::SecretsManager),
        ("factors.customer", |settings| settings.factors.customer = CustomerFrom::Kms),
        ("factors.customer", |settings| settings.insecure.local_kms = false),
        ("store.backend", |settings| settings.store.backend = Backend::Dynamodb),
        ("cache.roots", |settings| settings.cache.roots = 0),
        ("cache.roots", |settings| settings.cache.roots = 10_000_001),
        ("cache.refresh_after", |settings| settings.cache.refresh_after = Duration::from_mins(61)),
        ("factors.file.poll", |settings| settings.factors.file.poll = Duration::from_mins(8)),
    ];
    for (wanted, edit) in edits {
        let mut settings = read(GOOD).unwrap();
        edit(&mut settings);
        match settings.check() {
            Err(SettingsError::Wrong { key, .. }) => assert_eq!(key, wanted),
            Err(error) => panic!("{error}"),
            Ok(()) => panic!("{wanted} was accepted"),
        }
    }
    let bounds: [Edit; 5] = [
        |settings| settings.server.max_concurrent_requests = 1,
        |settings| settings.cache.roots = 10_000_000,
        |settings| settings.cache.refresh_after = settings.cache.max_age,
        |settings| settings.factors.file.poll = settings.factors.file.max_age / 2,
        |settings| settings.server.listen = "[::1]:0".parse().unwrap(),
    ];
    for edit in bounds {
        let mut settings = read(GOOD).unwrap();
        edit(&mut settings);
        settings.check().unwrap();
    }
    assert!(read("").unwrap().check().is_err(), "the defaults are a release's that knows AWS");
}

#[test]
fn a_file_is_named_in_its_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("triseald.toml");
    let told = || Settings::from_file(&path).unwrap_err().to_string();
    assert!(told().contains("triseald.toml"));
    std::fs::write(&path, "extra = 1").unwrap();
    assert!(told().contains("triseald.toml") && told().contains("extra"));
    std::fs::write(&path, b"\xff").unwrap();
    assert!(told().contains("triseald.toml"));
    std::fs::write(&path, GOOD).unwrap();
    assert!(Settings::from_file(&path).is_ok());
}

#[test]
fn development_runs_below_its_directory_whatever_that_is_called() {
    for data in [".triseal", "/tmp/with space", "it's", "quote\" back\\slash\nline", "äöü"] {
        let settings = Settings::dev(Path::new(data)).unwrap();
        settings.check().unwrap();
        assert_eq!(settings.deployment.as_str(), "dev");
        assert!(settings.server.listen.ip().is_loopback() && settings.server.ops_listen.ip().is_loopback());
        assert!(settings.insecure.development_codebase_key);
        assert_eq!(settings.store.embedded.path, Path::new(data).join("store.redb"));
        assert_eq!(settings.factors.file.path, Path::new(data).join("environment.json"));
        assert_eq!(settings.factors.local.master_key, Path::new(data).join("insecure-local-kms.key"));
    }
    use std::os::unix::ffi::OsStrExt;
    let told = Settings::dev(Path::new(std::ffi::OsStr::from_bytes(b"\xff"))).unwrap_err();
    assert!(matches!(told, SettingsError::Wrong { key: "--data", .. }));
}
