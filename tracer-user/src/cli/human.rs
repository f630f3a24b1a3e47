//! Findings and stacks for people.

use std::fmt::Write as _;

use gotrail::binary::Frame;
use gotrail::detect::{Change, Reported, Role};
use gotrail::text::printable;

/// Most frames of a stack that are shown with a finding.
const FRAMES: usize = 16;

/// A finding in full.
pub(crate) fn finding(reported: &Reported, change: Change, at: &str) -> String {
    let finding = &reported.finding;
    let mut out = String::new();
    let mark = match change {
        Change::New => finding.degree.name().to_uppercase(),
        Change::Degree => format!("NOW {}", finding.degree.name().to_uppercase()),
        Change::Sites => "UPDATE".to_owned(),
        Change::Back => "BACK".to_owned(),
        Change::Resolved => "RESOLVED".to_owned(),
    };
    line(&mut out, format_args!("{at}  {mark}  {}  {}", finding.id, printable(&finding.title)));
    if change == Change::Resolved {
        return out;
    }
    for evidence in &finding.evidence {
        line(&mut out, format_args!("    - {}", printable(evidence)));
    }
    // What was told in full before is told in brief when it only became surer.
    if change == Change::Degree {
        return out;
    }
    for site in &finding.sites {
        let role = match site.role {
            Role::Created => "created by",
            Role::Blocked => "blocked in",
            Role::Called => "called by ",
            Role::Died => "died in   ",
        };
        line(
            &mut out,
            format_args!("    {role} {}  {}:{}", printable(&site.function), printable(&site.file), site.line),
        );
    }
    if !finding.goids.is_empty() {
        let ids: Vec<String> = finding.goids.iter().take(8).map(u64::to_string).collect();
        let more = if finding.count > ids.len() as u64 && finding.goids.len() > 1 { ", …" } else { "" };
        line(&mut out, format_args!("    goroutines {}{more}", ids.join(", ")));
    }
    if !finding.stack.is_empty() {
        out.push_str("    stack\n");
        out.push_str(&stack(&finding.stack, "      "));
    }
    line(&mut out, format_args!("    what to do: {}", finding.advice));
    line(&mut out, format_args!("    wrong if: {}", finding.disproof));
    out
}

/// One line of a finding for the summary.
pub(crate) fn finding_line(reported: &Reported) -> String {
    let finding = &reported.finding;
    format!(
        "{:<10} {:<9} {:<16} {}",
        finding.degree.name(),
        reported.state.name(),
        finding.id,
        printable(&finding.title)
    )
}

/// A stack, one line a frame; repeated frames once, with their number, and the outermost always.
pub(crate) fn stack(frames: &[Frame], indent: &str) -> String {
    let mut runs: Vec<(&Frame, usize)> = Vec::new();
    for frame in frames {
        match runs.last_mut() {
            Some((last, times)) if last.function == frame.function && last.line == frame.line => *times += 1,
            _ => runs.push((frame, 1)),
        }
    }
    let mut out = String::new();
    let hidden = runs.len().saturating_sub(FRAMES);
    for (i, (frame, times)) in runs.iter().enumerate() {
        // The gap is before the last run.
        if hidden != 0 && (FRAMES - 1..FRAMES - 1 + hidden).contains(&i) {
            if i == FRAMES - 1 {
                line(&mut out, format_args!("{indent}… {hidden} more …"));
            }
            continue;
        }
        let place = match frame.file.as_str() {
            "" => String::new(),
            file => format!("  {}:{}", printable(from_source_root(file)), frame.line),
        };
        let repeated = if *times == 1 { String::new() } else { format!("  ({times} times)") };
        line(&mut out, format_args!("{indent}{}{place}{repeated}", printable(&frame.function)));
    }
    out
}

/// The path of a file of the standard library from its source root on; others as they are.
fn from_source_root(file: &str) -> &str {
    match file.find("/src/") {
        Some(at) if file[..at].contains("/go") => &file[at + 5..],
        _ => file,
    }
}

fn line(out: &mut String, args: std::fmt::Arguments<'_>) {
    // Writing to a String can't fail.
    let _ = writeln!(out, "{args}");
}

/// Columns aligned to their widest cell; the last one is left as it is.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .chain(header.get(column).map(|h| h.chars().count()))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut out = String::new();
    let render = |cells: &mut dyn Iterator<Item = &str>, out: &mut String| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            let pad = width.saturating_sub(cell.chars().count());
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', pad + 2));
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    render(&mut header.iter().copied(), &mut out);
    for row in rows {
        render(&mut row.iter().map(String::as_str), &mut out);
    }
    out
}

/// The reasons to wait that a version has, for messages: its list has holes.
pub(crate) fn reasons(all: &[String]) -> String {
    all.iter().filter(|reason| !reason.is_empty()).map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(function: &str) -> Frame {
        Frame {
            function: function.to_owned(),
            file: "/srv/a.go".to_owned(),
            line: 1,
            inlined: false,
            offset: 0,
            wrapper: false,
        }
    }

    #[test]
    fn a_deep_stack_shows_its_repeats_once_and_its_outer_end() {
        let deep: Vec<Frame> =
            std::iter::repeat_n("main.deep", 40).chain(["main.run", "main.main"]).map(frame).collect();
        let text = stack(&deep, "");
        assert_eq!(
            text,
            "main.deep  /srv/a.go:1  (40 times)\nmain.run  /srv/a.go:1\nmain.main  /srv/a.go:1\n"
        );
        let names: Vec<String> = (0..30).map(|i| format!("main.f{i}")).collect();
        let long: Vec<Frame> = names.iter().map(|n| frame(n)).collect();
        let text = stack(&long, "");
        assert!(text.contains("… 14 more …") && text.ends_with("main.f29  /srv/a.go:1\n"), "{text}");
        assert_eq!(text.lines().count(), FRAMES + 1);
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["1".to_owned(), "ab".to_owned()], vec!["1000".to_owned(), "c".to_owned()]];
        assert_eq!(table(&["PID", "X"], &rows), "PID   X\n1     ab\n1000  c\n");
    }
}
