use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::*;

mod deployed;

/// The settings of a file, with these variables in the environment.
fn read_with(text: &str, variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    Settings::from_toml(text, &Overrides::of(variables.iter().map(|(name, value)| (name.into(), value.into())))?)
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

/// The same on AWS.
const AWS: &str = "
    server.listen = '127.0.0.1:7443'
    insecure.plaintext = true
    [factors]
    secrets_manager.secret_id = 'arn:aws:secretsmanager:eu-central-1:000000000000:secret:triseal-AbCdEf'
    kms.wrap_with = 'arn:aws:kms:eu-central-1:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab'
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
    assert!(settings.tls.is_none());
    let Audit { sink, file, fsync_interval, timeout, kms_mac_key } = settings.audit;
    assert_eq!((sink, file.as_path()), (AuditSink::Stdout, Path::new("/var/log/triseal/audit.jsonl")));
    assert_eq!((fsync_interval, timeout), (Duration::from_secs(1), Duration::from_millis(500)));
    assert_eq!(kms_mac_key, None);
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
    let Dynamodb { credentials_table, customers_table, operations_table } = settings.store.dynamodb;
    let tables = [credentials_table, customers_table, operations_table];
    assert_eq!(tables, ["triseal-credentials", "triseal-customers", "triseal-operations"]);
    let SecretsManager { secret_id, poll, max_age } = settings.factors.secrets_manager;
    assert_eq!((secret_id.as_str(), poll, max_age), ("", Duration::from_secs(30), Duration::from_mins(15)));
    let Kms { wrap_with, unwrap_with } = settings.factors.kms;
    assert!(wrap_with.is_empty() && unwrap_with.is_empty());
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
        ("[tls]\ncertificate = 'a'", "tls"),
        ("[tls]\ncertificate = 'a'", "private_key"),
        ("[tls]\nextra = 1", "extra"),
        ("tls = true", "tls"),
        ("[audit]\nextra = 1", "extra"),
        ("audit.sink = 'syslog'", "audit.sink"),
        ("audit.timeout = 500", "audit.timeout"),
        ("cache.max_age = 'soon'", "cache.max_age"),
        ("cache.roots = -1", "cache.roots"),
        ("cache.roots = 'many'", "cache.roots"),
        ("deployment = ''", "deployment"),
        ("deployment = 'a b'", "deployment"),
        ("factors.environment = 'environment'", "factors.environment"),
        ("factors.customer = 'KMS'", "factors.customer"),
        ("factors.codebase_primary = -1", "factors.codebase_primary"),
        ("store.backend = 'redb'", "store.backend"),
        ("policy.extra = 1", "extra"),
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

/// TLS instead of `insecure.plaintext`.
fn with_tls(more: &str) -> Result<Settings, SettingsError> {
    let text = GOOD.replace("plaintext = true, ", "").replace("127.0.0.1", "0.0.0.0");
    read(&format!("{text}\n[tls]\ncertificate = 'c.pem'\nprivate_key = 'k.pem'\nclient_ca = 'ca.pem'\n{more}"))
}

#[test]
fn tls_takes_the_place_of_loopback() {
    let settings = with_tls("trust_domain = 'datasert.com'").unwrap();
    settings.check().unwrap();
    let tls = settings.tls.unwrap();
    assert_eq!(
        [&tls.certificate, &tls.private_key, &tls.client_ca].map(|path| path.to_str().unwrap()),
        ["c.pem", "k.pem", "ca.pem"]
    );
    assert_eq!((tls.client_crl, tls.trust_domain.as_str(), tls.allow_dns_names), (None, "datasert.com", false));
    let settings = with_tls("trust_domain = 'a'\nclient_crl = 'crl.pem'\nallow_dns_names = true").unwrap();
    let tls = settings.tls.unwrap();
    assert!(tls.client_crl.is_some_and(|path| path == Path::new("crl.pem")) && tls.allow_dns_names);

    for bad in ["''", "'spiffe://datasert.com'", "'Datasert.com'", "'datasert.com/realtask'"] {
        let told = with_tls(&format!("trust_domain = {bad}")).unwrap_err().to_string();
        assert!(told.contains("trust_domain"), "{told}");
    }
    let mut both = with_tls("trust_domain = 'datasert.com'").unwrap();
    both.insecure.plaintext = true;
    let told = both.check().unwrap_err().to_string();
    assert!(told.contains("insecure.plaintext"), "{told}");
}

/// Each typed setting and each table, in the file and by its variable: what is told has the name and not the value.
#[test]
fn a_value_that_is_refused_is_not_repeated() {
    for key in [
        "deployment",
        "server.listen",
        "server.ops_listen",
        "server.max_concurrent_requests",
        "server.max_connection_age",
        "server.drain",
        "factors.codebase_primary",
        "factors.environment",
        "factors.customer",
        "factors.file.poll",
        "factors.file.max_age",
        "cache.roots",
        "cache.refresh_after",
        "cache.max_age",
        "cache.customer_staleness",
        "store.backend",
        "store.backup_retention",
        "store.restored",
        "telemetry.log",
        "insecure.plaintext",
        "insecure.development_codebase_key",
        "insecure.local_kms",
        "server",
        "factors",
        "factors.file",
        "factors.local",
        "cache",
        "store",
        "store.embedded",
        "telemetry",
        "insecure",
    ] {
        let refused = |read: Result<Settings, SettingsError>| {
            let error = read.and_then(|settings| settings.check()).expect_err(key);
            let told = error.to_string();
            assert!(told.starts_with(&format!("settings: {key}")) && told.contains("must "), "{told}");
            assert!(!told.to_lowercase().contains("marked"), "{told}");
            told
        };
        for value in ["MARKED, expected MARKED", "'MARKED`, expected"] {
            let quoted = serde_json::to_string(value).unwrap();
            refused(read(&format!("{key} = {quoted}")));
            refused(read(&format!("{key} = [[{quoted}]]")));
            let variable = format!("TRISEAL__{}", key.to_uppercase().replace('.', "__"));
            let told = refused(read_with(GOOD, &[(&variable, value)]));
            assert!(key == "telemetry.log" || told.contains(&variable), "{told}");
        }
    }
    for name in ["MARKED0123456789MARKED0123456789MARKED01234567", "'MARKED`, expected'", "\"MARKED\\n\""] {
        let told = read(&format!("server.{name} = 1")).unwrap_err().to_string();
        assert!(told.starts_with("settings: server.a name: is no setting: must be one of `listen`,"), "{told}");
    }
}

#[test]
fn a_variable_that_is_no_setting_is_named() {
    for (name, parts) in [
        ("TRISEAL_SERVER__LISTEN", &["TRISEAL_SERVER__LISTEN", "write TRISEAL__SERVER__LISTEN,"][..]),
        ("triseal_store__backend", &["triseal_store__backend", "TRISEAL__STORE__BACKEND"]),
        ("TRISEAL__SERVER__LISTN", &["TRISEAL__SERVER__LISTN", "server.listn", "`listen`"]),
        ("TRISEAL__SERVER__LIST[0", &["TRISEAL__SERVER__LIST[0", "docs/SETTINGS.md"]),
        ("TRISEAL__SERVER.LISTEN", &["TRISEAL__SERVER.LISTEN", "docs/SETTINGS.md"]),
        ("TRISEAL__", &["TRISEAL__", "docs/SETTINGS.md"]),
    ] {
        let told = read_with(GOOD, &[(name, "MARKED")]).unwrap_err().to_string();
        assert!(parts.iter().all(|part| told.contains(part)) && !told.contains("MARKED"), "{told}");
    }
    let octets = |octets| OsStr::from_bytes(octets).to_owned();
    let variable = |name: OsString, value: OsString| Overrides::of(std::iter::once((name, value)));
    let told = variable("TRISEAL__DEPLOYMENT".into(), octets(b"MARK\xff")).err().unwrap().to_string();
    assert!(told.contains("TRISEAL__DEPLOYMENT: must be UTF-8") && !told.contains("MARK"), "{told}");
    assert!(variable("SOMEBODY_ELSES".into(), octets(b"\xff")).is_ok());
    assert!(variable(octets(b"TRISEAL__\xff"), "x".into()).is_ok(), "nobody can have meant it");
}

#[test]
fn a_key_in_the_place_of_its_path_is_refused() {
    let hex = "00ff".repeat(16);
    for key in ["factors.file.path", "factors.local.master_key", "store.embedded.path"] {
        let variable = format!("TRISEAL__{}", key.to_uppercase().replace('.', "__"));
        let check = |value| read_with(GOOD, &[(&variable, value)]).unwrap().check();
        for value in [
            "bWFya2VkIG1hcmtlZCBtYXJrZWQgbWFya2VkIDAxMjM=",
            "/WFya2VkIG1hcmtlZCBtYXJrZWQgbWFya2VkIDAxMjM=",
            "bWFya2VkIG1hcmtlZCBtYXJrZWQgbWFya2VkIDAxMjM",
            "_WFya2VkIG1hcmtlZCBtYXJrZ-QgbWFya2VkIDAxMjM",
            " bWFya2VkIG1hcmtlZCBtYXJrZWQgbWFya2VkIDAxMjM=\n",
            &hex,
            r#"{"format": "triseal-environment-keys/v1"}"#,
        ] {
            let told = check(value).expect_err(value).to_string();
            assert!(told.contains(key) && told.contains("mode 0600") && !told.contains(&value[1..20]), "{told}");
        }
        for path in [
            "/etc/triseal/keys",
            "/etc/triseal/keys/production/environmentkey",
            "./keys/of/production/number1/environmentkey",
            "environment.json",
            "bWFya2VkIG1hcmtlZCBtYXJrZWQgbWFya2VkIDAxMj.key",
        ] {
            check(path).unwrap();
        }
    }
    // PEM, as the environment may hand it over.
    let with_key = |key: &str| {
        let tls = format!("certificate = 'c', client_ca = 'a', trust_domain = 'example.com', private_key = {key:?}");
        read(&format!("insecure.local_kms = true\ntls = {{ {tls} }}")).unwrap().check().expect_err(key).to_string()
    };
    let told = with_key("-----BEGIN PRIVATE KEY-----\nMARKED\n-----END PRIVATE KEY-----\n");
    assert!(told.contains("tls.private_key") && told.contains("mode 0600") && !told.contains("MARKED"), "{told}");
    assert!(!with_key("/etc/triseal/tls/server.key").contains("tls.private_key"));
}

#[test]
fn what_is_logged_is_told_by_levels() {
    let with = |filter: &str| {
        let mut settings = read(GOOD).unwrap();
        settings.telemetry.log = filter.to_owned();
        settings.check()
    };
    for good in ["info", "WARN", "off", "triseal=debug,warn", "info,h2=off", "triseal::vault=trace", "[call]=debug"] {
        assert!(with(good).is_ok(), "{good}");
    }
    for bad in ["", "inof", "info,", "triseal=dbug", "triseal=", "triseal", "info;debug", "triseal=debug,wran"] {
        let told = with(bad).expect_err(bad).to_string();
        assert!(told.starts_with("settings: telemetry.log: must be one of error, warn, info"), "{told}");
    }
}

#[test]
fn each_refusal_names_its_key() {
    read(GOOD).unwrap().check().unwrap();
    let edits: [(&str, Edit); 13] = [
        ("tls", |settings| settings.insecure.plaintext = false),
        ("server.listen", |settings| settings.server.listen = "0.0.0.0:7443".parse().unwrap()),
        ("server.listen", |settings| settings.server.listen = "[::ffff:127.0.0.1]:7443".parse().unwrap()),
        ("server.max_concurrent_requests", |settings| settings.server.max_concurrent_requests = 0),
        ("server.max_concurrent_requests", |settings| settings.server.max_concurrent_requests = 100_001),
        ("audit.timeout", |settings| settings.audit.timeout = Duration::from_millis(5_001)),
        ("audit.fsync_interval", |settings| settings.audit.fsync_interval = Duration::from_secs(61)),
        ("audit.kms_mac_key", |settings| settings.audit.kms_mac_key = Some(String::new())),
        ("factors.customer", |settings| settings.insecure.local_kms = false),
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
    let bounds: [Edit; 6] = [
        |settings| settings.server.max_concurrent_requests = 1,
        |settings| {
            (settings.audit.timeout, settings.audit.fsync_interval) = (Duration::from_secs(5), Duration::from_mins(1))
        },
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
    assert!(read("").unwrap().check().is_err(), "the defaults name no secret and no key");
}

#[test]
fn the_names_of_what_stands_at_aws_are_complete() {
    let settings = read(AWS).unwrap();
    settings.check().unwrap();
    assert!(settings.uses_aws() && !read(GOOD).unwrap().uses_aws());
    let key = "arn:aws:kms:eu-central-1:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab";
    let wrong_keys = [
        "",
        "1234abcd-12ab-34cd-56ef-1234567890ab",
        "alias/triseal",
        "arn:aws:kms:eu-central-1:000000000000:alias/triseal",
        "arn:aws:kms:eu-central-1:000000000000:key/",
        "arn:aws:kms:eu-central-1::key/1234abcd",
        "arn:aws:kms::000000000000:key/1234abcd",
        "arn:aws:s3:eu-central-1:000000000000:key/1234abcd",
        "arn:aws:kms:eu-central-1:000000000000:key/1234 abcd",
    ];
    let refusal = |edit: &dyn Fn(&mut Settings)| {
        let mut settings = read(AWS).unwrap();
        edit(&mut settings);
        match settings.check() {
            Err(SettingsError::Wrong { key, .. }) => key,
            other => panic!("{other:?}"),
        }
    };
    for wrong in wrong_keys {
        assert_eq!(refusal(&|settings| settings.factors.kms.wrap_with = wrong.to_owned()), "factors.kms.wrap_with");
        let former = vec![key.to_owned(), wrong.to_owned()];
        assert_eq!(refusal(&|settings| settings.factors.kms.unwrap_with = former.clone()), "factors.kms.unwrap_with");
    }
    for wrong in ["", "triseal", key, "arn:aws:secretsmanager:eu-central-1:000000000000:secret:"] {
        let edit = |settings: &mut Settings| settings.factors.secrets_manager.secret_id = wrong.to_owned();
        assert_eq!(refusal(&edit), "factors.secrets_manager.secret_id");
    }
    let poll = |settings: &mut Settings| settings.factors.secrets_manager.poll = Duration::from_mins(8);
    assert_eq!(refusal(&poll), "factors.secrets_manager.poll");
    for wrong in ["", "ab", "a/b", "tables!", "triseal-credentials"] {
        let edit = |settings: &mut Settings| settings.store.dynamodb.operations_table = wrong.to_owned();
        assert_eq!(refusal(&edit), "store.dynamodb.operations_table");
    }
    // What is not chosen is not looked at.
    let mut settings = read(GOOD).unwrap();
    settings.factors.kms.wrap_with = "nothing".to_owned();
    settings.check().unwrap();
}

#[test]
fn former_keys_are_a_list_in_the_file_and_a_text_in_the_environment() {
    let former = |settings: Settings| settings.factors.kms.unwrap_with;
    assert_eq!(former(read("factors.kms.unwrap_with = ['a', 'b']").unwrap()), ["a", "b"]);
    let variable = "TRISEAL__FACTORS__KMS__UNWRAP_WITH";
    assert_eq!(former(read_with(AWS, &[(variable, "a, b")]).unwrap()), ["a", "b"]);
    assert!(former(read_with(AWS, &[(variable, "")]).unwrap()).is_empty());
    assert!(read("factors.kms.unwrap_with = { a = 'b' }").unwrap_err().to_string().contains("unwrap_with"));
}

#[test]
fn only_without_tls_there_may_be_no_policy_directory() {
    let directory = |text: &str| read(text).unwrap().policy_directory().map(Path::to_owned);
    let named = "policy.directory = 'policy'\n";
    assert_eq!(directory(""), Some(PathBuf::from("/etc/triseal/policy")));
    assert_eq!(directory(named), Some(PathBuf::from("policy")));
    assert_eq!(directory("insecure.plaintext = true"), None);
    assert_eq!(directory(&format!("{named}insecure.plaintext = true")), Some(PathBuf::from("policy")));
    assert_eq!(Settings::dev(Path::new(".triseal")).unwrap().policy_directory(), None);
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
        assert_eq!(settings.audit.sink, AuditSink::File, "standard output is for people");
        assert_eq!(settings.audit.file, Path::new(data).join("audit.jsonl"));
        assert_eq!(settings.factors.file.path, Path::new(data).join("environment.json"));
        assert_eq!(settings.factors.local.master_key, Path::new(data).join("insecure-local-kms.key"));
    }
    use std::os::unix::ffi::OsStrExt;
    let told = Settings::dev(Path::new(std::ffi::OsStr::from_bytes(b"\xff"))).unwrap_err();
    assert!(matches!(told, SettingsError::Wrong { key: "--data", .. }));
}
