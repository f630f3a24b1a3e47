//! The cells of the matrix of fixtures: which programs are built with which Go versions, for which
//! architectures, in which ways.
//!
//! Most programs are built in the two ways that change what gotrail reads, with a handful of versions. The
//! program [`MATRIX`] alone goes through all of them: it is made to be the same test everywhere. [`FIGURES`] is built
//! with each minor version.

use std::fmt;

use clap::{Args, ValueEnum};

use crate::go;
use crate::version::Version;

/// The program that is built in every way.
pub(crate) const MATRIX: &str = "matrix";

/// The program that moves every figure of the runtime, which versions count in different ways.
const FIGURES: &str = "figures";

/// What is no program of its own: built in the ways that make such things, with the newest Go.
const LIBRARY: &str = "library";

/// The program that switches between goroutines: also built by a profile of itself, which inlines the scheduler.
const SWITCHES: &str = "switches";
/// The versions that it is built with: each way of T3 is in one of them.
const SWITCHES_VERSIONS: [&str; 4] = ["1.20.14", "1.22.12", "1.24.11", go::NEWEST];

/// The program that makes system calls, which are in other places of assembly with older versions.
const SYSCALLS: &str = "syscalls";
const SYSCALLS_VERSIONS: [&str; 3] = ["1.18.10", "1.20.14", go::NEWEST];

/// The program that makes goroutines: also built as for a debugger, which changes what follows the making of one.
const SPAWN: &str = "spawn";

/// The program that stops the world: also built by a profile of collections, which inlines the ways into one.
const GCSTW: &str = "gcstw";

/// The versions of Go that the matrix is built with, oldest first: the last of each minor when this was written, and
/// some before, as layouts and code change within a minor too.
const VERSIONS: [&str; 12] = [
    "1.18.10",
    "1.19.13",
    "1.20.14",
    "1.21.13",
    "1.22.12",
    "1.23.1",
    "1.23.12",
    "1.24.3",
    "1.24.11",
    "1.25.5",
    "1.26.6",
    go::NEWEST,
];
/// Those of them that are left to `--full`.
const SECOND_OF_THEIR_MINOR: [&str; 2] = ["1.23.1", "1.24.3"];
/// The first Go that takes a profile.
const FIRST_WITH_PGO: Version = Version::new(1, 20, 0);

/// How a fixture is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// As `go build` does it without cgo.
    Default,
    /// Without symbol table and DWARF, as released programs often are.
    Stripped,
    /// Loaded anywhere.
    Pie,
    /// With C code, linked by the C linker.
    Cgo,
    /// Likewise, with the C library inside.
    Static,
    /// Likewise, loaded anywhere.
    StaticPie,
    /// Without the paths of the machine that built it.
    Trimpath,
    /// Optimised by a profile of the scheduler, so that the compiler inlines what gotrail looks for.
    Pgo,
    /// With the race detector.
    Race,
    /// Neither optimised nor inlined, as for a debugger.
    Noinline,
    /// A library for programs of other languages.
    CShared,
    /// A part of a program, loaded when it runs.
    Plugin,
}

impl Mode {
    /// Its name in paths and lists.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Stripped => "stripped",
            Self::Pie => "pie",
            Self::Cgo => "cgo",
            Self::Static => "static",
            Self::StaticPie => "static-pie",
            Self::Trimpath => "trimpath",
            Self::Pgo => "pgo",
            Self::Race => "race",
            Self::Noinline => "noinline",
            Self::CShared => "c-shared",
            Self::Plugin => "plugin",
        }
    }

    /// Whether it makes a program.
    pub(crate) fn makes_program(self) -> bool {
        !matches!(self, Self::CShared | Self::Plugin)
    }

    /// Whether the matrix is built in this way.
    pub(crate) fn is_of_matrix(self) -> bool {
        self.makes_program() && self != Self::Noinline
    }

    /// What `go build` is told, but for the profile, which is not known before it is made.
    pub(crate) fn flags(self, program: &str) -> Vec<&'static str> {
        // The cache outlives this checkout, whose paths are therefore left out; but most programs of this
        // world have such paths, so the one that stands for them has them too.
        let mut flags =
            if program == MATRIX && self != Self::Trimpath { Vec::new() } else { vec!["-trimpath"] };
        match self {
            Self::Default | Self::Trimpath | Self::Pgo => {}
            Self::Stripped => flags.push("-ldflags=-s -w"),
            Self::Pie => flags.push("-buildmode=pie"),
            Self::Cgo => flags.push("-ldflags=-linkmode=external"),
            Self::Static => flags.push("-ldflags=-linkmode=external -extldflags=-static"),
            Self::StaticPie => {
                flags.extend(["-buildmode=pie", "-ldflags=-linkmode=external -extldflags=-static-pie"]);
            }
            Self::Race => flags.push("-race"),
            Self::Noinline => flags.push("-gcflags=all=-N -l"),
            Self::CShared => flags.push("-buildmode=c-shared"),
            Self::Plugin => flags.push("-buildmode=plugin"),
        }
        flags
    }

    /// Whether it needs a C compiler, and so is built for the host alone.
    pub(crate) fn needs_c(self) -> bool {
        matches!(self, Self::Cgo | Self::Static | Self::StaticPie | Self::Race | Self::CShared | Self::Plugin)
    }
}

