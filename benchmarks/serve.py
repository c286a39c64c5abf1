"""Requests per second and time to the first token of `kvpool serve`, beside llama-cpp-python.

Both serve SmolLM2-135M-Instruct from the same GGUF file, over loopback, to 8 clients whose
conversations begin with one system prompt. Each client asks one question after the other, and
reads the answer as a stream. The servers are processes of their own and take turns: while one is
asked, the others wait. The times are those of the wall.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import metadata
from typing import Any

from benchmarks.harness import Ratio, Report, UnavailableError, interleave, median
from kvpool.integrations.small_model import HOW_TO_INSTALL, SMALL_MODEL, small_model_file

CLIENTS = 8
QUESTIONS = 2  # of each client in a round
ROUNDS = 3
PROMPT_RULES = 24  # sentences of the system prompt, of about 14 tokens each
ANSWER = 24
PATIENCE = 600  # seconds until a server that does not answer is given up

RULE = "The shelf with the number {number} has the books of the letter {letter}. "
LLAMA = "llama-cpp-python"
OURS = "kvpool serve"

NOTES = """\
llama-cpp-python computes with the four bits of the file and kernels of its own; `kvpool serve` \
with PyTorch, in the type that the row names.
llama-cpp-python's server answers one request at a time, and reuses what the prompt has in \
common with the one before; `kvpool serve` answers all at once.
An answer has at most 24 tokens, of the likeliest kind; the time to the first token is that until \
the first text comes, and it has waited for other requests as well.
The weights differ in type, and so do some answers and their lengths: compare tokens per second \
beside requests per second. A piece of a stream that has text counts as one token."""


class Client:
    """Asks a server, and notes the seconds to each first token."""

    def __init__(self, port: int, model: str) -> None:
        self.waits: list[float] = []
        self.tokens = 0
        self._port = port
        self._model = model

    def ask(self, system: str, question: str) -> None:
        """Ask a question, and read the answer as it comes."""
        body = {
            "model": self._model,
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": question},
            ],
            "max_tokens": ANSWER,
            "temperature": 0,
            "stream": True,
        }
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        start = time.perf_counter()
        connection.request(
            "POST",
            "/v1/chat/completions",
            json.dumps(body),
            {"Content-Type": "application/json"},
        )
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"status {response.status}: {response.read()[:500]!r}")
        is_first = True
        for choice in choices(response):
            if choice["delta"].get("content"):
                if is_first:
                    self.waits.append(time.perf_counter() - start)
                    is_first = False
                self.tokens += 1
        connection.close()


def choices(lines: Iterator[bytes] | http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the choices of the chunks of a stream."""
    for line in lines:
        text = line.decode().strip().removeprefix("data: ")
        if text and text != "[DONE]" and not text.startswith(":"):
            yield from json.loads(text)["choices"]


class Side:
    """A server that runs, and what its clients met."""

    def __init__(self, port: int, model: str, rules: int, clients: int, questions: int) -> None:
        self.waits: list[float] = []
        self.token_rates: list[float] = []
        self.lengths: list[float] = []  # tokens of an answer, one mean for each round
        self._port = port
        self._model = model
        letters = (chr(ord("A") + number % 26) for number in range(rules))
        self._system = "".join(
            RULE.format(number=number, letter=letter) for number, letter in enumerate(letters)
        )
        self._clients = clients
        self._questions = questions
        self._asked = 0

    def round(self) -> float:
        """Let all clients ask at once; return the requests per second."""
        asking = [Client(self._port, self._model) for _ in range(self._clients)]
        failures: list[BaseException] = []

        def work(client: Client, first: int) -> None:
            try:
                for number in range(first, first + self._questions):
                    client.ask(self._system, f"What is on shelf {number}?")
            except BaseException as error:
                failures.append(error)

        threads = [
            threading.Thread(target=work, args=(client, self._asked + number * self._questions))
            for number, client in enumerate(asking)
        ]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.perf_counter() - start
        if failures:
            raise failures[0]
        self._asked += self._clients * self._questions
        self.waits += [wait for client in asking for wait in client.waits]
        tokens = sum(client.tokens for client in asking)
        self.token_rates.append(tokens / took)
        self.lengths.append(tokens / (self._clients * self._questions))
        return self._clients * self._questions / took


