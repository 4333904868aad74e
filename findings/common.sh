# What every finding begins with, sourced with the packages that it needs: a temporary folder, "$folder", which goes
# when the script ends, and in it a virtual environment, "$folder/venv", of those packages and nothing else.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
