"""The application's own tables: is its queue worked on, does its cache help, is its content found, who may call it, and whom does it call."""
from model import BAD, LOOK, PLAIN, dashboard, series, stat, table, up_to, words

HOUR = 3_600
YES = words("no", "yes")

# What the overview shows as well.
def placeholder_keys(**more):
    return stat(
        "Placeholder keys", "short", "sum(atlas_api_keys_placeholder_hashes<>)",
        "API keys whose hash is a placeholder of an earlier seed. Red from 1 on: replace or delete them.",
        "no api_keys", BAD, **more,
    )


NOW = [
    stat(
        "Oldest waiting item", "s", "max(atlas_queue_oldest_waiting_seconds<>)",
        "How long the oldest pending item has waited. Orange after a quarter of an hour and red after two hours: whoever works on the queue has stopped, or does not keep up. Choose what your users accept.",
        "no processing_queue", up_to(900, 2 * HOUR),
    ),
    stat(
        "Pending items", "short", 'sum(atlas_queue_items<status="pending">) or 0 * count(atlas_queue_oldest_waiting_seconds<>)',
        "How many items wait. Without a colour: a deep queue that moves is in order.",
        "no processing_queue", PLAIN,
    ),
    stat(
        "Unindexed content", "short", "sum(atlas_content_unindexed_items<>)",
        "Content that search does not find. Without a colour, since new content is unindexed for a while: it has to go down again.",
        "no content_metadata", PLAIN,
    ),
    placeholder_keys(),
    stat(
        "Unreadable times", "short", "sum(atlas_queue_unreadable_times<>) + sum(atlas_cache_unreadable_times<>)",
        "Pending items and cache entries whose time cannot be read: they are left out of ages, and such entries never expire. Orange from 1 on: correct who writes them.",
        "no such tables", LOOK,
    ),
    stat(
        "Database", "bytes", "sum(atlas_database_file_bytes<>)",
        "The file, or all files of a PostgreSQL database. Which tables grow is under Jobs and retention.",
        "not measured", PLAIN, goes_to="jobs",
    ),
]

QUEUE = [
    series(
        "Items by status", "short", [("sum by (status) (atlas_queue_items<>)", "{{status}}")],
        "`pending` that only rises is a backlog.", "no item", stacked=True,
    ),
    series(
        "Items by worker", "short", [("sum by (worker, status) (atlas_queue_worker_items<>)", "{{worker}}: {{status}}")],
        "A worker whose items stay in work has stopped. The 100 most frequent pairs.", "no item has a worker",
    ),
    series(
        "Actual by estimated duration", "percentunit",
        [("max by (instance) (atlas_queue_timed_actual_seconds<> / (atlas_queue_timed_estimated_seconds<> > 0))", "{{instance}}")],
        "Over all items that have both. Above 100 % work takes longer than is thought.", "no item has both durations",
    ),
]

CONTENT = [
    series(
        "Content", "short",
        [("sum(atlas_content_items<>)", "all"), ("sum(atlas_content_unindexed_items<>)", "unindexed"), ("sum(atlas_content_accessed_items<>)", "accessed at least once")],
        "Content that search does not find should go down again.", "no content_metadata",
    ),
    series(
        "Accesses", "short", [("sum by (instance) (delta(atlas_content_accesses<>[$__rate_interval]))", "{{instance}}")],
        "By how much the sum of access counts grew; below 0 where content was deleted.", "no content_metadata", from_zero=False,
    ),
    series(
        "Cognitive score", "short", [("max by (quantile) (atlas_content_cognitive_score<>)", "quantile {{quantile}}")],
        "A tenth, half and nine tenths of the scored content have at most this.", "no content is scored",
    ),
    series(
        "Cache entries", "short", [("sum(atlas_cache_rows<>)", "all"), ("sum(atlas_cache_expired_rows<>)", "expired")],
        "`cache-expiry` takes expired ones every quarter of an hour; expired ones that only rise: it fails.", "no search_cache",
    ),
    series(
        "Cache size", "bytes", [("sum by (instance) (atlas_cache_bytes<>)", "{{instance}}")],
        "Query texts and results, without indexes.", "no search_cache",
    ),
    series(
        "Database and write-ahead log", "bytes",
        [("sum by (database) (atlas_database_file_bytes<>)", "{{database}}"), ("sum by (database) (atlas_database_wal_bytes<>)", "write-ahead log of {{database}}")],
        "SQLite: a log beyond some 64 MiB means that a reader keeps it from being checkpointed. PostgreSQL: beyond max_wal_size, a slot or a failing archive_command.",
        "not measured",
    ),
]

KEYS = [
    table(
        "API keys", {"name": "name", "id": "id", "instance": "instance"},
        [
            ("max by (name, id, instance) (time() - atlas_api_key_last_used_timestamp_seconds<>)", "last used", "s"),
            ("max by (name, id, instance) (atlas_api_key_rate_limit_requests_per_hour<>)", "requests an hour", "short"),
            ("max by (name, id, instance) (atlas_api_key_active<>)", "may be used", "short", PLAIN, YES),
        ],
        "The 100 keys that were used last. Revoke active ones that nobody uses.", "no api_keys",
    ),
    table(
        "Webhooks", {"id": "id", "instance": "instance"},
        [
            ("max by (id, instance) (atlas_webhook_failures<>)", "failures", "short", LOOK),
            ("max by (id, instance) (time() - atlas_webhook_last_triggered_timestamp_seconds<>)", "last called", "s"),
            ("max by (id, instance) (atlas_webhook_active<>)", "is called", "short", PLAIN, YES),
        ],
        "The 100 webhooks that failed most. Failures are orange from 1 on; a receiver is down where they grow.", "no webhooks",
    ),
    series(
        "Keys", "short", [("sum by (active) (atlas_api_keys<>)", "active: {{active}}")],
        "A jump in active ones is worth a look.", "no api_keys", width=12,
    ),
    series(
        "Failures of webhooks", "short", [("topk(8, max by (id) (atlas_webhook_failures<>))", "{{id}}")],
        "The eight that failed most. The owner may reset the count, so it can fall.", "no webhooks", width=12,
    ),
]

DASHBOARD = dashboard(
    "atlas", "Atlas", "The application's queue, cache, content, keys and webhooks.", "24h",
    [NOW, "Queue", QUEUE, "Content, cache and database", CONTENT, "Keys and webhooks", KEYS],
)
