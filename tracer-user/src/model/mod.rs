//! What happened in a process: goroutine lifecycles, GC cycles, stop-the-world pauses, crashes, and how the
//! population of goroutines changes. Pure: no clock, no I/O; the same input gives the same state.

mod distribution;
mod event;
mod gc;
mod goroutines;
mod groups;
mod on_cpu;
mod process;
mod reasons;
mod sampling;
mod stw;
mod switches;
mod system_calls;
mod waitgraph;
mod wall;

pub use distribution::Distribution;
pub use event::{CallStack, CrashRecord, CrashText, Event, EventKind, PanicStage};
pub use gc::{GcCycle, GcHistory};
pub use goroutines::{Goroutines, Lifetime, Seen, Tracked};
pub use groups::{Group, GroupKey, Groups, Sample};
pub use on_cpu::OnCpu;
pub use process::{Crash, Process, Tuning, TuningKind};
pub use reasons::{GcTrigger, StwReason, WaitClass};
pub use sampling::{Estimate, Sampling};
pub use stw::{Pause, PauseHistory, PauseSum};
pub use switches::{
    GoroutineSwitches, SampledSwitches, SiteWaits, Stretch, Switch, SwitchKind, Switches, Unmeasured,
    WaitSite,
};
pub use system_calls::{SystemCallSite, SystemCalls};
pub use waitgraph::{Edge, Evidence, Ring, Thing, WaitGraph};
pub use wall::{Activity, Bounds, Class, Row, Share, Wall};
