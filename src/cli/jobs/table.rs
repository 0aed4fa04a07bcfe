//! `jobs list` as a table.

use super::super::shown::columns;
use crate::control::JobLine;

const HEAD: [&str; 8] = ["JOB", "SCHEDULE", "ZONE", "NEXT", "LAST", "OUTCOME", "TOOK", "ROWS"];

/// One line for each job, columns as wide as they need.
pub(super) fn of(jobs: &[JobLine]) -> String {
    let mut lines = vec![HEAD.map(str::to_owned)];
    lines.extend(jobs.iter().map(line));
    columns(&lines)
}

fn line(job: &JobLine) -> [String; HEAD.len()] {
    let next = match (&job.next, job.running) {
        (_, true) => "now".to_owned(),
        _ if job.paused_since.is_some() => "paused".to_owned(),
        _ if !job.enabled => "not enabled".to_owned(),
        (Some(next), false) => shown(next),
        (None, false) => "-".to_owned(),
    };
    let end = job.last_end.as_ref();
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        job.job.clone(),
        job.schedule.clone(),
        job.timezone.clone(),
        next,
        or_dash(job.last.as_deref().map(shown)),
        or_dash(end.map(|end| end.outcome.clone())),
        or_dash(end.map(|end| format!("{:.1} s", end.duration_seconds))),
        or_dash(end.map(|end| end.rows.to_string())),
    ]
}

/// Without its milliseconds.
fn shown(rfc3339: &str) -> String {
    rfc3339
        .replace(".000Z", "Z")
        .split('.')
        .next()
        .map_or_else(String::new, |t| format!("{}Z", t.trim_end_matches('Z')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Ending;

    #[test]
    fn columns_are_as_wide_as_they_need() {
        let end = Ending {
            outcome: "success".into(),
            at: String::new(),
            rows: 12,
            bytes: 0,
            duration_seconds: 0.25,
            words: String::new(),
        };
        let job = JobLine {
            job: "cache-expiry".into(),
            schedule: "*/15 * * * *".into(),
            timezone: "UTC".into(),
            enabled: true,
            paused_since: None,
            running: false,
            next: Some("2026-11-22T19:15:00.000Z".into()),
            last: Some("2026-11-22T19:00:07.123Z".into()),
            last_reason: Some("schedule".into()),
            last_end: Some(end),
            last_success: None,
        };
        let paused = JobLine { paused_since: Some(String::new()), last: None, last_end: None, ..job.clone() };
        assert_eq!(
            of(&[job, paused]),
            "JOB           SCHEDULE      ZONE  NEXT                  LAST                  OUTCOME  TOOK   ROWS\n\
             cache-expiry  */15 * * * *  UTC   2026-11-22T19:15:00Z  2026-11-22T19:00:07Z  success  0.2 s  12\n\
             cache-expiry  */15 * * * *  UTC   paused                -                     -        -      -\n"
        );
    }
}
