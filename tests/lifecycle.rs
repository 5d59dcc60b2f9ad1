//! Hosts that take part: events and their answers, state, probation, the log; the examples that do so.

#[path = "lifecycle/asked.rs"]
mod asked;
#[path = "lifecycle/examples.rs"]
mod examples;
#[path = "lifecycle/log.rs"]
mod log;
#[path = "lifecycle/part.rs"]
mod part;
#[path = "lifecycle/probation.rs"]
mod probation;
#[path = "lifecycle/state.rs"]
mod state;
