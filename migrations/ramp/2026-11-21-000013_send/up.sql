-- A transfer in one statement: what took three ways to the server and back, and a grant to write, is one function. The row that many
-- senders want is locked as late as may be, which is how long the next one waits for it.

-- `ramp.post` has looked that there is such a currency. A foreign key would note each transfer on the one row that all of them share.
ALTER TABLE ramp.transfers DROP CONSTRAINT transfers_currency_fkey;

-- As `ramp.spend`, for what is taken from a balance: who has not so much, which is `insufficient_funds`, need not be told that it would
-- be too much besides.
CREATE FUNCTION ramp.spend_from_balance(its_account_id uuid, its_currency text, its_amount bigint, its_total bigint) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    exceeded text := ramp.spend(its_account_id, its_currency, its_amount);
BEGIN
    IF exceeded IN ('per_transaction', 'per_day') AND NOT EXISTS (
        SELECT FROM ramp.ledger_accounts
        WHERE account_id = its_account_id AND currency = its_currency AND posted - held >= its_total
    ) THEN
        RETURN 'insufficient_funds';
    END IF;
    RETURN exceeded;
END $$;

-- Sends money from one customer to another, who pays the fee on top of it. NULL: it is done. Else why it is not, and the caller takes
-- its transaction back: `recipient` where there is no such account, or what `ramp.spend_from_balance` says.
CREATE FUNCTION ramp.send(its_id uuid, sender uuid, recipient uuid, its_currency text, its_amount bigint, its_fee bigint) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    exceeded text;
    holders text[] := ARRAY[sender::text, recipient::text];
    amounts bigint[] := ARRAY[-its_amount - its_fee, its_amount];
BEGIN
    IF NOT EXISTS (SELECT FROM ramp.accounts WHERE id = recipient) THEN
        RETURN 'recipient';
    END IF;
    exceeded := ramp.spend_from_balance(sender, its_currency, its_amount, its_amount + its_fee);
    IF exceeded IS NOT NULL THEN
        RETURN exceeded;
    END IF;
    IF its_fee > 0 THEN
        holders := holders || 'fees'::text;
        amounts := amounts || its_fee;
    END IF;
    IF NOT ramp.post(its_id, 'transfer', false, holders, array_fill(its_currency, ARRAY[cardinality(holders)]), amounts) THEN
        RETURN 'insufficient_funds';
    END IF;
    INSERT INTO ramp.transfers (id, from_account_id, to_account_id, currency, amount, fee)
    VALUES (its_id, sender, recipient, its_currency, its_amount, its_fee);
    RETURN NULL;
END $$;

-- As before, but for its language: functions in SQL are parsed and planned at each call.
CREATE OR REPLACE FUNCTION ramp.keep_outcome(its_account_id uuid, its_operation text, its_key text, its_outcome text, its_body bytea)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE ramp.idempotency_keys SET outcome = its_outcome, body = its_body
    WHERE account_id = its_account_id AND operation = its_operation AND key = its_key AND outcome IS NULL;
END $$;

-- Plans are kept as long as a connection lasts. One that was made while the tables were small would read all of them ever after, until
-- somebody analyzes them.
ALTER FUNCTION ramp.post(uuid, text, boolean, text[], text[], bigint[], uuid) SET enable_seqscan = off;
ALTER FUNCTION ramp.enter() SET enable_seqscan = off;
ALTER FUNCTION ramp.settling() SET enable_seqscan = off;

REVOKE ALL ON FUNCTION ramp.spend_from_balance(uuid, text, bigint, bigint), ramp.send(uuid, uuid, uuid, text, bigint, bigint) FROM PUBLIC;
