//! All processes of one executable under watch, those that start later too.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::watcher::{Options, WatchError, Watcher};
use crate::binary::{CallSite, GoBinary};
use crate::memory::{Runtime, monotonic_ns};
use crate::probe::{self, Detacher, Endings, Execs, Gate, ProbeError};
use crate::target::{
    Guard, HeldFile, Target, TargetError, check_regular, debug_file, open_file, process_ids,
};

/// How long a process that has just begun may take until its runtime can be read, ns, before somebody is told that it is
/// not watched; it is tried again at each search.
const PATIENCE: u64 = 2_000_000_000;
/// Between two tries.
const RETRY: Duration = Duration::from_millis(10);
/// Between two searches of /proc where the kernel tells who starts; what it had no room for is found then.
const HEAL: Duration = Duration::from_secs(10);
/// And where it does not.
const SEARCH: Duration = Duration::from_millis(100);

/// Why the processes of an executable can't be watched.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The file can't be read.
    #[error("tried to read the executable {path}: {source}")]
    File {
        /// As it was given.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Nobody would keep it from being overwritten while nobody runs it, with the probes in it.
    #[error(
        "tried to take a lease on {path}, so that nobody writes to it while there are probes in it: {source}; {}; processes can be watched one by one by their number",
        advice(source)
    )]
    NoLease {
        /// As it was given.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It was written to before the probes were in it.
    #[error(
        "{path} was about to be written to while it was read; nothing was attached: try again when it is whole"
    )]
    Written {
        /// As it was given.
        path: PathBuf,
    },
    /// It is not understood, or probes can't be placed.
    #[error(transparent)]
    Watch(#[from] WatchError),
}

/// What became of a process of the executable.
#[derive(Debug)]
pub enum Arrival {
    /// It is watched.
    Joined {
        /// By this.
        watcher: Box<Watcher>,
        /// How long after it began to run the program, or after it was found.
        within: Duration,
    },
    /// It is not yet; told once for each. It is tried again when another one leaves, and at each search.
    Refused {
        /// The process.
        pid: u32,
        /// Why.
        why: WatchError,
    },
}

/// What became of the path of the executable; the file itself is watched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// There is nothing at its place.
    Removed,
    /// It names another file: whoever starts from it is another program.
    Replaced,
}

/// Processes that ended before anything could be said of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missed {
    /// Of the executable.
    pub ours: u64,
    /// Of whatever executable: they were gone before it could be told.
    pub unknown: u64,
}

/// What would help where there is no lease.
fn advice(why: &std::io::Error) -> &'static str {
    match why.kind() {
        ErrorKind::WouldBlock => "somebody has it open for writing",
        ErrorKind::PermissionDenied => "run gotrail as root or with CAP_LEASE",
        _ => "its file system has none",
    }
}

/// A path that goes on naming what is at the place of a file: the link of a process goes with it, and what it leads to is a
/// path that the process sees, which may see other files than we do.
fn lasting(path: &Path) -> PathBuf {
    let Some((process, link)) = path.parent().zip(fs::read_link(path).ok()) else { return path.to_owned() };
    let Some(inside) = link.strip_prefix("/").ok().filter(|_| path.starts_with("/proc")) else {
        return path.to_owned();
    };
    let seen = process.join("root").join(inside);
    // Its own name is the better one where both see the same.
    let same = |one: &Path, other: &Path| {
        let id = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
        id(one).is_some_and(|one| Some(one) == id(other))
    };
    if same(&link, path) { link } else { seen }
}

/// What became of the path of a file with this device and inode.
fn moved(path: &Path, file: (u64, u64)) -> Option<Moved> {
    match fs::metadata(path) {
        Ok(meta) => ((meta.dev(), meta.ino()) != file).then_some(Moved::Replaced),
        // What a process sees goes with it, and says nothing of the file then.
        Err(error) => {
            let view: PathBuf = path.components().take(4).collect();
            let is_seen = !path.starts_with("/proc") || fs::metadata(view).is_ok();
            (error.kind() == ErrorKind::NotFound && is_seen).then_some(Moved::Removed)
        }
    }
}

