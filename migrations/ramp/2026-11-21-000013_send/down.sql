ALTER FUNCTION ramp.settling() RESET enable_seqscan;
ALTER FUNCTION ramp.enter() RESET enable_seqscan;
ALTER FUNCTION ramp.post(uuid, text, boolean, text[], text[], bigint[], uuid) RESET enable_seqscan;
DROP FUNCTION ramp.send(uuid, uuid, uuid, text, bigint, bigint);
ALTER TABLE ramp.transfers ADD FOREIGN KEY (currency) REFERENCES public.currencies (code);
