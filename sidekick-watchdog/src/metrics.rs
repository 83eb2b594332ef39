//! Counters and gauges for /metrics.
