#!/bin/sh
# Measures how long an edge and its regions take to answer, and fails where that is too long: `mainstay probe` with the regions of
# the reference infrastructure.
#
#   BASE_URL=https://api.example.com ./dist-test.sh
#   ./dist-test.sh https://api.example.com --requests 200
#
# US_EAST_1_IP, EU_WEST_1_IP, AP_SOUTHEAST_1_IP: where each region is reached, an address with or without a port. The name of the URL
#   stays in Host and in TLS, as with curl's --resolve. Those that are not set are not asked; without any of them the name is looked
#   up, and DNS picks the region.
# TARGET_MS: the highest average that is well; default 30.
# MAINSTAY: the program; default: the one below this folder, newest first, else the one on the PATH.
#
# Whatever else stands on the command line goes to `mainstay probe`; --help lists it. Exit codes: 0 all is well, 1 an average is above
# the target or a request failed, 2 the arguments are wrong, 64 there is nothing to ask, or nothing to ask with.
set -eu

here=$(dirname "$0")

if [ -z "${MAINSTAY:-}" ]; then
    # shellcheck disable=SC2012 # No name here has anything but letters in it.
    MAINSTAY=$(ls -t "${CARGO_TARGET_DIR:-$here/target}/release/mainstay" "${CARGO_TARGET_DIR:-$here/target}/debug/mainstay" \
        2>/dev/null | head -n1)
fi
if ! command -v "${MAINSTAY:=mainstay}" >/dev/null; then
    echo "dist-test.sh: there is no program $MAINSTAY; \`cargo build --release\` makes it, or MAINSTAY names one" >&2
    exit 64
fi

# What stands in the first place and is no option is the URL, and goes before BASE_URL; whether it is one the program says.
case "${1:-}" in
[!-]* | --help | -h) ;;
*)
    if [ -z "${BASE_URL:-}" ]; then
        echo "dist-test.sh: BASE_URL is not set; say BASE_URL=https://api.example.com ./dist-test.sh, or give the URL as first argument" >&2
        exit 64
    fi
    set -- "$BASE_URL" "$@"
    ;;
esac

if [ -n "${US_EAST_1_IP:-}" ]; then set -- "$@" --region "us-east-1=$US_EAST_1_IP"; fi
if [ -n "${EU_WEST_1_IP:-}" ]; then set -- "$@" --region "eu-west-1=$EU_WEST_1_IP"; fi
if [ -n "${AP_SOUTHEAST_1_IP:-}" ]; then set -- "$@" --region "ap-southeast-1=$AP_SOUTHEAST_1_IP"; fi
if [ -n "${TARGET_MS:-}" ]; then set -- "$@" --target-ms "$TARGET_MS"; fi

exec "$MAINSTAY" probe "$@"
