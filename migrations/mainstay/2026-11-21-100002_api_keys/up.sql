-- API keys. What changes here is told in the change feed, once a manifest has a route with auth = "key", so that a revocation ends
-- on every instance what was checked before it.
CREATE TABLE mainstay.api_keys (
    -- The public part of a key, by which it is looked up, listed and revoked.
    prefix     text COLLATE "C" PRIMARY KEY CHECK (prefix ~ '^[0-9A-Za-z]{12}$'),
    -- SHA-256 of the whole key. A slow hash would add nothing: what is hashed are 256 random bits, not a password to be guessed.
    hash       bytea       NOT NULL CHECK (octet_length(hash) = 32),
    name       text        NOT NULL CHECK (name <> ''),
    -- Who the caller is; keys of one owner are one caller.
    owner      text        NOT NULL CHECK (owner <> ''),
    scopes     text[]      NOT NULL DEFAULT '{}',
    claims     jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(claims) = 'object'),
    -- How often it may be used; none: as often as the route allows.
    rate       text        CHECK (rate ~ '^[1-9][0-9]{0,8}/[smh]$'),
    created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    expires_at timestamptz CHECK (isfinite(expires_at)),
    revoked_at timestamptz
);

-- When keys were last used. By itself, since what is noted about once a minute must not be told as a change of the key.
CREATE TABLE mainstay.api_key_uses (
    prefix       text COLLATE "C" PRIMARY KEY,
    last_used_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Who serves looks up keys that it was shown, and may do no more: neither list all keys and their owners, nor make one. The hash
-- comes along, since it is compared where the time does not tell how much of it was right. A function that only reads runs on
-- replicas as well. How much time is left, the database says, by whose clock it was set.
CREATE FUNCTION mainstay.find_api_keys(its_prefixes text[]) RETURNS TABLE (
    prefix text, hash bytea, owner text, scopes text[], claims jsonb, rate text, left_ms bigint, is_revoked boolean
) LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.prefix, k.hash, k.owner, k.scopes, k.claims, k.rate,
        (extract(epoch FROM k.expires_at - clock_timestamp()) * 1000)::bigint, k.revoked_at IS NOT NULL
    FROM mainstay.api_keys k WHERE k.prefix = ANY (its_prefixes);
$$;

-- These keys were used just now. Several instances say so of the same keys: in one order, so that they do not wait for each other
-- in a circle, and once in a while.
CREATE FUNCTION mainstay.note_api_key_uses(its_prefixes text[]) RETURNS void LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO mainstay.api_key_uses AS u (prefix, last_used_at)
    SELECT k.prefix, clock_timestamp() FROM mainstay.api_keys k WHERE k.prefix = ANY (its_prefixes) ORDER BY k.prefix
    ON CONFLICT (prefix) DO UPDATE SET last_used_at = excluded.last_used_at
    WHERE u.last_used_at < excluded.last_used_at - interval '10 seconds';
$$;

REVOKE ALL ON FUNCTION mainstay.find_api_keys(text[]), mainstay.note_api_key_uses(text[]) FROM PUBLIC;
