//! `backends`: real programs, built from their published sources, for tests and demo to talk to.
//!
//! Claims about what a backend shows are worth nothing against a fake, and neither are claims about real Go
//! services against our own fixtures.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::command;
use crate::go::Toolchain;
use crate::scratch::Scratch;
use crate::setup;
use crate::workspace::Workspace;

/// Options of `backends`; without any, all are built.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Only these.
    #[arg(long = "only", value_name = "NAME")]
    only: Vec<String>,
}

/// A program of the outside world at a version that was seen to build.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    pub(crate) name: &'static str,
    package: &'static str,
    version: &'static str,
    /// Without symbol table and DWARF.
    stripped: bool,
}

/// Traces in, and out by its query interface.
pub(crate) const JAEGER: Source = Source {
    name: "jaeger",
    package: "github.com/jaegertracing/jaeger/cmd/all-in-one",
    version: "1.76.0",
    stripped: false,
};
/// Metrics in, and out by its query language.
pub(crate) const VICTORIA_METRICS: Source = Source {
    name: "victoria-metrics",
    package: "github.com/VictoriaMetrics/VictoriaMetrics/app/victoria-metrics",
    version: "1.151.0",
    stripped: false,
};
/// A large service that no one here wrote: something real to attach to.
pub(crate) const ETCD: Source =
    Source { name: "etcd", package: "go.etcd.io/etcd/server/v3", version: "3.7.3", stripped: false };
/// The same as its makers ship it.
pub(crate) const ETCD_STRIPPED: Source = ETCD.stripped("etcd-stripped");
/// The Go debugger: what else can look at a process from outside.
pub(crate) const DELVE: Source = Source {
    name: "delve",
    package: "github.com/go-delve/delve/cmd/dlv",
    version: "1.27.2",
    stripped: false,
};

/// Large programs, for what only their size shows.
pub(crate) const CADDY: Source = Source {
    name: "caddy",
    package: "github.com/caddyserver/caddy/v2/cmd/caddy",
    version: "2.11.9",
    stripped: false,
};
pub(crate) const COREDNS: Source =
    Source { name: "coredns", package: "github.com/coredns/coredns", version: "1.15.0", stripped: false };
pub(crate) const PROMETHEUS: Source = Source {
    name: "prometheus",
    package: "github.com/prometheus/prometheus/cmd/prometheus",
    version: "0.316.0",
    stripped: false,
};

impl Source {
    pub(crate) const fn version(&self) -> &'static str {
        self.version
    }

    /// The same, built without symbol table and DWARF.
    pub(crate) const fn stripped(self, name: &'static str) -> Self {
        Self { name, stripped: true, ..self }
    }
}

const ALL: [&Source; 4] = [&JAEGER, &VICTORIA_METRICS, &ETCD, &ETCD_STRIPPED];

/// One backend that is there.
pub(crate) struct Backend {
    pub(crate) name: &'static str,
    pub(crate) path: PathBuf,
}

/// Runs the verb.
pub(crate) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<ExitCode> {
    let wanted = chosen(&arguments.only)?;
    let go = setup::ensure_go(workspace)?;
    for source in wanted {
        let backend = build(workspace, &go, source)?;
        println!("{} {}", backend.name, backend.path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds all of them.
pub(crate) fn build_all(workspace: &Workspace, go: &Toolchain) -> (Vec<Backend>, Vec<String>) {
    let mut built = Vec::new();
    let mut failed = Vec::new();
    for source in ALL {
        match build(workspace, go, source) {
            Ok(backend) => built.push(backend),
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    (built, failed)
}

/// The list that the tests read from `GOTRAIL_BACKENDS`.
pub(crate) fn json(backends: &[Backend]) -> Value {
    Value::Array(
        backends.iter().map(|backend| json!({ "name": backend.name, "path": backend.path })).collect(),
    )
}

/// Builds one, or finds it in the cache.
pub(crate) fn build(workspace: &Workspace, go: &Toolchain, source: &Source) -> Result<Backend> {
    let Source { name, package, version, stripped } = *source;
    let place = workspace.cache.join("backends").join(format!("{name}-{version}"));
    let binary = place.join(name);
    if binary.is_file() {
        return Ok(Backend { name, path: binary });
    }
    eprintln!("building {name} {version} from {package} (minutes, once)");
    fs::create_dir_all(&place).with_context(|| format!("can't make the folder {}", place.display()))?;

    // A module of its own, away from the work tree, that holds nothing but the wish for this program.
    let module = Scratch::new("backend")?;
    fs::write(module.path().join("go.mod"), format!("module throwaway\n\ngo {}\n", go.version()))
        .with_context(|| format!("can't write a go.mod into {}", module.path().display()))?;
    let wish = format!("{package}@v{version}");
    let mut get = go.go()?;
    get.current_dir(module.path()).env("GOFLAGS", "-mod=mod").args(["get", "-tool", &wish]);
    command::run(
        &mut get,
        &format!("fetch {wish}"),
        "is the Go module proxy of `go env GOPROXY` reachable?",
    )?;

    // Built aside and renamed: whoever sees the file sees a whole one.
    let scratch = Scratch::within(&place, "build")?;
    let fresh = scratch.path().join(name);
    let mut make = go.go()?;
    make.current_dir(module.path())
        .env("GOFLAGS", "-mod=mod -buildvcs=false")
        .arg("build")
        .args(stripped.then_some("-ldflags=-s -w"))
        .arg("-o")
        .arg(&fresh)
        .arg(package);
    command::run(&mut make, &format!("build {wish}"), "see the Go compiler's words above")?;
    fs::rename(&fresh, &binary).with_context(|| format!("can't put {} into place", binary.display()))?;
    Ok(Backend { name, path: binary })
}

fn chosen(only: &[String]) -> Result<Vec<&'static Source>> {
    let names = ALL.map(|source| source.name);
    if let Some(unknown) = only.iter().find(|name| !names.contains(&name.as_str())) {
        bail!("there is no backend `{unknown}`; there are: {}", names.join(", "));
    }
    Ok(ALL
        .into_iter()
        .filter(|source| only.is_empty() || only.iter().any(|name| name == source.name))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_choose_and_unknown_ones_are_refused_with_the_list() {
        let names = |only: &[&str]| {
            let only: Vec<_> = only.iter().map(|name| (*name).to_owned()).collect();
            chosen(&only).map(|sources| sources.iter().map(|source| source.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).unwrap(), ["jaeger", "victoria-metrics", "etcd", "etcd-stripped"]);
        assert_eq!(names(&["etcd"]).unwrap(), ["etcd"]);
        let error = names(&["zipkin"]).expect_err("not one of ours");
        let text = format!("{error:#}");
        assert!(text.contains("zipkin") && text.contains("jaeger"), "{text}");
    }
}
