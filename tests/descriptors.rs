//! Every kind of descriptor crosses, and nothing else does.

#[path = "descriptors/host.rs"]
mod host;
#[path = "descriptors/kinds.rs"]
mod kinds;
