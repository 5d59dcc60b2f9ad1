//! From text to [`Address`]. Every refusal quotes the part that is wrong and says what would be right.

use super::percent::{decode, quote};
use super::{
    Address, Endpoint, Host, Keep, NAME_MAX, Options, Owner, Protocol, UNIX_NAME_MAX, UnixKind, UnixName,
};
use crate::error::{Error, Result};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Why a part is refused; [`address`] puts the whole text before it.
type Part<T> = std::result::Result<T, String>;

pub fn address(text: &[u8]) -> Result<Address> {
    let read = || {
        let (place, query) = split(text, b'?').map_or((text, None), |(place, query)| (place, Some(query)));
        let endpoint = endpoint(place)?;
        let options = options(query, &endpoint)?;
        Ok(Address { endpoint, options })
    };
    read().map_err(|why: String| Error::Invalid(format!("cannot use the address {}: {why}", quote(text))))
}

/// What stands before and after the first `mark`.
fn split(text: &[u8], mark: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&byte| byte == mark)?;
    Some((&text[..at], &text[at + 1..]))
}

fn endpoint(place: &[u8]) -> Part<Endpoint> {
    let kinds = "an address begins with tcp://, udp://, unix:, unixgram: or unixpacket:";
    let Some((scheme, rest)) = split(place, b':') else { return Err(kinds.into()) };
    let inet = |protocol| {
        let rest = rest
            .strip_prefix(b"//")
            .ok_or_else(|| format!("{}: must be followed by //", quote_plain(scheme)))?;
        let (host, port) = host_and_port(rest)?;
        Ok(Endpoint::Inet { protocol, host, port })
    };
    let unix = |kind| Ok(Endpoint::Unix { kind, name: unix_name(scheme, rest)? });
    match scheme {
        b"tcp" => inet(Protocol::Tcp),
        b"udp" => inet(Protocol::Udp),
        b"unix" => unix(UnixKind::Stream),
        b"unixgram" => unix(UnixKind::Datagram),
        b"unixpacket" => unix(UnixKind::SeqPacket),
        _ => Err(format!("there is no {}; {kinds}", quote(scheme))),
    }
}

fn quote_plain(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

fn host_and_port(rest: &[u8]) -> Part<(Host, u16)> {
    let (host, port) = if let Some(inner) = rest.strip_prefix(b"[") {
        let (inner, after) = split(inner, b']').ok_or_else(|| format!("{} has no closing ]", quote(rest)))?;
        (ipv6(inner)?, after.strip_prefix(b":"))
    } else {
        match rest.iter().rposition(|&byte| byte == b':') {
            Some(at) => (host(&rest[..at])?, Some(&rest[at + 1..])),
            None => (host(rest)?, None),
        }
    };
    let port = port
        .ok_or_else(|| format!("{} needs a port: host:port, port 0 lets the kernel choose", quote(rest)))?;
    let number = digits(port).and_then(|port| u16::try_from(port).ok());
    Ok((
        host,
        number.ok_or_else(|| format!("the port must be a number from 0 to 65535, not {}", quote(port)))?,
    ))
}

fn host(host: &[u8]) -> Part<Host> {
    if host.is_empty() {
        return Ok(Host::Any);
    }
    if host.eq_ignore_ascii_case(b"localhost") {
        return Ok(Host::V4(Ipv4Addr::LOCALHOST));
    }
    if let Some(address) = std::str::from_utf8(host).ok().and_then(|host| host.parse().ok()) {
        return Ok(Host::V4(address));
    }
    let quoted = quote(host);
    Err(if host == b"*" {
        "* is no host; leave the host empty for all addresses".into()
    } else if host.contains(&b':') {
        format!("an IPv6 address stands in brackets, {quoted} does not")
    } else if host.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.') {
        format!("{quoted} is not an IPv4 address")
    } else {
        format!("{quoted} is not an IP address; resolving host names is up to the host program")
    })
}

fn ipv6(inner: &[u8]) -> Part<Host> {
    let (address, zone) = split(inner, b'%').map_or((inner, None), |(address, zone)| (address, Some(zone)));
    let parsed: Option<Ipv6Addr> = std::str::from_utf8(address).ok().and_then(|address| address.parse().ok());
    let address = parsed.ok_or_else(|| format!("{} is not an IPv6 address", quote(address)))?;
    // RFC 6874 writes the % before a zone as %25; a plain % is what people paste from ip(8).
    let zone = match zone {
        Some(zone) => {
            Some(decoded(zone.strip_prefix(b"25").filter(|zone| !zone.is_empty()).unwrap_or(zone))?)
        }
        None => None,
    };
    if let Some(zone) = &zone {
        interface("the zone of an IPv6 address", zone)?;
    }
    Ok(Host::V6 { address, zone })
}

