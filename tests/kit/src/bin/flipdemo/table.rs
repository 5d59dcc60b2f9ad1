//! The table, one row at a time: its widths are fixed, so that a row can be printed before the next is known.

use std::time::Duration;

use anstyle::{AnsiColor, Style};
use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};
use testkit::load::{Identity, Interval, Report};

const COLUMNS: [(&str, u16); 9] = [
    ("upgrade", 9),
    ("pid", 9),
    ("generation", 12),
    ("version", 9),
    ("took ms", 9),
    ("requests", 10),
    ("failed", 8),
    ("slowest ms", 12),
    ("", 44),
];

const BAD: Style = AnsiColor::Red.on_default().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const NOTE: Style = AnsiColor::Yellow.on_default();
const HEAD: Style = Style::new().bold();

/// One upgrade.
pub struct Row {
    pub number: usize,
    /// Who serves afterwards.
    pub serving: Identity,
    pub took: Duration,
    pub interval: Interval,
    /// What is to be said of an upgrade that was meant to fail.
    pub note: &'static str,
    pub problem: Option<String>,
}

pub fn print_head() {
    let names = COLUMNS.map(|(name, _)| name.to_string());
    anstream::println!("{HEAD}{}{HEAD:#}", line(names));
}

pub fn print_row(row: &Row) {
    let failed = row.interval.failed;
    let generation = row.serving.generation.map_or("?".into(), |generation| generation.to_string());
    let slowest = row.interval.slowest.map_or("-".into(), |slowest| ms(slowest.took));
    let text = line([
        row.number.to_string(),
        row.serving.pid.to_string(),
        generation,
        row.serving.version.clone(),
        ms(row.took),
        row.interval.sent.to_string(),
        failed.to_string(),
        slowest,
        row.note.into(),
    ]);
    let style = match (&row.problem, failed, row.note) {
        (None, 0, "") => Style::new(),
        (None, 0, _) => NOTE,
        _ => BAD,
    };
    anstream::println!("{style}{text}{style:#}");
    if let Some(problem) = &row.problem {
        anstream::println!("{BAD}          {problem}{BAD:#}");
    }
}

/// The last lines; `problems` are those that no row has shown.
pub fn print_summary(report: &Report, upgrades: usize, expected: usize, problems: &[String]) {
    let totals = &report.totals;
    let style = if totals.failed == 0 { GOOD } else { BAD };
    anstream::println!();
    anstream::println!(
        "{upgrades} of {expected} upgrades as expected; {} requests in {:.1} s, {style}{} failed{style:#}; \
         p99 {} ms, slowest {} ms",
        totals.sent,
        report.seconds,
        totals.failed,
        round(report.latency.p99_ms),
        round(report.latency.max_ms),
    );
    for (kind, count) in &totals.failures {
        anstream::println!("{BAD}{count} × {kind:?}{BAD:#}");
    }
    for failure in report.first_failures.iter().take(5) {
        anstream::println!("  at {:.3} s: {}", failure.failed.elapsed().as_secs_f64(), failure.detail);
    }
    for problem in problems {
        anstream::println!("{BAD}{problem}{BAD:#}");
    }
}

fn line(cells: [String; COLUMNS.len()]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(COLUMNS.iter().map(|(_, width)| width).sum());
    let last = cells.len() - 1;
    table.add_row(cells.into_iter().enumerate().map(|(index, text)| {
        let alignment = if index == last { CellAlignment::Left } else { CellAlignment::Right };
        Cell::new(text).set_alignment(alignment)
    }));
    table.set_constraints(COLUMNS.iter().map(|(_, width)| ColumnConstraint::Absolute(Width::Fixed(*width))));
    table.to_string().trim_end().to_string()
}

fn ms(duration: Duration) -> String {
    round(duration.as_secs_f64() * 1000.0)
}

fn round(ms: f64) -> String {
    if ms < 100.0 { format!("{ms:.1}") } else { format!("{ms:.0}") }
}
