//! Where the runtime's global variables are: from the symbol table, else from the machine code.
//!
//! Stripping removes the names of data. Each global is then the k-th distinct address that a known function
//! of the runtime refers to; the recipes hold from Go 1.18 to 1.27, and what they give is checked on the
//! live process before anything is read through it.

use super::code::Code;
use super::error::BinaryError;
use super::image::Image;
use super::layout::Layout;
use super::optional_globals::OptionalGlobals;
use super::symbols::Symbols;
use super::version::GoVersion;

/// Linked addresses of the globals that gotrail reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Globals {
    /// `runtime.allgs`, a slice of `*g`.
    pub allgs: u64,
    /// `runtime.allp`, a slice of `*p`.
    pub allp: u64,
    /// `runtime.allm`, the head of a list of `*m`.
    pub allm: u64,
    /// `runtime.sched`.
    pub sched: u64,
    /// `runtime.gcController`.
    pub gc_controller: u64,
    /// `runtime.memstats`.
    pub memstats: u64,
    /// `runtime.gcphase`.
    pub gcphase: u64,
    /// Those that only figures and proofs need; each may be missing.
    pub optional: OptionalGlobals,
    /// Whether they came from machine code.
    pub from_code: bool,
}

impl Globals {
    /// Names and addresses.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, u64); 7] {
        [
            ("runtime.allgs", self.allgs),
            ("runtime.allp", self.allp),
            ("runtime.allm", self.allm),
            ("runtime.sched", self.sched),
            ("runtime.gcController", self.gc_controller),
            ("runtime.memstats", self.memstats),
            ("runtime.gcphase", self.gcphase),
        ]
    }
}

struct Recipe {
    name: &'static str,
    function: &'static str,
    /// Which distinct reference, from 0.
    reference: usize,
    /// What the reference is beyond the global's start.
    delta: u32,
}

impl Globals {
    /// Finds all of them.
    ///
    /// # Errors
    /// [`BinaryError::Global`] names the first that is not found.
    pub(super) fn find(
        image: &Image,
        symbols: &Symbols,
        layout: &Layout,
        version: &GoVersion,
    ) -> Result<Self, BinaryError> {
        const NAMES: [&str; 7] = [
            "runtime.allgs",
            "runtime.allp",
            "runtime.allm",
            "runtime.sched",
            "runtime.gcController",
            "runtime.memstats",
            "runtime.gcphase",
        ];
        if let [
            Some(allgs),
            Some(allp),
            Some(allm),
            Some(sched),
            Some(gc_controller),
            Some(memstats),
            Some(gcphase),
        ] = image.symbol_addresses(NAMES)
        {
            let optional = OptionalGlobals::by_name(image);
            return Ok(Self {
                allgs,
                allp,
                allm,
                sched,
                gc_controller,
                memstats,
                gcphase,
                optional,
                from_code: false,
            });
        }
        let recipe = |name, function, reference, delta| Recipe { name, function, reference, delta };
        let recipes = [
            recipe("runtime.allgs", "runtime.forEachG", 1, 0),
            recipe("runtime.allp", "runtime.preemptall", 0, 0),
            recipe("runtime.allm", "runtime.mexit", 3, 0),
            recipe("runtime.sched", "runtime.wakeNetPoller", 0, layout.sched.last_poll),
            recipe("runtime.gcController", "runtime.pollFractionalWorkerExit", 0, layout.gc.mark_start_time),
            recipe("runtime.memstats", "runtime.newBucket", 0, layout.memstats.buckhash_sys),
            recipe("runtime.gcphase", "runtime.gcSweep", 0, 0),
        ];
        let functions = symbols.find(image, recipes.each_ref().map(|r| r.function));
        let mut found = [0; 7];
        for ((recipe, function), slot) in recipes.iter().zip(functions).zip(&mut found) {
            let error =
                |why: String| BinaryError::Global { name: recipe.name, version: version.to_string(), why };
            let function =
                function.ok_or_else(|| error(format!("{} is not in the binary", recipe.function)))?;
            let code = Code::of(image, function)
                .ok_or_else(|| error(format!("the code of {} is not in the file", recipe.function)))?;
            *slot = code
                .references()
                .get(recipe.reference)
                .and_then(|address| address.checked_sub(u64::from(recipe.delta)))
                .ok_or_else(|| error(format!("{} does not refer to it where it should", recipe.function)))?;
        }
        let [allgs, allp, allm, sched, gc_controller, memstats, gcphase] = found;
        let optional = OptionalGlobals::by_code(image, symbols, layout);
        Ok(Self { allgs, allp, allm, sched, gc_controller, memstats, gcphase, optional, from_code: true })
    }
}
