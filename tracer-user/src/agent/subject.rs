//! What a reading command looks at: a live process, or the core file of one that has ended.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::executable::understand;
use super::watcher::WatchError;
use crate::binary::{BinaryError, GoBinary, build_id_in};
use crate::memory::{Runtime, RuntimeError};
use crate::target::{CoreError, CoreFile, Target, debug_file, read_file};

/// A process to be read.
#[derive(Debug)]
pub enum Subject {
    /// A live one.
    Process(Box<Target>),
    /// The core file of one that has ended.
    Core(CoreSubject),
}

/// A core file, and the executable of its process.
#[derive(Debug)]
pub struct CoreSubject {
    core: Arc<CoreFile>,
    executable: PathBuf,
    bytes: Arc<[u8]>,
}

/// Why there is nothing to be read.
#[derive(Debug, thiserror::Error)]
pub enum SubjectError {
    /// The process can't be looked at, or not be understood.
    #[error(transparent)]
    Process(#[from] WatchError),
    /// The argument is neither.
    #[error("tried to read {argument}: there is no such file; give the pid of a process, or a core file")]
    Neither {
        /// What was given.
        argument: String,
    },
    /// An executable was given for a live process, which has its own.
    #[error("--binary is for a core file; process {pid} has its executable with it")]
    NotForProcess {
        /// The process.
        pid: u32,
    },
    /// The core file can't be read.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// The executable is not where it was, and none was given.
    #[error(
        "looked for the executable of the core file {core}: {why}; give the file that the process ran with --binary FILE",
        core = core.display()
    )]
    NoExecutable {
        /// The core file.
        core: PathBuf,
        /// What was tried.
        why: String,
    },
    /// The executable is another one.
    #[error(
        "{executable} is not the executable of the core file {core}: {what}; give the file that the process ran with --binary FILE",
        executable = executable.display(), core = core.display()
    )]
    WrongExecutable {
        /// The core file.
        core: PathBuf,
        /// The executable.
        executable: PathBuf,
        /// How they differ.
        what: String,
    },
    /// The executable is not understood.
    #[error("{executable}: {source}", executable = executable.display())]
    Binary {
        /// The executable.
        executable: PathBuf,
        /// Why.
        source: BinaryError,
    },
    /// The memory in a core file is no Go runtime's.
    #[error("core file {core}: {source}{remark}", core = core.display())]
    Memory {
        /// The core file.
        core: PathBuf,
        /// Why.
        source: RuntimeError,
        /// What may be behind it.
        remark: String,
    },
}

impl Subject {
    /// Finds what is named: a pid, unless a file has that name, or a core file. The executable of a core file is
    /// the one that is given, else the one that its process ran, where that is still there.
    ///
    /// # Errors
    /// [`SubjectError`].
    pub fn find(argument: &str, executable: Option<&Path>) -> Result<Self, SubjectError> {
        let path = Path::new(argument);
        if let Ok(pid) = argument.parse::<u32>()
            && !path.exists()
        {
            if executable.is_some() {
                return Err(SubjectError::NotForProcess { pid });
            }
            return Ok(Self::Process(Box::new(Target::open(pid).map_err(WatchError::from)?)));
        }
        if std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            return Err(SubjectError::Neither { argument: argument.to_owned() });
        }
        Ok(Self::Core(CoreSubject::open(path, executable)?))
    }

    /// The executable, understood.
    ///
    /// # Errors
    /// [`SubjectError`]: it is no Go program, or none that is known.
    pub fn understand(&self) -> Result<GoBinary, SubjectError> {
        match self {
            Self::Process(target) => Ok(understand(target)?),
            Self::Core(core) => core.understand(),
        }
    }

    /// The Go runtime in its memory, checked.
    ///
    /// # Errors
    /// [`SubjectError`]: above all if the self-check fails (FAIL-1).
    pub fn runtime<'a>(&self, binary: &'a GoBinary) -> Result<Runtime<'a>, SubjectError> {
        match self {
            Self::Process(target) => Ok(Runtime::open(target, binary).map_err(WatchError::from)?),
            Self::Core(core) => core.runtime(binary),
        }
    }

    /// The process's number: ours for a live one, its own, innermost one in a core file. 0 if a core does not say.
    #[must_use]
    pub fn pid(&self) -> u32 {
        match self {
            Self::Process(target) => target.pid(),
            Self::Core(core) => core.core.process().map_or(0, |process| process.pid),
        }
    }

    /// The name of its command, as the kernel has it; empty if a core file does not say.
    #[must_use]
    pub fn command(&self) -> &str {
        match self {
            Self::Process(target) => &target.comm,
            Self::Core(core) => core.core.process().map_or("", |process| &process.name),
        }
    }

    /// The path of the executable.
    #[must_use]
    pub fn executable(&self) -> PathBuf {
        match self {
            Self::Process(target) => {
                std::fs::read_link(target.exe_path()).unwrap_or_else(|_| target.exe_path())
            }
            Self::Core(core) => core.executable.clone(),
        }
    }

    /// The live process, if it is one.
    #[must_use]
    pub fn process(&self) -> Option<&Target> {
        match self {
            Self::Process(target) => Some(target),
            Self::Core(_) => None,
        }
    }

    /// The core file, if it is one.
    #[must_use]
    pub fn core(&self) -> Option<&CoreFile> {
        match self {
            Self::Process(_) => None,
            Self::Core(core) => Some(&core.core),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(target) => write!(f, "process {}", target.pid()),
            Self::Core(core) => write!(f, "core file {}", core.core.path().display()),
        }
    }
}