/// One combination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) name: String,
    pub(crate) go: String,
    pub(crate) mode: Mode,
    /// As Go names it.
    pub(crate) arch: &'static str,
}

impl fmt::Display for Cell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} {} {}", self.name, self.go, self.arch, self.mode.name())
    }
}

impl Cell {
    /// Whether Go is known not to make it: then its refusal is a result and no failure.
    pub(crate) fn is_beyond_go(&self) -> bool {
        self.mode == Mode::Pgo && Version::find(&self.go) < Some(FIRST_WITH_PGO)
    }
}

/// Which cells are asked for; an empty list stands for the usual ones.
#[derive(Args, Clone, Default)]
pub(crate) struct Wanted {
    /// Only these programs.
    #[arg(long = "name", value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Only these Go versions; any that the Go module proxy has.
    #[arg(long = "go", value_name = "VERSION")]
    versions: Vec<String>,
    /// Only these ways of building.
    #[arg(long = "mode", value_name = "MODE")]
    modes: Vec<Mode>,
    /// Only these architectures.
    #[arg(long = "arch", value_name = "ARCH", value_enum)]
    architectures: Vec<Architecture>,
    /// Every Go version in every way, instead of each at least once.
    #[arg(long)]
    full: bool,
}

/// An architecture that gotrail knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Architecture {
    Amd64,
    Arm64,
}

impl Architecture {
    fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

impl Wanted {
    /// As far as they say so, all that there is.
    pub(crate) fn all(full: bool) -> Self {
        Self { full, ..Self::default() }
    }

    /// Whether nothing narrows down what is built.
    fn is_usual(&self) -> bool {
        self.versions.is_empty() && self.modes.is_empty() && self.architectures.is_empty()
    }

    /// The versions asked for, or these.
    fn versions(&self, usual: &[&str]) -> Vec<String> {
        if self.versions.is_empty() {
            usual.iter().map(|&version| version.to_owned()).collect()
        } else {
            self.versions.clone()
        }
    }

    /// The cells of one program.
    pub(crate) fn cells(&self, name: &str) -> Vec<Cell> {
        let mut cells = Vec::new();
        let versions = self.versions(match name {
            MATRIX | FIGURES => &VERSIONS,
            LIBRARY => &[go::NEWEST],
            SWITCHES => &SWITCHES_VERSIONS,
            SYSCALLS => &SYSCALLS_VERSIONS,
            _ => &go::VERSIONS,
        });
        for go in versions {
            for arch in Architecture::value_variants().iter().map(|arch| arch.name()) {
                for &mode in Mode::value_variants() {
                    let cell = Cell { name: name.to_owned(), go: go.clone(), mode, arch };
                    if self.has(&cell) {
                        cells.push(cell);
                    }
                }
            }
        }
        cells
    }

