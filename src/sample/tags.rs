//! Labels as the table's `tags` column holds them: canonical JSON out, anybody's JSON in (V-11, V-12).
