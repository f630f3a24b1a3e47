//! A few lines on what the backends say that they got.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::http::escape;

/// How many names a digest shows.
const SHOWN: usize = 12;

/// What Jaeger has: per service, the traces and spans by operation.
pub(super) fn traces(get: impl Fn(&str) -> Result<String>) -> Result<String> {
    let services = ask(&get, "/api/services")?;
    let services: Vec<_> = array(&services).iter().filter_map(Value::as_str).collect();
    let mut text = format!("Jaeger knows {} services", services.len());
    // Jaeger traces itself too; its own spans would prove nothing.
    for service in services.into_iter().filter(|name| !name.starts_with("jaeger")) {
        let traces = ask(&get, &format!("/api/traces?service={}&lookback=1h&limit=1000", escape(service)))?;
        let traces = array(&traces);
        let mut operations = BTreeMap::<&str, usize>::new();
        for span in traces.iter().flat_map(|trace| array(&trace["spans"])) {
            *operations.entry(span["operationName"].as_str().unwrap_or("(no name)")).or_default() += 1;
        }
        let spans: usize = operations.values().sum();
        line(&mut text, &format!("  {service}: {} traces, {spans} spans", traces.len()));
        for (operation, count) in operations.iter().take(SHOWN) {
            line(&mut text, &format!("    {count:6} {operation}"));
        }
        more(&mut text, operations.len());
    }
    Ok(text)
}

/// What VictoriaMetrics has: the number of series, and the newest values by name.
pub(super) fn metrics(get: impl Fn(&str) -> Result<String>) -> Result<String> {
    let everything = escape("{__name__!=\"\"}");
    let series = ask(&get, &format!("/api/v1/series?match[]={everything}"))?;
    let series = array(&series);
    let names: BTreeSet<_> = series.iter().filter_map(|labels| labels["__name__"].as_str()).collect();
    let mut text = format!("VictoriaMetrics has {} series of {} metrics", series.len(), names.len());

    let newest = ask(&get, &format!("/api/v1/query?query={everything}"))?;
    let mut shown = BTreeMap::<&str, (usize, &str)>::new();
    for sample in array(&newest["result"]) {
        let value = sample["value"][1].as_str().unwrap_or("?");
        let name = sample["metric"]["__name__"].as_str().unwrap_or("(no name)");
        shown.entry(name).or_insert((0, value)).0 += 1;
    }
    for (name, (count, value)) in shown.iter().take(SHOWN) {
        let others = if *count > 1 { format!(" and {} more series", count - 1) } else { String::new() };
        line(&mut text, &format!("  {name} = {value}{others}"));
    }
    more(&mut text, shown.len());
    Ok(text)
}

/// The `data` of an answer; both backends put it there.
fn ask(get: &impl Fn(&str) -> Result<String>, path: &str) -> Result<Value> {
    let answer = get(path)?;
    let mut answer: Value = serde_json::from_str(&answer)
        .with_context(|| format!("the answer to {path} is no JSON: {answer:?}"))?;
    Ok(answer["data"].take())
}

/// The elements of an array; none of anything else (an empty result is `null` in Jaeger).
fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn line(text: &mut String, line: &str) {
    text.push('\n');
    text.push_str(line);
}

fn more(text: &mut String, count: usize) {
    if count > SHOWN {
        line(text, &format!("  and {} more", count - SHOWN));
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn traces_are_counted_by_operation_without_jaegers_own() {
        let text = traces(|path| {
            Ok(match path {
                "/api/services" => r#"{"data":["jaeger-all-in-one","shop"],"total":2}"#,
                _ if path.starts_with("/api/traces?service=shop&") => {
                    r#"{"data":[{"spans":[{"operationName":"gc"},{"operationName":"gc"}]},
                                {"spans":[{"operationName":"goroutine leak"}]}]}"#
                }
                _ => bail!("unexpected {path}"),
            }
            .to_owned())
        })
        .unwrap();
        assert!(text.contains("shop: 2 traces, 3 spans"), "{text}");
        assert!(text.contains("     2 gc") && text.contains("     1 goroutine leak"), "{text}");
    }

    #[test]
    fn nothing_is_an_answer_too() {
        let text = traces(|_| Ok(r#"{"data":null}"#.to_owned())).unwrap();
        assert_eq!(text, "Jaeger knows 0 services");
        let text = metrics(|_| Ok(r#"{"data":{}}"#.to_owned())).unwrap();
        assert_eq!(text, "VictoriaMetrics has 0 series of 0 metrics");
    }

    #[test]
    fn metrics_show_their_newest_value() {
        let text = metrics(|path| {
            Ok(if path.starts_with("/api/v1/series") {
                r#"{"data":[{"__name__":"go.goroutine.count"},{"__name__":"go.goroutine.count","a":"b"}]}"#
            } else {
                r#"{"data":{"result":[{"metric":{"__name__":"go.goroutine.count"},"value":[1,"42"]},
                                      {"metric":{"__name__":"go.goroutine.count","a":"b"},"value":[1,"7"]}]}}"#
            }
            .to_owned())
        })
        .unwrap();
        assert!(text.contains("2 series of 1 metrics"), "{text}");
        assert!(text.contains("go.goroutine.count = 42 and 1 more series"), "{text}");
    }

    #[test]
    fn an_answer_that_is_no_json_is_shown() {
        let error = traces(|_| Ok("<html>".to_owned())).expect_err("no JSON");
        assert!(format!("{error:#}").contains("<html>"), "{error:#}");
    }
}
