CREATE OR REPLACE FUNCTION ramp.keep_outcome(its_account_id uuid, its_operation text, its_key text, its_outcome text, its_body bytea)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE ramp.idempotency_keys SET outcome = its_outcome, body = its_body
    WHERE account_id = its_account_id AND operation = its_operation AND key = its_key AND outcome IS NULL;
$$;
ALTER FUNCTION ramp.settling() RESET enable_seqscan;
ALTER FUNCTION ramp.enter() RESET enable_seqscan;
ALTER FUNCTION ramp.post(uuid, text, boolean, text[], text[], bigint[], uuid) RESET enable_seqscan;
DROP FUNCTION ramp.send(uuid, uuid, uuid, text, bigint, bigint), ramp.spend_from_balance(uuid, text, bigint, bigint);
ALTER TABLE ramp.transfers ADD FOREIGN KEY (currency) REFERENCES public.currencies (code);
