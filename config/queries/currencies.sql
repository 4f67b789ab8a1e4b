-- Each currency with the first and the last day on which it was quoted; the euro, being the base, is quoted on none. The
-- two probes of the index replace a walk through all rates.
SELECT c.code,
       c.name,
       c.exponent,
       (SELECT r.date FROM exchange_rates r WHERE r.base = 'EUR' AND r.currency = c.code ORDER BY r.date LIMIT 1) AS first_date,
       (SELECT r.date FROM exchange_rates r WHERE r.base = 'EUR' AND r.currency = c.code ORDER BY r.date DESC LIMIT 1) AS last_date
FROM currencies c
ORDER BY c.code
