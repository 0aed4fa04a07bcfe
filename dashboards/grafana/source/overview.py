"""Is anything wrong now? Two rows of numbers that are green when nothing is, what is wrong by name, and three lines that tell since when."""
import atlas, backups, host, jobs
from model import BAD, LOOK, dashboard, down_to, series, stat, table, up_to, words

GREEN = [
    stat(
        "Sidecars down", "short", "sum(1 - up<>)",
        "Sidecars that Prometheus could not scrape. Red from 1 on: of those nothing on these pages is of now.",
        "not scraped", BAD,
    ),
    backups.recovery_point_now(goes_to="backups"),
    backups.full_now(goes_to="backups"),
    stat(
        "Not yet shipped", "s", "max(atlas_sidecar_backup_oldest_unshipped_commit_age_seconds<>)",
        "Age of the oldest commit that the live tail has not stored. It ships every few seconds, so orange after a minute and red after five: the destination, or the way to it, is in trouble.",
        "no live tail", backups.LIVE, goes_to="backups",
    ),
    backups.problems_now(goes_to="backups"),
    stat(
        "Gaps (24 h)", "short", "sum(round(increase(atlas_sidecar_backup_gaps_total<>[24h])))",
        "Times that the live tail lost its place, so that the instants between two backups cannot be restored. Red from 1 on; the log says who moved the write-ahead log.",
        "no live tail", BAD, goes_to="backups",
    ),
    jobs.failed_runs(goes_to="jobs"),
    stat(
        "Retention", "short", "max(atlas_sidecar_retention_blocked<>)",
        "Red where rows stay beyond their age, because the clock is doubtful or because rolling up fails: the table grows until the disk is full. The reason is under Jobs and retention.",
        "no run yet", BAD, mappings=words("goes on", "blocked"), goes_to="jobs",
    ),
    stat(
        "Sources down", "short", "sum(1 - atlas_sidecar_source_up<>)",
        "Sources whose last collection failed. Orange from 1 on: their series are missing. The table below names them, `atlas-sidecar check` tries each once.",
        "no sources", LOOK,
    ),
    stat(
        "Samples lost (24 h)", "short", "sum(round(increase(atlas_sidecar_samples_dropped_total<>[24h])))",
        "Samples that were measured and not stored. Orange from 1 on: history has holes. The reason is under Jobs and retention.",
        "not scraped", LOOK, goes_to="jobs",
    ),
    host.fullest_disk(goes_to="host"),
    atlas.placeholder_keys(goes_to="atlas"),
]

WHAT = [
    table(
        "Sources that are down", {"source": "source", "instance": "instance"},
        [("max by (source, instance) (time() - atlas_sidecar_source_last_success_timestamp_seconds<> and atlas_sidecar_source_up<> == 0) or max by (source, instance) "
          "(1 - atlas_sidecar_source_up<> > 0)", "down for", "s", up_to(0, 600))],
        "Sources whose last collection failed, and for how long they have given nothing; one that never did is shown with 1 s. Orange at once, and red after ten minutes, when its series have gone from the page.",
        "all sources are up", height=6,
    ),
    table(
        "Jobs with failed runs", {"exported_job": "job", "instance": "instance"},
        [(f"sum by (exported_job, instance) ({jobs.FAILED}) > 0", "failed (24 h)", "short", LOOK),
         ('max by (exported_job, instance) (time() - atlas_sidecar_job_last_success_timestamp_seconds<>) and on (exported_job, instance) '
          f"sum by (exported_job, instance) ({jobs.FAILED}) > 0", "last success", "s")],
        "Jobs of which runs failed or took too long in the last day, and how long ago they last did their work. Orange from 1 on. Without a last success it never did.",
        "no run failed", height=6, goes_to="jobs",
    ),
]

SINCE = [
    backups.recovery_point(goes_to="backups"),
    series(
        "Free space", "percentunit", [("min by (instance, mountpoint) (node_filesystem_avail_bytes<> / (node_filesystem_size_bytes<> > 0))", "{{mountpoint}} {{instance}}")],
        "The free share of each file system; the lines are at 20 % (orange) and 10 % (red). Under Host is when it will be used up.",
        "not measured", max=1, limit=down_to(0.2, 0.1), goes_to="host",
    ),
    series(
        "Oldest waiting item of the queue", "s", [("max by (instance) (atlas_queue_oldest_waiting_seconds<>)", "{{instance}}")],
        "How long the oldest pending item has waited. A line that rises like a ramp: nobody works on it.",
        "no processing_queue", goes_to="atlas",
    ),
]

DASHBOARD = dashboard("overview", "Overview", "What needs attention now.", "24h", [GREEN, WHAT, SINCE])
