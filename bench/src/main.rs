//! Measures Tulle beside other proxies: `serve` is the service behind them, `load` the client before
//! them, `run` starts everything, compares and reports.

fn main() {}
