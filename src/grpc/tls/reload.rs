//! Whether files have changed: by their content, so that neither an atomic swap of a symbolic link nor an edit within one tick of a
//! clock is missed. It knows neither what is in them nor where the result goes.

use sha2::{Digest, Sha256};
use tracing::{error, info};

use super::material::TlsError;
use super::pem::FileError;
use crate::telemetry::metrics;

/// Tells one reading from another.
type Mark = [u8; 32];

/// What was found when the files of a set were read.
pub(super) struct Reading<T> {
    pub(super) found: Result<T, FileError>,
    mark: Mark,
}

impl<T> Reading<T> {
    /// Takes what was found, and what of it tells one reading from another.
    pub(super) fn new(found: Result<T, FileError>, octets: impl FnOnce(&T) -> Vec<&[u8]>) -> Self {
        let mut digest = Sha256::new();
        match &found {
            Ok(files) => {
                for part in octets(files) {
                    digest.update((part.len() as u64).to_be_bytes());
                    digest.update(part);
                }
            }
            Err(error) => digest.update(error.to_string()),
        }
        Self { found, mark: digest.finalize().into() }
    }
}

/// Files that are used together, and what has become of them.
pub(super) struct Watched {
    what: &'static str,
    /// Serves now.
    taken: Mark,
    /// By the last reading.
    seen: Mark,
    /// Refused and logged already.
    refused: Option<Mark>,
}

impl Watched {
    /// Starts with what was read first, and serves.
    pub(super) fn new<T>(what: &'static str, first: &Reading<T>) -> Self {
        Self { what, taken: first.mark, seen: first.mark, refused: None }
    }

    /// What `load` makes of the files, if they have changed, two readings in a row agree (so that a file is not taken while it is
    /// being written) and they are good. Bad ones are logged once, counted, and tried again: what is refused for its date may
    /// become good.
    pub(super) fn change<T, L>(
        &mut self,
        reading: Reading<T>,
        load: impl FnOnce(&T) -> Result<L, TlsError>,
    ) -> Option<L> {
        let settled = std::mem::replace(&mut self.seen, reading.mark) == reading.mark;
        if reading.mark == self.taken {
            self.refused = None;
            return None;
        }
        if !settled {
            return None;
        }
        let what = self.what;
        match reading.found.map_err(TlsError::from).and_then(|files| load(&files)) {
            Ok(loaded) => {
                info!(files = what, "TLS files have changed and are taken");
                metrics::tls_read(what, true);
                (self.taken, self.refused) = (reading.mark, None);
                Some(loaded)
            }
            Err(error) => {
                if self.refused.replace(reading.mark) != Some(reading.mark) {
                    error!(files = what, %error, "TLS files refused; the last good ones stay");
                    metrics::tls_read(what, false);
                }
                None
            }
        }
    }
}