fn unix_name(scheme: &[u8], rest: &[u8]) -> Part<UnixName> {
    let scheme = quote_plain(scheme);
    let (kind, name) = if let Some(name) = rest.strip_prefix(b"@") {
        ("abstract name", UnixName::Abstract(decoded(name)?))
    } else {
        let path = rest.strip_prefix(b"//").unwrap_or(rest);
        if path.starts_with(b"@") {
            return Err(format!("an abstract name is written {scheme}:@name, without //"));
        }
        if !path.starts_with(b"/") {
            return Err(format!(
                "the path {} is not absolute, and the working directory may change; write {scheme}:///path or \
                 {scheme}:@name",
                quote(path)
            ));
        }
        ("path", UnixName::Path(decoded(path)?))
    };
    let (UnixName::Path(bytes) | UnixName::Abstract(bytes)) = &name;
    if bytes.contains(&0) {
        return Err(format!("the {kind} {} has a NUL byte in it", quote(bytes)));
    }
    if bytes.len() > UNIX_NAME_MAX {
        let length = bytes.len();
        return Err(format!(
            "the {kind} {} has {length} bytes, the kernel takes {UNIX_NAME_MAX}",
            quote(bytes)
        ));
    }
    match &name {
        UnixName::Abstract(name) if name.is_empty() => Err("the abstract name is empty".into()),
        UnixName::Path(path) if path.ends_with(b"/") => {
            Err(format!("the path {} names a directory, not a socket", quote(path)))
        }
        _ => Ok(name),
    }
}

fn options(query: Option<&[u8]>, endpoint: &Endpoint) -> Part<Options> {
    let mut options = Options::default();
    let mut seen: Vec<&[u8]> = Vec::new();
    for pair in query.into_iter().flat_map(|query| query.split(|&byte| byte == b'&')) {
        let Some((key, value)) = split(pair, b'=') else {
            return Err(format!("options are written key=value, {} is not", quote(pair)));
        };
        let Some((known, fits)) = KEYS.iter().find(|(known, _)| known.as_bytes() == key) else {
            let known: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
            return Err(format!("there is no option {}; there are {}", quote(key), known.join(", ")));
        };
        if seen.contains(&key) {
            return Err(format!("the option {known} is there twice"));
        }
        seen.push(key);
        if !fits(endpoint) {
            return Err(format!("the option {known} makes no sense for {}", family(endpoint)));
        }
        set(&mut options, known, &decoded(value)?)?;
    }
    if options.v6only == Some(true) && matches!(endpoint, Endpoint::Inet { host: Host::Any, .. }) {
        return Err("an empty host means v4 and v6, v6only=1 needs the host [::]".into());
    }
    Ok(options)
}

type Fits = fn(&Endpoint) -> bool;

/// Every key, and where it makes sense.
const KEYS: [(&str, Fits); 13] = [
    ("name", |_| true),
    ("backlog", |endpoint| {
        !matches!(
            endpoint,
            Endpoint::Inet { protocol: Protocol::Udp, .. } | Endpoint::Unix { kind: UnixKind::Datagram, .. }
        )
    }),
    ("reuseport", is_inet),
    ("v6only", |endpoint| matches!(endpoint, Endpoint::Inet { host: Host::V6 { .. } | Host::Any, .. })),
    ("mode", is_path),
    ("owner", is_path),
    ("nodelay", is_tcp),
    ("defer", is_tcp),
    ("fastopen", is_tcp),
    ("device", is_inet),
    ("freebind", is_inet),
    ("transparent", is_inet),
    ("keep", |_| true),
];

fn is_inet(endpoint: &Endpoint) -> bool {
    matches!(endpoint, Endpoint::Inet { .. })
}

fn is_tcp(endpoint: &Endpoint) -> bool {
    matches!(endpoint, Endpoint::Inet { protocol: Protocol::Tcp, .. })
}

fn is_path(endpoint: &Endpoint) -> bool {
    matches!(endpoint, Endpoint::Unix { name: UnixName::Path(_), .. })
}

