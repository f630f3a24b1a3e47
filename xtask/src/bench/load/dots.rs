//! Medians with their spread as dots on a scale from nothing to a little more than one.

use std::fmt::Write as _;

/// One line of dots.
pub(super) struct Group {
    pub(super) title: String,
    /// Name, least, median, most.
    pub(super) dots: Vec<(String, f64, f64, f64)>,
}

const LEFT: f64 = 400.0;
const WIDTH: f64 = 480.0;
/// The scale's end.
const MOST: f64 = 1.2;
const ROW: f64 = 20.0;

/// The groups below each other.
pub(super) fn svg(title: &str, groups: &[Group]) -> String {
    let rows: usize = groups.iter().map(|group| group.dots.len() + 2).sum();
    let (width, height) = (LEFT + WIDTH + 70.0, 60.0 + ROW * rows as f64);
    let x = |value: f64| LEFT + WIDTH * value.clamp(0.0, MOST) / MOST;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"10\" y=\"20\" font-size=\"14\">{}</text>\n",
        escaped(title)
    );
    // Writing to a String can't fail.
    for tick in 0..=6 {
        let value = f64::from(tick) * 0.2;
        let colour = if tick == 5 { "#888" } else { "#ddd" };
        let at = x(value);
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" y1=\"40\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value:.1}</text>",
            height - 20.0,
            height - 6.0
        );
    }
    let mut y = 50.0;
    for group in groups {
        let _ = writeln!(
            out,
            "<text x=\"10\" y=\"{y:.1}\" font-weight=\"bold\">{}</text>",
            escaped(&group.title)
        );
        for (name, least, median, most) in &group.dots {
            y += ROW;
            let colour = if name.starts_with("in the process") || name.starts_with("bpftrace") {
                "#d55e00"
            } else {
                "#0072b2"
            };
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
                 <line x1=\"{:.1}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"{colour}\" stroke-width=\"2\"/>\
                 <circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{:.1}\">{median:.3}</text>",
                LEFT - 12.0,
                y + 4.0,
                escaped(name),
                x(*least),
                x(*most),
                x(*median),
                LEFT + WIDTH + 10.0,
                y + 4.0
            );
        }
        y += 2.0 * ROW;
    }
    out.push_str("</svg>\n");
    out
}

fn escaped(text: &str) -> String {
    text.replace('`', "").replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_of_one_is_at_its_tick_and_none_leaves_the_scale() {
        let dots = vec![("a<b".to_owned(), 0.5, 1.0, 9.0)];
        let text = svg("t", &[Group { title: "g".to_owned(), dots }]);
        let at = LEFT + WIDTH / MOST;
        assert!(text.contains(&format!("<circle cx=\"{at:.1}\"")) && text.contains("a&lt;b"), "{text}");
        assert!(text.contains(&format!("x2=\"{:.1}\"", LEFT + WIDTH)), "{text}");
    }
}
