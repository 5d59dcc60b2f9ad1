"""Each recipe, with the framework as PyPI has it: upgrades under load, a request that outlives its process's
listening, a unix path, a clean exit.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import signal
import sys
from collections.abc import Mapping

import pytest

import kit
from shellflip import control

UPGRADES = 10


@dataclasses.dataclass(frozen=True)
class Recipe:
    name: str
    #: {address} is where to listen.
    command: tuple[str, ...]
    upgrade: signal.Signals = signal.SIGUSR1
    #: Workers answer, and their parent is who is replaced.
    forks: bool = False

    def start(self, family: kit.Family, address: str, env: Mapping[str, str] | None = None) -> int:
        command = [word.format(address=address) for word in self.command]
        return family.python(*command, env={"ADDRESS": address, **(env or {})}, cwd=kit.RECIPES)

    def who(self, address: str) -> int:
        pid = int(kit.ask(address)["pid"])
        return kit.parent_of(pid) if self.forks else pid


RECIPES = [
    Recipe("asyncio", ("asyncio_streams.py", "{address}")),
    Recipe("uvicorn", ("uvicorn_starlette.py", "{address}")),
    Recipe("hypercorn", ("hypercorn_app.py", "{address}")),
    Recipe("aiohttp", ("aiohttp_app.py", "{address}")),
    Recipe("waitress", ("waitress_app.py", "{address}")),
    Recipe("http.server", ("http_server.py", "{address}")),
    Recipe("gunicorn", ("-m", "gunicorn", "-c", "gunicorn.conf.py", "waitress_app:app"), signal.SIGUSR2, True),
    Recipe("shellflip-asgi", ("-m", "shellflip", "--bind", "{address}", "uvicorn_starlette:app")),
    Recipe("shellflip-wsgi", ("-m", "shellflip", "--bind", "{address}", "waitress_app:app")),
]


def each(recipes: list[Recipe]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("recipe", recipes, ids=lambda recipe: recipe.name)


@each(RECIPES)
def test_ten_upgrades_under_load_fail_no_request(recipe: Recipe, family: kit.Family, tcp: str) -> None:
    recipe.start(family, tcp)
    serving = family.serving(tcp, who=recipe.who)
    with kit.Load(tcp) as load:
        for _ in range(UPGRADES - 1):
            serving = family.upgrade(tcp, serving, recipe.who, recipe.upgrade)
        with kit.Slow(tcp) as slow:
            old, serving = serving, family.upgrade(tcp, serving, recipe.who, recipe.upgrade)
        if not recipe.forks:
            assert slow.answer["pid"] == old
        assert slow.answer
    load.nothing_failed(generations=UPGRADES + 1)
    family.stop(serving)


@each([recipe for recipe in RECIPES if recipe.forks])
def test_the_signal_for_a_reload_upgrades(
    recipe: Recipe, family: kit.Family, tcp: str, tmp_path: pathlib.Path
) -> None:
    # The recipe with one line more, which is edited: a reload reads the configuration anew.
    config = tmp_path / "gunicorn.conf.py"
    text = (kit.RECIPES / "gunicorn.conf.py").read_text()
    config.write_text(text)
    dataclasses.replace(recipe, command=("-m", "gunicorn", "-c", str(config), "waitress_app:app")).start(family, tcp)
    serving = family.serving(tcp, who=recipe.who)
    with kit.Load(tcp) as load:
        for number in range(3):
            # Of a length of its own: one of the same length in the same second is no edit to Python (__pycache__).
            edited = tmp_path / ("read" + "-again" * number)
            config.write_text(f"{text}\nopen({str(edited)!r}, 'x').close()\n")
            serving = family.upgrade(tcp, serving, recipe.who, signal.SIGHUP)
            assert edited.exists()
    load.nothing_failed(generations=4)
    family.stop(serving)


@each(RECIPES)
def test_a_unix_path_survives(recipe: Recipe, family: kit.Family, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.sock"
    address = f"unix://{path}"
    recipe.start(family, address)
    serving = family.serving(address, who=recipe.who)
    inode = path.stat().st_ino
    with kit.Load(address, connections=2, streams=1) as load:
        for _ in range(2):
            serving = family.upgrade(address, serving, recipe.who, recipe.upgrade)
    load.nothing_failed(generations=3)
    assert path.stat().st_ino == inode
    family.stop(serving)
    assert not path.exists()


@each(RECIPES)
def test_a_detach_ends_nothing(recipe: Recipe, family: kit.Family, tcp: str, tmp_path: pathlib.Path) -> None:
    operator = kit.control_socket(tmp_path)
    recipe.start(family, tcp, operator.env)
    serving = family.serving(tcp, who=recipe.who)
    control.detach(operator.address, 20 * kit.SCALE)
    # Longer than a server takes to end that takes the detach for its end.
    slow = kit.ask(tcp, "/slow")["pid"]
    assert (kit.parent_of(slow) if recipe.forks else slow) == serving
    assert recipe.who(tcp) == serving
    family.stop(serving)


@each([recipe for recipe in RECIPES if recipe.forks])
def test_workers_finish_what_they_have_when_all_are_told_to_stop(
    recipe: Recipe, family: kit.Family, tcp: str
) -> None:
    recipe.start(family, tcp)
    master = family.serving(tcp, who=recipe.who)
    with kit.Slow(tcp) as slow:
        os.killpg(master, signal.SIGTERM)
    assert slow.answer
    assert family.status(master) == 0, family.log()
    kit.wait_for("nobody is left", lambda: not family.processes())
    family.no_complaints()


def test_the_interpreter_of_the_tests_is_one_with_the_package() -> None:
    import shellflip

    assert pathlib.Path(shellflip.__file__).is_relative_to(sys.prefix), "the tests are about the installed package"
    assert os.path.exists(pathlib.Path(shellflip.__file__).with_name("libshellflip.so"))


def test_uvicorn_may_end_by_itself(family: kit.Family, tcp: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "app.py"
    path.write_text("""
import os, uvicorn
from shellflip import Flip
from shellflip.uvicorn import serve
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
with Flip() as flip:
    config = uvicorn.Config(app, limit_max_requests=1, log_level="error", lifespan="off")
    serve(config, flip, [flip.listen(os.environ["ADDRESS"])], idle_grace=0.1)
""")
    pid = family.python(path, env={"ADDRESS": tcp})
    kit.wait_for("an answer", lambda: _answered(tcp))
    assert family.status(pid) == 0, family.log()
    family.no_complaints()


def _answered(address: str) -> bool:
    try:
        return kit.get(address)[1] == b"ok"
    except OSError:
        return False
