"""TLS as the README has it: a connection that was open at shutdown is waited for, in the threads and in the loop."""

from __future__ import annotations

import gc
import os
import pathlib
import re
import shutil
import signal
import ssl
import subprocess
import warnings
from collections.abc import Callable

import pytest

import kit
from shellflip import Flip, control

CONTEXT = """
import ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("cert.pem", "key.pem")
"""


@pytest.fixture
def trust(tmp_path: pathlib.Path) -> ssl.SSLContext:
    """Of a client that knows cert.pem."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    certificate = tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"),
            *("-keyout", str(tmp_path / "key.pem"), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
        timeout=60 * kit.SCALE,
    )
    return ssl.create_default_context(cafile=certificate)


def block(what: str) -> str:
    """The README's one with this in it."""
    blocks = re.findall(r"```python\n(.*?)```", (kit.PACKAGE / "README.md").read_text(), re.DOTALL)
    found = [block for block in blocks if what in block]
    assert len(found) == 1, found
    return str(found[0])


def program(address: str) -> str:
    return block("context.load_cert_chain").replace("tcp://:8443", address)


def http_server(address: str) -> str:
    before, main, after = (kit.RECIPES / "http_server.py").read_text().partition("\nif __name__ ==")
    server = f"{CONTEXT}\n{block('class TlsServer')}"
    return (
        before + server + main + after.replace("Server(flip", "TlsServer(flip").replace("sys.argv[1]", repr(address))
    )


def asyncio_streams(address: str) -> str:
    source = (kit.RECIPES / "asyncio_streams.py").read_text().replace("sys.argv[1]", repr(address))
    return CONTEXT + source.replace("sock=listener,", "sock=listener, ssl=context,")


def connected(trust: ssl.SSLContext, address: str) -> ssl.SSLSocket:
    client = kit.connect(address)
    try:
        return trust.wrap_socket(client, server_hostname="localhost")
    except BaseException:
        client.close()
        raise


def asked(client: ssl.SSLSocket) -> int:
    """Who answers."""
    client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = b""
    while (found := re.search(rb'pid(?:":)? (\d+)\D', answer)) is None:
        part = client.recv(4096)
        assert part, answer
        answer += part
    return int(found[1])


@pytest.mark.parametrize("source", [program, http_server, asyncio_streams], ids=lambda source: source.__name__)
def test_a_tls_connection_is_counted_and_drained(
    source: Callable[[str], str], trust: ssl.SSLContext, family: kit.Family, tcp: str, tmp_path: pathlib.Path
) -> None:
    app = tmp_path / "app.py"
    app.write_text(source(tcp))
    operator = kit.control_socket(tmp_path)

    def answers(address: str) -> int:
        with connected(trust, address) as client:
            return asked(client)

    def open_now() -> int:
        return int(str(control.status(operator.address, 20 * kit.SCALE)["connections"]))

    family.python(app, env=operator.env)
    serving = family.serving(tcp, who=answers)
    serving = family.upgrade(tcp, serving, answers)
    kit.wait_for("none is open", lambda: open_now() == 0)
    with connected(trust, tcp) as client:
        assert open_now() == 1, "after the handshake too"
        os.kill(serving, signal.SIGTERM)
        kit.wait_for("shutdown has begun", lambda: not (tmp_path / "ctl").exists())
        assert asked(client) == serving
    assert family.status(serving) == 0, family.log()
    assert "connections were left" not in family.log()
    family.no_complaints()


def test_a_listener_is_not_wrapped() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with Flip(signals=False) as flip, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        listener = flip.listen("tcp://127.0.0.1:0")
        with pytest.raises(ValueError, match="wrap each connection"):
            context.wrap_socket(listener, server_side=True)
        gc.collect()
        assert listener.fileno() == -1
        os.close(flip.listen("tcp://127.0.0.1:0?name=other").detach())
