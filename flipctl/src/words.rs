//! How flipctl puts things for people: durations, sizes, phases; and text of others, made harmless for a terminal.

use std::time::Duration;

/// `4 ms`, `0.8 s`, `12 s`, `3 min 12 s`, `2 h 3 min`, `4 d 2 h`.
pub fn time(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        _ if duration.as_millis() < 100 => format!("{} ms", duration.as_millis()),
        // Below 9.95 s, so that it is never rounded to 10.0.
        0..=9 if duration.as_millis() < 9_950 => format!("{:.1} s", duration.as_secs_f64()),
        0..=59 => format!("{seconds} s"),
        60..=3_599 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..=86_399 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// The same for milliseconds.
pub fn milliseconds(ms: u64) -> String {
    time(Duration::from_millis(ms))
}

/// A phase that took so many milliseconds: most take few.
pub fn phase_time(ms: u64) -> String {
    match ms {
        0 => "< 1 ms".into(),
        1..1_000 => format!("{ms} ms"),
        _ => milliseconds(ms),
    }
}

/// What a phase of an upgrade is. A newer server may have others.
pub fn phase(name: &str) -> String {
    match name {
        "asking" => "waiting for the server's consent".into(),
        "spawning" => "starting the new program".into(),
        "initialising" => "waiting until the new process is ready".into(),
        "committed" => "waiting until the new process confirms that it serves".into(),
        "probation" => "on probation, both serve".into(),
        "announcing" => "telling the service manager".into(),
        "releasing" => "handing over".into(),
        "ending" => "ending the new process".into(),
        other => harmless(other),
    }
}

/// `1 connection`, `3 connections`.
pub fn count(number: u64, word: &str) -> String {
    if number == 1 { format!("1 {word}") } else { format!("{number} {word}s") }
}

/// `64.0 MiB`.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64 / 1024.0;
    for unit in ["KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return format!("{value:.1} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// Text that a server, a file name or a socket gave us: control characters could steer the operator's terminal.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let cases = [
            (0, "0 ms"),
            (99, "99 ms"),
            (800, "0.8 s"),
            (9_949, "9.9 s"),
            (9_960, "9 s"),
            (12_000, "12 s"),
            (192_000, "3 min 12 s"),
            (7_380_000, "2 h 3 min"),
            (352_800_000, "4 d 2 h"),
        ];
        for (ms, text) in cases {
            assert_eq!(milliseconds(ms), text);
        }
        assert_eq!([phase_time(0), phase_time(12), phase_time(1_500)], ["< 1 ms", "12 ms", "1.5 s"]);
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!([size(512), size(64 << 20), size(3 << 40)], ["0.5 KiB", "64.0 MiB", "3.0 TiB"]);
    }

    #[test]
    fn no_escape_sequence_reaches_the_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\nc"), "a\u{fffd}[2Jb\u{fffd}c");
    }
}
