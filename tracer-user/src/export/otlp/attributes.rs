//! Attributes: escaped, bounded, and places in the source under their semantic-convention names.

use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::common::v1::KeyValue as ProtoKeyValue;
use opentelemetry_proto::transform::common::tonic::Attributes;

use crate::binary::Frame;
use crate::detect::SiteRef;
use crate::text::printable;

/// Longest name of a function, file, process.
pub(super) const NAME_LIMIT: usize = 512;
/// Longest sentence or text.
pub(super) const TEXT_LIMIT: usize = 4096;
/// Frames of a stack that are sent.
const FRAMES: usize = 64;

/// Text made safe, and cut if it is longer than `limit` bytes.
pub(super) fn text(raw: &str, limit: usize) -> String {
    // Cut first: escaping what will not be sent could cost any amount of memory.
    let kept = &raw[..raw.floor_char_boundary(limit)];
    let mut safe = printable(kept);
    if kept.len() < raw.len() {
        safe.push('…');
    }
    safe
}

/// For the wire.
pub(super) fn proto(attributes: Vec<KeyValue>) -> Vec<ProtoKeyValue> {
    Attributes::from(attributes).0
}

/// A count for the wire, whose integers are signed.
pub(super) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The place that a span or log is about: `code.function.name`, `code.file.path`, `code.line.number`.
pub(super) fn place(function: &str, file: &str, line: u32) -> Vec<KeyValue> {
    let mut attributes = vec![KeyValue::new("code.function.name", text(function, NAME_LIMIT))];
    if !file.is_empty() {
        attributes.push(KeyValue::new("code.file.path", text(file, NAME_LIMIT)));
    }
    if line != 0 {
        attributes.push(KeyValue::new("code.line.number", i64::from(line)));
    }
    attributes
}

/// `gotrail.site.ROLE`: `function (file:line)`.
pub(super) fn site(site: &SiteRef) -> KeyValue {
    let value =
        format!("{} ({}:{})", text(&site.function, NAME_LIMIT), text(&site.file, NAME_LIMIT), site.line);
    KeyValue::new(format!("gotrail.site.{}", site.role.name()), value)
}

/// A stack as text, the way Go prints one: function, then file and line, innermost first.
pub(super) fn stack(frames: &[Frame]) -> String {
    let mut out = String::new();
    for frame in frames.iter().filter(|f| !f.wrapper).take(FRAMES) {
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(&text(&frame.function, NAME_LIMIT));
        if !frame.file.is_empty() {
            out.push_str("\n\t");
            out.push_str(&text(&frame.file, NAME_LIMIT));
            out.push_str(&format!(":{}", frame.line));
        }
    }
    if frames.len() > FRAMES {
        out.push_str(&format!("\n...{} frames not sent", frames.len() - FRAMES));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sec_1_text_is_escaped_and_bounded() {
        assert_eq!(text("a\u{1b}[2J\nb", 100), "a\\u{1b}[2J\\nb");
        assert_eq!(text("日本語", 4), "日…");
        assert_eq!(text("", 4), "");
    }

    #[test]
    fn a_stack_reads_like_gos() {
        let frame = |function: &str, line| Frame {
            function: function.to_owned(),
            file: "/src/a.go".to_owned(),
            line,
            inlined: false,
            offset: 0,
            wrapper: false,
        };
        let frames: Vec<Frame> = (1..=70).map(|line| frame("main.f", line)).collect();
        let out = stack(&frames);
        assert!(out.starts_with("main.f\n\t/src/a.go:1\nmain.f\n\t/src/a.go:2\n"));
        assert!(out.ends_with("...6 frames not sent"));
        assert_eq!(stack(&[]), "");
    }
}
