//! `--waits`: who waits for the network, and for whom there.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use gotrail::memory::{Poll, Symbolizer, Wait};
use gotrail::target::Descriptor;
use gotrail::text::{duration, printable};

use super::{Dump, waits};

/// Most places in the code that are shown as text, and most goroutines of one.
const PLACES: usize = 20;
const EACH: usize = 5;

/// The goroutines that wait for a file descriptor, by the place in the code.
pub(super) fn text(dump: &Dump<'_>, symbolizer: &mut Symbolizer) -> String {
    let mut places: BTreeMap<String, Vec<(u64, Poll)>> = BTreeMap::new();
    let mut count = 0;
    for g in &dump.shown {
        if let Some(Wait::Io(Some(poll))) = dump.details.waits.get(&g.goid) {
            places.entry(waits::place(dump, g, symbolizer)).or_default().push((g.goid, *poll));
            count += 1;
        }
    }
    let mut out = String::new();
    if count == 0 {
        return out;
    }
    // Writing to a String can't fail.
    let _ = writeln!(out, "{} for IO", waits::wait(count));
    let mut places: Vec<_> = places.into_iter().collect();
    places.sort_by_key(|(_, members)| std::cmp::Reverse(members.len()));
    let left_out = places.len().saturating_sub(PLACES);
    for (place, members) in places.into_iter().take(PLACES) {
        let _ = writeln!(out, "    in {place}");
        for (goid, poll) in members.iter().take(EACH) {
            let _ = writeln!(out, "        goroutine {goid}: {}", what(dump, *poll));
        }
        if members.len() > EACH {
            let _ = writeln!(out, "        and {} more", members.len() - EACH);
        }
    }
    if left_out > 0 {
        let _ = writeln!(out, "    in {left_out} more places: --format json has them all");
    }
    out.push('\n');
    out
}

/// `read of fd 7, tcp 127.0.0.1:80 from 127.0.0.1:4711 (established), until a deadline in 3.0 s`
fn what(dump: &Dump<'_>, poll: Poll) -> String {
    let mut text = format!("{} of fd {}", poll.mode(), poll.fd);
    match dump.files.get(&poll.fd) {
        None if dump.subject.core().is_some() => text.push_str(" (what it was is not in a core file)"),
        None => text.push_str(", which is not open any more or can't be looked at"),
        Some(Descriptor { kind, local, remote, state }) => {
            let _ = write!(text, ", {}", printable(kind));
            if let Some(local) = local {
                let _ = write!(text, " {}", printable(local));
            }
            if let Some(remote) = remote {
                let _ = write!(text, " to {}", printable(remote));
            }
            if let Some(state) = state {
                let _ = write!(text, " ({})", printable(state));
            }
        }
    }
    if let Some(at) = poll.deadline_ns {
        let _ = write!(text, ", until a deadline in {}", duration(at.saturating_sub(dump.runtime.now_ns())));
    }
    text
}
