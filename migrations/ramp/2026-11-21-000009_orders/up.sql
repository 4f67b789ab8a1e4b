-- Orders: money that a customer brings in (onramp), takes out (offramp), turns into tokens (mint) or back (redemption). They are
-- told apart by rows of one table, not by code: what may become of an order stands in `ramp.order_transitions`, and nothing else
-- becomes of any.
--
-- A role that serves reads, and calls `ramp.create_order` and `ramp.advance`, which keep status, history and ledger in step.

INSERT INTO fee_schedules (product, currency, percent_ppm, fixed_fee, min_fee, max_fee) VALUES
    ('onramp',     'ZAR', 9900,  600, 1000,  500000),
    ('offramp',    'ZAR', 7900, 2000, 3000,  500000),
    ('mint',       'ZAR', 1000,    0, 2000, 2000000),
    ('redemption', 'ZAR', 1500, 2000, 4000,    NULL);

INSERT INTO docs (slug, title, updated_at, body) VALUES
('orders', 'Orders', '2026-11-21T00:00:00Z', $markdown$# Orders

Money in, money out, and tokens. All of them need an API key, and every POST an `Idempotency-Key`.

| path | you give | you receive |
|---|---|---|
| `/api/v1/onramp/orders` | money, from outside | AFRI, or a balance |
| `/api/v1/offramp/orders` | AFRI, or a balance | money, paid out |
| `/api/v1/mint/requests` | a balance | AFRI |
| `/api/v1/redemption/requests` | AFRI | a balance |

`POST` one with what you give, in minor units: `{"amount":100000,"currency":"USD","asset":"AFRI","provider":"sandbox"}`; mint and
redemption name no provider. The answer is an order with its `quote`: the rate (that of `/public/rates`, with AFRI at one US dollar), the fee (that of
`/public/fees/quote`) and what you receive. Both count until `expires_at`; then the order expires.

`GET` the path for your orders, the newest first, and `/{id}` for one with its history. `POST /{id}/cancel` ends one for which
nothing is under way yet. What you give from a balance is held meanwhile, and free again if nothing comes of the order.

`in_review` says that money has moved which was not expected: too late, or another amount. It is kept apart until it has gone
back (`refunded`), or somebody has seen to it.
$markdown$);

CREATE TABLE ramp.order_transitions (
    product     text NOT NULL,
    from_status text NOT NULL,
    -- What providers tell has a dot in its name; of the others, `created` and `cancelled` are the customer's, `expired` is the
    -- clock's, and `amount_differs` is what an event becomes that tells of another amount than the order's.
    event       text NOT NULL,
    to_status   text NOT NULL,
    -- What it does to the ledger: `hold` enters what the order moves, pending; `settle` and `void` end that; `post` enters it at once;
    -- `suspend` enters what has moved outside, and should not have, against `suspense`; `return` takes that back.
    posting     text CHECK (posting IN ('hold', 'settle', 'void', 'post', 'suspend', 'return')),
    PRIMARY KEY (product, from_status, event),
    UNIQUE (product, from_status, event, to_status)
);

COMMENT ON TABLE ramp.order_transitions IS 'What may become of an order, and what that does to the ledger';

