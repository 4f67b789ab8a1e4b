-- The double-entry ledger. An entry says by how much an account goes up (positive) or down (negative); the entries of a
-- transaction sum to zero in each currency, so that money only ever moves. What has been entered is never changed: a mistake is
-- corrected by a transaction that takes it back.
--
-- Triggers hold this against everybody, the owner of the tables included. A role that serves may not even try: it reads, and calls
-- the three functions at the end.

CREATE TABLE ramp.ledger_accounts (
    id          bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    -- Whose it is: the id of a customer's account, or what the account is for: `fees`, `clearing:sandbox`, …
    holder      text   NOT NULL,
    account_id  uuid   REFERENCES ramp.accounts (id),
    currency    text   NOT NULL REFERENCES public.currencies (code),
    -- The least that must stay available, posted − held. NULL: there is no limit. Accounts that stand for what is outside have
    -- none, and no balance is kept of them either: each transaction would wait for the one before it, for the sake of one row.
    balance_min bigint,
    -- The sum of the entries of posted transactions.
    posted      bigint,
    -- What pending transactions will take, and nobody else may.
    held        bigint CHECK (held >= 0),
    UNIQUE (holder, currency),
    CONSTRAINT ledger_accounts_holder CHECK (
        CASE WHEN account_id IS NULL THEN holder ~ '^[a-z][a-z_]{0,31}(:[a-z][a-z0-9_]{0,31})?$' ELSE holder = account_id::text END
    ),
    CONSTRAINT ledger_accounts_balances CHECK (num_nulls(balance_min, posted, held) IN (0, 3)),
    CONSTRAINT ledger_accounts_balance_min CHECK (posted - held >= balance_min)
);

CREATE INDEX ledger_accounts_by_account ON ramp.ledger_accounts (account_id);

COMMENT ON TABLE ramp.ledger_accounts IS 'Accounts of the ledger with their balances, which the entries keep';

CREATE TABLE ramp.ledger_transactions (
    id         uuid        PRIMARY KEY,
    -- Why the money moves: `transfer`, `reversal`, …
    kind       text        NOT NULL CHECK (kind ~ '^[a-z][a-z_]{0,31}$'),
    state      text        NOT NULL CHECK (state IN ('pending', 'posted', 'voided')),
    -- The transaction that this one takes back. Each is taken back once.
    reverses   uuid        UNIQUE REFERENCES ramp.ledger_transactions (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    -- When it ceased to be pending.
    settled_at timestamptz CHECK ((settled_at IS NULL) = (state = 'pending'))
);

COMMENT ON TABLE ramp.ledger_transactions IS 'Transactions of the ledger: pending, then posted or voided, once';

CREATE TABLE ramp.ledger_entries (
    transaction_id    uuid   NOT NULL REFERENCES ramp.ledger_transactions (id),
    -- No foreign key: it would note each transaction on the row of an account that all of them share. The trigger below looks, and
    -- accounts of the ledger are never deleted.
    ledger_account_id bigint NOT NULL,
    -- In minor units. The bound keeps sums of thousands of entries within 64 bits.
    amount            bigint NOT NULL CHECK (amount <> 0 AND amount BETWEEN -1000000000000000 AND 1000000000000000),
    PRIMARY KEY (transaction_id, ledger_account_id)
);

CREATE INDEX ledger_entries_by_account ON ramp.ledger_entries (ledger_account_id);

COMMENT ON TABLE ramp.ledger_entries IS 'What a transaction adds to the balances; immutable';

CREATE FUNCTION ramp.refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'the ledger only grows: % on % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation', HINT = 'Correct a transaction by ramp.reverse.';
END $$;

CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON ramp.ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION ramp.refuse_change();
CREATE TRIGGER refuse_change BEFORE DELETE OR TRUNCATE ON ramp.ledger_transactions
    FOR EACH STATEMENT EXECUTE FUNCTION ramp.refuse_change();
CREATE TRIGGER refuse_change BEFORE DELETE OR TRUNCATE ON ramp.ledger_accounts
    FOR EACH STATEMENT EXECUTE FUNCTION ramp.refuse_change();

-- Entries come in one statement a transaction, which is why they can be weighed at once and need not wait for the commit.
CREATE FUNCTION ramp.enter() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM entered e WHERE NOT EXISTS (SELECT FROM ramp.ledger_accounts a WHERE a.id = e.ledger_account_id)) THEN
        RAISE EXCEPTION 'an entry is for an account that there is not' USING ERRCODE = 'foreign_key_violation';
    END IF;
    IF EXISTS (
        SELECT FROM entered e JOIN ramp.ledger_accounts a ON a.id = e.ledger_account_id
        GROUP BY e.transaction_id, a.currency HAVING sum(e.amount) <> 0
    ) THEN
        RAISE EXCEPTION 'the entries of a transaction must sum to zero in each currency'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_entries_balanced', TABLE = 'ledger_entries', SCHEMA = 'ramp';
    END IF;
    IF (SELECT count(*) FROM ramp.ledger_entries WHERE transaction_id IN (SELECT transaction_id FROM entered))
        <> (SELECT count(*) FROM entered)
    THEN
        RAISE EXCEPTION 'a transaction has its entries already'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_entries_complete', TABLE = 'ledger_entries', SCHEMA = 'ramp';
    END IF;
    UPDATE ramp.ledger_accounts a SET posted = a.posted + e.posted, held = a.held + e.held
    FROM (
        SELECT ledger_account_id,
               coalesce(sum(amount) FILTER (WHERE state = 'posted'), 0)::bigint AS posted,
               coalesce(sum(-least(amount, 0)) FILTER (WHERE state = 'pending'), 0)::bigint AS held
        FROM entered JOIN ramp.ledger_transactions t ON t.id = transaction_id GROUP BY ledger_account_id
    ) AS e
    WHERE a.id = e.ledger_account_id AND a.balance_min IS NOT NULL;
    RETURN NULL;
