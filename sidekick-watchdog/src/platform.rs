//! The seam behind which every system call of the watchdog lies.
