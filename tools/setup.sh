#!/usr/bin/env bash
# Makes the virtual environment: torch first (a CPU build unless one is asked for), then the project with its test tools and AION-1 to compare with.
set -euo pipefail
python="$1"; venv="$2"

"${python:-python3}" - <<'PY' || { echo "Omnisky needs Python 3.11 or newer; '${python:-python3}' is older or missing. Try: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
import sys
sys.exit(sys.version_info < (3, 11))
PY

if [ ! -x "$venv/bin/python" ]; then
  echo "[setup] making $venv with $("$python" --version)"
  "$python" -m venv "$venv" || { echo "[setup] the venv module is missing; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
fi
pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt)

if ! "$venv/bin/python" -c "import torch" 2>/dev/null; then
  echo "[setup] installing PyTorch"
  # The index of CPU builds is tried first; where it cannot be reached, pip's own configuration decides.
  if [ -z "${TORCH_INDEX:-}" ] || ! "${pip[@]}" --retries 1 --timeout 15 --index-url "$TORCH_INDEX" torch 2>/dev/null; then
    "${pip[@]}" torch
  fi
fi
echo "[setup] installing Omnisky and its tools"
"${pip[@]}" -e '.[dev,parity]'
echo "[setup] compiling UMAP, once"
"$venv/bin/python" -c "from engine.maps import warm_up; warm_up()" 2>/dev/null || true  # only saves time; doctor says what is wrong
echo "[setup] ready"
