//! Prints the runtime layout of Go programs from their DWARF, one JSON object per file.
//!
//! `cargo xtask layouts` makes the table of layouts of this.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "printing is what it is for")]

use std::ffi::OsString;
use std::process::ExitCode;
use std::{env, fs};

use gotrail::binary::GoBinary;
use gotrail::binary::layout::from_dwarf;
use object::{Architecture, Object, ObjectSection};

fn main() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for file in env::args_os().skip(1) {
        match row(&file) {
            Ok(row) => println!("{row}"),
            Err(error) => {
                eprintln!("{}: {error}", file.display());
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

fn row(path: &OsString) -> Result<serde_json::Value, Box<dyn std::error::Error>> {
    let bytes = fs::read(path)?;
    let layout = from_dwarf(&bytes)?;
    let witnesses = GoBinary::parse(bytes.as_slice().into())?.witnesses();
    let file = object::File::parse(&*bytes)?;
    let arch = match file.architecture() {
        Architecture::X86_64 => "amd64",
        Architecture::Aarch64 => "arm64",
        other => return Err(format!("the architecture {other:?} is not supported").into()),
    };
    let section = file.section_by_name(".go.buildinfo").ok_or("there is no section .go.buildinfo")?;
    let version = version(section.data()?).ok_or("the section .go.buildinfo has no version")?;
    Ok(serde_json::json!({
        "version": version,
        "arch": arch,
        "offsets": layout.to_offsets(),
        "wait_reasons": layout.wait_reasons,
        "witnesses": witnesses,
    }))
}

/// The version in place, as every linker since Go 1.18 writes it (debug/buildinfo).
fn version(section: &[u8]) -> Option<&str> {
    let header = section.get(..32)?;
    if !header.starts_with(b"\xff Go buildinf:") || header[15] & 2 == 0 {
        return None;
    }
    // A version is shorter than the 128 bytes from which on its length would take two.
    let length = usize::from(*section.get(32)?);
    str::from_utf8(section.get(33..33 + length)?).ok()
}
