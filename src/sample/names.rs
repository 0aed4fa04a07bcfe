//! Names as an exposition may carry them: the legacy character set, and Prometheus' escaping schemes for everything else (V-12, V-13).
