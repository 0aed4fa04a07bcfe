"""Jobs: when each ran, how it ended, and what it did; the tables that they keep small."""
from model import BAD, LEAST, LOOK, dashboard, never, series, stat, steps, table, up_to, words

HOUR = 3_600

FAILED = 'round(increase(atlas_sidecar_job_runs_total<outcome!="success">[24h]))'


# What the overview shows as well.
def failed_runs(**more):
    return stat(
        "Failed runs (24 h)", "short", f"sum({FAILED})",
        "Runs of jobs that failed or took too long in the last day, also where a later one did its work. Orange from 1 on; the table below names the jobs, `atlas-sidecar jobs list` tells why.",
        "no runs", LOOK, **more,
    )


NOW = [
    failed_runs(),
    stat(
        "Missed slots (24 h)", "short", "sum(round(increase(atlas_sidecar_job_missed_total<>[24h])))",
        "Times of schedules without a run of their own, because nobody was there or the run before took too long. Orange from 1 on: look at the durations.",
        "no runs", LOOK,
    ),
    stat(
        "Paused jobs", "short", "sum(atlas_sidecar_job_paused<>)",
        "Jobs that somebody keeps from running. Orange from 1 on, so that nobody forgets; `atlas-sidecar jobs resume` ends it.",
        "no jobs", LOOK,
    ),
    stat(
        "Scheduler: last look", "s", "max(time() - atlas_sidecar_scheduler_last_tick_timestamp_seconds<>)",
        "The time since the scheduler looked what is due. Orange after two minutes, red after ten: no job runs any more.",
        "not scraped", up_to(120, 600),
    ),
    stat(
        "Roll-up is behind by", "s", "max(time() - atlas_sidecar_rollup_watermark_timestamp_seconds<>)",
        "All rows before that have been rolled up. It runs every five minutes, so orange after a quarter of an hour, and red after two hours: nothing behind it is deleted.",
        "not scraped", up_to(900, 2 * HOUR), mappings=never("transparent"),
    ),
    stat(
        "Clock", "short", "max(atlas_sidecar_clock_doubtful<>)",
        "Red while the clock is not believed: nothing is deleted by age. Put it right, or say that it is: `atlas-sidecar jobs run NAME --clock-is-right`.",
        "not scraped", BAD, mappings=words("believed", "doubtful"),
    ),
]

TABLE = [
    table(
        "Jobs", {"exported_job": "job", "instance": "instance"},
        [
            ("max by (exported_job, instance) (time() - atlas_sidecar_job_last_success_timestamp_seconds<>)", "last success", "s"),
            ("max by (exported_job, instance) (atlas_sidecar_job_next_run_timestamp_seconds<> - time())", "next run in", "s", steps(("red", LEAST), ("text", -600))),
            ("max by (exported_job, instance) (atlas_sidecar_job_last_duration_seconds<>)", "took", "s"),
            ('sum by (exported_job, instance) (round(increase(atlas_sidecar_job_runs_total<outcome="success">[24h])))', "done (24 h)", "short"),
            (f"sum by (exported_job, instance) ({FAILED})", "failed (24 h)", "short", LOOK),
            ("sum by (exported_job, instance) (round(increase(atlas_sidecar_job_rows_total<>[24h])))", "rows (24 h)", "short"),
            ("max by (exported_job, instance) (atlas_sidecar_job_running<> + 2 * atlas_sidecar_job_paused<>)", "state", "short", LOOK,
             words("waits", "runs", "paused", "runs, then paused")),
        ],
        "Each job: how long ago it last did its work (over restarts), when it is due (nothing while it is paused or not enabled; red where that was ten minutes ago), what the last "
        "run took, and the last day. Orange: it failed, or does not wait for its time. Compare `took` with the job's timeout.",
        "no jobs", width=24, height=9,
    ),
]

RUNS = [
    series(
        "Runs", "short", [("sum by (exported_job) (increase(atlas_sidecar_job_runs_total<>[$__rate_interval]))", "{{exported_job}}")],
        "Runs by job, however they ended.", "no runs", stacked=True,
    ),
    series(
        "Runs that failed", "short",
        [('sum by (exported_job, outcome) (increase(atlas_sidecar_job_runs_total<outcome!="success">[$__rate_interval]))', "{{exported_job}}: {{outcome}}")],
        "`failed` and `timeout` say to look at the log.", "no runs",
    ),
    series(
        "Duration of the last run", "s", [("max by (exported_job) (atlas_sidecar_job_last_duration_seconds<>)", "{{exported_job}}")],
        "A job that takes longer and longer will meet its timeout. A logarithmic scale.", "no runs", log=True, from_zero=False,
    ),
]

