-- What the caller has, in minor units: what may be used, and what pending transactions hold.
SELECT json_build_object('balances', coalesce(json_agg(json_build_object(
           'currency', currency, 'available', posted - held, 'held', held) ORDER BY currency), '[]')) AS body
FROM ramp.ledger_accounts
WHERE account_id = $1
