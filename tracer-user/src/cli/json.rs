//! The JSON of the commands: documented, stable names.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gotrail::binary::Frame;
use gotrail::detect::Reported;
use gotrail::memory::monotonic_ns;
use gotrail::probe::Accounting;
use gotrail::target::{Exit, Sender, Sent, signal_name};
use serde_json::{Value, json};

/// Wall time of a `CLOCK_MONOTONIC` time: the one place where the one becomes the other (TIME-1).
pub(crate) fn wall(at_ns: u64) -> String {
    let now = SystemTime::now();
    let ago = Duration::from_nanos(monotonic_ns().saturating_sub(at_ns));
    humantime::format_rfc3339_millis(now.checked_sub(ago).unwrap_or(UNIX_EPOCH)).to_string()
}

/// A frame of a stack.
pub(crate) fn frame(frame: &Frame) -> Value {
    json!({
        "function": frame.function,
        "file": frame.file,
        "line": frame.line,
        "inlined": frame.inlined,
    })
}

/// A finding.
pub(crate) fn finding(reported: &Reported) -> Value {
    let finding = &reported.finding;
    json!({
        "id": finding.id,
        "key": finding.key,
        "title": finding.title,
        "degree": finding.degree.name(),
        "state": reported.state.name(),
        "first_seen": wall(reported.first_seen_ns),
        "last_seen": wall(reported.last_seen_ns),
        "count": finding.count,
        "evidence": finding.evidence,
        "goids": finding.goids,
        "sites": finding.sites.iter().map(|site| json!({
            "role": site.role.name(),
            "function": site.function,
            "file": site.file,
            "line": site.line,
        })).collect::<Vec<_>>(),
        "stack": finding.stack.iter().map(frame).collect::<Vec<_>>(),
        "advice": finding.advice,
        "wrong_if": finding.disproof,
    })
}

/// How a process ended.
pub(crate) fn exit(exit: Exit) -> Value {
    match exit {
        Exit::Code(code) => json!({ "code": code }),
        Exit::Signal(signal) => json!({ "signal": signal_name(signal) }),
        Exit::Exec => json!({ "exec": true }),
        Exit::Unknown => json!({ "unknown": true }),
    }
}

/// A signal that was sent.
pub(crate) fn sent(sent: &Sent) -> Value {
    let by = match &sent.by {
        Sender::Process { pid, name } => json!({ "pid": pid, "name": name }),
        Sender::Itself => json!({ "itself": true }),
        Sender::Fault => json!({ "fault": true }),
        Sender::Kernel { out_of_memory } => json!({ "kernel": true, "out_of_memory": out_of_memory }),
    };
    json!({ "signal": signal_name(sent.signal), "at_ns": sent.at_ns, "by": by })
}

/// The account of the probes.
pub(crate) fn losses(accounting: &Accounting) -> Value {
    let total = accounting.total();
    let probes: Vec<Value> = accounting
        .probes
        .iter()
        .map(|(probe, account)| {
            json!({
                "probe": probe.name(),
                "hits": account.hits,
                "delivered": account.delivered,
                "received": account.received,
                "summed": account.summed,
                "skipped": account.skipped,
                "lost": account.lost(),
                "lost_ring": account.lost_ring,
                "lost_map": account.lost_map,
                "lost_queue": account.lost_queue,
                "faulted": account.faulted,
                "partial": account.partial,
            })
        })
        .collect();
    json!({
        "hits": total.hits,
        "delivered": total.delivered,
        "received": total.received,
        "lost": accounting.lost(),
        "summed": total.summed,
        "skipped": total.skipped,
        "lost_ring": total.lost_ring,
        "lost_map": total.lost_map,
        "lost_queue": total.lost_queue,
        "faulted": total.faulted,
        "refused": total.refused,
        "partial": total.partial,
        "gaps": accounting.gaps,
        "undecodable": accounting.undecodable,
        "self_check_failures": accounting.procid_mismatches,
        "balances": accounting.balances(),
        "probes": probes,
    })
}
