-- What the market did, besides bars: why bars are missing, quotes, order books, changes of the
-- instruments, and signals. Times are UTC milliseconds; the *_at DateTime64 aliases show them as
-- dates.
--
-- The key is the content that makes a row the same row, so writing twice is writing once. Read
-- `FINAL` with a bound on time. Settings as in 0001.

-- One row per missing bar; the version with the latest updated_at counts. closed_at: the bar came.
CREATE TABLE IF NOT EXISTS gaps
(
    venue LowCardinality(String),
    interval_ms Int64,
    symbol LowCardinality(String),
    open_time Int64 CODEC(DoubleDelta, ZSTD(1)),
    kind LowCardinality(String),
    noticed_at Int64,
    updated_at Int64,
    attempts Int64,
    reason String,
    closed_at Nullable(Int64),
    opened_at DateTime64(3, 'UTC') ALIAS fromUnixTimestamp64Milli(open_time, 'UTC')
)
ENGINE = ReplacingMergeTree(updated_at)
PARTITION BY toYear(fromUnixTimestamp64Milli(open_time, 'UTC'))
ORDER BY (venue, interval_ms, symbol, open_time)
SETTINGS index_granularity = 1024, fsync_after_insert = 1, fsync_part_directory = 1;

-- Best bid and ask, and for perpetuals mark, index and the next funding; null where not given.
CREATE TABLE IF NOT EXISTS quotes
(
    venue LowCardinality(String),
    symbol LowCardinality(String),
    available_at Int64 CODEC(DoubleDelta, ZSTD(1)),
    event_time Int64 CODEC(DoubleDelta, ZSTD(1)),
    bid Nullable(Float64),
    bid_quantity Nullable(Float64),
    ask Nullable(Float64),
    ask_quantity Nullable(Float64),
    mark_price Nullable(Float64),
    index_price Nullable(Float64),
    predicted_funding_rate Nullable(Float64),
    next_funding_time Nullable(Int64),
    quoted_at DateTime64(3, 'UTC') ALIAS fromUnixTimestamp64Milli(available_at, 'UTC')
)
ENGINE = ReplacingMergeTree
PARTITION BY toYear(fromUnixTimestamp64Milli(available_at, 'UTC'))
ORDER BY (venue, symbol, available_at)
SETTINGS index_granularity = 1024, fsync_after_insert = 1, fsync_part_directory = 1;

-- The order book that a decision saw; levels are best first, prices and quantities side by side.
CREATE TABLE IF NOT EXISTS books
(
    venue LowCardinality(String),
    symbol LowCardinality(String),
    decision_time Int64 CODEC(DoubleDelta, ZSTD(1)),
    event_time Int64,
    available_at Int64,
    update_id Nullable(Int64),
    bid_prices Array(Float64),
    bid_quantities Array(Float64),
    ask_prices Array(Float64),
    ask_quantities Array(Float64),
    decided_at DateTime64(3, 'UTC') ALIAS fromUnixTimestamp64Milli(decision_time, 'UTC')
)
ENGINE = ReplacingMergeTree(available_at)
PARTITION BY toYear(fromUnixTimestamp64Milli(decision_time, 'UTC'))
ORDER BY (venue, symbol, decision_time)
SETTINGS index_granularity = 128, fsync_after_insert = 1, fsync_part_directory = 1;

-- Listed, delisted, renamed, or a trading rule with another value.
CREATE TABLE IF NOT EXISTS listing_changes
(
    venue LowCardinality(String),
    symbol LowCardinality(String),
    noticed_at Int64,
    event LowCardinality(String),
    field LowCardinality(String),
    before String,
    after String
)
ENGINE = ReplacingMergeTree
ORDER BY (venue, noticed_at, symbol, event, field, before, after)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- Rows of outside producers. Another value for the same event and publication is a revision: it is
-- kept beside the first with its own ingested_at, so what a past decision saw never changes.
CREATE TABLE IF NOT EXISTS signals
(
    source LowCardinality(String),
    version LowCardinality(String),
    name LowCardinality(String),
    symbol LowCardinality(String),
    event_time Int64 CODEC(DoubleDelta, ZSTD(1)),
    published_at Int64 CODEC(DoubleDelta, ZSTD(1)),
    ingested_at Int64 CODEC(DoubleDelta, ZSTD(1)),
    value Float64,
    is_backfilled Bool,
    lag_ms Int64,
    opened_at DateTime64(3, 'UTC') ALIAS fromUnixTimestamp64Milli(published_at, 'UTC')
)
ENGINE = ReplacingMergeTree
PARTITION BY toYear(fromUnixTimestamp64Milli(published_at, 'UTC'))
ORDER BY (source, version, name, symbol, published_at, event_time, ingested_at)
SETTINGS index_granularity = 1024, fsync_after_insert = 1, fsync_part_directory = 1;
