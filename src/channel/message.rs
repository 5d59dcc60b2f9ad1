//! What predecessor and successor say to each other: two enums, and for each a pure encode and decode over bytes
//! and descriptors, laid out as in `docs/protocol.md`. A message that the other side's newer release knows and this
//! one does not decodes to `None`; anything wrong is an [`Error::Protocol`] with a line, never a panic. Called by
//! [`super::transport`]; the values are made and consumed by the supervisor and by `inherit`.

use super::hello::Hello;
use super::wire::{self, Field, Fields, Parsed, Writer, once, required};
use crate::error::{Error, Result};
use crate::sys::memfd;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A longer reason is cut.
const MAX_REASON: usize = 4096;
/// An upgrade has eight; what is more than this is for nobody to read.
const MAX_PHASES: usize = 64;

/// What the predecessor says.
#[derive(Debug)]
pub enum FromPredecessor {
    /// Who and what is handed over.
    Hello(Box<Hello>),
    /// The promised state: a sealed memfd.
    State(OwnedFd),
    /// Serve; never taken back.
    Commit,
    /// Give up: why.
    Abort(String),
    /// Everything is handed over.
    Released {
        /// A signal asked for a further upgrade meanwhile.
        upgrade_requested: bool,
        /// What the upgrade spent its time on, for the status: name and milliseconds.
        phases: Vec<(String, u64)>,
    },
    /// The whole service is to stop.
    Stop,
    /// COMMIT may come until then (CLOCK_MONOTONIC, nanoseconds).
    Extend {
        /// As in [`Hello::commit_deadline`].
        commit_deadline: u64,
    },
}

/// What the successor says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromSuccessor {
    /// It could serve.
    Ready,
    /// It serves.
    Live,
    /// It is told to stop before it was released: take it for its death.
    Stopping,
    /// It gives up before it serves: why.
    Withdrawn(String),
    /// Its start takes so much longer.
    Extend {
        /// Milliseconds from the receipt of this.
        ms: u64,
    },
}

/// A message ready to be sent; keeps what it attaches open until then.
#[derive(Debug)]
pub struct Encoded<'a> {
    /// The record.
    pub bytes: Vec<u8>,
    pub(super) attached: Vec<BorrowedFd<'a>>,
    pub(super) table: Option<OwnedFd>,
}

impl Encoded<'_> {
    /// What goes with the bytes, in order.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.attached.iter().copied().chain(self.table.as_ref().map(AsFd::as_fd)).collect()
    }
}

/// The names of a message in the log and at the fault points.
#[derive(Debug)]
pub struct Names {
    /// As in `docs/protocol.md`.
    pub name: &'static str,
    /// Before it is sent.
    pub(super) send: &'static str,
    /// After it was sent.
    pub(super) sent: &'static str,
    /// After it was received and understood.
    pub(super) received: &'static str,
}

macro_rules! names {
    ($name:literal) => {
        &Names {
            name: $name,
            send: concat!("send:", $name),
            sent: concat!("sent:", $name),
            received: concat!("received:", $name),
        }
    };
}

/// One direction of the channel.
pub trait Message: Sized {
    /// Its names.
    fn names(&self) -> &'static Names;
    /// As bytes and descriptors; an error says what cannot be sent.
    fn encode(&self) -> Result<Encoded<'_>>;
    /// From bytes and descriptors; surplus ones are closed. `None`: a newer release's, to be skipped.
    fn decode(record: &[u8], descriptors: Vec<OwnedFd>) -> Result<Option<Self>>;
}

// Message types. The top bit tells who speaks.
pub(super) const HELLO: u16 = 1;
const STATE: u16 = 2;
const COMMIT: u16 = 3;
const ABORT: u16 = 4;
const RELEASED: u16 = 5;
const STOP: u16 = 6;
const EXTEND_COMMIT: u16 = 7;
const SUCCESSOR: u16 = 0x8000;
const READY: u16 = SUCCESSOR | 1;
const LIVE: u16 = SUCCESSOR | 2;
const STOPPING: u16 = SUCCESSOR | 3;
const WITHDRAWN: u16 = SUCCESSOR | 4;
const EXTEND_START: u16 = SUCCESSOR | 5;

// Field tags; more are in hello.rs and table.rs. A tag means the same wherever it stands.
pub(super) const COMMIT_DEADLINE: u16 = 5;
const REASON: u16 = 9;
const UPGRADE_REQUESTED: u16 = 10;
const MS: u16 = 11;
const PHASE: u16 = 24;
const PHASE_NAME: u16 = 25;

