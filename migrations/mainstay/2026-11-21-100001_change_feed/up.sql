-- The change feed: what writers and operators say of tags to purge, in the writer's own transaction. Nobody but the owner
-- writes here directly: writers through triggers, servers through the functions below.
--
-- Everything in this schema is named in full, so that it does not matter whose search_path it meets.

CREATE TABLE mainstay.change_feed (
    id     bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    -- Of the top-level transaction. Readers compare it with a snapshot: ids come in another order than commits.
    xid    xid8        NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    -- The table, as manifests spell it; none for an operator's purge.
    tables text[]      NOT NULL,
    tags   text[]      NOT NULL CHECK (cardinality(tags) > 0),
    kind   text        NOT NULL CHECK (kind IN ('soft', 'hard')),
    at     timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);

CREATE INDEX change_feed_xid ON mainstay.change_feed (xid);
-- Operators' purges are few, and are found among any number of changes.
CREATE INDEX change_feed_purges ON mainstay.change_feed (xid) WHERE tables = '{}';

COMMENT ON TABLE mainstay.change_feed IS 'Tags to purge: one row for each statement that changed a watched table, and for each operator''s purge';

-- How far each reader (a fleet, or an instance by itself) has published the feed.
CREATE TABLE mainstay.cursors (
    reader  text        PRIMARY KEY,
    region  text        NOT NULL,
    -- System and timeline. A cursor of another one is worth nothing: transaction ids went back.
    branch  text        NOT NULL,
    cursor  pg_snapshot NOT NULL,
    -- The position of the last message that was published.
    last    text,
    seen_at timestamptz NOT NULL
);

-- The greatest transaction id whose rows were pruned.
CREATE TABLE mainstay.pruned (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    xid     xid8    NOT NULL
);

INSERT INTO mainstay.pruned (xid) VALUES ('0');

-- Hard purges, for instances that come back with old entries. The fence is filled in once the purge is visible; where that
-- was cut short, whoever asks takes one that is later still.
CREATE TABLE mainstay.hard_purges (
    id    bigint      NOT NULL,
    tag   text        NOT NULL,
    fence text,
    at    timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (id, tag)
);

-- What manifests have asked to be watched, also those of a version that still runs beside the newest one.
CREATE TABLE mainstay.watches (
    tbl text NOT NULL,
    -- Empty: no tag of its columns.
    tag text NOT NULL,
    PRIMARY KEY (tbl, tag)
);

-- A commit is flushed a moment before it is visible, and with synchronous replication long before. So who commits a row of
-- the feed holds this lock from before the flush until after it is visible: Postgres releases locks last. A reader that finds
-- none of those holders any more, who were there when it took a position, knows that all commits below are visible.
CREATE FUNCTION mainstay.committing() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(1835100526, 1);
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER committing AFTER INSERT ON mainstay.change_feed
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mainstay.committing();

ALTER TABLE mainstay.change_feed ENABLE ALWAYS TRIGGER committing;

-- Whether a snapshot sees all that another one sees.
CREATE FUNCTION mainstay.covers(one pg_snapshot, other pg_snapshot) RETURNS boolean LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT pg_catalog.pg_snapshot_xmax(other) <= pg_catalog.pg_snapshot_xmax(one)
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_snapshot_xip(one) AS xid WHERE pg_catalog.pg_visible_in_snapshot(xid, other));
$$;

-- A reader begins: where it was, or from now on. The lock keeps what is pruned meanwhile from being what it begins with.
CREATE FUNCTION mainstay.attach(its_reader text, its_region text, its_branch text, OUT cursor text, OUT last text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1835100526, 2);
    INSERT INTO mainstay.cursors AS c (reader, region, branch, cursor, seen_at)
    VALUES (its_reader, its_region, its_branch, pg_current_snapshot(), clock_timestamp())
    ON CONFLICT (reader) DO UPDATE SET
        region = excluded.region,
        seen_at = excluded.seen_at,
        branch = excluded.branch,
        cursor = CASE WHEN c.branch = excluded.branch AND pg_snapshot_xmax(c.cursor) <= pg_snapshot_xmax(excluded.cursor)
                      THEN c.cursor ELSE excluded.cursor END,
        last = CASE WHEN c.branch = excluded.branch AND pg_snapshot_xmax(c.cursor) <= pg_snapshot_xmax(excluded.cursor)
                    THEN c.last END
    RETURNING c.cursor::text, c.last INTO attach.cursor, attach.last;
