//! What decides whether an ELF program is started: for which machine it is, and which interpreter (ld.so) it needs. The
//! numbers are those of elf(5). Called by `executable`.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// How every ELF file begins.
pub const MAGIC: &[u8] = b"\x7fELF";

/// The larger of the two headers.
const HEADER: usize = 64;
/// The kernel takes no larger table of segments: load_elf_phdrs in fs/binfmt_elf.c.
const LARGEST_TABLE: u64 = 65_536;
/// PATH_MAX: no interpreter's path is longer.
const LONGEST_PATH: u64 = 4096;
const ET_EXEC: u64 = 2;
const ET_DYN: u64 = 3;
const PT_LOAD: u64 = 1;
const PT_INTERP: u64 = 3;

/// Which machine a program is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// EM_*.
    pub number: u64,
    little_endian: bool,
}

/// Of one program.
#[derive(Debug, PartialEq, Eq)]
pub struct Elf {
    /// For which it is.
    pub machine: Machine,
    /// Which the kernel starts in its place; a static program has none.
    pub interpreter: Option<PathBuf>,
}

/// Where the fields are that differ between the two classes.
struct Layout {
    /// The size of offsets and lengths.
    word: usize,
    phoff: usize,
    phentsize: usize,
    phnum: usize,
    /// The size of a segment's entry, and the fields in it.
    entry: u64,
    p_offset: usize,
    p_filesz: usize,
}

const OF_32: Layout =
    Layout { word: 4, phoff: 28, phentsize: 42, phnum: 44, entry: 32, p_offset: 4, p_filesz: 16 };
const OF_64: Layout =
    Layout { word: 8, phoff: 32, phentsize: 54, phnum: 56, entry: 56, p_offset: 8, p_filesz: 32 };

impl Machine {
    /// Kernels for this one run programs for the other, too, if they are built for that.
    pub fn may_run(self, other: Machine) -> bool {
        const X86_64_AND_386: (u64, u64) = (62, 3);
        const AARCH64_AND_ARM: (u64, u64) = (183, 40);
        const PPC64_AND_PPC: (u64, u64) = (21, 20);
        self == other
            || self.little_endian == other.little_endian
                && [X86_64_AND_386, AARCH64_AND_ARM, PPC64_AND_PPC].contains(&(self.number, other.number))
    }
}

impl Elf {
    /// `None`: it is no program, or damaged. One that was copied in part is executed all the same, and dies of SIGBUS.
    pub fn read(file: &File) -> Option<Elf> {
        let header = bytes(file, 0, HEADER)?;
        let layout = match header[4] {
            1 => OF_32,
            2 => OF_64,
            _ => return None,
        };
        let little_endian = match header[5] {
            1 => true,
            2 => false,
            _ => return None,
        };
        let number = |bytes: &[u8], at: usize, size: usize| number(&bytes[at..at + size], little_endian);
        if ![ET_EXEC, ET_DYN].contains(&number(&header, 16, 2)) {
            return None;
        }
        let machine = Machine { number: number(&header, 18, 2), little_endian };
        let table = number(&header, layout.phoff, layout.word);
        let length = number(&header, layout.phnum, 2) * layout.entry;
        if number(&header, layout.phentsize, 2) != layout.entry || length == 0 || length > LARGEST_TABLE {
            return None;
        }
        let table = bytes(file, table, length as usize)?;
        let segments = || table.chunks_exact(layout.entry as usize);
        let place = |segment: &[u8]| {
            (number(segment, layout.p_offset, layout.word), number(segment, layout.p_filesz, layout.word))
        };
        let size = file.metadata().ok()?.len();
        let is_cut = |segment: &[u8]| {
            let (at, length) = place(segment);
            number(segment, 0, 4) == PT_LOAD && at.checked_add(length).is_none_or(|end| end > size)
        };
        if segments().any(is_cut) {
            return None;
        }
        let Some(segment) = segments().find(|segment| number(segment, 0, 4) == PT_INTERP) else {
            return Some(Elf { machine, interpreter: None });
        };
        let (at, length) = place(segment);
        if !(2..=LONGEST_PATH).contains(&length) {
            return None;
        }
        let path = bytes(file, at, length as usize)?;
        let end = path.iter().position(|byte| *byte == 0)?;
        let interpreter = Some(OsString::from_vec(path[..end].to_vec()).into());
        Some(Elf { machine, interpreter })
    }
}

/// `None`: the file ends before.
fn bytes(file: &File, at: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}

fn number(bytes: &[u8], little_endian: bool) -> u64 {
    let add = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
    if little_endian { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Option<Elf> {
        let folder = testkit::process::temp_dir();
        let path = folder.path().join("program");
        std::fs::write(&path, bytes).unwrap();
        Elf::read(&File::open(path).unwrap())
    }

    /// A header, one segment, and the path that it leads to.
    fn program(class: u8, big_endian: bool, machine: u16, path: &[u8]) -> Vec<u8> {
        let layout = if class == 1 { OF_32 } else { OF_64 };
        let mut file = vec![0; HEADER + layout.entry as usize];
        file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, if big_endian { 2 } else { 1 }]);
        let mut put = |at: usize, size: usize, number: u64| {
            let bytes = number.to_le_bytes();
            for (index, byte) in bytes[..size].iter().enumerate() {
                file[at + if big_endian { size - 1 - index } else { index }] = *byte;
            }
        };
        put(16, 2, ET_DYN);
        put(18, 2, machine.into());
        put(layout.phoff, layout.word, HEADER as u64);
        put(layout.phentsize, 2, layout.entry);
        put(layout.phnum, 2, 1);
        put(HEADER, 4, PT_INTERP);
        put(HEADER + layout.p_offset, layout.word, HEADER as u64 + layout.entry);
        put(HEADER + layout.p_filesz, layout.word, path.len() as u64);
        [&file, path].concat()
    }

    #[test]
    fn machine_and_interpreter_are_read_in_both_classes_and_byte_orders() {
        for class in [1, 2] {
            for big_endian in [false, true] {
                let elf = read(&program(class, big_endian, 183, b"/lib/ld.so\0")).unwrap();
                let machine = Machine { number: 183, little_endian: !big_endian };
                assert_eq!(elf, Elf { machine, interpreter: Some("/lib/ld.so".into()) });
            }
        }
        let own = Elf::read(&File::open("/proc/self/exe").unwrap()).unwrap();
        assert_eq!(own.machine.little_endian, cfg!(target_endian = "little"));
    }

    #[test]
    fn what_is_damaged_is_no_program() {
        let whole = program(2, false, 62, b"/lib/ld.so\0");
        assert!(read(&whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length]), None, "{length} bytes");
        }
        for (at, value) in [(4, 3), (5, 3), (16, 1), (54, 32), (56, 0), (57, 255), (HEADER + 39, 255)] {
            let mut damaged = whole.clone();
            damaged[at] = value;
            assert_eq!(read(&damaged), None, "byte {at} is {value}");
        }
        assert_eq!(read(&program(2, false, 62, b"/lib/ld.so")), None);
        let mut cut = whole;
        cut[HEADER] = PT_LOAD as u8;
        assert!(read(&cut).is_some());
        cut.pop();
        assert_eq!(read(&cut), None);
    }
}
