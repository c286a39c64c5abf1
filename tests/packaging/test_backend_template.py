"""The template of a third-party backend: built as a wheel, installed beside kvpool's, used.

Both wheels are built from this tree; everything else in the fresh environment has the versions
of the environment that the tests run in.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "examples" / "kvpool-backend-template"


@dataclass(frozen=True)
class Environment:
    """A fresh virtual environment with the two wheels, and a folder outside of the tree."""

    scripts: Path
    folder: Path

    def run(self, command: str, *arguments: str) -> str:
        """Run a command of the environment and return its output; it fails the test if it fails."""
        return run(str(self.scripts / command), *arguments, folder=self.folder)

    def python(self, code: str) -> str:
        """Run Python code and return its output."""
        return self.run("python", "-I", "-W", "error", "-c", code)


def run(*command: str, folder: Path) -> str:
    hidden = ("KVPOOL_", "PYTHON", "VIRTUAL_ENV", "PYTEST_")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    done = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.fail(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The environment: uv makes it where it is there, else venv and pip do."""
    folder = tmp_path_factory.mktemp("template")
    wheels = folder / "wheels"
    for source in (ROOT, TEMPLATE):
        build = (sys.executable, "-m", "build", "--wheel", "--no-isolation")
        run(*build, "--outdir", str(wheels), str(source), folder=folder)
    found = sorted(wheels.glob("*.whl"))
    assert [wheel.name.split("-")[0] for wheel in found] == ["kvpool", "kvpool_backend_template"]

    target = folder / "environment"
    scripts = Path(sysconfig.get_path("scripts", "venv", {"base": str(target)}))
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(pins()), encoding="utf-8")
    wanted = ("--constraint", str(constraints), "pytest", *map(str, found))
    if uv := shutil.which("uv", path=os.pathsep.join([*os.get_exec_path(), tool_folder()])):
        run(uv, "venv", "--quiet", "--python", sys.executable, str(target), folder=folder)
        run(uv, "pip", "install", "--python", str(target), *wanted, folder=folder)
    else:
        run(sys.executable, "-m", "venv", str(target), folder=folder)
        run(str(scripts / "python"), "-m", "pip", "install", *wanted, folder=folder)
    return Environment(scripts, folder)


def tool_folder() -> str:
    return sysconfig.get_path("scripts")


def pins() -> list[str]:
    """Return a constraint for each distribution of this environment but kvpool."""
    return [
        f"{found.name}=={found.version}\n"
        for found in importlib.metadata.distributions()
        if found.name != "kvpool"
    ]


def test_template_is_listed(environment: Environment) -> None:
    shown: Any = json.loads(environment.run("kvpool", "backends", "--json"))
    assert [backend["name"] for backend in shown["backends"]] == [
        "ctypes",
        "mmap",
        "numpy",
        "template",
    ]
    template = shown["backends"][-1]
    assert template["distribution"] == "kvpool-backend-template"
    assert template["version"] == "0.1.0"
    assert template["state"] == "ok"
    assert "alignment" in template["options"]


WRITE_AND_READ = """
import sys
import numpy as np
import kvpool, kvpool_backend_template
from kvpool.backends import create_arena

for module in (kvpool, kvpool_backend_template):
    assert module.__file__.startswith(sys.prefix), module.__file__
arena = create_arena(1 << 20, "template", alignment=4096)
view = np.frombuffer(arena.buffer, np.float32).reshape(-1, 64)
view[:] = np.arange(64)
arena.close()
print(arena.info.backend, view.ctypes.data % 4096, view[-1].sum())
"""


def test_template_is_created_by_name(environment: Environment) -> None:
    assert environment.python(WRITE_AND_READ).split() == ["template", "0", "2016.0"]


SERVE_ENTRIES = """
import numpy as np
from kvpool import KVCacheEntry, KVLayout, MemoryPool

pool = MemoryPool(1 << 20, backend="template")
layout = KVLayout(layers=2, kv_heads=2, head_dim=32, dtype="float32")
entry = KVCacheEntry.create(pool, layout, max_context_length=64, session_id="chat/1")
tokens = np.arange(2 * 2 * 5 * 32, dtype="float32").reshape(2, 2, 5, 32)
entry.extend(tokens, -tokens)
assert np.array_equal(entry.keys(), tokens) and np.array_equal(entry.values(), -tokens)
pool.check_integrity()
print(pool.arena_info.backend, entry.token_count)
"""


def test_template_serves_entries(environment: Environment) -> None:
    assert environment.python(SERVE_ENTRIES).split() == ["template", "5"]


SERVE_SESSIONS = """
from kvpool import CacheKey, KVCacheManager

with KVCacheManager(4 * 4096, backend="template") as manager:
    for number in range(10):
        manager.allocate_entry(CacheKey("chat", number), 4096).data()[:] = number
    stats = manager.get_stats()
    held = [int(manager.get_cache_entry(key).data()[0]) for key in manager.session_keys()]
    manager.check_integrity()
print(stats.active_entries, stats.evictions, *held)
"""


def test_template_serves_sessions(environment: Environment) -> None:
    assert environment.python(SERVE_SESSIONS).split() == ["4", "6", "6", "7", "8", "9"]


def test_template_passes_the_suite(environment: Environment) -> None:
    copy = environment.folder / "template"
    shutil.copytree(TEMPLATE, copy, ignore=shutil.ignore_patterns("src"))
    output = environment.run("python", "-I", "-m", "pytest", "-q", str(copy))
    counts = re.search(r"^(\d+) passed in", output, re.MULTILINE)
    assert counts, output
    assert int(counts[1]) > 80
