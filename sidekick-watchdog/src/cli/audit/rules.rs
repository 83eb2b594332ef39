//! Which records rules may have left out: every version of them that the log remembers is asked.

use crate::app::origin_of;
use crate::process::{Scratch, Shape, Shaped};
use crate::store::LogView;
use crate::upload::shape::Stored;

/// The rules that were in force at some time.
pub(super) struct Rules {
    shapes: Vec<Shape>,
    are_all: bool,
}

impl Rules {
    /// Those that the log remembers.
    pub(super) fn of(view: &LogView) -> Self {
        let (texts, are_all) = view.rules();
        let shapes: Vec<Shape> = texts.filter_map(|text| Shape::parse(text).ok()).collect();
        Self { shapes, are_all }
    }

    /// Whether no others were ever in force.
    pub(super) fn are_all(&self) -> bool {
        self.are_all
    }

    /// Whether one of them leaves this record out on its way to `sink`.
    pub(super) fn may_leave_out(&self, sink: &str, stored: &Stored<'_>) -> bool {
        let stream = stored.record.stream;
        let mut scratch = Scratch::default();
        self.shapes.iter().any(|shape| {
            let is_of_others = !shape.goes_to(stream, sink);
            let mut is_dropped = || {
                let shaped = shape.shape(&origin_of(stored), stored.record.variant, &mut scratch);
                shaped == Shaped::Dropped
            };
            shape.touches(stream) && (is_of_others || is_dropped())
        })
    }
}
