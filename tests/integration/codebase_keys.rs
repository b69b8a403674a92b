//! The first factor is compiled in: what the build refuses, and which binary contains it.
//!
//! This builds the crate a second time, with a key file of its own and in a folder of its own below cargo's. The dependencies are
//! the same ones, and are not built again.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use triseal::grpc::v1;

use crate::support::site::Aws;
use crate::support::{Service, data, decrypt, encrypt, opaque, opaque_data, program, reason, run, triseal, triseald};

const DEVELOPMENT_KEYS: &str = include_str!("../../src/factors/codebase_development.json");

fn contains(binary: &[u8], part: &[u8]) -> bool {
    binary.windows(part.len()).any(|window| window == part)
}

#[tokio::test]
async fn triseal_contains_no_codebase_key() {
    let service = fs::read(env!("CARGO_BIN_EXE_triseald")).unwrap();
    let command_line = fs::read(env!("CARGO_BIN_EXE_triseal")).unwrap();
    let keys: Vec<_> = DEVELOPMENT_KEYS.split("\"key\": \"").skip(1).map(|rest| &rest[..44]).collect();
    assert_eq!(keys.len(), 2);
    for key in keys {
        assert!(contains(&service, key.as_bytes()), "this search would find it");
        let octets = {
            use base64ct::Encoding;
            base64ct::Base64::decode_vec(key).unwrap()
        };
        let forms = [key.as_bytes().to_vec(), octets.clone(), hex::encode(&octets).into_bytes()];
        // Half a key is as bad.
        for form in forms.iter().flat_map(|form| form.chunks_exact(form.len() / 2)) {
            assert!(!contains(&command_line, form));
        }
    }
}

/// Gives a target folder the dependencies that this test was built with, as links to the same files. Whatever cargo does not
/// find there, or not fresh, it builds.
fn lend_dependencies(target: &Path) {
    let built = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned();
    let profile = target.join(built.file_name().unwrap());
    for folder in ["deps", "build", ".fingerprint"] {
        link_all(&built.join(folder), &profile.join(folder));
    }
}

fn link_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let name = entry.file_name();
        let ours = name.to_string_lossy();
        if ["triseal", "libtriseal", "integration", "envelope"].iter().any(|prefix| ours.starts_with(prefix)) {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            link_all(&entry.path(), &to.join(&name));
        } else {
            // One that is there is of an earlier run, and perhaps of other dependencies. It may be gone, too, since it was listed.
            let _ = fs::remove_file(to.join(&name));
            let _ = fs::hard_link(entry.path(), to.join(&name));
        }
    }
}

/// cargo, for a build of this crate with `keys` as the value of TRISEAL_CODEBASE_KEYS.
async fn build(target: &Path, keys: impl AsRef<OsStr>) -> Output {
    let mut cargo = program(env!("CARGO"), &[]);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    // With a test, or cargo would choose other features of some dependencies than it did for this one.
    cargo.args(["build", "--locked", "--offline", "--bin", "triseald", "--test", "envelope_vectors"]);
    cargo.env("CARGO_TARGET_DIR", target).env("TRISEAL_CODEBASE_KEYS", keys).env("CARGO_INCREMENTAL", "0");
    cargo.output().await.unwrap()
}

#[tokio::test]
async fn the_build_refuses_a_broken_key_file_and_takes_a_real_one() {
    let folder = tempfile::tempdir().unwrap();
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("real-keys");
    lend_dependencies(&target);
    let keys = folder.path().join("codebase.json");
    let output = run(triseal(&["keygen", "codebase", keys.to_str().unwrap()])).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let good = fs::read_to_string(&keys).unwrap();
    let key = good.split("\"key\": \"").nth(1).unwrap()[..44].to_owned();
    let second = format!("}}, {{\"version\": 2, \"key\": \"{key}\"}}]}}");

    let bad = folder.path().join("bad.json");
    for (text, named) in [
        (good.replace("\"primary\"", "\"primry\""), "primry"),
        (good.replace("\"primary\": 1,", ""), "primary: is missing"),
        (good.replace("\"primary\": 1", "\"primary\": 2"), "primary: must be the version of an enabled key"),
        (good.replace(&key, &key[..40]), "keys[0].key: must be the base64 of 32 octets"),
        (good.replace(&key, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="), "keys[0].key: is all zeros"),
        (good.replace("}]}", &second), "keys[1].key: is there twice"),
        (good.replace("codebase-keys", "environment-keys"), "format: must be"),
        (good.replace("enabled", "retired"), "primary: must be the version of an enabled key"),
        (DEVELOPMENT_KEYS.to_owned(), "keys[0].key: is the well-known development key"),
        (good[..good.len() / 2].to_owned(), "is not JSON"),
    ] {
        fs::write(&bad, &text).unwrap();
        let output = build(&target, &bad).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{named}");
        assert!(said.contains(named), "{named:?} is not in {said}");
        assert!(!said.contains(&key[..20]), "a key was shown");
    }
    what_is_no_file_is_refused_and_not_shown(&target, &good, &keys).await;

    let output = build(&target, &keys).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let binary = target.join("debug/triseald");
    let built = fs::read(&binary).unwrap();
    assert!(contains(&built, key.as_bytes()));
    refuses_dev_and_runs_otherwise(&binary, folder.path()).await;
}

/// The keys themselves given for their file, and a value whose second line would be a directive to cargo.
async fn what_is_no_file_is_refused_and_not_shown(target: &Path, good: &str, keys: &Path) {
    let key = good.split("\"key\": \"").nth(1).unwrap()[..44].to_owned();
    let keys = keys.to_str().unwrap();
    for (value, named) in [
        (good, "names no readable file"),
        (good.trim_end(), "names no readable file"),
        (&key, "names no readable file"),
        (&format!("{keys}\ncargo::warning=MARKED"), "names no readable file"),
        ("/MARKED/codebase.json", "names no readable file"),
        (env!("CARGO_MANIFEST_DIR"), "names no readable file"),
        ("", "is set and empty"),
    ] {
        let output = build(target, value).await;
        let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "{named}");
        assert!(said.contains(&format!("TRISEAL_CODEBASE_KEYS: {named}")), "{said}");
        assert!(!said.contains(&key[..20]) && !said.contains("MARKED"), "a value was shown");
    }
}

async fn refuses_dev_and_runs_otherwise(binary: &Path, folder: &Path) {
    let with = |arguments: &[&str]| program(binary, arguments);
    let (_data, data) = data();
    let output = run(with(&["--dev", "--data", data.to_str().unwrap()])).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("real codebase key"));
    assert!(!data.exists());

    // Embedded and on local keys, and yet not --dev: only plaintext and the local KMS are lifted.
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let made = run(triseal(&["keygen", "environment", &path("environment.json")])).await;
    assert!(made.status.success());
    fs::write(path("kms.key"), "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n").unwrap();
    fs::set_permissions(path("kms.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let settings = format!(
        "server.listen = '127.0.0.1:0'\n\
         factors = {{ environment = 'file', customer = 'local', file.path = '{}', local.master_key = '{}' }}\n\
         store = {{ backend = 'embedded', embedded.path = '{}' }}\n\
         insecure = {{ plaintext = true, local_kms = true }}\n",
        path("environment.json"),
        path("kms.key"),
        path("store.redb"),
    );
    fs::write(path("triseald.toml"), settings).unwrap();
    let config = path("triseald.toml");
    let service = crate::support::Service::start(with(&["--config", &config])).await;
    let mut customers = service.customers();
    let request = triseal::grpc::v1::CreateCustomerRequest { customer_id: "acme".into() };
    customers.create_customer(request).await.unwrap();
    service.terminate().await;
    // And the well-known key does not open what a real one sealed: the fingerprints tell.
    let mut command = triseald(&["--config", &config]);
    command.env("TRISEAL__INSECURE__DEVELOPMENT_CODEBASE_KEY", "true");
    let output = run(command).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("codebase key of version 1"));
}

