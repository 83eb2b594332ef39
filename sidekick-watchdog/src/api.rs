//! Answers operators over HTTP.
