//! The figures as a table, as JSON and as a plot.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::super::machine::Machine;
use super::super::spread::Spread;
use super::dots::{self, Group};
use super::prices::Prices;
use super::{Cell, Row};

/// For people, as Markdown.
pub(super) fn table(rows: &[Row], prices: &Prices) -> String {
    let mut out = String::from("## A hit\n\n");
    let ratio = |of: &Spread| of.median().zip(prices.empty.median()).map(|(of, empty)| of / empty);
    // Writing to a String can't fail.
    let _ = writeln!(
        out,
        "| what is on the instruction | costs (least to most) | times of the empty program |\n|---|---|---|"
    );
    for (what, spread) in [
        ("an empty program, emulated instruction", &prices.empty),
        ("gotrail's, with a record", &prices.record),
        ("gotrail's, with a record and a stack", &prices.stack),
        ("an empty program at a function's entry (single-stepped)", &prices.entry),
    ] {
        let times = ratio(spread).map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        let _ = writeln!(out, "| {what} | {} | {times} |", spread.range(|ns| format!("{ns:.0} ns")));
    }
    for row in rows {
        let bare = row.bare.range(|rate| format!("{rate:.0}"));
        let _ = writeln!(out, "\n## {}\n\nUnwatched: {bare} a second.\n", row.work.title());
        out.push_str(
            "| who watches | done a second | CPU time of each | p50 | p99 | cost predicted | hits a second | lost | a hit costs | its CPU | its memory | attached in | gone in |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for (watcher, cell) in &row.cells {
            if let Some(why) = &cell.missing {
                let why = why.lines().next().unwrap_or_default().replace('|', "/");
                let _ = writeln!(out, "| {} | left out: {why} ||||||||||||", watcher.title());
                continue;
            }
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                watcher.title(),
                cell.rate.range(factor),
                cell.cpu.range(factor),
                median(&cell.p50, |ratio| format!("{ratio:.2}")),
                median(&cell.p99, |ratio| format!("{ratio:.2}")),
                median(&cell.predicted, |share| format!("{:.2} %", share * 100.0)),
                median(&cell.hits, |hits| format!("{hits:.0}")),
                cell.lost.most().map(|lost| format!("{lost:.0}")).unwrap_or_default(),
                median(&cell.hit, |seconds| format!("{:.2} µs", seconds * 1e6)),
                median(&cell.watcher_cpu, |share| format!("{:.1} %", share * 100.0)),
                cell.watcher_peak
                    .most()
                    .map(|b| format!("{:.0} MiB", b / f64::from(1 << 20)))
                    .unwrap_or_default(),
                median(&cell.attached, milliseconds),
                median(&cell.detached, milliseconds),
            );
        }
    }
    out
}

/// The page in the documentation.
pub(super) fn markdown(rows: &[Row], prices: &Prices, machine: &Machine) -> String {
    let cells = rows.iter().flat_map(|row| &row.cells);
    let rounds = cells.map(|(_, cell)| cell.rate.count()).max().unwrap_or(0);
    format!(
        "# Programs at full work\n\n\
         Written by `cargo xtask bench load`, {rounds} rounds. {}.\n\n\
         A program does as much as it can, with its client and the watcher on the same processors. Each phase with a watcher \
         lies between two without, and the first four columns are ratios to the mean of these two: the median, and the least \
         and the most in parentheses. The first row is the noise of the machine: nothing closer to 1 than it is an \
         effect. *Cost predicted* is what gotrail itself says that it takes of the program's CPU time, from hits and calibrated \
         prices. *A hit costs* is the additional CPU time of the program by the hits. *Its CPU* is the watcher's own, of one \
         processor. *Its memory* is what was resident; gotrail has rings of 64 MiB here, each mapped twice, where it has \
         4 MiB by default.\n\n\
         A single-stepped instruction costs several times more in a virtual machine like this one than on bare metal: \
         the order of the ways holds elsewhere, the distance may not.\n\n\
         ![done a second](load.svg)\n\n{}",
        machine.text(),
        table(rows, prices)
    )
}

/// For programs.
pub(super) fn json(rows: &[Row], prices: &Prices, machine: &Machine) -> String {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let ways: Map<String, Value> = row
                .cells
                .iter()
                .map(|(watcher, cell)| (watcher.name().to_owned(), cell_json(cell)))
                .collect();
            json!({ "work": row.work.name(), "unwatched_a_second": row.bare.json(), "watchers": ways })
        })
        .collect();
    let all = json!({
        "schema": "gotrail.bench.load/1",
        "machine": machine.json(),
        "hit": prices.json(),
        "rows": rows,
    });
    format!("{all:#}\n")
}

fn cell_json(cell: &Cell) -> Value {
    match &cell.missing {
        Some(why) => json!({ "missing": why }),
        None => json!({
            "rate_ratio": cell.rate.json(),
            "cpu_ratio": cell.cpu.json(),
            "p50_ratio": cell.p50.json(),
            "p99_ratio": cell.p99.json(),
            "predicted_share": cell.predicted.json(),
            "hits_a_second": cell.hits.json(),
            "lost": cell.lost.json(),
            "hit_costs_s": cell.hit.json(),
            "watcher_cpu_share": cell.watcher_cpu.json(),
            "watcher_peak_bytes": cell.watcher_peak.json(),
            "attached_in_s": cell.attached.json(),
            "detached_in_s": cell.detached.json(),
        }),
    }
}

/// What is done a second, by program and way.
pub(super) fn plot(rows: &[Row]) -> String {
    let groups: Vec<Group> = rows
        .iter()
        .map(|row| Group {
            title: row.work.title().to_owned(),
            dots: row
                .cells
                .iter()
                .filter_map(|(watcher, cell)| {
                    let of = &cell.rate;
                    Some((watcher.title().to_owned(), of.least()?, of.median()?, of.most()?))
                })
                .collect(),
        })
        .collect();
    dots::svg("done a second, in ratio to the unwatched program (least, median, most)", &groups)
}

fn factor(ratio: f64) -> String {
    format!("{ratio:.3}")
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.0} ms", seconds * 1e3)
}

fn median(spread: &Spread, text: impl Fn(f64) -> String) -> String {
    spread.median().map(text).unwrap_or_default()
}
