DROP TABLE fee_schedules;
