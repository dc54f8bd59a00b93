//! `cargo xtask instructions`: counts what a request costs the proxies under callgrind, and holds it
//! against the committed baseline (docs/instructions.md).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{release_build, run as finish, target};

/// A kind of request may cost this much more than the baseline says, in per cent.
const LIMIT: u64 = 2;

const BASELINE: &str = "bench/instructions.toml";
const TITLE: &str = "\
# Instructions that a pair of proxies spends on one request, by kind (docs/instructions.md).
# Written by `cargo xtask instructions --accept`.
";

/// Counts the kinds named (all, if none is), and compares, or writes the baseline where `accept` says so.
/// Without a baseline that holds here it counts only if it is to accept: returns why it did not.
pub fn run(root: &Path, accept: bool, kinds: &[String]) -> Result<Option<String>> {
    let here = match surroundings() {
        Ok(here) => here,
        Err(why) if accept => return Err(why),
        Err(why) => return Ok(Some(format!("{why:#}"))),
    };
    let file = root.join(BASELINE);
    let text = std::fs::read_to_string(&file).with_context(|| BASELINE.to_owned())?;
    let mut baseline = Baseline::parse(&text)?;
    if let Some(difference) = baseline.differs_from(&here) {
        if !accept {
            return Ok(Some(difference));
        }
        if !kinds.is_empty() {
            bail!("{difference}; accept all kinds, not some of them");
        }
    }
    let counted = count(root, kinds)?;
    print!("{}", table(&baseline.instructions, &counted));
    if accept {
        if kinds.is_empty() {
            baseline.instructions.clear();
        }
        baseline.instructions.extend(counted);
        baseline.surroundings = here;
        std::fs::write(&file, baseline.text()).with_context(|| BASELINE.to_owned())?;
        println!("written to {BASELINE}");
        return Ok(None);
    }
    verdict(&baseline.instructions, &counted).map(|()| None)
}

/// Prints what each filter and setting of a rule, and policies, cost a request that needs no other node.
pub fn rules(root: &Path) -> Result<()> {
    let counted = measure(root, &["--rules".to_owned()])?;
    let of = |name: &str| {
        let found = counted.iter().find(|(counted, _)| counted == name);
        found.map(|(_, count)| *count as i64).with_context(|| format!("hot-path says nothing of {name}"))
    };
    let (no_route, one_rule, no_policies) = (of("no-route")?, of("one-rule")?, of("no-policies")?);
    println!("{:<16} {:>9} {:>9}", "rule", "request", "its own");
    for (name, count) in &counted {
        let than = match &**name {
            "no-route" | "one-rule" | "no-policies" => no_route,
            name if name.ends_with("policies") => no_policies,
            _ => one_rule,
        };
        let own = *count as i64 - than;
        println!("{name:<16} {count:>9} {own:>+9}");
    }
    Ok(())
}

fn count(root: &Path, kinds: &[String]) -> Result<BTreeMap<String, u64>> {
    let named: Vec<String> = kinds.iter().flat_map(|kind| ["--kind".to_owned(), kind.clone()]).collect();
    Ok(measure(root, &named)?.into_iter().collect())
}

/// Builds and runs what counts; what it counted, in its order.
fn measure(root: &Path, arguments: &[String]) -> Result<Vec<(String, u64)>> {
    finish(&mut release_build(root))?;
    let target = target(root);
    let mut command = Command::new(target.join("release/hot-path"));
    command.arg("measure").arg("--out").arg(target.join("instructions")).args(arguments);
    command.stderr(std::process::Stdio::inherit());
    let output = command.output().context("hot-path could not be started")?;
    anyhow::ensure!(output.status.success(), "hot-path: {}", output.status);
    let parse = |line: &str| {
        let (kind, count) = line.split_once(' ')?;
        Some((kind.to_owned(), count.parse().ok()?))
    };
    let text = String::from_utf8(output.stdout)?;
    text.lines().map(|line| parse(line).with_context(|| format!("hot-path says {line:?}"))).collect()
}

