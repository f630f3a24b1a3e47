//! Why a core file is refused.

use std::path::PathBuf;

/// Why a core file can't be read.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// The file can't be read.
    #[error("tried to read the core file {path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// It is something else.
    #[error(
        "{path} is no core file: {why}; give the pid of a process, or the core file that the kernel or gcore wrote of one",
        path = path.display()
    )]
    NotCore {
        /// The file.
        path: PathBuf,
        /// What it is.
        why: String,
    },
    /// A machine that gotrail does not know.
    #[error("the core file {path} is of {machine}; gotrail knows amd64 and arm64", path = path.display())]
    Machine {
        /// The file.
        path: PathBuf,
        /// What it is of.
        machine: String,
    },
    /// Nothing can be read of it.
    #[error(
        "the core file {path} is damaged: {why}; copy it again from where it was written, and see that the disk was not full and the limit of its size (`ulimit -c`) not too small",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}
