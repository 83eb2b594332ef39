//! Wires the parts; the only file that knows them all.
