#!/usr/bin/env bash
# A Docker engine for the container tests on a Debian machine that runs none.
#   engine.sh up        fetch (once), start dockerd below $ENGINE, print the environment to use it
#   engine.sh base TAG  import a small Debian system as TAG: it stands in for NGC's image
#   engine.sh down      drop what only older builds need, and stop the dockerd that `up` started
# Needs root. Debian's packages are unpacked below $ENGINE; the host's own Docker, if any, is left alone.
# Images cannot be pulled everywhere, so the base is built from Debian's packages.
set -euo pipefail
ENGINE=${ENGINE:?the folder that holds the engine}
export DOCKER_HOST=unix://$ENGINE/docker.sock DOCKER_CONFIG=$ENGINE/config PATH=$ENGINE/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH
PACKAGES=(docker.io docker-cli containerd docker-buildx docker-compose)

mirror() { # the Debian mirror this machine already uses
  awk '/^URIs:/ {print $2; exit} /^deb / {for (i = 2; i <= NF; i++) if ($i ~ /:\/\//) {print $i; exit}}' \
    /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | head -1
}

download() { # SUITE: its engine packages into $ENGINE/SUITE, leaving the host's package lists alone
  local state=$ENGINE/$1 options
  mkdir -p "$state"/{etc,lists/partial,cache/archives/partial}
  : >"$state/status"
  printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n' \
    "$(mirror)" "$1" >"$state/etc/suite.sources"
  options=(-qq -o "Dir::Etc::SourceList=/dev/null" -o "Dir::Etc::SourceParts=$state/etc"
    -o "Dir::State::Lists=$state/lists" -o "Dir::State::status=$state/status"
    -o "Dir::Cache=$state/cache" -o Acquire::Languages=none -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update
  (cd "$state" && apt-get "${options[@]}" download "${PACKAGES[@]}")
}

fetch() {
  local suite deb
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends runc iptables tini mmdebstrap >/dev/null
  mkdir -p "$ENGINE"/{bin,config/cli-plugins,data,run}
  for suite in forky trixie; do # a newer suite's engine; the host's runc, since a newer one needs a newer libc
    download "$suite" || continue
    rm -rf "$ENGINE/root"
    mkdir "$ENGINE/root"
    for deb in "$ENGINE/$suite"/*.deb; do dpkg-deb -x "$deb" "$ENGINE/root"; done
    if "$ENGINE/root/usr/sbin/dockerd" --version && "$ENGINE/root/usr/libexec/docker/cli-plugins/docker-compose" version; then
      break
    fi
  done
  ln -sf "$ENGINE"/root/usr/sbin/* "$ENGINE"/root/usr/bin/* "$ENGINE/bin/"
  ln -sf "$(command -v runc)" "$ENGINE/bin/runc"
  ln -sf /usr/bin/tini-static "$ENGINE/bin/docker-init"
  ln -sf "$ENGINE"/root/usr/libexec/docker/cli-plugins/* "$ENGINE/config/cli-plugins/"
  touch "$ENGINE/fetched"
}

up() {
  [ -e "$ENGINE/fetched" ] || fetch
  cat >"$ENGINE/daemon.json" <<EOF
{"data-root": "$ENGINE/data", "exec-root": "$ENGINE/run", "pidfile": "$ENGINE/docker.pid",
 "hosts": ["$DOCKER_HOST"], "mtu": 1400, "features": {"containerd-snapshotter": true}}
EOF
  nohup dockerd --config-file "$ENGINE/daemon.json" >"$ENGINE/dockerd.log" 2>&1 </dev/null &
  for _ in $(seq 120); do
    docker version >/dev/null 2>&1 && return
    sleep 0.25
  done
  tail -5 "$ENGINE/dockerd.log" >&2
  return 1
}

base() { # TAG: python3 and the host's extra certificate authorities, nothing else
  local tar=$ENGINE/base.tar ca=/etc/ssl/certs/ca-certificates.crt hooks=() certificate
  for certificate in /usr/local/share/ca-certificates/*.crt; do
    [ -e "$certificate" ] && hooks+=(--customize-hook="copy-in $certificate /usr/local/share/ca-certificates/")
  done
  if [ ! -s "$tar" ]; then
    SOURCE_DATE_EPOCH=1700000000 mmdebstrap -q --format=tar --variant=apt \
      --include=ca-certificates,python3,python3-venv "${hooks[@]}" \
      --customize-hook='chroot "$1" update-ca-certificates' \
      bookworm "$tar.part" "deb $(mirror) bookworm main" >&2
    mv "$tar.part" "$tar"
  fi
  docker import -c "ENV SSL_CERT_FILE=$ca" -c "ENV PIP_CERT=$ca" -c "ENV REQUESTS_CA_BUNDLE=$ca" \
    -c "ENV CURL_CA_BUNDLE=$ca" -c 'CMD ["bash"]' "$tar" "$1" >&2
}

down() {
  [ -e "$ENGINE/docker.pid" ] || return 0
  # Every build of the image that differs adds about 9 GB: keep the newest one's layers.
  docker image prune -f >/dev/null && docker buildx prune -f --max-used-space 10gb >/dev/null ||
    echo "engine.sh: the layers of older builds could not be dropped" >&2
  kill "$(cat "$ENGINE/docker.pid")"
  for _ in $(seq 60); do
    [ -e "$ENGINE/docker.pid" ] || return 0
    sleep 0.25
  done
  return 1
}

case ${1:-} in
  up) up ;;
  base) base "$2" ;;
  down) down ;;
  *) sed -n '2,7s/^# //p' "$0" >&2; exit 2 ;;
esac