/// The processes of one executable.
#[derive(Debug)]
pub struct Fleet {
    device: u64,
    inode: u64,
    size: u64,
    binary: Arc<GoBinary>,
    hazards: Arc<[CallSite]>,
    probes: probe::Fleet,
    execs: Result<Execs, String>,
    /// How they end, as far as the kernel tells.
    endings: Result<Endings, String>,
    options: Options,
    /// Those that are watched, by when that began (`CLOCK_MONOTONIC` ns).
    watched: HashMap<u32, u64>,
    /// Those that are not ready yet: since when, ns.
    waiting: HashMap<u32, u64>,
    /// Those that somebody was told of that they are not watched.
    refused: HashSet<u32>,
    /// Those that have the inode's number and size, but not our probes.
    strangers: HashSet<u32>,
    missed: Missed,
    next_search: Instant,
    guard: Guard,
    /// The path, until it is another file's.
    path: Option<PathBuf>,
    /// What became of it.
    moved: Option<Moved>,
    /// Whether somebody was told of that.
    told: bool,
}

impl Fleet {
    /// Understands the executable and puts the rare probes onto it; at most so many of its processes are watched at once.
    ///
    /// # Errors
    /// [`FleetError`]; then nothing is attached.
    pub fn open(path: &Path, options: Options, most: u32) -> Result<Self, FleetError> {
        let failed = |source| FleetError::File { path: path.to_owned(), source };
        // Open before it is read: whatever is put in its place meanwhile is another file. And guarded before it is read:
        // what is understood is what the probes are put into.
        let file = open_file(path).map_err(failed)?;
        check_regular(&file).map_err(failed)?;
        let (detacher, gate) = (Detacher::default(), Gate::default());
        let (closes, waits) = (detacher.clone(), Arc::clone(&gate));
        let make_way = move || {
            // A link that is being made is closed as well.
            let _made = waits.lock().unwrap_or_else(PoisonError::into_inner);
            closes.close();
        };
        let attaching = gate.lock().unwrap_or_else(PoisonError::into_inner);
        let guard = Guard::take(&file, make_way)
            .map_err(|source| FleetError::NoLease { path: path.to_owned(), source })?;
        let meta = file.metadata().map_err(failed)?;
        let held = file.try_clone().and_then(HeldFile::new).map_err(failed)?;
        let bytes = held.read().map_err(failed)?;
        let binary = GoBinary::parse_with(bytes, |id| debug_file(None, id)).map_err(WatchError::from)?;
        // Before the probes are on, so that nobody starts in between.
        let execs = Execs::attach().map_err(|error| error.to_string());
        let endings = Endings::attach(most).map_err(|error| error.to_string());
        if let Ok(endings) = &endings {
            detacher.take_along(endings.clone());
        }
        let means = (detacher, Arc::clone(&gate));
        let probes =
            probe::Fleet::attach(file, &binary, options.probes, most, means).map_err(WatchError::from)?;
        drop(attaching);
        if guard.is_broken() {
            return Err(FleetError::Written { path: path.to_owned() });
        }
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            hazards: binary.hazards().sites.into(),
            binary: Arc::new(binary.reread_from(move |at, into| held.read_at(at, into))),
            probes,
            execs,
            endings,
            options,
            watched: HashMap::new(),
            waiting: HashMap::new(),
            refused: HashSet::new(),
            strangers: HashSet::new(),
            missed: Missed::default(),
            next_search: Instant::now(),
            // That of a process goes with it.
            path: Some(lasting(path)),
            moved: None,
            told: true,
            guard,
        })
    }

    /// The executable.
    #[must_use]
    pub fn binary(&self) -> &GoBinary {
        &self.binary
    }

    /// The probes.
    #[must_use]
    pub const fn probes(&self) -> &probe::Fleet {
        &self.probes
    }

    /// A handle that takes the probes off from another thread.
    #[must_use]
    pub fn detacher(&self) -> Detacher {
        self.probes.detacher()
    }

    /// Why the kernel does not tell who starts, so that /proc is searched instead.
    #[must_use]
    pub fn searches(&self) -> Option<&str> {
        self.execs.as_ref().err().map(String::as_str)
    }

    /// Programs that began to run and that the kernel had no room to tell of; /proc is searched for them.
    #[must_use]
    pub fn untold(&self) -> u64 {
        self.execs.as_ref().map_or(0, Execs::lost)
    }

    /// Whether the path is not that of the file that is watched any more, as the last search found; told once.
    pub fn moved(&mut self) -> Option<Moved> {
        self.moved.filter(|_| !std::mem::replace(&mut self.told, true))
    }

    /// Whether somebody wants to write to the file, which nobody runs then. The probes are off for good: what is in it
    /// from then on is another program.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.guard.is_broken()
    }

    /// Those that came and went unseen.
    #[must_use]
    pub const fn missed(&self) -> Missed {
        self.missed
    }

    /// Takes new processes in; waits at most so long for the first. `watchers` are those that arrived before and did not
    /// leave.
    pub fn arrivals<'a>(
        &mut self,
        wait: Duration,
        watchers: impl IntoIterator<Item = &'a mut Watcher>,
    ) -> Vec<Arrival> {
        let wait = if self.waiting.is_empty() { wait } else { wait.min(RETRY) };
        let began = match &mut self.execs {
            Ok(execs) => execs.wait(wait),
            Err(_) => {
                std::thread::sleep(wait);
                Vec::new()
            }
        };
        // Before it is asked in whom they are.
        self.probes.mend();
        // Whoever executes anything is another program in the same process; if it is ours again, it comes when the one
        // before has left. The beginning of what is watched is no such thing.
        for watcher in watchers {
            let pid = watcher.target().pid();
            let since = self.watched.get(&pid).copied().unwrap_or(u64::MAX);
            if began.iter().any(|(other, at_ns)| *other == pid && *at_ns > since) {
                watcher.executed();
            }
        }
        for (pid, at_ns) in began {
            self.strangers.remove(&pid);
            match self.is_ours(pid) {
                Some(true) if self.watched.get(&pid).is_none_or(|since| at_ns > *since) => {
                    self.waiting.insert(pid, at_ns);
                }
                Some(_) => {}
                None => self.missed.unknown += 1,
            }
        }
        if Instant::now() >= self.next_search {
            self.search();
        }
        self.join()
    }

    /// A process that was watched has ended, or executes something else.
    pub fn left(&mut self, pid: u32) {
        self.watched.remove(&pid);
        // There is room for another one.
        if !self.refused.is_empty() {
            self.next_search = Instant::now();
        }
    }

    /// `None`: it is gone.
    fn is_ours(&self, pid: u32) -> Option<bool> {
        // The kernel answers for the file itself, whatever its path says by now. An overlay gives each container's view of
        // one file a device of its own: whether it is the same file, the probes tell in the end.
        let meta = fs::metadata(format!("/proc/{pid}/exe")).ok()?;
        Some((meta.ino(), meta.size()) == (self.inode, self.size))
    }

    /// Whether a process whose executable has another device number runs the very file: the kernel has put our probes there
    /// then. An error: its runtime is not there yet, or the probes are off just now.
    fn has_our_probes(&self, target: &Target) -> Result<bool, WatchError> {
        let bias = Runtime::open_at_once(target, &self.binary)?.bias();
        Ok(self.probes.is_in(target.pid(), bias)?)
    }

    fn search(&mut self) {
        self.next_search = Instant::now() + if self.execs.is_ok() { HEAL } else { SEARCH };
        if let Some(path) = &self.path {
            let moved = moved(path, (self.device, self.inode));
            if moved != self.moved {
                (self.moved, self.told) = (moved, false);
            }
            // From then on it is somebody else's.
            if moved == Some(Moved::Replaced) {
                self.path = None;
            }
        }
        let pids = process_ids();
        let is_there = |pid: &u32| pids.binary_search(pid).is_ok();
        self.refused.retain(is_there);
        self.strangers.retain(is_there);
        let now = monotonic_ns();
        for pid in pids {
            let known = self.watched.contains_key(&pid) || self.strangers.contains(&pid);
            if !known && self.is_ours(pid) == Some(true) {
                // Those that were told of have one try each time.
                let since = if self.refused.contains(&pid) { now.saturating_sub(PATIENCE) } else { now };
                self.waiting.entry(pid).or_insert(since);
            }
        }
    }

    fn join(&mut self) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        let mut waiting: Vec<(u32, u64)> = self.waiting.iter().map(|(pid, since)| (*pid, *since)).collect();
        waiting.sort_unstable();
        for (pid, since) in waiting {
            // The one before is still being taken leave of.
            if self.watched.contains_key(&pid) {
                continue;
            }
            let begun = monotonic_ns();
            let patient = begun.saturating_sub(since) < PATIENCE;
            match self.watch(pid) {
                Ok(Some(watcher)) => {
                    self.watched.insert(pid, begun);
                    self.refused.remove(&pid);
                    let within = Duration::from_nanos(monotonic_ns().saturating_sub(since));
                    arrivals.push(Arrival::Joined { watcher: Box::new(watcher), within });
                }
                // Another file, that has the number and the size by chance.
                Ok(None) => drop(self.strangers.insert(pid)),
                Err(WatchError::Target(TargetError::Gone { .. })) => self.missed.ours += 1,
                // A program that has just begun has no runtime yet.
                Err(why) if patient && !is_final(&why) => continue,
                Err(why) => match self.is_ours(pid) {
                    Some(true) if self.refused.insert(pid) => arrivals.push(Arrival::Refused { pid, why }),
                    Some(_) => {}
                    None => self.missed.ours += 1,
                },
            }
            self.waiting.remove(&pid);
        }
        arrivals
    }

    /// Begins to watch a process, if it is of the executable.
    fn watch(&self, pid: u32) -> Result<Option<Watcher>, WatchError> {
        let target = Target::open(pid)?;
        if target.identity.exe_device != self.device && !self.has_our_probes(&target)? {
            return Ok(None);
        }
        let (binary, hazards) = (Arc::clone(&self.binary), Arc::clone(&self.hazards));
        Watcher::join(target, binary, hazards, &self.probes, self.endings.clone(), self.options).map(Some)
    }
}

