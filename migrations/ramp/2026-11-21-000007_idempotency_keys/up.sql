-- What came of requests that move money, by the key that the client gave them. A row is written in the very transaction that has
-- the effect, so there is no effect without it, and none twice.
CREATE TABLE ramp.idempotency_keys (
    account_id   uuid        NOT NULL REFERENCES ramp.accounts (id),
    -- What was asked for, such as `ramp.transfers.create`: a key of one operation says nothing of another.
    operation    text        NOT NULL,
    key          text        NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    -- SHA-256 of the request.
    request_hash bytea       NOT NULL CHECK (octet_length(request_hash) = 32),
    -- How the answer began: its status, or the code of the refusal. NULL only until the transaction that has the effect ends, which
    -- is to nobody's eyes but its own.
    outcome      text,
    -- The body of the answer, or the sentence of the refusal.
    body         bytea,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, operation, key)
);

CREATE INDEX idempotency_keys_by_age ON ramp.idempotency_keys (created_at);

COMMENT ON TABLE ramp.idempotency_keys IS 'What came of requests that move money, by the key of the client';

-- Claims a key for the transaction that calls this: `claimed`; or it is `held`, by a request that has ended, or `in_flight`. Never
-- waits: the lock, which ends with the transaction, is had at once or not at all.
CREATE FUNCTION ramp.claim_idempotency_key(its_account_id uuid, its_operation text, its_key text, its_hash bytea) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_try_advisory_xact_lock(hashtextextended(format('%s %s %s', its_account_id, its_operation, its_key), 0)) THEN
        INSERT INTO ramp.idempotency_keys (account_id, operation, key, request_hash)
        VALUES (its_account_id, its_operation, its_key, its_hash) ON CONFLICT DO NOTHING;
        RETURN CASE WHEN FOUND THEN 'claimed' ELSE 'held' END;
    END IF;
    -- Whoever has the lock may only be looking, too.
    PERFORM FROM ramp.idempotency_keys WHERE account_id = its_account_id AND operation = its_operation AND key = its_key;
    RETURN CASE WHEN FOUND THEN 'held' ELSE 'in_flight' END;
END $$;

-- Keeps what came of a request, in the transaction that has claimed its key.
CREATE FUNCTION ramp.keep_outcome(its_account_id uuid, its_operation text, its_key text, its_outcome text, its_body bytea) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE ramp.idempotency_keys SET outcome = its_outcome, body = its_body
    WHERE account_id = its_account_id AND operation = its_operation AND key = its_key AND outcome IS NULL;
$$;

-- Forgets what is older, at most so many keys at once, and says how many they were. Clients rely on a day.
CREATE FUNCTION ramp.prune_idempotency_keys(retention interval) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    pruned_count bigint;
BEGIN
    DELETE FROM ramp.idempotency_keys k USING (
        SELECT account_id, operation, key FROM ramp.idempotency_keys
        WHERE created_at < now() - greatest(retention, interval '24 hours')
        ORDER BY created_at LIMIT 10000 FOR UPDATE SKIP LOCKED
    ) AS old
    WHERE (k.account_id, k.operation, k.key) = (old.account_id, old.operation, old.key);
    GET DIAGNOSTICS pruned_count = ROW_COUNT;
    RETURN pruned_count;
END $$;

REVOKE ALL ON FUNCTION ramp.claim_idempotency_key(uuid, text, text, bytea),
    ramp.keep_outcome(uuid, text, text, text, bytea), ramp.prune_idempotency_keys(interval) FROM PUBLIC;
