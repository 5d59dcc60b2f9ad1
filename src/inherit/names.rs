//! The names in LISTEN_FDNAMES: joined by colons, percent-encoded by us since ours may hold any byte, as they are
//! from systemd, whose names cannot. Called by `inherit` to read them and by the spawn to write them.

use crate::address::{NAME_MAX, encode_name};
use crate::error::{Error, Result};
use crate::name_set::NameSet;

/// A single environment string, its NUL included, is E2BIG beyond this (MAX_ARG_STRLEN, execve(2)).
const MAX_VARIABLE: usize = 128 * 1024;

/// The value of LISTEN_FDNAMES for these names; `None` if it is longer than exec takes.
pub fn encode<'a>(names: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut value = Vec::new();
    for (index, name) in names.into_iter().enumerate() {
        if index > 0 {
            value.push(b':');
        }
        value.extend_from_slice(encode_name(name).as_bytes());
    }
    (super::LISTEN_FDNAMES.len() + "=".len() + value.len() < MAX_VARIABLE).then_some(value)
}

/// Unique names for `count` descriptors from systemd, and whether somebody chose them.
pub fn from_systemd(listed: Option<&[u8]>, count: usize) -> Result<Vec<(Vec<u8>, bool)>> {
    // sd_listen_fds_with_names calls them so, too.
    const UNKNOWN: &[u8] = b"unknown";
    let listed: Vec<&[u8]> = match listed {
        None => vec![UNKNOWN; count],
        Some(b"") if count == 0 => vec![],
        Some(listed) => listed.split(|byte| *byte == b':').collect(),
    };
    if listed.len() != count {
        let names = listed.len();
        return Err(Error::Protocol(format!(
            "LISTEN_FDNAMES has {names} names for {count} descriptors in LISTEN_FDS"
        )));
    }
    if let Some(long) = listed.iter().find(|name| name.len() > NAME_MAX) {
        let length = long.len();
        return Err(Error::Protocol(format!(
            "a name in LISTEN_FDNAMES has {length} bytes, {NAME_MAX} are allowed"
        )));
    }
    // A name that is listed as `a#2` keeps it, wherever it stands.
    let mut taken: NameSet<Box<[u8]>> = listed.iter().map(|name| Box::from(*name)).collect();
    let mut given: NameSet<&[u8]> = NameSet::default();
    let unique = listed.iter().map(|listed| {
        let named = !matches!(*listed, b"" | UNKNOWN | b"stored");
        let name = if listed.is_empty() { UNKNOWN } else { listed };
        taken.insert(name.into());
        if given.insert(name) {
            return (name.to_vec(), named);
        }
        let mut further = Vec::new();
        for n in 2.. {
            let suffix = format!("#{n}");
            further = [&name[..name.len().min(NAME_MAX - suffix.len())], suffix.as_bytes()].concat();
            if taken.insert(further.as_slice().into()) {
                break;
            }
        }
        (further, named)
    });
    Ok(unique.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::decode_name;

    #[test]
    fn any_name_survives_the_way_through_the_environment() {
        let every_byte: Vec<u8> = (0..=255).collect();
        for names in [&[&every_byte[..255], &every_byte[1..]][..], &[b"tcp://[::1]:80"], &[b"100%", b"a b"]] {
            let value = encode(names.iter().copied()).unwrap();
            assert!(value.iter().all(|byte| (0x21..=0x7e).contains(byte)));
            let back: Vec<_> =
                value.split(|byte| *byte == b':').map(|name| decode_name(name).unwrap()).collect();
            assert_eq!(back, names);
        }
        assert_eq!(encode([&b"tcp://:80"[..], b"http"]).unwrap(), b"tcp%3A//%3A80:http");
        assert_eq!(encode([]).unwrap(), b"");
        for broken in [&b"%"[..], b"a%1", b"%g0", b"%+1"] {
            assert_eq!(decode_name(broken), None);
        }
    }

    #[test]
    fn names_that_exec_would_not_take_are_left_out() {
        let fits = vec![b'a'; 131_072 - "LISTEN_FDNAMES=".len() - 1];
        assert!(encode([&fits[..]]).is_some());
        assert!(encode([&fits[..], b""]).is_none());
        // The limit is the kernel's, so it is asked.
        let run = |value: &[u8]| {
            use std::os::unix::ffi::OsStrExt;
            let value = std::ffi::OsStr::from_bytes(value);
            std::process::Command::new("true")
                .env("LISTEN_FDNAMES", value)
                .status()
                .map(|status| status.success())
        };
        assert!(run(&fits).unwrap());
        assert!(run(&[&fits[..], b":"].concat()).is_err());
    }

    fn systemd(listed: &str, count: usize) -> Vec<(String, bool)> {
        let names = from_systemd(Some(listed.as_bytes()), count).unwrap();
        names.into_iter().map(|(name, named)| (String::from_utf8(name).unwrap(), named)).collect()
    }

    #[test]
    fn sockets_of_one_name_from_systemd_are_numbered() {
        let names =
            |listed: &str, count| systemd(listed, count).into_iter().map(|(n, _)| n).collect::<Vec<_>>();
        assert_eq!(names("http:http:tls:http", 4), ["http", "http#2", "tls", "http#3"]);
        assert_eq!(names("a:a:a#2:a", 4), ["a", "a#3", "a#2", "a#4"]);
        assert_eq!(names("100%25:100%25", 2), ["100%25", "100%25#2"]);
        let long = "x".repeat(255);
        assert_eq!(names(&format!("{long}:{long}"), 2), [long.clone(), format!("{}#2", "x".repeat(253))]);
    }

    #[test]
    fn a_stand_in_for_a_name_is_known_as_one() {
        let expected = [("unknown", false), ("unknown#2", false), ("stored", false), ("http.socket", true)];
        let expected: Vec<_> = expected.into_iter().map(|(name, named)| (name.to_string(), named)).collect();
        assert_eq!(systemd("unknown::stored:http.socket", 4), expected);
        let none = from_systemd(None, 2).unwrap();
        assert_eq!(none, [(b"unknown".to_vec(), false), (b"unknown#2".to_vec(), false)]);
    }

    #[test]
    fn names_that_do_not_fit_the_descriptors_are_an_error() {
        let error =
            |listed: &str, count| from_systemd(Some(listed.as_bytes()), count).unwrap_err().to_string();
        assert_eq!(error("a:b", 3), "LISTEN_FDNAMES has 2 names for 3 descriptors in LISTEN_FDS");
        assert_eq!(error(&"x".repeat(256), 1), "a name in LISTEN_FDNAMES has 256 bytes, 255 are allowed");
    }
}
