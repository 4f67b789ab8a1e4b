-- Reference rates: units of `currency` for one unit of `base`, one row a fixing and currency. Nothing derived is stored:
-- cross rates are computed exactly when they are read.
CREATE TABLE exchange_rates (
    date     date    NOT NULL,
    -- No foreign key: it would double the time of an import to check one value over and over.
    base     text    NOT NULL DEFAULT 'EUR' CHECK (base ~ '^[A-Z]{3}$'),
    currency text    NOT NULL REFERENCES currencies (code),
    -- Without a declared scale a numeric keeps the digits that were published: 136 stays 136. The bounds let a rate be
    -- read as a 64-bit mantissa and a scale, so that a cross rate is one exact 128-bit division.
    rate     numeric NOT NULL CHECK (rate > 0 AND rate < 1000000000 AND scale(rate) <= 9),
    -- The latest fixing at or before a day, and all its rates, are one descent of this index.
    PRIMARY KEY (base, date, currency),
    CHECK (currency <> base)
);

-- The history of one currency, and the last fixing that quotes it, without walking the others.
CREATE INDEX exchange_rates_by_currency ON exchange_rates (base, currency, date) INCLUDE (rate);

COMMENT ON TABLE exchange_rates IS 'Reference rates: units of currency for one unit of base, per fixing';
