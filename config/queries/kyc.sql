-- How well the caller is known, and how much may therefore be sent, in minor units. A day is one in UTC.
SELECT json_build_object(
           'status', CASE a.kyc_tier WHEN 0 THEN 'unverified' ELSE 'verified' END,
           'tier', a.kyc_tier,
           'limits', (
               SELECT json_agg(json_build_object(
                          'currency', l.currency, 'per_transaction', l.per_transaction, 'per_day', l.per_day,
                          'sent_today', coalesce(v.amount, 0)) ORDER BY l.currency)
               FROM ramp.kyc_limits l
               LEFT JOIN ramp.daily_volumes v
                   ON v.account_id = a.id AND v.currency = l.currency AND v.day = (now() AT TIME ZONE 'UTC')::date
               WHERE l.kyc_tier = a.kyc_tier
           )
       ) AS body
FROM ramp.accounts a
WHERE a.id = $1
