-- Tokens have longer codes and more decimals than what ISO 4217 lists.
ALTER TABLE currencies DROP CONSTRAINT currencies_code_check;
ALTER TABLE currencies ADD CONSTRAINT currencies_code_check CHECK (code ~ '^[A-Z]{3,4}$');
ALTER TABLE currencies DROP CONSTRAINT currencies_exponent_check;
ALTER TABLE currencies ADD CONSTRAINT currencies_exponent_check CHECK (exponent BETWEEN 0 AND 6);
INSERT INTO currencies (code, name, exponent) VALUES ('AFRI', 'AFRI token', 6);

-- What is nobody's but the caller's own stands in a schema of its own: nobody sees into it who was not granted so, and no
-- function in it can be led astray by what others put into `public`.
CREATE SCHEMA ramp;

CREATE TABLE ramp.accounts (
    id         uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    name       text        NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    -- How well the customer is known: 0 not at all, 1 by documents, 2 by an interview. It decides how much may be moved.
    kyc_tier   smallint    NOT NULL DEFAULT 0 CHECK (kyc_tier BETWEEN 0 AND 2),
    created_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE ramp.accounts IS 'Customers';

-- How much a customer may move, in minor units. What is not listed cannot be moved at all.
CREATE TABLE ramp.kyc_limits (
    kyc_tier        smallint NOT NULL CHECK (kyc_tier BETWEEN 0 AND 2),
    currency        text     NOT NULL REFERENCES public.currencies (code),
    per_transaction bigint   NOT NULL CHECK (per_transaction >= 0),
    -- Of all that is sent on one day in UTC.
    per_day         bigint   NOT NULL CHECK (per_day >= per_transaction),
    PRIMARY KEY (kyc_tier, currency)
);

COMMENT ON TABLE ramp.kyc_limits IS 'Limits by tier and currency, in minor units';

-- 100, 10,000 and 100,000 dollars at once, and five or ten times as much a day; the others are worth about the same.
INSERT INTO ramp.kyc_limits (kyc_tier, currency, per_transaction, per_day)
SELECT tier, currency, at_once::bigint * unit, a_day::bigint * unit
FROM (VALUES (0, 100, 500), (1, 10000, 100000), (2, 100000, 1000000)) AS tiers (tier, at_once, a_day),
     (VALUES ('USD', 100), ('EUR', 100), ('GBP', 100), ('ZAR', 2000), ('AFRI', 1000000)) AS units (currency, unit);

-- What a customer has sent on a day, in minor units. It is counted up in the transaction that sends: the row's lock keeps two at
-- once from both finding room below the limit.
CREATE TABLE ramp.daily_volumes (
    account_id uuid   NOT NULL REFERENCES ramp.accounts (id),
    currency   text   NOT NULL REFERENCES public.currencies (code),
    day        date   NOT NULL,
    amount     bigint NOT NULL CHECK (amount >= 0),
    PRIMARY KEY (account_id, currency, day)
);

COMMENT ON TABLE ramp.daily_volumes IS 'What a customer has sent on a day (UTC), in minor units';

-- Counts what a customer sends, and returns nothing; or returns which limit forbids it: of the `currency`, which may not be moved
-- at all, `per_transaction` or `per_day`. Then nothing is counted.
CREATE FUNCTION ramp.spend(its_account_id uuid, its_currency text, its_amount bigint) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    limits ramp.kyc_limits;
BEGIN
    SELECT l.* INTO limits FROM ramp.accounts a JOIN ramp.kyc_limits l USING (kyc_tier)
    WHERE a.id = its_account_id AND l.currency = its_currency;
    IF NOT FOUND THEN
        RETURN 'currency';
    ELSIF its_amount > limits.per_transaction THEN
        RETURN 'per_transaction';
    END IF;
    INSERT INTO ramp.daily_volumes AS v (account_id, currency, day, amount)
    VALUES (its_account_id, its_currency, (now() AT TIME ZONE 'UTC')::date, its_amount)
    ON CONFLICT (account_id, currency, day) DO UPDATE SET amount = v.amount + excluded.amount
    WHERE v.amount <= limits.per_day - excluded.amount;
    RETURN CASE WHEN NOT FOUND THEN 'per_day' END;
END $$;

REVOKE ALL ON FUNCTION ramp.spend(uuid, text, bigint) FROM PUBLIC;
