//! Why a file is refused.

use super::layout::LayoutError;

/// Why an executable can't be understood, or which part of it can't.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// Not an ELF file, or a broken one.
    #[error("read the executable as ELF: {0}; it is not a program of this platform, or it is damaged")]
    NotElf(String),
    /// The file ends before its contents do.
    #[error(
        "the executable is cut short: it has {size} bytes, and its segments go on to {end}; copy it again, or give the pid of a process that runs it"
    )]
    Cut {
        /// Its size.
        size: u64,
        /// Where its last segment ends.
        end: u64,
    },
    /// An architecture that gotrail does not know.
    #[error("the executable is for {0}; gotrail knows amd64 and arm64")]
    Architecture(String),
    /// A big-endian or 32-bit file.
    #[error("the executable is {0}; gotrail knows 64-bit little-endian programs only")]
    Class(&'static str),
    /// No Go build information.
    #[error("looked for Go build information and the Go function table: {0}; this is not a Go program")]
    NotGo(&'static str),
    /// Packed: its code is in memory only.
    #[error(
        "the executable is packed with {packer}: its code and function table are unpacked into memory when it starts, and are not those of the file; run the program as the Go linker wrote it (`upx -d FILE` unpacks it)"
    )]
    Packed {
        /// The packer.
        packer: &'static str,
    },
    /// Names and tables were made unreadable on purpose.
    #[error(
        "the executable is obfuscated: its build information says the version {version:?}, as garble writes it, and its function table is scrambled; gotrail does not guess, so build the program without garble"
    )]
    Obfuscated {
        /// What stands for the version.
        version: String,
    },
    /// A plugin runs on the runtime of the program that loads it.
    #[error(
        "the file is a Go plugin ({version}): it has no runtime of its own; give the program that loads it"
    )]
    Plugin {
        /// The version of the toolchain.
        version: String,
    },
    /// Build information without a function table.
    #[error(
        "the executable was built by {version}, but its function table (pclntab) was not found: it is packed, obfuscated or damaged"
    )]
    NoFunctionTable {
        /// The version found.
        version: String,
    },
    /// A Go version before the first that is supported.
    #[error(
        "the executable was built by {version}; gotrail supports Go 1.{first} and later; build the program with a newer Go"
    )]
    TooOld {
        /// The version found.
        version: String,
        /// The first minor version supported.
        first: u16,
    },
    /// The version can't be told.
    #[error("read the Go version: {0}")]
    Version(#[from] super::version::VersionError),
    /// The structures' layout is not known for certain.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A global of the runtime was not found.
    #[error(
        "looked for {name} in {version}: {why}; gotrail does not guess addresses, so memory reads are off"
    )]
    Global {
        /// Its Go name.
        name: &'static str,
        /// The version of the binary.
        version: String,
        /// What failed.
        why: String,
    },
}
