#!/bin/sh
# nginx does not read /etc/resolv.conf, and can write nowhere but to /tmp.
set -eu
resolver=$(sed -n 's/^nameserver //p' /etc/resolv.conf | head -n1)
sed "s/RESOLVER/$resolver/" /etc/nginx/edge.conf >/tmp/edge.conf
exec nginx -e stderr -c /tmp/edge.conf
