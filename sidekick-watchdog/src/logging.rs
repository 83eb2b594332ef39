//! The watchdog's own log.
