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

/// CPU time of the threads of a process that have a name, seconds.
pub(super) fn cpu_time_of_threads(pid: u32, name: &str) -> Result<f64> {
    let folder = format!("/proc/{pid}/task");
    let told = || format!("can't read {folder}");
    let mut sum = 0.0;
    for thread in fs::read_dir(&folder).with_context(told)? {
        let path = thread.with_context(told)?.path();
        // Threads come and go.
        let (Ok(comm), Ok(time)) =
            (fs::read_to_string(path.join("comm")), fs::read_to_string(path.join("schedstat")))
        else {
            continue;
        };
        // The first number is the time on a CPU, ns.
        let ns: Option<f64> = time.split_whitespace().next().and_then(|ns| ns.parse().ok());
        if comm.trim_end() == name {
            sum += ns.with_context(|| format!("{} has no time: {time}", path.display()))? / 1e9;
        }
    }
    Ok(sum)
}
