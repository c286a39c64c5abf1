"""Integrations where what they integrate with is not installed."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

IMPORT = "import sys; sys.modules[{name!r}] = None; import kvpool.integrations.transformers"


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_a_missing_package_is_named_with_the_extra_that_has_it(name: str) -> None:
    if name == "transformers":  # torch comes before it, and need not be there
        code = "import sys, types; sys.modules['torch'] = types.ModuleType('torch'); "
    else:
        code = ""
    command = [sys.executable, "-c", code + IMPORT.format(name=name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: the caches of transformers models need {name}: install")
    assert '"kvpool[transformers]"' in last


def test_the_library_does_not_import_torch() -> None:
    code = (
        "import sys; sys.modules.update(torch=None, transformers=None); "
        "import kvpool, kvpool.cli, kvpool.integrations, kvpool.layout._model_config"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_the_extras_allow_what_the_integrations_accept() -> None:
    """The lowest releases of `pyproject.toml`, which `older_transformers` tests as well."""
    extras = metadata.metadata("kvpool").get_all("Requires-Dist") or []
    assert any(line.startswith("transformers<6,>=5.19;") for line in extras), extras
