-- Lists by pages, the newest first: one look into an index finds where a page begins, however much an account has. So an entry
-- has the time of its transaction, by which the entries of several accounts of the ledger are merged.
ALTER TABLE ramp.ledger_entries ADD COLUMN created_at timestamptz;
ALTER TABLE ramp.ledger_entries DISABLE TRIGGER refuse_change;
UPDATE ramp.ledger_entries e SET created_at = t.created_at FROM ramp.ledger_transactions t WHERE t.id = e.transaction_id;
ALTER TABLE ramp.ledger_entries ENABLE TRIGGER refuse_change;
-- A transaction is entered with its entries, so that now() is the same for both.
ALTER TABLE ramp.ledger_entries ALTER COLUMN created_at SET DEFAULT now(), ALTER COLUMN created_at SET NOT NULL;

CREATE FUNCTION ramp.dated() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (
        SELECT FROM entered e JOIN ramp.ledger_transactions t ON t.id = e.transaction_id WHERE t.created_at <> e.created_at
    ) THEN
        RAISE EXCEPTION 'an entry has the time of its transaction'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_entries_dated', TABLE = 'ledger_entries', SCHEMA = 'ramp';
    END IF;
    RETURN NULL;
END $$;

REVOKE ALL ON FUNCTION ramp.dated() FROM PUBLIC;

CREATE TRIGGER dated AFTER INSERT ON ramp.ledger_entries REFERENCING NEW TABLE AS entered
    FOR EACH STATEMENT EXECUTE FUNCTION ramp.dated();

DROP INDEX ramp.ledger_entries_by_account;
CREATE INDEX ledger_entries_by_account ON ramp.ledger_entries (ledger_account_id, created_at, transaction_id);

DROP INDEX ramp.transfers_from;
DROP INDEX ramp.transfers_to;
CREATE INDEX transfers_from ON ramp.transfers (from_account_id, created_at, id);
CREATE INDEX transfers_to ON ramp.transfers (to_account_id, created_at, id);
