//! The replicated store: commits slabs to a fsynced log.
