//! Launches, watches, relaunches and adopts the engine.
