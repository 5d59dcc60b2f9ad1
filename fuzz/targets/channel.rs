//! Any record with some descriptors, and any table in a memfd: refused with one line, or understood and sent again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shellflip::channel::message::Message;
use shellflip::channel::{FromPredecessor, FromSuccessor, table};
use shellflip::sys::fd;
use std::os::fd::{AsFd, OwnedFd};

fn check<M: Message>(record: &[u8], descriptors: Vec<OwnedFd>) {
    match M::decode(record, descriptors) {
        Ok(None) => {}
        Ok(Some(message)) => _ = message.encode().expect("what was understood can be sent again"),
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((count, record)) = data.split_first() else { return };
    let memfd = fd::memfd(c"fuzz").unwrap();
    fd::write_all(memfd.as_fd(), record).unwrap();
    fd::seal(memfd.as_fd()).unwrap();
    if let Ok(entries) = table::read(&memfd, record.len() as u64) {
        let written = table::encode(&entries);
        assert!(written.is_ok() || table::check_unique(&entries).is_err(), "{entries:?}");
    }
    let some = || (0..count % 8).map(|_| memfd.try_clone().unwrap()).collect();
    check::<FromPredecessor>(record, some());
    check::<FromSuccessor>(record, some());
});
