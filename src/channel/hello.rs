//! HELLO, the first message: who hands over to whom, what, and until when. Called by [`super::message`]; made by the
//! predecessor's supervisor, consumed by `inherit`.

use super::message::{COMMIT_DEADLINE, Encoded, HELLO};
use super::table::{self, TableEntry};
use super::wire::{Field, Fields, Parsed, Writer, once, required};
use crate::error::{Error, Result};
use crate::sys::{fd, memfd};
use std::os::fd::{AsFd, OwnedFd};

/// As many older generations can be named in a HELLO: a message takes 253 descriptors, one for each.
pub const MAX_DRAINERS: usize = 200;
/// A longer table goes into a memfd.
const MAX_INLINE_TABLE: usize = 32 * 1024;

// Field tags.
const NONCE: u16 = 1;
const GENERATION: u16 = 2;
const PID: u16 = 3;
const START: u16 = 4;
const STATE_PROMISED: u16 = 6;
const DRAINER: u16 = 7;
const TABLE_SIZE: u16 = 8;
const DRAINER_GENERATION: u16 = 26;

/// Proves that HELLO and SHELLFLIP_CHANNEL come from the same upgrade.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub [u8; 16]);

/// A process that cannot be mistaken for a later one with its number.
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Field 22 of /proc/PID/stat.
    pub start: u64,
    /// Readable once it is dead.
    pub pidfd: OwnedFd,
    /// Which generation it is, where that is known.
    pub generation: Option<u32>,
}

/// The first message, queued before the successor runs.
#[derive(Debug)]
pub struct Hello {
    /// The one in SHELLFLIP_CHANNEL.
    pub nonce: Nonce,
    /// The successor's, from 1.
    pub generation: u32,
    /// Who sends this.
    pub predecessor: Process,
    /// The successor waits for COMMIT until then (CLOCK_MONOTONIC, nanoseconds).
    pub commit_deadline: u64,
    /// A STATE message will come.
    pub state_promised: bool,
    /// The descriptors from 3 on.
    pub table: Vec<TableEntry>,
    /// The generations that still drain, the predecessor not among them.
    pub drainers: Vec<Process>,
}

