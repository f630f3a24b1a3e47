//! Processes: finding one, telling it from another, and noticing its end. Knows nothing of Go layouts.

mod address_space;
mod container;
mod core_file;
mod cpu_time;
mod descriptors;
mod exit;
mod files;
mod guard;
mod identity;
mod limits;
mod maps;
mod memory;
mod sent;
mod threads;

pub use container::{Container, container_of};
#[cfg(test)]
pub(crate) use core_file::made_core;
#[cfg(feature = "fuzzing")]
pub(crate) use core_file::whole_core;
pub use core_file::{
    CoreError, CoreFile, CoreProcess, CoreSegment, CoreSignal, CoreThread, Cut, FileMapping, Machine,
    Registers, is_core,
};
pub use cpu_time::cpu_time_ns;
pub use descriptors::{Descriptor, Descriptors};
pub use exit::{Exit, Watch, signal_name};
pub use files::{HeldFile, check_regular, debug_file, mapped_libraries, open_file, read_file, read_library};
pub use guard::Guard;
pub use identity::{Identity, Look, Target, TargetError, process_ids};
pub use limits::{CpuLimit, cpu_limit};
pub use maps::{Mapping, executable_mappings};
pub use memory::{ProcessMemory, process_memory};
pub use sent::{Sender, Sent};
pub use threads::thread_ids;

/// Reads a text as each of the files that are read here (see `fuzzing`).
#[cfg(feature = "fuzzing")]
pub(crate) fn text_holds(text: &str, inode: u64) {
    for mapping in maps::parse(text, inode) {
        assert!(mapping.start < mapping.end);
    }
    let container = container::parse(text);
    assert!(container.id.is_none_or(|id| id.len() == 64));
    let affinity = limits::count_cpus(text.trim()).unwrap_or(1);
    std::hint::black_box(CpuLimit { affinity, quota: limits::parse_cpu_max(text) }.usable());
    assert!(files::libraries(text).iter().all(|path| path.starts_with('/')));
    exit::zombie_code(text);
    std::hint::black_box(memory::parse(text));
}
