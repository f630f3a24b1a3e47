//! Folders for what a test writes; they go with it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::process::hold_starts;

/// A fresh folder that everyone may read, removed with all that is in it.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes one.
    ///
    /// # Errors
    /// It can't be made.
    pub fn new(name: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("gotrail-{name}-{}-{number}", std::process::id()));
        let told = || format!("can't make the folder {}", path.display());
        fs::create_dir_all(&path).with_context(told)?;
        // Some tests run programs in there as another user, whatever our umask is.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).with_context(told)?;
        Ok(Self { path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a program into it.
    ///
    /// # Errors
    /// It can't be written.
    pub fn program(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.path.join(name);
        let told = || format!("can't write the program {}", path.display());
        let starts = hold_starts();
        fs::write(&path, bytes).with_context(told)?;
        drop(starts);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).with_context(told)?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What can't be removed is left to the system's own tidying.
        drop(fs::remove_dir_all(&self.path));
    }
}
