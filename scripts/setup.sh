#!/usr/bin/env bash
# Installs what the build needs, configures, and builds.
#   scripts/setup.sh [PRESET [TARGET...]]     a preset of CMakePresets.json, release unless named
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:-release}
targets=("${@:2}")
build=build/$preset

tools=(g++ cmake ninja:ninja-build ccache pkg-config python3)  # COMMAND or COMMAND:PACKAGE
libraries=(nlohmann-json3-dev libcli11-dev libfmt-dev libpcre2-dev libutf8proc-dev doctest-dev)

missing_packages() {
  local tool package
  for tool in "${tools[@]}"; do
    command -v "${tool%%:*}" >/dev/null || echo "${tool##*:}"
  done
  for package in "${libraries[@]}"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || echo "$package"
  done
}

give_up() {  # MESSAGE PACKAGE...
  echo "setup: $1; install these packages, then start again:" >&2
  echo "  sudo apt-get update && sudo apt-get install ${*:2}" >&2
  exit 1
}

# Runs a command with its output in a log; a line with its seconds when it succeeds, the log's end when it fails.
phase() {  # NAME LOG COMMAND...
  local name=$1 log=$2 start=$SECONDS
  printf '%s ... ' "$name" >&2
  if "${@:3}" >"$log" 2>&1; then
    echo "$((SECONDS - start)) s" >&2
    return
  fi
  echo "failed" >&2
  tail -n 40 "$log" >&2
  echo "setup: $name failed; all of its output is in $log" >&2
  return 1
}

install_packages() {  # PACKAGE...
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -y -o DPkg::Lock::Timeout=60)
  if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || give_up "missing packages, and no right to install them" "$@"
    apt=(sudo -n "${apt[@]}")
  fi
  # A fresh machine has no lists of packages yet, an old one has stale lists: both heal with an update.
  local install=("${apt[@]}" install --no-install-recommends "$@")
  phase "installing $*" "$build/install.log" \
    bash -c '"$@" || { '"${apt[*]@Q}"' update && "$@"; }' install "${install[@]}" ||
    give_up "the packages did not install" "$@"
}

mkdir -p "$build"
if command -v dpkg-query >/dev/null && command -v apt-get >/dev/null; then
  mapfile -t missing < <(missing_packages)
  [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
else
  echo "setup: not Debian or Ubuntu; going on with what is installed (see CMakeLists.txt for what is needed)" >&2
fi

version=$(g++ -dumpversion)
if [ "${version%%.*}" -lt 12 ]; then
  echo "setup: g++ $version is too old, Choir needs 12: use Debian 12, Ubuntu 24.04 or later" >&2
  exit 1
fi

launcher=()
if command -v ccache >/dev/null; then launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
phase "configuring ($preset)" "$build/configure.log" cmake --preset "$preset" "${launcher[@]}"
phase "building ($preset)" "$build/build.log" \
  cmake --build "$build" --parallel "$(nproc)" ${targets[@]+--target "${targets[@]}"}
