//! The harness of the end-to-end tests: engines, watchdogs, receivers, folders, ports.
//!
//! Nothing here is mocked: a test starts the real programs, disturbs them, and looks at what came out.
//! Harness functions panic with a sentence when the surroundings fail them, as assertions do.
//!
//! # Layout
//! - [`claims`]: declares tests that need a Godot, ignored with the reason where there is none.
//! - [`godot`]: finds a real Godot, or unpacks one into a cache folder.
//! - [`build`]: builds the extension and the watchdog, once a process.
//! - [`project`]: a Godot project made for one test, and the engine that runs it.
//! - [`installed`]: the addon as a user unpacks it; [`exported`]: a project as a game is shipped.
//! - [`watchdog`]: a watchdog with its own folders, and everything that it started.
//! - [`engine`]: an engine without Godot, made of the test's own executable.
//! - [`mount`]: file systems that are small or read-only. [`memory_group`]: processes that have little memory.
//! - [`log_bytes`]: the bytes of a watchdog's log, and damage to them.
//! - [`receiver`]: an HTTP backend with faults on demand; [`ledger`] is what it took. [`shards`]: a registry of game servers.
//!   Both are an [`http_server`].
//! - [`postgres`]: a PostgreSQL server of a test's own.
//! - [`history`]: what is seen of an engine over the lives of its watchdogs.
//! - [`scene`]: a game that plays one act, and what must hold afterwards.
//! - [`journal`]: what a game says it recorded, to be held against the ledger.
//! - [`match_stage`]: a match under kills; [`match_journal`] is what it says of itself, [`port_watch`] who holds its port.
//! - [`bot`]: a client of the demo's arena.
//! - [`folders`], [`ports`], [`process`], [`wait`]: what a test needs of the system, given back at its end.

pub mod bot;
pub mod build;
pub mod claims;
pub mod double;
pub mod engine;
pub mod exported;
pub mod folders;
pub mod godot;
pub mod history;
pub mod http_server;
pub mod installed;
pub mod journal;
pub mod ledger;
pub mod log_bytes;
pub mod match_journal;
pub mod match_stage;
pub mod memory_group;
pub mod mount;
pub mod port_watch;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod project;
pub mod receiver;
pub mod saver;
pub mod scene;
pub mod shards;
pub mod verdicts;
pub mod wait;
pub mod watchdog;
