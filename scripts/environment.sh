# Sourced by the scripts beside it, from the repository root: makes .venv and installs the project into it.

# Print the first Python that is new enough; a name may exist and still not run (pyenv), so each is tried.
find_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
    if "$candidate" -c 'import sys; raise SystemExit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  echo "No Python 3.10 or newer was found (tried python3 and python3.13 to python3.10); please install one." >&2
  return 1
}

# make_environment [EXTRAS]: does nothing when pyproject.toml has not changed since the last installation.
make_environment() {
  local extras=${1:-} python stamp wanted
  if [ ! -x .venv/bin/python ]; then
    python=$(find_python) || return 1
    echo "Making .venv with $("$python" --version)"
    "$python" -m venv .venv || { rm -rf .venv; return 1; }
  fi
  stamp=.venv/.installed-${extras:-plain}
  wanted=$(.venv/bin/python -c 'import hashlib; print(hashlib.sha256(open("pyproject.toml", "rb").read()).hexdigest())')
  if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "Installing into .venv (PyTorch is large: this takes a few minutes the first time)"
    # The pip that comes with some Pythons 3.10 is too old for an editable installation.
    .venv/bin/python -m pip install -q --disable-pip-version-check --upgrade pip
    .venv/bin/python -m pip install -q --disable-pip-version-check -e ".${extras:+[$extras]}"
    echo "$wanted" > "$stamp"
  fi
}
