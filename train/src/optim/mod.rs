//! The optimiser: AdamW with decoupled decay, clipping by the global norm, learning-rate schedules.

mod adamw;
mod schedule;

pub use adamw::{AdamW, AdamWConfig};
pub use schedule::{Ramp, Schedule, ScheduleKind, ScheduleOptions};
