//! The machine that a run is made on, as the report says it.

use std::fs;

use super::results::Machine;

pub fn describe() -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let value = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let memory = value(&read("/proc/meminfo"), "MemTotal");
    let kibibytes = memory.split(' ').next().and_then(|number| number.parse::<u64>().ok());
    let load = read("/proc/loadavg");
    Machine {
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        cpu: value(&read("/proc/cpuinfo"), "model name"),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        memory: kibibytes.unwrap_or_default() * 1024,
        load_average: load.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default(),
    }
}
