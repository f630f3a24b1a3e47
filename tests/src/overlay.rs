//! Views of one folder as containers have them: an overlay each, by which the kernel gives a file another device number.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::scratch::Scratch;

/// A mounted view. It is unmounted when it is dropped.
#[derive(Debug)]
pub struct Overlay {
    place: PathBuf,
}

impl Overlay {
    /// Mounts a view of `lower` below another folder of the scratch.
    ///
    /// # Errors
    /// The kernel does not mount it.
    pub fn mount(scratch: &Scratch, lower: &Path, name: &str) -> Result<Self> {
        let [place, upper, work] =
            ["", "-upper", "-work"].map(|end| scratch.path().join(format!("{name}{end}")));
        for folder in [&place, &upper, &work] {
            fs::create_dir_all(folder)
                .with_context(|| format!("can't make the folder {}", folder.display()))?;
        }
        let options =
            format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        let mut command = Command::new("mount");
        command.args(["-t", "overlay", "overlay", "-o", &options]).arg(&place);
        let output = command.output().context("can't run `mount`")?;
        ensure!(output.status.success(), "no overlay: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(Self { place })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.place
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        // Lazily: a process may still run from it.
        drop(Command::new("umount").arg("-l").arg(&self.place).status());
    }
}

/// Why there are none here, if so.
pub(crate) fn lacks() -> Option<String> {
    let mount = || {
        let scratch = Scratch::new("overlay")?;
        let lower = scratch.path().join("lower");
        fs::create_dir_all(&lower).with_context(|| format!("can't make the folder {}", lower.display()))?;
        drop(Overlay::mount(&scratch, &lower, "view")?);
        anyhow::Ok(())
    };
    mount().err().map(|e| format!("{e:#}"))
}
