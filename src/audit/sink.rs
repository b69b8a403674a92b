//! Where lines go: standard output, or a file that is rotated by size. What stands in a file is never changed: lines are
//! appended, a full file gets another name, and after a line that was torn by the end of its process a new file begins.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::{info, warn};

use crate::config;

/// A file that is larger gets another name, and a new one begins.
const ROTATE_AT_OCTETS: u64 = 256 << 20;
/// So often it is looked whether the file's name is still its own: another program may have renamed it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Takes lines. Only the writer's thread calls it, and it may block.
pub trait Sink: Send {
    /// Takes some of the octets, and tells how many, as [`Write::write`].
    ///
    /// # Errors
    /// None was taken. It is asked again.
    fn write(&mut self, octets: &[u8]) -> io::Result<usize>;

    /// Called where a line ends: the moment to go over to another file.
    ///
    /// # Errors
    /// What was written before is not safe. It is asked again.
    fn between_lines(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// The file whose `fsync` makes safe what was written since the last [`Sink::between_lines`] went over to it. `None`: what is
    /// taken is somebody else's to keep.
    fn file(&self) -> Option<Arc<File>> {
        None
    }
}

/// Why there is no sink.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// Standard output is closed.
    #[error("the audit log can't go to standard output: {0}")]
    Stdout(io::Error),
    /// The file can't be made or opened.
    #[error("the audit log can't go to {0}: {1}")]
    Io(PathBuf, io::Error),
    /// Something else stands there.
    #[error("the audit log can't go to {0}: it is no regular file")]
    NotAFile(PathBuf),
    /// Two streams in one file tear each other's lines.
    #[error("the audit log can't go to {0}: another process writes it; give each its own file")]
    InUse(PathBuf),
}

/// Opens what the settings name.
///
/// # Errors
/// A [`SinkError`], which names the file.
pub fn open(settings: &config::Audit) -> Result<Box<dyn Sink>, SinkError> {
    match settings.sink {
        config::AuditSink::Stdout => Ok(Box::new(StandardOutput::open().map_err(SinkError::Stdout)?)),
        config::AuditSink::File => Ok(Box::new(LogFile::open(&settings.file, ROTATE_AT_OCTETS)?)),
    }
}

/// Whether the service could write this file and, when it is full, begin another: for whoever wants to know before it starts. The
/// file is neither made nor changed, and may be another process's. Beside it a file is made and taken away again.
///
/// # Errors
/// A [`SinkError`], which names the file.
pub fn try_file(path: &Path) -> Result<(), SinkError> {
    let io = |error| SinkError::Io(path.to_owned(), error);
    match std::fs::metadata(path) {
        Ok(about) if !about.is_file() => return Err(SinkError::NotAFile(path.to_owned())),
        Ok(_) => drop(OpenOptions::new().append(true).open(path).map_err(io)?),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
    }
    let beside = path.with_file_name(format!(".triseal-check-{:016x}", getrandom::u64().map_err(|e| io(e.into()))?));
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).map_err(io)?;
    std::fs::remove_file(&beside).map_err(io)
}

/// Standard output, without the buffer that the standard library has for it.
struct StandardOutput(File);

impl StandardOutput {
    fn open() -> io::Result<Self> {
        Ok(Self(io::stdout().as_fd().try_clone_to_owned()?.into()))
    }
}

impl Sink for StandardOutput {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.write(octets)
    }
}

/// A file, and those that it was before.
pub(super) struct LogFile {
    path: PathBuf,
    file: Arc<File>,
    octets: u64,
    rotate_at: u64,
    looked: Instant,
    /// There was no new file to be had when it was looked last.
    stuck: bool,
}

