//! What is wrong with files, ports and settings: each gives one clear line that names it and says what to do, ends the program with
//! a failure, and loses nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use triseal::grpc::v1;

use crate::support;
use crate::support::certificates::Authority;
use crate::support::{Service, data, decrypt, encrypt, opaque, run, triseald};

const ENVIRONMENT: &str = "{\"format\": \"triseal-environment-keys/v1\", \"primary\": 1, \
     \"keys\": [{\"version\": 1, \"key\": \"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\"}]}";
const WRAPPING: &str = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=\n";

/// What is said of something: what is wrong, and what to do about it.
struct Says<'a> {
    wrong: &'a [&'a str],
    advice: &'a str,
}

/// Starts a service that must refuse to, in one line that says both.
async fn refused(arguments: &[&str], environment: &[(&str, &str)], says: Says<'_>) -> String {
    let mut command = triseald(arguments);
    command.envs(environment.iter().copied());
    let output = run(command).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let errors: Vec<_> = said.lines().filter(|line| !line.starts_with('{')).collect();
    assert_eq!(errors.len(), 1, "one line: {said}");
    assert!(errors[0].starts_with("triseald: ") && !errors[0].contains("panicked"), "{said}");
    assert!(!said.contains("MARKED"), "{said}");
    for part in says.wrong.iter().chain([&says.advice]) {
        assert!(!part.is_empty() && errors[0].contains(part), "{part:?} is not in {:?}", errors[0]);
    }
    errors[0].to_owned()
}

async fn refused_dev(data: &Path, environment: &[(&str, &str)], wrong: &[&str], advice: &str) -> String {
    let arguments = ["--dev", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()];
    refused(&arguments, environment, Says { wrong, advice }).await
}

/// A data folder of a stopped service that holds one credential.
async fn used() -> (tempfile::TempDir, std::path::PathBuf) {
    let (folder, data) = data();
    let service = Service::dev(&data).await;
    service.credentials().encrypt_credential(encrypt("demo", "main", opaque(b"kept"))).await.unwrap();
    assert!(service.terminate().await.success());
    (folder, data)
}

async fn assert_kept(data: &Path) {
    let service = Service::dev(data).await;
    let mut credentials = service.credentials();
    let opened = credentials.decrypt_credential(decrypt("demo", "main", v1::View::Full)).await.unwrap().into_inner();
    assert!(opened.secret == Some(opaque(b"kept")));
}

#[tokio::test]
async fn a_second_process_on_one_store_is_refused() {
    let (_folder, data) = data();
    let service = Service::dev(&data).await;
    refused_dev(&data, &[], &["store.redb", "in use by another process"], "stop that one").await;
    service.credentials().encrypt_credential(encrypt("demo", "main", opaque(b"kept"))).await.unwrap();
    service.kill9().await;
    assert_kept(&data).await;
}

#[tokio::test]
async fn a_port_in_use_is_refused_before_anything_is_made() {
    let (_folder, data) = data();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (listen, ops_listen, option) in [
        (address.as_str(), "127.0.0.1:0", "--listen or server.listen"),
        ("127.0.0.1:0", &address, "--ops-listen or server.ops_listen"),
    ] {
        let data = data.to_str().unwrap();
        let arguments = ["--dev", "--listen", listen, "--ops-listen", ops_listen, "--data", data];
        let wrong = &[address.as_str(), "in use", "stop what listens there"];
        refused(&arguments, &[], Says { wrong, advice: option }).await;
        assert!(!Path::new(data).exists());
    }
}