END $$;

-- A reader has published so far. False: it is registered no more, and rows that it has not read may be gone. One that comes
-- late, with less than is noted already, changes nothing.
CREATE FUNCTION mainstay.advance(its_reader text, its_cursor pg_snapshot, its_last text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE mainstay.cursors SET cursor = its_cursor, last = its_last, seen_at = clock_timestamp()
    WHERE reader = its_reader AND mainstay.covers(its_cursor, cursor);
    RETURN FOUND OR EXISTS (SELECT FROM mainstay.cursors WHERE reader = its_reader);
END $$;

-- A reader without news is still there.
CREATE FUNCTION mainstay.touch(its_reader text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE mainstay.cursors SET seen_at = clock_timestamp() WHERE reader = its_reader;
    RETURN FOUND;
END $$;

-- A reader leaves: nothing is kept for it, and nobody waits for it.
CREATE FUNCTION mainstay.detach(its_reader text) RETURNS void LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM mainstay.cursors WHERE reader = its_reader;
$$;

-- An operator's purge.
CREATE FUNCTION mainstay.purge(its_tags text[], is_hard boolean) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    its_id bigint;
BEGIN
    INSERT INTO mainstay.change_feed (tables, tags, kind)
    VALUES ('{}', its_tags, CASE WHEN is_hard THEN 'hard' ELSE 'soft' END) RETURNING id INTO its_id;
    IF is_hard THEN
        INSERT INTO mainstay.hard_purges (id, tag) SELECT DISTINCT its_id, tag FROM unnest(its_tags) AS tag;
    END IF;
    RETURN its_id;
END $$;

-- The fence of a hard purge, once it is known.
CREATE FUNCTION mainstay.fenced(its_id bigint, its_fence text) RETURNS void LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    UPDATE mainstay.hard_purges SET fence = its_fence WHERE id = its_id AND fence IS NULL;
$$;

-- Removes what every registered reader has, and readers that were not heard of for too long. Age alone says nothing of a row:
-- a long transaction commits old ones. At most so many rows at once, so that it never takes long.
CREATE FUNCTION mainstay.prune(cursor_retention interval, hard_retention interval) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    count bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(1835100526, 2) THEN
        RETURN 0;
    END IF;
    DELETE FROM mainstay.cursors WHERE seen_at < clock_timestamp() - cursor_retention;
    DELETE FROM mainstay.hard_purges WHERE at < clock_timestamp() - hard_retention;
    WITH gone AS (
        DELETE FROM mainstay.change_feed WHERE id IN (
            SELECT f.id FROM mainstay.change_feed f
            -- What comes after the end of the furthest behind need not be looked at.
            WHERE f.xid < coalesce((SELECT pg_snapshot_xmax(c.cursor) FROM mainstay.cursors c ORDER BY 1 LIMIT 1),
                                   pg_snapshot_xmax(pg_current_snapshot()))
              AND NOT EXISTS (SELECT FROM mainstay.cursors c WHERE NOT pg_visible_in_snapshot(f.xid, c.cursor))
            LIMIT 50000
        ) RETURNING change_feed.xid
    ), noted AS (
        UPDATE mainstay.pruned p SET xid = g.xid
        FROM (SELECT gone.xid FROM gone ORDER BY gone.xid DESC LIMIT 1) g WHERE p.xid < g.xid
    )
    SELECT count(*) FROM gone INTO count;
    RETURN count;
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA mainstay FROM PUBLIC;
