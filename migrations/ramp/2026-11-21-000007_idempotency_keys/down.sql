DROP FUNCTION ramp.prune_idempotency_keys(interval);
DROP FUNCTION ramp.keep_outcome(uuid, text, text, text, bytea);
DROP FUNCTION ramp.claim_idempotency_key(uuid, text, text, bytea);
DROP TABLE ramp.idempotency_keys;