#[tokio::test]
async fn a_truncated_or_edited_store_is_refused_and_left_as_it_is() {
    let (_folder, data) = used().await;
    let store = data.join("store.redb");
    let good = fs::read(&store).unwrap();
    let mut edited = good.clone();
    // Somewhere in the pages, every few octets: no page is left as it was.
    for octet in edited.iter_mut().skip(4_096).step_by(64) {
        *octet ^= 0x40;
    }
    for bad in [&good[..good.len() / 2], &good[..100], b"no store", &edited[..]] {
        fs::write(&store, bad).unwrap();
        refused_dev(&data, &[], &["store.redb", "damaged"], "restore it from a backup").await;
        assert!(fs::read(&store).unwrap() == bad, "a refused file was changed");
    }
    fs::write(&store, good).unwrap();
    assert_kept(&data).await;
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_is_named() {
    let (_folder, data) = data();
    fs::create_dir(&data).unwrap();
    fs::create_dir(data.join("store.redb")).unwrap();
    fs::write(data.join("a file"), "").unwrap();
    let below_a_file = data.join("a file/store.redb");
    // A directory in its place, with and without keys beside it.
    for _ in 0..2 {
        refused_dev(&data, &[], &["store.redb can't be opened", "directory"], "store.embedded.path").await;
        for (key, content) in [("environment.json", ENVIRONMENT), ("insecure-local-kms.key", WRAPPING)] {
            fs::write(data.join(key), content).unwrap();
            fs::set_permissions(data.join(key), fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
    for path in [data.join("missing/store.redb"), below_a_file] {
        let path = path.to_str().unwrap();
        let elsewhere = [("TRISEAL__STORE__EMBEDDED__PATH", path)];
        refused_dev(&data, &elsewhere, &[path], "store.embedded.path").await;
    }
}

/// Junk in the store's place is told as that, and not as a store whose keys are missing.
#[tokio::test]
async fn no_store_and_no_keys_are_told_as_no_store() {
    let (_folder, data) = data();
    fs::create_dir(&data).unwrap();
    for junk in ["", "no store"] {
        fs::write(data.join("store.redb"), junk).unwrap();
        let said = refused_dev(&data, &[], &["store.redb is damaged or no store file"], "name another").await;
        assert!(!said.contains("missing"), "{said}");
        assert_eq!(fs::read_dir(&data).unwrap().count(), 1);
    }
}

#[tokio::test]
async fn a_key_file_that_is_gone_is_not_made_anew() {
    for name in ["environment.json", "insecure-local-kms.key"] {
        let (_folder, data) = used().await;
        let (file, aside) = (data.join(name), data.join("aside"));
        fs::rename(&file, &aside).unwrap();
        refused_dev(&data, &[], &[name, "missing"], "put the file back").await;
        assert!(!file.exists());
        fs::rename(&aside, &file).unwrap();
        assert_kept(&data).await;
    }
}

#[tokio::test]
async fn another_environment_key_under_the_same_version_is_refused() {
    let (_folder, data) = used().await;
    let file = data.join("environment.json");
    let good = fs::read_to_string(&file).unwrap();
    // The first three octets of the key.
    let at = good.find("\"key\": \"").unwrap() + 8;
    let other = format!("{}AAAA{}", &good[..at], &good[at + 4..]);
    fs::write(&file, &other).unwrap();
    let wrong = &["environment key of version 1"];
    refused_dev(&data, &[], wrong, "give the service the former key").await;
    // Nor may one be lost: here version 1, for a second one.
    fs::write(&file, other.replace(": 1,", ": 2,")).unwrap();
    let wrong = &["version 1 of the environment key is gone"];
    refused_dev(&data, &[], wrong, "give the service all the keys").await;
    fs::write(&file, good).unwrap();
    assert_kept(&data).await;
}

#[tokio::test]
async fn a_malformed_or_open_key_file_is_named_and_its_content_is_not() {
    let (_folder, data) = used().await;
    let file = data.join("environment.json");
    let good = fs::read_to_string(&file).unwrap();
    for (bad, named) in [
        (good.replace("\"primary\": 1", "\"primary\": 2"), "primary"),
        (good.replacen("\"key\": \"", "\"key\": \"MARKED", 1), "keys[0].key"),
        ("{\"MARKED".to_owned(), "not JSON"),
    ] {
        fs::write(&file, bad).unwrap();
        refused_dev(&data, &[], &["environment.json", named], "mend it, or name the right file in factors.file.path")
            .await;
    }
    fs::write(&file, &good).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    refused_dev(&data, &[], &["environment.json", "0644"], "chmod 600").await;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();

    let kms = data.join("insecure-local-kms.key");
    let good = fs::read_to_string(&kms).unwrap();
    fs::write(&kms, "MARKED").unwrap();
    let wrong = &["insecure-local-kms.key", "base64 of 32 octets"];
    refused_dev(&data, &[], wrong, "name the right file in factors.local.master_key").await;
    fs::write(&kms, good).unwrap();
    assert_kept(&data).await;
}

/// Under --config nothing is made: what is missing is told with how to make it.
#[tokio::test]
async fn a_key_file_that_was_never_made_is_told_with_how_to_make_it() {
    let (_folder, data) = data();
    fs::create_dir(&data).unwrap();
    let below = |name: &str| data.join(name).to_str().unwrap().to_owned();
    let file = below("triseald.toml");
    let settings = format!(
        "server.listen = '127.0.0.1:0'\n\
         factors = {{ environment = 'file', customer = 'local', file.path = '{}', local.master_key = '{}' }}\n\
         store = {{ backend = 'embedded', embedded.path = '{}' }}\n\
         insecure = {{ plaintext = true, development_codebase_key = true, local_kms = true }}\n",
        below("environment.json"),
        below("kms.key"),
        below("store.redb"),
    );
    fs::write(&file, settings).unwrap();
    let arguments = ["--config", file.as_str()];
    let says = |wrong, advice| refused(&arguments, &[], Says { wrong, advice });
    let wrong = &["kms.key is not there", "openssl rand -base64 32", "0600"];
    says(wrong, "name it in factors.local.master_key").await;
    fs::write(below("kms.key"), WRAPPING).unwrap();
    fs::set_permissions(below("kms.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let wrong = &["environment.json is not there", "triseal keygen environment FILE"];
    let said = says(wrong, "name it in factors.file.path").await;
    assert!(!said.contains("absent"), "{said}");
    assert!(!data.join("store.redb").exists());
}

#[tokio::test]
async fn settings_that_are_wrong_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("triseald.toml");
    let path = file.to_str().unwrap();
    let wrong = &["triseald.toml", "No such file"];
    refused(&["--config", path], &[], Says { wrong, advice: "name by --config a TOML file that" }).await;
    let wrong = &["can't be read", "directory"];
    refused(&["--config", folder.path().to_str().unwrap()], &[], Says { wrong, advice: "name by --config" }).await;
    for (text, wrong, advice) in [
        ("server = [", &["triseald.toml", "no TOML from line 1"][..], "docs/SETTINGS.md"),
        ("MARKED+c2VjcmV0=", &["triseald.toml", "no TOML from line 1"], "docs/SETTINGS.md"),
        ("{\"format\": \"triseal-environment-keys/v1\", \"keys\": \"MARKED\"}", &["no TOML"], "docs/SETTINGS.md"),
        ("[server]\nlisten_on = 'MARKED'", &["server.listen_on"], "must be one of `listen`,"),
        ("[sever]\nlisten = 'MARKED'", &["sever"], "docs/SETTINGS.md"),
        ("[server]\nlisten = 'MARKED'", &["server.listen"], "such as 127.0.0.1:7443"),
        ("[server]\ndrain = 'MARKED'", &["server.drain"], "such as \"500ms\", \"20s\""),
        ("deployment = 'MARKED MARKED'", &["deployment"], "A-Z a-z 0-9"),
        ("[store]\nbackend = 'MARKED'", &["store.backend"], "must be one of"),
        ("[cache]\nroots = 'MARKED'", &["cache.roots"], "must be an integer"),
        ("cache = 'MARKED'", &["cache"], "must be a table"),
        ("[factors]\ncodebase_primary = 0", &["factors.codebase_primary"], "must be a nonzero"),
        ("telemetry.log = 'MARKED'", &["telemetry.log"], "must be one of error, warn, info"),
        (
            "factors.local.master_key = 'MARKEDMARKEDMARKEDMARKEDMARKEDMARKEDMARKEDM='",
            &["factors.local.master_key", "looks like a key"],
            "put the key into a file of mode 0600",
        ),
    ] {
        fs::write(&file, text).unwrap();
        let environment = [("TRISEAL__INSECURE__DEVELOPMENT_CODEBASE_KEY", "true")];
        refused(&["--config", path], &environment, Says { wrong, advice }).await;
    }
}

#[tokio::test]
async fn a_first_start_that_was_refused_can_be_repeated() {
    let (_folder, data) = data();
    fs::create_dir(&data).unwrap();
    let file = data.join("environment.json");
    fs::write(&file, "{}").unwrap();
    refused_dev(&data, &[], &["environment.json"], "chmod 600").await;
    fs::remove_file(&file).unwrap();
    let service = Service::dev(&data).await;
    service.credentials().encrypt_credential(encrypt("demo", "main", opaque(*b"kept"))).await.unwrap();
}

#[tokio::test]
async fn each_protection_is_lifted_by_its_own_setting() {
    let (_folder, data) = data();
    for (variable, value, wrong, advice) in [
        ("TRISEAL__INSECURE__PLAINTEXT", "false", "tls", "insecure.plaintext = true"),
        ("TRISEAL__INSECURE__DEVELOPMENT_CODEBASE_KEY", "false", "well-known", "build one with TRISEAL_CODEBASE_KEYS"),
        ("TRISEAL__INSECURE__LOCAL_KMS", "false", "factors.customer", "needs insecure.local_kms"),
        ("TRISEAL__STORE__BACKEND", "dynamodb", "no AWS region is set", "set AWS_REGION"),
        ("TRISEAL__FACTORS__CUSTOMER", "kms", "factors.kms.wrap_with", "must be the ARN of a KMS key"),
        (
            "TRISEAL__FACTORS__ENVIRONMENT",
            "secrets-manager",
            "factors.secrets_manager.secret_id",
            "must be the secret's ARN",
        ),
        ("TRISEAL__AUDIT__KMS_MAC_KEY", "alias/MARKED", "audit.kms_mac_key", "must be the ARN of a KMS key"),
        ("TRISEAL__FACTORS__CODEBASE_PRIMARY", "3", "factors.codebase_primary", "name another, or leave it out"),
        ("TRISEAL__SERVER__LISTN", "MARKED", "server.listn (TRISEAL__SERVER__LISTN in the environment)", "`listen`"),
        ("TRISEAL_SERVER__LISTEN", "MARKED", "TRISEAL_SERVER__LISTEN", "write TRISEAL__SERVER__LISTEN"),
    ] {
        // No region of the machine's.
        let variables = [
            (variable, value),
            ("AWS_REGION", ""),
            ("AWS_CONFIG_FILE", "/dev/null"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ];
        refused_dev(&data, &variables, &[wrong], advice).await;
    }
    let everywhere = ["--dev", "--listen", "0.0.0.0:0", "--data", data.to_str().unwrap()];
    let wrong = &["server.listen"];
    refused(&everywhere, &[], Says { wrong, advice: "must be a loopback address, such as 127.0.0.1:7443" }).await;
    assert!(!data.exists());
}

#[tokio::test]
async fn another_deployment_does_not_open_the_store() {
    let (_folder, data) = used().await;
    let other = [("TRISEAL__DEPLOYMENT", "production")];
    refused_dev(&data, &other, &["store.redb", "deployment \"dev\""], "set `deployment` to it").await;
    assert_kept(&data).await;
}

#[tokio::test]
async fn wrong_certificates_are_named_and_nothing_is_made() {
    let (folder, data) = data();
    let authority = Authority::new("a CA");
    let pair = authority.server();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let client = authority.client("spiffe://datasert.com/realtask");
    for (name, content) in [
        ("server.pem", pair.certificate.clone()),
        ("server.key", pair.key.clone()),
        ("open.key", pair.key),
        ("client.pem", client.certificate.clone()),
        ("client.key", client.key),
        ("ca.pem", authority.pem()),
        ("ca.crl", Authority::new("another CA").revocation_list(&[], 60)),
    ] {
        support::write(path(name).into(), &content);
    }
    fs::set_permissions(path("open.key"), fs::Permissions::from_mode(0o604)).unwrap();
    let (server, key, ca) = (path("server.pem"), path("server.key"), path("ca.pem"));
    let good = [
        ("TRISEAL__INSECURE__PLAINTEXT", "false"),
        ("TRISEAL__TLS__CERTIFICATE", server.as_str()),
        ("TRISEAL__TLS__PRIVATE_KEY", key.as_str()),
        ("TRISEAL__TLS__CLIENT_CA", ca.as_str()),
        ("TRISEAL__TLS__TRUST_DOMAIN", "datasert.com"),
    ];
    for (setting, value, parts) in [
        ("TRISEAL__TLS__CERTIFICATE", path("nothing.pem"), &["nothing.pem is not there"][..]),
        ("TRISEAL__TLS__CERTIFICATE", path("ca.crl"), &["ca.crl", "something else than certificates"]),
        ("TRISEAL__TLS__CERTIFICATE", path("client.pem"), &["client.pem", "not for servers"]),
        ("TRISEAL__TLS__PRIVATE_KEY", path("client.key"), &["client.key is not the key of", "server.pem"]),
        ("TRISEAL__TLS__PRIVATE_KEY", path("open.key"), &["open.key is open to others (mode 0604)", "chmod 600"]),
        ("TRISEAL__TLS__PRIVATE_KEY", path("."), &["no regular file"]),
        ("TRISEAL__TLS__CLIENT_CA", path("client.pem"), &["client.pem", "certificate 1 is no CA's"]),
        ("TRISEAL__TLS__CLIENT_CRL", path("ca.crl"), &["ca.crl has no revocation list signed by", "ca.pem"]),
        ("TRISEAL__TLS__TRUST_DOMAIN", "spiffe://datasert.com".to_owned(), &["tls.trust_domain", "without spiffe://"]),
        ("TRISEAL__INSECURE__PLAINTEXT", "true".to_owned(), &["insecure.plaintext", "[tls]"]),
    ] {
        let settings: Vec<_> = good.into_iter().chain([(setting, value.as_str())]).collect();
        let (advice, wrong) = parts.split_last().unwrap();
        refused_dev(&data, &settings, wrong, advice).await;
    }
    refused_dev(&data, &good[..1], &["settings: tls:"], "docs/TLS.md").await;
    refused_dev(&data, &good[..4], &["settings: tls"], "trust_domain").await;
    assert!(!data.exists());
}

#[tokio::test]
async fn a_data_directory_is_made_with_those_above_it() {
    let (folder, _) = data();
    let data = folder.path().join("one/two/three");
    drop(Service::dev(&data).await);
    for made in data.ancestors().take(3) {
        assert_eq!(made.metadata().unwrap().permissions().mode() & 0o777, 0o700, "{}", made.display());
    }
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    refused_dev(&file, &[], &["file can't be made"], "name another directory by --data").await;
}

#[tokio::test]
async fn the_arguments_are_checked() {
    for (arguments, named) in [
        (&[][..], "--config <FILE>"),
        (&["--dev", "--config", "x"], "--config <FILE>"),
        (&["--listen", "nowhere", "--dev"], "--listen"),
        (&["--data", "x"], "--dev"),
        (&["--data", "x", "--config", "x"], "--dev"),
    ] {
        let output = run(triseald(arguments)).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(said.contains(named), "{arguments:?}: {said}");
    }
}
