//! The figures as a table, as JSON and as a plot.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::machine::Machine;
use super::plot::{Line, Panel};
use super::snapshot::{Cell, Row, Way};
use super::spread::Spread;

/// For people, as Markdown.
pub(super) fn table(rows: &[Row]) -> String {
    let mut out = String::new();
    // Writing to a String can't fail.
    for row in rows {
        let _ = writeln!(out, "### {} goroutines\n", row.goroutines);
        out.push_str(
            "| what | time (least to most) | times of `gotrail dump` | processor | memory | woke late: p50 | p99 | p99.9 | at most | stops of the world | stopped |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
        );
        let whole = row.cell(Way::Stacks).and_then(|cell| cell.took.median());
        for (way, cell) in &row.cells {
            if let Some(why) = &cell.missing {
                let _ = writeln!(out, "| {} | left out: {} |||||||||", way.title(), one_line(why));
                continue;
            }
            let ratio = cell.took.median().zip(whole).map(|(took, whole)| format!("{:.2}", took / whole));
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                way.title(),
                cell.took.range(seconds),
                ratio.unwrap_or_default(),
                median(&cell.cpu, seconds),
                median(&cell.peak, bytes),
                median(&cell.p50, seconds),
                median(&cell.p99, seconds),
                median(&cell.p999, seconds),
                cell.most.range(seconds),
                median(&cell.stops, |stops| format!("{stops:.1}")),
                median(&cell.stopped, seconds),
            );
        }
        for way in [Way::States, Way::Stacks] {
            if let Some(snapshot) = row.cell(way).map(|cell| &cell.snapshot).filter(|s| s.count() != 0) {
                let _ = writeln!(
                    out,
                    "\n{}: the snapshot alone {}; the rest is reading the executable and writing.",
                    way.title(),
                    snapshot.range(seconds)
                );
            }
        }
        out.push('\n');
    }
    if let Some((states, stacks)) = memory_of_each(rows, Way::States).zip(memory_of_each(rows, Way::Stacks)) {
        let _ = writeln!(
            out,
            "gotrail's memory for each goroutine, from the difference between the smallest and the largest process: {states:.0} bytes without stacks, {stacks:.0} with."
        );
    }
    out
}

/// Bytes of the process for each goroutine.
fn memory_of_each(rows: &[Row], way: Way) -> Option<f64> {
    let peak = |row: &Row| row.cell(way)?.peak.median();
    let (first, last) = (rows.first()?, rows.last()?);
    let more = (last.goroutines - first.goroutines) as f64;
    (more > 0.0).then_some((peak(last)? - peak(first)?) / more)
}

/// The page in the documentation.
pub(super) fn markdown(rows: &[Row], machine: &Machine, go: &str) -> String {
    format!(
        "# Dumps of many goroutines\n\n\
         Written by `cargo xtask bench snapshot`. The process holds goroutines that are parked seven to nine frames \
         deep in five ways (channel receive and send, mutex, select, sleep), built with Go {go}.\n\n\
         {}.\n\n\
         Each way has its turns one after the other in several rounds; a turn is a second of runs, at least one. Times are \
         medians of all runs, from the start of the program to its end, with what is written going to \
         /dev/null. *Woke late* is by how much a goroutine of the process that sleeps for 200 µs again and again woke \
         too late: medians of the turns, *at most* with the least and the most of them. The rows `nothing` and \
         `another process that computes` are the noise of the machine; nothing smaller than the difference between \
         them is an effect of what was measured. *Stops of the world* are the runtime's own count for each run; a \
         debugger's stop is none of them.\n\n\
         ![time and latency](snapshot.svg)\n\n{}",
        machine.text(),
        table(rows)
    )
}

/// For programs.
pub(super) fn json(rows: &[Row], machine: &Machine, go: &str) -> String {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let ways: Map<String, Value> =
                row.cells.iter().map(|(way, cell)| (way.name().to_owned(), cell_json(cell))).collect();
            json!({ "goroutines": row.goroutines, "ways": ways })
        })
        .collect();
    let all = json!({
        "schema": "gotrail.bench.snapshot/1",
        "go": go,
        "machine": machine.json(),
        "rows": rows,
    });
    format!("{all:#}\n")
}

fn cell_json(cell: &Cell) -> Value {
    match &cell.missing {
        Some(why) => json!({ "missing": why }),
        None => json!({
            "took_s": cell.took.json(),
            "snapshot_s": cell.snapshot.json(),
            "cpu_s": cell.cpu.json(),
            "peak_bytes": cell.peak.json(),
            "late_p50_s": cell.p50.json(),
            "late_p99_s": cell.p99.json(),
            "late_p999_s": cell.p999.json(),
            "late_most_s": cell.most.json(),
            "stops_each": cell.stops.json(),
            "stopped_each_s": cell.stopped.json(),
        }),
    }
}

/// Time, and the longest gap, by the number of goroutines.
pub(super) fn plot(rows: &[Row]) -> String {
    let lines = |value: fn(&Cell) -> Option<f64>| {
        Way::ALL
            .into_iter()
            .enumerate()
            .map(|(colour, way)| Line {
                name: way.title().replace('`', ""),
                colour,
                points: rows
                    .iter()
                    .filter_map(|row| Some((row.goroutines as f64, value(row.cell(way)?)?)))
                    .collect(),
            })
            .filter(|line| !line.points.is_empty())
            .collect()
    };
    super::plot::svg(&[
        Panel { title: "time of one run, seconds", lines: lines(|cell| cell.took.median()) },
        Panel { title: "longest gap in the process, seconds", lines: lines(|cell| cell.most.median()) },
    ])
}

fn median(spread: &Spread, text: impl Fn(f64) -> String) -> String {
    spread.median().map(text).unwrap_or_default()
}

fn seconds(value: f64) -> String {
    match value {
        _ if value < 1e-3 => format!("{:.0} µs", value * 1e6),
        _ if value < 1.0 => format!("{:.1} ms", value * 1e3),
        _ => format!("{value:.2} s"),
    }
}

fn bytes(value: f64) -> String {
    format!("{:.0} MiB", value / f64::from(1 << 20))
}

fn one_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().replace('|', "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_median_its_ratio_and_what_is_missing() {
        let mut stacks = Cell::default();
        let mut traceback = Cell::default();
        for took in [0.1, 0.2, 0.4] {
            stacks.took.add(took);
            traceback.took.add(took * 10.0);
        }
        let delve = Cell { missing: Some("no | such\nthing".to_owned()), ..Cell::default() };
        let cells = vec![(Way::Stacks, stacks), (Way::Traceback, traceback), (Way::Delve, delve)];
        let text = table(&[Row { goroutines: 1000, cells }]);
        assert!(text.contains("| **2.00 s** (1.00 s to 4.00 s) | 10.00 |"), "{text}");
        assert!(text.contains("left out: no / such |"), "{text}");
    }
}
