#!/bin/bash
# What the official image does at its first start, as far as infra/compose.yaml relies on it.
set -eu

if [ "$(id -u)" = 0 ]; then
    chown -R postgres "$PGDATA"
    exec setpriv --reuid postgres --regid postgres --clear-groups "$0" "$@"
fi
if [ "$1" = postgres ] && ! [ -e "$PGDATA/PG_VERSION" ]; then
    initdb --username=postgres --pwfile="$POSTGRES_PASSWORD_FILE" --auth-local=trust --auth-host=scram-sha-256 >/dev/null
    echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    # Nobody but the scripts of the first start may connect meanwhile.
    pg_ctl --wait --silent --log=/dev/null --options="-c listen_addresses=''" start
    if [ "${POSTGRES_DB:-postgres}" != postgres ]; then
        psql --no-psqlrc --quiet --username postgres --command "CREATE DATABASE \"$POSTGRES_DB\""
    fi
    for script in /docker-entrypoint-initdb.d/*.sh; do
        if [ -e "$script" ]; then bash "$script"; fi
    done
    pg_ctl --wait --silent --mode=fast stop
fi
exec "$@"
