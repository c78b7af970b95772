//! Plain text tables and times for the demo and the benches.

use std::fmt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::client::Summary;

/// A table with aligned columns.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    #[must_use]
    pub fn new<S: Into<String>>(headings: impl IntoIterator<Item = S>) -> Self {
        Self { rows: vec![headings.into_iter().map(Into::into).collect()] }
    }

    /// Adds a row; missing cells stay empty.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (index, row) in self.rows.iter().enumerate() {
            write_row(f, &widths, |column| row.get(column).map_or("", String::as_str))?;
            if index == 0 {
                let lines: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
                write_row(f, &widths, |column| &lines[column])?;
            }
        }
        Ok(())
    }
}

fn write_row<'a>(f: &mut fmt::Formatter<'_>, widths: &[usize], cell: impl Fn(usize) -> &'a str) -> fmt::Result {
    let cells: Vec<String> =
        widths.iter().enumerate().map(|(column, width)| format!("{:<width$}", cell(column))).collect();
    writeln!(f, "{}", cells.join("  ").trim_end())
}

/// Says how a story ended, each of whose parts is a `what`, and that as the program's exit code.
#[allow(clippy::print_stdout, reason = "the end of programs that talk to a person")]
#[must_use]
pub fn ending(what: &str, outcome: anyhow::Result<()>, started: Instant) -> ExitCode {
    match outcome {
        Ok(()) => {
            println!("Every {what} was seen. {:.0} s.", started.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("NOT SEEN: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The requests that failed, of how many: `0 of 184`.
#[must_use]
pub fn failed(requests: &Summary) -> String {
    format!("{} of {}", requests.failed(), requests.failed() + requests.ok())
}

/// One step of a story: something was done, and the routers' kernels told.
#[derive(Clone, Debug)]
pub struct Step {
    /// What was done.
    pub cause: String,
    /// What was seen of it.
    pub effect: String,
    /// How long after, or how many changes.
    pub took: String,
    /// The clients' requests meanwhile.
    pub requests: Summary,
}

/// A span as milliseconds with one decimal: `112.3 ms`.
#[must_use]
pub fn ms(span: Duration) -> String {
    format!("{:.1} ms", span.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_rows_may_be_short() {
        let mut table = Table::new(["step", "time"]);
        table.row(["not ready", "9.0 ms"]);
        table.row(["é"]);
        let text = table.to_string();
        assert_eq!(text, "step       time\n---------  ------\nnot ready  9.0 ms\né\n");
    }

    #[test]
    fn spans_are_in_milliseconds() {
        assert_eq!(ms(Duration::from_micros(112_340)), "112.3 ms");
    }
}