/// A rolling deploy from version 1 to 2, and back, on one set of tables: replicas of the old build and of the new one, and of the new one
/// with either primary, side by side.
#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_rolling_deploy_to_the_next_version_and_back_loses_no_call() {
    let folder = tempfile::tempdir().unwrap();
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("rolling-keys");
    lend_dependencies(&target);
    let keys = folder.path().join("codebase.json");
    let built = async |command: &[&str], name: &str| {
        let output = run(triseal(&[command, &[keys.to_str().unwrap()]].concat())).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let output = build(&target, &keys).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let binary = folder.path().join(name);
        fs::copy(target.join("debug/triseald"), &binary).unwrap();
        binary
    };
    let old = built(&["keygen", "codebase"], "old").await;
    let new = built(&["rotate", "codebase", "--file"], "new").await;

    let site = Aws::new().await;
    let start = async |binary: &Path, primary: Option<&str>| {
        let mut command = site.with_aws(program(binary, &["--config", site.settings().to_str().unwrap()]));
        command.env("TRISEAL__INSECURE__DEVELOPMENT_CODEBASE_KEY", "false");
        command.envs(primary.map(|version| ("TRISEAL__FACTORS__CODEBASE_PRIMARY", version)));
        Service::start(command).await
    };
    let mut replicas = vec![start(&old, None).await, start(&old, None).await];
    let demo = v1::CreateCustomerRequest { customer_id: "demo".into() };
    replicas[0].customers().create_customer(demo).await.unwrap();
    all_open_what_all_seal(&replicas, &[1, 1]).await;

    // There, version by version, and back the same way. Of each pair, the second is what the replica seals under.
    let there = [(&new, None, 1), (&new, Some("2"), 2)];
    let back = [(&new, None, 1), (&old, None, 1)];
    let mut under = [1, 1];
    for (binary, primary, version) in there.into_iter().chain(back) {
        if binary == &old {
            // What an old build can't open must be gone before: here by sealing all of it anew.
            all_open_what_all_seal(&replicas, &under).await;
        }
        for replica in [0, 1] {
            assert!(replicas.remove(replica).terminate().await.success());
            replicas.insert(replica, start(binary, primary).await);
            under[replica] = version;
            all_open_what_all_seal(&replicas, &under).await;
        }
    }

    // Added, then promoted: the other way round, an old replica can't open what a new one seals, and says that it may pass.
    let early = start(&new, Some("2")).await;
    seal(&early, "early", 2).await;
    let opened = replicas[0].credentials().decrypt_credential(decrypt("demo", "early", v1::View::Full)).await;
    let status = opened.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (tonic::Code::Unavailable, "KEYS_STALE"));
}

/// Seals, and sees under which version.
async fn seal(service: &Service, id: &str, version: u32) {
    let sealed = service.credentials().encrypt_credential(encrypt("demo", id, opaque(id.as_bytes()))).await;
    let credential = sealed.unwrap().into_inner().credential.unwrap();
    assert_eq!(credential.lineage.unwrap().codebase_version, version);
}

async fn all_open_what_all_seal(replicas: &[Service], under: &[u32]) {
    for (number, (sealing, version)) in replicas.iter().zip(under).enumerate() {
        let id = format!("c{number}");
        seal(sealing, &id, *version).await;
        for opening in replicas {
            let opened = opening.credentials().decrypt_credential(decrypt("demo", &id, v1::View::Full)).await;
            assert_eq!(opaque_data(opened.unwrap().into_inner().secret), id.as_bytes());
        }
    }
}
