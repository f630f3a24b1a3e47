//! Executables and debug files, read and never mapped: a mapped one would kill us if somebody cut it short meanwhile.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};

use super::identity::MAX_EXECUTABLE;

/// Reads a whole file of at most [`MAX_EXECUTABLE`] bytes, holding it once.
///
/// # Errors
/// It can't be read, or is larger (`FileTooLarge`).
pub fn read_file(path: &Path) -> io::Result<Arc<[u8]>> {
    read(&open_file(path)?)
}

/// A file that is held open after it was read, to read parts of it again.
#[derive(Debug)]
pub struct HeldFile {
    file: File,
    stamp: Stamp,
}

/// Size and time of the last change, in seconds and nanoseconds. Who gives it another name or another owner leaves
/// these alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp(u64, i64, i64);

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self(meta.size(), meta.mtime(), meta.mtime_nsec()))
    }
}

impl HeldFile {
    /// Holds a file.
    ///
    /// # Errors
    /// The kernel does not tell its size.
    pub fn new(file: File) -> io::Result<Self> {
        let stamp = Stamp::of(&file)?;
        Ok(Self { file, stamp })
    }

    /// Reads it whole, if it is a regular one of at most [`MAX_EXECUTABLE`] bytes.
    ///
    /// # Errors
    /// It can't be read, is no regular file, or is larger (`FileTooLarge`).
    pub fn read(&self) -> io::Result<Arc<[u8]>> {
        read(&self.file)
    }

    /// Fills `into` with the bytes from an offset on. False where they are not there, and where the file was written to
    /// since it was held: as soon as the process that ran it is gone somebody may write a new program into it.
    #[must_use]
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> bool {
        let read = self.file.read_exact_at(into, offset).is_ok();
        // After reading: whoever writes first changes the time, and then the bytes.
        read && Stamp::of(&self.file).is_ok_and(|now| now == self.stamp)
    }
}

/// Opens a file for reading.
///
/// # Errors
/// The kernel's.
pub fn open_file(path: &Path) -> io::Result<File> {
    // Not waiting for a writer, should it be a pipe.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(File::from(open(path, flags, Mode::empty())?))
}

/// Reads a file by its path in the root of a process, which may be a container's: no link there leads out of it.
fn read_within(pid: u32, path: &str) -> io::Result<Arc<[u8]>> {
    let folder = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY;
    let root = open(format!("/proc/{pid}/root"), folder, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    read(&File::from(openat2(root, path.trim_start_matches('/'), flags, Mode::empty(), resolve)?))
}

/// What is known of an open file, if it is a regular one.
///
/// # Errors
/// It is none, or the kernel does not tell.
pub fn check_regular(file: &File) -> io::Result<fs::Metadata> {
    let metadata = file.metadata()?;
    if metadata.is_file() {
        return Ok(metadata);
    }
    let what = if metadata.is_dir() { "it is a directory" } else { "it is a pipe, a device or a socket" };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{what}, no file")))
}

/// Reads an open file whole, if it is one of at most [`MAX_EXECUTABLE`] bytes.
///
/// # Errors
/// It can't be read, is no regular file, or is larger (`FileTooLarge`).
fn read(file: &File) -> io::Result<Arc<[u8]>> {
    let size = check_regular(file)?.len();
    if size > MAX_EXECUTABLE {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has {size} bytes, more than the {MAX_EXECUTABLE} that are read"),
        ));
    }
    let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, usize::try_from(size).unwrap_or_default()).collect();
    let mut len = 0;
    while let Some(rest) = Arc::get_mut(&mut bytes).and_then(|b| b.get_mut(len..)).filter(|b| !b.is_empty()) {
        match file.read_at(rest, len as u64) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // It was cut short while it was read.
    Ok(if len < bytes.len() { bytes.get(..len).unwrap_or_default().into() } else { bytes })
}

/// The debug file with a build ID (hexadecimal), as distributions install it: below the process's own root
/// first, then below ours.
#[must_use]
pub fn debug_file(pid: Option<u32>, build_id: &str) -> Option<Arc<[u8]>> {
    if build_id.len() < 3 || !build_id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let (first, rest) = build_id.split_at(2);
    let path = format!("/usr/lib/debug/.build-id/{first}/{rest}.debug");
    pid.and_then(|pid| read_within(pid, &path).ok()).or_else(|| read_file(Path::new(&path)).ok())
}

/// Reads a library that a process has mapped, by the path that the process sees.
///
/// # Errors
/// It can't be read, is no regular file, or is larger than [`MAX_EXECUTABLE`].
pub fn read_library(pid: u32, path: &str) -> io::Result<Arc<[u8]>> {
    read_within(pid, path)
}

/// The files that a process has mapped executable, beside its own program, in the order of their addresses, by
/// the paths that it sees.
#[must_use]
pub fn mapped_libraries(pid: u32) -> Vec<String> {
    fs::read_to_string(format!("/proc/{pid}/maps")).map(|maps| libraries(&maps)).unwrap_or_default()
}

pub(super) fn libraries(maps: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in maps.lines() {
        let mut fields = line.splitn(6, ' ');
        let (_, Some(permissions)) = (fields.next(), fields.next()) else { continue };
        let Some(path) = fields.nth(3).map(str::trim).filter(|path| path.starts_with('/')) else { continue };
        if permissions.contains('x') && found.iter().all(|known| known != path) {
            found.push(path.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_whole() {
        let exe = std::env::current_exe().unwrap();
        assert_eq!(*read_file(&exe).unwrap(), *fs::read(&exe).unwrap());
        assert_eq!(read_file(Path::new("/nowhere")).unwrap_err().kind(), io::ErrorKind::NotFound);
        // The size that /proc states is not the file's.
        assert!(read_file(Path::new("/proc/self/status")).unwrap().is_empty());
    }

    #[test]
    fn sec_1_what_is_no_file_is_not_waited_for() {
        let folder = std::env::temp_dir().join(format!("gotrail-files-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let pipe = folder.join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        for path in [pipe.as_path(), Path::new("/dev/zero"), folder.as_path()] {
            assert_eq!(
                read_file(path).unwrap_err().kind(),
                io::ErrorKind::InvalidInput,
                "{}",
                path.display()
            );
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_build_id_is_no_path() {
        for id in ["", "ab", "../../etc/passwd", "zz00"] {
            assert!(debug_file(None, id).is_none(), "{id}");
        }
    }

    #[test]
    fn libraries_of_this_process_are_listed_once() {
        let libraries = mapped_libraries(std::process::id());
        assert!(libraries.iter().any(|path| path.contains("libc")), "{libraries:?}");
        let mut names: Vec<_> = libraries.iter().collect();
        names.dedup();
        assert_eq!(names.len(), libraries.len());
    }
}
