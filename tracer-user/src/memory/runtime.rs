//! A process, live or from its core file, joined with what is known of its executable.

use std::sync::Arc;

use super::core_file::CoreMemory;
use super::live::LiveMemory;
use super::reader::{ReadError, Reader};
use super::source::Source;
use super::stopped::Stopped;
use crate::binary::{Architecture, GoBinary};
#[cfg(feature = "fuzzing")]
use crate::target::Registers;
use crate::target::{CoreFile, Machine, Mapping, Target, TargetError, executable_mappings};

/// Most goroutines, or Ps, that are read: what is held of them stays below a gigabyte.
const MOST_ELEMENTS: u64 = 1 << 22;
/// More room than the array of any process's goroutines has.
const MOST_ROOM: u64 = 1 << 26;

/// Why a process's Go runtime can't be read.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The process can't be looked at.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Its memory can't be read.
    #[error("reading the Go runtime of process {pid}: {source}")]
    Read {
        /// The process.
        pid: u32,
        /// Why.
        source: ReadError,
    },
    /// The executable's mapping was not found.
    #[error("looked for the Go code of process {pid} in its memory map: {why}")]
    Mapping {
        /// The process.
        pid: u32,
        /// What is wrong.
        why: String,
    },
    /// What was read can't be a Go runtime of this version.
    #[error(
        "the self-check of process {pid} failed: {what}; gotrail does not guess, so its goroutines are not read (the layout is from {layout})"
    )]
    SelfCheck {
        /// The process.
        pid: u32,
        /// The check that failed.
        what: String,
        /// Where the layout is from.
        layout: String,
    },
}

/// A process, its executable, and where the one is loaded.
#[derive(Debug)]
pub struct Runtime<'a, R = Source> {
    pub(super) pid: u32,
    pub(super) memory: R,
    pub(super) binary: &'a GoBinary,
    pub(super) bias: u64,
    /// What else is known of a process that has ended.
    pub(super) stopped: Option<Stopped>,
}

impl<'a> Runtime<'a> {
    /// Joins a process with its executable and checks that what is in its memory fits.
    ///
    /// # Errors
    /// [`RuntimeError`], above all if the self-check fails (FAIL-1).
    pub fn open(target: &Target, binary: &'a GoBinary) -> Result<Self, RuntimeError> {
        let runtime = Self::find(target, binary)?;
        runtime.self_check_patiently()?;
        Ok(runtime)
    }

    /// Likewise, without patience for a process that has just begun or runs by fits and starts: for who tries again.
    ///
    /// # Errors
    /// As [`Runtime::open`].
    pub fn open_at_once(target: &Target, binary: &'a GoBinary) -> Result<Self, RuntimeError> {
        let runtime = Self::find(target, binary)?;
        runtime.self_check()?;
        Ok(runtime)
    }

    fn find(target: &Target, binary: &'a GoBinary) -> Result<Self, RuntimeError> {
        let pid = target.pid();
        let mappings = executable_mappings(target)?;
        let bias = load_bias(&mappings, binary).map_err(|why| {
            if target.is_same() {
                RuntimeError::Mapping { pid, why }
            } else {
                TargetError::Gone { pid }.into()
            }
        })?;
        Ok(Self::reopen(pid, binary, bias))
    }

    /// Joins a process and its executable again, with the bias of an earlier [`Runtime::open`], whose check
    /// holds as long as the process is the same.
    #[must_use]
    pub fn reopen(pid: u32, binary: &'a GoBinary, bias: u64) -> Self {
        Self { pid, memory: Source::Live(LiveMemory::new(pid)), binary, bias, stopped: None }
    }

    /// Joins a core file with the executable of its process and checks that they fit.
    ///
    /// # Errors
    /// As [`Runtime::open`].
    pub fn open_core(core: &Arc<CoreFile>, binary: &'a GoBinary) -> Result<Self, RuntimeError> {
        let pid = core.process().map_or(0, |process| process.pid);
        let error = |why: String| RuntimeError::Mapping { pid, why };
        let goarch = match core.machine() {
            Machine::X86_64 => Architecture::Amd64.goarch(),
            Machine::Aarch64 => Architecture::Arm64.goarch(),
        };
        if goarch != binary.architecture().goarch() {
            let executable = binary.architecture().goarch();
            return Err(error(format!(
                "the process ran on {goarch}, and its executable is for {executable}"
            )));
        }
        let mappings = core_mappings(core, binary);
        let bias = load_bias(&mappings, binary).map_err(error)?;
        let memory = CoreMemory::new(Arc::clone(core), binary.image().clone(), mappings);
        let stopped = Some(Stopped::default());
        let mut runtime = Self { pid, memory: Source::Core(memory), binary, bias, stopped };
        runtime.self_check()?;
        let mut stopped = runtime.last_moment()?;
        stopped.threads = core.threads().iter().map(|thread| (thread.id, thread.registers)).collect();
        stopped.crash = core.signal().and_then(|signal| Some((signal, core.threads().first()?.id)));
        runtime.stopped = Some(stopped);
        Ok(runtime)
    }
}

