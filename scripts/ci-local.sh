#!/usr/bin/env bash
# Run the gates from nothing but a Python and a network. See usage() below.
set -euo pipefail

usage() {
    cat <<'END'
Usage: scripts/ci-local.sh [quick]

Runs the six gates (build, test, lint, format, docs, min_python), every one of them
whatever the others do, and closes with a table: gate, result, seconds.

  quick       run three of the six only: lint, format, docs
  -h, --help  show this text

It needs a Python of 3.11 or later that can make virtual environments, and a network. It makes
its own environment, .venv-ci, with the locked tools of requirements/nox.txt, and
makes it anew when that file changes.

Exit status: 0 if every gate that ran passed, 1 if one failed, 2 for a wrong argument,
3 if the environment could not be made.

Environment:
  PYTHON             the Python to make the environment with (default: the first that runs)
  KVPOOL_GATES_JSON  a file to write the results to as JSON
  KVPOOL_ONLY_GATES  names of gates, with spaces between: run these only
END
}

fail() {
    printf 'ci-local: %s\n' "$2" >&2
    exit "$1"
}

# A Python serves if it runs (a version manager's shim may not), is new enough, and can make
# an environment with pip in it (some systems package that apart).
serves() {
    "$1" -I -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        serves "$PYTHON" || fail 3 "PYTHON=$PYTHON is no Python of 3.11 or later with venv and pip"
        command -v "$PYTHON"
        return
    fi
    local share="${XDG_DATA_HOME:-$HOME/.local/share}" candidate
    for candidate in \
        python3 python3.14 python3.13 python3.12 python3.11 python \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[1-9]*/bin/python3 \
        "${ASDF_DATA_DIR:-$HOME/.asdf}"/installs/python/3.1[1-9]*/bin/python3 \
        "${MISE_DATA_DIR:-$share/mise}"/installs/python/3.1[1-9]*/bin/python3 \
        "${UV_PYTHON_INSTALL_DIR:-$share/uv/python}"/cpython-3.1[1-9]*/bin/python3 \
        /usr/local/bin/python3 /usr/bin/python3; do
        if serves "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    fail 3 "no Python of 3.11 or later runs here: looked on PATH, at pyenv, asdf, mise and uv"
}

# The lock file that an environment was made from is copied into it as the last step, so
# that one that was interrupted half-way does not count as made.
environment_is_current() {
    cmp -s requirements/nox.txt "$environment/made-from.txt" && "$(python_of)" -c '' 2>/dev/null
}

python_of() {
    local path="$environment/bin/python"
    [ ! -d "$environment/Scripts" ] || path="$environment/Scripts/python.exe"
    printf '%s\n' "$path"
}

make_environment() {
    local python
    python="$(find_python)"
    printf 'ci-local: making %s with %s\n' "$environment" "$python"
    "$python" -m venv --clear "$environment" || fail 3 "$python could not make $environment"
    "$(python_of)" -m pip install --quiet --disable-pip-version-check -r requirements/nox.txt ||
        fail 3 "the tools of requirements/nox.txt could not be installed"
    cp requirements/nox.txt "$environment/made-from.txt"
}

[ "$#" -le 1 ] || { usage >&2; fail 2 "one word at most, not $#: $*"; }
case "${1:-}" in
    '') [ "$#" -eq 0 ] || { usage >&2; fail 2 "the argument is empty"; } ;;
    quick) ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; fail 2 "unknown word: $1" ;;
esac

# Settings that could change what a gate means. Results are the same for everyone.
unset NOXSESSION NOXPYTHON NOXEXTRAPYTHON NOXFORCEPYTHON PYTEST_ADDOPTS PYTHONPATH PYTHONHOME
unset NOX_DOWNLOAD_PYTHON NOX_PARALLEL KVPOOL_PYTHON PYTHONWARNINGS MYPYPATH

case "${KVPOOL_GATES_JSON:-}" in
    '' | /*) ;;
    *) export KVPOOL_GATES_JSON="$PWD/$KVPOOL_GATES_JSON" ;;
esac
environment=.venv-ci
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

environment_is_current || make_environment

status=0
chosen=("$@")
ran="six of six gates"
[ "${1:-}" != quick ] || ran="three of six gates: lint, format, docs"
if [ "$#" -eq 0 ] && [ -n "${KVPOOL_ONLY_GATES:-}" ]; then
    read -ra chosen <<<"$KVPOOL_ONLY_GATES"
    ran="of six gates: $KVPOOL_ONLY_GATES"
fi
# The form with + is for the bash of macOS, which takes an empty array for one that is not set.
"$(python_of)" -m nox --session gates -- ${chosen[@]+"${chosen[@]}"} || status=1

verdict="all passed"
[ "$status" -eq 0 ] || verdict="not all passed"
printf 'ci-local: ran %s; %s\n' "$ran" "$verdict"
exit "$status"
