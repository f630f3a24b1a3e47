//! The profile as a flame graph, split and coloured by state.

use gotrail::memory::Symbolizer;
use gotrail::model::Class;
use gotrail::text::{duration, printable};
use inferno::flamegraph::color::{BackgroundColor, Color, PaletteMap};
use inferno::flamegraph::{Options, from_lines};

use super::super::failure::{BACKEND, Failure};
use super::{Profile, exports};

/// What is appended to a name by its state, and the colour of that. The names that the drawing library knows to leave
/// out of what it shows are these four.
const fn style(class: Class) -> (&'static str, (u8, u8, u8)) {
    match class {
        Class::Running => ("_[j]", (111, 191, 115)),
        Class::Runnable => ("_[k]", (240, 173, 78)),
        Class::Syscall => ("_[i]", (186, 146, 214)),
        Class::Waiting => ("_[w]", (120, 172, 224)),
    }
}

pub(super) fn svg(profile: &Profile<'_>, symbolizer: &mut Symbolizer) -> Result<Vec<u8>, Failure> {
    let lines: Vec<String> = exports::lines(profile, symbolizer, |class| style(class).0)
        .into_iter()
        // Every goroutine begins there: a storey that tells nothing.
        .map(|(line, us)| (line.replacen(&format!(";runtime.goexit{}", mark_of(&line)), "", 1), us))
        .map(|(line, us)| format!("{line} {us}"))
        .collect();
    let mut palette = PaletteMap::default();
    // The root, which has no name.
    palette.insert("", Color { r: 200, g: 200, b: 200 });
    for name in lines.iter().filter_map(|line| line.rsplit_once(' ')).flat_map(|(stack, _)| stack.split(';'))
    {
        if let Some(class) = class_of(name) {
            palette.insert(name, shade(style(class).1, name));
        }
    }
    let wall = &profile.profiler.wall;
    let mut options = Options::default();
    options.title = format!("Wall-clock time of the goroutines of {}", printable(&profile.target.comm));
    options.subtitle = Some(format!(
        "process {}: {} of {:.1} goroutines, {:.1} looks a second. Green runs, orange waits in a run queue, violet is in system calls, blue waits",
        profile.target.pid(),
        duration(wall.elapsed_ns()),
        profile.population(),
        profile.rate()
    ));
    options.count_name = "ms".to_owned();
    // From microseconds.
    options.factor = 1e-3;
    options.name_type = "Function:".to_owned();
    options.bgcolors = Some(BackgroundColor::Grey);
    options.palette_map = Some(&mut palette);
    let mut svg = Vec::new();
    from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)
        .map_err(|e| Failure::new(BACKEND, format!("tried to draw the flame graph: {e}")))?;
    Ok(svg)
}

/// The state that is marked at the end of a name or a line.
fn class_of(name: &str) -> Option<Class> {
    Class::ALL.into_iter().find(|class| name.ends_with(style(*class).0))
}

fn mark_of(line: &str) -> &'static str {
    class_of(line).map_or("", |class| style(class).0)
}

/// A colour a little lighter or darker, by the name, so that neighbours can be told apart.
fn shade((r, g, b): (u8, u8, u8), name: &str) -> Color {
    let hash = name.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    // From -24 to 24.
    let step = (hash % 49) as i32 - 24;
    let moved = |part: u8| (i32::from(part) + step).clamp(0, 255) as u8;
    Color { r: moved(r), g: moved(g), b: moved(b) }
}