INSERT INTO ramp.order_transitions (product, from_status, event, to_status, posting) VALUES
    ('onramp', 'new',              'created',           'awaiting_payment', NULL),
    ('onramp', 'awaiting_payment', 'payment.succeeded', 'completed',        'post'),
    ('onramp', 'awaiting_payment', 'amount_differs',    'in_review',        'suspend'),
    ('onramp', 'awaiting_payment', 'payment.failed',    'failed',           NULL),
    ('onramp', 'awaiting_payment', 'cancelled',         'cancelled',        NULL),
    ('onramp', 'awaiting_payment', 'expired',           'expired',          NULL),
    -- Another attempt may succeed as long as the quote counts.
    ('onramp', 'failed',           'payment.succeeded', 'completed',        'post'),
    ('onramp', 'failed',           'amount_differs',    'in_review',        'suspend'),
    ('onramp', 'failed',           'cancelled',         'cancelled',        NULL),
    ('onramp', 'failed',           'expired',           'expired',          NULL),
    -- Money that is really there, and nobody expects any more.
    ('onramp', 'cancelled',        'payment.succeeded', 'in_review',        'suspend'),
    ('onramp', 'cancelled',        'amount_differs',    'in_review',        'suspend'),
    ('onramp', 'expired',          'payment.succeeded', 'in_review',        'suspend'),
    ('onramp', 'expired',          'amount_differs',    'in_review',        'suspend'),
    ('onramp', 'in_review',        'payment.refunded',  'refunded',         'return'),

    ('offramp', 'new',        'created',           'pending',    'hold'),
    ('offramp', 'pending',    'payout.processing', 'processing', NULL),
    ('offramp', 'pending',    'payout.succeeded',  'completed',  'settle'),
    ('offramp', 'pending',    'amount_differs',    'in_review',  'suspend'),
    ('offramp', 'pending',    'payout.failed',     'failed',     'void'),
    ('offramp', 'pending',    'cancelled',         'cancelled',  'void'),
    ('offramp', 'pending',    'expired',           'expired',    'void'),
    ('offramp', 'processing', 'payout.succeeded',  'completed',  'settle'),
    ('offramp', 'processing', 'amount_differs',    'in_review',  'suspend'),
    ('offramp', 'processing', 'payout.failed',     'failed',     'void'),
    -- Money that has really gone, for which nothing is held any more.
    ('offramp', 'failed',     'payout.succeeded',  'in_review',  'suspend'),
    ('offramp', 'failed',     'amount_differs',    'in_review',  'suspend'),
    ('offramp', 'cancelled',  'payout.succeeded',  'in_review',  'suspend'),
    ('offramp', 'cancelled',  'amount_differs',    'in_review',  'suspend'),
    ('offramp', 'expired',    'payout.succeeded',  'in_review',  'suspend'),
    ('offramp', 'expired',    'amount_differs',    'in_review',  'suspend'),
    ('offramp', 'in_review',  'payout.returned',   'refunded',   'return'),

    ('mint', 'new',     'created',        'pending',   'hold'),
    ('mint', 'pending', 'mint.succeeded', 'completed', 'settle'),
    ('mint', 'pending', 'mint.failed',    'failed',    'void'),
    ('mint', 'pending', 'cancelled',      'cancelled', 'void'),
    ('mint', 'pending', 'expired',        'expired',   'void'),

    ('redemption', 'new',     'created',              'pending',   'hold'),
    ('redemption', 'pending', 'redemption.succeeded', 'completed', 'settle'),
    ('redemption', 'pending', 'redemption.failed',    'failed',    'void'),
    ('redemption', 'pending', 'cancelled',            'cancelled', 'void'),
    ('redemption', 'pending', 'expired',              'expired',   'void');

CREATE TABLE ramp.orders (
    id                uuid        PRIMARY KEY,
    account_id        uuid        NOT NULL REFERENCES ramp.accounts (id),
    product           text        NOT NULL CHECK (product IN ('onramp', 'offramp', 'mint', 'redemption')),
    -- Who tells what becomes of it.
    provider          text        NOT NULL CHECK (provider ~ '^[a-z][a-z0-9_]{0,31}$'),
    -- The quote: what the customer gives and receives, in minor units. The fee is in the currency that is no token.
    given_amount      bigint      NOT NULL CHECK (given_amount > 0),
    given_currency    text        NOT NULL REFERENCES public.currencies (code),
    received_amount   bigint      NOT NULL CHECK (received_amount > 0),
    received_currency text        NOT NULL REFERENCES public.currencies (code),
    fee               bigint      NOT NULL CHECK (fee >= 0),
    -- Units of what is received for one of what is given.
    rate              numeric     NOT NULL CHECK (rate > 0),
    created_at        timestamptz NOT NULL,
    expires_at        timestamptz NOT NULL CHECK (expires_at > created_at),
    -- What follows from the history: where the order stands, after how many steps, and until when, where its time is not over.
    status            text        NOT NULL DEFAULT 'new',
    seq               integer     NOT NULL DEFAULT 0,
    open_until        timestamptz,
    UNIQUE (id, product)
);

CREATE INDEX orders_by_account ON ramp.orders (account_id, product, created_at, id);
CREATE INDEX orders_by_status ON ramp.orders (account_id, product, status, created_at, id);
CREATE INDEX orders_open ON ramp.orders (open_until) WHERE open_until IS NOT NULL;

COMMENT ON TABLE ramp.orders IS 'On-ramp and off-ramp orders, mint and redemption requests, each with its quote';

