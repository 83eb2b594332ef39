//! The watchdog: launches, watches and relaunches a Godot server, takes its records out of shared memory,
//! commits them to the store and uploads them.
//!
//! # Layout
//! - [`cli`], [`config`], [`exit`]: the command line, `sidekick.toml`, the documented exit codes.
//! - [`app`]: wires the parts with bounded channels; the only file that knows them all.
//! - [`supervisor`]: launches the engine, watches it, relaunches it, adopts a running one.
//! - [`intake`]: takes frames out of the ring and forms slabs.
//! - [`store`]: commits slabs through openraft to a fsynced log; keeps the state.
//! - [`process`]: what `[[stream]]` rules do to records.
//! - [`upload`]: brings committed records to the sinks.
//! - [`api`]: answers operators over HTTP.
//! - [`backend`]: a small receiver of what the HTTP sink sends, for trying things out and for tests.
//! - [`postgres`]: how a PostgreSQL server is reached, and what its errors mean.
//! - [`slab`], [`position`], [`books`], [`event`], [`schedule`], [`crash`], [`log_line`], [`shown`]: the words that these parts share.
//!
//! Supervisor, intake, store, process and upload never import one another (a test enforces it).

pub mod api;
pub mod app;
pub mod backend;
pub mod books;
pub mod causes;
pub mod cli;
pub mod config;
pub mod crash;
pub mod event;
pub mod exit;
pub mod intake;
pub mod log_line;
pub mod logging;
pub mod metrics;
pub mod platform;
pub mod position;
pub mod postgres;
pub mod process;
pub mod registry;
pub mod respawn;
pub mod schedule;
pub mod shown;
pub mod slab;
pub mod store;
pub mod supervisor;
pub mod upload;
