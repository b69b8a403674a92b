//! Compiles the protocol with protox, so that no protoc is needed, and embeds the codebase keys.
//!
//! `TRISEAL_CODEBASE_KEYS` names the codebase key file (docs/KEYS.md). It is checked here, so that a binary with a
//! broken key file is never built; the message names the field and never the value.

#![expect(clippy::disallowed_methods, reason = "cargo speaks to a build script through its environment")]

use std::error::Error;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

#[path = "src/factors/document.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "shared with the library, which uses and documents all of it"
)]
mod document;

use document::{Form, KeyDocument};

const DEVELOPMENT_KEYS: &str = "src/factors/codebase_development.json";

fn main() {
    if let Err(error) = compile_protocol().and_then(|()| embed_codebase_keys()) {
        // cargo shows this line by itself, above the build script's output.
        println!("cargo::error={error}");
        std::process::exit(1);
    }
}

fn compile_protocol() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files([
        "triseal/v1/credential_service.proto",
        "triseal/v1/customer_service.proto",
        "triseal/v1/key_service.proto",
        "triseal/storage/v1/stored_secret.proto",
    ])?;
    let mut descriptors = compiler.file_descriptor_set();
    // Messages that hold a secret are wiped when dropped, and print as their name: grpc/wire.rs and secret/stored.rs.
    // (prost derives Clone and PartialEq for every message, which can't be helped.)
    let mut config = tonic_prost_build::configure().emit_rerun_if_changed(false).codec_path("crate::grpc::wire::Codec");
    let secrets = [
        "triseal.v1.SalesforceOAuth",
        "triseal.v1.Password",
        "triseal.v1.Opaque",
        "triseal.storage.v1.StoredSalesforceOAuth",
        "triseal.storage.v1.StoredPassword",
        "triseal.storage.v1.StoredOpaque",
    ];
    // These hold the token of a lease, which is worth nothing without its caller's certificate.
    let leases = ["triseal.v1.RefreshLease", "triseal.v1.CompleteRefreshRequest", "triseal.v1.AbandonRefreshRequest"];
    for message in secrets {
        config = config.type_attribute(message, "#[derive(::zeroize::Zeroize, ::zeroize::ZeroizeOnDrop)]");
    }
    for time in ["issue_time", "access_token_expire_time"] {
        for message in ["triseal.v1.SalesforceOAuth", "triseal.storage.v1.StoredSalesforceOAuth"] {
            config = config.field_attribute(format!("{message}.{time}"), "#[zeroize(skip)]");
        }
    }
    // The crate that makes the details of our errors has this message, too.
    config = config.extern_path(".google.rpc", "::tonic_types");
    config.skip_debug(secrets.into_iter().chain(leases)).compile_fds(descriptors.clone())?;
    // Reflection shows the API and not the stored form, and has no use for comments.
    descriptors.file.retain(|file| file.package() != "triseal.storage.v1");
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    fs::write(out_dir().join("descriptors.bin"), descriptors.encode_to_vec())?;
    Ok(())
}

fn embed_codebase_keys() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=TRISEAL_CODEBASE_KEYS");
    println!("cargo::rerun-if-changed={DEVELOPMENT_KEYS}");
    println!("cargo::rustc-check-cfg=cfg(triseal_development_codebase_key)");
    let named = env::var_os("TRISEAL_CODEBASE_KEYS").map(|value| key_file(&value)).transpose()?;
    let file = named.as_deref().unwrap_or(DEVELOPMENT_KEYS);
    let complain = |problem: &dyn std::fmt::Display| format!("codebase key file {file}: {problem}");

    println!("cargo::rerun-if-changed={file}");
    let text = Zeroizing::new(fs::read_to_string(file).map_err(|error| complain(&error))?);
    let keys = KeyDocument::parse(Form::Codebase, &text).map_err(|error| complain(&error))?;
    if named.is_some() {
        refuse_development_keys(&keys).map_err(|problem| complain(&problem))?;
    } else {
        println!("cargo::rustc-cfg=triseal_development_codebase_key");
    }
    // A copy for include_str!, for nobody else to read.
    let copy = out_dir().join("codebase-keys.json");
    let mut copy = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(copy)?;
    copy.write_all(text.as_bytes())?;
    Ok(())
}

/// The path that the variable holds. What is no path is not repeated: it may be the keys themselves, given by mistake. Nor may it reach
/// cargo, which takes each line of this script's output for a directive.
fn key_file(value: &OsStr) -> Result<String, &'static str> {
    if value.is_empty() {
        return Err("TRISEAL_CODEBASE_KEYS: is set and empty: name the key file, or unset it to build with the \
                    well-known development keys");
    }
    let path = value.to_str().filter(|path| !path.chars().any(char::is_control));
    path.filter(|path| fs::metadata(path).is_ok_and(|about| about.is_file()) && fs::File::open(path).is_ok())
        .map(str::to_owned)
        .ok_or(
            "TRISEAL_CODEBASE_KEYS: names no readable file: give it the whole path of a key file, such as \
             `triseal keygen codebase FILE` makes",
        )
}

/// A build that names a key file is a real one: the well-known keys in it would be no factor at all.
fn refuse_development_keys(keys: &KeyDocument) -> Result<(), String> {
    let text = fs::read_to_string(DEVELOPMENT_KEYS).map_err(|error| error.to_string())?;
    let known = KeyDocument::parse(Form::Codebase, &text).map_err(|error| error.to_string())?;
    for (index, entry) in keys.keys.iter().enumerate() {
        if known.keys.iter().any(|other| bool::from(other.key.as_slice().ct_eq(entry.key.as_slice()))) {
            return Err(format!(
                "keys[{index}].key: is the well-known development key; make keys by `triseal keygen codebase`"
            ));
        }
    }
    Ok(())
}

fn out_dir() -> PathBuf {
    // cargo always sets it.
    PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default())
}
