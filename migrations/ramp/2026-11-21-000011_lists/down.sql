DROP INDEX ramp.transfers_to;
DROP INDEX ramp.transfers_from;
CREATE INDEX transfers_from ON ramp.transfers (from_account_id, created_at);
CREATE INDEX transfers_to ON ramp.transfers (to_account_id, created_at);

DROP INDEX ramp.ledger_entries_by_account;
DROP TRIGGER dated ON ramp.ledger_entries;
DROP FUNCTION ramp.dated();
ALTER TABLE ramp.ledger_entries DROP COLUMN created_at;
CREATE INDEX ledger_entries_by_account ON ramp.ledger_entries (ledger_account_id);
