//! `metrics`: writes the table in `docs/stats.md` of which figure of `runtime/metrics` is where in the JSON of
//! `gotrail stats`. The list that it is made of is in gotrail's own code, which tests that the table is current.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use crate::command::capture;
use crate::workspace::Workspace;

/// Around the table.
const BEGIN: &str = "<!-- metrics: written by `cargo xtask metrics` -->\n";
const END: &str = "<!-- metrics: end -->";

/// `metrics` has no options.
#[derive(Args)]
pub(crate) struct Arguments {}

/// Runs the verb.
pub(crate) fn run(_arguments: &Arguments, workspace: &Workspace) -> Result<ExitCode> {
    let mut cargo = workspace.cargo();
    cargo.args(["run", "--quiet", "--locked", "-p", "tracer-user", "--no-default-features"]);
    cargo.args(["--example", "metrics_table"]);
    let table = capture(&mut cargo, "list the metrics that gotrail knows")?;
    let path = workspace.root.join("docs/stats.md");
    let text = fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
    let text = replaced(&text, &table)
        .with_context(|| format!("{} has no place for the table: {BEGIN:?} … {END:?}", path.display()))?;
    fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// The text with another table between the marks.
fn replaced(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{}\n{END}{after}", table.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let text = format!("a\n{BEGIN}old\n{END}\nb\n");
        assert_eq!(replaced(&text, "new\n").unwrap(), format!("a\n{BEGIN}new\n{END}\nb\n"));
        assert_eq!(replaced("a", "new"), None);
    }
}
