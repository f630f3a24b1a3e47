//! Where a core file's bytes are. Read, not mapped: a file that is cut short meanwhile then gives an error instead of
//! a signal.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

use super::error::CoreError;

#[derive(Debug)]
pub(super) enum Store {
    File { file: File, size: u64 },
    Bytes(Vec<u8>),
}

impl Store {
    pub(super) fn open(path: &Path) -> Result<Self, CoreError> {
        let error = |source: io::Error| CoreError::Io { path: path.to_owned(), source };
        // Not waiting for a writer, should it be a pipe.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::from(open(path, flags, Mode::empty()).map_err(|e| error(e.into()))?);
        let metadata = file.metadata().map_err(error)?;
        if !metadata.is_file() {
            let why = "it is no regular file".to_owned();
            return Err(CoreError::NotCore { path: path.to_owned(), why });
        }
        Ok(Self::File { file, size: metadata.len() })
    }

    pub(super) const fn len(&self) -> u64 {
        match self {
            Self::File { size, .. } => *size,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// Reads as far as the file goes.
    pub(super) fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File { file, .. } => {
                let mut done = 0;
                while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
                    match file.read_at(rest, offset.saturating_add(done as u64)) {
                        Ok(0) => break,
                        Ok(count) => done += count,
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(done)
            }
            Self::Bytes(bytes) => {
                let rest = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
                let count = rest.len().min(into.len());
                into[..count].copy_from_slice(&rest[..count]);
                Ok(count)
            }
        }
    }

    /// Exactly so many bytes; `None` if the file does not have them.
    pub(super) fn bytes(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        // Nothing is allocated for what a header only claims.
        offset.checked_add(len as u64).filter(|end| *end <= self.len())?;
        let mut bytes = vec![0; len];
        (self.read_at(offset, &mut bytes).ok()? == len).then_some(bytes)
    }
}