impl Message for FromPredecessor {
    fn names(&self) -> &'static Names {
        match self {
            FromPredecessor::Hello(_) => names!("HELLO"),
            FromPredecessor::State(_) => names!("STATE"),
            FromPredecessor::Commit => names!("COMMIT"),
            FromPredecessor::Abort(_) => names!("ABORT"),
            FromPredecessor::Released { .. } => names!("RELEASED"),
            FromPredecessor::Stop => names!("STOP"),
            FromPredecessor::Extend { .. } => names!("EXTEND"),
        }
    }

    fn encode(&self) -> Result<Encoded<'_>> {
        let mut attached = Vec::new();
        let out = match self {
            FromPredecessor::Hello(hello) => return hello.encode(),
            FromPredecessor::State(memfd) => {
                attached.push(memfd.as_fd());
                Writer::record(STATE)
            }
            FromPredecessor::Commit => Writer::record(COMMIT),
            FromPredecessor::Abort(reason) => with_reason(ABORT, reason),
            FromPredecessor::Released { upgrade_requested, phases } => {
                let mut out = with_field(RELEASED, UPGRADE_REQUESTED, &[u8::from(*upgrade_requested)]);
                for (name, ms) in phases.iter().take(MAX_PHASES) {
                    out.nested(PHASE, |inner| {
                        inner.field(PHASE_NAME, name.as_bytes());
                        inner.field(MS, &ms.to_le_bytes());
                    });
                }
                out
            }
            FromPredecessor::Stop => Writer::record(STOP),
            FromPredecessor::Extend { commit_deadline } => {
                with_field(EXTEND_COMMIT, COMMIT_DEADLINE, &commit_deadline.to_le_bytes())
            }
        };
        Ok(Encoded { bytes: out.0, attached, table: None })
    }

    fn decode(record: &[u8], descriptors: Vec<OwnedFd>) -> Result<Option<FromPredecessor>> {
        decode_from("predecessor", 0, record, |kind, fields| {
            let mut descriptors = descriptors.into_iter();
            Ok(Some(match kind {
                HELLO => FromPredecessor::Hello(Box::new(Hello::decode(fields, &mut descriptors)?)),
                STATE => {
                    no_fields(fields)?;
                    let memfd = descriptors.next().ok_or("the memfd is missing")?;
                    if !memfd::is_sealed(memfd.as_fd()) {
                        return Err("its descriptor is not a sealed memfd".into());
                    }
                    FromPredecessor::State(memfd)
                }
                COMMIT => no_fields(fields).map(|()| FromPredecessor::Commit)?,
                ABORT => FromPredecessor::Abort(reason(fields)?),
                RELEASED => released(fields)?,
                STOP => no_fields(fields).map(|()| FromPredecessor::Stop)?,
                EXTEND_COMMIT => {
                    let name = "commit deadline";
                    let commit_deadline = one_field(fields, COMMIT_DEADLINE, name, |f| f.u64(name))?;
                    FromPredecessor::Extend { commit_deadline }
                }
                _ => return Ok(None),
            }))
        })
    }
}

impl Message for FromSuccessor {
    fn names(&self) -> &'static Names {
        match self {
            FromSuccessor::Ready => names!("READY"),
            FromSuccessor::Live => names!("LIVE"),
            FromSuccessor::Stopping => names!("STOPPING"),
            FromSuccessor::Withdrawn(_) => names!("WITHDRAWN"),
            FromSuccessor::Extend { .. } => names!("EXTEND"),
        }
    }

    fn encode(&self) -> Result<Encoded<'_>> {
        let out = match self {
            FromSuccessor::Ready => Writer::record(READY),
            FromSuccessor::Live => Writer::record(LIVE),
            FromSuccessor::Stopping => Writer::record(STOPPING),
            FromSuccessor::Withdrawn(reason) => with_reason(WITHDRAWN, reason),
            FromSuccessor::Extend { ms } => with_field(EXTEND_START, MS, &ms.to_le_bytes()),
        };
        Ok(Encoded { bytes: out.0, attached: Vec::new(), table: None })
    }

    fn decode(record: &[u8], _descriptors: Vec<OwnedFd>) -> Result<Option<FromSuccessor>> {
        decode_from("successor", SUCCESSOR, record, |kind, fields| {
            Ok(Some(match kind {
                READY => no_fields(fields).map(|()| FromSuccessor::Ready)?,
                LIVE => no_fields(fields).map(|()| FromSuccessor::Live)?,
                STOPPING => no_fields(fields).map(|()| FromSuccessor::Stopping)?,
                WITHDRAWN => FromSuccessor::Withdrawn(reason(fields)?),
                EXTEND_START => FromSuccessor::Extend {
                    ms: one_field(fields, MS, "milliseconds", |f| f.u64("milliseconds"))?,
                },
                _ => return Ok(None),
            }))
        })
    }
}