/// Whether to try again at once is of no use.
const fn is_final(why: &WatchError) -> bool {
    matches!(why, WatchError::Probe(ProbeError::Full | ProbeError::Bytes { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_removed_or_replaced_or_no_longer_to_be_seen() {
        let folder = std::env::temp_dir().join(format!("gotrail-moved-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let (path, other) = (folder.join("program"), folder.join("other"));
        fs::write(&path, "one").unwrap();
        let meta = fs::metadata(&path).unwrap();
        // It keeps its number from being given to the next one.
        let _open = fs::File::open(&path).unwrap();
        let file = (meta.dev(), meta.ino());
        assert_eq!(moved(&path, file), None);
        fs::rename(&path, &other).unwrap();
        assert_eq!(moved(&path, file), Some(Moved::Removed));
        assert_eq!(moved(&other, file), None);
        fs::write(&path, "two").unwrap();
        assert_eq!(moved(&path, file), Some(Moved::Replaced));

        let seen = |pid: u32| PathBuf::from(format!("/proc/{pid}/root{}", other.display()));
        let own = std::process::id();
        assert_eq!(moved(&seen(own), file), None);
        let mut short = std::process::Command::new("true").spawn().unwrap();
        let gone = seen(short.id());
        short.wait().unwrap();
        assert_eq!(moved(&gone, file), None, "a process that ended takes its view along, not the file");
        fs::remove_file(&other).unwrap();
        assert_eq!(moved(&seen(own), file), Some(Moved::Removed));
        fs::remove_dir_all(&folder).unwrap();
    }
}
