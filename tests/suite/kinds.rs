//! Executables that are not as the Go linker leaves them: without section headers, with their DWARF elsewhere,
//! packed, obfuscated, or no program of their own. Each is understood or refused with its right name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gotrail_tests::attach::{Answer, run};
use gotrail_tests::damage::Executable;
use gotrail_tests::env::Need;
use gotrail_tests::fixture::{Build, OLDEST_AND_NEWEST, VERSIONS, builds};
use gotrail_tests::json::{array, text};
use gotrail_tests::needs;
use gotrail_tests::process::Process;
use gotrail_tests::scratch::Scratch;
use serde_json::Value;

fn inspect(path: &Path) -> Answer {
    run(&["inspect", path.to_str().unwrap(), "--format", "json"]).unwrap()
}

fn inspected(path: &Path) -> Value {
    inspect(path).well().unwrap().json().unwrap()
}

fn must_refuse(answer: &Answer, words: &[&str]) {
    assert_eq!((answer.code, answer.output.as_str()), (Some(3), ""), "{answer:?}");
    assert!(words.iter().all(|word| answer.errors.contains(word)), "no {words:?} in {answer:?}");
}

fn newest(mode: &str) -> Build {
    builds("spawn", &[VERSIONS[3]], &[mode]).unwrap().remove(0)
}

fn executable(build: &Build) -> Executable {
    Executable::new(fs::read(&build.path).unwrap()).unwrap()
}

/// Probe, function and address of each site.
fn sites(answer: &Value) -> Vec<(String, String, u64)> {
    let of = |site: &Value| {
        (
            text(site, "/probe").unwrap().to_owned(),
            text(site, "/function").unwrap().to_owned(),
            site["address"].as_u64().unwrap(),
        )
    };
    array(answer, "/sites").unwrap().iter().map(of).collect()
}

#[test]
fn a_file_without_section_headers_is_understood() {
    needs!(Need::Fixtures);
    let scratch = Scratch::new("headers").unwrap();
    for build in builds("spawn", &VERSIONS, &["default", "stripped"]).unwrap() {
        let mut cut = executable(&build);
        // e_shoff, then e_shnum and e_shstrndx (elf(5), Elf64_Ehdr).
        cut.overwrite(0x28, &[0; 8]).unwrap();
        cut.overwrite(0x3c, &[0; 4]).unwrap();
        let file = scratch.program(&build.to_string().replace(' ', "-"), &cut.bytes).unwrap();
        let (whole, answer) = (inspected(&build.path), inspected(&file));
        assert_eq!(sites(&answer), sites(&whole), "{build}");
        assert_eq!(answer["globals"], whole["globals"], "{build}: found in the machine code");
        assert_eq!(answer["globals_source"], "code", "{build}");
        assert_eq!(answer["hazards"], whole["hazards"], "{build}");
        assert_eq!(answer["gnu_build_id"], whole["gnu_build_id"], "{build}");
        // Go's linker writes one by itself since 1.24.
        assert_eq!(whole["gnu_build_id"].is_string(), build.minor().unwrap() >= 24, "{build}: {whole}");
    }
}

/// A file that goes with the test.
struct Installed(PathBuf);