impl Hello {
    pub(super) fn encode(&self) -> Result<Encoded<'_>> {
        let cannot = |why: String| Error::Invalid(format!("cannot hand over: {why}"));
        if self.drainers.len() > MAX_DRAINERS {
            let number = self.drainers.len();
            return Err(cannot(format!(
                "{number} older generations still drain, {MAX_DRAINERS} is the most"
            )));
        }
        let mut out = Writer::record(HELLO);
        out.field(NONCE, &self.nonce.0);
        out.field(GENERATION, &self.generation.to_le_bytes());
        self.predecessor.encode(&mut out);
        out.field(COMMIT_DEADLINE, &self.commit_deadline.to_le_bytes());
        out.field(STATE_PROMISED, &[u8::from(self.state_promised)]);
        let mut attached = vec![self.predecessor.pidfd.as_fd()];
        for drainer in &self.drainers {
            out.nested(DRAINER, |inner| {
                drainer.encode(inner);
                if let Some(generation) = drainer.generation {
                    inner.field(DRAINER_GENERATION, &generation.to_le_bytes());
                }
            });
            attached.push(drainer.pidfd.as_fd());
        }
        let Writer(entries) = table::encode(&self.table).map_err(cannot)?;
        if entries.len() <= MAX_INLINE_TABLE {
            out.0.extend_from_slice(&entries);
            return Ok(Encoded { bytes: out.0, attached, table: None });
        }
        let what = "cannot make a memfd for the table of descriptors";
        let memfd = memfd::create(c"shellflip-table").map_err(|errno| Error::system(what, errno))?;
        fd::write_all(memfd.as_fd(), &entries)
            .and_then(|()| memfd::seal(memfd.as_fd()))
            .map_err(|errno| Error::system(what, errno))?;
        out.field(TABLE_SIZE, &(entries.len() as u64).to_le_bytes());
        Ok(Encoded { bytes: out.0, attached, table: Some(memfd) })
    }

    pub(super) fn decode(
        mut fields: Fields,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
    ) -> Parsed<Hello> {
        let (mut nonce, mut generation, mut pid, mut start) = (None, None, None, None);
        let (mut deadline, mut promised, mut table_size) = (None, None, None);
        let (mut table, mut drainers) = (Vec::new(), Vec::new());
        while let Some(field) = fields.next_field()? {
            match field.tag {
                NONCE => once(&mut nonce, "nonce", Nonce(field.array("nonce")?))?,
                GENERATION => once(&mut generation, "generation", field.u32("generation")?)?,
                PID => once(&mut pid, "pid", pid_from(&field)?)?,
                START => once(&mut start, "start time", field.u64("start time")?)?,
                COMMIT_DEADLINE => once(&mut deadline, "commit deadline", field.u64("commit deadline")?)?,
                STATE_PROMISED => once(&mut promised, "state promise", field.bool("state promise")?)?,
                TABLE_SIZE => once(&mut table_size, "table size", field.u64("table size")?)?,
                DRAINER => drainers.push(drainer_from(&field)?),
                table::ENTRY => {
                    let entry = table::decode_entry(&field);
                    table.push(entry.map_err(|wrong| table::in_entry(table.len(), &wrong))?);
                }
                _ => field.skip()?,
            }
        }
        let mut attached = |whose: &str| descriptors.next().ok_or_else(|| format!("{whose} is missing"));
        let (pid, start) = (required(pid, "pid")?, required(start, "start time")?);
        let generation = required(generation, "generation")?;
        if generation == 0 {
            return Err("its generation is 0, which has no predecessor".into());
        }
        let pidfd = attached("the pidfd of the predecessor")?;
        let predecessor = Process { pid, start, pidfd, generation: Some(generation - 1) };
        let drainers = drainers
            .into_iter()
            .map(|(pid, start, generation)| {
                let pidfd = attached("the pidfd of a draining generation")?;
                Ok(Process { pid, start, pidfd, generation })
            })
            .collect::<Parsed<Vec<_>>>()?;
        if let Some(size) = table_size {
            if !table.is_empty() {
                return Err("it has a table of descriptors and a memfd with another one".into());
            }
            table = table::read(&attached("the memfd with the table of descriptors")?, size)?;
        }
        table::check_unique(&table)?;
        Ok(Hello {
            nonce: required(nonce, "nonce")?,
            generation,
            predecessor,
            commit_deadline: required(deadline, "commit deadline")?,
            state_promised: required(promised, "state promise")?,
            table,
            drainers,
        })
    }
}

impl Process {
    fn encode(&self, out: &mut Writer) {
        out.field(PID, &self.pid.to_le_bytes());
        out.field(START, &self.start.to_le_bytes());
    }
}

fn drainer_from(field: &Field) -> Parsed<(u32, u64, Option<u32>)> {
    let (mut pid, mut start, mut generation) = (None, None, None);
    let name = "generation of a draining process";
    let mut fields = Fields::new(field.value);
    while let Some(field) = fields.next_field()? {
        match field.tag {
            PID => once(&mut pid, "pid of a draining generation", pid_from(&field)?)?,
            START => once(&mut start, "start time of a draining generation", field.u64("start time")?)?,
            DRAINER_GENERATION => once(&mut generation, name, field.u32(name)?)?,
            _ => field.skip()?,
        }
    }
    Ok((
        required(pid, "pid of a draining generation")?,
        required(start, "start time of a draining generation")?,
        generation,
    ))
}

/// 0 and negative numbers mean whole groups to kill(2): they must never get as far as there.
fn pid_from(field: &Field) -> Parsed<u32> {
    let pid = field.u32("pid")?;
    if pid == 0 || i32::try_from(pid).is_err() { Err(format!("its pid is {pid}")) } else { Ok(pid) }
}

impl Nonce {
    /// A new one.
    pub fn generate() -> Result<Nonce> {
        fd::random_16().map(Nonce).map_err(|errno| Error::system("cannot get random bytes", errno))
    }

    /// From the 32 hexadecimal digits that [`Nonce`] displays as.
    pub fn from_hex(text: &[u8]) -> Option<Nonce> {
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let mut bytes = [0; 16];
        if text.len() != 2 * bytes.len() {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Nonce(bytes))
    }
}

impl std::fmt::Display for Nonce {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A secret: it must not end up in a log by way of a derived Debug.
impl std::fmt::Debug for Nonce {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("Nonce(…)")
    }
}