/// What a figure depends on beside our own code, or why nothing can be counted here.
fn surroundings() -> Result<BTreeMap<String, String>> {
    let said = |program: &str, argument: &str| -> Result<String> {
        let output = Command::new(program).arg(argument).output();
        let output = output.with_context(|| format!("{program} is not here"))?;
        anyhow::ensure!(output.status.success(), "{program} {argument}: {}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let compiler = said(&std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into()), "-V")?;
    let valgrind = said("valgrind", "--version").context("xtask setup installs it on Debian, as root")?;
    let libc = said("getconf", "GNU_LIBC_VERSION")?;
    said("chrt", "--version")?;
    // Valgrind shows every program the same processor if the real one can do at least as much.
    let processor = std::fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
    let machine = if processor.split_whitespace().any(|flag| flag == "avx2") {
        format!("{} with AVX2", std::env::consts::ARCH)
    } else {
        std::env::consts::ARCH.to_owned()
    };
    // Without the commit: the same release is the same compiler.
    let release = compiler.split(" (").next().unwrap_or_default().to_owned();
    let entries = [("compiler", release), ("libc", libc), ("machine", machine), ("valgrind", valgrind)];
    Ok(entries.map(|(name, value)| (name.to_owned(), value)).into())
}

/// What is committed.
#[derive(Debug, Default, PartialEq)]
struct Baseline {
    surroundings: BTreeMap<String, String>,
    instructions: BTreeMap<String, u64>,
}

impl Baseline {
    /// Reads the little of TOML that [`Baseline::text`] writes.
    fn parse(text: &str) -> Result<Self> {
        let mut baseline = Self::default();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '['])) {
            let entry = || format!("{BASELINE}: {line:?}");
            let (name, value) = line.split_once(" = ").with_context(entry)?;
            match value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
                Some(value) => drop(baseline.surroundings.insert(name.to_owned(), value.to_owned())),
                None => {
                    let count = value.replace('_', "").parse().with_context(entry)?;
                    baseline.instructions.insert(name.to_owned(), count);
                }
            }
        }
        Ok(baseline)
    }

    fn text(&self) -> String {
        let mut text = TITLE.to_owned();
        for (name, value) in &self.surroundings {
            let _ = writeln!(text, "{name} = \"{value}\"");
        }
        text.push_str("\n[instructions]\n");
        for (name, count) in &self.instructions {
            let _ = writeln!(text, "{name} = {count}");
        }
        text
    }

    /// Figures of other surroundings say nothing about our code.
    fn differs_from(&self, here: &BTreeMap<String, String>) -> Option<String> {
        let differences: Vec<String> = here
            .iter()
            .filter(|(name, value)| self.surroundings.get(*name) != Some(value))
            .map(|(name, value)| {
                let there = self.surroundings.get(name).map_or("none", String::as_str);
                format!("{name}: {there} there, {value} here")
            })
            .collect();
        let told = || format!("{BASELINE} is of other surroundings ({})", differences.join("; "));
        (!differences.is_empty()).then(told)
    }
}

/// By how many per cent `now` is more than `before`.
fn growth(before: u64, now: u64) -> f64 {
    (now as f64 / before as f64 - 1.0) * 100.0
}

fn table(baseline: &BTreeMap<String, u64>, counted: &BTreeMap<String, u64>) -> String {
    let mut text = format!("{:<16} {:>9} {:>9} {:>9}\n", "per request", "baseline", "now", "growth");
    for (kind, now) in counted {
        let (before, by) = match baseline.get(kind) {
            Some(before) => (before.to_string(), format!("{:+.1} %", growth(*before, *now))),
            None => ("-".to_owned(), "new".to_owned()),
        };
        let _ = writeln!(text, "{kind:<16} {before:>9} {now:>9} {by:>9}");
    }
    text
}

/// Fails where a kind has grown too much, or the baseline knows nothing of it.
fn verdict(baseline: &BTreeMap<String, u64>, counted: &BTreeMap<String, u64>) -> Result<()> {
    let mut grown = Vec::new();
    let mut shrunk = Vec::new();
    for (kind, now) in counted {
        match baseline.get(kind) {
            None => bail!("{BASELINE} has no {kind}: `cargo xtask instructions --accept {kind}`"),
            Some(before) if now * 100 > before * (100 + LIMIT) => grown.push(kind.as_str()),
            Some(before) if now * 100 < before * (100 - LIMIT) => shrunk.push(kind.as_str()),
            Some(_) => {}
        }
    }
    if !shrunk.is_empty() {
        println!(
            "{} cost less by more than {LIMIT} %: keep it with `cargo xtask instructions --accept`",
            shrunk.join(", ")
        );
    }
    if !grown.is_empty() {
        bail!(
            "requests cost more by over {LIMIT} %: {}. `callgrind_annotate --threshold=100 \
             target/instructions/{}.callgrind` says where; docs/instructions.md says what to do",
            grown.join(", "),
            grown[0]
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(entries: &[(&str, u64)]) -> BTreeMap<String, u64> {
        entries.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect()
    }

    #[test]
    fn more_than_two_per_cent_fails() {
        let baseline = counts(&[("http1", 100_000), ("tcp", 50_000)]);
        verdict(&baseline, &counts(&[("http1", 102_000), ("tcp", 20_000)])).unwrap();
        let failure = verdict(&baseline, &counts(&[("http1", 99_000), ("tcp", 51_001)])).unwrap_err();
        assert!(failure.to_string().contains("2 %: tcp."), "{failure}");
    }

    #[test]
    fn a_kind_without_a_baseline_fails() {
        let failure = verdict(&counts(&[("http1", 1000)]), &counts(&[("http2", 1000)])).unwrap_err();
        assert!(failure.to_string().contains("--accept http2"), "{failure}");
    }

    #[test]
    fn what_is_written_can_be_read() {
        let baseline = Baseline {
            surroundings: [("compiler".to_owned(), "rustc 1.95.0".to_owned())].into(),
            instructions: counts(&[("http1", 72_815), ("tcp-connect", 104_799)]),
        };
        assert_eq!(Baseline::parse(&baseline.text()).unwrap(), baseline);
    }

    #[test]
    fn another_compiler_makes_the_baseline_void() {
        let baseline = Baseline::parse("compiler = \"rustc 1.95.0\"\nlibc = \"glibc 2.36\"\n").unwrap();
        let mut here = baseline.surroundings.clone();
        assert_eq!(baseline.differs_from(&here), None);
        here.insert("compiler".into(), "rustc 1.96.0".into());
        let said = baseline.differs_from(&here).unwrap();
        assert!(said.ends_with("(compiler: rustc 1.95.0 there, rustc 1.96.0 here)"), "{said}");
    }
}
