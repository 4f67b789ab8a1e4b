#!/bin/bash
# At the first start of the primary: who owns the tables, who serves from them, and who replicates.
set -eu

secret() {
    cat "/run/secrets/$1"
}

psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username postgres --dbname "$POSTGRES_DB" \
    --set=owner="$(secret owner_password)" --set=serving="$(secret serving_password)" \
    --set=replication="$(secret replication_password)" <<'END'
-- `mainstay migrate` and `import` connect as the owner.
CREATE ROLE mainstay_owner LOGIN PASSWORD :'owner';
ALTER DATABASE mainstay OWNER TO mainstay_owner;
ALTER SCHEMA public OWNER TO mainstay_owner;
-- Origins serve as this one: it reads, sees how replication goes, and calls the functions that `migrate` grants it.
CREATE ROLE mainstay LOGIN PASSWORD :'serving';
GRANT pg_monitor TO mainstay;
GRANT USAGE ON SCHEMA public TO mainstay;
ALTER DEFAULT PRIVILEGES FOR ROLE mainstay_owner IN SCHEMA public GRANT SELECT ON TABLES TO mainstay;
CREATE ROLE replicator REPLICATION LOGIN PASSWORD :'replication';
END
echo 'host replication replicator all scram-sha-256' >>"$PGDATA/pg_hba.conf"
