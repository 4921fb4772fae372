#!/bin/sh
# The image's only door: `docker compose run --rm recipe run recipes/x.yaml`.
set -eu
mkdir -p "$HOME" 2>/dev/null || {
  echo "error[E401]: the cache volume is not writable for uid $(id -u)" >&2
  echo "  next: docker volume rm the cache volume, or run with the uid that made it" >&2
  exit 4
}
exec recipe "$@"
