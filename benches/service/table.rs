//! The table that is printed at the end, in Markdown.

use std::fmt;

/// One measurement.
pub struct Row {
    pub what: String,
    pub measured: Quantity,
    /// What it can't be better than, and what that is.
    pub limit: Option<(Quantity, &'static str)>,
    /// Of the two.
    pub ratio: Option<f64>,
    pub goal: Goal,
}

/// Something with a unit.
#[derive(Clone, Copy)]
pub enum Quantity {
    Seconds(f64),
    Octets(f64),
    /// Of one a second.
    Rate(f64),
    /// It was not measured, and how that is mended.
    LeftOut(&'static str),
}

#[derive(Clone, Copy)]
#[expect(clippy::enum_variant_names, reason = "each is read with its number: at most 1.5 times")]
pub enum Goal {
    /// Of the limit.
    AtMostTimes(f64),
    /// Of the limit.
    AtLeastTimes(f64),
    AtMost(Quantity),
}

impl Quantity {
    fn value(self) -> f64 {
        match self {
            Self::Seconds(value) | Self::Octets(value) | Self::Rate(value) => value,
            Self::LeftOut(_) => f64::NAN,
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Seconds(seconds) if seconds < 0.001 => write!(f, "{:.1} µs", seconds * 1e6),
            Self::Seconds(seconds) => write!(f, "{:.1} ms", seconds * 1e3),
            Self::Octets(octets) => write!(f, "{:.1} MiB", octets / 1024.0 / 1024.0),
            Self::Rate(rate) => write!(f, "{rate:.0} a second"),
            Self::LeftOut(why) => write!(f, "left out: {why}"),
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMostTimes(times) => write!(f, "≤ {times} ×"),
            Self::AtLeastTimes(times) => write!(f, "≥ {times} ×"),
            Self::AtMost(quantity) => write!(f, "≤ {quantity}"),
        }
    }
}

impl Row {
    fn is_met(&self) -> bool {
        match self.goal {
            Goal::AtMostTimes(times) => self.ratio.is_some_and(|ratio| ratio <= times),
            Goal::AtLeastTimes(times) => self.ratio.is_some_and(|ratio| ratio >= times),
            Goal::AtMost(quantity) => self.measured.value() <= quantity.value(),
        }
    }
}

/// Prints the table, under the machine that it is of.
pub fn print(rows: &[Row]) {
    println!("\n{}\n", machine());
    println!("| measured | | its limit in the same run | | ratio | goal | |\n|---|--:|---|--:|--:|--:|---|");
    for row in rows {
        let (limit, what) = row.limit.map_or_else(Default::default, |(limit, what)| (limit.to_string(), what));
        let ratio = row.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let verdict = match row.measured {
            Quantity::LeftOut(_) => "",
            _ if row.is_met() => "met",
            _ => "**missed**",
        };
        let Row { what: measurement, measured, goal, .. } = row;
        println!("| {measurement} | {measured} | {what} | {limit} | {ratio} | {goal} | {verdict} |");
    }
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{model}, {cores} cores, Linux {}; triseal {}", kernel.trim(), env!("CARGO_PKG_VERSION"))
}
