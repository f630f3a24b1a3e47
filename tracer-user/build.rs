//! Brings the eBPF object into the binary.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-env-changed=GOTRAIL_BPF_OBJECT");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("gotrail-bpf");
    let named = env::var_os("GOTRAIL_BPF_OBJECT").map(PathBuf::from);
    let built =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/bpfel-unknown-none/bpf/gotrail-bpf");
    let object = named.unwrap_or(built);
    println!("cargo::rerun-if-changed={}", object.display());
    // Without the object everything but attaching can still be built and tested; attaching then says so.
    let bytes = fs::read(&object).unwrap_or_default();
    if bytes.is_empty() {
        println!("cargo::warning=no eBPF object: this gotrail can't attach; `cargo xtask build` makes it");
    }
    if let Err(error) = fs::write(&out, bytes) {
        println!("cargo::error=writing {}: {error}", out.display());
    }
}
