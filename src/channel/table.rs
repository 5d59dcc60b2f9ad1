//! The table of descriptors in HELLO: what the descriptors from 3 on are, in their order. Part of the record when
//! it is small, in a sealed memfd when it is not; the bytes are the same. Called by [`super::message`].

use super::wire::{FIELD_HEADER, Field, Fields, Parsed, Writer, once, required};
use crate::name_set::NameSet;
use crate::socket::PathOwner;
use crate::sys::{fd, memfd};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Which descriptors go on being served by a process that shuts down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Keep {
    /// Not this one.
    #[default]
    None,
    /// After a stop, not after an upgrade.
    Stop,
    /// After either.
    Always,
}

/// One descriptor that is passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableEntry {
    /// Unique, any 1 to 255 bytes.
    pub name: Arc<[u8]>,
    /// Connections or datagrams arrive here; else it is only carried.
    pub listener: bool,
    /// For a unix socket with a path that this library bound.
    pub owner: Option<PathOwner>,
    /// Whether it outlives a shutdown.
    pub keep: Keep,
    /// It is the library's control socket, and no business of the host's.
    pub control: bool,
    /// The address that it was asked for with, byte for byte, where the same bytes find it again without a comparison.
    pub address: Option<Arc<[u8]>>,
}

impl TableEntry {
    /// One that is only carried, and nothing else is known of.
    pub fn named(name: &[u8]) -> TableEntry {
        TableEntry {
            name: name.into(),
            listener: false,
            owner: None,
            keep: Keep::None,
            control: false,
            address: None,
        }
    }
}

const MAX_NAME: usize = 255;
const MAX_PATH: usize = 4096;
const MAX_ADDRESS: usize = 4096;
/// A table in a memfd is not longer: 50,000 entries with the longest names.
const MAX_TABLE: u64 = 16 * 1024 * 1024;

/// The field that is one entry.
pub const ENTRY: u16 = 16;
const NAME: u16 = 17;
const LISTENER: u16 = 18;
const KEEP: u16 = 19;
const OWNER_PATH: u16 = 20;
const OWNER_DEV: u16 = 21;
const OWNER_INO: u16 = 22;
const CONTROL: u16 = 23;
const ADDRESS: u16 = 27;

/// The table as fields, or which entry cannot be sent.
pub fn encode(table: &[TableEntry]) -> Parsed<Writer> {
    debug_assert!(check_unique(table).is_ok(), "the registry gives each its own");
    /// What the fields of most entries take beside these texts.
    const REST: usize = 48;
    let text =
        |entry: &TableEntry| entry.name.len() + entry.address.as_ref().map_or(0, |address| address.len());
    let mut out = Writer(Vec::with_capacity(table.iter().map(|entry| text(entry) + REST).sum()));
    for entry in table {
        check(entry)?;
        out.nested(ENTRY, |entry_out| {
            entry_out.field(NAME, &entry.name);
            entry_out.field(LISTENER, &[u8::from(entry.listener)]);
            let keep = match entry.keep {
                Keep::None => 0,
                Keep::Stop => 1,
                Keep::Always => 2,
            };
            entry_out.field(KEEP, &[keep]);
            if let Some(owner) = &entry.owner {
                entry_out.field(OWNER_PATH, &owner.path);
                entry_out.field(OWNER_DEV, &owner.dev.to_le_bytes());
                entry_out.field(OWNER_INO, &owner.ino.to_le_bytes());
            }
            // Not critical: to a release that does not know it this is one more listener that nobody claims.
            if entry.control {
                entry_out.field(CONTROL, &[1]);
            }
            // Not critical: who does not know it compares.
            if let Some(address) = &entry.address {
                entry_out.field(ADDRESS, address);
            }
        });
    }
    if out.0.len() as u64 > MAX_TABLE {
        return Err(format!("the table of {} descriptors is longer than {MAX_TABLE} bytes", table.len()));
    }
    Ok(out)
}