/// What the two directions have in common: the header, unknown types, and the sentence around what is wrong.
fn decode_from<T>(
    sender: &str,
    side: u16,
    record: &[u8],
    decode: impl FnOnce(u16, Fields) -> Parsed<Option<T>>,
) -> Result<Option<T>> {
    let wrong = |what: &str, why: String| Error::Protocol(format!("the {sender} sent {what}: {why}"));
    let (header, fields) =
        wire::open(record).map_err(|why| wrong("what is no message of this protocol", why))?;
    let name = name_of(header.kind).map_or_else(|| format!("message {}", header.kind), str::to_string);
    if header.kind & SUCCESSOR != side {
        return Err(wrong(&name, "that is the other side's to say".into()));
    }
    match decode(header.kind, fields).map_err(|why| wrong(&name, why))? {
        None if header.critical => {
            Err(wrong(&name, "it is critical and this release does not know it".into()))
        }
        message => Ok(message),
    }
}

fn name_of(kind: u16) -> Option<&'static str> {
    Some(match kind {
        HELLO => "HELLO",
        STATE => "STATE",
        COMMIT => "COMMIT",
        ABORT => "ABORT",
        RELEASED => "RELEASED",
        STOP => "STOP",
        EXTEND_COMMIT | EXTEND_START => "EXTEND",
        READY => "READY",
        LIVE => "LIVE",
        STOPPING => "STOPPING",
        WITHDRAWN => "WITHDRAWN",
        _ => return None,
    })
}

fn with_field(kind: u16, tag: u16, value: &[u8]) -> Writer {
    let mut out = Writer::record(kind);
    out.field(tag, value);
    out
}

fn with_reason(kind: u16, reason: &str) -> Writer {
    let end = (0..=reason.len().min(MAX_REASON)).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
    with_field(kind, REASON, &reason.as_bytes()[..end])
}

/// A reason ends up in log lines and in the one-line answers of the control socket, so it is made one line.
fn reason(fields: Fields) -> Parsed<String> {
    let raw = one_field(fields, REASON, "reason", |field| Ok(field.value.to_vec()))?;
    Ok(one_line(&raw))
}

fn released(mut fields: Fields) -> Parsed<FromPredecessor> {
    let name = "upgrade request";
    let (mut upgrade_requested, mut phases) = (None, Vec::new());
    while let Some(field) = fields.next_field()? {
        match field.tag {
            UPGRADE_REQUESTED => once(&mut upgrade_requested, name, field.bool(name)?)?,
            PHASE if phases.len() < MAX_PHASES => phases.push(phase(&field)?),
            PHASE => {}
            _ => field.skip()?,
        }
    }
    Ok(FromPredecessor::Released { upgrade_requested: required(upgrade_requested, name)?, phases })
}

fn phase(field: &Field) -> Parsed<(String, u64)> {
    let (mut name, mut ms) = (None, None);
    let mut fields = Fields::new(field.value);
    while let Some(field) = fields.next_field()? {
        match field.tag {
            PHASE_NAME => once(&mut name, "name of a phase", one_line(field.value))?,
            MS => once(&mut ms, "time of a phase", field.u64("time of a phase")?)?,
            _ => field.skip()?,
        }
    }
    Ok((required(name, "name of a phase")?, required(ms, "time of a phase")?))
}

fn one_line(text: &[u8]) -> String {
    String::from_utf8_lossy(text).replace(char::is_control, " ")
}

fn no_fields(mut fields: Fields) -> Parsed<()> {
    while let Some(field) = fields.next_field()? {
        field.skip()?;
    }
    Ok(())
}

fn one_field<T>(mut fields: Fields, tag: u16, name: &str, parse: impl Fn(&Field) -> Parsed<T>) -> Parsed<T> {
    let mut slot = None;
    while let Some(field) = fields.next_field()? {
        if field.tag == tag {
            once(&mut slot, name, parse(&field)?)?;
        } else {
            field.skip()?;
        }
    }
    required(slot, name)
}
