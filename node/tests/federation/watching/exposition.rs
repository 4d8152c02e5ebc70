//! A strict reader of the text format of OpenMetrics 1.0, as far as a node uses it.
//!
//! It refuses what `promtool` and scrapers refuse, and more: families without HELP or TYPE, units that are not told or
//! not in the name, samples outside their family, names and labels twice, histograms that do not add up.

use std::collections::{BTreeMap, BTreeSet};

/// Labels, sorted by name.
pub(crate) type Labels = BTreeMap<String, String>;

/// Samples by name and labels.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    samples: BTreeMap<(String, Labels), f64>,
}

impl Metrics {
    /// The sample without labels.
    pub(crate) fn get(&self, name: &str) -> f64 {
        self.with(name, &[])
    }

    /// The sample with these labels; zero if nothing was counted under them yet.
    pub(crate) fn with(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels: Labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        match self.samples.get(&(name.to_owned(), labels.clone())) {
            Some(value) => *value,
            None if labels.is_empty() => panic!("there is no {name}"),
            None => 0.0,
        }
    }

    /// All samples of a name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a Labels, f64)> + 'a {
        self.samples.iter().filter(move |((other, _), _)| other == name).map(|((_, labels), value)| (labels, *value))
    }

    /// All values of a label.
    pub(crate) fn values<'a>(&'a self, label: &'a str) -> BTreeSet<&'a str> {
        self.samples.keys().filter_map(|(_, labels)| labels.get(label).map(String::as_str)).collect()
    }
}

#[derive(Debug, Default)]
struct Family {
    name: String,
    kind: Option<String>,
    unit: Option<String>,
    has_samples: bool,
}

/// Reads an exposition whole, or says what is wrong with it, and in which line.
pub(crate) fn parse(text: &str) -> Result<Metrics, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("it does not end with # EOF")?;
    let mut metrics = Metrics::default();
    let mut seen = BTreeSet::new();
    let mut family = Family::default();
    for (number, line) in body.lines().enumerate() {
        let wrong = |what: &str| format!("line {}: {what}: {line}", number + 1);
        if let Some(rest) = line.strip_prefix("# HELP ") {
            finish(&family, &metrics).map_err(|what| wrong(&what))?;
            let (name, help) = rest.split_once(' ').ok_or_else(|| wrong("no help"))?;
            if help.trim().is_empty() || !is_name(name) || !name.starts_with("postroad_") {
                return Err(wrong("a bad name or an empty help"));
            }
            if !seen.insert(name.to_owned()) {
                return Err(wrong("a family twice"));
            }
            family = Family { name: name.to_owned(), ..Family::default() };
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or_else(|| wrong("no type"))?;
            let known = ["counter", "gauge", "histogram", "info"].contains(&kind);
            if name != family.name || family.kind.is_some() || family.has_samples || !known {
                return Err(wrong("a type out of place"));
            }
            family.kind = Some(kind.to_owned());
        } else if let Some(rest) = line.strip_prefix("# UNIT ") {
            let (name, unit) = rest.split_once(' ').ok_or_else(|| wrong("no unit"))?;
            let fits = name == family.name && name.ends_with(&format!("_{unit}"));
            if !fits || family.unit.is_some() || family.has_samples || !["seconds", "bytes"].contains(&unit) {
                return Err(wrong("a unit out of place"));
            }
            family.unit = Some(unit.to_owned());
        } else {
            let (name, labels, value) = sample(line).map_err(|what| wrong(&what))?;
            let suffix = name.strip_prefix(&family.name).ok_or_else(|| wrong("a sample outside its family"))?;
            let may = match family.kind.as_deref() {
                Some("counter") => suffix == "_total" && value >= 0.0,
                Some("gauge") => suffix.is_empty(),
                Some("info") => suffix == "_info" && value == 1.0,
                Some("histogram") => ["_bucket", "_sum", "_count"].contains(&suffix),
                _ => return Err(wrong("a sample before its type")),
            };
            if !may || labels.contains_key("le") != (suffix == "_bucket") {
                return Err(wrong("a sample that does not fit its type"));
            }
            family.has_samples = true;
            if metrics.samples.insert((name, labels), value).is_some() {
                return Err(wrong("a sample twice"));
            }
        }
    }
    finish(&family, &metrics)?;
    Ok(metrics)
}

