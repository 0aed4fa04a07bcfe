"""How far back one can go, what would be lost, what it costs, and what stands in the way."""
from model import BAD, LOOK, PLAIN, dashboard, never, series, stat, up_to

DAY, HOUR = 86_400, 3_600

# By default a backup is made each day and a full on Sundays, and an hour is plenty for one: what is missed is late by then, and twice is no accident.
DAILY = up_to(25 * HOUR, 49 * HOUR)
WEEKLY = up_to(8 * DAY, 15 * DAY)
# The live tail ships every few seconds.
LIVE = up_to(60, 300)


# What the overview shows as well.
def recovery_point_now(**more):
    return stat(
        "Recovery point age", "s", "max(time() - atlas_sidecar_backup_restorable_until_timestamp_seconds<>)",
        "What would be lost with the machine now: the time since the newest state that the destination can restore. Orange after 25 hours and red after 49: one and two backups "
        "were missed, as the schedule has them by default. Where you accept less loss, change both.",
        "no backups", DAILY, mappings=never("red"), **more,
    )


def full_now(**more):
    return stat(
        "Full backup age", "s", "max(time() - atlas_sidecar_backup_last_full_success_timestamp_seconds<>)",
        "The time since the newest full that can be restored. Orange after 8 days and red after 15: a full is due every Sunday by default, and two missed ones leave a long chain of increments.",
        "no backups", WEEKLY, mappings=never("red"), **more,
    )


def problems_now(**more):
    return stat(
        "Backup problems", "short", "sum(atlas_sidecar_backup_problems<>)",
        "What the last look at the destination found lost, changed or out of its chain. Red from 1 on: something cannot be restored. `atlas-sidecar backup verify --deep` names it.",
        "no backups", BAD, **more,
    )


def recovery_point(**more):
    return series(
        "Recovery point age", "s", [("max by (instance) (time() - (atlas_sidecar_backup_restorable_until_timestamp_seconds<> > 0))", "{{instance}}")],
        "What would have been lost at that moment: a saw, which falls to almost nothing with each backup. A tooth that is higher than the others is a backup that was missed: one at the orange "
        "line, two at the red one.",
        "no backup yet", limit=DAILY, **more,
    )


NOW = [
    recovery_point_now(),
    stat(
        "Restorable window", "s", "min(atlas_sidecar_backup_restorable_until_timestamp_seconds<> - (atlas_sidecar_backup_restorable_from_timestamp_seconds<> > 0))",
        "From the oldest instant that the destination can restore to the newest one. It grows to `backup.window`, 30 days by default, and stays there.",
        "no backups", PLAIN,
    ),
    full_now(),
    stat(
        "Last look at the destination", "s", "max(time() - atlas_sidecar_backup_last_verify_success_timestamp_seconds<>)",
        "The time since `backup-verify` found everything as it should be; `never` after each start until it has run. Orange after 25 hours and red after 49: it runs once a day by default.",
        "no backups", DAILY, mappings=never("transparent"),
    ),
    problems_now(),
    stat(
        "Undeleted objects", "short", "sum(atlas_sidecar_backup_undeleted_objects<>)",
        "What retention could not delete. Orange from 1 on: the destination only grows until the credentials may delete.",
        "no backups", LOOK,
    ),
]

POINTS = [
    recovery_point(),
    series(
        "Not yet shipped", "s", [("max by (instance) (atlas_sidecar_backup_oldest_unshipped_commit_age_seconds<>)", "{{instance}}")],
        "Age of the oldest commit that the live tail has not stored. Orange after a minute and red after five: the destination, or the way to it, is in trouble.",
        "no live tail", limit=LIVE,
    ),
    series(
        "Timeline and gaps", "short",
        [("max by (instance) (atlas_sidecar_backup_timeline<>)", "timeline {{instance}}"),
         ("sum by (instance) (increase(atlas_sidecar_backup_gaps_total<>[$__rate_interval]))", "gaps {{instance}}")],
        "A timeline that changes: another installation or another database file goes on; `atlas-sidecar backup list` tells why. A gap: instants that cannot be restored.",
        "no backup yet",
    ),
]

COSTS = [
    series(
        "Size of the newest", "bytes", [("max by (kind, form) (atlas_sidecar_backup_last_bytes<>)", "{{kind}} {{form}}")],
        "Bytes of the newest full and the newest increment, `plain` as the database has them and `stored` as they are kept. A logarithmic scale.",
        "no backup yet", log=True, from_zero=False,
    ),
    series(
        "Ratio", "short", [('max by (kind) (atlas_sidecar_backup_last_bytes<form="plain"> / ignoring (form) (atlas_sidecar_backup_last_bytes<form="stored"> > 0))', "{{kind}}")],
        "How many bytes of the database one stored byte stands for. One that falls: what is written compresses less.",
        "no backup yet",
    ),
    series(
        "Duration by step", "s", [("max by (kind, step) (atlas_sidecar_backup_last_seconds<>)", "{{kind}}: {{step}}")],
        "What the steps of the last backup took. A full is stored while it is read. `upload` grows with a slow destination, `read` with the database.",
        "none by this process",
    ),
    series(
        "Traffic", "Bps", [("sum by (op) (rate(atlas_sidecar_backup_object_bytes_total<>[$__rate_interval]))", "{{op}}")],
        "Bytes stored (`put`, `create`, `part`) and fetched (`get`): what a provider bills.",
        "no request yet",
    ),
    series(
        "Requests", "reqps", [("sum by (op) (rate(atlas_sidecar_backup_object_requests_total<>[$__rate_interval]))", "{{op}}")],
        "Requests to the destination; each try counts. Providers bill them by kind.",
        "no request yet", stacked=True,
    ),
    series(
        "Requests that failed", "reqps",
        [('sum by (op, code) (rate(atlas_sidecar_backup_object_requests_total<code=~"denied|transient|corrupt">[$__rate_interval]))', "{{op}}: {{code}}")],
        "`transient`: the destination or the way to it is in trouble. `denied`: look at credentials and rights. `corrupt`: what came back is not what was stored.",
        "none failed",
    ),
]

WAY = [
    series(
        "Waiting to be stored", "bytes",
        [("sum by (instance) (atlas_sidecar_backup_spool_bytes<>)", "spool {{instance}}"),
         ("sum by (instance) (atlas_sidecar_backup_wal_bytes<>)", "write-ahead log {{instance}}")],
        "Bytes in the state directory that wait to be stored, or to be folded, which they are once an hour; and bytes of the write-ahead log. Both go on growing while the destination does not take them.",
        "no backups",
    ),
    series(
        "Write-ahead log held back", "s",
        [("max by (instance) (atlas_sidecar_backup_wal_pinned_seconds<>)", "held back {{instance}}"),
         ("sum by (instance) (increase(atlas_sidecar_backup_write_lock_held_seconds_sum<>[$__rate_interval]))", "write lock {{instance}}")],
        "For how long the write-ahead log could not be used anew because of backups, so that it grows; and for how long in all they kept writers out.",
        "no live tail",
    ),
    series(
        "Deleted by retention", "bytes",
        [("sum by (instance) (increase(atlas_sidecar_backup_deleted_bytes_total<>[$__rate_interval]))", "{{instance}}")],
        "Bytes that `backup-retention` took from the destination. None in a month: it fails, or nothing is old enough.",
        "no backups",
    ),
]

DASHBOARD = dashboard(
    "backups", "Backups", "What can be restored, what it costs, and what stands in the way.", "7d",
    [NOW, "What would be lost", POINTS, "What it costs", COSTS, "What waits", WAY],
)
