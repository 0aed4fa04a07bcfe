"""Is anything wrong now? Two rows of numbers that are green when nothing is, what is wrong by name, and three lines that tell since when."""
from model import BAD, LOOK, NEVER, dashboard, down_to, series, stat, table, up_to, words

DAY, HOUR = 86_400, 3_600

GREEN = [
    stat(
        "Sidecars down", "short", "sum(1 - up<>)",
        "Sidecars that Prometheus could not scrape. Red from 1 on: of those nothing on these pages is of now.",
        "not scraped", BAD,
    ),
    stat(
        "Recovery point age", "s", "max(time() - atlas_sidecar_backup_restorable_until_timestamp_seconds<>)",
        "What would be lost with the machine now: the time since the newest state that the destination can restore. Orange after 25 hours and red after 49: one and two backups "
        "were missed, as the schedule has them by default. Where you accept less loss, change both.",
        "no backups", up_to(25 * HOUR, 49 * HOUR), mappings=NEVER, goes_to="backups",
    ),
    stat(
        "Full backup age", "s", "max(time() - atlas_sidecar_backup_last_full_success_timestamp_seconds<>)",
        "The time since the newest full that can be restored. Orange after 8 days and red after 15: a full is due every Sunday by default, and two missed ones leave a long chain of increments.",
        "no backups", up_to(8 * DAY, 15 * DAY), mappings=NEVER, goes_to="backups",
    ),
    stat(
        "Not yet shipped", "s", "max(atlas_sidecar_backup_oldest_unshipped_commit_age_seconds<>)",
        "Age of the oldest commit that the live tail has not stored. It ships every few seconds, so orange after a minute and red after five: the destination, or the way to it, is in trouble.",
        "no live tail", up_to(60, 300), goes_to="backups",
    ),
    stat(
        "Backup problems", "short", "sum(atlas_sidecar_backup_problems<>)",
        "What the last look at the destination found lost, changed or out of its chain. Red from 1 on: something cannot be restored. `atlas-sidecar backup verify --deep` names it.",
        "no backups", BAD, goes_to="backups",
    ),
    stat(
        "Gaps (24 h)", "short", "sum(round(increase(atlas_sidecar_backup_gaps_total<>[24h])))",
        "Times that the live tail lost its place, so that the instants between two backups cannot be restored. Red from 1 on; the log says who moved the write-ahead log.",
        "no live tail", BAD, goes_to="backups",
    ),
    stat(
        "Failed runs (24 h)", "short", 'sum(round(increase(atlas_sidecar_job_runs_total<outcome!="success">[24h])))',
        "Runs of jobs that failed or took too long in the last day, also where a later one did its work. Orange from 1 on; the table below names the jobs, `atlas-sidecar jobs list` tells why.",
        "no runs", LOOK, goes_to="jobs",
    ),
    stat(
        "Retention", "short", "max(atlas_sidecar_retention_blocked<>)",
        "Red where rows stay beyond their age, because the clock is doubtful or because rolling up fails: the table grows until the disk is full. The reason is under Jobs and retention.",
        "no run yet", BAD, mappings=words(_0="goes on", _1="blocked"), goes_to="jobs",
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
    stat(
        "Fullest disk: free", "percentunit", "min(node_filesystem_avail_bytes<> / (node_filesystem_size_bytes<> > 0))",
        "The free share of the file system that has the least. Orange below 20 % and red below 10 %: SQLite needs room for its write-ahead log, and upkeep stops without.",
        "not measured", down_to(0.2, 0.1), decimals=0, goes_to="host",
    ),
    stat(
        "Placeholder keys", "short", "sum(atlas_api_keys_placeholder_hashes<>)",
        "API keys whose hash is a placeholder of an earlier seed. Red from 1 on: replace or delete them; they are under Atlas.",
        "no api_keys", BAD, goes_to="atlas",
    ),
]

WHAT = [
    table(
        "Sources that are down", {"source": "source", "instance": "instance"},
        [("max by (source, instance) (time() - atlas_sidecar_source_last_success_timestamp_seconds<> and atlas_sidecar_source_up<> == 0) or max by (source, instance) "
          "(1 - atlas_sidecar_source_up<> > 0)", "down for", "s", up_to(0, 600))],
        "Sources whose last collection failed, and for how long they have given nothing; one that never did is shown with 1 s. Red after ten minutes, when its series have gone from the page.",
        "all sources are up", height=6,
    ),
    table(
        "Jobs with failed runs", {"exported_job": "job", "instance": "instance"},
        [('sum by (exported_job, instance) (round(increase(atlas_sidecar_job_runs_total<outcome!="success">[24h]))) > 0', "failed (24 h)", "short", LOOK),
         ('max by (exported_job, instance) (time() - atlas_sidecar_job_last_success_timestamp_seconds<>) and on (exported_job, instance) '
          'sum by (exported_job, instance) (round(increase(atlas_sidecar_job_runs_total<outcome!="success">[24h]))) > 0', "last success", "s")],
        "Jobs of which runs failed or took too long in the last day, and how long ago they last did their work. Without a last success it never did.",
        "no run failed", height=6, goes_to="jobs",
    ),
]

SINCE = [
    series(
        "Recovery point age", "s", [("max by (instance) (time() - (atlas_sidecar_backup_restorable_until_timestamp_seconds<> > 0))", "{{instance}}")],
        "A saw: it falls to almost nothing with each backup. A tooth that is higher than the others is a backup that was missed.",
        "no backup yet", limit=up_to(25 * HOUR, 49 * HOUR), goes_to="backups",
    ),
    series(
        "Free space", "percentunit", [("min by (instance, mountpoint) (node_filesystem_avail_bytes<> / (node_filesystem_size_bytes<> > 0))", "{{mountpoint}} {{instance}}")],
        "The free share of each file system. Under Host is when it will be used up.",
        "not measured", max=1, limit=down_to(0.2, 0.1), goes_to="host",
    ),
    series(
        "Oldest waiting item of the queue", "s", [("max by (instance) (atlas_queue_oldest_waiting_seconds<>)", "{{instance}}")],
        "How long the oldest pending item has waited. A line that rises like a ramp: nobody works on it.",
        "no processing_queue", goes_to="atlas",
    ),
]

DASHBOARD = dashboard("overview", "Overview", "What needs attention now.", "24h", [GREEN, WHAT, SINCE])
