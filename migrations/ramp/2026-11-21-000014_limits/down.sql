CREATE OR REPLACE FUNCTION ramp.spend(its_account_id uuid, its_currency text, its_amount bigint) RETURNS text
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
-- What `up` wrote, and nobody has changed since: limits that an operator has set stay here, too.
DELETE FROM ramp.kyc_limits l
USING (VALUES (0, 100, 500), (1, 10000, 100000), (2, 100000, 1000000)) AS tiers (tier, at_once, a_day),
      (VALUES ('CHF', 100), ('JPY', 150)) AS units (currency, unit)
WHERE (l.kyc_tier, l.currency, l.per_transaction, l.per_day) = (tier, units.currency, at_once::bigint * unit, a_day::bigint * unit);
