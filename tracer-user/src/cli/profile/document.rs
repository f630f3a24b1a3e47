//! The profile as JSON: documented, stable names.

use gotrail::memory::Symbolizer;
use gotrail::model::Share;
use gotrail::probe::{HERTZ, SAMPLE_NS};
use serde_json::{Value, json};

use super::super::dump::{labels_json, safe};
use super::super::json;
use super::Profile;
use super::stacks::{self, Stacked};

/// Most sets of labels of a stack that are named.
const LABELS: usize = 32;

pub(super) fn of(profile: &Profile<'_>, symbolizer: &mut Symbolizer) -> String {
    let Profile { summary, profiler, args, .. } = profile;
    let (binary, wall, looks) = (profile.runtime.binary(), &profiler.wall, &summary.looks);
    let states: Vec<Value> = wall
        .states()
        .into_iter()
        .filter(|((class, reason), _)| profile.shows(*class, *reason))
        .map(|((class, reason), share)| {
            let mut value = measured(profile, share);
            value["state"] = json!(class.name());
            value["wait_reason"] = json!(profile.reason(class, reason));
            value
        })
        .collect();
    let stacks: Vec<Value> =
        profile.stacks.iter().map(|stacked| stack(profile, stacked, symbolizer)).collect();
    let counts = &summary.on_cpu;
    let time = |samples: u64| samples * SAMPLE_NS;
    let document = json!({
        "schema": "gotrail.profile/1",
        "pid": profile.target.pid(),
        "go_version": binary.version().to_string(),
        "layout_source": binary.layout_source().to_string(),
        "started_at": json::wall(summary.began_ns),
        "started_monotonic_ns": summary.began_ns,
        "duration_ns": wall.elapsed_ns(),
        "looks": wall.looks(),
        "looks_per_second": profile.rate(),
        "goroutines_mean": profile.population(),
        "time_ns": wall.total_ns() as u64,
        "sampling_error": {
            "confidence": 0.95,
            "assumes": "nothing in the process keeps step with the looks, whose distance varies at random; it is that of the time that was measured, and says nothing of other times",
        },
        "states": states,
        "stacks": stacks,
        "on_cpu": {
            "sampled": summary.no_cpu.is_none(),
            "why_not": summary.no_cpu,
            "hertz": HERTZ,
            "cpus": summary.cpus,
            "threads_not_told": summary.untold,
            "samples": counts.all(),
            "running_ns": time(counts.running),
            "syscall_ns": time(counts.syscall),
            "waiting_ns": time(counts.other),
            "runtime_goroutines_ns": time(counts.system),
            "scheduler_ns": time(counts.scheduler),
            "foreign_threads_ns": time(counts.foreign),
        },
        "counts": {
            "seen": looks.alive,
            "new": looks.new,
            "ended": looks.ended,
            "unwound": looks.unwound,
            "torn": looks.torn,
            "unread": looks.unread,
            "beyond": looks.beyond,
            "stacks_left_out": summary.left_out.0,
            "labels_left_out": summary.left_out.1,
            "samples_left_out": wall.bounds().hits,
            "time_left_out_ns": wall.bounds().lines_ns,
        },
        "losses": summary.accounting.as_ref().map(json::losses),
        "cost": {
            "cpu_ns": summary.used_ns,
            "cpu_share": profile.own_share(),
            "budget": args.rate.is_none().then_some(args.cpu),
            "rate": args.rate,
        },
        "exit": summary.exit.map(json::exit),
    });
    safe(&document.to_string())
}

/// A time, its share, and how far each may be off.
fn measured(profile: &Profile<'_>, share: Share) -> Value {
    json!({
        "time_ns": share.time_ns as u64,
        "time_error_ns": share.error_ns as u64,
        "share": profile.share(share.time_ns),
        "share_error": profile.share(share.error_ns),
        "goroutines_mean": share.time_ns / (profile.profiler.wall.elapsed_ns() as f64).max(1.0),
    })
}

fn stack(profile: &Profile<'_>, stacked: &Stacked, symbolizer: &mut Symbolizer) -> Value {
    let mut value = measured(profile, stacked.share);
    value["state"] = json!(stacked.class.name());
    value["wait_reason"] = json!(profile.reason(stacked.class, stacked.wait_reason));
    value["found"] = json!(stacked.found);
    let known = profile.profiler.sampler.stack(stacked.stack);
    value["stack_known"] = json!(known.is_some());
    value["stack_truncated"] = json!(known.is_some_and(|stack| stack.truncated));
    value["start_function"] = json!(
        (stacked.startpc != 0).then(|| profile.runtime.binary().function_name(stacked.startpc)).flatten()
    );
    let key = (stacked.class, stacked.stack, stacked.startpc);
    value["stack"] = stacks::frames(profile, key, symbolizer)
        .iter()
        .filter(|_| known.is_some())
        .flat_map(|(_, frames)| frames.iter().map(json::frame).collect::<Vec<_>>())
        .collect();
    value["labels"] = stacked
        .labels
        .iter()
        .take(LABELS)
        .filter_map(|(number, ns)| {
            Some(json!({ "labels": labels_json(stacks::labels(profile, *number)?), "time_ns": *ns as u64 }))
        })
        .collect();
    value["label_sets_left_out"] = json!(stacked.labels.len().saturating_sub(LABELS));
    value
}