CREATE TABLE ramp.order_history (
    order_id       uuid        NOT NULL,
    seq            integer     NOT NULL,
    product        text        NOT NULL,
    from_status    text        NOT NULL,
    event          text        NOT NULL,
    to_status      text        NOT NULL,
    -- `customer`, `clock`, or a provider with the id of its event.
    cause          text        NOT NULL CHECK (length(cause) BETWEEN 1 AND 300),
    -- The transaction of the ledger that the step has entered or ended.
    transaction_id uuid        REFERENCES ramp.ledger_transactions (id),
    -- What has moved outside, where it went to `suspense`.
    amount         bigint,
    currency       text        REFERENCES public.currencies (code),
    at             timestamptz NOT NULL,
    PRIMARY KEY (order_id, seq),
    FOREIGN KEY (order_id, product) REFERENCES ramp.orders (id, product),
    -- Who would write a step that may not be taken is refused, whoever it is.
    FOREIGN KEY (product, from_status, event, to_status)
        REFERENCES ramp.order_transitions (product, from_status, event, to_status)
);

CREATE INDEX order_history_by_transaction ON ramp.order_history (transaction_id) WHERE transaction_id IS NOT NULL;

COMMENT ON TABLE ramp.order_history IS 'How orders came to their status, step by step; immutable';

CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON ramp.order_history
    FOR EACH STATEMENT EXECUTE FUNCTION ramp.refuse_change();
CREATE TRIGGER refuse_change BEFORE DELETE OR TRUNCATE ON ramp.orders
    FOR EACH STATEMENT EXECUTE FUNCTION ramp.refuse_change();

-- The status follows from the history. A step that does not begin where the one before it has ended is refused.
CREATE FUNCTION ramp.take_step() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE ramp.orders o SET status = NEW.to_status, seq = NEW.seq, open_until = (
        SELECT o.expires_at FROM ramp.order_transitions t
        WHERE t.product = NEW.product AND t.from_status = NEW.to_status AND t.event = 'expired'
    )
    WHERE o.id = NEW.order_id AND o.status = NEW.from_status AND o.seq = NEW.seq - 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'order % is not where step % begins, which is %', NEW.order_id, NEW.seq, NEW.from_status
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER take_step AFTER INSERT ON ramp.order_history FOR EACH ROW EXECUTE FUNCTION ramp.take_step();

-- What was quoted stays so, and the status changes by steps alone.
CREATE FUNCTION ramp.keep_order() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_trigger_depth() < 2
        OR to_jsonb(NEW) - '{status,seq,open_until}'::text[] <> to_jsonb(OLD) - '{status,seq,open_until}'::text[]
    THEN
        RAISE EXCEPTION 'orders change by steps of their history alone' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER keep_order BEFORE UPDATE ON ramp.orders FOR EACH ROW EXECUTE FUNCTION ramp.keep_order();

-- Enters what an order moves. The payer and the payee are the customer, but for what comes from outside or goes there; `reserve`
-- changes the one currency into the other.
CREATE FUNCTION ramp.post_order(o ramp.orders, its_id uuid, is_pending boolean) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    payer text := CASE o.product WHEN 'onramp' THEN 'clearing:' || o.provider ELSE o.account_id::text END;
    payee text := CASE o.product WHEN 'offramp' THEN 'clearing:' || o.provider ELSE o.account_id::text END;
    -- The part of the fee that is taken from what is given; the rest is taken from what would be received.
    given_fee bigint := CASE WHEN o.product IN ('onramp', 'mint') THEN o.fee ELSE 0 END;
    received_fee bigint := o.fee - given_fee;
    holders text[];
    currencies text[];
    amounts bigint[];
BEGIN
    SELECT array_agg(p.holder), array_agg(p.currency), array_agg(p.amount) INTO holders, currencies, amounts
    FROM (
        SELECT v.holder, v.currency, sum(v.amount)::bigint AS amount
        FROM (VALUES
            (payer, o.given_currency, -o.given_amount),
            ('fees', o.given_currency, given_fee),
            ('reserve', o.given_currency, o.given_amount - given_fee),
            ('reserve', o.received_currency, -o.received_amount - received_fee),
            ('fees', o.received_currency, received_fee),
            (payee, o.received_currency, o.received_amount)
        ) AS v (holder, currency, amount)
        GROUP BY v.holder, v.currency HAVING sum(v.amount) <> 0
    ) AS p;
    RETURN ramp.post(its_id, o.product, is_pending, holders, currencies, amounts);
END $$;

-- Opens an order with its quote, which counts for so long. False, with nothing done, where the customer has not what is held for it.
CREATE FUNCTION ramp.create_order(
    its_id uuid, its_account_id uuid, its_product text, its_provider text, its_given_amount bigint, its_given_currency text,
    its_received_amount bigint, its_received_currency text, its_fee bigint, its_rate text, quote_ttl_secs double precision
) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    o ramp.orders;
    step ramp.order_transitions;
    hold_id uuid;
