#!/usr/bin/env bash
# Validate all recipes below FOLDER: annotations beside the lines, and a SARIF file on request.
# FOLDER STRICT SARIF
set -euo pipefail

home=$RUNNER_TEMP/spark-recipes
validate=("$home/venv/bin/recipe" validate)
[[ $STRICT != true ]] || validate+=(--strict)

status=0
"${validate[@]}" --format github -- "$FOLDER" | tee "$home/report" || status=$?
{
  echo "### Recipes"
  echo
  tail -n 1 "$home/report"
  echo
} >>"$GITHUB_STEP_SUMMARY"

if [[ -n $SARIF ]]; then
  "${validate[@]}" --format sarif -- "$FOLDER" >"$SARIF" || (($? == 2))
fi
exit "$status"
