//! Executables and debug files, read whole: a mapped one would kill us if somebody cut it short meanwhile.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::identity::MAX_EXECUTABLE;

/// Reads a whole file of at most [`MAX_EXECUTABLE`] bytes, holding it once.
///
/// # Errors
/// It can't be read, or is larger (`FileTooLarge`).
pub fn read_file(path: &Path) -> io::Result<Arc<[u8]>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    if size > MAX_EXECUTABLE {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has {size} bytes, more than the {MAX_EXECUTABLE} that are read"),
        ));
    }
    let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, usize::try_from(size).unwrap_or_default()).collect();
    let mut len = 0;
    while let Some(rest) = Arc::get_mut(&mut bytes).and_then(|b| b.get_mut(len..)).filter(|b| !b.is_empty()) {
        match file.read(rest) {
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
    let roots =
        pid.map(|pid| PathBuf::from(format!("/proc/{pid}/root"))).into_iter().chain([PathBuf::from("/")]);
    roots
        .map(|root| root.join(format!("usr/lib/debug/.build-id/{first}/{rest}.debug")))
        .find_map(|path| read_file(&path).ok())
}

/// The files that a process has mapped executable, beside its own program, in the order of their addresses, as
/// paths that can be opened from here.
#[must_use]
pub fn mapped_libraries(pid: u32) -> Vec<(String, PathBuf)> {
    fs::read_to_string(format!("/proc/{pid}/maps")).map(|maps| libraries(&maps, pid)).unwrap_or_default()
}

pub(super) fn libraries(maps: &str, pid: u32) -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for line in maps.lines() {
        let mut fields = line.splitn(6, ' ');
        let (_, Some(permissions)) = (fields.next(), fields.next()) else { continue };
        let Some(path) = fields.nth(3).map(str::trim).filter(|path| path.starts_with('/')) else { continue };
        if permissions.contains('x') && found.iter().all(|(known, _)| known != path) {
            found.push((path.to_owned(), PathBuf::from(format!("/proc/{pid}/root{path}"))));
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
    fn a_build_id_is_no_path() {
        for id in ["", "ab", "../../etc/passwd", "zz00"] {
            assert!(debug_file(None, id).is_none(), "{id}");
        }
    }

    #[test]
    fn libraries_of_this_process_are_listed_once() {
        let libraries = mapped_libraries(std::process::id());
        assert!(libraries.iter().any(|(path, _)| path.contains("libc")), "{libraries:?}");
        let mut names: Vec<_> = libraries.iter().map(|(name, _)| name).collect();
        names.dedup();
        assert_eq!(names.len(), libraries.len());
    }
}
