#!/usr/bin/env bash
# Install the runner of the action's own version, hash-locked, beside the job's own Python.
# PYTHON
set -euo pipefail

home=$RUNNER_TEMP/spark-recipes
"$PYTHON" -m venv "$home/venv"
install=("$home/venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check)
"${install[@]}" --require-hashes --requirement "$GITHUB_ACTION_PATH/environments/runner.txt"
"${install[@]}" --no-deps --no-build-isolation "$GITHUB_ACTION_PATH"
"$home/venv/bin/recipe" --version
