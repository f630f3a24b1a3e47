//! Core files: what a process was when the kernel, or gcore, wrote it down. Knows nothing of Go.
//!
//! Only the headers and notes are held; memory is read from the file when it is asked for.

mod error;
mod headers;
#[cfg(any(test, feature = "fuzzing"))]
mod made;
mod notes;
mod store;

use std::path::{Path, PathBuf};

pub use error::CoreError;
pub use headers::{CoreSegment, Machine};
#[cfg(test)]
pub(crate) use made::core as made_core;
#[cfg(feature = "fuzzing")]
pub(crate) use made::whole as whole_core;
pub use notes::{CoreProcess, CoreSignal, CoreThread, FileMapping, Registers};

use notes::Notes;
use store::Store;

/// What of a core file's contents is behind its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Bytes that the file has.
    pub size: u64,
    /// Bytes that its headers speak of.
    pub expected: u64,
    /// Bytes of memory that are missing.
    pub missing: u64,
}

/// A core file.
#[derive(Debug)]
pub struct CoreFile {
    path: PathBuf,
    store: Store,
    machine: Machine,
    segments: Vec<CoreSegment>,
    notes: Notes,
    cut: Option<Cut>,
}

impl CoreFile {
    /// Reads headers and notes.
    ///
    /// # Errors
    /// [`CoreError`]: it can't be read, or is no core file of a machine that is known. One that is cut short is read
    /// as far as it goes: see [`CoreFile::cut`].
    pub fn open(path: &Path) -> Result<Self, CoreError> {
        Self::read(path.to_owned(), Store::open(path)?)
    }

    /// The same of bytes.
    ///
    /// # Errors
    /// As [`CoreFile::open`].
    pub fn parse(bytes: Vec<u8>) -> Result<Self, CoreError> {
        Self::read(PathBuf::from("(bytes)"), Store::Bytes(bytes))
    }

    fn read(path: PathBuf, store: Store) -> Result<Self, CoreError> {
        let headers = headers::read(&path, &store)?;
        let cut = headers.cut(store.len());
        let notes = notes::read(&store, headers.machine, &headers.notes);
        let segments = headers.segments;
        Ok(Self { path, store, machine: headers.machine, segments, notes, cut })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The machine that the process ran on.
    #[must_use]
    pub const fn machine(&self) -> Machine {
        self.machine
    }

    /// The mapped parts of memory, in the order of their addresses.
    #[must_use]
    pub fn segments(&self) -> &[CoreSegment] {
        &self.segments
    }

    /// The segment that an address lies in.
    #[must_use]
    pub fn segment(&self, address: u64) -> Option<&CoreSegment> {
        let behind = self.segments.partition_point(|segment| segment.address <= address);
        let segment = self.segments.get(behind.checked_sub(1)?)?;
        (address - segment.address < segment.memory_size).then_some(segment)
    }

    /// Reads from the file, as far as it goes; returns how many bytes that were.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> std::io::Result<usize> {
        self.store.read_at(offset, into)
    }

    /// Every thread, the one that the core was written for first.
    #[must_use]
    pub fn threads(&self) -> &[CoreThread] {
        &self.notes.threads
    }

    /// The signal that ended the process; none where somebody else wrote its core.
    #[must_use]
    pub const fn signal(&self) -> Option<CoreSignal> {
        self.notes.signal
    }

    /// Who the process was.
    #[must_use]
    pub const fn process(&self) -> Option<&CoreProcess> {
        self.notes.process.as_ref()
    }

    /// The files that the process had mapped.
    #[must_use]
    pub fn files(&self) -> &[FileMapping] {
        &self.notes.files
    }

    /// The address at which the executable begins to run (`AT_ENTRY`).
    #[must_use]
    pub const fn entry(&self) -> Option<u64> {
        self.notes.entry
    }

    /// The executable as the process saw it: the file that is mapped where it begins to run.
    #[must_use]
    pub fn executable(&self) -> Option<&FileMapping> {
        let entry = self.entry()?;
        self.files().iter().find(|file| file.start <= entry && entry < file.end)
    }

    /// What is missing, if the file is cut short.
    #[must_use]
    pub const fn cut(&self) -> Option<Cut> {
        self.cut
    }

    /// Whether notes could not be read to their end, so that threads or files may be missing.
    #[must_use]
    pub const fn notes_cut(&self) -> bool {
        self.notes.cut
    }
}

/// Whether a file says of itself that it is a core file; `false` where it can't be read.
#[must_use]
pub fn is_core(path: &Path) -> bool {
    Store::open(path).is_ok_and(|store| headers::is_core(&store))
}

#[cfg(test)]
mod tests;
