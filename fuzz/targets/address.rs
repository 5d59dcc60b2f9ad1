//! Any bytes as an address: refused with one line, or read, written and read again as the same value.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shellflip::address::{Address, NAME_MAX, decode_name, encode_name};

fuzz_target!(|text: &[u8]| {
    match Address::parse(text) {
        Err(error) => assert!(!error.to_string().contains(char::is_control), "{error}"),
        Ok(address) => {
            let written = address.to_string();
            assert!(written.bytes().all(|byte| byte.is_ascii_graphic()), "{written}");
            assert_eq!(Address::parse(written.as_bytes()), Ok(address.clone()));
            let name = address.name();
            assert!((1..=NAME_MAX).contains(&name.len()) && !name.contains(&0));
            assert_eq!(decode_name(encode_name(&name).as_bytes()), Some(name));
        }
    }
});
