//! The channel between predecessor and successor: one AF_UNIX SOCK_SEQPACKET socketpair and the messages on it.
//!
//! [`wire`] knows records and fields, [`message`] what is said ([`message::FromPredecessor`],
//! [`message::FromSuccessor`]), [`hello`] its longest, [`table`] the list of descriptors that HELLO carries, [`transport`] how it is sent.
//! The format is documented in `docs/protocol.md`, and the tests compare the two byte by byte. Called by the
//! supervisor on one side, by `inherit` and the supervisor on the other; nothing here waits or decides.

pub mod hello;
pub mod message;
pub mod table;
pub mod transport;
pub mod wire;

pub use hello::{Hello, Nonce, Process};
pub use message::{FromPredecessor, FromSuccessor};
pub use table::{Keep, TableEntry};
pub use transport::{Channel, Received, Sent, ToPredecessor, ToSuccessor, pair};

#[cfg(test)]
mod tests;
