#!/bin/bash
# A streaming replica: a copy of the primary at the first start, and from then on whatever the primary writes.
set -eu
umask 077

if ! [ -s "$PGDATA/PG_VERSION" ]; then
    # The image makes it for everybody; the server insists on its owner.
    chmod 700 "$PGDATA"
    # One that broke off is begun anew.
    find "$PGDATA" -mindepth 1 -delete
    # The password goes from one file to another, and is in nobody's arguments.
    printf '*:*:*:replicator:%s\n' "$(cat /run/secrets/replication_password)" >/tmp/pgpass
    PGPASSFILE=/tmp/pgpass pg_basebackup --pgdata "$PGDATA" --host primary --username replicator \
        --checkpoint=fast --write-recovery-conf
fi
exec "$@"