BEGIN
    o.id := its_id;
    o.account_id := its_account_id;
    o.product := its_product;
    o.provider := its_provider;
    o.given_amount := its_given_amount;
    o.given_currency := its_given_currency;
    o.received_amount := its_received_amount;
    o.received_currency := its_received_currency;
    o.fee := its_fee;
    o.rate := its_rate::numeric;
    o.created_at := clock_timestamp();
    o.expires_at := o.created_at + make_interval(secs => quote_ttl_secs);
    SELECT t.* INTO STRICT step FROM ramp.order_transitions t
    WHERE t.product = its_product AND t.from_status = 'new' AND t.event = 'created';
    IF step.posting = 'hold' THEN
        hold_id := gen_random_uuid();
        IF NOT ramp.post_order(o, hold_id, true) THEN
            RETURN false;
        END IF;
    END IF;
    INSERT INTO ramp.orders (id, account_id, product, provider, given_amount, given_currency, received_amount, received_currency,
                             fee, rate, created_at, expires_at)
    VALUES (o.id, o.account_id, o.product, o.provider, o.given_amount, o.given_currency, o.received_amount, o.received_currency,
            o.fee, o.rate, o.created_at, o.expires_at);
    INSERT INTO ramp.order_history (order_id, seq, product, from_status, event, to_status, cause, transaction_id, at)
    VALUES (its_id, 1, its_product, 'new', 'created', step.to_status, 'customer', hold_id, o.created_at);
    RETURN true;
END $$;

