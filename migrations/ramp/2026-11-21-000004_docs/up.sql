-- Help documents of the API, served under `/public/docs`.
CREATE TABLE docs (
    slug       text        PRIMARY KEY CHECK (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' AND length(slug) <= 100),
    title      text        NOT NULL CHECK (title <> ''),
    -- Markdown (CommonMark).
    body       text        NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE docs IS 'Help documents of the API, in Markdown';

INSERT INTO docs (slug, title, updated_at, body) VALUES
('getting-started', 'Getting started', '2026-11-21T00:00:00Z', $markdown$# Getting started

Everything under `/public/` needs no key. The same reads stand under `/api/v1/`.

| path | answer |
|---|---|
| `/public/rates` | the latest fixing, or the one of a day |
| `/public/rates/history` | the fixings of a span of days |
| `/public/currencies` | the currencies that the API knows |
| `/public/fees` | fee schedules |
| `/public/fees/quote` | the fee of one amount |
| `/public/docs` | these documents |

Try `GET /public/rates?base=USD&symbols=EUR,GBP`. Answers are JSON; errors are problem documents (see
[errors](/public/docs/errors)).
$markdown$),
('rates', 'Exchange rates', '2026-11-21T00:00:00Z', $markdown$# Exchange rates

The rates are the euro foreign exchange reference rates of the European Central Bank, one fixing a working day since 1999-01-04.

`GET /public/rates?base=USD&symbols=EUR,GBP&date=2026-10-31`

- `base` (default `EUR`): the currency of which one unit is priced. With `EUR` the rates are the published digits,
  unchanged. Other bases are cross rates, computed exactly and rounded once to 8 significant digits, half to even.
- `symbols`: a comma list; without it, all currencies of the fixing. The base itself is left out unless it is asked for.
- `date`: the fixing of that day or, where there is none, the last one before it; `date` in the answer says which. Without it, and
  for days to come, the latest.

A currency that the fixing does not quote is left out. If none is left, the answer is 404. A base that is no
longer quoted (`HRK`, say) answers with the last fixing that quoted it: look at `date`.

`GET /public/rates/history?base=EUR&symbols=USD&from=2026-10-01&to=2026-10-30`

- `to` is the latest fixing and `from` 30 days before `to`, where they are not given. Days without a fixing are absent.
- An answer has at most 60,000 rates; ask for fewer symbols or a shorter span.
$markdown$),
('fees', 'Fees', '2026-11-21T00:00:00Z', $markdown$# Fees

All amounts are integers in minor units (cents; for currencies without cents, such as the yen, whole units).
`exponent` in `/public/currencies` says how many digits the minor unit has.

    fee = clamp(fixed_fee + round(amount × percent_ppm / 1000000), min_fee, max_fee)

The percentage is in parts per million (10000 is one per cent) and is rounded once, to the nearest unit, half to even. A `max_fee` of `null`
is no bound.

`GET /public/fees/quote?product=onramp&amount=10000&currency=EUR` answers with `fee`, with `total` (what is paid when the fee comes
on top of the amount) and with `net` (what arrives when it is taken from the amount; negative where the amount does not
cover its fee).
$markdown$),
('errors', 'Errors', '2026-11-21T00:00:00Z', $markdown$# Errors

Every error is an `application/problem+json` document (RFC 9457) with a stable `code`, a sentence in `detail` that names what was wrong,
and the request's id. Programs should look at `code` and at nothing else.

| status | meaning |
|---|---|
| 400 | a parameter is malformed, missing, repeated or unknown; `detail` names it |
| 404 | there is no such route, or nothing of what was asked for |
| 429, 503 | try again after the seconds in `Retry-After` |
$markdown$),
('caching', 'Caching and consistency', '2026-11-21T00:00:00Z', $markdown$# Caching and consistency

Public answers may be kept for five minutes (`Cache-Control: public, max-age=300`) and carry a strong `ETag`: send it back in
`If-None-Match`, and an unchanged answer is a 304 without a body.

`Cache-Status` (RFC 9211) says where an answer came from: `hit` from the cache, with the seconds for which it stays fresh in `ttl`, or
`fwd=miss` from the database. A negative `ttl` marks a stale answer, served while it is renewed or while the database
cannot be reached.

Send `X-Consistency: strong` to read from the primary database past all caches, where the operator allows it.
$markdown$);
