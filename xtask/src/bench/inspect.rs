//! `bench inspect`: how long gotrail takes to understand large programs, what memory that takes, and whether it finds
//! the same in them when symbol table and DWARF are gone.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::common::Common;
use super::machine::Machine;
use super::measure;
use super::spread::Spread;
use crate::backends::{
    self, CADDY, COREDNS, ETCD, ETCD_STRIPPED, JAEGER, PROMETHEUS, Source, VICTORIA_METRICS,
};
use crate::command;
use crate::scratch::Scratch;
use crate::setup;
use crate::workspace::Workspace;

/// How long one run may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Each as its makers' sources build by default, and stripped.
const PROGRAMS: [(Source, Source); 6] = [
    (CADDY, CADDY.stripped("caddy-stripped")),
    (COREDNS, COREDNS.stripped("coredns-stripped")),
    (ETCD, ETCD_STRIPPED),
    (JAEGER, JAEGER.stripped("jaeger-stripped")),
    (PROMETHEUS, PROMETHEUS.stripped("prometheus-stripped")),
    (VICTORIA_METRICS, VICTORIA_METRICS.stripped("victoria-metrics-stripped")),
];

/// Options of `bench inspect`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// How often each is inspected.
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    #[command(flatten)]
    common: Common,
}

/// One executable, and what inspecting it took.
struct Cell {
    path: PathBuf,
    bytes: u64,
    took: Spread,
    cpu: Spread,
    peak: Spread,
    found: Value,
}

struct Row {
    name: &'static str,
    version: &'static str,
    whole: Cell,
    stripped: Cell,
}

/// Runs it.
pub(super) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<ExitCode> {
    let ready = setup::ensure(workspace)?;
    let gotrail = arguments.common.gotrail(workspace, &ready)?;
    let go = setup::ensure_go(workspace)?;
    let mut rows = Vec::new();
    for (whole, stripped) in PROGRAMS {
        let cell = |source| Cell::new(backends::build(workspace, &go, source)?.path, &gotrail);
        rows.push(Row {
            name: whole.name,
            version: whole.version(),
            whole: cell(&whole)?,
            stripped: cell(&stripped)?,
        });
    }
    let scratch = Scratch::new("bench")?;
    let mut machine = Machine::look(workspace);
    for round in 0..arguments.rounds {
        eprintln!("round {}", round + 1);
        for row in &mut rows {
            row.whole.measure(&gotrail, scratch.path())?;
            row.stripped.measure(&gotrail, scratch.path())?;
        }
    }
    machine.look_again();
    let files = [
        ("inspect.md", markdown(&rows, &machine, go.version())),
        ("inspect.json", json(&rows, &machine, go.version())),
    ];
    arguments.common.write(workspace, &table(&rows), files)?;
    let differ: Vec<String> = rows.iter().flat_map(Row::differences).collect();
    if differ.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    bail!("what was found depends on whether the program was stripped:\n{}", differ.join("\n"))
}

impl Cell {
    fn new(path: PathBuf, gotrail: &Path) -> Result<Self> {
        let bytes = fs::metadata(&path).with_context(|| format!("can't look at {}", path.display()))?.len();
        let text = command::capture(
            Command::new(gotrail).args(["inspect", "--format", "json"]).arg(&path),
            &format!("inspect {}", path.display()),
        )?;
        let found = serde_json::from_str(&text)
            .with_context(|| format!("gotrail's JSON for {} is none", path.display()))?;
        let (took, cpu, peak) = Default::default();
        Ok(Self { path, bytes, took, cpu, peak, found })
    }

    fn measure(&mut self, gotrail: &Path, folder: &Path) -> Result<()> {
        let mut command = Command::new(gotrail);
        command.arg("inspect").arg(&self.path);
        let Some(run) = measure::run(&mut command, "", folder, PATIENCE)? else {
            bail!("{} was not inspected within {} s", self.path.display(), PATIENCE.as_secs());
        };
        self.took.add(run.wall.as_secs_f64());
        self.cpu.add(run.cpu.as_secs_f64());
        self.peak.add(run.peak as f64);
        Ok(())
    }

    fn count(&self, list: &str) -> usize {
        self.found[list].as_array().map_or(0, Vec::len)
    }
}

