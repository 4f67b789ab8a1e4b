DROP FUNCTION ramp.prune_webhook_events(interval);
DROP FUNCTION ramp.keep_webhook_outcome(text, text, text);
DROP FUNCTION ramp.lock_webhook_event(text, text, boolean);
DROP FUNCTION ramp.store_webhook_event(text, text, text, uuid, bigint, text, bytea);
DROP TABLE ramp.webhook_events;
