"""The contributor's manual: every task of the project is a session here.

Six of them are the gates that each milestone passes: build, test, lint, format, docs and
min_python. `nox -s gates` runs all six and closes with a table; `scripts/ci-local.sh` does
the same from nothing but a Python and a network. `nox -t quick` runs those without tests.

Tools come in the exact versions of `requirements/`, which `nox -s lock` writes. A missing
interpreter is a failure. Environments are made by uv where it is there, by virtualenv else.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import nox
from nox.virtualenv import find_uv

sys.path.insert(0, str(Path(__file__).parent))  # `scripts` is not installed anywhere

from scripts.gates import distribution, interpreters, locks, runner, sources, steps

ROOT = Path(__file__).parent

nox.needs_version = ">=2026.4"
nox.options.sessions = ["gates"]
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"  # a Python is taken from this machine, or it is missing
nox.options.error_on_missing_interpreters = True

OLDEST = interpreters.find(interpreters.SUPPORTED[0])
NEWEST = interpreters.newest(os.environ.get("KVPOOL_PYTHON", "").split() or interpreters.SUPPORTED)

BACKENDS = ("numpy", "mmap", "ctypes")
WITH_TORCH = ("docs/serving.md", "docs/transformers.md")  # `transformers` runs their examples
WITH_LLAMA = ("docs/llama-cpp.md",)  # `engine_llama` runs them
ENGINES = ("llama_cpp", "lmcache", "sglang", "vllm")  # whose modules a session of their own tests
TYPED_PAGES = ("docs/tutorial.md",)  # whose examples are a program that passes mypy --strict
MODULES = ("kvpool", *(f"kvpool_{name}" for name in BACKENDS))

# The lowest that is allowed, and the last before `cache` took the place of `past_key_values`.
OLDER_TRANSFORMERS = ("5.19.0", "5.23.0")
NEWEST_TRANSFORMERS_ONLY = (
    "test_examples.py",
    "test_model_families.py",
    "test_ragged_families.py",
    "test_ragged_real_model.py",
    "test_real_model.py",
    "test_small_model.py",
)

COVERAGE = ("--cov", "--cov-report=term")

# What one environment borrows from another has no programs there; -P, because the tree must not get
# in front of what is installed.
BORROWED_PYTEST = ("python", "-P", "-m", "pytest")

# In the tests of the project's own tools nothing of kvpool runs. They start many processes, which
# are slow to measure, so they run once, in `test`, and unmeasured.
TOOLS = ("tests/gates", "tests/stack")

# What these check is the same on every interpreter: the pages, the suite of benchmarks, what the
# wheel holds, how many hits simulated pools have, and that no byte of a ledger can change unseen,
# of which hashes decide. They run in `test`; `lint` checks their code for the oldest Python.
SAME_EVERYWHERE = (
    "tests/benchmarks",
    "tests/docs",
    "tests/eviction/test_hit_ratios.py",
    "tests/ledger/test_verify_tampering.py",
    "tests/packaging",
    "tests/sizing/test_measuring.py",
    "tests/sizing/test_simulation.py",
)

# The choice of a backend is a test's own; the profile makes hypothesis repeat itself. Bytecode is
# kept: without it, each of the many processes that tests start would compile NumPy anew.
TEST_ENVIRONMENT = {
    "HYPOTHESIS_PROFILE": "ci",
    "KVPOOL_BACKEND": None,
    "KVPOOL_DISABLED_BACKENDS": None,
    "PYTHONDONTWRITEBYTECODE": None,
}


# A test with a real model in vLLM takes two minutes on two cores; a slow machine may need ten.
PATIENT = ("-o", "faulthandler_timeout=1200")

# Two processes of tests with torch compute more than one that has all processors for itself.
ONE_THREAD = {"OMP_NUM_THREADS": "1"} if steps.PARALLEL else {}


@nox.session(python=NEWEST.for_nox, tags=["gate"])
def build(session: nox.Session) -> None:
    """Gate: build what a user gets, and use it as a user does.

    The sdist, the wheel from the sdist, strict checks of metadata and contents; then the
    wheel alone in a bare environment outside of the tree, where every module of it is imported,
    every entry point resolves and `kvpool backends` runs.
    """
    python = steps.require(session, NEWEST)
    session.install("-r", "requirements/build.txt")
    with tempfile.TemporaryDirectory(prefix="kvpool-build-") as scratch:
        output = Path(scratch) / "dist"
        session.run("python", "-m", "build", "--no-isolation", "--outdir", str(output))
        (sdist,), (wheel,) = output.glob("*.tar.gz"), output.glob("*.whl")
        session.run("twine", "check", "--strict", str(sdist), str(wheel))
        problems = distribution.sdist_problems(sdist, ROOT)
        problems += distribution.wheel_problems(wheel, ROOT)
        if problems:
            session.error("\n".join(["the distribution is not as it should be:", *problems]))
        steps.use_wheel(session, wheel, Path(scratch) / "bare", python, BACKENDS)


@nox.session(python=NEWEST.for_nox, tags=["gate"])
def test(session: nox.Session) -> None:
    """Gate: the tests, on the newest supported Python at hand; a warning is an error.

    They run against an installed kvpool, not the tree: what is missing from the wheel is
    missing here. Arguments go to pytest: `nox -s test -- tests/entry -x`. Another Python than
    the newest: `KVPOOL_PYTHON=3.12 nox -s test`.

    On Linux, where every backend runs, a run of all tests also measures which branches of
    kvpool and its backends they take; below 95 % the gate fails. What needs torch is measured
    by `transformers`.
    """
    steps.require(session, NEWEST)
    measured = sys.platform == "linux" and not session.posargs
    run_tests(session, "requirements/test.txt", *(COVERAGE if measured else ()))
    if session.posargs:
        return
    told = steps.junit_options(session, "-tools")
    session.run("pytest", *chosen_tests(), *told, *TOOLS, env=TEST_ENVIRONMENT)
    if os.name != "nt":  # the stack tool is for POSIX systems
        own = ["-c", "tools/stack/pyproject.toml", *steps.PARALLEL, "tools/stack/tests"]
        session.run("pytest", *own, env=TEST_ENVIRONMENT)


@nox.session(python=OLDEST.for_nox, tags=["gate", "quick"])
def lint(session: nox.Session) -> None:
    """Gate: ruff, mypy --strict over every Python file, shellcheck over every shell script.

    mypy also checks the examples of the tutorial, as a user's program.

    A comment that silences a finding is a failure.

    It runs on the oldest Python, whose syntax and standard library are what all code must
    do with. `nox -s lint -- --fix` hands its arguments to ruff.
    """
    steps.require(session, OLDEST)
    session.install("-r", "requirements/lint.txt")
    session.run("ruff", "check", *session.posargs, ".")
    problems = sources.silencing_problems(ROOT) + sources.shell_problems(ROOT)
    if problems:
        session.error("\n".join(problems))
    session.run("shellcheck", *sources.shell_files(ROOT))
    with tempfile.TemporaryDirectory(prefix="kvpool-lint-") as scratch:
        typed = [sources.write_program(ROOT / page, Path(scratch)) for page in TYPED_PAGES]
        session.run("mypy", *sources.python_files(ROOT), *typed)


@nox.session(name="format", tags=["gate", "quick"])
def format_(session: nox.Session) -> None:
    """Gate: the code is formatted. `nox -s format -- --fix` formats it."""
    session.install("-r", "requirements/format.txt")
    check = [] if "--fix" in session.posargs else ["--check", "--diff"]
    session.run("ruff", "format", *check, ".")


@nox.session(python=NEWEST.for_nox, tags=["gate", "quick"])
def docs(session: nox.Session) -> None:
    """Gate: the pages build without a warning, and every example in them runs.

    The examples are the doctests of the docstrings and the Python blocks of the README and of
    the pages, in syntax that the oldest Python can read. Those of `docs/stack` and the pages of
    the benchmarks are what their records say, the table of packages is what they import, and the
    diagrams are what is drawn. All of them are in `docs/_build/html` afterwards.
    """
    steps.require(session, NEWEST)
    steps.install_project(session, "requirements/docs.txt")
    shutil.rmtree(ROOT / "docs/generated", ignore_errors=True)  # pages that an older tree made
    options = ["--fail-on-warning", "--keep-going", "--nitpicky", "--fresh-env", "--quiet"]
    options += ["--jobs", "auto"]
    session.run("sphinx-build", *options, "--builder", "html", "docs", "docs/_build/html")
    examples = steps.pages_with_examples(ROOT, *WITH_TORCH, *WITH_LLAMA)
    if problems := sources.examples_problems(map(Path, examples), interpreters.SUPPORTED[0]):
        session.error("\n".join(problems))
    session.run("python", "-m", "scripts.stack", "render", "--check")
    session.run("python", "-m", "benchmarks.page", "--check")
    session.run("python", "-m", "scripts.architecture", "--check")
    session.run("python", "-m", "scripts.diagrams", "--check")
    elsewhere = ("integrations/*", "serving/*", "tiers/mooncake_store.py")
    without = [f"--ignore-glob=/*/kvpool/{room}" for room in elsewhere]
    modules = ["--doctest-modules", *without, "--pyargs", *MODULES]
    session.run("pytest", "--quiet", *examples, *modules, env=TEST_ENVIRONMENT)


@nox.session(python=OLDEST.for_nox, tags=["gate"])
def min_python(session: nox.Session) -> None:
    """Gate: tests and examples on the oldest Python with the lowest versions that we say we take.

    An old dependency that warns is not excused: its lower bound rises. The tests of many
    threads for several seconds are left to `test`, and so are those of the project's own tools,
    and of its pages, benchmarks, wheel, simulations and changed ledgers, which depend on no
    interpreter; `lint` checks their code for the oldest Python.
    """
    steps.require(session, OLDEST)
    elsewhere = () if session.posargs else [f"--ignore={room}" for room in SAME_EVERYWHERE]
    run_tests(session, "requirements/min-python.txt", *elsewhere, without="stress")
    if not session.posargs:
        examples = steps.pages_with_examples(ROOT, *WITH_TORCH, *WITH_LLAMA)
        session.run("pytest", "--quiet", *examples, env=TEST_ENVIRONMENT)


@nox.session(venv_backend="none")
def gates(session: nox.Session) -> None:
    """All six gates, each whatever the others do, and a table at the end.

    `nox -s gates -- quick` runs lint, format and docs; names of gates select those. With
    KVPOOL_GATES_JSON set to a path, the table is written there as JSON as well.
    """
    runner.run_session(session, ROOT / "noxfile.py")


@nox.session(python=OLDEST.for_nox, venv_backend="venv")
def integration(session: nox.Session) -> None:
    """Run the tests that need public traces, torch, or a real server, and let none of them skip.

    The servers are redis-server, which the system has to have, one of S3, and Mooncake's. pip makes
    this environment, not uv: a machine may have its build of torch where only pip's configuration
    says.
    """
    steps.require(session, OLDEST)
    steps.install_project(session, "requirements/test.txt")
    steps.install_groups(session, "integration")
    required = {"KVPOOL_REQUIRE": "traces,torch,redis,moto,mooncake"}
    environment = TEST_ENVIRONMENT | ONE_THREAD | required
    options = session.posargs or steps.PARALLEL
    session.run("pytest", "-m", "integration", *options, env=environment)


@nox.session(python=OLDEST.for_nox, venv_backend="venv")
def transformers(session: nox.Session) -> None:
    """Run the tests and examples of what needs transformers, in the versions of their group.

    That is the cache, the chat, the engine and the server. A run of all of them measures the
    branches of what needs torch, as `test` does for the rest. Where torch cannot be had, as on a
    machine without its builds, the session is skipped and says so; with CI set in the environment
    that is a failure. The tests with a real model are skipped in the same way where its weights
    cannot be had. pip makes this environment, as that of `integration`.
    """
    steps.require(session, OLDEST)
    steps.install_project(session, "requirements/test.txt")
    steps.install_or_skip(session, "transformers")
    required = "transformers,model" if steps.install_model(session) else "transformers"
    environment = TEST_ENVIRONMENT | ONE_THREAD | {"KVPOOL_REQUIRE": required}
    measured = [*steps.PARALLEL, *COVERAGE, "--cov-config=tests/integrations/coverage.toml"]
    options = session.posargs or measured
    session.run("pytest", "-m", "transformers", *options, env=environment)
    modules = ["--doctest-modules", *(f"--ignore-glob=*{one}*" for one in ENGINES)]
    modules += ["--pyargs", "kvpool.integrations", "kvpool.serving"]
    session.run("pytest", "--quiet", *WITH_TORCH, *modules, env=environment)


@nox.session(python=OLDEST.for_nox, venv_backend="venv")
def older_transformers(session: nox.Session) -> None:
    """Run the tests of the caches and batches with older releases of transformers.

    They are the lowest that is allowed, and the last one whose models call the cache
    `past_key_values`; one takes the place of the other in the same environment. What else is
    needed is borrowed from that of `transformers`, if it is there. The types of models, and what
    is built on the caches, are left to the newest, in `transformers`.
    """
    steps.require(session, OLDEST)
    steps.borrow(session, "transformers")
    steps.install_project(session, "requirements/test.txt")
    steps.install_or_skip(session, "transformers")
    left_out = [f"--ignore=tests/integrations/{name}" for name in NEWEST_TRANSFORMERS_ONLY]
    environment = TEST_ENVIRONMENT | ONE_THREAD | {"KVPOOL_REQUIRE": "transformers"}
    options = session.posargs or [*left_out, *steps.PARALLEL]
    pytest = (*BORROWED_PYTEST, "-m", "transformers", "tests/integrations")
    for release in OLDER_TRANSFORMERS:
        session.install(f"transformers=={release}")
        session.run(*pytest, *options, env=environment)


@nox.session(python=OLDEST.for_nox, venv_backend="venv")
def engine_llama(session: nox.Session) -> None:
    """Run the tests and examples of the caches of llama.cpp.

    llama-cpp-python is compiled the first time, which takes some minutes. Its wheel stays in
    `~/.cache/kvpool/wheels`, or below KVPOOL_CACHE. Where it cannot be compiled, the session is
    skipped and says so; with CI set in the environment that is a failure.
    """
    steps.require(session, OLDEST)
    steps.install_project(session, "requirements/test.txt")
    steps.install_compiled_or_skip(session, "engine-llama", steps.LLAMA_SETTINGS)
    required = "llama_cpp,model" if steps.install_model(session) else "llama_cpp"
    environment = TEST_ENVIRONMENT | {"KVPOOL_REQUIRE": required}
    folder = "tests/integrations/llama_cpp"
    measured = [*COVERAGE, f"--cov-config={folder}/coverage.toml"]
    session.run("pytest", folder, *(session.posargs or measured), env=environment)
    if session.posargs:
        return
    session.run("pytest", "tests/benchmarks/test_llama_cpp.py", env=environment)
    session.run("pytest", "--quiet", *WITH_LLAMA, env=environment)


@nox.session(python=OLDEST.for_nox, venv_backend="venv")
def engine_vllm(session: nox.Session) -> None:
    """Run the tests of the tier of vLLM, which runs on a CPU here.

    About 2 GB are installed: what vLLM needs for these tests, and not all that it asks for. Where
    that cannot be had, the session is skipped and says so; with CI set in the environment that is
    a failure. A server of the tests is redis-server, which the system has to have.
    """
    steps.require(session, OLDEST)
    steps.install_project(session, "requirements/test.txt")
    steps.install_or_skip(session, "engine-vllm")
    steps.install_alone_or_skip(session, "engine-vllm-alone")
    required = "vllm,redis,model" if steps.install_model(session) else "vllm,redis"
    environment = TEST_ENVIRONMENT | {"KVPOOL_REQUIRE": required, "VLLM_LOGGING_LEVEL": "WARNING"}
    folder = "tests/integrations/vllm"
    measured = [*PATIENT, *COVERAGE, f"--cov-config={folder}/coverage.toml"]
    session.run("pytest", folder, *(session.posargs or measured), env=environment)
    if not session.posargs:
        more = ["tests/integrations/test_vllm_plugin.py", "tests/benchmarks/test_vllm.py"]
        session.run("pytest", *PATIENT, *more, env=environment)


@nox.session(python=OLDEST.for_nox, venv_backend="venv")
def engine_lmcache(session: nox.Session) -> None:
    """Run the tests of the adapter of LMCache's server, with vLLM on a CPU in front of it.

    What the environment of `engine_vllm` holds is borrowed from there, so run that session before.
    Otherwise vLLM is installed here as well. Where it or LMCache cannot be had, the session is
    skipped and says so; with CI set in the environment that is a failure. A server of the tests is
    redis-server, which the system has to have.
    """
    steps.require(session, OLDEST)
    steps.borrow(session, "engine_vllm")
    steps.install_project(session, "requirements/test.txt")
    steps.install_or_skip(session, "engine-vllm")
    steps.install_alone_or_skip(session, "engine-vllm-alone")
    steps.install_or_skip(session, "engine-lmcache")
    steps.install_alone_or_skip(session, "engine-lmcache-alone")
    required = "lmcache,redis,model" if steps.install_model(session) else "lmcache,redis"
    environment = TEST_ENVIRONMENT | {"KVPOOL_REQUIRE": required, "VLLM_LOGGING_LEVEL": "WARNING"}
    folder = "tests/integrations/lmcache"
    measured = [*PATIENT, *COVERAGE, f"--cov-config={folder}/coverage.toml"]
    session.run(*BORROWED_PYTEST, folder, *(session.posargs or measured), env=environment)


@nox.session(python=OLDEST.for_nox, venv_backend="venv")
def engine_sglang(session: nox.Session) -> None:
    """Run the tests of the storage of SGLang, with its factory and its pools in host memory.

    Its engine needs a GPU and does not run here. About 1 GB is installed: SGLang without what it
    asks for, and what these parts of it import. Where that cannot be had, the session is skipped
    and says so; with CI set in the environment that is a failure. A server of the tests is
    redis-server, which the system has to have.
    """
    steps.require(session, OLDEST)
    steps.install_project(session, "requirements/test.txt")
    steps.install_or_skip(session, "engine-sglang")
    steps.install_alone_or_skip(session, "engine-sglang-alone")
    environment = TEST_ENVIRONMENT | {"KVPOOL_REQUIRE": "sglang,redis"}
    folder = "tests/integrations/sglang"
    measured = [*COVERAGE, f"--cov-config={folder}/coverage.toml"]
    session.run("pytest", folder, *(session.posargs or measured), env=environment)


@nox.session(python=OLDEST.for_nox)
def bench(session: nox.Session) -> None:
    """Run every benchmark, print what they find, and write one record of it.

    The record is in `.nox/.cache/bench.json`, or where `-- --json FILE` says. `-- --quick`
    shows that all of them work, `-- eviction` runs one, `-- --publish` makes the performance
    page of the docs anew, and `-- --help` tells the rest.
    """
    steps.require(session, OLDEST)
    steps.install_editable(session, "requirements/bench.txt")
    record = str(session.cache_dir / "bench.json")
    session.run("python", "-m", "benchmarks", "--json", record, *session.posargs)


@nox.session(python=OLDEST.for_nox, venv_backend="venv")
def bench_decode(session: nox.Session) -> None:
    """Run the benchmark that needs torch, as `bench` runs all others; draw its plot.

    The record is in `.nox/.cache/bench-decode.json`. With `-- --publish` it goes to the
    performance page, and the plot of the README is made anew. pip makes this environment, as that
    of `integration`.
    """
    steps.require(session, OLDEST)
    steps.install_editable(session, "requirements/bench.txt", "transformers", "plot")
    record = str(session.cache_dir / "bench-decode.json")
    session.run("python", "-m", "benchmarks", "decode", "--json", record, *session.posargs)
    if "--publish" in session.posargs:  # record and plot have their places in the docs
        session.run("python", "-m", "benchmarks.decode_plot")
    elif "--quick" not in session.posargs:
        drawn = str(session.cache_dir / "decode.svg")
        session.run("python", "-m", "benchmarks.decode_plot", "--record", record, "-o", drawn)


@nox.session(python=OLDEST.for_nox, venv_backend="venv")
def bench_first_token(session: nox.Session) -> None:
    """Run the benchmark that needs torch and a real model, as `bench` runs all others.

    The record is in `.nox/.cache/bench-first-token.json`. With `-- --publish` it goes to the
    performance page. pip makes this environment, as that of `integration`.
    """
    steps.require(session, OLDEST)
    steps.install_editable(session, "requirements/bench.txt", "transformers")
    if not steps.install_model(session):
        session.error("the benchmark measures a real model, and pip cannot install its weights")
    record = str(session.cache_dir / "bench-first-token.json")
    session.run("python", "-m", "benchmarks", "first_token", "--json", record, *session.posargs)


@nox.session(python=OLDEST.for_nox, venv_backend="venv")
def bench_ragged(session: nox.Session) -> None:
    """Run the benchmark of many sessions in one step, as `bench` runs all others.

    It needs torch and a real model, and takes about half an hour; `-- --quick` shows that it works.
    The record is in `.nox/.cache/bench-ragged.json`. With `-- --publish` it goes to the performance
    page. pip makes this environment, as that of `integration`.
    """
    steps.require(session, OLDEST)
    steps.install_editable(session, "requirements/bench.txt", "transformers")
    if not steps.install_model(session) and "--quick" not in session.posargs:
        session.error("the benchmark measures a real model, and pip cannot install its weights")
    record = str(session.cache_dir / "bench-ragged.json")
    session.run("python", "-m", "benchmarks", "ragged", "--json", record, *session.posargs)


@nox.session(python=OLDEST.for_nox, venv_backend="venv")
def bench_tiers(session: nox.Session) -> None:
    """Run the benchmark of tiers with every store, as `bench` runs all others.

    `bench` measures the disk alone; this also installs the clients of redis-server, which the
    system has to have, and of object stores, servers of S3 and of Mooncake, and safetensors. The
    record is in `.nox/.cache/bench-tiers.json`. With `-- --publish` it goes to the performance
    page. pip makes this environment, as that of `integration`.
    """
    steps.require(session, OLDEST)
    steps.install_editable(session, "requirements/bench.txt", "integration", "bench-tiers")
    record = str(session.cache_dir / "bench-tiers.json")
    session.run("python", "-m", "benchmarks", "tiers", "--json", record, *session.posargs)


@nox.session(python=OLDEST.for_nox, venv_backend="venv")
def bench_tiers_model(session: nox.Session) -> None:
    """Run the benchmark of tiers and codecs with a real model, as `bench` runs all others.

    The record is in `.nox/.cache/bench-tiers-model.json`. With `-- --publish` it goes to the
    performance page. pip makes this environment, as that of `integration`.
    """
    steps.require(session, OLDEST)
    steps.install_editable(session, "requirements/bench.txt", "transformers", "bench-tiers")
    if not steps.install_model(session):
        session.error("the benchmark measures a real model, and pip cannot install its weights")
    record = str(session.cache_dir / "bench-tiers-model.json")
    session.run("python", "-m", "benchmarks", "tiers_model", "--json", record, *session.posargs)


@nox.session(python=OLDEST.for_nox, venv_backend="venv")
def bench_llama(session: nox.Session) -> None:
    """Run the benchmark that needs llama.cpp and a real model, as `bench` runs all others.

    It takes about a quarter of an hour; `-- --quick` shows that it works. The record is in
    `.nox/.cache/bench-llama.json`. With `-- --publish` it goes to the performance page. pip makes
    this environment, as that of `engine_llama`.
    """
    steps.require(session, OLDEST)
    steps.install_editable(session, "requirements/bench.txt")
    steps.install_compiled_or_skip(session, "engine-llama", steps.LLAMA_SETTINGS)
    if not steps.install_model(session):
        session.error("the benchmark measures a real model, and pip cannot install its weights")
    record = str(session.cache_dir / "bench-llama.json")
    session.run("python", "-m", "benchmarks", "llama_cpp", "--json", record, *session.posargs)


@nox.session(python=OLDEST.for_nox, venv_backend="venv")
def bench_serve(session: nox.Session) -> None:
    """Run the benchmark of `kvpool serve` and the server of llama-cpp-python, as `bench` does.

    Both serve a real model. The record is in `.nox/.cache/bench-serve.json`. With `-- --publish`
    it goes to the performance page. pip makes this environment, as that of `engine_llama`.
    """
    steps.require(session, OLDEST)
    steps.install_editable(session, "requirements/bench.txt", "transformers")
    steps.install_compiled_or_skip(session, "engine-llama", steps.LLAMA_SETTINGS)
    steps.install_groups(session, "bench-serve")
    if not steps.install_model(session):
        session.error("the benchmark measures a real model, and pip cannot install its weights")
    record = str(session.cache_dir / "bench-serve.json")
    session.run("python", "-m", "benchmarks", "serve", "--json", record, *session.posargs)


@nox.session(python=OLDEST.for_nox, venv_backend="venv")
def bench_vllm(session: nox.Session) -> None:
    """Run the benchmark that needs vLLM and a real model, as `bench` runs all others.

    It takes some minutes; `-- --quick` shows that it works. The record is in
    `.nox/.cache/bench-vllm.json`. With `-- --publish` it goes to the performance page. pip makes
    this environment, as that of `engine_vllm`.
    """
    steps.require(session, OLDEST)
    steps.install_editable(session, "requirements/bench.txt")
    steps.install_or_skip(session, "engine-vllm")
    steps.install_alone_or_skip(session, "engine-vllm-alone")
    if not steps.install_model(session):
        session.error("the benchmark measures a real model, and pip cannot install its weights")
    record = str(session.cache_dir / "bench-vllm.json")
    session.run("python", "-m", "benchmarks", "vllm", "--json", record, *session.posargs)


@nox.session(python=OLDEST.for_nox)
def nightly(session: nox.Session) -> None:
    """Make 200,000 random calls, verify 1,000 ledgers, interrupt 50,000 calls, soak, and kill.

    A violation is a failure, and so is a ledger of 8 threads that does not verify. The soak, 10
    minutes of every call in 8 threads, may not use more memory, descriptors or mappings at its end
    than after its first rounds. `nox -s bench` makes a part of each. A process that writes to the
    tier on a disk is killed 300 times, where the gates do it 20 times.
    """
    steps.require(session, OLDEST)
    steps.install_editable(session, "requirements/bench.txt")
    arguments = ["stateful", "interrupts", "soak", "--check", *session.posargs]
    session.run("python", "-m", "benchmarks", *arguments, env={"KVPOOL_NIGHTLY": "1"})
    # Without the conftest files, which need more than this environment has.
    kills = ["--noconftest", "tests/tiers/test_disk_faults.py", "-k", "kill"]
    session.run("python", "-m", "pytest", *kills, env=TEST_ENVIRONMENT | {"KVPOOL_KILLS": "300"})


@nox.session(python=OLDEST.for_nox, reuse_venv=True)
def stack(session: nox.Session) -> None:
    """Stacks of milestones: `nox -s stack -- status`, and see docs/stack/README.md.

    The tool is `tools/stack`. Its environment is made once and again when its lock file changes.
    """
    steps.require(session, OLDEST)
    steps.install_once(session, "requirements/stack.txt")
    session.run("python", "-m", "scripts.stack", *session.posargs)


@nox.session(python=False)
def lock(session: nox.Session) -> None:
    """Write the lock files of `requirements/` anew; versions that still fit stay.

    `nox -s lock -- --upgrade` takes the newest of everything, `-- --upgrade-package NAME` of
    one package.
    """
    found, uv, _ = find_uv()
    if not found:
        session.error("uv is needed: python -m pip install -r requirements/nox.txt")
    locks.write_all(uv, ROOT, interpreters.SUPPORTED[0], session.posargs)


def run_tests(session: nox.Session, lock_file: str, *options: str, without: str = "") -> None:
    """Install kvpool and run its tests, or those that the arguments of the session name."""
    steps.install_project(session, lock_file)
    wanted = session.posargs or [f"--ignore={folder}" for folder in TOOLS]
    chosen = [*chosen_tests(without), *steps.junit_options(session)]
    session.run("pytest", *chosen, *options, *wanted, env=TEST_ENVIRONMENT)


def chosen_tests(without: str = "") -> list[str]:
    """Return options of pytest: all processors, and no tests that need what is not at hand.

    `nox -s stack -- verify` leaves out what a manifest excludes, and records that.
    """
    excluded = os.environ.get("KVPOOL_EXCLUDED_TESTS", "").splitlines()
    return steps.pytest_options(excluded, without)
