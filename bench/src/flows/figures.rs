//! What was measured, beside what it ought to be.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::run::results::Machine;

use super::disk::Disk;

/// What a figure ought to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(least) => format!("at least {least}"),
            Self::AtMost(most) => format!("at most {most}"),
        }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    pub case: &'static str,
    pub name: &'static str,
    pub value: f64,
    pub unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<Goal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub met: Option<bool>,
}

impl Figure {
    /// One that is there to make sense of others.
    pub fn new(case: &'static str, name: &'static str, value: f64, unit: &'static str) -> Self {
        Self { case, name, value, unit, goal: None, met: None }
    }

    pub fn against(self, goal: Goal) -> Self {
        Self { goal: Some(goal), met: Some(goal.is_met(self.value)), ..self }
    }

    pub fn is_missed(&self) -> bool {
        self.met == Some(false)
    }

    pub fn line(&self) -> String {
        let value = if self.value.abs() < 100.0 {
            format!("{:.2}", self.value)
        } else {
            format!("{:.0}", self.value)
        };
        let start = format!("{:<11} {:<42} {value:>9} {:<5}", self.case, self.name, self.unit);
        match (self.goal, self.met) {
            (Some(goal), Some(true)) => format!("{start} {:<16} met", goal.text()),
            (Some(goal), _) => format!("{start} {:<16} MISSED", goal.text()),
            (None, _) => start.trim_end().to_owned(),
        }
    }
}

/// All that was measured, as it is kept.
#[derive(Debug, Serialize)]
pub struct FlowFigures {
    pub tulle: String,
    pub machine: Machine,
    pub disk: Disk,
    pub figures: Vec<Figure>,
    /// What could not be measured, and why.
    pub failures: Vec<String>,
}

impl FlowFigures {
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_stands_beside_its_figure() {
        let figure = |value| Figure::new("throughput", "runs", value, "/s").against(Goal::AtLeast(500.0));
        assert!(figure(500.0).line().ends_with("at least 500     met"), "{}", figure(500.0).line());
        assert!(figure(499.9).is_missed() && figure(499.9).line().ends_with("MISSED"));
        let most = |value| Figure::new("overhead", "a task", value, "ms").against(Goal::AtMost(2.0));
        assert!(!most(2.0).is_missed() && most(2.01).is_missed());
        // What is no number meets nothing.
        assert!(most(f64::NAN).is_missed());
        let plain = Figure::new("waiting", "starts", 1234.5, "/s");
        assert!(!plain.is_missed() && plain.line().ends_with("1234 /s"), "{}", plain.line());
    }
}
