//! Lines over logarithmic axes, as SVG.

use std::fmt::Write as _;

/// One line.
pub(super) struct Line {
    pub(super) name: String,
    /// Number of its colour, the same in all panels.
    pub(super) colour: usize,
    /// Both coordinates above 0.
    pub(super) points: Vec<(f64, f64)>,
}

/// One diagram.
pub(super) struct Panel {
    pub(super) title: &'static str,
    pub(super) lines: Vec<Line>,
}

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 320.0;
/// Around the axes.
const LEFT: f64 = 70.0;
const TOP: f64 = 40.0;
const STEP: f64 = WIDTH + LEFT + 30.0;
/// Told apart by people who do not tell red from green.
const COLOURS: [&str; 8] =
    ["#999999", "#56b4e9", "#009e73", "#0072b2", "#cc79a7", "#d55e00", "#e69f00", "#000000"];

/// Panels side by side, with the names of the lines below.
pub(super) fn svg(panels: &[Panel]) -> String {
    let names = panels.iter().map(|panel| panel.lines.as_slice()).max_by_key(|lines| lines.len());
    let names = names.unwrap_or_default();
    let (width, height) = (STEP * panels.len() as f64, TOP + HEIGHT + 60.0 + 18.0 * names.len() as f64);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (index, panel) in panels.iter().enumerate() {
        draw(&mut out, panel, STEP * index as f64 + LEFT);
    }
    for (index, line) in names.iter().enumerate() {
        let y = TOP + HEIGHT + 55.0 + 18.0 * index as f64;
        let colour = COLOURS[line.colour % COLOURS.len()];
        // Writing to a String can't fail.
        let _ = writeln!(
            out,
            "<rect x=\"{LEFT}\" y=\"{:.1}\" width=\"18\" height=\"4\" fill=\"{colour}\"/><text x=\"{}\" y=\"{y:.1}\">{}</text>",
            y - 6.0,
            LEFT + 26.0,
            escaped(&line.name)
        );
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, panel: &Panel, left: f64) {
    let points = || panel.lines.iter().flat_map(|line| &line.points).filter(|(x, y)| *x > 0.0 && *y > 0.0);
    let (Some(xs), Some(ys)) = (decades(points().map(|p| p.0)), decades(points().map(|p| p.1))) else {
        return;
    };
    let place = |value: f64, (low, high): (i32, i32)| {
        (value.log10() - f64::from(low)) / f64::from((high - low).max(1))
    };
    let at = |x: f64, y: f64| (left + WIDTH * place(x, xs), TOP + HEIGHT * (1.0 - place(y, ys)));
    // Writing to a String can't fail.
    let _ = writeln!(out, "<text x=\"{left}\" y=\"{}\" font-size=\"14\">{}</text>", TOP - 14.0, panel.title);
    for decade in xs.0..=xs.1 {
        let (x, _) = at(10_f64.powi(decade), 1.0);
        let _ = writeln!(
            out,
            "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{}\" stroke=\"#ddd\"/><text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            TOP + HEIGHT,
            TOP + HEIGHT + 18.0,
            10_f64.powi(decade)
        );
    }
    for decade in ys.0..=ys.1 {
        let (_, y) = at(1.0, 10_f64.powi(decade));
        let _ = writeln!(
            out,
            "<line x1=\"{left}\" y1=\"{y:.1}\" x2=\"{}\" y2=\"{y:.1}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left + WIDTH,
            left - 6.0,
            y + 4.0,
            10_f64.powi(decade)
        );
    }
    for line in &panel.lines {
        let colour = COLOURS[line.colour % COLOURS.len()];
        let mut path = String::new();
        for (x, y) in line.points.iter().filter(|(x, y)| *x > 0.0 && *y > 0.0) {
            let (x, y) = at(*x, *y);
            let _ = write!(path, "{x:.1},{y:.1} ");
            let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
        }
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.trim_end()
        );
    }
}

/// The powers of ten around all values.
fn decades(values: impl Iterator<Item = f64>) -> Option<(i32, i32)> {
    let logs: Vec<f64> = values.map(f64::log10).collect();
    let low = logs.iter().copied().reduce(f64::min)?.floor();
    let high = logs.iter().copied().reduce(f64::max)?.ceil();
    Some((low as i32, high as i32))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_placed_by_their_logarithm() {
        let line = |name: &str| Line {
            name: name.to_owned(),
            colour: 0,
            points: vec![(1000.0, 0.01), (100_000.0, 1.0)],
        };
        let text = svg(&[Panel { title: "t", lines: vec![line("a<b")] }]);
        let (bottom, top, right) = (TOP + HEIGHT, TOP, LEFT + WIDTH);
        assert!(text.contains(&format!("points=\"{LEFT:.1},{bottom:.1} {right:.1},{top:.1}\"")), "{text}");
        assert!(text.contains(">a&lt;b<") && text.ends_with("</svg>\n"), "{text}");
    }

    #[test]
    fn nothing_at_all_is_an_empty_picture() {
        assert!(svg(&[Panel { title: "t", lines: Vec::new() }]).starts_with("<svg"));
    }
}