END $$;

CREATE TRIGGER enter AFTER INSERT ON ramp.ledger_entries REFERENCING NEW TABLE AS entered
    FOR EACH STATEMENT EXECUTE FUNCTION ramp.enter();

-- A pending transaction becomes posted or voided; nothing else about a transaction changes.
CREATE FUNCTION ramp.settling() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.state <> 'pending' OR NEW.state = 'pending'
        OR (NEW.id, NEW.kind, NEW.reverses, NEW.created_at) IS DISTINCT FROM (OLD.id, OLD.kind, OLD.reverses, OLD.created_at)
    THEN
        RAISE EXCEPTION 'a transaction that is % stays so', OLD.state USING ERRCODE = 'restrict_violation';
    END IF;
    PERFORM FROM ramp.ledger_accounts
        WHERE id IN (SELECT ledger_account_id FROM ramp.ledger_entries WHERE transaction_id = NEW.id) AND balance_min IS NOT NULL
        ORDER BY id FOR NO KEY UPDATE;
    UPDATE ramp.ledger_accounts a SET
        posted = a.posted + CASE NEW.state WHEN 'posted' THEN e.amount ELSE 0 END,
        held = a.held + least(e.amount, 0)
    FROM ramp.ledger_entries e WHERE e.transaction_id = NEW.id AND a.id = e.ledger_account_id AND a.balance_min IS NOT NULL;
    RETURN NEW;
END $$;

CREATE TRIGGER settling BEFORE UPDATE ON ramp.ledger_transactions FOR EACH ROW EXECUTE FUNCTION ramp.settling();

-- Balances follow from entries, and whose an account is stays.
CREATE FUNCTION ramp.keep_account() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_trigger_depth() < 2 AND (NEW.posted, NEW.held) IS DISTINCT FROM (OLD.posted, OLD.held) THEN
        RAISE EXCEPTION 'balances change by entries alone' USING ERRCODE = 'restrict_violation';
    END IF;
    IF (NEW.id, NEW.holder, NEW.account_id, NEW.currency) IS DISTINCT FROM (OLD.id, OLD.holder, OLD.account_id, OLD.currency) THEN
        RAISE EXCEPTION 'an account of the ledger stays whose it is' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER keep_account BEFORE UPDATE ON ramp.ledger_accounts FOR EACH ROW EXECUTE FUNCTION ramp.keep_account();

-- What every account has according to its entries. Of accounts without a limit there is no other balance.
CREATE VIEW ramp.ledger_balances AS
    SELECT a.id, a.holder, a.account_id, a.currency,
           coalesce(sum(e.amount) FILTER (WHERE t.state = 'posted'), 0)::bigint AS posted,
           coalesce(sum(-least(e.amount, 0)) FILTER (WHERE t.state = 'pending'), 0)::bigint AS held
    FROM ramp.ledger_accounts a
    LEFT JOIN ramp.ledger_entries e ON e.ledger_account_id = a.id
    LEFT JOIN ramp.ledger_transactions t ON t.id = e.transaction_id
    GROUP BY a.id;

-- Everything that is not as it should be: no rows.
CREATE VIEW ramp.ledger_discrepancies AS
    SELECT 'balance' AS what, a.id::text AS which
    FROM ramp.ledger_accounts a JOIN ramp.ledger_balances b USING (id)
    WHERE a.balance_min IS NOT NULL AND (a.posted, a.held) IS DISTINCT FROM (b.posted, b.held)
    UNION ALL
    SELECT 'transaction', e.transaction_id || ' ' || a.currency
    FROM ramp.ledger_entries e JOIN ramp.ledger_accounts a ON a.id = e.ledger_account_id
    GROUP BY e.transaction_id, a.currency HAVING sum(e.amount) <> 0
    UNION ALL
    SELECT 'transaction', t.id::text FROM ramp.ledger_transactions t
    WHERE NOT EXISTS (SELECT FROM ramp.ledger_entries e WHERE e.transaction_id = t.id)
    UNION ALL
    SELECT 'currency', currency FROM ramp.ledger_balances GROUP BY currency HAVING sum(posted) <> 0;

