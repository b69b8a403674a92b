//! Policies that services of the tests run under.

use std::fs;
use std::path::{Path, PathBuf};

use super::tls::CALLER;

/// A policy that permits the callers of these tests everything: they are about who is a caller at all.
pub(crate) fn everything_permitted(folder: &Path) -> PathBuf {
    let directory = folder.join("policy");
    fs::create_dir(&directory).unwrap();
    let callers = [CALLER, "spiffe://datasert.com/security", "dns:realtask.internal"];
    let entities =
        callers.map(|id| serde_json::json!({ "uid": { "type": "Caller", "id": id }, "attrs": {}, "parents": [] }));
    for (name, content) in [
        ("triseal.cedarschema", include_str!("../../../deploy/policy/triseal.cedarschema").to_owned()),
        ("entities.json", serde_json::json!(entities).to_string()),
        ("all.cedar", "@id(\"all\")\npermit (principal, action, resource);".to_owned()),
    ] {
        fs::write(directory.join(name), content).unwrap();
    }
    directory
}
