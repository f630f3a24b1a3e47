//! What this kernel can do for us.

use aya::sys::{UProbeMultiFeature, is_uprobe_multi_supported};

/// How probes are linked to their sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// One link for all sites of a tier (`uprobe_multi`, Linux 6.6 and later), scoped to one process (6.10).
    MultiScoped,
    /// The same, but every process of the binary pays the trap; the programs let only ours pass.
    Multi,
    /// One link for each site; each takes about 0.1 s to detach.
    Single,
}

impl Links {
    /// What it is called in outputs.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::MultiScoped => "uprobe_multi, scoped to the process",
            Self::Multi => "uprobe_multi, shared by all processes of the binary",
            Self::Single => "one link per site (slow to detach)",
        }
    }
}

/// The running kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its release, `6.18.44-…`.
    pub release: String,
    /// How probes can be linked; `None` if the kernel did not let us find out.
    pub links: Option<Links>,
    /// Why not.
    pub links_error: Option<String>,
    /// Whether it has BTF.
    pub btf: bool,
}

impl Kernel {
    /// The same, where it was asked before how probes can be linked.
    pub(super) fn known(links: Links) -> Self {
        Self { release: release(), links: Some(links), links_error: None, btf: has_btf() }
    }

    /// Asks the kernel.
    #[must_use]
    pub fn probe() -> Self {
        let (links, links_error) = match links() {
            Ok(links) => (Some(links), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Self { release: release(), links, links_error, btf: has_btf() }
    }
}

fn has_btf() -> bool {
    std::path::Path::new("/sys/kernel/btf/vmlinux").exists()
}

fn links() -> std::io::Result<Links> {
    if is_uprobe_multi_supported(UProbeMultiFeature::ProcessScopedPidFilter)? {
        return Ok(Links::MultiScoped);
    }
    if is_uprobe_multi_supported(UProbeMultiFeature::LinkCreation)? {
        return Ok(Links::Multi);
    }
    Ok(Links::Single)
}

/// The release of the running kernel, `unknown` if it hides it.
#[must_use]
pub(super) fn release() -> String {
    rustix::system::uname().release().to_str().unwrap_or("unknown").to_owned()
}
