//! Prometheus' text format 0.0.4, as whatever has metrics writes it.

use std::borrow::Cow;
use std::fmt::{Display, Write};

/// What is told of one metric.
pub struct Metric {
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    pub help: &'static str,
}

impl Metric {
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: "counter", help }
    }

    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: "gauge", help }
    }

    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: "histogram", help }
    }

    /// Writes what comes before its lines.
    pub fn head(&self, out: &mut String) {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(out, "# HELP {} {}\n# TYPE {} {}", self.name, self.help, self.name, self.kind);
    }

    /// Writes one of its lines. `suffix`: of a histogram's parts; `labels`: `name="value"`, with commas between them.
    pub fn line(&self, out: &mut String, suffix: &str, labels: &str, value: impl Display) {
        if labels.is_empty() {
            let _ = writeln!(out, "{}{suffix} {value}", self.name);
        } else {
            let _ = writeln!(out, "{}{suffix}{{{labels}}} {value}", self.name);
        }
    }

    /// Writes all of one that has a single value.
    pub fn single(&self, out: &mut String, value: impl Display) {
        self.head(out);
        self.line(out, "", "", value);
    }
}

/// A label's value: backslash, quote and line feed are escaped.
pub fn escaped(value: &str) -> Cow<'_, str> {
    if value.contains(['\\', '"', '\n']) {
        value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").into()
    } else {
        value.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_told_of_before_its_lines() {
        let mut text = String::new();
        Metric::gauge("tulle_a", "What a is.").single(&mut text, 1.5);
        let wide = Metric::histogram("tulle_b", "What b is.");
        wide.head(&mut text);
        wide.line(&mut text, "_bucket", &format!("le=\"{}\"", escaped("1\\\"\n")), 2);
        let expected = "# HELP tulle_a What a is.\n# TYPE tulle_a gauge\ntulle_a 1.5\n\
                        # HELP tulle_b What b is.\n# TYPE tulle_b histogram\n\
                        tulle_b_bucket{le=\"1\\\\\\\"\\n\"} 2\n";
        assert_eq!(text, expected);
    }
}