/// What must not depend on the symbol table or DWARF. Where a site lies is told from the begin of its function: the
/// linker places both builds as it likes.
fn findings(found: &Value) -> Vec<(&'static str, Value)> {
    let each = |list: &str, fact: fn(&Value) -> Value| -> Value {
        found[list].as_array().into_iter().flatten().map(fact).collect::<Vec<_>>().into()
    };
    let site = |site: &Value| {
        let from = site["function_address"].as_u64().unwrap_or_default();
        let address = site["address"].as_u64().unwrap_or_default();
        json!([site["function"], site["probe"], site["tier"], site["cost"], address.wrapping_sub(from)])
    };
    vec![
        ("what can be done", each("abilities", |ability| json!([ability["name"], ability["ok"]]))),
        ("probe sites", each("sites", site)),
        ("what can't be observed", found["unavailable"].clone()),
        ("what is observed instead", found["substitutes"].clone()),
        ("calls that tune the runtime", found["hazards"].clone()),
        ("faults of the toolchain", found["toolchain"].clone()),
        ("Go version", found["go_version"].clone()),
    ]
}

impl Row {
    fn differences(&self) -> Vec<String> {
        let (whole, stripped) = (findings(&self.whole.found), findings(&self.stripped.found));
        whole
            .into_iter()
            .zip(stripped)
            .filter(|(whole, stripped)| whole != stripped)
            .map(|((what, whole), (_, stripped))| {
                format!("{}: {what}: {whole} and stripped {stripped}", self.name)
            })
            .collect()
    }
}

fn table(rows: &[Row]) -> String {
    let mut out = String::from(
        "| program | built | file | layout by | time (least to most) | processor | memory at most | probe sites | calls that tune the runtime | same findings |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let mib = |bytes: f64| format!("{:.0} MiB", bytes / f64::from(1 << 20));
    let ms = |seconds: f64| format!("{:.0} ms", seconds * 1e3);
    for row in rows {
        let same = if row.differences().is_empty() { "yes" } else { "**no**" };
        for (built, cell) in [("default", &row.whole), ("stripped", &row.stripped)] {
            // Writing to a String can't fail.
            let _ = writeln!(
                out,
                "| {} {} | {built} | {} | {} | {} | {} | {} | {} | {} | {same} |",
                row.name,
                row.version,
                mib(cell.bytes as f64),
                cell.found["layout_source"].as_str().unwrap_or("nothing"),
                cell.took.range(ms),
                cell.cpu.median().map(ms).unwrap_or_default(),
                cell.peak.most().map(mib).unwrap_or_default(),
                cell.count("sites"),
                cell.count("hazards"),
            );
        }
    }
    out
}

fn markdown(rows: &[Row], machine: &Machine, go: &str) -> String {
    format!(
        "# Inspecting large programs\n\n\
         Written by `cargo xtask bench inspect`: `gotrail inspect FILE`, from the start of the program to its end, on files \
         in the page cache. All of the code is decoded once for calls that tune the runtime. Built with Go {go}, by default and with \
         `-ldflags='-s -w'`. The same findings: what can be done with the program, probe sites and their cost, what can't \
         be observed, calls that tune the runtime with file, line and argument, faults of the toolchain. The memory at most is the \
         process's resident set, the file itself included, which is read whole.\n\n{}.\n\n{}",
        machine.text(),
        table(rows)
    )
}

fn json(rows: &[Row], machine: &Machine, go: &str) -> String {
    let cell = |cell: &Cell| {
        json!({
            "bytes": cell.bytes,
            "layout_source": cell.found["layout_source"],
            "took_s": cell.took.json(),
            "cpu_s": cell.cpu.json(),
            "peak_bytes": cell.peak.json(),
            "sites": cell.count("sites"),
            "hazards": cell.count("hazards"),
        })
    };
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "program": row.name,
                "version": row.version,
                "default": cell(&row.whole),
                "stripped": cell(&row.stripped),
                "differences": row.differences(),
            })
        })
        .collect();
    let all =
        json!({ "schema": "gotrail.bench.inspect/1", "go": go, "machine": machine.json(), "rows": rows });
    format!("{all:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(found: Value) -> Cell {
        let (took, cpu, peak) = Default::default();
        Cell { path: PathBuf::new(), bytes: 1 << 20, took, cpu, peak, found }
    }

    fn site(function: u64, address: u64) -> Value {
        json!({ "sites": [{ "function": "f", "function_address": function, "address": address, "cost": "emulated" }] })
    }

    #[test]
    fn findings_may_move_and_must_not_change() {
        let row =
            |stripped| Row { name: "p", version: "1", whole: cell(site(16, 20)), stripped: cell(stripped) };
        assert_eq!(row(site(32, 36)).differences(), Vec::<String>::new());
        let differ = row(site(32, 37)).differences();
        assert!(matches!(&differ[..], [one] if one.starts_with("p: probe sites: ")), "{differ:?}");
        assert!(table(&[row(site(32, 37))]).contains("**no**"));
    }
}
