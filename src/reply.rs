//! An answer that one thread waits for and another one gives. A host thread that waits for the supervisor has a descriptor
//! to poll, because a wait that a signal handler has interrupted must return; who drives the supervisor itself, or is
//! woken in another way, needs none.

use crate::error::{Error, Result};
use crate::flip::lock;
use crate::sys::fd;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// The end of whoever answers.
#[derive(Debug)]
pub struct Reply<T> {
    answer: Arc<Mutex<Option<T>>>,
    bell: Option<Arc<OwnedFd>>,
}

/// The end of whoever asked.
#[derive(Debug)]
pub struct Pending<T> {
    answer: Arc<Mutex<Option<T>>>,
    bell: Option<Arc<OwnedFd>>,
}

/// Both ends.
pub fn reply<T>() -> Result<(Reply<T>, Pending<T>)> {
    let bell = fd::eventfd().map_err(|errno| Error::system("cannot make an eventfd", errno))?;
    Ok(both(Some(Arc::new(bell))))
}

/// Both ends, of an answer that is looked for and not waited for.
pub fn without_bell<T>() -> (Reply<T>, Pending<T>) {
    both(None)
}

fn both<T>(bell: Option<Arc<OwnedFd>>) -> (Reply<T>, Pending<T>) {
    let answer = Arc::new(Mutex::new(None));
    (Reply { answer: Arc::clone(&answer), bell: bell.clone() }, Pending { answer, bell })
}

impl<T> Reply<T> {
    /// Gives the answer. If nobody is there for it, it is dropped.
    pub fn send(self, value: T) {
        *lock(&self.answer) = Some(value);
        if let Some(bell) = &self.bell {
            let _ = fd::eventfd_write(bell.as_fd());
        }
    }
}

/// What a look for the answer finds.
pub enum Looked<T> {
    /// It.
    Answer(T),
    /// Nothing yet.
    Nothing,
    /// Nobody is there any more to give one.
    Lost,
}

impl<T> Pending<T> {
    /// Whether there is an answer.
    pub fn is_answered(&self) -> bool {
        lock(&self.answer).is_some()
    }

    /// The answer, once.
    pub fn look(&self) -> Looked<T> {
        // First: who goes may have answered just before.
        let alone = Arc::strong_count(&self.answer) == 1;
        match lock(&self.answer).take() {
            Some(value) => Looked::Answer(value),
            None if alone => Looked::Lost,
            None => Looked::Nothing,
        }
    }

    /// Waits until the answer, the deadline (`ETIMEDOUT`), a signal handler (`EINTR`) or the end of the handle
    /// (`ECANCELED`).
    pub fn wait(&self, freed: BorrowedFd, deadline: Option<Instant>) -> Result<T> {
        loop {
            match self.look() {
                Looked::Answer(value) => return Ok(value),
                Looked::Nothing => {}
                Looked::Lost => return Err(over()),
            }
            let bell = self.bell.as_ref().map_or(freed, |bell| bell.as_fd());
            let mut fds = [PollFd::new(bell, PollFlags::POLLIN), PollFd::new(freed, PollFlags::POLLIN)];
            match fd::poll(&mut fds, deadline.map(|at| at.saturating_duration_since(Instant::now()))) {
                Ok(0) => return Err(Error::TimedOut),
                Err(Errno::EINTR) => return Err(Error::Interrupted),
                Err(errno) => return Err(Error::system("cannot wait for an answer", errno)),
                Ok(_) => {
                    if let Looked::Answer(value) = self.look() {
                        return Ok(value);
                    }
                    if fds[1].any().unwrap_or(false) {
                        return Err(over());
                    }
                }
            }
        }
    }
}

impl<T> Pending<Result<T>> {
    /// The same as [`Pending::wait`] without a deadline, where poll(2) cannot be called.
    pub fn wait_by_looking(&self, freed: impl Fn() -> bool) -> Result<T> {
        loop {
            let over_before = freed();
            match self.look() {
                Looked::Answer(result) => return result,
                Looked::Nothing if !over_before => std::thread::sleep(std::time::Duration::from_millis(1)),
                Looked::Nothing | Looked::Lost => return Err(over()),
            }
        }
    }

    /// The answer; without one there will be none.
    pub fn take(self) -> Result<T> {
        lock(&self.answer).take().unwrap_or_else(|| Err(over()))
    }
}

fn over() -> Error {
    Error::Canceled("the handle was freed meanwhile".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latch::Gate;
    use std::thread;

    #[test]
    fn an_answer_comes_once_to_whoever_waits() {
        let freed = Gate::new().unwrap();
        let (reply, pending) = reply::<i32>().unwrap();
        let waits = thread::spawn(move || (pending.wait(freed.reader(), None), pending.look()));
        reply.send(7);
        let (answer, after) = waits.join().unwrap();
        assert_eq!(answer.unwrap(), 7);
        assert!(matches!(after, Looked::Lost));
    }

    #[test]
    fn who_waits_for_an_answer_is_told_the_deadline_the_end_and_that_it_was_lost() {
        let freed = Gate::new().unwrap();
        let (given, pending) = reply::<i32>().unwrap();
        assert!(matches!(pending.wait(freed.reader(), Some(Instant::now())), Err(Error::TimedOut)));
        freed.open();
        assert!(matches!(pending.wait(freed.reader(), None), Err(Error::Canceled(_))));
        drop(given);
        assert!(matches!(pending.wait(Gate::new().unwrap().reader(), None), Err(Error::Canceled(_))));
    }

    #[test]
    fn an_answer_can_be_waited_for_without_poll() {
        let (given, pending) = reply::<Result<i32>>().unwrap();
        let waits =
            thread::spawn(move || (pending.wait_by_looking(|| false), pending.wait_by_looking(|| false)));
        given.send(Ok(7));
        let (answer, after) = waits.join().unwrap();
        assert!(matches!((answer, after), (Ok(7), Err(Error::Canceled(_)))));
        let (_given, pending) = reply::<Result<i32>>().unwrap();
        assert!(matches!(pending.wait_by_looking(|| true), Err(Error::Canceled(_))));
    }

    #[test]
    fn an_answer_that_nobody_takes_is_dropped() {
        let answer = Arc::new(());
        let (reply, pending) = without_bell();
        reply.send(Arc::clone(&answer));
        drop(pending);
        assert_eq!(Arc::strong_count(&answer), 1);
        let (reply, pending) = without_bell();
        drop(pending);
        reply.send(Arc::clone(&answer));
        assert_eq!(Arc::strong_count(&answer), 1);
    }
}
