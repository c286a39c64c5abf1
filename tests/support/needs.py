"""What some tests need and not every machine has: traces, torch, transformers, a real model.

Where it is missing, the test is skipped and says why. Where the environment variable
KVPOOL_REQUIRE names it (``traces,torch``), the test fails instead.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest

from kvpool.integrations.small_model import HOW_TO_INSTALL, SMALL_MODEL, small_model_file

BESIDE_THE_REPOSITORY = Path(__file__).parents[3] / "shared" / "traces"


def traces() -> Path:
    """Return the directory of the traces: $KVPOOL_TRACES, or ../shared/traces."""
    configured = os.environ.get("KVPOOL_TRACES")
    directory = Path(configured) if configured else BESIDE_THE_REPOSITORY
    if not directory.is_dir():
        missing("traces", f"there is no directory {directory}; set KVPOOL_TRACES")
    return directory


def torch() -> Any:
    """Return the module torch."""
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        missing("torch", f"torch cannot be imported: {error}")


def transformers() -> Any:
    """Return the module transformers, which needs torch as well."""
    try:
        importlib.import_module("torch")
        return importlib.import_module("transformers")
    except ImportError as error:
        missing("transformers", f"torch and transformers cannot be imported: {error}")


def safetensors() -> None:
    """Return if the package safetensors is here."""
    try:
        importlib.import_module("safetensors.numpy")
    except ImportError as error:
        missing("safetensors", f"safetensors cannot be imported: {error}")


def pyarrow() -> Any:
    """Return the module pyarrow."""
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        missing("pyarrow", f"pyarrow cannot be imported: {error}")


def moto() -> Any:
    """Return the module moto.server, which serves S3."""
    try:
        return importlib.import_module("moto.server")
    except ImportError as error:
        missing("moto", f"moto[server] cannot be imported: {error}")


def mooncake() -> Path:
    """Return the directory of the package mooncake, which has its programs as well."""
    try:
        store = importlib.import_module("mooncake.store")
    except ImportError as error:
        missing("mooncake", f"mooncake cannot be imported: {error}")
    return Path(str(store.__file__)).parent


def openai() -> Any:
    """Return the module openai, which is in the dependency group of transformers."""
    try:
        return importlib.import_module("openai")
    except ImportError as error:
        missing("transformers", f"openai cannot be imported: {error}")


def llama_cpp() -> Any:
    """Return the module llama_cpp."""
    try:
        return importlib.import_module("llama_cpp")
    except ImportError as error:
        missing("llama_cpp", f"llama-cpp-python cannot be imported: {error}")


def lmcache() -> Any:
    """Return the module lmcache, which takes seconds to import."""
    try:
        return importlib.import_module("lmcache")
    except ImportError as error:
        missing("lmcache", f"lmcache cannot be imported: {error}")


def sglang() -> Any:
    """Return the module sglang, which takes seconds to import."""
    try:
        return importlib.import_module("sglang")
    except ImportError as error:
        missing("sglang", f"sglang cannot be imported: {error}")


def vllm() -> Any:
    """Return the module vllm.version; the rest of vllm takes seconds to import."""
    try:
        return importlib.import_module("vllm.version")
    except ImportError as error:
        missing("vllm", f"vllm cannot be imported: {error}")


def small_model() -> Path:
    """Return the GGUF file of the small model; see the group `model` in pyproject.toml."""
    file = small_model_file()
    if file is None:
        missing("model", f"{SMALL_MODEL} is not installed: {HOW_TO_INSTALL}")
    return file


def missing(name: str, reason: str) -> NoReturn:
    """Skip the test, or fail it where KVPOOL_REQUIRE names what is missing."""
    required = {word.strip() for word in os.environ.get("KVPOOL_REQUIRE", "").split(",")}
    if name in required:
        pytest.fail(f"KVPOOL_REQUIRE asks for {name}, and {reason}")
    pytest.skip(f"needs {name}: {reason}")
