use super::*;

fn parse(text: &str) -> Address {
    Address::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

fn refusal(text: &[u8]) -> String {
    match Address::parse(text) {
        Ok(address) => panic!("{} was read as {address:?}", quote(text)),
        Err(error) => error.to_string(),
    }
}

#[test]
fn good_addresses_are_read_and_written_in_their_normal_form() {
    let long = format!("unix:///{}", "a".repeat(106));
    for (text, normal) in [
        ("tcp://127.0.0.1:8080", "tcp://127.0.0.1:8080"),
        ("tcp://[::1]:443", "tcp://[::1]:443"),
        ("tcp://[0:0:0:0:0:0:0:1]:443", "tcp://[::1]:443"),
        ("tcp://[fe80::1%25eth0]:443", "tcp://[fe80::1%25eth0]:443"),
        ("tcp://[fe80::1%eth0]:443", "tcp://[fe80::1%25eth0]:443"),
        ("tcp://[fe80::1%25]:443", "tcp://[fe80::1%2525]:443"),
        ("tcp://:8080", "tcp://:8080"),
        ("tcp://localhost:0", "tcp://127.0.0.1:0"),
        ("tcp://LocalHost:00080", "tcp://127.0.0.1:80"),
        ("udp://:53?v6only=0", "udp://:53?v6only=0"),
        ("udp://[::]:65535?reuseport=1&v6only=1", "udp://[::]:65535?reuseport=1&v6only=1"),
        ("unix:///run/a.sock", "unix:///run/a.sock"),
        ("unix:/run/a.sock", "unix:///run/a.sock"),
        ("unix:@abstract", "unix:@abstract"),
        ("unix:@with/slash", "unix:@with/slash"),
        ("unixgram:@log", "unixgram:@log"),
        ("unixgram:///run/log", "unixgram:///run/log"),
        ("unixpacket:///run/seq", "unixpacket:///run/seq"),
        ("unixpacket:@seq", "unixpacket:@seq"),
        ("unix:///a%20b%3fc%25", "unix:///a%20b%3Fc%25"),
        ("unix:///ä", "unix:///%C3%A4"),
        ("unix:///a&b=c#2", "unix:///a&b=c%232"),
        (&long, &long),
        ("unix:///a?mode=660&owner=www:ops", "unix:///a?mode=0660&owner=www:ops"),
        ("unix:///a?owner=:ops", "unix:///a?owner=:ops"),
        ("unix:///a?owner=www", "unix:///a?owner=www:"),
        ("unix:///a?owner=1000:33&keep=stop", "unix:///a?owner=1000:33&keep=stop"),
        ("tcp://:1?name=http", "tcp://:1?name=http"),
        ("tcp://:1?name=a%26b:=", "tcp://:1?name=a%26b%3A="),
        (
            "tcp://1.2.3.4:1?keep=always&transparent=1&freebind=1&device=eth0&fastopen=16&defer=3&nodelay=1&backlog=0",
            "tcp://1.2.3.4:1?backlog=0&nodelay=1&defer=3&fastopen=16&device=eth0&freebind=1&transparent=1&keep=always",
        ),
    ] {
        let address = parse(text);
        assert_eq!(address.to_string(), normal, "{text}");
        assert_eq!(parse(normal), address, "{text}");
    }
}

#[test]
fn a_bad_address_is_refused_with_the_part_that_is_wrong() {
    let long = format!("unix:///{}", "a".repeat(107));
    let long_abstract = format!("unixgram:@{}", "%41".repeat(108));
    let long_name = format!("tcp://:1?name={}", "n".repeat(256));
    for (text, why) in [
        ("", "an address begins with tcp://, udp://, unix:, unixgram: or unixpacket:"),
        ("8080", "an address begins with"),
        ("http://a:1", r#"there is no "http"; an address begins with"#),
        ("TCP://:1", r#"there is no "TCP""#),
        ("tcp:80", "tcp: must be followed by //"),
        ("tcp://", r#""" needs a port"#),
        ("tcp://1.2.3.4", r#""1.2.3.4" needs a port"#),
        ("tcp://[::1]", r#""[::1]" needs a port"#),
        ("tcp://[::1", r#""[::1" has no closing ]"#),
        ("tcp://[::g]:1", r#""::g" is not an IPv6 address"#),
        ("tcp://[::1%]:1", r#"the zone of an IPv6 address must be the name of an interface, not """#),
        ("tcp://::1:80", r#"an IPv6 address stands in brackets, "::1" does not"#),
        ("tcp://1.2.3.256:80", r#""1.2.3.256" is not an IPv4 address"#),
        ("tcp://010.0.0.1:80", r#""010.0.0.1" is not an IPv4 address"#),
        (
            "tcp://example.org:80",
            r#""example.org" is not an IP address; resolving host names is up to the host"#,
        ),
        ("tcp://*:80", "* is no host; leave the host empty for all addresses"),
        ("tcp://:65536", r#"the port must be a number from 0 to 65535, not "65536""#),
        ("tcp://:+80", r#"the port must be a number from 0 to 65535, not "+80""#),
        ("tcp://:-1", r#"not "-1""#),
        ("tcp://:", r#"not """#),
        ("tcp://:80/", r#"not "80/""#),
        ("tcp://:http", r#"not "http""#),
        ("unix:", r#"the path "" is not absolute"#),
        ("unix:run/a", r#"the path "run/a" is not absolute"#),
        ("unix://run/a", r#"the path "run/a" is not absolute"#),
        ("unixgram://@a", "an abstract name is written unixgram:@name, without //"),
        ("unix:@", "the abstract name is empty"),
        ("unix:///", r#"the path "/" names a directory"#),
        ("unix:///run/", r#"the path "/run/" names a directory"#),
        ("unix:///a%00b", r#"the path "/a\u{0}b" has a NUL byte in it"#),
        ("unix:@a%00b", r#"the abstract name "a\u{0}b" has a NUL byte in it"#),
        (&long, r#"has 108 bytes, the kernel takes 107"#),
        (&long_abstract, r#"has 108 bytes, the kernel takes 107"#),
        ("unix:///a%zz", r#""%zz" is no percent-encoding; a % itself is written %25"#),
        ("unix:///a%", r#""%" is no percent-encoding"#),
        ("unix:///a%4", r#""%4" is no percent-encoding"#),
        ("unix:///a%+1", r#""%+1" is no percent-encoding"#),
        ("tcp://:1?", r#"options are written key=value, "" is not"#),
        ("tcp://:1?backlog", r#"options are written key=value, "backlog" is not"#),
        ("tcp://:1?backlog=1&", r#"options are written key=value, "" is not"#),
        (
            "tcp://:1?colour=red",
            r#"there is no option "colour"; there are name, backlog, reuseport, v6only, mode"#,
        ),
        ("tcp://:1?=1", r#"there is no option """#),
        ("tcp://:1?backlog=1&backlog=1", "the option backlog is there twice"),
        ("tcp://:1?backlog=-1", r#"backlog must be a number from 0 to 2147483647, not "-1""#),
        ("tcp://:1?backlog=2147483648", r#"not "2147483648""#),
        ("tcp://:1?backlog=", r#"not """#),
        ("tcp://:1?reuseport=yes", r#"reuseport must be 0 or 1, not "yes""#),
        ("tcp://:1?mode=0600", "the option mode makes no sense for tcp:// on all addresses"),
        ("udp://1.2.3.4:1?owner=a", "the option owner makes no sense for udp:// with an IPv4 address"),
        ("udp://[::1]:1?nodelay=1", "the option nodelay makes no sense for udp:// with an IPv6 address"),
        ("udp://:1?backlog=1", "the option backlog makes no sense for udp://"),
        ("udp://:1?defer=1", "the option defer makes no sense for udp://"),
        ("udp://:1?fastopen=1", "the option fastopen makes no sense for udp://"),
        ("unix:///a?nodelay=1", "the option nodelay makes no sense for unix: with a path"),
        ("unix:///a?reuseport=1", "the option reuseport makes no sense for unix: with a path"),
        ("unix:///a?device=eth0", "the option device makes no sense for unix: with a path"),
        ("unix:///a?freebind=1", "the option freebind makes no sense for unix: with a path"),
        ("unix:///a?transparent=1", "the option transparent makes no sense for unix: with a path"),
        ("unixgram:///a?backlog=1", "the option backlog makes no sense for unixgram: with a path"),
        ("unix:@a?mode=0600", "the option mode makes no sense for unix: with an abstract name"),
        ("unixpacket:@a?owner=a", "the option owner makes no sense for unixpacket: with an abstract name"),
        ("tcp://1.2.3.4:1?v6only=1", "the option v6only makes no sense for tcp:// with an IPv4 address"),
        ("tcp://:1?v6only=1", "an empty host means v4 and v6, v6only=1 needs the host [::]"),
        ("unix:///a?mode=0888", r#"mode must be octal and at most 0777, not "0888""#),
        ("unix:///a?mode=4755", r#"not "4755""#),
        ("unix:///a?mode=", r#"not """#),
        ("unix:///a?mode=+600", r#"not "+600""#),
        ("unix:///a?owner=", r#"owner must be user:group, user or :group, not """#),
        ("unix:///a?owner=:", r#"not ":""#),
        ("unix:///a?owner=a:b:c", r#"not "a:b:c""#),
        ("tcp://:1?name=", r#"a name has 1 to 255 bytes, "" has 0"#),
        ("tcp://:1?name=a%00", r#"the name "a\u{0}" has a NUL byte in it"#),
        (&long_name, "has 256"),
        (
            "tcp://:1?device=abcdefghijklmnop",
            r#"device must be the name of an interface, not "abcdefghijklmnop""#,
        ),
        ("tcp://:1?device=", r#"not """#),
        ("tcp://:1?keep=yes", r#"keep must be stop or always, not "yes""#),
    ] {
        let text = text.as_bytes();
        let refusal = refusal(text);
        assert!(refusal.contains(why), "{}: {refusal}\nexpected: {why}", quote(text));
        let whole = quote(text);
        assert!(refusal.starts_with(&format!("cannot use the address {whole}: ")), "{refusal}");
        assert_eq!(Address::parse(text).map_err(|error| error.errno()), Err(nix::errno::Errno::EINVAL));
    }
}

#[test]
fn bytes_that_are_no_text_pass_through_and_are_quoted_in_one_line() {
    let address = Address::parse(b"unix:///\xff\n%fe?name=\xfd").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(address.path(), Some(&b"/\xff\n\xfe"[..]));
    assert_eq!(address.name(), b"\xfd");
    assert_eq!(address.to_string(), "unix:///%FF%0A%FE?name=%FD");
    assert_eq!(
        refusal(b"\xff\n\""),
        r#"cannot use the address "\xff\n\"": an address begins with tcp://, udp://, unix:, unixgram: or unixpacket:"#
    );
    assert!(refusal(&[b'x'; 100_000]).len() < 500);
}

#[test]
fn the_default_name_is_the_address_without_its_query() {
    for (text, name) in [
        ("tcp://localhost:80?backlog=1", &b"tcp://127.0.0.1:80"[..]),
        ("tcp://:80?reuseport=1", b"tcp://:80"),
        ("tcp://[fe80::1%25eth0]:80", b"tcp://[fe80::1%eth0]:80"),
        ("unix:/a%20%ffb?mode=0600", b"unix:///a \xffb"),
        ("unixgram:@a#b", b"unixgram:@a#b"),
        ("tcp://:80?name=http", b"tcp://:80"),
    ] {
        assert_eq!(parse(text).default_name(), name, "{text}");
    }
    assert_eq!(parse("tcp://:80?name=http").name(), b"http");
    assert_eq!(parse("tcp://:80").name(), b"tcp://:80");
}

#[test]
fn names_survive_listen_fdnames() {
    let every: Vec<u8> = (0..=255).collect();
    let encoded = encode_name(&every);
    assert!(
        encoded.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':' && byte != b'\\'),
        "{encoded}"
    );
    assert_eq!(decode_name(encoded.as_bytes()), Some(every.to_vec()));
    assert_eq!(encode_name(b"http-1.a_b#2"), "http-1.a_b#2");
    assert_eq!(encode_name(b"tcp://:80"), "tcp%3A//%3A80");
    assert_eq!(decode_name(b"100%"), None);
    assert_eq!(decode_name(b"%zz%4"), None);
}

/// xorshift64*: the same bytes on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % end
    }
}

#[test]
fn garbage_is_refused_or_survives_the_way_to_text_and_back() {
    const SEEDS: [&str; 10] = [
        "tcp://127.0.0.1:8080?name=http&backlog=128&reuseport=1&nodelay=1&defer=5&fastopen=16",
        "udp://[::1]:53?v6only=1&device=eth0&freebind=1&transparent=0",
        "tcp://:80",
        "tcp://[fe80::1%25eth0]:443?keep=always",
        "tcp://localhost:0",
        "unix:///run/a%20b.sock?mode=0660&owner=user:group&keep=stop",
        "unixgram:@log%ff",
        "unixpacket:/run/x#2",
        "unix:@a?name=%3a%25",
        "udp://:53?v6only=0",
    ];
    const PIECES: [&[u8]; 16] = [
        b"%", b"%00", b"%2", b"?", b"&", b"=", b":", b"//", b"[", b"]", b"@", b"\0", b"\xff", b"name=x",
        b"0", b"mode=7",
    ];
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut good = 0;
    for round in 0..200_000 {
        let mut text = SEEDS[round % SEEDS.len()].as_bytes().to_vec();
        for _ in 0..=random.below(3) {
            let at = random.below(text.len() + 1);
            match random.below(5) {
                0 => text.insert(at, random.below(256) as u8),
                1 if at < text.len() => text[at] = random.below(256) as u8,
                2 if at < text.len() => drop(text.remove(at)),
                3 => drop(text.splice(at..at, PIECES[random.below(PIECES.len())].iter().copied())),
                _ => {
                    let other = SEEDS[random.below(SEEDS.len())].as_bytes();
                    text.truncate(at);
                    text.extend(&other[random.below(other.len())..]);
                }
            }
        }
        match Address::parse(&text) {
            Err(error) => {
                let line = error.to_string();
                assert!(line.len() < 2_000 && !line.contains(char::is_control), "{line}");
            }
            Ok(address) => {
                good += 1;
                let written = address.to_string();
                assert!(written.bytes().all(|byte| byte.is_ascii_graphic()), "{written}");
                assert_eq!(Address::parse(written.as_bytes()), Ok(address.clone()), "{}", quote(&text));
                let name = address.name();
                assert!((1..=NAME_MAX).contains(&name.len()) && !name.contains(&0), "{}", quote(&text));
                assert_eq!(decode_name(encode_name(&name).as_bytes()), Some(name));
            }
        }
    }
    assert!(
        good > 10_000,
        "only {good} inputs were addresses: the mutations are too coarse to test anything"
    );
}