/// What to call the place in a sentence about an option that does not fit it.
fn family(endpoint: &Endpoint) -> String {
    let scheme = endpoint.scheme();
    match endpoint {
        Endpoint::Inet { host: Host::Any, .. } => format!("{scheme}:// on all addresses"),
        Endpoint::Inet { host: Host::V4(_), .. } => format!("{scheme}:// with an IPv4 address"),
        Endpoint::Inet { host: Host::V6 { .. }, .. } => format!("{scheme}:// with an IPv6 address"),
        Endpoint::Unix { name: UnixName::Path(_), .. } => format!("{scheme}: with a path"),
        Endpoint::Unix { name: UnixName::Abstract(_), .. } => format!("{scheme}: with an abstract name"),
    }
}

fn set(options: &mut Options, key: &str, value: &[u8]) -> Part<()> {
    match key {
        "name" => options.name = Some(name(value)?),
        "backlog" => options.backlog = Some(number(key, value)?),
        "reuseport" => options.reuseport = Some(switch(key, value)?),
        "v6only" => options.v6only = Some(switch(key, value)?),
        "mode" => options.mode = Some(mode(value)?),
        "owner" => options.owner = Some(owner(value)?),
        "nodelay" => options.nodelay = Some(switch(key, value)?),
        "defer" => options.defer = Some(number(key, value)?),
        "fastopen" => options.fastopen = Some(number(key, value)?),
        "device" => options.device = Some(interface("device", value)?),
        "freebind" => options.freebind = Some(switch(key, value)?),
        "transparent" => options.transparent = Some(switch(key, value)?),
        "keep" => options.keep = Some(keep(value)?),
        _ => return Err(format!("there is no option {}", quote(key.as_bytes()))),
    }
    Ok(())
}

fn decoded(text: &[u8]) -> Part<Vec<u8>> {
    decode(text).map_err(|bad| format!("{} is no percent-encoding; a % itself is written %25", quote(bad)))
}

/// Digits and nothing else; `str::parse` would take a sign.
fn digits(text: &[u8]) -> Option<u32> {
    let all = text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| all)?.parse().ok()
}

fn number(key: &str, value: &[u8]) -> Part<i32> {
    let number = digits(value).and_then(|number| i32::try_from(number).ok());
    number.ok_or_else(|| format!("{key} must be a number from 0 to {}, not {}", i32::MAX, quote(value)))
}

fn switch(key: &str, value: &[u8]) -> Part<bool> {
    match value {
        b"0" => Ok(false),
        b"1" => Ok(true),
        _ => Err(format!("{key} must be 0 or 1, not {}", quote(value))),
    }
}

fn mode(value: &[u8]) -> Part<u32> {
    let octal = !value.is_empty() && value.iter().all(|byte| (b'0'..=b'7').contains(byte));
    let mode = std::str::from_utf8(value).ok().filter(|_| octal).and_then(|v| u32::from_str_radix(v, 8).ok());
    mode.filter(|mode| *mode <= 0o777)
        .ok_or_else(|| format!("mode must be octal and at most 0777, not {}", quote(value)))
}

fn owner(value: &[u8]) -> Part<Owner> {
    let (user, group) = split(value, b':').unwrap_or((value, b""));
    let part = |part: &[u8]| (!part.is_empty()).then(|| part.to_vec());
    let owner = Owner { user: part(user), group: part(group) };
    if (owner.user.is_none() && owner.group.is_none()) || group.contains(&b':') || value.contains(&0) {
        return Err(format!("owner must be user:group, user or :group, not {}", quote(value)));
    }
    Ok(owner)
}

fn name(value: &[u8]) -> Part<Vec<u8>> {
    if value.is_empty() || value.len() > NAME_MAX {
        return Err(format!("a name has 1 to {NAME_MAX} bytes, {} has {}", quote(value), value.len()));
    }
    // Names are C strings in the interface.
    if value.contains(&0) {
        return Err(format!("the name {} has a NUL byte in it", quote(value)));
    }
    Ok(value.to_vec())
}

fn interface(what: &str, value: &[u8]) -> Part<Vec<u8>> {
    let fits = (1..libc::IFNAMSIZ).contains(&value.len());
    if !fits || value.iter().any(|byte| matches!(byte, 0 | b'/') || byte.is_ascii_whitespace()) {
        return Err(format!("{what} must be the name of an interface, not {}", quote(value)));
    }
    Ok(value.to_vec())
}

fn keep(value: &[u8]) -> Part<Keep> {
    match value {
        b"stop" => Ok(Keep::Stop),
        b"always" => Ok(Keep::Always),
        _ => Err(format!("keep must be stop or always, not {}", quote(value))),
    }
}
