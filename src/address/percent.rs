//! Percent-encoding: of addresses, and of names in `LISTEN_FDNAMES`. Called by the rest of `address` and by whoever
//! writes or reads that variable.

/// Bytes that end a path or an abstract name. `#` too: it counts the members of a group in a default name.
pub const IN_PATH: &[u8] = b"%?#";

/// Bytes that end a value of the query, or divide it (`owner=user:group`).
pub const IN_VALUE: &[u8] = b"%&#?:";

/// Bytes that `sd_listen_fds_with_names(3)` would split at or take for an escape or a quote.
const IN_FDNAMES: &[u8] = b"%:\\\"'";

/// Escapes `reserved`, the space, and whatever is not printable ASCII.
pub fn encode(bytes: &[u8], reserved: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_graphic() && !reserved.contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// The bytes behind the escapes, or the piece that should have been one.
pub fn decode(text: &[u8]) -> Result<Vec<u8>, &[u8]> {
    if !text.contains(&b'%') {
        return Ok(text.to_vec());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = tail;
            continue;
        }
        bytes.push(escaped(tail).ok_or(&rest[..rest.len().min(3)])?);
        rest = &tail[2..];
    }
    Ok(bytes)
}

fn escaped(digits: &[u8]) -> Option<u8> {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    u8::try_from(digit(digits.first())? * 16 + digit(digits.get(1))?).ok()
}

/// A name as it stands in `LISTEN_FDNAMES`: printable ASCII without `:`, which divides names there. Up to three times
/// as long as the name, so that systemd's own limit of 255 does not hold for it.
pub fn encode_name(name: &[u8]) -> String {
    encode(name, IN_FDNAMES)
}

/// The way back; `None` where a `%` begins no escape.
pub fn decode_name(text: &[u8]) -> Option<Vec<u8>> {
    decode(text).ok()
}

/// `"…"` for an error line: one line whatever the bytes are, and no longer than a line should be.
pub fn quote(bytes: &[u8]) -> String {
    const LONGEST: usize = 200;
    let shown = &bytes[..bytes.len().min(LONGEST)];
    let mut text = String::from("\"");
    for chunk in shown.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => text.extend(['\\', c]),
                c if c.is_control() => text.extend(c.escape_default()),
                c => text.push(c),
            }
        }
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text.push_str(if shown.len() < bytes.len() { "…\"" } else { "\"" });
    text
}
