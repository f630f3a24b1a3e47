//! `gotrail ps`: the Go processes of this host.

use std::process::ExitCode;
use std::sync::Arc;

use gotrail::binary::{BinaryError, GoBinary};
use gotrail::memory::{Figures, Runtime};
use gotrail::target::{Container, Target, TargetError, container_of, debug_file, process_ids};
use gotrail::text::{bytes, printable};
use serde_json::{Value, json};

use super::args::{Format, PsArgs};
use super::failure::Failure;
use super::human::table;

/// One Go process.
struct Row {
    target: Target,
    container: Container,
    version: String,
    seen: Result<Seen, String>,
}

/// What its memory shows.
struct Seen {
    goroutines: u64,
    figures: Figures,
}

pub(crate) fn run(args: &PsArgs) -> Result<ExitCode, Failure> {
    let mut hidden = 0;
    let mut targets = Vec::new();
    for pid in process_ids() {
        match Target::open(pid) {
            Ok(target) => targets.push(target),
            Err(TargetError::NotPermitted { .. }) => hidden += 1,
            Err(_) => {}
        }
    }
    // Many processes run one executable: each is read once, and only one is held at a time.
    targets.sort_by_key(|target| (executable(target), target.pid()));
    let mut rows = Vec::new();
    let mut last: Option<((u64, u64), Option<Executable>)> = None;
    for target in targets {
        let key = executable(&target);
        if last.as_ref().is_none_or(|(known, _)| *known != key) {
            // The old one goes before the new one comes.
            drop(last.take());
            last = Some((key, read(&target)));
        }
        if let Some((_, Some(executable))) = &last {
            rows.push(Box::new(row(target, executable)));
        }
    }
    rows.sort_by_key(|row| row.target.pid());
    match args.format {
        Format::Human => human(&rows),
        Format::Json => outln!(
            "{}",
            json!({
                "schema": "gotrail.ps/1",
                "processes": rows.iter().map(|row| to_json(row)).collect::<Vec<_>>(),
                "not_permitted": hidden,
            })
        ),
    }
    if hidden != 0 {
        errln!(
            "{hidden} more could not be looked at: the kernel does not permit it (without root, it permits your own only)"
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The version of an executable, and the rest if it is understood.
type Executable = (String, Result<GoBinary, String>);

/// Device and inode.
const fn executable(target: &Target) -> (u64, u64) {
    (target.identity.exe_device, target.identity.exe_inode)
}

fn row(target: Target, (version, binary): &Executable) -> Row {
    let seen = binary.as_ref().map_err(Clone::clone).and_then(|binary| {
        let runtime = Runtime::open(&target, binary).map_err(|e| e.to_string())?;
        let figures = runtime.figures().map_err(|e| e.to_string())?;
        let goroutines = runtime.count_goroutines().map_err(|e| e.to_string())?;
        Ok(Seen { goroutines, figures })
    });
    Row { container: container_of(target.pid()), version: version.clone(), seen, target }
}

/// The version of a Go executable, and the rest if it is understood; `None` if it is no Go program.
fn read(target: &Target) -> Option<Executable> {
    let bytes = target.read_executable().ok()?;
    let pid = target.pid();
    match GoBinary::parse_with(Arc::clone(&bytes), |id| debug_file(Some(pid), id)) {
        Ok(binary) => Some((binary.version().to_string(), Ok(binary))),
        Err(
            BinaryError::NotElf(_)
            | BinaryError::Cut { .. }
            | BinaryError::NotGo(_)
            | BinaryError::Class(_)
            | BinaryError::Architecture(_),
        ) => None,
        Err(error) => {
            let version =
                GoBinary::read_build(&bytes).map_or_else(|_| "?".to_owned(), |b| b.version.to_string());
            Some((version, Err(error.to_string())))
        }
    }
}

fn human(rows: &[Box<Row>]) {
    if rows.is_empty() {
        outln!("no Go process is running that can be looked at");
        return;
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let dash = || "-".to_owned();
            let seen = row.seen.as_ref().ok();
            vec![
                row.target.pid().to_string(),
                printable(&row.target.comm),
                row.version.clone(),
                seen.map_or_else(dash, |s| s.goroutines.to_string()),
                seen.map_or_else(dash, |s| s.figures.gomaxprocs.to_string()),
                seen.map_or_else(dash, |s| bytes(s.figures.heap_live)),
                row.container.id.as_deref().map_or_else(dash, |id| id.chars().take(12).collect()),
                row.container.pod_uid.clone().unwrap_or_else(dash),
                match &row.seen {
                    Ok(_) => "yes".to_owned(),
                    Err(why) => format!("no: {}", printable(why)),
                },
            ]
        })
        .collect();
    let header =
        ["PID", "COMMAND", "GO", "GOROUTINES", "GOMAXPROCS", "HEAP", "CONTAINER", "POD", "TRACEABLE"];
    out!("{}", table(&header, &cells));
}

fn to_json(row: &Row) -> Value {
    let seen = row.seen.as_ref().ok();
    json!({
        "pid": row.target.pid(),
        "command": row.target.comm,
        "command_line": row.target.command,
        "executable": row.target.exe,
        "go_version": row.version,
        "goroutines": seen.map(|s| s.goroutines),
        "gomaxprocs": seen.map(|s| s.figures.gomaxprocs),
        "heap_live_bytes": seen.map(|s| s.figures.heap_live),
        "container_id": row.container.id,
        "pod_uid": row.container.pod_uid,
        "traceable": row.seen.is_ok(),
        "why_not": row.seen.as_ref().err(),
    })
}
