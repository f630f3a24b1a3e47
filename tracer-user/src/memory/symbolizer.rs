//! Frames by address, each looked up once.

use std::sync::Arc;

use super::hash::Map;
use super::stack::Pc;
use crate::binary::{Frame, GoBinary};

/// Most addresses that are remembered; a program has far fewer call sites that block.
const MAX_CACHED: usize = 1 << 17;

/// A cache over [`GoBinary::frames`].
#[derive(Debug, Default)]
pub struct Symbolizer {
    frames: Map<Pc, Arc<[Frame]>>,
}

impl Symbolizer {
    /// The frames of one address, innermost first.
    pub fn frames(&mut self, binary: &GoBinary, pc: Pc) -> Arc<[Frame]> {
        if let Some(frames) = self.frames.get(&pc) {
            return Arc::clone(frames);
        }
        if self.frames.len() >= MAX_CACHED {
            self.frames.clear();
        }
        let frames: Arc<[Frame]> = binary.frames(pc.address, pc.exact).into();
        self.frames.insert(pc, Arc::clone(&frames));
        frames
    }

    /// The frame in the source that an address belongs to: the innermost one.
    pub fn innermost(&mut self, binary: &GoBinary, pc: Pc) -> Option<Frame> {
        self.frames(binary, pc).first().cloned()
    }

    /// The frame of the function itself, without what was inlined into it, but with the innermost line: what
    /// the runtime names as a goroutine's creator.
    pub fn innermost_physical(&mut self, binary: &GoBinary, pc: Pc) -> Option<Frame> {
        let frames = self.frames(binary, pc);
        let (first, last) = (frames.first()?, frames.last()?);
        Some(Frame { file: first.file.clone(), line: first.line, ..last.clone() })
    }
}
