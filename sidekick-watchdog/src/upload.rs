//! Brings committed records to the sinks.
