//! What is wrong with files, ports and settings: each gives one clear line that names it and says what to do, ends the program with
//! a failure, and loses nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use triseal::grpc::v1;

use crate::support::{Service, data, decrypt, encrypt, opaque, run, triseald};

/// Starts a service that must refuse to, and returns what it said.
async fn refused(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let mut command = triseald(arguments);
    command.envs(environment.iter().copied());
    let output = run(command).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let errors: Vec<_> = said.lines().filter(|line| !line.starts_with('{')).collect();
    assert_eq!(errors.len(), 1, "one line: {said}");
    assert!(errors[0].starts_with("triseald: ") && !errors[0].contains("panicked"), "{said}");
    errors[0].to_owned()
}

async fn refused_dev(data: &Path, environment: &[(&str, &str)]) -> String {
    refused(&["--dev", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()], environment).await
}

fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
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
    assert_says(&refused_dev(&data, &[]).await, &["store.redb", "in use by another process"]);
    service.credentials().encrypt_credential(encrypt("demo", "main", opaque(b"kept"))).await.unwrap();
    service.kill9().await;
    assert_kept(&data).await;
}

#[tokio::test]
async fn a_port_in_use_is_refused_before_anything_is_made() {
    let (_folder, data) = data();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data = data.to_str().unwrap();
    for (listen, ops_listen, option) in
        [(address.as_str(), "127.0.0.1:0", "--listen"), ("127.0.0.1:0", &address, "--ops-listen")]
    {
        let said = refused(&["--dev", "--listen", listen, "--ops-listen", ops_listen, "--data", data], &[]).await;
        assert_says(&said, &[&address, "in use", option]);
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
        assert_says(&refused_dev(&data, &[]).await, &["store.redb", "damaged", "backup"]);
        assert!(fs::read(&store).unwrap() == bad, "a refused file was changed");
    }
    fs::write(&store, good).unwrap();
    assert_kept(&data).await;
}

#[tokio::test]
async fn a_key_file_that_is_gone_is_not_made_anew() {
    for name in ["environment.json", "insecure-local-kms.key"] {
        let (_folder, data) = used().await;
        let (file, aside) = (data.join(name), data.join("aside"));
        fs::rename(&file, &aside).unwrap();
        assert_says(&refused_dev(&data, &[]).await, &[name, "missing", "put the file back"]);
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
    fs::write(&file, format!("{}AAAA{}", &good[..at], &good[at + 4..])).unwrap();
    assert_says(&refused_dev(&data, &[]).await, &["environment key of version 1", "former key"]);
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
        let said = refused_dev(&data, &[]).await;
        assert_says(&said, &["environment.json", named]);
        assert!(!said.contains("MARKED"), "{said}");
    }
    fs::write(&file, &good).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert_says(&refused_dev(&data, &[]).await, &["environment.json", "0644", "chmod 600"]);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();

    let kms = data.join("insecure-local-kms.key");
    let good = fs::read_to_string(&kms).unwrap();
    fs::write(&kms, "MARKED").unwrap();
    let said = refused_dev(&data, &[]).await;
    assert_says(&said, &["insecure-local-kms.key", "base64 of 32 octets"]);
    assert!(!said.contains("MARKED"), "{said}");
    fs::write(&kms, good).unwrap();
    assert_kept(&data).await;
}

#[tokio::test]
async fn settings_that_are_wrong_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("triseald.toml");
    let path = file.to_str().unwrap();
    assert_says(&refused(&["--config", path], &[]).await, &["triseald.toml", "No such file"]);
    for (text, parts) in [
        ("server = [", &["triseald.toml", "no TOML from line 1"][..]),
        ("MARKED+c2VjcmV0=", &["triseald.toml", "no TOML from line 1"]),
        ("{\"format\": \"triseal-environment-keys/v1\", \"keys\": \"MARKED\"}", &["no TOML"]),
        ("[server]\nlisten_on = 'x'", &["listen_on"]),
        ("[sever]\nlisten = 'x'", &["sever"]),
        ("[server]\nlisten = 'MARK'", &["server.listen"]),
        ("[server]\ndrain = 'soon'", &["server.drain", "20s"]),
        ("deployment = 'a b'", &["deployment", "A-Z a-z 0-9"]),
        ("[store]\nbackend = 'mysql'", &["store.backend", "embedded"]),
        ("[factors]\ncodebase_primary = 0", &["factors.codebase_primary"]),
    ] {
        fs::write(&file, text).unwrap();
        let said = refused(&["--config", path], &[("TRISEAL__INSECURE__DEVELOPMENT_CODEBASE_KEY", "true")]).await;
        assert_says(&said, parts);
        assert!(!said.contains("MARKED"), "{said}");
    }
}

#[tokio::test]
async fn a_first_start_that_was_refused_can_be_repeated() {
    let (_folder, data) = data();
    fs::create_dir(&data).unwrap();
    let file = data.join("environment.json");
    fs::write(&file, "{}").unwrap();
    assert_says(&refused_dev(&data, &[]).await, &["environment.json"]);
    fs::remove_file(&file).unwrap();
    let service = Service::dev(&data).await;
    service.credentials().encrypt_credential(encrypt("demo", "main", opaque(*b"kept"))).await.unwrap();
}

#[tokio::test]
async fn each_protection_is_lifted_by_its_own_setting() {
    let (_folder, data) = data();
    for (setting, value, parts) in [
        ("INSECURE__PLAINTEXT", "false", &["insecure.plaintext"][..]),
        ("INSECURE__DEVELOPMENT_CODEBASE_KEY", "false", &["well-known", "TRISEAL_CODEBASE_KEYS"]),
        ("INSECURE__LOCAL_KMS", "false", &["insecure.local_kms"]),
        ("STORE__BACKEND", "dynamodb", &["store.backend"]),
        ("FACTORS__CUSTOMER", "kms", &["factors.customer"]),
        ("FACTORS__ENVIRONMENT", "secrets-manager", &["factors.environment"]),
        ("FACTORS__CODEBASE_PRIMARY", "3", &["factors.codebase_primary"]),
        ("SERVER__LISTN", "x", &["listn"]),
    ] {
        let name = format!("TRISEAL__{setting}");
        assert_says(&refused_dev(&data, &[(name.as_str(), value)]).await, parts);
    }
    let everywhere = ["--dev", "--listen", "0.0.0.0:0", "--data", data.to_str().unwrap()];
    assert_says(&refused(&everywhere, &[]).await, &["server.listen", "loopback"]);
    assert!(!data.exists());
}

#[tokio::test]
async fn another_deployment_does_not_open_the_store() {
    let (_folder, data) = used().await;
    let said = refused_dev(&data, &[("TRISEAL__DEPLOYMENT", "production")]).await;
    assert_says(&said, &["store.redb", "deployment \"dev\""]);
    assert_kept(&data).await;
}

#[tokio::test]
async fn the_arguments_are_checked() {
    for arguments in [&[][..], &["--dev", "--config", "x"], &["--listen", "nowhere", "--dev"], &["--data", "x"]] {
        let output = run(triseald(arguments)).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}
