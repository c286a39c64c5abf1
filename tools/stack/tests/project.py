"""A small real project in a scratch repository, with six real gates that take no time.

Its sources are shell scripts, its tests run them, and `scripts/ci-local.sh` keeps the same
promises as the one of this repository: arguments, exit status, results as JSON.
"""

from __future__ import annotations

CI_LOCAL = r"""#!/usr/bin/env bash
set -u
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

run_tests() {
    local passed=0 failed=0 left_out=0 test
    for test in tests/*.sh; do
        if [[ $'\n'"${KVPOOL_EXCLUDED_TESTS:-}"$'\n' == *$'\n'"$test::all"$'\n'* ]]; then
            left_out=$((left_out + 1))
        elif "$1" "$test"; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
        fi
    done
    [ -z "${KVPOOL_JUNIT_DIR:-}" ] ||
        echo "<testsuite hostname=\"me\" file=\"$PWD/x\"/>" >"$KVPOOL_JUNIT_DIR/$1.xml"
    echo "=== $failed failed, $passed passed, $left_out deselected in 0.01s ==="
    [ "$failed" -eq 0 ]
}

make_environment() {
    mkdir -p ".nox/$1/lib/python3.13/site-packages/pytest-9.2.0.dist-info"
    echo "version_info = 3.13.0" >".nox/$1/pyvenv.cfg"
}

gate_build() { for source in src/*.sh; do bash -n "$source" || return 1; done; }
gate_test() { make_environment test; run_tests bash; }
gate_lint() { ! grep -n 'eval' src/*.sh; }
gate_format() { ! grep -nE '[[:space:]]+$' src/*.sh tests/*.sh; }
gate_docs() { for source in src/*.sh; do grep -q "$source" README.md || return 1; done; }
gate_min_python() { run_tests sh; }

case "${1:-}" in
    '') gates=(build test lint format docs min_python) ;;
    quick) gates=(lint format docs) ;;
    *) exit 2 ;;
esac
[ -z "${KVPOOL_ONLY_GATES:-}" ] || read -ra gates <<<"$KVPOOL_ONLY_GATES"

status=0
entries=()
for gate in "${gates[@]}"; do
    echo "=== gate $gate"
    if "gate_$gate"; then
        passed=true reason=
    else
        passed=false reason="$PWD: not $gate" status=1
    fi
    notes="What part of it is $gate."
    entries+=("{\"gate\":\"$gate\",\"passed\":$passed,\"seconds\":0.1,\"reason\":\"$reason\",\
\"command\":\"make $gate\",\"notes\":\"$notes\"}")
done
IFS=,
printf '{"format":1,"gates":[%s]}' "${entries[*]}" >"${KVPOOL_GATES_JSON:-/dev/null}"
exit "$status"
"""

FILES = {
    "README.md": "# A project\n\n`src/part0.sh`\n",
    ".gitignore": "*.made\n.nox/\n",
    "noxfile.py": "",
    "requirements/nox.txt": "# no tools\n",
    "scripts/ci-local.sh": CI_LOCAL,
    "src/part0.sh": "answer0=0\n",
    "tests/part0.sh": '. src/part0.sh && [ "$answer0" = 0 ]\n',
}


def part(number: int, answer: object = None, expected: object = None) -> dict[str, str]:
    """Return the files of one more part: a source, and a test of it."""
    answer = number if answer is None else answer
    expected = answer if expected is None else expected
    name = f"part{number}"
    return {
        f"src/{name}.sh": f"answer{number}={answer}\n",
        f"tests/{name}.sh": f'. src/{name}.sh && [ "$answer{number}" = {expected} ]\n',
    }


def readme(parts: int) -> dict[str, str]:
    """Return the README that names every part; each part changes it, so they depend in order."""
    lines = "".join(f"`src/part{number}.sh`\n" for number in range(parts + 1))
    return {"README.md": f"# A project\n\n{lines}"}


def manifest(milestones: int, stack: str = "demo") -> str:
    """Return a manifest of milestones in a row."""
    head = (
        f'format = 1\nstack = "{stack}"\ntitle = "The {stack}"\nabout = "A stack to try."\n'
        'trunk = "main"\n'
    )
    return head + "".join(
        f"""
[[milestone]]
id = {number}
title = "Part {number}"
branch = "feat/{stack}-{number}"
parent = "{"main" if number == 1 else f"{stack}/{number - 1}"}"
issue = 7
scope = ["The part {number}"]
next = "The part {number + 1}."
"""
        for number in range(1, milestones + 1)
    )
