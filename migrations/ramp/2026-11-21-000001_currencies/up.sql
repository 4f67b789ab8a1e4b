-- Every currency that the API knows: the euro, and all that the European Central Bank has quoted since 1999, those that
-- have since been replaced (`CYP`, `TRL`, …) included, because their history stays readable.
CREATE TABLE currencies (
    code     text     PRIMARY KEY CHECK (code ~ '^[A-Z]{3}$'),
    name     text     NOT NULL CHECK (name <> ''),
    -- Digits after the point in the minor unit, as in ISO 4217: 2 for the cent, 0 for the yen.
    exponent smallint NOT NULL CHECK (exponent BETWEEN 0 AND 4)
);

COMMENT ON TABLE currencies IS 'Currencies that the API knows, with the exponent of their minor unit (ISO 4217)';

INSERT INTO currencies (code, name, exponent) VALUES
    ('AUD', 'Australian dollar', 2),
    ('BGN', 'Bulgarian lev', 2),
    ('BRL', 'Brazilian real', 2),
    ('CAD', 'Canadian dollar', 2),
    ('CHF', 'Swiss franc', 2),
    ('CNY', 'Chinese yuan renminbi', 2),
    ('CYP', 'Cypriot pound', 2),
    ('CZK', 'Czech koruna', 2),
    ('DKK', 'Danish krone', 2),
    ('EEK', 'Estonian kroon', 2),
    ('EUR', 'Euro', 2),
    ('GBP', 'Pound sterling', 2),
    ('HKD', 'Hong Kong dollar', 2),
    ('HRK', 'Croatian kuna', 2),
    ('HUF', 'Hungarian forint', 2),
    ('IDR', 'Indonesian rupiah', 2),
    ('ILS', 'Israeli shekel', 2),
    ('INR', 'Indian rupee', 2),
    ('ISK', 'Icelandic króna', 0),
    ('JPY', 'Japanese yen', 0),
    ('KRW', 'South Korean won', 0),
    ('LTL', 'Lithuanian litas', 2),
    ('LVL', 'Latvian lats', 2),
    ('MTL', 'Maltese lira', 2),
    ('MXN', 'Mexican peso', 2),
    ('MYR', 'Malaysian ringgit', 2),
    ('NOK', 'Norwegian krone', 2),
    ('NZD', 'New Zealand dollar', 2),
    ('PHP', 'Philippine peso', 2),
    ('PLN', 'Polish zloty', 2),
    ('ROL', 'Romanian leu (until 2005)', 2),
    ('RON', 'Romanian leu', 2),
    ('RUB', 'Russian rouble', 2),
    ('SEK', 'Swedish krona', 2),
    ('SGD', 'Singapore dollar', 2),
    ('SIT', 'Slovenian tolar', 2),
    ('SKK', 'Slovak koruna', 2),
    ('THB', 'Thai baht', 2),
    ('TRL', 'Turkish lira (until 2004)', 0),
    ('TRY', 'Turkish lira', 2),
    ('USD', 'US dollar', 2),
    ('ZAR', 'South African rand', 2);