-- Enters a transaction, posted at once or pending: `amounts` for the accounts of `holders` in `currencies`, which are opened
-- where there are none yet. False, with nothing entered, where an account would fall below its limit.
--
-- Every transaction locks its accounts in the order of their ids, after what it locks of its own, so that none waits in a circle.
CREATE FUNCTION ramp.post(
    its_id uuid, its_kind text, is_pending boolean, holders text[], currencies text[], amounts bigint[], its_reverses uuid DEFAULT NULL
) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    is_enough boolean;
BEGIN
    IF coalesce(cardinality(amounts), 0) < 2 OR cardinality(holders) IS DISTINCT FROM cardinality(amounts)
       OR cardinality(currencies) IS DISTINCT FROM cardinality(amounts) THEN
        RAISE EXCEPTION 'a transaction has two entries or more, each with holder, currency and amount' USING ERRCODE = 'check_violation';
    END IF;
    INSERT INTO ramp.ledger_accounts (holder, account_id, currency, balance_min, posted, held)
    SELECT p.holder, CASE WHEN c.zero = 0 THEN p.holder::uuid END, p.currency, c.zero, c.zero, c.zero
    FROM unnest(holders, currencies) AS p (holder, currency)
    CROSS JOIN LATERAL (SELECT CASE WHEN p.holder LIKE '%-%' THEN 0 END AS zero) AS c
    WHERE NOT EXISTS (SELECT FROM ramp.ledger_accounts a WHERE a.holder = p.holder AND a.currency = p.currency)
    ORDER BY p.holder, p.currency
    ON CONFLICT DO NOTHING;

    SELECT bool_and(locked.is_enough) INTO is_enough
    FROM (
        SELECT p.amount > 0 OR a.posted - a.held + p.amount >= a.balance_min AS is_enough
        FROM unnest(holders, currencies, amounts) AS p (holder, currency, amount)
        JOIN ramp.ledger_accounts a ON a.holder = p.holder AND a.currency = p.currency
        WHERE a.balance_min IS NOT NULL
        ORDER BY a.id FOR NO KEY UPDATE OF a
    ) AS locked;
    IF NOT is_enough THEN
        RETURN false;
    END IF;

    INSERT INTO ramp.ledger_transactions (id, kind, state, reverses, settled_at) VALUES (
        its_id, its_kind, CASE WHEN is_pending THEN 'pending' ELSE 'posted' END, its_reverses, CASE WHEN NOT is_pending THEN now() END
    );
    INSERT INTO ramp.ledger_entries (transaction_id, ledger_account_id, amount)
    SELECT its_id, a.id, p.amount
    FROM unnest(holders, currencies, amounts) AS p (holder, currency, amount)
    JOIN ramp.ledger_accounts a ON a.holder = p.holder AND a.currency = p.currency;
    RETURN true;
END $$;

-- Posts a pending transaction, or voids it. False, with nothing done, where there is no such transaction, or none that is pending.
CREATE FUNCTION ramp.settle(its_id uuid, is_voided boolean) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE ramp.ledger_transactions SET state = CASE WHEN is_voided THEN 'voided' ELSE 'posted' END, settled_at = now()
    WHERE id = its_id AND state = 'pending';
    RETURN FOUND;
END $$;

-- Takes a posted transaction back by one with the opposite entries. False, with nothing done, where an account would fall
-- below its limit. NULL where there is nothing to take back: no such transaction, one that is not posted, or taken back already,
-- or that takes another one back itself.
CREATE FUNCTION ramp.reverse(its_id uuid, its_reverses uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    holders text[];
    currencies text[];
    amounts bigint[];
BEGIN
    PERFORM FROM ramp.ledger_transactions
        WHERE id = its_reverses AND state = 'posted' AND reverses IS NULL FOR NO KEY UPDATE;
    IF NOT FOUND OR EXISTS (SELECT FROM ramp.ledger_transactions WHERE reverses = its_reverses) THEN
        RETURN NULL;
    END IF;
    SELECT array_agg(a.holder), array_agg(a.currency), array_agg(-e.amount) INTO holders, currencies, amounts
    FROM ramp.ledger_entries e JOIN ramp.ledger_accounts a ON a.id = e.ledger_account_id WHERE e.transaction_id = its_reverses;
    RETURN ramp.post(its_id, 'reversal', false, holders, currencies, amounts, its_reverses);
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ramp FROM PUBLIC;