    fn has(&self, cell: &Cell) -> bool {
        let named = (self.modes.is_empty() || self.modes.contains(&cell.mode))
            && (self.architectures.is_empty()
                || self.architectures.iter().any(|arch| arch.name() == cell.arch));
        let here = cell.arch == go::architecture();
        named
            && match cell.name.as_str() {
                MATRIX => is_made(cell) && (self.full || !self.is_usual() || is_usual(cell)),
                SWITCHES => matches!(cell.mode, Mode::Default | Mode::Pgo) && here,
                SPAWN if cell.mode == Mode::Noinline => {
                    here && [go::VERSIONS[0], go::NEWEST].contains(&cell.go.as_str())
                }
                GCSTW if cell.mode == Mode::Pgo => here && Version::find(&cell.go) >= Some(FIRST_WITH_PGO),
                LIBRARY => !cell.mode.makes_program() && here,
                FIGURES if SECOND_OF_THEIR_MINOR.contains(&cell.go.as_str()) => false,
                _ => matches!(cell.mode, Mode::Default | Mode::Stripped) && here,
            }
    }
}

/// Which ways there are for which architecture. For another than the host's there is no C compiler, and
/// nothing that could be run; what matters there is what is read from the file.
fn is_made(cell: &Cell) -> bool {
    cell.mode.is_of_matrix()
        && (cell.arch == go::architecture()
            || matches!(cell.mode, Mode::Default | Mode::Stripped | Mode::Pie))
}

/// What is built unless told otherwise: every minor version in the two ways that change what gotrail reads, and
/// every other way with the oldest and the newest version; and by a profile with one that makes the compiler
/// inline the creation of goroutines, beside its plain twin.
fn is_usual(cell: &Cell) -> bool {
    if cell.go == "1.23.1" && cell.arch == go::architecture() {
        return matches!(cell.mode, Mode::Pgo | Mode::Default);
    }
    let oldest = if cell.mode == Mode::Pgo { "1.20.14" } else { VERSIONS[0] };
    match cell.mode {
        Mode::Default | Mode::Stripped => !SECOND_OF_THEIR_MINOR.contains(&cell.go.as_str()),
        _ => cell.go == oldest || cell.go == go::NEWEST,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_usual_cells_have_every_minor_and_every_mode_twice() {
        let cells = Wanted::default().cells(MATRIX);
        let minors: BTreeSet<_> =
            cells.iter().map(|cell| cell.go.rsplit_once('.').unwrap().0.to_owned()).collect();
        assert_eq!(minors.len(), 10, "{minors:?}");
        for mode in Mode::value_variants().iter().filter(|mode| mode.is_of_matrix()) {
            let host = cells.iter().filter(|cell| cell.mode == *mode && cell.arch == go::architecture());
            assert!(host.count() >= 2, "{mode:?}");
        }
        for arch in ["amd64", "arm64"] {
            let here: Vec<_> = cells.iter().filter(|cell| cell.arch == arch).collect();
            let default = if arch == go::architecture() { 11 } else { 10 };
            assert!(here.iter().filter(|cell| cell.mode == Mode::Default).count() == default, "{here:?}");
            assert!(here.iter().filter(|cell| cell.mode == Mode::Pie).count() == 2, "{here:?}");
        }
        assert!(cells.iter().all(|cell| !cell.is_beyond_go()), "a usual cell that Go can't make");
    }

    #[test]
    fn the_full_ones_have_all() {
        let cells = Wanted::all(true).cells(MATRIX);
        let foreign = cells.iter().filter(|cell| cell.arch != go::architecture()).count();
        assert_eq!(foreign, VERSIONS.len() * 3);
        let ways = Mode::value_variants().iter().filter(|mode| mode.is_of_matrix()).count();
        assert_eq!(cells.len() - foreign, VERSIONS.len() * ways);
    }

    #[test]
    fn other_programs_are_built_for_the_host_in_two_ways() {
        assert_eq!(Wanted::all(true).cells("shop").len(), go::VERSIONS.len() * 2);
        assert_eq!(
            Wanted::all(true).cells(FIGURES).len(),
            (VERSIONS.len() - SECOND_OF_THEIR_MINOR.len()) * 2
        );
        assert_eq!(Wanted::all(true).cells(SPAWN).len(), go::VERSIONS.len() * 2 + 2);
        assert_eq!(Wanted::all(true).cells(GCSTW).len(), go::VERSIONS.len() * 3);
        assert_eq!(Wanted::all(true).cells(SYSCALLS).len(), SYSCALLS_VERSIONS.len() * 2);
        let library: Vec<String> =
            Wanted::all(true).cells(LIBRARY).iter().map(|cell| cell.mode.name().to_owned()).collect();
        assert_eq!(library, ["c-shared", "plugin"]);
        let one = Wanted { modes: vec![Mode::Pgo], ..Wanted::default() };
        assert!(one.cells("shop").is_empty());
    }

    #[test]
    fn switches_are_also_built_by_a_profile() {
        let cells = Wanted::default().cells(SWITCHES);
        assert_eq!(cells.len(), SWITCHES_VERSIONS.len() * 2);
        assert!(cells.iter().all(|cell| !cell.is_beyond_go()), "{cells:?}");
    }

    #[test]
    fn what_is_named_is_built_also_where_it_is_not_usual() {
        let wanted =
            Wanted { versions: vec!["1.22.3".to_owned()], modes: vec![Mode::Race], ..Wanted::default() };
        let cells = wanted.cells(MATRIX);
        assert_eq!(cells.len(), 1);
        assert_eq!(cells[0].to_string(), format!("matrix 1.22.3 {} race", go::architecture()));
    }

    #[test]
    fn profiles_came_with_go_1_20() {
        let cell = |go: &str, mode| Cell { name: MATRIX.into(), go: go.into(), mode, arch: "amd64" };
        assert!(cell("1.19.13", Mode::Pgo).is_beyond_go());
        assert!(!cell("1.20.14", Mode::Pgo).is_beyond_go());
        assert!(!cell("1.18.10", Mode::Race).is_beyond_go());
    }

    #[test]
    fn only_the_matrix_has_paths_of_this_machine() {
        assert_eq!(Mode::Default.flags("shop"), ["-trimpath"]);
        assert_eq!(Mode::Stripped.flags("shop"), ["-trimpath", "-ldflags=-s -w"]);
        assert!(Mode::Default.flags(MATRIX).is_empty());
        assert_eq!(Mode::Trimpath.flags(MATRIX), ["-trimpath"]);
    }
}
