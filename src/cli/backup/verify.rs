//! `backup verify`: a line for each problem, and totals.

use super::super::shown::size;
use super::super::{Exit, json_line, print};
use super::bar::Bar;
use super::{There, out_of_reach};
use crate::backup::verify::{Depth, Finding, Report, verify};
use crate::clock::Clock;

/// Looks, and says what was found; only where all of it is as it should be is it 0.
pub(super) async fn run(there: &There, deep: bool, json: bool) -> Exit {
    let depth = if deep { Depth::Deep } else { Depth::Plain };
    let bar = Bar::new("verify");
    let progress = |progress| bar.show(progress);
    let identity = there.identity.as_ref();
    let report = verify(&there.store, &there.catalog, depth, Clock::system().now(), identity, &progress).await;
    drop(bar);
    let report = match report {
        Ok(report) => report,
        Err(e) => return out_of_reach(&e),
    };
    let text = match json {
        true => json_line(&serde_json::json!({
            "destination": there.store.place(),
            "proven": report.proven(),
            "report": report,
        })),
        false => text(&report),
    };
    match (print(&text), report.proven()) {
        (Exit::Done, false) => Exit::Failed,
        (exit, _) => exit,
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    let mut lines = |word: &str, findings: &[Finding]| {
        for finding in findings {
            text.push_str(&format!("{word}: {finding}\n"));
        }
    };
    lines("problem", &report.problems);
    lines("unchecked", &report.unchecked);
    lines("note", &report.notes);
    let verdict = match (report.problems.len(), report.unchecked.len()) {
        (0, 0) => "as it should be".to_owned(),
        (0, unchecked) => format!("{unchecked} not checked"),
        (1, _) => "1 problem".to_owned(),
        (problems, _) => format!("{problems} problems"),
    };
    text.push_str(&format!(
        "{} marks on {} timelines, {} objects of {}; bytes compared of {} objects, {}: {verdict}\n",
        report.segments,
        report.timelines,
        report.objects,
        size(report.stored_bytes),
        report.checked_objects,
        size(report.checked_bytes),
    ));
    text
}
