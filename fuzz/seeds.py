#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets: the addresses and names in the unit tests, the golden records of
docs/protocol.md, lines of the control socket. fuzz/run calls it."""

import hashlib
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def write(folder, seeds):
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (folder / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    if not seeds:
        sys.exit(f"no seeds for {folder}: their source has changed its form")


def strings(path):
    text = (ROOT / path).read_text()
    return [match.encode() for match in re.findall(r'"([^"\\\n]{1,300})"', text)]


out = pathlib.Path(sys.argv[1])
write(out / "address", [one for one in strings("src/address/tests.rs") if b":" in one])
channel = [b"42:7:" + b"0123456789abcdef" * 2, b"http:http:a#2", b"100%25:unknown::stored"]
write(out / "names", channel + [one for one in strings("src/inherit/names.rs") if b" " not in one])
write(
    out / "control",
    [b"upgrade\n", b"stop\r\n", b" detach \n", b"status", b"ok 4711", b"pid 7 8", b"failed 4 62 too slow", b"GET /"],
)
golden = re.findall(r"```golden [^\n]*\n(.*?)```", (ROOT / "docs/protocol.md").read_text(), re.S)
records = [bytes.fromhex("".join(line.split("#")[0] for line in block.splitlines())) for block in golden]
# The first byte is how many descriptors come with the record.
write(out / "channel", [bytes([count]) + record for record in records for count in (0, 1, 3)])
