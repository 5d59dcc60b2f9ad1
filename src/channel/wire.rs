//! Records and fields: the outer layer of `docs/protocol.md`. Pure functions over bytes that come from another
//! process, perhaps of another release: they never panic, and what is wrong is said in words. Called by
//! [`super::message`] and [`super::table`].
//!
//! Errors here are the second half of a sentence; `message` puts who sent what before it.

/// The first four bytes of every record.
pub const MAGIC: [u8; 4] = *b"SFLP";
/// The version of the record layout. New messages and fields do not change it, see `docs/protocol.md`.
pub const VERSION: u16 = 1;
/// In the flags of a message or a field: who does not know it must refuse it.
pub const CRITICAL: u16 = 1;
/// Magic, version, message type, flags, two reserved bytes.
pub const HEADER: usize = 12;
/// Tag, flags, length.
pub const FIELD_HEADER: usize = 8;
/// No record is longer.
pub const MAX_RECORD: usize = 64 * 1024;

/// What a fragment of a record was, or what is wrong with it.
pub type Parsed<T> = Result<T, String>;

/// The part before the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The message type.
    pub kind: u16,
    /// Not to be skipped by who does not know the type.
    pub critical: bool,
}

/// One field, its value still raw.
#[derive(Debug, Clone, Copy)]
pub struct Field<'a> {
    /// What it is.
    pub tag: u16,
    /// Not to be skipped by who does not know the tag.
    pub critical: bool,
    /// Its bytes.
    pub value: &'a [u8],
}

/// Splits a record into its header and its fields.
pub fn open(record: &[u8]) -> Parsed<(Header, Fields<'_>)> {
    let (Some(header), Some(rest)) = (record.first_chunk::<HEADER>(), record.get(HEADER..)) else {
        return Err(format!("it has {} bytes, fewer than a header", record.len()));
    };
    let [m0, m1, m2, m3, v0, v1, k0, k1, f0, f1, _, _] = *header;
    if [m0, m1, m2, m3] != MAGIC {
        return Err("it does not begin with SFLP".into());
    }
    let version = u16::from_le_bytes([v0, v1]);
    if version != VERSION {
        return Err(format!(
            "it is of version {version} of the protocol, this release speaks version {VERSION}"
        ));
    }
    let critical = u16::from_le_bytes([f0, f1]) & CRITICAL != 0;
    Ok((Header { kind: u16::from_le_bytes([k0, k1]), critical }, Fields { rest, offset: HEADER }))
}

/// The fields of a record, of a nested field or of the table in a memfd, one by one.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Fields<'a> {
    /// The fields in `bytes`, which are not a record.
    pub fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields { rest: bytes, offset: 0 }
    }

    /// The next one, if any is left.
    pub fn next_field(&mut self) -> Parsed<Option<Field<'a>>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let cut = || format!("the field at byte {} is cut short", self.offset);
        let (head, rest) = self.rest.split_first_chunk::<FIELD_HEADER>().ok_or_else(cut)?;
        let [t0, t1, f0, f1, length @ ..] = *head;
        let length = u32::from_le_bytes(length) as usize;
        let (value, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
        self.rest = rest;
        self.offset += FIELD_HEADER + length;
        let critical = u16::from_le_bytes([f0, f1]) & CRITICAL != 0;
        Ok(Some(Field { tag: u16::from_le_bytes([t0, t1]), critical, value }))
    }
}

impl<'a> Field<'a> {
    /// What to do with a tag that this release does not know: skip it, unless it is critical.
    pub fn skip(&self) -> Parsed<()> {
        if self.critical {
            return Err(format!("its field {} is critical and this release does not know it", self.tag));
        }
        Ok(())
    }

    /// The value as exactly so many bytes.
    pub fn array<const N: usize>(&self, name: &str) -> Parsed<[u8; N]> {
        self.value.try_into().map_err(|_| format!("its {name} has {} bytes instead of {N}", self.value.len()))
    }

    /// The value as a number of 8 bits.
    pub fn u8(&self, name: &str) -> Parsed<u8> {
        self.array(name).map(u8::from_le_bytes)
    }

    /// The value as a number of 32 bits.
    pub fn u32(&self, name: &str) -> Parsed<u32> {
        self.array(name).map(u32::from_le_bytes)
    }

    /// The value as a number of 64 bits.
    pub fn u64(&self, name: &str) -> Parsed<u64> {
        self.array(name).map(u64::from_le_bytes)
    }

    /// The value as yes or no.
    pub fn bool(&self, name: &str) -> Parsed<bool> {
        match self.u8(name)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(format!("its {name} is {other}, neither 0 nor 1")),
        }
    }
}

/// Keeps the value of a field that may come once.
pub fn once<T>(slot: &mut Option<T>, name: &str, value: T) -> Parsed<()> {
    if slot.replace(value).is_some() { Err(more_than_one(name)) } else { Ok(()) }
}

// Not in each of the two functions that there are for every kind of value.
#[cold]
fn more_than_one(name: &str) -> String {
    format!("it has more than one {name}")
}

/// The value of a field that has to come.
pub fn required<T>(slot: Option<T>, name: &str) -> Parsed<T> {
    slot.ok_or_else(|| missing(name))
}

#[cold]
fn missing(name: &str) -> String {
    format!("it has no {name}")
}

/// A record, or a part of one, while it is written.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// A record of this type, without fields so far.
    ///
    /// Types and fields of version 1 are known to every release, so they are sent without [`CRITICAL`].
    pub fn record(kind: u16) -> Writer {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        Writer(bytes)
    }

    /// Adds a field.
    pub fn field(&mut self, tag: u16, value: &[u8]) {
        debug_assert!(value.len() <= MAX_RECORD);
        self.0.extend_from_slice(&tag.to_le_bytes());
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.0.extend_from_slice(value);
    }

    /// Adds a field that consists of fields.
    pub fn nested(&mut self, tag: u16, fill: impl FnOnce(&mut Writer)) {
        self.field(tag, &[]);
        let start = self.0.len();
        fill(self);
        let length = (self.0.len() - start) as u32;
        debug_assert!(length as usize <= MAX_RECORD);
        // The length is the last part of the header.
        self.0[start - 4..start].copy_from_slice(&length.to_le_bytes());
    }
}
