//! Any bytes as lines on the control socket, from a client and from a server.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shellflip::control::wire::{Answer, Line, MAX_REQUEST, parse_request};

fuzz_target!(|bytes: &[u8]| {
    for ended in [false, true] {
        match parse_request(bytes, ended) {
            // A client that sends so much is not waited for any longer.
            Line::Unfinished => assert!(!ended && bytes.len() < MAX_REQUEST && !bytes.contains(&b'\n')),
            Line::Request(asked, used) => {
                assert!(used <= bytes.len() && used <= MAX_REQUEST + 1);
                assert_eq!(bytes[..used].trim_ascii(), asked.word().as_bytes());
                // However the bytes come in.
                let earlier = (0..used).find_map(|cut| match parse_request(&bytes[..cut], false) {
                    Line::Unfinished => None,
                    other => Some(other),
                });
                assert!(earlier.is_none(), "{earlier:?} before {asked:?}");
            }
            Line::Garbage(text) => {
                assert!(!text.contains(char::is_control) && text.len() < 1000, "{text}");
                // It is told as one line, which the other side understands.
                let told = Answer::Failed { failure: 0, errno: 22, text: text.clone() }.to_string();
                let line = told.strip_suffix('\n').expect("a line");
                assert!(!line.contains('\n'));
                assert_eq!(Answer::parse(line.as_bytes()), Some(Answer::Failed { failure: 0, errno: 22, text }));
            }
        }
    }
    if let Some(answer) = Answer::parse(bytes) {
        if let Answer::Ok(pid) = &answer {
            assert!(*pid > 0);
        }
        if let Answer::Pids(pids) = &answer {
            assert!(!pids.is_empty() && pids.iter().all(|pid| *pid > 0));
        }
        let told = answer.to_string();
        assert_eq!(told.matches('\n').count(), 1, "{told:?}");
        let _ = answer.into_error();
    }
});
