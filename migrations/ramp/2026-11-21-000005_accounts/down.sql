DROP FUNCTION ramp.spend(uuid, text, bigint);
DROP TABLE ramp.daily_volumes;
DROP TABLE ramp.kyc_limits;
DROP TABLE ramp.accounts;
DROP SCHEMA ramp;

DELETE FROM currencies WHERE code = 'AFRI';
ALTER TABLE currencies DROP CONSTRAINT currencies_exponent_check;
ALTER TABLE currencies ADD CONSTRAINT currencies_exponent_check CHECK (exponent BETWEEN 0 AND 4);
ALTER TABLE currencies DROP CONSTRAINT currencies_code_check;
ALTER TABLE currencies ADD CONSTRAINT currencies_code_check CHECK (code ~ '^[A-Z]{3}$');
