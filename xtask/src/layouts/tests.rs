use std::cell::RefCell;

use super::*;

fn layout(goid: u64) -> Layout {
    let offsets = [("g.goid".to_owned(), goid), ("g.m".to_owned(), 48), ("p.id".to_owned(), 0)];
    let wait_reasons = vec![String::new(), "a \"quoted\" one".to_owned()];
    Layout { offsets: offsets.into(), wait_reasons, witnesses: BTreeMap::new() }
}

fn at(patch: u16) -> Release {
    Release { minor: 24, patch }
}

/// Rows as (architecture, first patch, last patch), and which patches were measured for that.
fn survey(last: u16, absent: &[u16], goid: impl Fn(u16) -> u64) -> (Vec<(String, u16, u16)>, Vec<u16>) {
    let asked = RefCell::new(Vec::new());
    let measure = |release: Release| {
        asked.borrow_mut().push(release.patch);
        let there = !absent.contains(&release.patch);
        Ok(there.then(|| vec![layout(goid(release.patch)), layout(8)]))
    };
    let mut survey = Survey { measure, known: BTreeMap::new() };
    let candidates: Vec<_> = (0..=last).map(at).collect();
    let first = survey.first_of(candidates.iter()).unwrap().unwrap();
    let last = survey.first_of(candidates.iter().rev()).unwrap().unwrap();
    survey.search(&candidates, first, last).unwrap();
    let rows = survey.rows().into_iter().map(|row| (row.arch, row.first.patch, row.last.patch)).collect();
    (rows, asked.into_inner())
}

fn amd64(rows: &[(String, u16, u16)]) -> Vec<(u16, u16)> {
    rows.iter().filter(|row| row.0 == "amd64").map(|row| (row.1, row.2)).collect()
}

#[test]
fn equal_ends_need_no_search() {
    let (rows, asked) = survey(13, &[], |_| 8);
    assert_eq!(asked, [0, 13]);
    assert_eq!(rows, [("amd64".to_owned(), 0, 13), ("arm64".to_owned(), 0, 13)]);
}

#[test]
fn each_change_is_found_between_neighbours() {
    for change in 1..=13 {
        let (rows, asked) = survey(13, &[], |patch| u64::from(patch >= change));
        assert_eq!(amd64(&rows), [(0, change - 1), (change, 13)]);
        assert!(asked.len() <= 7, "{asked:?}");
    }
    let (rows, _) = survey(13, &[], |patch| u64::from(patch >= 3) + u64::from(patch >= 9));
    assert_eq!(amd64(&rows), [(0, 2), (3, 8), (9, 13)]);
}

#[test]
fn releases_that_cannot_be_had_are_not_covered() {
    let (rows, _) = survey(13, &[0, 6, 7, 13], |patch| u64::from(patch >= 7));
    assert_eq!(amd64(&rows), [(1, 5), (8, 12)]);
}

#[test]
fn what_is_the_same_on_both_sides_of_a_gap_is_so_within() {
    let row = |first, last, goid| Row {
        arch: "amd64".to_owned(),
        first: at(first),
        last: at(last),
        layout: layout(goid),
    };
    let rows = bridged(vec![row(0, 2, 8), row(5, 6, 16), row(7, 9, 24)]);
    let ranges: Vec<_> = rows.iter().map(|row| (row.first.patch, row.last.patch)).collect();
    assert_eq!(ranges, [(0, 2), (3, 4), (5, 6), (7, 9)]);
    assert_eq!(rows[1].layout.difference(&layout(8)), ["g.goid absent -> 8"]);
    let mut other = row(5, 6, 8);
    other.layout.wait_reasons.pop();
    assert_eq!(bridged(vec![row(0, 2, 8), other]).len(), 2);
}

#[test]
fn releases_are_read_and_named_as_go_does() {
    let list = "golang.org/toolchain v0.0.1-go1.20.linux-amd64 v0.0.1-go1.21.0.linux-amd64 \
                v0.0.1-go1.21.0.linux-arm64 v0.0.1-go1.26rc1.linux-amd64 v0.0.1-go1.27.9.linux-amd64";
    let releases = releases_in(list, "amd64");
    let names: Vec<_> = releases.iter().map(Release::to_string).collect();
    assert_eq!(names, ["1.20", "1.21.0", "1.27.9"]);
    let candidates = candidates(&releases);
    assert_eq!(candidates.last().unwrap().last().unwrap().to_string(), "1.27.9");
    assert_eq!(candidates[2][0].to_string(), "1.20");
}

#[test]
fn the_table_survives_being_written() {
    let rows = [(0, 3, 8), (4, 13, 16)].map(|(first, last, goid)| Row {
        arch: "amd64".to_owned(),
        first: at(first),
        last: at(last),
        layout: layout(goid),
    });
    assert_eq!(parse(&text(&rows)).unwrap(), rows);
    assert!(text(&rows).contains("\n   \"g.goid\": 8, \"g.m\": 48,\n   \"p.id\": 0\n"), "{}", text(&rows));
    assert!(parse("[{}]").is_err());
}

#[test]
fn a_difference_is_told_by_field() {
    let mut other = layout(16);
    other.offsets.remove("p.id");
    other.wait_reasons.pop();
    let words = layout(8).difference(&other);
    assert_eq!(words, ["g.goid 8 -> 16", "p.id 0 -> absent", "the wait reasons"]);
    assert!(layout(8).difference(&layout(8)).is_empty());
}
