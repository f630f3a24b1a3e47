//! What a process that runs has used up to now.

use std::fs;

use anyhow::{Context, Result, bail};

/// CPU time of a process, seconds: `/proc/PID/stat`, fields 14 and 15, in ticks of 10 ms.
pub(super) fn cpu_time(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("can't read {path}"))?;
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: Vec<f64> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    match ticks[..] {
        [user, system] => Ok((user + system) / 100.0),
        _ => bail!("{path} has no CPU time: {stat}"),
    }
}

/// A field of `/proc/PID/status` in bytes.
pub(super) fn memory(pid: u32, field: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("can't read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib: f64 = line
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("{path} has no {field}"))?;
    Ok(kib * 1024.0)
}
