PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -1000000;
CREATE TABLE words (id INTEGER PRIMARY KEY, word TEXT);
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 4095)
INSERT INTO words SELECT i, lower(substr(hex(randomblob(8)), 1, 2 + abs(random()) % 9)) FROM n;
CREATE TABLE system_metrics (id VARCHAR(36) PRIMARY KEY, metric_name VARCHAR(255) NOT NULL, metric_value DECIMAL(15,4) NOT NULL,
    tags JSON, recorded_at TIMESTAMP);
CREATE INDEX idx_system_metrics_name_time ON system_metrics (metric_name, recorded_at);
CREATE TABLE search_cache (id VARCHAR(36) PRIMARY KEY, query_hash TEXT, results JSON, hits INTEGER, expires_at TIMESTAMP);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows)
INSERT INTO system_metrics SELECT
    lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-a' || substr(hex(randomblob(2)), 2)
        || '-' || hex(randomblob(6))),
    'metric_' || (i % 40) || '_total', (abs(random()) % 100000000) / 10000.0,
    '{"host":"db-' || (i % 7) || '.example.org","path":"/api/v1/' || (i % 23) || '"}',
    strftime('%Y-%m-%d %H:%M:%f', 1795305600 + i / 200 * 15, 'unixepoch') FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows / 4)
INSERT INTO search_cache SELECT lower(hex(randomblob(16))), lower(hex(randomblob(32))),
    (SELECT json_object('query', a.word || ' ' || b.word, 'score', abs(random()) % 1000 / 1000.0,
        'title', c.word || ' ' || d.word || ' ' || e.word || ' ' || a.word,
        'body', b.word || ' ' || c.word || ' ' || f.word || ' ' || g.word || ' ' || e.word || ' ' || d.word || ' ' || f.word || ' ' || a.word)
        FROM words a, words b, words c, words d, words e, words f, words g
        WHERE a.id = abs(random()) % 4096 AND b.id = i % 4096 AND c.id = i * 7 % 4096 AND d.id = i * 131 % 4096
        AND e.id = i * 977 % 4096 AND f.id = i * 3571 % 4096 AND g.id = i / 3 % 4096),
    i % 100, strftime('%Y-%m-%d %H:%M:%f', 1795305600 + i, 'unixepoch') FROM n;
COMMIT;