KEPT = [
    series(
        "Why retention is blocked", "short", [("max by (reason) (atlas_sidecar_retention_blocked<>)", "{{reason}}")],
        "1 where rows stay beyond their age. `clock`: look at it, then `atlas-sidecar jobs run metric-retention --clock-is-right`. `roll_up`: see why `metric-rollup` fails.",
        "no run yet", max=1,
    ),
    series(
        "Rows deleted", "short",
        [("sum(increase(atlas_sidecar_retention_rows_total<>[$__rate_interval]))", "system_metrics"),
         ("sum by (table) (increase(atlas_sidecar_retention_table_rows_total<>[$__rate_interval]))", "{{table}}"),
         ('sum(increase(atlas_sidecar_job_rows_total<exported_job="cache-expiry">[$__rate_interval]))', "search_cache"),
         ("sum(increase(atlas_sidecar_retention_expired_buckets_total<>[$__rate_interval]))", "buckets")],
        "Rows of `system_metrics` go after they were counted in buckets; buckets past their own age, those of `search_cache`, and tables of [[retention.tables]].",
        "no run yet",
    ),
    series(
        "Rolled up", "short",
        [("sum(increase(atlas_sidecar_rollup_rows_total<>[$__rate_interval]))", "rows read"),
         ("sum(increase(atlas_sidecar_rollup_buckets_total<>[$__rate_interval]))", "buckets written"),
         ("sum(increase(atlas_sidecar_rollup_bad_rows_total<>[$__rate_interval]))", "bad rows met")],
        "Rows of `system_metrics` that were read into buckets, and buckets that were new or other than before. Bad rows have no finite number, or an unreadable name: correct who writes them.",
        "no roll-up yet",
    ),
    series(
        "Rows that stay beyond their age", "short",
        [("sum(atlas_sidecar_retention_kept_rows<>)", "system_metrics"),
         ("max by (table) (atlas_sidecar_retention_table_unreadable_rows<>)", "{{table}}")],
        "Their time, value or labels cannot be read. From 1 on, the orange line, find who writes them; delete them by hand.",
        "no such rows", limit=LOOK,
    ),
    series(
        "Largest tables", "bytes", [("topk(8, sum by (database, table) (atlas_database_object_bytes<>))", "{{table}} ({{database}})")],
        "Tables with their indexes, read once an hour at most. What grows without an end has no retention.",
        "not measured",
    ),
    series(
        "Rows of today", "short",
        [("max by (instance) (atlas_sidecar_rows_today<>)", "stored {{instance}}"),
         ("max by (instance) (atlas_sidecar_rows_per_day_limit<> > 0)", "budget {{instance}}")],
        "Rows since midnight UTC and the budget of a day. Where both lines meet, samples are lost until midnight: store less, or raise `write.rows_per_day`.",
        "not scraped",
    ),
    series(
        "Samples lost by reason", "short", [("sum by (reason) (increase(atlas_sidecar_samples_dropped_total<>[$__rate_interval]))", "{{reason}}")],
        "Samples that were measured and not stored. docs/OPERATIONS.md tells what each reason means.", "not scraped",
    ),
    series(
        "Upkeep", "short",
        [("sum by (step, result) (increase(atlas_sidecar_upkeep_steps_total<>[$__rate_interval]))", "{{step}}: {{result}}"),
         ("sum by (reason) (increase(atlas_sidecar_upkeep_put_off_total<>[$__rate_interval]))", "put off: {{reason}}")],
        "Steps of upkeep by what became of them, and runs that were put off because of the window, the load, or a backup. Put off every night: choose another window.",
        "no run yet",
    ),
    series(
        "Files of logs", "short", [("sum by (directory, action) (increase(atlas_sidecar_retention_files_total<>[$__rate_interval]))", "{{directory}}: {{action}}"),
                                   ("max by (directory, reason) (atlas_sidecar_retention_files_kept<>)", "{{directory}} left: {{reason}}")],
        "Files of [[retention.files]] that were deleted or compressed, and those past their age that were left alone. `newest` and `open` are logs in use.",
        "no [[retention.files]]",
    ),
]

DASHBOARD = dashboard(
    "jobs", "Jobs and retention", "When jobs ran, how they ended, what they did, and what grows all the same.", "24h",
    [NOW, TABLE, "Runs", RUNS, "What is kept, and what goes", KEPT],
)
