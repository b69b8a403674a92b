//! What `triseald --dev` makes at its first start: keys in files, and the customer of the README's first lines. In production nothing of
//! this happens: keys and tables are made by somebody else.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use base64ct::{Base64, Encoding};
use jiff::Timestamp;
use triseal::access::{Access, CreateCustomer};
use triseal::config::Settings;
use triseal::customers::{CustomerDirectory, CustomerError};
use triseal::factors::document::{Form, KeyDocument};
use triseal::factors::local;
use triseal::ids::{Caller, CustomerId};
use triseal::store::embedded::EmbeddedStore;
use zeroize::Zeroizing;

use super::Failure;

/// Makes what `--dev` needs, where there is nothing. A key is never made beside a store: the store's records would not open
/// under it.
pub(super) fn prepare(settings: &Settings, data: &Path) -> Result<(), Failure> {
    let store = &settings.store.embedded.path;
    // What can't be looked at is there: whoever opens it tells what is wrong with it.
    let exists = |path: &Path| path.try_exists().unwrap_or(true);
    make_directory(data)
        .map_err(|error| format!("{} can't be made: {error}: name another directory by --data", data.display()))?;
    let fresh = !exists(store);
    let lacks_a_key = [&settings.factors.local.master_key, &settings.factors.file.path].iter().any(|key| !exists(key));
    if !fresh && lacks_a_key {
        // What stands in the store's place may be none, and then no key is missing.
        drop(EmbeddedStore::open(store, &settings.deployment)?);
    }
    let mut key = Zeroizing::new([0; 32]);

    getrandom::fill(key.as_mut())?;
    // Of its final size from the start, so that it does not grow and leave a copy behind.
    let mut encoded = Zeroizing::new([0; 45]);
    Base64::encode(key.as_ref(), encoded.as_mut())?;
    encoded[44] = b'\n';
    make_key_file(&settings.factors.local.master_key, encoded.as_ref(), fresh)?;

    getrandom::fill(key.as_mut())?;
    let document = KeyDocument::first(key, Timestamp::now()).to_json(Form::Environment);
    make_key_file(&settings.factors.file.path, document.as_bytes(), fresh)
}

/// The customer of the README's first lines, made by whoever runs `--dev`, whatever policy is in force. Idempotent: a first start may
/// have been killed before it came so far.
pub(super) async fn provision_demo(directory: &CustomerDirectory) -> Result<(), Failure> {
    let demo = CreateCustomer(CustomerId::parse("demo")?);
    let permit = Access::development()?.permit(&Caller::insecure_plaintext(), demo)?;
    match directory.create(&permit).await {
        Ok(_) | Err(CustomerError::Destroyed) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// With those above it that are missing. The name of each is on disk only when the one above it is.
fn make_directory(path: &Path) -> io::Result<()> {
    let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.is_dir();
    let missing: Vec<_> = path.ancestors().take_while(is_missing).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    for made in missing {
        let above = made.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(above)?.sync_all()?;
    }
    Ok(())
}

fn make_key_file(path: &Path, content: &[u8], fresh: bool) -> Result<(), Failure> {
    if path.try_exists().unwrap_or(true) {
        return Ok(());
    }
    if !fresh {
        return Err(format!(
            "{} is missing, and the store beside it has records that need it: put the file back, \
             or start over with another --data directory",
            path.display()
        )
        .into());
    }
    match local::create(path, content) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(format!("{} can't be made: {error}: name another directory by --data", path.display()).into())
        }
        // Another process was quicker: its key is as good.
        Ok(()) | Err(_) => Ok(()),
    }
}
