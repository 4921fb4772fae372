#!/usr/bin/env bash
# Check every lock below FOLDER, without asking the hub.
# FOLDER
set -euo pipefail

home=$RUNNER_TEMP/spark-recipes
"$home/venv/bin/recipe" lock --check --offline --format github -- "$FOLDER"
