//! Takes frames out of the ring and forms slabs.
