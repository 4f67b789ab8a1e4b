SELECT product, currency, percent_ppm, fixed_fee, min_fee, max_fee, 'half-even' AS rounding
FROM fee_schedules
WHERE ($1::text IS NULL OR product = $1) AND ($2::text IS NULL OR currency = $2)
ORDER BY product, currency
