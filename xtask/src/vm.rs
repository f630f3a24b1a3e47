//! `vm`: gotrail on other kernels and on another architecture, in machines that are emulated.
//!
//! Each machine boots a kernel of Debian's with an initramfs that we write: gotrail, Go programs to try it
//! on, and an init that follows a plan and tells on the console what happened. Nothing is judged in there;
//! the tests named `vm_` read what was told. Everything is emulated, as a host that is a guest itself may
//! offer a KVM that does not work.

mod cross;
mod image;
mod kernel;
mod plan;
mod programs;
mod run;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::setup::{self, Ready};
use crate::test;
use crate::workspace::Workspace;

/// Options of `vm`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Only these machines.
    #[arg(long = "machine", value_name = "NAME")]
    machines: Vec<String>,
}

/// What a machine is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    Amd64,
    Arm64,
}

impl Architecture {
    /// Go's and Debian's name.
    const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Rust's and the kernel's name.
    const fn rust(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }
}

/// A machine that gotrail is tried in.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Its name, of its architecture and its kernel.
    pub(crate) name: &'static str,
    architecture: Architecture,
    /// The begin of its kernel's version.
    series: &'static str,
}

/// The older kernel links each probe by itself, the newer one all of a tier at once. The host's own, newer
/// than both, is what all other tests run on.
pub(crate) const MACHINES: [Machine; 3] = [
    Machine { name: "amd64-6.1", architecture: Architecture::Amd64, series: "6.1" },
    Machine { name: "amd64-6.12", architecture: Architecture::Amd64, series: "6.12" },
    Machine { name: "arm64-6.12", architecture: Architecture::Arm64, series: "6.12" },
];

/// The one that shows gotrail on another architecture than most hosts'.
pub(crate) const FOREIGN: &str = "arm64-6.12";

/// Runs the verb.
pub(crate) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<ExitCode> {
    if let Some(unknown) = arguments.machines.iter().find(|n| !MACHINES.iter().any(|m| m.name == *n)) {
        let known: Vec<_> = MACHINES.iter().map(|machine| machine.name).collect();
        bail!("there is no machine `{unknown}`; there are: {}", known.join(", "));
    }
    test::run_machines(&arguments.machines, workspace)
}

/// What became of the machines.
#[derive(Default)]
pub(crate) struct Outcome {
    /// Those that ran, each with what it wrote on its console.
    pub(crate) ran: Vec<Ran>,
    /// Those that could not be made or did not come to their end.
    pub(crate) failed: Vec<String>,
}

/// One machine that ran.
pub(crate) struct Ran {
    name: &'static str,
    architecture: Architecture,
    kernel: String,
    console: PathBuf,
}

impl Outcome {
    /// The list that the tests read from `GOTRAIL_MACHINES`.
    pub(crate) fn json(&self) -> Value {
        let entry = |ran: &Ran| {
            json!({
                "name": ran.name,
                "architecture": ran.architecture.name(),
                "kernel": ran.kernel,
                "console": ran.console,
            })
        };
        Value::Array(self.ran.iter().map(entry).collect())
    }
}

/// Makes the machines of these names, or all, and runs them one after the other.
pub(crate) fn run_all(workspace: &Workspace, ready: &Ready, names: &[String]) -> Outcome {
    let mut outcome = Outcome::default();
    let chosen =
        || MACHINES.iter().filter(|machine| names.is_empty() || names.iter().any(|n| n == machine.name));
    if let Err(error) = setup::ensure_packages(&packages(chosen())) {
        outcome.failed.push(format!("{error:#}"));
        return outcome;
    }
    for machine in chosen() {
        match machine.run(workspace, ready) {
            Ok(ran) => outcome.ran.push(ran),
            Err(error) => outcome.failed.push(format!("machine {}: {error:#}", machine.name)),
        }
    }
    outcome
}

/// What the machines need, each package with a file that shows that it is there.
fn packages<'a>(machines: impl Iterator<Item = &'a Machine>) -> Vec<(&'static str, &'static str)> {
    let mut packages = Vec::new();
    for machine in machines {
        for package in run::packages(machine.architecture).iter().chain(cross::packages(machine.architecture))
        {
            if !packages.contains(package) {
                packages.push(*package);
            }
        }
    }
    packages
}

impl Machine {
    fn run(&self, workspace: &Workspace, ready: &Ready) -> Result<Ran> {
        let folder = workspace.generated()?.join("vm").join(self.name);
        fs::create_dir_all(&folder).with_context(|| format!("can't make the folder {}", folder.display()))?;
        let begun = Instant::now();
        let kernel = kernel::find(workspace, self.architecture, self.series)?;
        let gotrail = cross::gotrail(workspace, ready, self.architecture)?;
        let image = self.image(workspace, &folder, &gotrail)?;
        let made = begun.elapsed();
        let console = run::boot(self.architecture, &kernel.image, &image, &folder)?;
        println!(
            "{} with Linux {}: made in {made:.1?}, ran for {:.1?}",
            self.name,
            kernel.version,
            begun.elapsed() - made
        );
        Ok(Ran { name: self.name, architecture: self.architecture, kernel: kernel.version, console })
    }

    /// Writes the initramfs: gotrail, the programs, the plan, and the init that follows it.
    fn image(&self, workspace: &Workspace, folder: &Path, gotrail: &Path) -> Result<PathBuf> {
        let go = self.architecture.name();
        let programs = programs::build(workspace, &folder.join("programs"), go, &plan::programs())?;
        let mut image = image::Image::new();
        for directory in ["bin", "dev", "fixtures", "proc", "sys", "tmp"] {
            image.folder(directory);
        }
        image.device("dev/console", 5, 1);
        image.program("init", &read(&programs::init(workspace, &folder.join("init"), go)?)?);
        image.program("bin/gotrail", &read(gotrail)?);
        for program in &programs {
            image.program(&program.guest_path(), &read(&program.path)?);
        }
        image.program("plan.json", plan::plan(&programs).to_string().as_bytes());
        let path = folder.join("initramfs");
        fs::write(&path, image.finish()).with_context(|| format!("can't write {}", path.display()))?;
        Ok(path)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("can't read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_package_is_asked_for_once() {
        let all = packages(MACHINES.iter());
        for (at, package) in all.iter().enumerate() {
            assert!(!all[at + 1..].contains(package), "{package:?} twice");
        }
        assert!(all.iter().any(|(_, name)| *name == "qemu-system-arm"));
        let amd64 = packages(MACHINES.iter().filter(|m| m.architecture == Architecture::Amd64));
        assert!(!amd64.iter().any(|(_, name)| name.contains("arm")), "{amd64:?}");
    }
}
