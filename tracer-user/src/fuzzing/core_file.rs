//! Core files that lie.

use std::hint::black_box;

use super::{Base, said};
use crate::binary::build_id_in;
use crate::target::{CoreFile, whole_core};

/// A core file that holds together, with notes of all kinds.
#[must_use]
pub fn core_base() -> Base {
    Base::new("a made-up core".to_owned(), whole_core())
}

/// Reads a core file: headers, notes, memory. Returns whether it is one.
pub fn core_file(bytes: &[u8]) -> bool {
    black_box(build_id_in(bytes));
    let core = match CoreFile::parse(bytes.to_vec()) {
        Ok(core) => core,
        Err(error) => {
            said(&error);
            return false;
        }
    };
    let segments = core.segments();
    for pair in segments.windows(2) {
        assert!(pair[1].address - pair[0].address >= pair[0].memory_size, "segments overlap: {pair:?}");
    }
    for segment in segments.iter().step_by((segments.len() / 64).max(1)) {
        assert!(segment.file_size <= segment.memory_size && segment.memory_size > 0);
        for address in [segment.address, segment.address + (segment.memory_size - 1)] {
            assert_eq!(core.segment(address), Some(segment));
        }
        let mut into = [0; 64];
        let count = core.read_at(segment.offset, &mut into).unwrap_or(0);
        assert!(count <= into.len());
    }
    if let Some(cut) = core.cut() {
        assert!(cut.size < cut.expected, "{cut:?}");
    }
    if let Some(executable) = core.executable() {
        assert!(core.entry().is_some_and(|at| (executable.start..executable.end).contains(&at)));
    }
    assert!(core.files().iter().all(|file| file.start < file.end));
    assert!(core.signal().is_none_or(|signal| signal.number != 0));
    black_box((core.threads(), core.process(), core.notes_cut()));
    true
}