@contextmanager
def running(command: Sequence[str]) -> Iterator[int]:
    """Run a server on a free port, which the command is told at its end; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    with subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_until_ready(port, process)
            yield port
        finally:
            process.terminate()


def wait_until_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server lists its models."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if process.poll() is not None:
            raise UnavailableError(f"{process.args!r} ended with {process.returncode}")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", "/v1/models")
            response = connection.getresponse()
            response.read()
            if response.status == 200:
                return
        except OSError:
            time.sleep(0.2)
        finally:
            connection.close()
    raise UnavailableError(f"{process.args!r} does not answer after {PATIENCE} s")


def llama_command(file: str) -> tuple[list[str], str]:
    """Return the command of llama-cpp-python's server, and its version.

    Raises
    ------
    UnavailableError
        It is not installed in this environment, nor in that of $KVPOOL_BENCH_LLAMA.
    """
    python = os.environ.get("KVPOOL_BENCH_LLAMA") or sys.executable
    program = "import llama_cpp.server.app; print(llama_cpp.__version__)"
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnavailableError(
            f"{python} has no server of {LLAMA}: pip install 'llama-cpp-python[server]', or let "
            "KVPOOL_BENCH_LLAMA name the Python of an environment that has it"
        )
    threads = str(os.cpu_count() or 1)
    options = ["--n_ctx", "4096", "--n_threads", threads, "--n_threads_batch", threads]
    # Else a request ends the streams of the others.
    options += ["--interrupt_requests", "false", "--verbose", "false"]
    return [python, "-m", "llama_cpp.server", "--model", file, *options], done.stdout.strip()


def our_command(*options: str) -> list[str]:
    """Return the command of our server."""
    return [sys.executable, "-m", "kvpool", "serve", *options]


def run(quick: bool) -> Report:
    """Measure both servers."""
    file = small_model_file()
    if file is None:
        raise UnavailableError(f"{SMALL_MODEL} is not installed: {HOW_TO_INSTALL}")
    report = Report("serving over HTTP")
    report.versions = {name: metadata.version(name) for name in ("torch", "transformers")}
    report.notes += NOTES.splitlines()
    commands = {
        f"{OURS}, {dtype}": our_command("--dtype", dtype, "--name", "model")
        for dtype in ("bfloat16", "float32")
    }
    try:
        command, version = llama_command(str(file))
    except UnavailableError as error:
        report.notes.append(f"{LLAMA} was not measured: {error}.")
    else:
        commands[LLAMA] = [*command, "--model_alias", "model"]
        report.versions[LLAMA] = version
    size = (4, 2, 1, 1) if quick else (PROMPT_RULES, CLIENTS, QUESTIONS, ROUNDS)
    measure(report, commands, *size)
    return report


def measure(
    report: Report,
    commands: dict[str, list[str]],
    rules: int,
    clients: int,
    questions: int,
    rounds: int,
) -> None:
    """Ask all servers in turns; add the figures to the report."""
    with ExitStack() as stack:
        sides = {
            name: Side(stack.enter_context(running(command)), "model", rules, clients, questions)
            for name, command in commands.items()
        }
        for side in sides.values():
            side.round()  # what is computed once
            for samples in (side.waits, side.token_rates, side.lengths):
                samples.clear()
        rates = interleave({name: side.round for name, side in sides.items()}, rounds)
    load = f"{clients} clients, {rules} sentences of system prompt"
    served = {name: median(f"requests, {load}", name, "/s", rates[name]) for name in sides}
    waited = {
        name: median(f"first token, {load}", name, "ms", [wait * 1e3 for wait in side.waits])
        for name, side in sides.items()
    }
    spoken = {
        name: median(f"tokens, {load}", name, "/s", side.token_rates)
        for name, side in sides.items()
    }
    lengths = [
        median(f"length of an answer, {load}", name, "tokens", side.lengths)
        for name, side in sides.items()
    ]
    report.measurements += [*served.values(), *spoken.values(), *waited.values(), *lengths]
    for name in sides:
        if LLAMA in sides and name != LLAMA:
            for figures, unit in (
                (served, "times as many"),
                (spoken, "times as many"),
                (waited, "times as long"),
            ):
                ours, theirs = figures[name], figures[LLAMA]
                ratio = Ratio(ours.what, ours, theirs, unit, ours.value / theirs.value)
                report.ratios.append(ratio)
