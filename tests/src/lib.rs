//! The harness of the end-to-end tests: engines, receivers, directories, ports.
