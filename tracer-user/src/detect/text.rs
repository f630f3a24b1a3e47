//! The text of a crash: from the record, else from the file.

use crate::binary::GoBinary;
use crate::model::{Crash, CrashRecord, CrashText, PanicStage, Process};
use crate::text::printable;

/// Most bytes of a text that is read from the file.
const LIMIT: usize = 4096;

/// What the process would print behind `panic:` or `fatal error:`, escaped; `None` if it can't be told.
#[must_use]
pub fn crash_text(binary: &GoBinary, record: &CrashRecord) -> Option<String> {
    let kind = (record.type_address != 0).then(|| binary.type_name(record.type_address)).flatten();
    if let Some(kind) = &kind
        && !kind.is_string()
    {
        // Nothing of the value was copied.
        if record.data_word == 0 {
            return None;
        }
        let value =
            if record.value == 0 && record.text == (CrashText::HeaderInFile { address: record.data_word }) {
                None
            } else {
                kind.number(record.value)
            };
        return Some(match value {
            // The predeclared types are printed bare, others with their name (runtime/error.go, printpanicval).
            Some(value) if kind.name.contains('.') => format!("{}({value})", printable(&kind.name)),
            Some(value) => value,
            None => format!("({}) {:#x}", printable(&kind.name), record.data_word),
        });
    }
    let bytes = match &record.text {
        CrashText::None => return None,
        CrashText::Captured { bytes, full_len } => {
            let text = printable(&String::from_utf8_lossy(bytes));
            let more = full_len.saturating_sub(bytes.len() as u64);
            return Some(if more == 0 { text } else { format!("{text}… ({more} more bytes)") });
        }
        CrashText::InFile { address, len } => {
            binary.image().read(*address, usize::try_from(*len).unwrap_or(LIMIT).min(LIMIT))?
        }
        CrashText::HeaderInFile { address } => binary.image().read_go_string(*address, LIMIT)?,
    };
    Some(printable(&String::from_utf8_lossy(&bytes)))
}

/// The type of the value that a panic began with, escaped: the fatal step has only its text.
#[must_use]
pub fn panic_type(process: &Process, binary: &GoBinary, fatal: &Crash) -> Option<String> {
    let begun = process
        .crashes()
        .rev()
        .find(|c| c.record.stage == PanicStage::Begun && c.goid == fatal.goid && c.at_ns <= fatal.at_ns)?;
    Some(printable(&binary.type_name(begun.record.type_address)?.name))
}
