-- What a product costs in a currency, in integer minor units:
--   fee = clamp(fixed_fee + round_half_even(amount × percent_ppm / 1 000 000), min_fee, max_fee)
CREATE TABLE fee_schedules (
    product     text    NOT NULL CHECK (product ~ '^[a-z][a-z_]{0,31}$'),
    currency    text    NOT NULL REFERENCES currencies (code),
    -- Parts per million of the amount: 10 000 is one per cent.
    percent_ppm integer NOT NULL CHECK (percent_ppm BETWEEN 0 AND 1000000),
    fixed_fee   bigint  NOT NULL DEFAULT 0 CHECK (fixed_fee >= 0),
    min_fee     bigint  NOT NULL DEFAULT 0 CHECK (min_fee >= 0),
    -- NULL: no upper bound.
    max_fee     bigint  CHECK (max_fee >= min_fee),
    PRIMARY KEY (product, currency)
);

COMMENT ON TABLE fee_schedules IS 'Fees by product and currency, in minor units and parts per million';

INSERT INTO fee_schedules (product, currency, percent_ppm, fixed_fee, min_fee, max_fee) VALUES
    ('onramp',     'CHF',  9500,  25,    50,   25000),
    ('onramp',     'EUR',  9000,  25,    50,   25000),
    ('onramp',     'GBP',  9000,  20,    45,   20000),
    ('onramp',     'JPY', 11000,  40,    80, 4000000),
    ('onramp',     'USD',  9900,  30,    50,   25000),
    ('offramp',    'CHF',  7500,  50,   100,   25000),
    ('offramp',    'EUR',  7000,  35,   100,   25000),
    ('offramp',    'GBP',  7000,  30,    90,   20000),
    ('offramp',    'JPY',  9000, 100,   200, 4000000),
    ('offramp',    'USD',  7900, 100,   150,   25000),
    ('mint',       'CHF',  1000,   0,   100,  100000),
    ('mint',       'EUR',  1000,   0,   100,  100000),
    ('mint',       'GBP',  1000,   0,   100,  100000),
    ('mint',       'JPY',  1000,   0,   150, 15000000),
    ('mint',       'USD',  1000,   0,   100,  100000),
    ('redemption', 'CHF',  1500, 100,   200,    NULL),
    ('redemption', 'EUR',  1500, 100,   200,    NULL),
    ('redemption', 'GBP',  1500, 100,   200,    NULL),
    ('redemption', 'JPY',  1500, 150,   300,    NULL),
    ('redemption', 'USD',  1500, 100,   200,    NULL),
    ('transfer',   'CHF',   500,   0,     1,     500),
    ('transfer',   'EUR',   500,   0,     1,     500),
    ('transfer',   'GBP',   500,   0,     1,     500),
    ('transfer',   'JPY',   500,   0,     1,   50000),
    ('transfer',   'USD',   500,   0,     1,     500);
