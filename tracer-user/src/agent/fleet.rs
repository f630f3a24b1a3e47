//! All processes of one executable under watch, those that start later too.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::watcher::{Options, WatchError, Watcher};
use crate::binary::{CallSite, GoBinary};
use crate::memory::Runtime;
use crate::probe::{self, Detacher, Execs, ProbeError};
use crate::target::{Target, TargetError, debug_file, process_ids, read_file};

/// How long a process that has just begun may take until its runtime can be read.
const PATIENCE: Duration = Duration::from_secs(2);
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
        /// How long after gotrail heard of it.
        within: Duration,
    },
    /// It is not.
    Refused {
        /// The process.
        pid: u32,
        /// Why.
        why: WatchError,
    },
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
    options: Options,
    /// Those that are watched or refused.
    known: HashSet<u32>,
    /// Those that are not ready yet: since when.
    waiting: HashMap<u32, Instant>,
    next_search: Instant,
    /// The path, as long as it is the file's.
    path: Option<PathBuf>,
    /// It is not any more, and nobody was told.
    replaced: bool,
}

impl Fleet {
    /// Understands the executable and puts the rare probes onto it; at most so many of its processes are watched at once.
    ///
    /// # Errors
    /// [`FleetError`]; then nothing is attached.
    pub fn open(path: &Path, options: Options, most: u32) -> Result<Self, FleetError> {
        let failed = |source| FleetError::File { path: path.to_owned(), source };
        // Open before it is read: whatever is put in its place meanwhile is another file.
        let file = File::open(path).map_err(failed)?;
        let same = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)));
        let meta = file.metadata().map_err(failed)?;
        let bytes = read_file(&same).map_err(failed)?;
        let binary = GoBinary::parse_with(bytes, |id| debug_file(None, id)).map_err(WatchError::from)?;
        // Before the probes are on, so that nobody starts in between.
        let execs = Execs::attach().map_err(|error| error.to_string());
        let probes = probe::Fleet::attach(file, &binary, options.probes, most).map_err(WatchError::from)?;
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            hazards: binary.hazards().sites.into(),
            binary: Arc::new(binary.without_code()),
            probes,
            execs,
            options,
            known: HashSet::new(),
            waiting: HashMap::new(),
            next_search: Instant::now(),
            // That of a process goes with it.
            path: fs::read_link(path)
                .ok()
                .filter(|_| path.starts_with("/proc"))
                .or_else(|| Some(path.to_owned())),
            replaced: false,
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

    /// Whether the path names another file by now than the one that is watched, so that whoever starts from it is another
    /// program; told once.
    pub const fn replaced(&mut self) -> bool {
        std::mem::replace(&mut self.replaced, false)
    }

    /// Takes new processes in; waits at most so long for the first. `watched` are those that arrived before and did not
    /// leave.
    pub fn arrivals<'a>(
        &mut self,
        wait: Duration,
        watched: impl IntoIterator<Item = &'a mut Watcher>,
    ) -> Vec<Arrival> {
        let wait = if self.waiting.is_empty() { wait } else { wait.min(RETRY) };
        let began = match &mut self.execs {
            Ok(execs) => execs.wait(wait),
            Err(_) => {
                std::thread::sleep(wait);
                Vec::new()
            }
        };
        let began: Vec<u32> = began.into_iter().filter(|pid| self.is_ours(*pid)).collect();
        // Whoever executes itself anew is another program in the same process, which comes when the one before has left.
        for watcher in watched {
            if began.contains(&watcher.target().pid()) {
                watcher.check_soon();
            }
        }
        for pid in began {
            self.waiting.insert(pid, Instant::now());
        }
        if Instant::now() >= self.next_search {
            self.search();
        }
        self.join()
    }

    /// A process that was watched has ended, or executes something else.
    pub fn left(&mut self, pid: u32) {
        self.known.remove(&pid);
    }

    fn is_ours(&self, pid: u32) -> bool {
        // The kernel answers for the file itself, whatever its path says by now. An overlay gives each container's view of
        // one file a device of its own: whether it is the same file, the probes tell in the end.
        fs::metadata(format!("/proc/{pid}/exe"))
            .is_ok_and(|meta| (meta.ino(), meta.size()) == (self.inode, self.size))
    }

    /// Whether a process whose executable has another device number runs the very file: the kernel has put our probes there
    /// then. An error: its runtime is not there yet.
    fn has_our_probes(&self, target: &Target) -> Result<bool, WatchError> {
        let bias = Runtime::open_at_once(target, &self.binary)?.bias();
        Ok(self.probes.is_in(target.pid(), bias))
    }

    fn search(&mut self) {
        self.next_search = Instant::now() + if self.execs.is_ok() { HEAL } else { SEARCH };
        let is_other = |path: &PathBuf| {
            fs::metadata(path).is_ok_and(|meta| (meta.dev(), meta.ino()) != (self.device, self.inode))
        };
        if self.path.as_ref().is_some_and(is_other) {
            (self.path, self.replaced) = (None, true);
        }
        let pids = process_ids();
        self.known.retain(|pid| pids.binary_search(pid).is_ok());
        for pid in pids {
            if !self.known.contains(&pid) && self.is_ours(pid) {
                self.waiting.entry(pid).or_insert_with(Instant::now);
            }
        }
    }

    fn join(&mut self) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        let mut waiting: Vec<(u32, Instant)> =
            self.waiting.iter().map(|(pid, since)| (*pid, *since)).collect();
        waiting.sort_unstable();
        for (pid, since) in waiting {
            // The one before is still being taken leave of.
            if self.known.contains(&pid) && since.elapsed() < PATIENCE {
                continue;
            }
            let target = match Target::open(pid) {
                Ok(target) => target,
                Err(TargetError::Gone { .. }) => {
                    self.waiting.remove(&pid);
                    continue;
                }
                Err(error) => {
                    self.waiting.remove(&pid);
                    self.known.insert(pid);
                    arrivals.push(Arrival::Refused { pid, why: error.into() });
                    continue;
                }
            };
            let is_same = target.identity.exe_device == self.device;
            if !is_same {
                match self.has_our_probes(&target) {
                    Ok(true) => {}
                    Err(_) if since.elapsed() < PATIENCE => continue,
                    // Another file, that has the number and the size by chance.
                    Ok(false) | Err(_) => {
                        self.waiting.remove(&pid);
                        self.known.insert(pid);
                        continue;
                    }
                }
            }
            match Watcher::join(
                target,
                Arc::clone(&self.binary),
                Arc::clone(&self.hazards),
                &self.probes,
                self.options,
            ) {
                Ok(watcher) => {
                    self.waiting.remove(&pid);
                    self.known.insert(pid);
                    arrivals.push(Arrival::Joined { watcher: Box::new(watcher), within: since.elapsed() });
                }
                // A program that has just begun has no runtime yet.
                Err(why) if since.elapsed() < PATIENCE && !is_final(&why) => {}
                Err(why) => {
                    self.waiting.remove(&pid);
                    // It ended, or is another program by now: nothing to be told of.
                    if self.is_ours(pid) {
                        self.known.insert(pid);
                        arrivals.push(Arrival::Refused { pid, why });
                    }
                }
            }
        }
        arrivals
    }
}

/// Whether to try again is of no use.
const fn is_final(why: &WatchError) -> bool {
    matches!(why, WatchError::Probe(ProbeError::Full { .. } | ProbeError::Bytes { .. }))
}
