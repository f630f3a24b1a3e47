//! A cgroup with a limit of memory, beyond which the kernel kills.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context, Result, bail};

/// Where the memory controller is, by the version of cgroups (cgroups(7)), and the file that has the limit.
const CONTROLLERS: [(&str, &str); 2] =
    [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];

/// A cgroup of our own. It is removed when it is dropped, by when nobody may be left in it.
#[derive(Debug)]
pub struct MemoryLimit {
    folder: PathBuf,
}

impl MemoryLimit {
    /// Makes one with so many bytes.
    ///
    /// # Errors
    /// There is no memory controller, or we may not.
    pub fn of(bytes: u64) -> Result<Self> {
        for (root, limit) in CONTROLLERS {
            if !Path::new(root).join("cgroup.procs").exists() {
                continue;
            }
            // Version 2 gives a controller to those below only where that was asked for; version 1 has no such file.
            drop(fs::write(Path::new(root).join("cgroup.subtree_control"), "+memory"));
            let folder = Path::new(root).join(format!("gotrail-test-{}", process::id()));
            fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
            let made = Self { folder };
            made.write(limit, &bytes.to_string())?;
            return Ok(made);
        }
        bail!("no memory controller is mounted at /sys/fs/cgroup")
    }

    /// Puts a process into it.
    ///
    /// # Errors
    /// The kernel does not let us.
    pub fn put(&self, pid: u32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.folder.join(file);
        fs::write(&path, text).with_context(|| format!("can't write {text} to {}", path.display()))
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        drop(fs::remove_dir(&self.folder));
    }
}

/// Why there is none here, if so.
pub(crate) fn lacks() -> Option<String> {
    MemoryLimit::of(1 << 30).err().map(|e| format!("no cgroup with a limit of memory: {e:#}"))
}
