-- Money sent from one customer to another. A transfer is complete when it is there; what takes it back is a transaction of the
-- ledger that reverses its own.
CREATE TABLE ramp.transfers (
    -- The id of its transaction in the ledger, too.
    id              uuid        PRIMARY KEY REFERENCES ramp.ledger_transactions (id),
    from_account_id uuid        NOT NULL REFERENCES ramp.accounts (id),
    to_account_id   uuid        NOT NULL REFERENCES ramp.accounts (id) CHECK (to_account_id <> from_account_id),
    currency        text        NOT NULL REFERENCES public.currencies (code),
    -- What arrives, in minor units.
    amount          bigint      NOT NULL CHECK (amount > 0),
    -- What the sender pays on top of it.
    fee             bigint      NOT NULL CHECK (fee >= 0),
    created_at      timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX transfers_from ON ramp.transfers (from_account_id, created_at);
CREATE INDEX transfers_to ON ramp.transfers (to_account_id, created_at);

COMMENT ON TABLE ramp.transfers IS 'Money sent from one customer to another';
