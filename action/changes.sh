#!/usr/bin/env bash
# Compare all recipes below FOLDER with those of the commit BASE. Outputs: comment, changed.
# FOLDER BASE
set -euo pipefail

home=$RUNNER_TEMP/spark-recipes
if [[ -z $BASE ]]; then
  echo "There is no base to compare with."
  exit
fi
if [[ ! $BASE =~ ^[0-9a-f]{40}$ ]]; then
  echo "::error::the input base must be a commit of 40 hex digits"
  exit 2
fi
git cat-file -e "$BASE^{commit}" 2>/dev/null || git fetch --quiet --no-tags --depth=1 origin "$BASE"

git worktree add --quiet --force --detach "$home/base" "$BASE"
trap 'git worktree remove --force "$home/base"' EXIT
mkdir -p "$home/base/$FOLDER" # the base may not have it yet

compare() { # FORMAT
  "$home/venv/bin/recipe" diff --recipes --format "$1" -- "$home/base/$FOLDER" "$FOLDER"
}
compare markdown >"$home/comment.md"
compare json >"$home/changes.json"
cat "$home/comment.md" >>"$GITHUB_STEP_SUMMARY"

# One name after another, each ended by a zero byte: a stranger's file may have any name.
"$home/venv/bin/python" - "$home/changes.json" >"$home/changed" <<'PYTHON'
import json, sys

with open(sys.argv[1], encoding="utf-8") as file:
    recipes = json.load(file)["recipes"]
for each in recipes:
    found = each["changes"]
    if each["kind"] == "added" or (found and (found["touched"] or found["added"] or found["removed"])):
        sys.stdout.buffer.write(each["recipe"].encode("utf-8", "surrogateescape") + b"\0")
PYTHON

changed=false
[[ ! -s $home/changed ]] || changed=true
{
  echo "comment=$home/comment.md"
  echo "changed=$changed"
} >>"$GITHUB_OUTPUT"
