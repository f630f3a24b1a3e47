//! Runs a machine to its end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Architecture;
use crate::children::{Guarded, tail};
use crate::interrupt;

/// How long a machine may run: a quiet host takes a fifth of it.
const PATIENCE: Duration = Duration::from_secs(900);
/// How often is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(200);

/// The emulator's package, and a file that shows that it is there.
pub(super) fn packages(architecture: Architecture) -> &'static [(&'static str, &'static str)] {
    match architecture {
        Architecture::Amd64 => &[("/usr/bin/qemu-system-x86_64", "qemu-system-x86")],
        Architecture::Arm64 => &[("/usr/bin/qemu-system-aarch64", "qemu-system-arm")],
    }
}

/// Boots a machine and waits until it has switched itself off. Returns what it wrote on its console.
pub(super) fn boot(
    architecture: Architecture,
    kernel: &Path,
    initramfs: &Path,
    folder: &Path,
) -> Result<PathBuf> {
    let console = folder.join("console");
    let mut command = command(architecture, kernel, initramfs);
    let begun = Instant::now();
    let mut machine = Guarded::start_logged("qemu", &mut command, &console)?;
    let told = |what: &str| format!("{what}; the end of {}:\n{}", console.display(), tail(&console));
    loop {
        match machine.ended()? {
            Some(status) if status.success() => break,
            Some(status) => bail!("{}", told(&format!("qemu ended with {status}"))),
            None if interrupt::interrupted() => bail!("interrupted"),
            None if begun.elapsed() > PATIENCE => {
                bail!("{}", told(&format!("it did not switch itself off within {PATIENCE:?}")))
            }
            None => thread::sleep(LOOK),
        }
    }
    // A kernel that panics ends qemu as well.
    let text = fs::read(&console).with_context(|| format!("can't read {}", console.display()))?;
    if String::from_utf8_lossy(&text).contains("Kernel panic") {
        bail!("{}", told("its kernel panicked"));
    }
    Ok(console)
}

fn command(architecture: Architecture, kernel: &Path, initramfs: &Path) -> Command {
    // With low priority: it keeps all processors busy for minutes.
    let mut command = Command::new("nice");
    let console = match architecture {
        Architecture::Amd64 => {
            command.arg("qemu-system-x86_64");
            "ttyS0"
        }
        Architecture::Arm64 => {
            command.args(["qemu-system-aarch64", "-M", "virt"]);
            "ttyAMA0"
        }
    };
    command
        .args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "1G"])
        .args(["-display", "none", "-nodefaults", "-serial", "stdio", "-no-reboot", "-kernel"])
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        // A panic reboots at once, which ends the machine.
        .args(["-append", &format!("console={console} panic=-1 quiet")]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::line;

    #[test]
    fn nothing_but_emulation_is_asked_for() {
        for architecture in [Architecture::Amd64, Architecture::Arm64] {
            let line = line(&command(architecture, Path::new("/k"), Path::new("/i")));
            assert!(line.contains("-accel tcg -cpu max") && !line.contains("kvm"), "{line}");
            assert!(line.contains("-kernel /k -initrd /i"), "{line}");
        }
    }
}