/// What can be said of a family only when it is whole.
fn finish(family: &Family, metrics: &Metrics) -> Result<(), String> {
    let Family { name, kind, unit, .. } = family;
    if name.is_empty() {
        return Ok(());
    }
    if kind.is_none() {
        return Err(format!("{name} has no type"));
    }
    let told = ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(&format!("_{unit}")));
    if told != unit.as_deref() {
        return Err(format!("{name} does not tell its unit"));
    }
    if ["_total", "_info", "_bucket", "_count", "_sum"].iter().any(|suffix| name.ends_with(suffix)) {
        return Err(format!("{name} ends like a sample"));
    }
    if kind.as_deref() == Some("histogram") {
        let mut buckets: Vec<(f64, f64)> = metrics
            .all(&format!("{name}_bucket"))
            .map(|(labels, count)| (labels["le"].parse().unwrap_or(f64::NAN), count))
            .collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let rises = buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1);
        let last = buckets.last().copied();
        if !rises || last != Some((f64::INFINITY, metrics.get(&format!("{name}_count")))) {
            return Err(format!("{name} does not add up"));
        }
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// `name{label="value",…} number`
fn sample(line: &str) -> Result<(String, Labels, f64), String> {
    let (head, value) = line.rsplit_once(' ').ok_or("no value")?;
    let (name, rest) = match head.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}').ok_or("labels that do not end")?),
        None => (head, ""),
    };
    if !is_name(name) {
        return Err("a bad name".into());
    }
    let value: f64 = value.parse().map_err(|_| "a value that is no number")?;
    if value.is_nan() {
        return Err("a value that is no number".into());
    }
    let mut labels = Labels::new();
    let mut rest = rest;
    while !rest.is_empty() {
        let (label, quoted) = rest.split_once("=\"").ok_or("a label without a value")?;
        let (value, after) = until_quote(quoted)?;
        if !is_name(label) || labels.insert(label.to_owned(), value).is_some() {
            return Err("a bad label, or one twice".into());
        }
        rest = match after.strip_prefix(',') {
            Some("") => return Err("a comma too many".into()),
            Some(more) => more,
            None if after.is_empty() => "",
            None => return Err("no comma between labels".into()),
        };
    }
    Ok((name.to_owned(), labels, value))
}

/// A label's value and what comes after its closing quote.
fn until_quote(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, c @ ('"' | '\\'))) => value.push(c),
                _ => return Err("an unknown escape".into()),
            },
            c => value.push(c),
        }
    }
    Err("a value that does not end".into())
}

#[test]
fn the_reader_takes_what_is_right_and_names_what_is_wrong() {
    let head = "# HELP postroad_x_bytes What.\n# TYPE postroad_x_bytes counter\n# UNIT postroad_x_bytes bytes\n";
    let good = format!("{head}postroad_x_bytes_total{{a=\"b\\\"c\",d=\"e\"}} 4\npostroad_x_bytes_total 1\n# EOF\n");
    let metrics = parse(&good).expect("it is right");
    assert_eq!(metrics.with("postroad_x_bytes_total", &[("d", "e"), ("a", "b\"c")]), 4.0);
    assert_eq!(metrics.get("postroad_x_bytes_total"), 1.0);
    let histogram = |last: u32| {
        format!(
            "# HELP postroad_h Of.\n# TYPE postroad_h histogram\npostroad_h_sum 2\npostroad_h_count 2\n\
             postroad_h_bucket{{le=\"1.0\"}} 1\npostroad_h_bucket{{le=\"+Inf\"}} {last}\n# EOF\n"
        )
    };
    parse(&histogram(2)).expect("it is right");
    let wrong = [
        (good.replace("# EOF\n", ""), "# EOF"),
        (good.replace(" What.", " "), "empty help"),
        (good.replace("# TYPE postroad_x_bytes counter\n", ""), "before its type"),
        (good.replace("# UNIT postroad_x_bytes bytes\n", ""), "tell its unit"),
        (good.replace("_total 1", " 1"), "fit its type"),
        (good.replace("_total 1", "_total -1"), "fit its type"),
        (good.replace("_total 1", "_total one"), "no number"),
        (good.replace("# EOF\n", "postroad_x_bytes_total 1\n# EOF\n"), "sample twice"),
        (good.replace("# EOF\n", &format!("{head}# EOF\n")), "family twice"),
        (good.replace("# EOF\n", "postroad_y 1\n# EOF\n"), "outside its family"),
        (good.replace("d=\"e\"", "a=\"e\""), "one twice"),
        (good.replace("postroad_", "other_"), "bad name"),
        (good.replace("\"e\"", "\"e"), "does not end"),
        (histogram(1), "add up"),
        (histogram(3), "add up"),
    ];
    for (text, what) in wrong {
        let error = parse(&text).expect_err(what);
        assert!(error.contains(what), "{what}: {error}\n{text}");
    }
}
