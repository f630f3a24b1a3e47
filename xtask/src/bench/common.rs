//! What all benchmarks are told, and how they write down what came out.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::build;
use crate::setup::Ready;
use crate::workspace::Workspace;

/// Options of every benchmark.
#[derive(Args)]
pub(super) struct Common {
    /// This gotrail, for example an older one, instead of the one of this work tree with optimisations.
    #[arg(long, value_name = "FILE")]
    gotrail: Option<PathBuf>,
    /// Where the figures go, instead of docs/bench.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

impl Common {
    /// The gotrail that is measured.
    pub(super) fn gotrail(&self, workspace: &Workspace, ready: &Ready) -> Result<PathBuf> {
        match &self.gotrail {
            Some(given) => Ok(given.clone()),
            None => build::build(&build::Arguments::release(), workspace, ready),
        }
    }

    /// Shows the table and writes the files, by their names.
    pub(super) fn write<const N: usize>(
        &self,
        workspace: &Workspace,
        table: &str,
        files: [(&str, String); N],
    ) -> Result<()> {
        let folder = self.out.clone().unwrap_or_else(|| workspace.root.join("docs/bench"));
        fs::create_dir_all(&folder).with_context(|| format!("can't make the folder {}", folder.display()))?;
        println!("{table}");
        for (name, text) in files {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))?;
            println!("{}", path.display());
        }
        Ok(())
    }
}
