DROP FUNCTION ramp.count_money(integer);
DROP TRIGGER note_posted ON ramp.ledger_transactions;
DROP FUNCTION ramp.note_posted();
DROP TABLE ramp.uncounted_transactions;
DROP FUNCTION ramp.add_requests(uuid, bigint, date[], text[], bigint[], bigint[], bigint[]);
DROP TABLE ramp.added_batches;
DROP TABLE ramp.daily_money;
DROP TABLE ramp.daily_requests;
