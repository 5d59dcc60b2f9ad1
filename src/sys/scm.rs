//! sendmsg and recvmsg with descriptors attached (SCM_RIGHTS, unix(7)). One call, one system call, never blocking;
//! no descriptor is lost or left open on any path. Called by `channel::transport`.

use super::{fault, fd};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// What the kernel takes in one message (SCM_MAX_FD).
pub const MAX_DESCRIPTORS: usize = 253;

/// One message out, without blocking and without SIGPIPE.
pub fn send(socket: BorrowedFd, bytes: &[u8], descriptors: &[BorrowedFd]) -> Result<usize, Errno> {
    fault::at("sendmsg")?;
    let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control = if numbers.is_empty() { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None)
}

/// What one recvmsg brought.
#[derive(Debug)]
pub struct Arrived {
    /// The record was longer than the buffer.
    pub truncated: bool,
    /// Descriptors were attached that this process could not take: its descriptor table is full.
    pub descriptors_lost: bool,
    /// What was attached, in the order of the sender.
    pub descriptors: Vec<OwnedFd>,
}

/// One message in, without blocking: `buffer` holds its bytes then, as many as it has room for.
pub fn receive(socket: BorrowedFd, buffer: &mut Vec<u8>) -> Result<Arrived, Errno> {
    fault::at("recvmsg")?;
    buffer.clear();
    // Of u64, for the alignment that cmsghdr needs; the second half is room for credentials and labels that an
    // inherited socket option may make the kernel add.
    const RIGHTS: usize = size_of::<libc::cmsghdr>() + MAX_DESCRIPTORS * size_of::<RawFd>();
    let mut control = [0u64; RIGHTS.div_ceil(8) * 2];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.capacity() };
    // SAFETY: all-zero is a valid msghdr: no pointers, no lengths.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    // SAFETY: header names one buffer and one control area, both alive and writable for the lengths given.
    let length = Errno::result(unsafe {
        libc::recvmsg(socket.as_raw_fd(), &mut header, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC)
    })?;
    // SAFETY: recvmsg has written that many bytes, at most the capacity that it was given (no MSG_TRUNC was asked for).
    unsafe { buffer.set_len(length.unsigned_abs()) };
    // SAFETY: the kernel has just filled in the control area of this header, and nothing else took from it.
    let received = unsafe { take_descriptors(&header) };
    let mut descriptors_lost = header.msg_flags & libc::MSG_CTRUNC != 0;
    let mut descriptors = Vec::with_capacity(received.len());
    for descriptor in received {
        match fd::at_least_3(descriptor) {
            Ok(descriptor) => descriptors.push(descriptor),
            Err(Errno::EMFILE) => descriptors_lost = true,
            Err(errno) => return Err(errno),
        }
    }
    let truncated = header.msg_flags & libc::MSG_TRUNC != 0;
    Ok(Arrived { truncated, descriptors_lost, descriptors })
}

/// Makes every descriptor in the control area ours, also those of a message that will be refused: else they leak.
///
/// # Safety
///
/// - recvmsg has just succeeded with `header`.
/// - This is called once for it.
unsafe fn take_descriptors(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut taken = Vec::new();
    // SAFETY: CMSG_* walk the control area within msg_controllen, which the kernel has set; data may be unaligned.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while !control.is_null() {
            if (*control).cmsg_level == libc::SOL_SOCKET && (*control).cmsg_type == libc::SCM_RIGHTS {
                let bytes = ((*control).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
                let data = libc::CMSG_DATA(control).cast::<RawFd>();
                for index in 0..bytes / size_of::<RawFd>() {
                    taken.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
                }
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    taken
}
