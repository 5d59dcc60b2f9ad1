//! Any bytes as the variables of the environment: LISTEN_FDNAMES and SHELLFLIP_CHANNEL.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shellflip::address::{NAME_MAX, decode_name, encode_name};
use shellflip::inherit::{encode_names, meant_for, names_from_systemd, parse_place};
use std::collections::HashSet;

fuzz_target!(|value: &[u8]| {
    if let Some(name) = decode_name(value) {
        assert_eq!(decode_name(encode_name(&name).as_bytes()), Some(name));
    }
    if let Some(place) = meant_for(value, 42)
        && let Some((number, _)) = parse_place(place)
    {
        assert!(number >= 3);
    }
    let count = value.split(|byte| *byte == b':').count();
    assert!(names_from_systemd(Some(value), count + 1).is_err() || (value.is_empty() && count + 1 == 0));
    let Ok(names) = names_from_systemd(Some(value), count) else { return };
    assert_eq!(names.len(), count);
    let unique: HashSet<_> = names.iter().map(|(name, _)| name).collect();
    assert_eq!(unique.len(), count, "a name twice: {names:?}");
    assert!(names.iter().all(|(name, _)| (1..=NAME_MAX).contains(&name.len())));
    // What a successor would be given says the same names.
    if let Some(listed) = encode_names(names.iter().map(|(name, _)| &name[..])) {
        let back: Option<Vec<_>> = listed.split(|byte| *byte == b':').map(decode_name).collect();
        assert_eq!(back, Some(names.into_iter().map(|(name, _)| name).collect()));
    }
});
