-- What has fees can be moved: francs and yen, too, by about as much as the others. Limits that an operator has set stay.
INSERT INTO ramp.kyc_limits (kyc_tier, currency, per_transaction, per_day)
SELECT tier, currency, at_once::bigint * unit, a_day::bigint * unit
FROM (VALUES (0, 100, 500), (1, 10000, 100000), (2, 100000, 1000000)) AS tiers (tier, at_once, a_day),
     (VALUES ('CHF', 100), ('JPY', 150)) AS units (currency, unit)
ON CONFLICT DO NOTHING;

-- As before, but that a currency which there is not is no matter of limits: that is the `unknown_currency`.
CREATE OR REPLACE FUNCTION ramp.spend(its_account_id uuid, its_currency text, its_amount bigint) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    limits ramp.kyc_limits;
BEGIN
    SELECT l.* INTO limits FROM ramp.accounts a JOIN ramp.kyc_limits l USING (kyc_tier)
    WHERE a.id = its_account_id AND l.currency = its_currency;
    IF NOT FOUND THEN
        RETURN CASE WHEN EXISTS (SELECT FROM public.currencies WHERE code = its_currency) THEN 'currency' ELSE 'unknown_currency' END;
    ELSIF its_amount > limits.per_transaction THEN
        RETURN 'per_transaction';
    END IF;
    INSERT INTO ramp.daily_volumes AS v (account_id, currency, day, amount)
    VALUES (its_account_id, its_currency, (now() AT TIME ZONE 'UTC')::date, its_amount)
    ON CONFLICT (account_id, currency, day) DO UPDATE SET amount = v.amount + excluded.amount
    WHERE v.amount <= limits.per_day - excluded.amount;
    RETURN CASE WHEN NOT FOUND THEN 'per_day' END;
END $$;
