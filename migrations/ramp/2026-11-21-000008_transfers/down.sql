DROP TABLE ramp.transfers;
