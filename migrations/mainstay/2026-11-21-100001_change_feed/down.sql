-- The functions of triggers on watched tables go with the last ones here, and so do those triggers.
DO $$
DECLARE
    its_function regprocedure;
BEGIN
    FOR its_function IN SELECT oid FROM pg_catalog.pg_proc WHERE pronamespace = 'mainstay'::pg_catalog.regnamespace LOOP
        EXECUTE pg_catalog.format('DROP FUNCTION IF EXISTS %s CASCADE', its_function);
    END LOOP;
END $$;

DROP TABLE mainstay.watches;
DROP TABLE mainstay.hard_purges;
DROP TABLE mainstay.pruned;
DROP TABLE mainstay.cursors;
DROP TABLE mainstay.change_feed;
