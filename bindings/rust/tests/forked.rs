//! A forked child counts its own connections: those that it inherits are the parent's.

use graceflip::{Builder, Flip};
use std::time::{Duration, Instant};

/// There is one in a process, and the other test may have it.
fn the_handle(builder: impl Fn() -> Builder) -> Flip {
    testkit::wait_for("the handle", Duration::from_secs(20), || builder().build().ok())
}

/// What a child of the caller finds, as its exit status; 0 where it finds all as it should be.
fn in_a_child(check: impl FnOnce() -> bool) -> i32 {
    // SAFETY: the child calls what does not wait for other threads, and _exit(2).
    match unsafe { libc::fork() } {
        -1 => panic!("cannot fork: {}", std::io::Error::last_os_error()),
        0 => {
            let status = if check() { 0 } else { 1 };
            // SAFETY: ends this process and runs nothing.
            unsafe { libc::_exit(status) }
        }
        child => {
            let mut status = 0;
            // SAFETY: a child of ours, and a place for its status.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            status
        }
    }
}

#[test]
fn a_connection_of_the_parent_ends_in_no_count_but_the_parents() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let flip = the_handle(|| Flip::builder().no_signals());
    let mut parents = Some(flip.connection());
    let status = in_a_child(|| {
        let mut own = Some(flip.connection());
        drop(parents.take());
        // The same one further down.
        let below = in_a_child(|| {
            let _own = flip.connection();
            drop(own.take());
            flip.connections() == 1
        });
        let one = flip.connections() == 1;
        drop(own.take());
        below == 0 && one && flip.connections() == 0
    });
    assert_eq!((status, flip.connections()), (0, 1));
    drop(parents);
    assert_eq!(flip.connections(), 0);
}

/// Of the parent, whose threads a child has not.
#[test]
fn a_child_waits_for_no_thread_of_hooks() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let flip = the_handle(|| {
        Flip::builder().no_signals().on_starting(|_| -> Result<(), String> { unreachable!("not asked") })
    });
    let status = in_a_child(|| {
        let began = Instant::now();
        flip.close();
        began.elapsed() < Duration::from_secs(1)
    });
    assert_eq!(status, 0);
}