impl Drop for Installed {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

fn objcopy(arguments: &[&str], from: &Path, to: &Path) {
    let status = Command::new("objcopy").args(arguments).arg(from).arg(to).status().unwrap();
    assert!(status.success(), "objcopy {arguments:?}: {status}");
}

#[test]
fn root_fail_1_a_debug_file_with_the_build_id_gives_the_layout() {
    needs!(Need::Fixtures, Need::Root);
    let scratch = Scratch::new("debug").unwrap();
    let build = newest("default");
    let mut whole = executable(&build);
    // A release that no table knows: its DWARF is the only source.
    assert!(whole.replace(b"go1.27.3", b"go1.28.3") > 0, "{build} does not name its version");
    let whole = scratch.program("whole", &whole.bytes).unwrap();
    let (stripped, debug) = (scratch.path().join("stripped"), scratch.path().join("debug"));
    objcopy(&["--strip-all"], &whole, &stripped);
    objcopy(&["--only-keep-debug"], &whole, &debug);
    let before = inspected(&stripped);
    assert!(text(&before, "/refused").unwrap().contains("go1.28.3"), "{before}");

    let id = text(&before, "/gnu_build_id").unwrap().to_owned();
    let (first, rest) = id.split_at(2);
    let folder = Path::new("/usr/lib/debug/.build-id").join(first);
    fs::create_dir_all(&folder).unwrap();
    let installed = Installed(folder.join(format!("{rest}.debug")));
    fs::copy(&debug, &installed.0).unwrap();
    let after = inspected(&stripped);
    assert!(text(&after, "/layout_source").unwrap().contains("debug file"), "{after}");
    let expected = inspected(&build.path);
    assert_eq!(sites(&after), sites(&expected));
    assert_eq!(after["globals"], expected["globals"]);

    // One that was made for another build is not believed.
    let mut other = Executable::new(fs::read(&debug).unwrap()).unwrap();
    let bytes: Vec<u8> =
        (0..id.len()).step_by(2).map(|at| u8::from_str_radix(&id[at..at + 2], 16).unwrap()).collect();
    assert!(other.replace(&bytes, &vec![0x5a; bytes.len()]) > 0);
    fs::write(&installed.0, &other.bytes).unwrap();
    assert!(text(&inspected(&stripped), "/refused").unwrap().contains("go1.28.3"));
}

#[test]
fn a_packed_file_is_refused_by_that_word() {
    needs!(Need::Fixtures);
    let scratch = Scratch::new("packed").unwrap();
    let mut packed = executable(&newest("stripped"));
    // What UPX leaves behind the program headers: a checksum, then its mark (l_info).
    let headers = packed.bytes.get(0x38..0x3a).unwrap();
    let end = 64 + 56 * usize::from(u16::from_le_bytes(headers.try_into().unwrap()));
    packed.overwrite(end + 4, b"UPX!").unwrap();
    let file = scratch.program("packed", &packed.bytes).unwrap();
    must_refuse(&inspect(&file), &["packed with UPX", "upx -d"]);
}

#[test]
fn an_obfuscated_file_is_refused_by_that_word() {
    needs!(Need::Fixtures);
    let scratch = Scratch::new("garbled").unwrap();
    for build in builds("spawn", &OLDEST_AND_NEWEST, &["stripped"]).unwrap() {
        let mut garbled = executable(&build);
        let section = garbled.section(".go.buildinfo").unwrap();
        let version = format!("go{}", build.go);
        let at = garbled.bytes[section.clone()].windows(version.len()).position(|w| w == version.as_bytes());
        let at = section.start + at.unwrap();
        // As garble has the linker write it: the length, then the word.
        let mut bytes = b"unknown".to_vec();
        bytes.resize(version.len(), 0);
        garbled.overwrite(at, &bytes).unwrap();
        garbled.overwrite(at - 1, &[7]).unwrap();
        let file = scratch.program(&build.go, &garbled.bytes).unwrap();
        must_refuse(&inspect(&file), &["obfuscated", "garble"]);
    }
}

#[test]
fn a_plugin_is_refused_by_that_word() {
    needs!(Need::Fixtures);
    let plugin = builds("library", &[VERSIONS[3]], &["plugin"]).unwrap().remove(0);
    must_refuse(&inspect(&plugin.path), &["Go plugin", "no runtime of its own"]);
}

#[test]
fn root_a_go_library_in_another_program_is_named() {
    needs!(Need::Fixtures, Need::Root);
    let library = builds("library", &[VERSIONS[3]], &["c-shared"]).unwrap().remove(0);
    let answer = inspected(&library.path);
    assert_eq!(answer["settings"]["-buildmode"], "c-shared", "{answer}");
    assert!(sites(&answer).len() > 12, "{answer}");
    let host = Process::start(
        "sleep with a Go library",
        Command::new("sleep").arg("600").env("LD_PRELOAD", &library.path),
    )
    .unwrap();
    let pid = host.pid().to_string();
    // The loader is done once the Go runtime's threads are there.
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
    let begun = std::time::Instant::now();
    while threads() < 2 {
        assert!(begun.elapsed().as_secs() < 20, "the library's runtime did not start");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let path = library.path.to_str().unwrap();
    for command in ["attach", "dump"] {
        must_refuse(&run(&[command, &pid]).unwrap(), &["Go library", path, "go1.27.3"]);
    }
    let doctor = run(&["doctor", &pid, "--format", "json"]).unwrap().well().unwrap().json().unwrap();
    let facts = array(&doctor, "/process").unwrap();
    assert!(text(&facts[0], "/detail").unwrap().contains(path), "{doctor}");
}
