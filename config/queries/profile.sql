-- The caller's account.
SELECT id AS account_id, name, kyc_tier, created_at FROM ramp.accounts WHERE id = $1