impl LogFile {
    /// Appends to the file, or makes one of mode 0600.
    pub(super) fn open(path: &Path, rotate_at: u64) -> Result<Self, SinkError> {
        let io = |error| SinkError::Io(path.to_owned(), error);
        // Before it is opened: a pipe would wait for a reader.
        match std::fs::metadata(path) {
            Ok(about) if !about.is_file() => return Err(SinkError::NotAFile(path.to_owned())),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        let mut file = append(path).map_err(io)?;
        lock(&file).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => SinkError::InUse(path.to_owned()),
            _ => io(error),
        })?;
        if !ends_with_a_line(&file).map_err(io)? {
            let aside = put_aside(path).map_err(io)?;
            warn!(file = %aside.display(), "the last line is torn, as a killed process leaves it: a new file begins");
            file = append(path).and_then(|file| lock(&file).map(|()| file)).map_err(io)?;
        }
        sync_directory(path).map_err(io)?;
        let octets = file.metadata().map_err(io)?.len();
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file),
            octets,
            rotate_at,
            looked: Instant::now(),
            stuck: false,
        })
    }

    /// Goes over to a new file if this one is full or its name is another file's by now. If there is none to be had, this one is
    /// written on: nothing is lost by that.
    fn go_over(&mut self) -> io::Result<()> {
        let full = self.octets >= self.rotate_at;
        let own_name = self.has_its_name();
        if own_name && !full {
            return Ok(());
        }
        // Nobody syncs it later.
        self.file.sync_data()?;
        let renamed = if own_name { put_aside(&self.path).map(Some) } else { Ok(None) };
        let gone_over = renamed.and_then(|aside| {
            let file = append(&self.path)?;
            lock(&file)?;
            sync_directory(&self.path)?;
            Ok((file.metadata()?.len(), file, aside))
        });
        self.stuck = gone_over.is_err();
        match gone_over {
            Ok((octets, file, aside)) => {
                let aside = aside.as_deref().unwrap_or(Path::new("renamed by another program")).display();
                info!(file = %self.path.display(), before = %aside, "a new audit file begins");
                (self.file, self.octets) = (Arc::new(file), octets);
            }
            Err(error) => warn!(file = %self.path.display(), %error, "no new audit file: the old one is written on"),
        }
        Ok(())
    }

    fn has_its_name(&self) -> bool {
        let named = std::fs::metadata(&self.path).map(|about| (about.dev(), about.ino()));
        let own = self.file.metadata().map(|about| (about.dev(), about.ino()));
        matches!((named, own), (Ok(named), Ok(own)) if named == own)
    }
}

impl Sink for LogFile {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let taken = self.file.as_ref().write(octets)?;
        self.octets += taken as u64;
        Ok(taken)
    }

    fn between_lines(&mut self) -> io::Result<()> {
        let full = self.octets >= self.rotate_at && !self.stuck;
        if !full && self.looked.elapsed() < LOOK_EVERY {
            return Ok(());
        }
        self.looked = Instant::now();
        self.go_over()
    }

    fn file(&self) -> Option<Arc<File>> {
        Some(Arc::clone(&self.file))
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

/// As long as the file is open, no other process takes it for its own.
fn lock(file: &File) -> io::Result<()> {
    match file.try_lock() {
        // Some network file systems have no locks, and then there is nothing to hold.
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Ok(()),
        Err(TryLockError::Error(error)) => Err(error),
        Err(TryLockError::WouldBlock) => Err(ErrorKind::WouldBlock.into()),
        Ok(()) => Ok(()),
    }
}

fn ends_with_a_line(mut file: &File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// Renames the file to one that is not there, such as `audit.jsonl.20261124T090000Z-1f2e3d4c5b6a7988`.
fn put_aside(path: &Path) -> io::Result<PathBuf> {
    let random = getrandom::u64().map_err(io::Error::from)?;
    let mut name = path.file_name().ok_or(ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}-{random:016x}", Timestamp::now().strftime("%Y%m%dT%H%M%SZ")));
    let aside = path.with_file_name(name);
    if aside.try_exists()? {
        return Err(ErrorKind::AlreadyExists.into());
    }
    std::fs::rename(path, &aside)?;
    Ok(aside)
}

/// A file's name is safe only when its directory is.
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests;
