-- What was asked of each route on each day (UTC), and how much money moved. A row a route and day, however many instances serve.
CREATE TABLE ramp.daily_requests (
    day      date   NOT NULL,
    -- The manifest's pattern.
    route    text   NOT NULL CHECK (length(route) BETWEEN 1 AND 1000),
    requests bigint NOT NULL CHECK (requests >= 0),
    -- Those of them that were answered with 500 or above.
    errors   bigint NOT NULL CHECK (errors >= 0),
    -- Those of them that were answered out of a cache.
    hits     bigint NOT NULL CHECK (hits >= 0),
    PRIMARY KEY (day, route)
);

COMMENT ON TABLE ramp.daily_requests IS 'Requests by day (UTC) and route';

CREATE TABLE ramp.daily_money (
    day          date           NOT NULL,
    -- The kind of the transactions: `transfer`, …
    kind         text           NOT NULL,
    currency     text           NOT NULL,
    transactions bigint         NOT NULL CHECK (transactions > 0),
    -- What moved, in minor units: what went up anywhere. A day's sum need not fit in 64 bits.
    amount       numeric(38, 0) NOT NULL CHECK (amount > 0),
    PRIMARY KEY (day, kind, currency)
);

COMMENT ON TABLE ramp.daily_money IS 'Money that moved by day (UTC) of posting, kind and currency';

-- Which batch of each instance was added last, so that one whose outcome the instance did not hear of is not added twice.
CREATE TABLE ramp.added_batches (
    instance uuid        PRIMARY KEY,
    sequence bigint      NOT NULL,
    added_at timestamptz NOT NULL DEFAULT now()
);

-- Adds a batch of an instance's. False, with nothing done, where it was added before. Days and routes are locked in one order, so
-- that instances do not wait for each other in a circle.
CREATE FUNCTION ramp.add_requests(
    its_instance uuid, its_sequence bigint, days date[], routes text[], its_requests bigint[], its_errors bigint[], its_hits bigint[]
) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO ramp.added_batches AS b (instance, sequence) VALUES (its_instance, its_sequence)
    ON CONFLICT (instance) DO UPDATE SET sequence = excluded.sequence, added_at = excluded.added_at
    WHERE b.sequence < excluded.sequence;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO ramp.daily_requests AS d (day, route, requests, errors, hits)
    SELECT n.day, n.route, sum(n.requests), sum(n.errors), sum(n.hits)
    FROM unnest(days, routes, its_requests, its_errors, its_hits) AS n (day, route, requests, errors, hits)
    GROUP BY n.day, n.route
    ORDER BY n.day, n.route
    ON CONFLICT (day, route) DO UPDATE SET
        requests = d.requests + excluded.requests, errors = d.errors + excluded.errors, hits = d.hits + excluded.hits;
    -- Instances that are gone.
    DELETE FROM ramp.added_batches WHERE instance IN (
        SELECT instance FROM ramp.added_batches WHERE added_at < now() - interval '32 days' FOR UPDATE SKIP LOCKED LIMIT 100
    );
    RETURN true;
END $$;

-- Transactions that were posted and are not in `daily_money` yet. A row is entered by the transaction of the database that posts, and
-- taken away by the one that counts: so each is counted once, however late it was committed.
CREATE TABLE ramp.uncounted_transactions (transaction_id uuid NOT NULL);

INSERT INTO ramp.uncounted_transactions SELECT id FROM ramp.ledger_transactions WHERE state = 'posted';

CREATE FUNCTION ramp.note_posted() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO ramp.uncounted_transactions (transaction_id) VALUES (NEW.id);
    RETURN NULL;
END $$;

CREATE TRIGGER note_posted AFTER INSERT OR UPDATE ON ramp.ledger_transactions
    FOR EACH ROW WHEN (NEW.state = 'posted') EXECUTE FUNCTION ramp.note_posted();

-- Counts so many of them, and says how many they were. Several may count at once: none waits for another's rows.
CREATE FUNCTION ramp.count_money(count_max integer) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH taken AS (
        DELETE FROM ramp.uncounted_transactions
        WHERE ctid = ANY (ARRAY(SELECT ctid FROM ramp.uncounted_transactions FOR UPDATE SKIP LOCKED LIMIT count_max))
        RETURNING transaction_id
    ), added AS (
        INSERT INTO ramp.daily_money AS d (day, kind, currency, transactions, amount)
        SELECT (t.settled_at AT TIME ZONE 'UTC')::date, t.kind, a.currency, count(DISTINCT t.id), sum(e.amount)
        FROM taken
        JOIN ramp.ledger_transactions t ON t.id = taken.transaction_id
        JOIN ramp.ledger_entries e ON e.transaction_id = t.id AND e.amount > 0
        JOIN ramp.ledger_accounts a ON a.id = e.ledger_account_id
        GROUP BY 1, 2, 3
        ORDER BY 1, 2, 3
        ON CONFLICT (day, kind, currency) DO UPDATE SET
            transactions = d.transactions + excluded.transactions, amount = d.amount + excluded.amount
    )
    SELECT count(*) FROM taken;
$$;

REVOKE ALL ON FUNCTION ramp.note_posted(), ramp.count_money(integer),
    ramp.add_requests(uuid, bigint, date[], text[], bigint[], bigint[], bigint[]) FROM PUBLIC;
