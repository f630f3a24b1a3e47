//! Errors by exit code: 2 usage, 3 not a Go process or not supported, 4 not permitted, 5 gone before attach,
//! 6 a backend or file failed.

use gotrail::agent::{FleetError, SubjectError, WatchError};
use gotrail::binary::BinaryError;
use gotrail::memory::{ReadError, RuntimeError};
use gotrail::probe::ProbeError;
use gotrail::target::{CoreError, TargetError};

pub(crate) const USAGE: u8 = 2;
pub(crate) const UNSUPPORTED: u8 = 3;
pub(crate) const NOT_PERMITTED: u8 = 4;
pub(crate) const GONE: u8 = 5;
pub(crate) const BACKEND: u8 = 6;

/// Why a command ends without its answer.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Self {
        let code = match error {
            TargetError::Gone { .. } => GONE,
            TargetError::NotPermitted { .. } => NOT_PERMITTED,
            TargetError::NoExecutable { .. } | TargetError::TooLarge { .. } | TargetError::Io { .. } => {
                UNSUPPORTED
            }
        };
        Self::new(code, error.to_string())
    }
}

impl From<BinaryError> for Failure {
    fn from(error: BinaryError) -> Self {
        Self::new(UNSUPPORTED, error.to_string())
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        match error {
            RuntimeError::Target(target) => target.into(),
            RuntimeError::Read { source: ReadError::Gone, pid } => {
                Self::new(GONE, format!("process {pid} ended while its memory was read"))
            }
            RuntimeError::Read { source: ReadError::NotPermitted { .. }, .. } => {
                Self::new(NOT_PERMITTED, error.to_string())
            }
            _ => Self::new(UNSUPPORTED, error.to_string()),
        }
    }
}

impl From<SubjectError> for Failure {
    fn from(error: SubjectError) -> Self {
        let code = match error {
            SubjectError::Process(error) => return error.into(),
            SubjectError::Neither { .. }
            | SubjectError::NotForProcess { .. }
            | SubjectError::NoExecutable { .. }
            | SubjectError::WrongExecutable { .. } => USAGE,
            SubjectError::Core(CoreError::Io { .. }) => BACKEND,
            SubjectError::Core(_) | SubjectError::Binary { .. } | SubjectError::Memory { .. } => UNSUPPORTED,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ProbeError> for Failure {
    fn from(error: ProbeError) -> Self {
        let code = match error {
            ProbeError::NotPermitted { .. } => NOT_PERMITTED,
            ProbeError::Changed { .. } => GONE,
            _ => UNSUPPORTED,
        };
        Self::new(code, error.to_string())
    }
}

impl From<WatchError> for Failure {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::Target(e) => e.into(),
            WatchError::Binary(e) => e.into(),
            WatchError::GoLibrary { .. } => Self::new(UNSUPPORTED, error.to_string()),
            WatchError::Runtime(e) => e.into(),
            WatchError::Probe(e) => e.into(),
        }
    }
}

impl From<FleetError> for Failure {
    fn from(error: FleetError) -> Self {
        match error {
            FleetError::File { ref source, .. } | FleetError::NoLease { ref source, .. }
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                Self::new(NOT_PERMITTED, error.to_string())
            }
            FleetError::File { .. } | FleetError::Written { .. } => Self::new(BACKEND, error.to_string()),
            FleetError::NoLease { .. } => Self::new(UNSUPPORTED, error.to_string()),
            FleetError::Watch(e) => e.into(),
        }
    }
}
