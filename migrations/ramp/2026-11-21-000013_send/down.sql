DROP FUNCTION ramp.send(uuid, uuid, uuid, text, bigint, bigint);
ALTER TABLE ramp.transfers ADD FOREIGN KEY (currency) REFERENCES public.currencies (code);
