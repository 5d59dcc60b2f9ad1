//! Every kind of descriptor crosses, and nothing else does.

#[path = "descriptors/changes.rs"]
mod changes;
#[path = "descriptors/flags.rs"]
mod flags;
#[path = "descriptors/groups.rs"]
mod groups;
#[path = "descriptors/host.rs"]
mod host;
#[path = "descriptors/keep.rs"]
mod keep;
#[path = "descriptors/kinds.rs"]
mod kinds;
#[path = "descriptors/leaks.rs"]
mod leaks;
#[path = "descriptors/paths.rs"]
mod paths;
