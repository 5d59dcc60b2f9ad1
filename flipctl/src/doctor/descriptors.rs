//! How many descriptors are left.

use super::{Examination, Subject};
use procfs::process::LimitValue;

/// In use, of a hundred, is near. An upgrade needs a handful more, each connection one.
const NEAR: u64 = 80;

pub fn examine(subject: &Subject, examination: &mut Examination) {
    let (used, limit) = match (subject.process.fd_count(), subject.process.limits()) {
        (Ok(used), Ok(limits)) => (used as u64, limits.max_open_files.soft_limit),
        (Err(error), _) | (_, Err(error)) => return examination.unseen("descriptors", error),
    };
    let LimitValue::Value(limit) = limit else { return };
    if used.saturating_mul(100) >= limit.saturating_mul(NEAR) {
        examination.found(
            "descriptors-near-limit",
            format!("{used} descriptors are open, and the limit is {limit}"),
            "without free ones connections wait to be accepted (EMFILE), and an upgrade, which needs about ten, fails; \
             the new process has the same limit",
            "raise the limit (LimitNOFILE= in a systemd unit, ulimit -n), restart once, and look for a leak of \
             descriptors",
        );
    }
}