impl CoreSubject {
    fn open(path: &Path, executable: Option<&Path>) -> Result<Self, SubjectError> {
        let core = Arc::new(CoreFile::open(path)?);
        let missing = |why: String| SubjectError::NoExecutable { core: path.to_owned(), why };
        let executable = match executable {
            Some(given) => given.to_owned(),
            None => core
                .executable()
                // A file that was replaced while the process ran.
                .map(|file| PathBuf::from(file.path.strip_suffix(" (deleted)").unwrap_or(&file.path)))
                .ok_or_else(|| missing("the core does not say what it was".to_owned()))?,
        };
        let bytes = read_file(&executable)
            .map_err(|error| missing(format!("tried to read {}: {error}", executable.display())))?;
        if let Some(what) = difference(&core, &bytes) {
            return Err(SubjectError::WrongExecutable { core: path.to_owned(), executable, what });
        }
        Ok(Self { core, executable, bytes })
    }

    fn understand(&self) -> Result<GoBinary, SubjectError> {
        GoBinary::parse_with(Arc::clone(&self.bytes), |id| debug_file(None, id))
            .map_err(|source| SubjectError::Binary { executable: self.executable.clone(), source })
    }

    fn runtime<'a>(&self, binary: &'a GoBinary) -> Result<Runtime<'a>, SubjectError> {
        Runtime::open_core(&self.core, binary).map_err(|source| {
            let remark = match self.core.cut() {
                Some(cut) => format!(
                    "; the core file is cut short: {} bytes of the process's memory are missing, since it has {} bytes of {}",
                    cut.missing, cut.size, cut.expected
                ),
                None if matches!(source, RuntimeError::Read { .. }) => {
                    "; was memory left out of it (/proc/PID/coredump_filter)?".to_owned()
                }
                None => String::new(),
            };
            SubjectError::Memory { core: self.core.path().to_owned(), source, remark }
        })
    }
}

/// How the first page of an executable differs from what the process had of it in memory, by the ELF header (but
/// for the section headers: the file may have been stripped since), the program headers and the build IDs. `None` if
/// it does not, or if the core does not hold that page.
fn difference(core: &CoreFile, file: &[u8]) -> Option<String> {
    const PAGE: usize = 4096;
    let path = &core.executable()?.path;
    let first = core.files().iter().find(|mapping| mapping.offset == 0 && mapping.path == *path)?;
    let segment = core.segment(first.start).filter(|segment| !segment.writable)?;
    let at = first.start - segment.address;
    let held = usize::try_from(segment.file_size.saturating_sub(at)).unwrap_or(PAGE).min(PAGE);
    let mut page = vec![0; held];
    let held = core.read_at(segment.offset + at, &mut page).ok()?;
    let page = page.get(..held).filter(|page| page.len() >= 64)?;
    let file = file.get(..file.len().min(PAGE)).unwrap_or_default();
    let (ours, theirs) = (build_id_in(file), build_id_in(page));
    if let (Some(ours), Some(theirs)) = (&ours, &theirs)
        && ours != theirs
    {
        return Some(format!("its build ID is {ours}, and that of the process's executable was {theirs}"));
    }
    // e_shoff; e_shentsize, e_shnum, e_shstrndx.
    let section_headers = |at: usize| (40..48).contains(&at) || (58..64).contains(&at);
    let len = page.len().min(file.len());
    let same = (0..len).all(|at| page[at] == file[at] || section_headers(at));
    (!same).then(|| "their headers differ".to_owned())
}
