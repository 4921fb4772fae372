#!/usr/bin/env bash
# Plan every recipe that changes.sh found to give another result, for the job's summary.
# FOLDER
set -euo pipefail

MOST=20 # a summary has a limit, too
home=$RUNNER_TEMP/spark-recipes
mapfile -d '' -t changed <"$home/changed"
{
  echo
  echo "### What a run would do"
  echo
  for name in "${changed[@]:0:MOST}"; do
    "$home/venv/bin/recipe" plan --format markdown -- "$FOLDER/$name" 2>>"$home/plan.log" || echo "(no plan)"
    echo
  done
  ((${#changed[@]} <= MOST)) || echo "… and $((${#changed[@]} - MOST)) more."
} >>"$GITHUB_STEP_SUMMARY"
