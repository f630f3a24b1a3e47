//! Folders that go away with the value that owns them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

/// A fresh folder, removed with all it holds on drop.
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes one below the system's folder for temporary files.
    pub(crate) fn new(purpose: &str) -> Result<Self> {
        Self::within(&std::env::temp_dir(), purpose)
    }

    /// Makes one below `parent`: for results that are later renamed into place on the same file system.
    pub(crate) fn within(parent: &Path, purpose: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!(".gotrail-{purpose}-{}-{count}", std::process::id()));
        fs::create_dir_all(&path)
            .with_context(|| format!("can't make the folder {}: is it writable?", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing useful can be done about a folder that won't go; it is a temporary one.
        drop(fs::remove_dir_all(&self.path));
    }
}

/// Writes an executable script for a test, by way of another process: a file that this one still held open for
/// writing, if only in a child of another test's thread, could not be run ("text file busy").
#[cfg(test)]
pub(crate) fn write_script(path: &Path, text: &str) {
    let status = std::process::Command::new("sh")
        .args(["-c", r#"mkdir -p "${1%/*}" && printf '#!/bin/sh\n%s\n' "$2" > "$1" && chmod 755 "$1""#, "sh"])
        .args([path.as_os_str(), text.as_ref()])
        .status()
        .unwrap();
    assert!(status.success(), "can't write {}", path.display());
}
