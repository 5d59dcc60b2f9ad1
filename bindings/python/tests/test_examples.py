"""The examples, as a reader would run them."""

from __future__ import annotations

import os
import pathlib
import re
import signal

import pytest

import kit
from shellflip import control

EXAMPLES = kit.ROOT / "examples" / "python"


def pid_in(line: bytes) -> int:
    found = re.search(rb"pid (\d+)", line)
    assert found is not None, line
    return int(found[1])


def said(address: str) -> int:
    return pid_in(kit.hello(address))


def test_the_server_of_the_readme_is_short_and_works(family: kit.Family, tcp: str, tmp_path: pathlib.Path) -> None:
    source = (EXAMPLES / "first.py").read_text()
    assert len(source.splitlines()) < 20
    for readme in (kit.ROOT / "README.md", kit.PACKAGE / "README.md"):
        assert f"```python\n{source}```" in readme.read_text(), readme
    app = tmp_path / "app.py"
    app.write_text(source.replace("tcp://127.0.0.1:8080", tcp))
    family.python(app)
    serving = family.serving(tcp, who=said)
    with kit.Load(tcp, "--hello", connections=2) as load:
        for _ in range(3):
            serving = family.upgrade(tcp, serving, said)
    load.nothing_failed()
    family.stop(serving)


def test_hello(family: kit.Family, tcp: str) -> None:
    family.python(EXAMPLES / "hello.py", tcp)
    serving = family.serving(tcp, who=said)
    with kit.Load(tcp, "--hello", connections=4) as load:
        for generation in range(1, 4):
            serving = family.upgrade(tcp, serving, said)
            assert kit.hello(tcp).endswith(b"generation %d\n" % generation)
    load.nothing_failed()
    family.stop(serving)


def test_http(family: kit.Family, tcp: str) -> None:
    # `make demo-python` replaces it twenty times.
    family.python(EXAMPLES / "http.py", tcp)
    serving = family.serving(tcp)
    with kit.Load(tcp) as load:
        for _ in range(3):
            serving = family.upgrade(tcp, serving)
    load.nothing_failed(generations=4)
    family.stop(serving)


def asyncio_server_of_the_readme(address: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", (kit.PACKAGE / "README.md").read_text(), re.DOTALL)
    source: str = next(block for block in blocks if "start_server" in block)
    return source.replace("tcp://:8080", address)


def test_the_asyncio_server_of_the_readme(family: kit.Family, tcp: str, tmp_path: pathlib.Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(asyncio_server_of_the_readme(tcp))
    family.python(app)
    serving = family.serving(tcp, who=said)
    with kit.Load(tcp, "--hello", connections=2) as load:
        for _ in range(3):
            serving = family.upgrade(tcp, serving, said)
    load.nothing_failed()
    family.stop(serving)


@pytest.mark.parametrize("example", ["first", "hello", "http", "readme"])
def test_a_detach_ends_nothing(example: str, family: kit.Family, tcp: str, tmp_path: pathlib.Path) -> None:
    operator = kit.control_socket(tmp_path)
    source = "" if example == "readme" else (EXAMPLES / f"{example}.py").read_text()
    app = tmp_path / "app.py"
    app.write_text(source.replace("tcp://127.0.0.1:8080", tcp) or asyncio_server_of_the_readme(tcp))
    family.python(app, env=operator.env)
    who = None if example == "http" else said
    serving = family.serving(tcp, who=who)
    control.detach(operator.address, 20 * kit.SCALE)
    for _ in range(20):
        assert family.serving(tcp, who=who) == serving
    family.stop(serving)


class Counted:
    """A client of stateful.py who knows what the count has to be."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.count = 0

    def __call__(self) -> int:
        with kit.connect(self.address) as client:
            client.sendall(b"alice\n")
            name, count, *rest = kit.receive(client).split()
        self.count += 1
        assert (name, int(count)) == (b"alice", self.count)
        return int(rest[1])


def test_stateful(family: kit.Family, tcp: str, tmp_path: pathlib.Path) -> None:
    refuse = tmp_path / "refuse"
    family.python(EXAMPLES / "stateful.py", tcp, env={"REFUSE": str(refuse)})
    kit.wait_for("it serves", lambda: "serving" in family.log())
    alice = Counted(tcp)
    serving = alice()
    for _ in range(5):
        os.kill(serving, signal.SIGUSR1)
        old = serving
        serving = kit.wait_for("the successor answers", lambda old=old: pid if (pid := alice()) != old else None)  # type: ignore[misc]
        assert family.status(old) == 0
    refuse.touch()
    os.kill(serving, signal.SIGUSR1)
    kit.wait_for("it is refused", lambda: "the operator asked for no upgrades" in family.log())
    assert alice() == serving
    family.stop(serving)


@pytest.mark.parametrize("recipe", sorted(kit.RECIPES.glob("*.py")), ids=lambda path: path.name)
def test_every_recipe_is_one_that_is_tested(recipe: pathlib.Path) -> None:
    assert recipe.name in (kit.PACKAGE / "tests" / "test_recipes.py").read_text()
