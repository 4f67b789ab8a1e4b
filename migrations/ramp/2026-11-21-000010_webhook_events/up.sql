-- What providers have told, each event once. It is stored and committed before anything is done about it; what came of it is written
-- in the transaction that does it. So an event that the server has answered for is never lost, and none has an effect twice.
CREATE TABLE ramp.webhook_events (
    provider     text        NOT NULL CHECK (provider ~ '^[a-z][a-z0-9_]{0,31}$'),
    -- The provider's own id. Whatever comes with it later is a copy.
    event_id     text        NOT NULL CHECK (length(event_id) BETWEEN 1 AND 255),
    kind         text        NOT NULL CHECK (length(kind) BETWEEN 1 AND 100),
    -- No foreign key: of an order that there is not, the event is kept as well, for whoever looks into it.
    order_id     uuid        NOT NULL,
    -- In minor units.
    amount       bigint,
    currency     text        CHECK (currency ~ '^[A-Z]{3,4}$'),
    -- The body as it was signed, byte for byte.
    payload      bytea       NOT NULL CHECK (octet_length(payload) <= 65536),
    received_at  timestamptz NOT NULL DEFAULT now(),
    -- The status that the order came to, or why nothing was done. NULL: it is still to be seen to.
    outcome      text        CHECK (outcome ~ '^[a-z][a-z_]{0,63}$'),
    processed_at timestamptz CHECK ((processed_at IS NULL) = (outcome IS NULL)),
    PRIMARY KEY (provider, event_id)
);

CREATE INDEX webhook_events_waiting ON ramp.webhook_events (received_at) WHERE outcome IS NULL;
CREATE INDEX webhook_events_by_order ON ramp.webhook_events (order_id);
CREATE INDEX webhook_events_by_age ON ramp.webhook_events (received_at);

COMMENT ON TABLE ramp.webhook_events IS 'What providers have told, each event once';

-- Stores an event: `stored`; or it is there already, as a `copy`, or as one that says something else under the same id (`other`).
CREATE FUNCTION ramp.store_webhook_event(
    its_provider text, its_event_id text, its_kind text, its_order_id uuid, its_amount bigint, its_currency text, its_payload bytea
) RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO ramp.webhook_events (provider, event_id, kind, order_id, amount, currency, payload)
    VALUES (its_provider, its_event_id, its_kind, its_order_id, its_amount, its_currency, its_payload) ON CONFLICT DO NOTHING;
    IF FOUND THEN
        RETURN 'stored';
    END IF;
    PERFORM FROM ramp.webhook_events
        WHERE provider = its_provider AND event_id = its_event_id
            AND (kind, order_id, amount, currency) IS NOT DISTINCT FROM (its_kind, its_order_id, its_amount, its_currency);
    RETURN CASE WHEN FOUND THEN 'copy' ELSE 'other' END;
END $$;

-- Locks an event for the transaction that calls this. False where there is none, or, for who does not wait, somebody else has it.
CREATE FUNCTION ramp.lock_webhook_event(its_provider text, its_event_id text, waits boolean) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF waits THEN
        PERFORM FROM ramp.webhook_events WHERE provider = its_provider AND event_id = its_event_id FOR NO KEY UPDATE;
    ELSE
        PERFORM FROM ramp.webhook_events WHERE provider = its_provider AND event_id = its_event_id FOR NO KEY UPDATE SKIP LOCKED;
    END IF;
    RETURN FOUND;
END $$;

-- Writes down what came of an event, in the transaction that did it. That is said once; but what came before its time may come to
-- something later.
CREATE FUNCTION ramp.keep_webhook_outcome(its_provider text, its_event_id text, its_outcome text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE ramp.webhook_events SET outcome = its_outcome, processed_at = now()
    WHERE provider = its_provider AND event_id = its_event_id AND (outcome IS NULL OR outcome = 'not_allowed');
    RETURN FOUND;
END $$;

-- Forgets what is older, at most so many events at once, and says how many they were. What is still to be seen to stays, and so does
-- what a provider may deliver again: an event that was forgotten would be a new one.
CREATE FUNCTION ramp.prune_webhook_events(retention interval) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    pruned_count bigint;
BEGIN
    DELETE FROM ramp.webhook_events e USING (
        SELECT provider, event_id FROM ramp.webhook_events
        WHERE received_at < now() - greatest(retention, interval '7 days') AND outcome IS NOT NULL
        ORDER BY received_at LIMIT 10000 FOR UPDATE SKIP LOCKED
    ) AS old
    WHERE (e.provider, e.event_id) = (old.provider, old.event_id);
    GET DIAGNOSTICS pruned_count = ROW_COUNT;
    RETURN pruned_count;
END $$;

REVOKE ALL ON FUNCTION ramp.store_webhook_event(text, text, text, uuid, bigint, text, bytea),
    ramp.lock_webhook_event(text, text, boolean), ramp.keep_webhook_outcome(text, text, text),
    ramp.prune_webhook_events(interval) FROM PUBLIC;