-- Takes one step of an order that the caller has locked: its posting, its line of history and its new status, which is returned.
-- NULL, with nothing done, where it may not be taken. The amount and its currency are what has moved outside; where they are not
-- told, it is what was ordered.
CREATE FUNCTION ramp.step(its_id uuid, its_event text, its_cause text, moved_amount bigint, moved_currency text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    o ramp.orders;
    step ramp.order_transitions;
    ordered_amount bigint;
    ordered_currency text;
    -- What was held when the order was made, and what has gone to `suspense` since.
    hold_id uuid;
    suspended ramp.order_history;
    transaction_id uuid := gen_random_uuid();
    sign integer;
    is_done boolean := true;
BEGIN
    SELECT x.* INTO STRICT o FROM ramp.orders x WHERE x.id = its_id;
    ordered_amount := CASE o.product WHEN 'onramp' THEN o.given_amount ELSE o.received_amount END;
    ordered_currency := CASE o.product WHEN 'onramp' THEN o.given_currency ELSE o.received_currency END;
    IF its_event IN ('payment.succeeded', 'payout.succeeded')
        AND (moved_amount <> ordered_amount OR moved_currency <> ordered_currency)
    THEN
        -- How much of another currency it was is not known.
        IF moved_amount IS NULL THEN
            RETURN NULL;
        END IF;
        its_event := 'amount_differs';
    END IF;
    SELECT t.* INTO step FROM ramp.order_transitions t
    WHERE t.product = o.product AND t.from_status = o.status AND t.event = its_event;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    -- What nothing comes of uses up no limit. After a failed payment another one may come.
    IF step.to_status IN ('cancelled', 'expired') OR (step.to_status = 'failed' AND o.product <> 'onramp') THEN
        UPDATE ramp.daily_volumes v SET amount = greatest(v.amount - o.given_amount, 0)
        WHERE v.account_id = o.account_id AND v.currency = o.given_currency AND v.day = (o.created_at AT TIME ZONE 'UTC')::date;
    END IF;
    SELECT h.transaction_id INTO hold_id FROM ramp.order_history h WHERE h.order_id = its_id AND h.seq = 1;
    CASE
        WHEN step.posting IN ('settle', 'void') THEN
            transaction_id := hold_id;
            is_done := ramp.settle(hold_id, step.posting = 'void');
        WHEN step.posting = 'post' THEN
            is_done := ramp.post_order(o, transaction_id, false);
        WHEN step.posting = 'suspend' THEN
            suspended.amount := coalesce(moved_amount, ordered_amount);
            suspended.currency := coalesce(moved_currency, ordered_currency);
            -- What came in is owed to whoever has sent it; what has gone out is owed by whoever has received it.
            sign := CASE o.product WHEN 'onramp' THEN 1 ELSE -1 END;
            is_done := ramp.post(
                transaction_id, 'suspense', false, ARRAY['clearing:' || o.provider, 'suspense:' || o.provider],
                ARRAY[suspended.currency, suspended.currency], ARRAY[-sign * suspended.amount, sign * suspended.amount]
            );
        WHEN step.posting = 'return' THEN
            SELECT h.* INTO STRICT suspended FROM ramp.order_history h WHERE h.order_id = its_id AND h.seq = o.seq;
            -- Of a part that goes back nothing can be said here.
            IF moved_amount <> suspended.amount OR moved_currency <> suspended.currency THEN
                RETURN NULL;
            END IF;
            is_done := ramp.reverse(transaction_id, suspended.transaction_id);
            IF is_done IS NULL THEN
                -- Somebody has taken it back by hand.
                SELECT t.id INTO transaction_id FROM ramp.ledger_transactions t WHERE t.reverses = suspended.transaction_id;
                is_done := FOUND;
            END IF;
            -- Where an amount differed, what the order holds is held until now.
            PERFORM ramp.settle(hold_id, true);
        ELSE
            transaction_id := NULL;
    END CASE;
    IF is_done IS NOT TRUE THEN
        RAISE EXCEPTION 'order %: the ledger refuses the posting of %', its_id, its_event;
    END IF;
    INSERT INTO ramp.order_history (order_id, seq, product, from_status, event, to_status, cause, transaction_id, amount, currency, at)
    VALUES (its_id, o.seq + 1, o.product, o.status, its_event, step.to_status, its_cause, transaction_id,
            suspended.amount, suspended.currency, clock_timestamp());
    RETURN step.to_status;
END $$;

-- What an event makes of an order: its new status, or NULL where it makes nothing of it. An order whose time was over when the event
-- was told expires first.
--
-- The order is locked first, and accounts of the ledger after it. So of two events at once the second finds what the first has done.
CREATE FUNCTION ramp.advance(
    its_id uuid, its_event text, its_cause text, moved_amount bigint DEFAULT NULL, moved_currency text DEFAULT NULL,
    told_at timestamptz DEFAULT NULL
) RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    its_open_until timestamptz;
    expired text;
BEGIN
    SELECT o.open_until INTO its_open_until FROM ramp.orders o WHERE o.id = its_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF its_open_until <= coalesce(told_at, clock_timestamp()) THEN
        expired := ramp.step(its_id, 'expired', 'clock', NULL, NULL);
    END IF;
    RETURN CASE its_event WHEN 'expired' THEN expired ELSE ramp.step(its_id, its_event, its_cause, moved_amount, moved_currency) END;
END $$;

-- Expires one order whose time is over, and says whether there was one. One at a time: who holds what several customers have, in
-- any order, would wait in a circle with others. What a provider has told in time comes first. The oldest may be passed over, so that
-- one that cannot be expired keeps nobody waiting.
CREATE FUNCTION ramp.expire_order(passed_over integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    its_id uuid;
BEGIN
    SELECT o.id INTO its_id FROM ramp.orders o
    WHERE o.open_until <= now()
        AND NOT EXISTS (SELECT FROM ramp.webhook_events e WHERE e.order_id = o.id AND e.outcome IS NULL)
    ORDER BY o.open_until OFFSET passed_over LIMIT 1
    FOR NO KEY UPDATE OF o SKIP LOCKED;
    IF FOUND THEN
        PERFORM ramp.step(its_id, 'expired', 'clock', NULL, NULL);
    END IF;
    RETURN its_id IS NOT NULL;
END $$;

-- Every order that is not where its history and the ledger say: no rows.
CREATE VIEW ramp.order_discrepancies AS
    SELECT 'status' AS what, o.id::text AS which
    FROM ramp.orders o LEFT JOIN ramp.order_history h ON h.order_id = o.id AND h.seq = o.seq
    WHERE h.to_status IS DISTINCT FROM o.status OR EXISTS (SELECT FROM ramp.order_history n WHERE n.order_id = o.id AND n.seq > o.seq)
    UNION ALL
    SELECT 'posting', h.order_id || ' ' || h.seq
    FROM ramp.order_history h
    JOIN ramp.orders o ON o.id = h.order_id
    JOIN ramp.order_transitions t ON (t.product, t.from_status, t.event) = (h.product, h.from_status, h.event)
    LEFT JOIN ramp.ledger_transactions l ON l.id = h.transaction_id
    WHERE l.state IS DISTINCT FROM CASE
        WHEN t.posting IS NULL THEN NULL
        WHEN t.posting = 'void' THEN 'voided'
        -- What is held is so until it is settled or void.
        WHEN t.posting = 'hold' AND o.status IN ('pending', 'processing') THEN 'pending'
        WHEN t.posting = 'hold' THEN CASE o.status WHEN 'completed' THEN 'posted' WHEN 'in_review' THEN l.state ELSE 'voided' END
        ELSE 'posted'
    END;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ramp FROM PUBLIC;