#[cfg(feature = "fuzzing")]
impl<'a, R: Reader> Runtime<'a, R> {
    /// A runtime in any memory, not checked, with some threads' registers as a core file has them.
    pub(crate) fn over(memory: R, binary: &'a GoBinary, bias: u64, threads: &[(u32, Registers)]) -> Self {
        let stopped = Stopped { threads: threads.iter().copied().collect(), ..Stopped::default() };
        Self { pid: 0, memory, binary, bias, stopped: Some(stopped) }
    }

    /// The check of [`Runtime::open`].
    pub(crate) fn check_again(&self) -> Result<(), RuntimeError> {
        self.self_check()
    }
}

impl<R: Reader> Runtime<'_, R> {
    /// The distance between where the executable is and where it was linked to be.
    #[must_use]
    pub const fn bias(&self) -> u64 {
        self.bias
    }

    /// The process id.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// The executable.
    #[must_use]
    pub const fn binary(&self) -> &GoBinary {
        self.binary
    }

    pub(super) fn read_error(&self, source: ReadError) -> RuntimeError {
        RuntimeError::Read { pid: self.pid, source }
    }

    pub(super) fn global(&self, linked: u64) -> u64 {
        linked.wrapping_add(self.bias)
    }

    /// A Go slice header: address of the elements and their number.
    pub(super) fn slice(&self, linked: u64) -> Result<(u64, u64, u64), RuntimeError> {
        let mut header = [0; 24];
        self.memory.read(self.global(linked), &mut header).map_err(|e| self.read_error(e))?;
        let word = |i: usize| super::reader::u64_at(&header, i as u32 * 8);
        let (at, len, cap) = (word(0), word(1), word(2));
        // What was a Go runtime when it was checked may have become another program since.
        if at & 7 != 0 || len > cap || len > MOST_ELEMENTS || cap > MOST_ROOM {
            return Err(RuntimeError::SelfCheck {
                pid: self.pid,
                what: format!("a slice of the runtime is at {at:#x}, {len} of {cap} elements long"),
                layout: self.binary.layout_source().to_string(),
            });
        }
        Ok((at, len, cap))
    }

    /// `count` pointers from `address`.
    pub(super) fn pointers(&self, address: u64, count: u64) -> Result<Vec<u64>, RuntimeError> {
        let mut bytes = vec![0; usize::try_from(count.min(MOST_ELEMENTS)).unwrap_or(0) * 8];
        self.memory.read(address, &mut bytes).map_err(|e| self.read_error(e))?;
        Ok(bytes.chunks_exact(8).map(|b| super::reader::u64_at(b, 0)).collect())
    }

    /// The name of a wait reason.
    #[must_use]
    pub fn wait_reason(&self, number: u8) -> &str {
        self.binary
            .layout()
            .wait_reasons
            .get(usize::from(number))
            .map_or("unknown wait reason", String::as_str)
    }
}

/// Where a core's process had its executable mapped: by the list of files, else by where it began to run.
fn core_mappings(core: &CoreFile, binary: &GoBinary) -> Vec<Mapping> {
    if let Some(executable) = core.executable() {
        let same = core.files().iter().filter(|file| file.path == executable.path);
        return same
            .map(|file| Mapping {
                start: file.start,
                end: file.end,
                offset: file.offset,
                executable: core.segment(file.start).is_some_and(|segment| segment.executable),
            })
            .collect();
    }
    let image = binary.image();
    let bias = if image.position_independent() {
        core.entry().map_or(0, |entry| entry.wrapping_sub(image.entry()))
    } else {
        0
    };
    let segments = image.segments().iter();
    segments
        .map(|segment| Mapping {
            start: segment.address.wrapping_add(bias),
            end: segment.address.wrapping_add(bias).saturating_add(segment.file_size),
            offset: segment.offset,
            executable: segment.executable,
        })
        .filter(|mapping| mapping.start < mapping.end)
        .collect()
}

/// Finds where the Go code is loaded.
fn load_bias(mappings: &[Mapping], binary: &GoBinary) -> Result<u64, String> {
    let (text, etext) = binary.text();
    let text_offset = binary
        .image()
        .file_offset(text)
        .ok_or_else(|| "the file does not hold the address of runtime.text".to_owned())?;
    let mapping = mappings
        .iter()
        .find(|m| m.executable && m.offset <= text_offset && text_offset - m.offset < m.end - m.start)
        .ok_or_else(|| "no executable mapping of its file holds runtime.text".to_owned())?;
    let bias = mapping.start.wrapping_add(text_offset - mapping.offset).wrapping_sub(text);
    if etext.wrapping_add(bias) > mapping.end {
        return Err(format!(
            "the Go code ends at {:#x}, outside the mapping that ends at {:#x}",
            etext.wrapping_add(bias),
            mapping.end
        ));
    }
    Ok(bias)
}
