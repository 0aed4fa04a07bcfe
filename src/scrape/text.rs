//! Parser of Prometheus text (0.0.4, 1.0.0) and OpenMetrics.