/// One entry, from the value of its field.
pub fn decode_entry(field: &Field) -> Parsed<TableEntry> {
    let (mut name, mut listener, mut keep) = (None, None, None);
    let (mut path, mut dev, mut ino) = (None, None, None);
    let (mut control, mut address) = (None, None);
    let mut fields = Fields::new(field.value);
    while let Some(field) = fields.next_field()? {
        match field.tag {
            NAME => once(&mut name, "name", field.value.into())?,
            LISTENER => once(&mut listener, "listener mark", field.bool("listener mark")?)?,
            KEEP => once(&mut keep, "keep", field.u8("keep")?)?,
            OWNER_PATH => once(&mut path, "path", field.value.to_vec())?,
            OWNER_DEV => once(&mut dev, "device number", field.u64("device number")?)?,
            OWNER_INO => once(&mut ino, "inode number", field.u64("inode number")?)?,
            CONTROL => once(&mut control, "control mark", field.bool("control mark")?)?,
            ADDRESS => once(&mut address, "address", field.value.into())?,
            _ => field.skip()?,
        }
    }
    let owner = match (path, dev, ino) {
        (None, None, None) => None,
        (Some(path), Some(dev), Some(ino)) => Some(PathOwner { path, dev, ino }),
        _ => return Err("it has a path without its device and inode numbers, or these without it".into()),
    };
    let keep = match required(keep, "keep")? {
        0 => Keep::None,
        1 => Keep::Stop,
        2 => Keep::Always,
        other => return Err(format!("its keep is {other}, which this release does not know")),
    };
    let entry = TableEntry {
        name: required(name, "name")?,
        listener: required(listener, "listener mark")?,
        owner,
        keep,
        control: control.unwrap_or(false),
        address,
    };
    check(&entry)?;
    Ok(entry)
}

/// The table in the memfd that came with a HELLO which says that it has `size` bytes.
pub fn read(memfd: &OwnedFd, size: u64) -> Parsed<Vec<TableEntry>> {
    if !memfd::is_sealed(memfd.as_fd()) {
        return Err("its table of descriptors is not in a sealed memfd".into());
    }
    let is = fd::size(memfd.as_fd()).map_err(|errno| format!("its table cannot be read: {errno:?}"))?;
    if is != size || size > MAX_TABLE {
        return Err(format!("its table of descriptors has {is} bytes, {size} were announced"));
    }
    let bytes = usize::try_from(size)
        .ok()
        .and_then(|size| fd::read_from_start(memfd.as_fd(), size).ok())
        .ok_or("its table of descriptors cannot be read")?;
    /// The fields that each has, with a name of one byte.
    const SHORTEST: usize = 4 * FIELD_HEADER + 3;
    let mut table = Vec::with_capacity(bytes.len() / SHORTEST);
    let mut fields = Fields::new(&bytes);
    while let Some(field) = fields.next_field()? {
        match field.tag {
            ENTRY => table.push(decode_entry(&field).map_err(|wrong| in_entry(table.len(), &wrong))?),
            _ => field.skip()?,
        }
    }
    Ok(table)
}

/// Which entry is wrong, counted as descriptors are.
pub fn in_entry(index: usize, wrong: &str) -> String {
    format!("in the entry of descriptor {}, {wrong}", index + fd::FIRST as usize)
}

/// A name twice could not be claimed twice.
pub fn check_unique(table: &[TableEntry]) -> Parsed<()> {
    let mut names = NameSet::with_capacity_and_hasher(table.len(), Default::default());
    match table.iter().find(|entry| !names.insert(&*entry.name)) {
        None => Ok(()),
        Some(entry) => Err(format!("it names two descriptors {}", entry.name.escape_ascii())),
    }
}

fn check(entry: &TableEntry) -> Parsed<()> {
    if !(1..=MAX_NAME).contains(&entry.name.len()) {
        return Err(format!("a name has {} bytes, 1 to {MAX_NAME} are allowed", entry.name.len()));
    }
    if let Some(length) =
        entry.address.as_ref().map(|address| address.len()).filter(|&length| length > MAX_ADDRESS)
    {
        return Err(format!("an address has {length} bytes, {MAX_ADDRESS} is the most"));
    }
    if let Some(owner) = &entry.owner {
        let path = &owner.path;
        if !(1..=MAX_PATH).contains(&path.len()) || path.contains(&0) {
            return Err(format!(
                "the path of {} is empty, too long or holds a NUL",
                entry.name.escape_ascii()
            ));
        }
    }
    Ok(())
}
