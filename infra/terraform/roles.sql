-- The roles that serve, for psql 14 or later, run as the owner of the tables: before the first migration, and after each one
-- that brings tables. Running it again changes nothing but passwords.

\getenv serving_password SERVING_PASSWORD
\getenv reader_password READER_PASSWORD

SELECT 'CREATE ROLE serving LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'serving') \gexec
SELECT 'CREATE ROLE reader LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'reader') \gexec
ALTER ROLE serving PASSWORD :'serving_password';
ALTER ROLE reader PASSWORD :'reader_password';

-- Both see how replication goes.
GRANT pg_monitor TO serving, reader;

-- Both read the tables that routes show; `mainstay migrate` grants the rest to the role that serves on the primary.
GRANT USAGE ON SCHEMA public TO serving, reader;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO serving, reader;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO serving, reader;

-- The reader is for replicas. It may write nothing, even where it comes to the primary with its password: it has no right to,
-- and its transactions say so beforehand.
ALTER ROLE reader SET default_transaction_read_only = on;
SELECT 'GRANT USAGE ON SCHEMA ramp TO reader' WHERE to_regnamespace('ramp') IS NOT NULL \gexec
SELECT 'GRANT SELECT ON ALL TABLES IN SCHEMA ramp TO reader' WHERE to_regnamespace('ramp') IS NOT NULL \gexec
-- Tables of a later migration are readable from their first moment: services serve while it runs.
SELECT 'ALTER DEFAULT PRIVILEGES IN SCHEMA ramp GRANT SELECT ON TABLES TO reader' WHERE to_regnamespace('ramp') IS NOT NULL \gexec
-- Replicas may say of an API key that it is right.
SELECT 'GRANT USAGE ON SCHEMA mainstay TO reader' WHERE to_regnamespace('mainstay') IS NOT NULL \gexec
SELECT 'GRANT EXECUTE ON FUNCTION mainstay.find_api_keys(text[]) TO reader'
WHERE to_regprocedure('mainstay.find_api_keys(text[])') IS NOT NULL \gexec
