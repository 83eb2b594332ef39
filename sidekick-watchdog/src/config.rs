//! `sidekick.toml`, environment and flags.
